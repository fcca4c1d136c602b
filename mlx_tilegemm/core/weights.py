"""Quantized weights in float64, and at random: of all references of products with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import mlx.core as mx
import numpy as np

from .dtypes import FLOAT8_E4M3, FLOAT8_E8M0, DType, codes_of
from .family import Data
from .operand import Operand
from .reference import Values, as_array, as_view, draw, to_numpy
from .scaling import Scaling

if TYPE_CHECKING:
    from ..formats import Grouping

NAN_CODE = 0x7F
"""Of both small floats of a byte."""


class Stored(Protocol):
    """A problem with a quantized weight."""

    @property
    def weight(self) -> Grouping | None:
        """How it is stored; None for plain elements, which are not decoded."""

    @property
    def scales(self) -> DType | None:
        """Element format of its scales; None without them."""

    @property
    def biases(self) -> DType | None:
        """Element format of its affine biases; None without them."""


def weight_values(problem: Stored, given: Mapping[str, mx.array]) -> Values:
    """Return a quantized weight in float64, without the scale of the whole weight."""
    assert problem.weight is not None
    assert problem.scales is not None
    words = np.array(given["w"])
    decode = problem.weight.codes.decode
    codes = codes_of(words, problem.weight.bits).astype(np.float64)
    if decode is not None:
        codes = decode(words)
    grouped = codes.reshape(*codes.shape[:-1], -1, problem.weight.group)
    with np.errstate(invalid="ignore", over="ignore"):
        values = grouped * _scales(problem.scales, given["scales"])[..., None]
        if problem.biases is not None:
            values = values + to_numpy(given["biases"])[..., None]
    return np.asarray(values.reshape(codes.shape))


def _scales(row: DType, scales: mx.array) -> Values:
    if row.decode is None:
        return to_numpy(scales)
    codes = np.array(scales)
    values = row.decode(codes)
    # As MLX reads the last code.
    return np.where(codes == 255, np.inf, values) if row is FLOAT8_E8M0 else values


def draw_factor(operand: Operand, data: Data, random: np.random.Generator) -> mx.array:
    """Return a new array for an operand of a product: ``x``, ``bias``, or a part of the weight."""
    name, exact = operand.name, data.exact
    if name == "w":
        found = _codes(operand, random, exact)
    elif operand.dtype is FLOAT8_E8M0:
        found = mx.array(random.integers(126, 129, operand.shape), dtype=mx.uint8)
    elif operand.dtype is FLOAT8_E4M3:
        found = mx.array(_around_one(operand.shape, random, exact), dtype=mx.uint8)
    elif name == "x" and exact:
        found = as_array(random.choice([-1.0, 0.0, 1.0], operand.shape), operand.dtype)
    elif name in ("scales", "biases"):
        found = as_array(_group_factors(operand.shape, random, exact), operand.dtype)
    elif name == "bias" and exact:
        found = as_array(random.integers(-8, 9, operand.shape) * 1.0, operand.dtype)
    else:
        found = draw(operand, random, data.amplitude if name == "x" else 1.0)
    return as_view(found) if exact else found


def _codes(operand: Operand, random: np.random.Generator, exact: bool) -> mx.array:
    if operand.dtype is not FLOAT8_E4M3:
        return draw(operand, random)
    if exact:
        codes = _around_one(operand.shape, random, False)
    else:
        codes = random.integers(0, 127, operand.shape)
        codes += 128 * random.integers(0, 2, operand.shape)
        codes.reshape(-1)[:1] = NAN_CODE
    return mx.array(codes.astype(np.uint8)).view(operand.mlx)


def _around_one(shape: tuple[int, ...], random: np.random.Generator, exact: bool) -> Values:
    """Return codes of e4m3 numbers from 0.5 to less than 4, of either sign."""
    exponents = random.integers(6, 9, shape) << 3
    fractions = random.integers(0, 1 if exact else 8, shape)
    return np.asarray(exponents + fractions + 128 * random.integers(0, 2, shape))


def _group_factors(shape: tuple[int, ...], random: np.random.Generator, exact: bool) -> Values:
    if exact:
        return np.asarray(random.choice([-2.0, -1.0, -0.5, 0.5, 1.0, 2.0], shape))
    return np.asarray(0.3 * random.standard_normal(shape))


def byte_codes(
    row: DType, shape: tuple[int, ...], random: np.random.Generator, exact: bool, *, nans: bool
) -> Values:
    """Return codes of small floats of either sign: of all sizes, or from 0.5 to less than 4.

    Args:
        row: Their format, ``e4m3`` or ``e5m2``.
        shape: Their shape.
        random: Where they are from.
        exact: Whether they are small numbers.
        nans: Whether the first is NaN, unless they are small numbers.
    """
    mantissa = 3 if row is FLOAT8_E4M3 else 2
    one = ((1 << (6 - mantissa)) - 1) << mantissa
    if exact:
        codes = random.integers(one - (1 << mantissa), one + (2 << mantissa), shape)
    else:
        codes = random.integers(0, 0x7C if mantissa == 2 else 0x7F, shape)
    codes += 128 * random.integers(0, 2, shape)
    if nans and not exact:
        codes.reshape(-1)[:1] = NAN_CODE
    return np.asarray(codes.astype(np.uint8))


def values_of(row: DType, codes: mx.array) -> Values:
    """Return the float64 values of codes, or of floats."""
    return to_numpy(codes).astype(np.float64) if row.decode is None else row.decode(np.array(codes))


def scales_of(scaling: Scaling, scales: mx.array, rows: Values, columns: Values) -> Values:
    """Return the float64 scale of each element, by its number along the result and along k.

    Args:
        scaling: How they lie.
        scales: ``[..., along the result, along k]``.
        rows: Numbers along the result.
        columns: Numbers along k.
    """
    values = values_of(scaling.dtype, scales)
    for axis, side, at in ((-2, scaling.height, rows), (-1, scaling.width, columns)):
        values = np.take(values, at // side if side else np.zeros_like(at), axis=axis)
    return values

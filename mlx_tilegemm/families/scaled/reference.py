"""Float64 products of scaled codes, their bounds, and operands to try kernels with.

Codes are decoded here by their format's own row. A kernel forms an element, code times scale, with
one rounding, or loses what is below float32's normal numbers, and a sum of float32 products is off
by at most (terms + 4) * 2**-24 of the sum of their magnitudes. Where all products of a sum are
multiples of one power of two and together less than 2**24 of it, it is exact. Sums of integers are
exact; each scale of them rounds once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import mlx.core as mx
import numpy as np

from ...core.dtypes import FLOAT8_E4M3, FLOAT8_E5M2, FLOAT8_E8M0, FLOAT32, INT8
from ...core.family import Data, Part
from ...core.operand import Operand
from ...core.problem import Factors
from ...core.reference import (
    U32,
    Expected,
    Values,
    as_array,
    as_view,
    common_step,
    draw,
    factors_error,
    rounding,
    to_numpy,
)
from ...core.scaling import Scaling
from ...core.weights import byte_codes, scales_of, values_of
from .problem import ScaledProblem

CHUNK_ELEMENTS = 1 << 21
"""Elements of ``b`` that are float64 at once, which bounds the memory of a reference."""

E8M0_NAN = 255

LARGEST = float(np.finfo(np.float32).max)

LARGEST_CODES = {FLOAT8_E4M3: 448.0, FLOAT8_E5M2: 57344.0, INT8: 128.0}
"""Largest finite magnitude of a code of each format."""

Given = Mapping[str, mx.array]


def expected(
    problem: ScaledProblem,
    operands: Sequence[mx.array],
    factors: Factors,
    roundoff: float = 0.0,
) -> tuple[Expected, ...]:
    """Return the product, some columns at a time.

    Factors may be rounded before they are multiplied, with the relative error ``roundoff``.
    """
    stored = problem.stored()
    if problem.is_empty:
        value = error = np.zeros(stored.out_shape)
    else:
        found = [_columns(stored, *chunk, roundoff) for chunk in _chunks(stored, operands)]
        value, error = (np.concatenate(part, -1) for part in zip(*found, strict=True))
    if problem.bias is not None:
        value = value + to_numpy(operands[-1])
        error = error + U32 * (np.abs(value) + error)
    value, error = value.reshape(problem.out_shape), error.reshape(problem.out_shape)
    if problem.is_integer and problem.out.unit_roundoff == 0:
        return (Expected(value=value.astype(np.int64), bound=0.0),)
    return (Expected(value=value, bound=error + rounding(value, problem.out)),)


def _chunks(
    stored: ScaledProblem, operands: Sequence[mx.array]
) -> Iterator[tuple[Values, Values, Values, Values]]:
    """Yield ``a`` and some columns of ``b``, ``[..., columns, k]``, each before its scales."""
    given = {
        one.name: mx.reshape(array, one.shape)
        for one, array in zip(stored.operands, operands, strict=True)
    }
    if not stored.transpose_b:
        given |= {
            name: mx.swapaxes(given[name], -1, -2) for name in ("b", "b_scales") if name in given
        }
    rows, depths = np.arange(stored.m), np.arange(stored.k)
    left = values_of(stored.a, given["a"])
    left_scales = _scales_or_one(stored.a_scales, given.get("a_scales"), rows, depths)
    width = max(1, CHUNK_ELEMENTS // max(1, given["b"].size // stored.n))
    for start in range(0, stored.n, width):
        columns = np.arange(start, min(start + width, stored.n))
        right = values_of(stored.b, given["b"][..., columns[0] : columns[-1] + 1, :])
        scales = _scales_or_one(stored.b_scales, given.get("b_scales"), columns, depths)
        yield left, left_scales, right, scales


def _scales_or_one(
    scaling: Scaling | None, scales: mx.array | None, rows: Values, columns: Values
) -> Values:
    if scaling is None or scales is None:
        return np.ones((1, 1))
    return scales_of(scaling, scales, rows, columns)


def _columns(
    stored: ScaledProblem,
    left: Values,
    left_scales: Values,
    right: Values,
    right_scales: Values,
    roundoff: float,
) -> tuple[Values, Values]:
    """Return some columns of the product and their error, before a bias is added."""
    sizes = tuple(axis.size for axis in stored.batch)
    form = _integer_columns if stored.is_integer else _float_columns
    with np.errstate(invalid="ignore", over="ignore"):
        value, error = form(stored, left, left_scales, right, right_scales, roundoff)
    shape = (*sizes, *value.shape[-2:])
    return np.broadcast_to(value, shape), np.broadcast_to(error, shape)


def _integer_columns(
    stored: ScaledProblem,
    left: Values,
    left_scales: Values,
    right: Values,
    right_scales: Values,
    roundoff: float,
) -> tuple[Values, Values]:
    value = left @ np.swapaxes(right, -1, -2)
    scaled = [one for one in (stored.a_scales, stored.b_scales) if one is not None]
    product = value * left_scales[..., :1] * np.swapaxes(right_scales[..., :1], -1, -2)
    rounds = 1 + len(scaled)
    # What is lost of a scale, or of a sum times the first one, the other may enlarge.
    lost = np.abs(value) * (1 + np.abs(left_scales[..., :1]))
    lost = lost + np.abs(value) * np.abs(np.swapaxes(right_scales[..., :1], -1, -2))
    lost = (1 + lost + np.abs(np.swapaxes(right_scales[..., :1], -1, -2))) * FLOAT32.smallest_step
    exact = (np.abs(value) <= 2.0**24) & np.asarray(not scaled)
    return product, np.where(exact, 0.0, (rounds + 1) * U32 * np.abs(product) + lost)


def _float_columns(
    stored: ScaledProblem,
    left: Values,
    left_scales: Values,
    right: Values,
    right_scales: Values,
    roundoff: float,
) -> tuple[Values, Values]:
    a, b = _within(left * left_scales), _within(right * right_scales)
    b = np.swapaxes(b, -1, -2)
    value, magnitude = a @ b, np.abs(a) @ np.abs(b)
    error = (stored.k + 8) * U32 * magnitude + _lost(stored, a, b)
    step = common_step(a, -1) * common_step(b, None)
    error = np.where(magnitude <= 2.0**24 * step, 0.0, error)
    if roundoff:
        # Accelerators that round factors cut what they add up to.
        error = 2 * error + factors_error(roundoff) * magnitude
    return value, error


def _within(values: Values) -> Values:
    """Return values, infinite where float32 does not hold them, as kernels have them."""
    return np.where(np.abs(values) > LARGEST, np.copysign(np.inf, values), values)


def _lost(stored: ScaledProblem, a: Values, b: Values) -> Values:
    """Return what may be lost below float32's normal numbers: of scales, elements and products."""
    of_a, of_b = (
        1.0 + (LARGEST_CODES.get(row, 1.0) if scaling is not None else 0.0)
        for row, scaling in ((stored.a, stored.a_scales), (stored.b, stored.b_scales))
    )
    of_rows = of_b * np.abs(a).sum(axis=-1, keepdims=True)
    of_columns = of_a * np.abs(b).sum(axis=-2, keepdims=True)
    return np.asarray((stored.k + of_rows + of_columns) * FLOAT32.smallest_step)


def part(
    problem: ScaledProblem,
    operands: Sequence[mx.array],
    outputs: Sequence[mx.array],
    rows: int,
) -> Part[ScaledProblem]:
    """Return about so many rows of a product, from all over it."""
    stored = problem.stored()
    output = outputs[0].reshape(stored.out_shape)
    if problem.m <= rows:
        return Part(problem=stored, operands=operands, outputs=[output])
    at = mx.array(np.unique(np.linspace(0, problem.m - 1, rows).round().astype(np.int32)))
    taken = []
    for one, array in zip(stored.operands, operands, strict=True):
        scaling = stored.a_scales if one.name == "a_scales" else None
        by_rows = one.name == "a" or (scaling is not None and scaling.height > 0)
        taken.append(mx.take(mx.reshape(array, one.shape), at, axis=-2) if by_rows else array)
    return Part(
        problem=replace(stored, m=at.size).stored(),
        operands=taken,
        outputs=[mx.take(output, at, axis=-2)],
    )


def draw_operands(problem: ScaledProblem, data: Data) -> list[mx.array]:
    """Return operands, with scales of both signs where there are such, and one code of NaN.

    The last of several powers of two that scale ``b`` is NaN, too: the last columns show it.

    Exact ones leave a kernel no room to be off: scales are a few powers of two and elements small
    whole numbers, so that all sums are exact, and an element that is lost, doubled or taken from
    elsewhere shows.
    """
    random = np.random.default_rng(data.seed)
    return [_drawn(one, data, random) for one in problem.stored().operands]


def _drawn(operand: Operand, data: Data, random: np.random.Generator) -> mx.array:
    name, shape, exact = operand.name, operand.shape, data.exact
    if operand.dtype is FLOAT8_E8M0:
        found = mx.array(_powers(shape, random, nans=name == "b_scales" and not exact))
    elif operand.dtype in (FLOAT8_E4M3, FLOAT8_E5M2):
        found = mx.array(byte_codes(operand.dtype, shape, random, exact, nans=name == "b"))
    elif name in ("a_scales", "b_scales"):
        found = as_array(_factors(shape, random, exact), operand.dtype)
    elif operand.dtype is INT8 and exact:
        # Sums of many are odd and beyond 2^24.
        found = mx.array(random.integers(125, 128, shape).astype(np.int8))
    elif name == "a" and exact:
        found = as_array(random.choice([-1.0, 0.0, 1.0], shape), operand.dtype)
    elif name == "bias" and exact:
        found = as_array(random.integers(-8, 9, shape) * 1.0, operand.dtype)
    else:
        found = draw(operand, random, data.amplitude if name == "a" else 1.0)
    return as_view(found) if exact else found


def _powers(shape: tuple[int, ...], random: np.random.Generator, *, nans: bool) -> Values:
    codes = random.integers(125, 130, shape)
    if nans and min(shape[-2:]) > 1:
        codes.reshape(-1)[-1:] = E8M0_NAN
    return np.asarray(codes.astype(np.uint8))


def _factors(shape: tuple[int, ...], random: np.random.Generator, exact: bool) -> Values:
    if exact:
        return np.asarray(random.choice([-2.0, -1.0, -0.5, 0.5, 1.0, 2.0], shape))
    return np.asarray(0.3 * random.standard_normal(shape))

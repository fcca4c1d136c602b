"""Base of all families' float64 references: values, bounds and how results are held to them.

The bounds are proven, not tuned: float32 accumulation of k products is off by at most
(k + 2) * 2**-24 of the sum of their magnitudes, and rounding to the result's type adds its unit
roundoff. They depend on nothing but dtypes, sizes and data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from .dtypes import BOOL, FLOAT32, DType, Kind, from_mlx
from .family import Data
from .operand import Operand, Role
from .problem import Problem

Values = npt.NDArray[Any]

U32 = FLOAT32.unit_roundoff


def factors_error(roundoff: float, count: int = 2) -> float:
    """Return the largest relative error of a product of so many rounded factors."""
    return float((1 + roundoff) ** count - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """One result of a right kernel.

    Attributes:
        value: In float64, or int64 for integers.
        bound: Largest error of each element, rounding to the result's type included.
    """

    value: Values
    bound: Values | float


def to_numpy(array: mx.array) -> Values:
    """Return an MLX array as float64, or as int64 if it holds integers."""
    if from_mlx(array.dtype) and mx.issubdtype(array.dtype, mx.integer):
        return np.array(array).astype(np.int64)
    with mx.stream(mx.cpu):
        return np.array(array.astype(mx.float32)).astype(np.float64)


def rounding(value: Values, out: DType) -> Values:
    """Return the largest error of rounding a value to a type."""
    return np.asarray(out.unit_roundoff * np.abs(value) + out.smallest_step)


def closer(wanted: Expected, within: float, out: DType) -> Expected:
    """Return a result with no larger a bound than a share of its largest value, and rounding."""
    value = wanted.value
    bound = within * np.abs(value).max(initial=0.0) + rounding(value, out)
    return Expected(value=value, bound=np.minimum(wanted.bound, bound))


def common_step(values: Values, axis: int | None) -> Values:
    """Return the largest power of two of which all values along an axis are multiples."""
    with np.errstate(invalid="ignore"):
        mantissa, exponent = np.frexp(np.where(np.isfinite(values), values, 1.0))
    whole = (mantissa * 2.0**53).astype(np.int64)
    lowest = np.where(whole == 0, np.inf, np.ldexp((whole & -whole) * 2.0**-53, exponent))
    smallest = lowest.min(axis=axis, keepdims=axis is not None, initial=np.inf)
    return np.asarray(np.where(np.isfinite(smallest), smallest, 1.0))


def wrap(value: Values) -> Values:
    """Return integers modulo 2**32, as int32 arithmetic leaves them."""
    return ((value + 2**31) % 2**32) - 2**31


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A result held against its bounds.

    Attributes:
        share: Largest error as a share of its bound; infinite where an element is wrong.
        reason: Where and how the result is wrong, None when it is right.
    """

    share: float
    reason: str | None


def compare(got: mx.array, value: Values, bound: Values | float) -> Comparison:
    """Hold each element against its bound; infinities and NaN have to be the same.

    A finite value may be infinite if it, or what it may be off to, is more than the type holds.
    """
    result = to_numpy(got)
    if result.shape != value.shape:
        return Comparison(share=np.inf, reason=f"shape {result.shape}, expected {value.shape}")
    limit = np.broadcast_to(bound, value.shape)
    with np.errstate(invalid="ignore"):
        error = np.abs(result - value)
        right = np.where(np.isfinite(value), error <= limit, result == value)
    right |= np.isnan(value) & np.isnan(result)
    if mx.issubdtype(got.dtype, mx.floating):
        too_large = np.isfinite(value) & (np.abs(value) + limit >= float(mx.finfo(got.dtype).max))
        right |= too_large & (result == np.copysign(np.inf, value))
    wrong = ~right
    if not wrong.any():
        held = np.isfinite(error) & (limit > 0)
        return Comparison(share=float(np.max(error[held] / limit[held], initial=0.0)), reason=None)
    at = tuple(int(i) for i in np.argwhere(wrong)[0])
    return Comparison(
        share=np.inf,
        reason=f"{int(wrong.sum())} of {wrong.size} elements are out of bounds, first at {at}: "
        f"got {result[at].item()}, expected {value[at].item()} within {limit[at].item():.3g}",
    )


def assert_close(got: mx.array, value: Values, bound: Values | float, label: str = "") -> None:
    """Assert what `compare` finds out."""
    reason = compare(got, value, bound).reason
    if reason is not None:
        raise AssertionError(f"{label} {reason}")


def hold(
    problem: Problem, outputs: Sequence[mx.array], wanted: Sequence[Expected]
) -> tuple[float, list[str]]:
    """Return the largest share of a bound that outputs use up, and what is wrong with them."""
    share, reasons = 0.0, []
    for result, output, one in zip(problem.results, outputs, wanted, strict=True):
        held = compare(output, one.value, one.bound)
        share = max(share, held.share)
        if held.reason is not None:
            reasons.append(held.reason if len(wanted) == 1 else f"{result.name}: {held.reason}")
    return share, reasons


def draw_operands(problem: Problem, data: Data) -> list[mx.array]:
    """Return new arrays for a problem by the roles of its operands; equal data, equal arrays."""
    random = np.random.default_rng(data.seed)
    amplitudes = [data.amplitude, *[1.0] * len(problem.operands)]
    return [
        draw(one, random, amplitude, data.outside)
        for one, amplitude in zip(problem.operands, amplitudes, strict=False)
    ]


def draw(
    operand: Operand, random: np.random.Generator, amplitude: float = 1.0, outside: int = 0
) -> mx.array:
    """Return a new array for an operand.

    Args:
        operand: What is drawn.
        random: Where from.
        amplitude: Standard deviation of floating point data.
        outside: How far beyond their axis positions may lie.
    """
    shape, dtype = operand.stored_shape, operand.dtype
    if dtype is BOOL:
        return mx.array(random.random(shape) < 0.7)
    if operand.role is Role.INDEX:
        found = random.integers(-outside, operand.limit + outside, shape)
        return as_array(
            np.sort(found, axis=None).reshape(shape) if operand.ordered else found, dtype
        )
    if dtype.kind is Kind.INTEGER or not dtype.native:
        limits = mx.iinfo(operand.mlx)
        values = random.integers(limits.min, limits.max, shape, endpoint=True)
        return mx.array(values, dtype=operand.mlx)
    if operand.role is Role.GATE:
        return as_array(random.random(shape), dtype)
    if operand.role is Role.SCALE:
        return as_array(random.uniform(0.5, 2.0, shape), dtype)
    return as_array(amplitude * random.standard_normal(shape), dtype)


def as_array(values: Values, dtype: DType) -> mx.array:
    """Return values as an array of a type, rounded to float32 on the way if they are floats."""
    if np.issubdtype(values.dtype, np.floating):
        values = values.astype(np.float32)
    with mx.stream(mx.cpu):
        return mx.array(values).astype(dtype.mlx)


def as_view(array: mx.array) -> mx.array:
    """Return an array's copy that begins one element into its buffer, as views may."""
    with mx.stream(mx.cpu):
        flat = mx.concatenate([mx.zeros((1,), array.dtype), array.reshape(-1)])
        return flat[1:].reshape(array.shape)

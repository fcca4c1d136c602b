"""Float64 products with quantized weights, their bounds, and operands to try kernels with.

A weight is decoded here by its format's own row. A kernel decodes an element to float32 with one
rounding, or loses it below float32's normal numbers, and a sum of float32 products is off by at
most (terms + 4) * 2**-24 of the sum of their magnitudes. Where all products of a sum are multiples
of one power of two and together less than 2**24 of it, it is exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod

import mlx.core as mx
import numpy as np

from ...core.dtypes import FLOAT32
from ...core.family import Data, Part
from ...core.problem import Factors
from ...core.reference import (
    U32,
    Expected,
    Values,
    common_step,
    factors_error,
    rounding,
    to_numpy,
)
from ...core.weights import draw_factor, weight_values
from ...formats import TENSOR_SCALE
from .problem import QuantizedProblem

CHUNK_ELEMENTS = 1 << 21
"""Elements of the weight that are float64 at once, which bounds the memory of a reference."""

Given = Mapping[str, mx.array]


def expected(
    problem: QuantizedProblem,
    operands: Sequence[mx.array],
    factors: Factors,
    roundoff: float = 0.0,
) -> tuple[Expected, ...]:
    """Return the product, matrix by matrix of the weight and some of its rows at a time.

    Factors may be rounded before they are multiplied, with the relative error ``roundoff``.
    """
    stored = problem.stored()
    if problem.is_empty:
        found = [(np.zeros(stored.out_shape), np.zeros(stored.out_shape))]
    else:
        found = [_chunk_expected(problem, *chunk, roundoff) for chunk in _chunks(stored, operands)]
    axis = -1 if problem.transpose or problem.is_empty else 0
    if axis == 0:
        value, error = (sum(part) for part in zip(*found, strict=True))
    else:
        value, error = (np.concatenate(part, -1) for part in zip(*found, strict=True))
    given = dict(zip(problem.operand_names, operands, strict=True))
    value, error = _finished(problem, given, np.asarray(value), np.asarray(error))
    value, error = value.reshape(problem.out_shape), error.reshape(problem.out_shape)
    return (Expected(value=value, bound=error + rounding(value, problem.out)),)


def _chunks(
    stored: QuantizedProblem, operands: Sequence[mx.array]
) -> Iterator[tuple[Values, Values]]:
    """Yield the rows of ``x`` that meet some rows of the weight as stored, and these rows."""
    given = {
        one.name: mx.reshape(array, one.stored_shape)
        for one, array in zip(stored.operands, operands, strict=True)
    }
    x = to_numpy(given["x"])
    matrices = prod(given["w"].shape[:-2])
    height = max(1, CHUNK_ELEMENTS // max(1, matrices * stored.weight_columns))
    for start in range(0, stored.weight_rows, height):
        rows = slice(start, min(start + height, stored.weight_rows))
        part = {
            name: array[..., rows, :] if name in ("w", "scales", "biases") else array
            for name, array in given.items()
        }
        values = weight_values(stored, part)
        if stored.transpose:
            yield x, np.swapaxes(values, -1, -2)
        else:
            yield x[..., rows], values


def _chunk_expected(
    problem: QuantizedProblem, x: Values, w: Values, roundoff: float
) -> tuple[Values, Values]:
    """Return a product and its error before anything is added to it."""
    sizes = tuple(axis.size for axis in problem.batch)
    with np.errstate(invalid="ignore", over="ignore"):
        value = x @ w
        magnitude = np.abs(x) @ np.abs(w)
        flushed = np.abs(x).sum(axis=-1)[..., None] * FLOAT32.smallest_step
    terms = problem.k
    error = (terms + 6) * U32 * magnitude + flushed
    step = common_step(x, -1) * common_step(w, None)
    error = np.where(magnitude <= 2.0**24 * step, 0.0, error)
    if roundoff:
        # Accelerators that round factors cut what they add up to.
        error = 2 * error + factors_error(roundoff) * magnitude
    shape = (*sizes, *value.shape[-2:])
    return np.broadcast_to(value, shape), np.broadcast_to(error, shape)


def _finished(
    problem: QuantizedProblem, given: Given, value: Values, error: Values
) -> tuple[Values, Values]:
    """Return what becomes of a product: the scale of the whole weight, and a bias."""
    with np.errstate(invalid="ignore", over="ignore"):
        if problem.tensor_scale:
            factor = to_numpy(given["global_scale"]).reshape(()) / TENSOR_SCALE
            value, error = value * factor, error * np.abs(factor)
            error = error + 3 * U32 * np.abs(value) + FLOAT32.smallest_step
        if problem.bias is not None:
            value = value + to_numpy(given["bias"])
            error = error + U32 * (np.abs(value) + error)
    return value, error


def part(
    problem: QuantizedProblem,
    operands: Sequence[mx.array],
    outputs: Sequence[mx.array],
    rows: int,
) -> Part[QuantizedProblem]:
    """Return about so many rows of a product, from all over it."""
    stored = problem.stored()
    output = outputs[0].reshape(stored.out_shape)
    if problem.m <= rows:
        return Part(problem=stored, operands=operands, outputs=[output])
    at = mx.array(np.unique(np.linspace(0, problem.m - 1, rows).round().astype(np.int32)))
    x = mx.take(mx.reshape(operands[0], stored.operands[0].shape), at, axis=-2)
    return Part(
        problem=replace(stored, m=at.size).stored(),
        operands=[x, *operands[1:]],
        outputs=[mx.take(output, at, axis=-2)],
    )


def draw_operands(problem: QuantizedProblem, data: Data) -> list[mx.array]:
    """Return operands, with scales of both signs where there are such, and one code of NaN.

    Exact ones leave a kernel no room to be off: scales are a few powers of two and the elements of
    ``x`` are 1, -1 or zero, so that all sums are exact, and an element that is lost, doubled or
    taken from elsewhere shows.
    """
    random = np.random.default_rng(data.seed)
    return [draw_factor(one, data, random) for one in problem.stored().operands]

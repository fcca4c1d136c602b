"""Float64 products and the bounds that results are held to, and operands to try kernels with.

A sum of float32 products is off by at most (terms + 4) * 2**-24 of the sum of their magnitudes; a
product by zero adds nothing, in any order. Where all products of a sum are multiples of one power
of two and together less than 2**24 of it, every partial sum is a float32 number: it is exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import ceil, log2, prod
from typing import Any

import mlx.core as mx
import numpy as np

from ...core.dtypes import FLOAT32, DType
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
    draw_operands,
    factors_error,
    rounding,
    to_numpy,
    wrap,
)
from .problem import GemmProblem

CHUNK_ELEMENTS = 1 << 22
"""Elements of ``b`` that are float64 at once, which bounds the memory of a reference."""

PERIODS = (8191, 8209)
"""Primes: a pattern that repeats with one of them looks different from every other offset."""


def gemm(
    a: mx.array,
    b: mx.array,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    c: mx.array | None = None,
    alpha: float = 1.0,
    beta: float = 1.0,
) -> tuple[Values, Values]:
    """Return alpha * op(a) @ op(b) + beta * c and the sum of the magnitudes of its terms."""
    left, right = _operand(a, transpose_a), _operand(b, transpose_b)
    with np.errstate(invalid="ignore", over="ignore"):
        value = alpha * (left @ right)
        magnitude = np.abs(alpha) * (np.abs(left) @ np.abs(right))
        if c is not None:
            value = value + beta * to_numpy(c)
            magnitude = magnitude + np.abs(beta * to_numpy(c))
    return value, magnitude


def _operand(array: mx.array, transpose: bool) -> Values:
    value = to_numpy(array)
    return np.swapaxes(value, -1, -2) if transpose and value.ndim > 1 else value


def gemm_bound(value: Values, magnitude: Values, k: int, out: DType) -> Values:
    """Return the largest error a correct float32-accumulating GEMM can make."""
    return np.asarray((k + 4) * U32 * magnitude + rounding(value, out))


def expected(
    problem: GemmProblem,
    operands: Sequence[mx.array],
    factors: Factors,
    roundoff: float = 0.0,
) -> tuple[Expected, ...]:
    """Return the product, chunk by chunk of columns.

    Args:
        problem: The product.
        operands: Its operands.
        factors: Its factors.
        roundoff: Largest relative error that float32 factors are multiplied with.
    """
    if 0 in problem.out_shape:
        return (Expected(value=np.zeros(problem.out_shape), bound=0.0),)
    sizes = tuple(axis.size for axis in problem.batch)
    full = (*sizes, problem.m, problem.n)
    found = [
        _columns_expected(one, part, factors, roundoff) for one, part in _chunks(problem, operands)
    ]
    value = np.concatenate([np.broadcast_to(v, (*full[:-1], v.shape[-1])) for v, _ in found], -1)
    error = np.concatenate([np.broadcast_to(e, (*full[:-1], e.shape[-1])) for _, e in found], -1)
    value, error = value.reshape(problem.out_shape), error.reshape(problem.out_shape)
    if problem.is_integer:
        return (Expected(value=wrap(value), bound=0.0),)
    return (Expected(value=value, bound=error + rounding(value, problem.out)),)


def _chunks(
    problem: GemmProblem, operands: Sequence[mx.array]
) -> Iterator[tuple[GemmProblem, list[mx.array]]]:
    """Yield products of some columns each, with their operands as stored."""
    stored = problem.stored()
    arrays = [mx.reshape(x, one.shape) for x, one in zip(operands, stored.operands, strict=True)]
    depth = max(1, stored.elements("b") // max(1, problem.n))
    width = max(1, CHUNK_ELEMENTS // depth)
    for start in range(0, problem.n, width):
        stop = min(start + width, problem.n)
        part = [arrays[0], _some_columns(arrays[1], start, stop, problem.transpose_b)]
        if problem.c is not None:
            c = arrays[2]
            part.append(c[..., start:stop] if problem.c_columns else c)
        yield replace(stored, n=stop - start).stored(), part


def _some_columns(array: mx.array, start: int, stop: int, transposed: bool) -> mx.array:
    return array[..., start:stop, :] if transposed else array[..., start:stop]


def _columns_expected(
    problem: GemmProblem, operands: Sequence[mx.array], factors: Factors, roundoff: float
) -> tuple[Values, Values]:
    """Return values and errors before rounding of some columns."""
    alpha, beta = factors
    value, magnitude = gemm(
        operands[0],
        operands[1],
        transpose_a=problem.transpose_a,
        transpose_b=problem.transpose_b,
        c=operands[2] if problem.c is not None else None,
        alpha=alpha,
        beta=beta,
    )
    if problem.is_integer:
        return value, np.zeros_like(value)
    left = _operand(operands[0], problem.transpose_a)
    terms = np.count_nonzero(left, axis=-1)[..., None]
    error = (terms + 4) * U32 * magnitude
    step = abs(alpha) * common_step(left, -1) * common_step(to_numpy(operands[1]), None)
    if problem.c is not None:
        step = np.minimum(step, abs(beta) * common_step(to_numpy(operands[2]), None))
    error = np.where(magnitude <= 2.0**24 * step, 0.0, error)
    rounded = (problem.a, problem.b).count(FLOAT32)
    # Accelerators that round factors cut what they add up to.
    return value, error + (error + factors_error(roundoff, rounded) * magnitude) * bool(roundoff)


def part(
    problem: GemmProblem,
    operands: Sequence[mx.array],
    outputs: Sequence[mx.array],
    rows: int,
) -> Part[GemmProblem]:
    """Return about so many rows of a product, from all over it."""
    stored = problem.stored()
    if problem.m <= rows:
        output = outputs[0].reshape(stored.out_shape)
        return Part(problem=stored, operands=operands, outputs=[output])
    at = mx.array(np.unique(np.linspace(0, problem.m - 1, rows).round().astype(np.int32)))
    arrays = [mx.reshape(x, one.shape) for x, one in zip(operands, stored.operands, strict=True)]
    arrays[0] = mx.take(arrays[0], at, axis=-1 if problem.transpose_a else -2)
    if problem.c is not None and problem.c_rows:
        arrays[2] = mx.take(arrays[2], at, axis=-2)
    output = mx.take(outputs[0].reshape(stored.out_shape), at, axis=-2)
    return Part(problem=replace(stored, m=at.size).stored(), operands=arrays, outputs=[output])


def draw(problem: GemmProblem, data: Data) -> list[mx.array]:
    """Return operands.

    Exact ones leave a kernel no room to be off: in the even rows of ``a`` every element is 1 or -1
    and the elements of ``b`` are fractions of few enough bits that all sums are exact, so that a
    term that is lost, doubled or taken from elsewhere shows. The odd rows of ``a`` hold few
    elements other than zero, with all the bits of their type: products of too little precision
    show.
    """
    if not data.exact:
        return draw_operands(problem.stored(), data)
    random = np.random.default_rng(data.seed)
    make = _whole if problem.is_integer else _fractions
    a, *others = problem.stored().operands
    first = make(a, problem, random) if problem.is_integer else _signs(a, problem, random)
    return [first, *(make(one, problem, random) for one in others)]


def _whole(operand: Operand, problem: GemmProblem, random: np.random.Generator) -> mx.array:
    limits = np.iinfo(operand.dtype.name)
    values = random.integers(limits.min, limits.max, PERIODS[0], operand.dtype.name, endpoint=True)
    return _repeated(mx.array(values), operand, problem)


def _fractions(operand: Operand, problem: GemmProblem, random: np.random.Generator) -> mx.array:
    bits = _fraction_bits(problem) if operand.name == "b" else 6
    odd = 2 * random.integers(-(1 << bits), 1 << bits, max(PERIODS)) + 1
    return _repeated(as_array(odd / (1 << bits), operand.dtype), operand, problem)


def _fraction_bits(problem: GemmProblem) -> int:
    """Return how many bits elements of ``b`` may have below 1 for exact sums of k of them."""
    significant = -round(log2(problem.b.unit_roundoff))
    return max(0, min(significant - 1, 22 - ceil(log2(max(1, problem.k)))))


def _repeated(pattern: mx.array, operand: Operand, problem: GemmProblem) -> mx.array:
    """Return an array that repeats a pattern, as a view that begins one element in.

    It is made in its own dtype: the weight of a large vocabulary is not held twice.
    """
    period = next((p for p in PERIODS if problem.k % p and problem.n % p), PERIODS[0])
    count = prod(operand.shape)
    rows = mx.broadcast_to(pattern[:period], (count // period + 1, period))
    return rows.reshape(-1)[1 : count + 1].reshape(operand.shape)


def _signs(operand: Operand, problem: GemmProblem, random: np.random.Generator) -> mx.array:
    matrices, m, k = prod(operand.shape[:-2]), problem.m, problem.k
    signs: np.ndarray[Any, Any] = np.array([-1.0, 1.0], dtype=np.float32)
    values = random.choice(signs, (matrices, m, k))
    values[:, 1::2] = 0
    for place in (0, k - 1, int(random.integers(k))):
        sparse = random.uniform(0.5, 2, (matrices, m // 2))
        values[:, 1::2, place] = sparse * random.choice([-1, 1], sparse.shape)
    if problem.transpose_a:
        values = values.swapaxes(-1, -2)
    return as_view(as_array(values.reshape(operand.shape), operand.dtype))

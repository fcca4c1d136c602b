"""Float64 products with chosen matrices, their bounds, and operands to try kernels with.

A kernel decodes an element of a quantized weight to float32 with one rounding, or loses it below
float32's normal numbers, and a sum of float32 products is off by at most (terms + 4) * 2**-24 of
the sum of their magnitudes. Where all products of a sum are multiples of one power of two and
together less than 2**24 of it, it is exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import mlx.core as mx
import numpy as np

from ...core.dtypes import FLOAT8_E4M3, FLOAT8_E5M2, FLOAT32, INT8
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
from ...core.weights import byte_codes, draw_factor, scales_of, values_of, weight_values
from ...formats import TENSOR_SCALE
from .problem import AnyProblem, ExpertProblem, SegmentedProblem

Given = Mapping[str, mx.array]
Pair = tuple[Values, Values]
"""Values and their errors."""


def expected(
    problem: AnyProblem, operands: Sequence[mx.array], factors: Factors, roundoff: float = 0.0
) -> tuple[Expected, ...]:
    """Return the products of a problem.

    Factors may be rounded before they are multiplied, with the relative error ``roundoff``.
    """
    if isinstance(problem, SegmentedProblem):
        value, error = _segments(problem, operands, roundoff)
    else:
        value, error = _products(problem, operands, roundoff)
    value, error = value.reshape(problem.out_shape), error.reshape(problem.out_shape)
    return (Expected(value=value, bound=error + rounding(value, problem.out)),)


def _products(problem: ExpertProblem, operands: Sequence[mx.array], roundoff: float) -> Pair:
    """Return products expert by expert; only weights that are chosen become float64."""
    p = problem
    given = {
        one.name: mx.reshape(array, one.stored_shape)
        for one, array in zip(p.stored().operands, operands, strict=True)
    }
    value, error = np.zeros((p.products, p.m, p.n)), np.zeros((p.products, p.m, p.n))
    experts, sources = chosen(p, given)
    for expert in np.unique(experts[experts < p.experts]):
        at = np.flatnonzero(experts == expert)
        known = sources[at] < p.sources
        x = to_numpy(mx.take(given["x"], mx.array(np.where(known, sources[at], 0)), axis=0))
        x = np.where(known[:, None, None], x, 0.0)
        w = _weight(p, given, int(expert))
        found = product(x, w, 6 if p.is_decoded else 4, roundoff)
        value[at], error[at] = _finished(p, given, int(expert), *found)
    return value, error


def chosen(problem: ExpertProblem, given: Given) -> tuple[Values, Values]:
    """Return the expert and the matrix of ``x`` of each product; too large where there is none."""
    none = np.iinfo(np.int64).max
    if problem.grouped:
        ends = np.array(given["offsets"]).astype(np.int64)
        experts = np.searchsorted(ends, np.arange(problem.products), side="right")
    else:
        experts = np.array(given["rhs_indices"]).astype(np.int64)
    sources = np.arange(problem.products) // max(1, problem.fanout)
    if not problem.fanout:
        sources = np.array(given["lhs_indices"]).astype(np.int64)
    return np.where(experts < 0, none, experts), np.where(sources < 0, none, sources)


def _weight(problem: ExpertProblem, given: Given, expert: int) -> Values:
    """Return an expert's weight, ``[k, n]``, without its tensor scale."""
    part = {name: given[name][expert] for name in ("w", "scales", "biases") if name in given}
    if problem.weight is not None:
        values = weight_values(problem, part)
    elif problem.has_codes:
        values = _codes_values(problem, part)
    else:
        values = to_numpy(part["w"])
    return values.T if problem.transpose else values


def _codes_values(problem: ExpertProblem, part: Given) -> Values:
    """Return codes of a byte times their scales, as float32 holds them, as they are stored."""
    p, values = problem, values_of(problem.w, part["w"])
    if p.scaling is None:
        return values
    laid = part["scales"] if p.transpose else part["scales"].T
    scales = scales_of(p.scaling, laid, np.arange(p.n), np.arange(p.k))
    with np.errstate(invalid="ignore", over="ignore"):
        found = values * (scales if p.transpose else scales.T)
    return np.where(np.abs(found) > LARGEST, np.copysign(np.inf, found), found)


LARGEST = float(np.finfo(np.float32).max)


def product(x: Values, w: Values, roundings: int, roundoff: float) -> Pair:
    """Return a product and its error before anything is added to it."""
    with np.errstate(invalid="ignore", over="ignore"):
        value = x @ w
        magnitude = np.abs(x) @ np.abs(w)
        flushed = np.abs(x).sum(axis=-1)[..., None] * FLOAT32.smallest_step
    error = (x.shape[-1] + roundings) * U32 * magnitude + flushed
    step = common_step(x, -1) * common_step(w, None)
    error = np.where(magnitude <= 2.0**24 * step, 0.0, error)
    if roundoff:
        # Accelerators that round factors cut what they add up to.
        error = 2 * error + factors_error(roundoff) * magnitude
    return value, error


def _finished(
    problem: ExpertProblem, given: Given, expert: int, value: Values, error: Values
) -> Pair:
    """Return what becomes of products with an expert: its tensor scale, and its bias."""
    with np.errstate(invalid="ignore", over="ignore"):
        if problem.tensor_scale:
            factor = to_numpy(given["global_scale"])[expert] / TENSOR_SCALE
            value, error = value * factor, error * np.abs(factor)
            error = error + 3 * U32 * np.abs(value) + FLOAT32.smallest_step
        if problem.bias is not None:
            value = value + to_numpy(given["bias"][expert])
            error = error + U32 * (np.abs(value) + error)
    return value, error


def _segments(problem: SegmentedProblem, operands: Sequence[mx.array], roundoff: float) -> Pair:
    p = problem
    a, b = to_numpy(operands[0]), to_numpy(operands[1])
    a, b = (a.T if p.transpose_a else a), (b.T if p.transpose_b else b)
    segments = np.clip(np.array(operands[2]).astype(np.int64).reshape(-1, 2), 0, p.k)
    value, error = np.zeros((p.segments, p.m, p.n)), np.zeros((p.segments, p.m, p.n))
    for number, (start, end) in enumerate(segments):
        if start < end:
            value[number], error[number] = product(a[:, start:end], b[start:end], 4, roundoff)
    return value, error


def part(
    problem: AnyProblem, operands: Sequence[mx.array], outputs: Sequence[mx.array], rows: int
) -> Part[AnyProblem]:
    """Return some products of about so many rows, from all over, or some rows of all segments."""
    stored = problem.stored()
    output = mx.reshape(outputs[0], stored.out_shape)
    if isinstance(stored, SegmentedProblem):
        return _part_of_segments(stored, operands, output, rows)
    count = max(1, rows // max(1, stored.m))
    if stored.products <= count:
        return Part(problem=stored, operands=operands, outputs=[output])
    at = np.unique(np.linspace(0, stored.products - 1, count).round().astype(np.int64))
    given = dict(zip(stored.operand_names, operands, strict=True))
    experts, sources = (
        mx.array(np.minimum(one[at], np.iinfo(np.int32).max).astype(np.int32))
        for one in chosen(stored, given)
    )
    smaller = replace(stored, products=at.size, fanout=0, grouped=False, sorted=False).stored()
    given |= {"lhs_indices": sources, "rhs_indices": experts}
    return Part(
        problem=smaller,
        operands=[given[name] for name in smaller.operand_names],
        outputs=[mx.take(output, mx.array(at), axis=0)],
    )


def _part_of_segments(
    problem: SegmentedProblem, operands: Sequence[mx.array], output: mx.array, rows: int
) -> Part[AnyProblem]:
    count = max(1, rows // max(1, problem.segments))
    if problem.m <= count:
        return Part(problem=problem, operands=operands, outputs=[output])
    at = mx.array(np.unique(np.linspace(0, problem.m - 1, count).round().astype(np.int64)))
    a = mx.take(operands[0], at, axis=1 if problem.transpose_a else 0)
    return Part(
        problem=replace(problem, m=at.size).stored(),
        operands=[a, *operands[1:]],
        outputs=[mx.take(output, at, axis=1)],
    )


def draw_operands(problem: AnyProblem, data: Data) -> list[mx.array]:
    """Return operands; of a few experts most are chosen, some again and again, and some never.

    Exact ones leave a kernel no room to be off: elements of ``x`` are 1, -1 or zero, scales a few
    powers of two and plain elements fractions of few bits, so that all sums are exact, and an
    element that is lost, doubled or taken from elsewhere shows.
    """
    random = np.random.default_rng(data.seed)
    return [_drawn(one, problem, data, random) for one in problem.stored().operands]


def _even_segments(operand: Operand) -> mx.array:
    """Return segments of one length that are all of the axis together, the last one to its end."""
    count, length = operand.shape[0], operand.limit - 1
    cuts = np.arange(count + 1) * length // count
    return mx.array(np.stack([cuts[:-1], cuts[1:]], axis=-1).astype(np.int32))


def _drawn(
    operand: Operand, problem: AnyProblem, data: Data, random: np.random.Generator
) -> mx.array:
    name = operand.name
    if name == "segments" and data.exact:
        return _even_segments(operand)
    if name in ("offsets", "segments"):
        return draw(operand, random)
    if name in ("lhs_indices", "rhs_indices", "global_scale"):
        return draw(operand, random, outside=data.outside)
    if name == "w" and operand.dtype in (FLOAT8_E4M3, FLOAT8_E5M2) and not operand.words:
        codes = byte_codes(operand.dtype, operand.shape, random, data.exact, nans=True)
        return as_view(mx.array(codes)) if data.exact else mx.array(codes)
    if name == "bias" or operand.words or name in ("scales", "biases"):
        return draw_factor(operand, data, random)
    if not data.exact or operand.dtype is INT8:
        return draw(operand, random, data.amplitude if name in ("x", "a") else 1.0)
    if name in ("x", "a"):
        found = as_array(random.choice([-1.0, 0.0, 1.0], operand.shape), operand.dtype)
    else:
        found = as_array((2 * random.integers(-32, 32, operand.shape) + 1) / 64, operand.dtype)
    return as_view(found)

"""Data for a problem, and what a right kernel makes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from ..dtypes import FLOAT32, DType, Kind
from ..problem import (
    AttentionProblem,
    GemmProblem,
    KeyValueGradientProblem,
    MaskKind,
    Problem,
    QueryGradientProblem,
    Shape,
)
from . import gradients, reference
from .reference import Values

Number = int | float


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Which numbers a problem's operands hold.

    Attributes:
        seed: Of the random numbers.
        amplitude: Standard deviation of the first float operand; the others have 1.
        low: What an additive mask adds to every score of its third row: so far below 0, exp2
            underflows unless it is shifted.
    """

    seed: int = 0
    amplitude: float = 1.0
    low: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """One output of a right kernel.

    Attributes:
        value: In float64, or int64 for integers.
        bound: Largest error of each element.
    """

    value: Values
    bound: Values | float


def supported(problem: Problem) -> bool:
    """Whether there is a reference for problems of this type."""
    return type(problem) in _OPERANDS


def operands(problem: Problem, data: Data) -> list[mx.array]:
    """Return new arrays for a problem, in its op's order; equal data gives equal arrays."""
    arrays = _OPERANDS[type(problem)](problem, np.random.default_rng(data.seed), data)
    mx.eval(*arrays)
    return arrays


def factors(problem: Problem) -> tuple[Number, ...]:
    """Return the run-time factors that the problem's op would pass."""
    if isinstance(problem, GemmProblem):
        alpha, beta = (3, -2) if problem.is_integer else (0.75, -1.5)
        return (alpha if problem.scaled else 1, beta)
    attention = problem if isinstance(problem, AttentionProblem) else problem.attention
    depth = attention.head_dim + attention.pe_dim
    return (depth**-0.5 if attention.softmax else 0.5,)


def expected(problem: Problem, arrays: list[mx.array]) -> tuple[Expected, ...]:
    """Return what each output should hold."""
    if isinstance(problem, GemmProblem):
        return (_gemm_expected(problem, arrays),)
    if isinstance(problem, AttentionProblem):
        return _attention_expected(problem, arrays)
    return _gradients_expected(problem, arrays)


def _random(rng: np.random.Generator, shape: Shape, dtype: DType, amplitude: float) -> mx.array:
    if dtype.kind is Kind.BOOL:
        return mx.array(rng.random(shape) < 0.7)
    if dtype.kind is Kind.INTEGER:
        limits = mx.iinfo(dtype.mlx)
        return mx.array(rng.integers(limits.min, limits.max, shape, endpoint=True)).astype(
            dtype.mlx
        )
    normal = amplitude * rng.standard_normal(shape)
    return mx.array(normal.astype(np.float32)).astype(dtype.mlx)


def _gemm_operands(problem: GemmProblem, rng: np.random.Generator, data: Data) -> list[mx.array]:
    def batch(name: str) -> Shape:
        return tuple(axis.size if getattr(axis, name) else 1 for axis in problem.batch)

    m, n, k = problem.m, problem.n, problem.k
    a = (*batch("a"), *((k, m) if problem.transpose_a else (m, k)))
    b = (*batch("b"), *((n, k) if problem.transpose_b else (k, n)))
    arrays = [_random(rng, a, problem.a, data.amplitude), _random(rng, b, problem.b, 1.0)]
    if problem.c is not None:
        matrix = (m if problem.c_rows else 1, n if problem.c_columns else 1)
        arrays.append(_random(rng, (*batch("c"), *matrix), problem.c, 1.0))
    return arrays


def _gemm_expected(problem: GemmProblem, arrays: list[mx.array]) -> Expected:
    alpha, beta = factors(problem)
    value, magnitude = reference.gemm(
        arrays[0],
        arrays[1],
        transpose_a=problem.transpose_a,
        transpose_b=problem.transpose_b,
        c=arrays[2] if problem.c is not None else None,
        alpha=alpha,
        beta=beta,
    )
    value = value.reshape(problem.out_shape)
    if problem.is_integer:
        return Expected(value=reference.wrap(value), bound=0.0)
    magnitude = magnitude.reshape(problem.out_shape)
    bound = reference.gemm_bound(value, magnitude, problem.k, problem.out)
    return Expected(value=value, bound=bound)


def _attention_operands(
    problem: AttentionProblem, rng: np.random.Generator, data: Data
) -> list[mx.array]:
    batch, kv_heads, kv_len = problem.batch, problem.num_kv_heads, problem.kv_len
    q = (batch, problem.num_heads, problem.q_len, problem.head_dim)
    arrays = [
        _random(rng, q, problem.q, data.amplitude),
        _random(rng, (batch, kv_heads, kv_len, problem.head_dim), problem.k, 1.0),
        _random(rng, (batch, kv_heads, kv_len, problem.value_dim), problem.v, 1.0),
    ]
    if problem.q_pe is not None and problem.k_pe is not None:
        shape = (batch, problem.num_heads, problem.q_len, problem.pe_dim)
        arrays.append(_random(rng, shape, problem.q_pe, data.amplitude))
        shape = (batch, problem.num_pe_heads, kv_len, problem.pe_dim)
        arrays.append(_random(rng, shape, problem.k_pe, 1.0))
    if problem.mask is not None:
        arrays.append(_mask(problem, rng, data.low))
    if problem.sinks is not None:
        arrays.append(_random(rng, (problem.num_heads,), problem.sinks, data.amplitude))
    return arrays


def _mask(problem: AttentionProblem, rng: np.random.Generator, low: float) -> mx.array:
    """Return a mask that hides all of one row, and all but the last keys of another."""
    assert problem.mask is not None
    visible = rng.random(problem.mask_shape) < 0.7
    if problem.mask_shape[2] > 2:
        visible[..., 0, :] = False
        visible[..., 1, : problem.mask_shape[3] * 9 // 10] = False
    if problem.mask_kind is MaskKind.BOOLEAN:
        return mx.array(visible)
    # Without a softmax a hidden key would be an infinite term of a sum.
    hidden = -np.inf if problem.softmax else -3.0
    added = np.where(visible, rng.standard_normal(problem.mask_shape), hidden)
    if problem.mask_shape[2] > 2:
        added[..., 2, :] += low
    return mx.array(added.astype(np.float32)).astype(problem.mask.mlx)


def _attention_expected(problem: AttentionProblem, arrays: list[mx.array]) -> tuple[Expected, ...]:
    named = dict(zip(problem.operand_names, arrays, strict=True))
    value, bound, lse = gradients.forward(problem, named, float(factors(problem)[0]))
    bound = bound + reference.rounding(value, problem.out)
    outputs = (Expected(value=value, bound=bound),)
    if not problem.return_lse:
        return outputs
    assert lse is not None
    finite = np.where(np.isfinite(lse[0]), lse[0], 0.0)
    return (*outputs, Expected(value=lse[0], bound=lse[1] + reference.rounding(finite, FLOAT32)))


Gradient = QueryGradientProblem | KeyValueGradientProblem


def _gradient_names(problem: Gradient) -> tuple[str, ...]:
    if isinstance(problem, QueryGradientProblem):
        return gradients.query_names(problem)
    return gradients.key_value_names(problem)


def _gradient_operands(problem: Gradient, rng: np.random.Generator, data: Data) -> list[mx.array]:
    forward = _attention_operands(problem.attention, rng, data)
    arrays = dict(zip(problem.attention.operand_names, forward, strict=True))
    scale = float(factors(problem)[0])
    full = gradients.complete(problem.attention, arrays, scale, rng)
    return [full[name] for name in _gradient_names(problem)]


def _gradients_expected(problem: Gradient, operands: list[mx.array]) -> tuple[Expected, ...]:
    arrays = dict(zip(_gradient_names(problem), operands, strict=True))
    scale, p = float(factors(problem)[0]), problem.attention
    if isinstance(problem, QueryGradientProblem):
        found = gradients.query_gradient(problem, arrays, scale)
        dtypes = (p.q, FLOAT32)
    else:
        found = gradients.key_value_gradients(problem, arrays, scale)
        dtypes = (p.k, p.v)
    held = (gradients.rounded(one, out) for one, out in zip(found, dtypes, strict=False))
    return tuple(Expected(value=value, bound=bound) for value, bound in held)


_OPERANDS: dict[type[Any], Callable[[Any, np.random.Generator, Data], list[mx.array]]] = {
    GemmProblem: _gemm_operands,
    AttentionProblem: _attention_operands,
    QueryGradientProblem: _gradient_operands,
    KeyValueGradientProblem: _gradient_operands,
}

"""Float64 attentions and the bounds that results are held to, and operands to try kernels with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import mlx.core as mx
import numpy as np

from ...core.family import Data, Part
from ...core.operand import Operand, Role
from ...core.problem import Factors
from ...core.reference import (
    Expected,
    Values,
    as_view,
    rounding,
)
from ...core.reference import draw as draw_operand
from . import gradient_reference as gradients
from .problem import (
    AttentionProblem,
    KeyValueGradientProblem,
    MaskKind,
    QueryGradientProblem,
)

AnyProblem = AttentionProblem | QueryGradientProblem | KeyValueGradientProblem
GradientProblem = QueryGradientProblem | KeyValueGradientProblem


def expected(
    problem: AnyProblem,
    operands: Sequence[mx.array],
    factors: Factors,
    roundoff: float = 0.0,
) -> tuple[Expected, ...]:
    """Return the results of an attention, or the gradients that are asked for.

    Args:
        problem: The attention, or gradients in one.
        operands: Its operands.
        factors: The scale.
        roundoff: Largest relative error that an attention's factors are multiplied with; those of
            the second product may be rounded to the result's type, too.
    """
    arrays = dict(zip(problem.operand_names, operands, strict=True))
    scale = float(factors[0])
    if isinstance(problem, AttentionProblem):
        value, bound, rows = gradients.forward(problem, arrays, scale, roundoff)
        known = {"out": (value, bound)} | ({} if rows is None else rows._asdict())
        found = [known[one.name] for one in problem.results]
    elif isinstance(problem, QueryGradientProblem):
        found = [*gradients.query_gradient(problem, arrays, scale)]
    else:
        found = [*gradients.key_value_gradients(problem, arrays, scale)]
    held = zip(found, problem.results, strict=True)
    return tuple(
        Expected(value=value, bound=bound + rounding(_finite(value), result.dtype))
        for (value, bound), result in held
    )


def _finite(values: Values) -> Values:
    return np.where(np.isfinite(values), values, 0.0)


def draw(problem: AnyProblem, data: Data) -> list[mx.array]:
    """Return operands; those of a gradient are what its forward kernel would leave."""
    random = np.random.default_rng(data.seed)
    attention = problem if isinstance(problem, AttentionProblem) else problem.attention
    arrays = {one.name: _draw(one, attention, random, data) for one in attention.operands}
    if not isinstance(problem, AttentionProblem):
        arrays = gradients.complete(attention, arrays, _scale(attention), random)
    found = [arrays[name] for name in problem.operand_names]
    return [as_view(one) for one in found] if data.exact else found


def _scale(problem: AttentionProblem) -> float:
    """Return the scale with which forward results are made for gradients; any will do."""
    return (problem.head_dim + problem.pe_dim) ** -0.5 if problem.softmax else 0.5


LOUD = ("q", "q_pe", "sinks")
"""Operands that are drawn with the amplitude asked for."""


def _draw(
    operand: Operand, problem: AttentionProblem, random: np.random.Generator, data: Data
) -> mx.array:
    if operand.role is Role.MASK:
        return _mask(problem, random, data.low)
    return draw_operand(operand, random, data.amplitude if operand.name in LOUD else 1.0)


def _mask(problem: AttentionProblem, random: np.random.Generator, low: float) -> mx.array:
    """Return a mask that hides all of one row, and all but the last keys of another."""
    assert problem.mask is not None
    visible = random.random(problem.mask_shape) < 0.7
    if problem.mask_shape[2] > 2:
        visible[..., 0, :] = False
        visible[..., 1, : problem.mask_shape[3] * 9 // 10] = False
    if problem.mask_kind is MaskKind.BOOLEAN:
        return mx.array(visible)
    # Without a softmax a hidden key would be an infinite term of a sum.
    hidden = -np.inf if problem.softmax else -3.0
    added = np.where(visible, random.standard_normal(problem.mask_shape), hidden)
    if problem.mask_shape[2] > 2:
        added[..., 2, :] += low
    with mx.stream(mx.cpu):
        return mx.array(added.astype(np.float32)).astype(problem.mask.mlx)


def part(
    problem: AnyProblem, operands: Sequence[mx.array], outputs: Sequence[mx.array], rows: int
) -> Part[AnyProblem]:
    """Return the last rows of an attention, which a causal mask treats as if they were all."""
    if not isinstance(problem, AttentionProblem) or problem.q_len <= rows:
        return Part(problem=problem, operands=operands, outputs=outputs)
    first = problem.q_len - rows
    names = ("q", "q_pe", "mask") if problem.mask_shape[2] > 1 else ("q", "q_pe")
    arrays = [
        x[..., first:, :] if name in names else x
        for name, x in zip(problem.operand_names, operands, strict=True)
    ]
    batch, heads, mask_rows, columns = problem.mask_shape
    smaller = replace(
        problem,
        q_len=rows,
        mask_shape=(batch, heads, min(mask_rows, rows), columns),
    )
    found = [x[:, :, first:] for x in outputs]
    return Part(problem=smaller, operands=arrays, outputs=found)

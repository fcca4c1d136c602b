"""Derivatives and batching of gated delta updates.

Gradients come from a kernel that starts from the states of the forward pass. What is rarely asked
for, or not taken by it, goes through MLX's own ops and their derivatives: tangents and second
derivatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import mlx.core as mx

from ...backends import Backend, StreamOrDevice
from ...call.formulas import ByFormula, mapped, mapped_size, tangents_of
from ...call.prepare import kernel_call
from ...call.transforms import custom_calls, transformable
from ...core.caches import prepared
from ...core.context import Settings, inner_settings
from ...core.dtypes import FLOAT32
from ...core.problem import Factors
from . import fallback
from .fused_backward import blockwise_backward, fused_backward
from .key import NAME
from .problem import DeltaProblem

if TYPE_CHECKING:
    from ...core.family import Run

Arrays = Sequence[mx.array]


@prepared
def _forward_run(problem: DeltaProblem, backend: Backend | None, _settings: Settings) -> Run:
    return kernel_call(NAME, problem, backend) or fallback.delta(problem)


@prepared
def _backward_run(problem: DeltaProblem, backend: Backend | None, settings: Settings) -> Run:
    """Prepare the gradients of all operands but the mask.

    The call takes the operands and the gradients of all results.
    """
    by_mlx = partial(_gradients_by_mlx, problem)
    if problem.is_empty:
        return by_mlx
    rule = _BackwardRule(problem=problem, backend=backend, formula=by_mlx)
    if settings.batched:
        return custom_calls(by_mlx, rule)

    def forward(one: DeltaProblem) -> Run:
        return kernel_call(NAME, one, backend, gradients=False) or fallback.delta(one)

    making = blockwise_backward if problem.every else fused_backward
    fused = making(problem, forward, lambda one: kernel_call(NAME, one, backend, gradients=False))
    if fused is None:
        return by_mlx
    return transformable(fused, rule)


def _gradients_by_mlx(
    problem: DeltaProblem, operands: Arrays, factors: Factors, stream: StreamOrDevice
) -> list[mx.array]:
    count = len(problem.operand_names)
    arrays, cotangents = operands[:count], operands[count:]
    moving, mask = arrays[: count - problem.mask], arrays[count - problem.mask :]
    run = fallback.checkpointed(replace(problem, y=FLOAT32))

    def forward(*values: mx.array) -> list[mx.array]:
        return run((*values, *mask), factors, stream)

    return mx.vjp(forward, [*moving], [one.astype(mx.float32) for one in cotangents])[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaRule:
    """Transforms of an update."""

    problem: DeltaProblem
    backend: Backend | None

    def vjp(
        self,
        operands: Arrays,
        factors: Factors,
        stream: StreamOrDevice,
        cotangents: Arrays,
        outputs: Arrays,
    ) -> list[mx.array]:
        """Return a gradient for every operand; that of a mask is zero."""
        run = _backward_run(self.problem, self.backend, inner_settings())
        found = run((*operands, *cotangents), factors, stream)
        return [*found, *map(mx.zeros_like, operands[len(found) :])]

    def jvp(
        self,
        operands: Arrays,
        factors: Factors,
        stream: StreamOrDevice,
        tangents: Sequence[mx.array | None],
    ) -> list[mx.array]:
        """Return a tangent for every output."""
        run = fallback.delta(self.problem)
        return tangents_of(lambda *arrays: run(arrays, factors, stream), operands, tangents)

    def vmap(
        self,
        operands: Arrays,
        factors: Factors,
        stream: StreamOrDevice,
        axes: Sequence[int | None],
    ) -> list[mx.array]:
        """Return the outputs for operands with a further axis each, which becomes more batch."""
        problem, folded = _folded(self.problem, operands, axes)
        run = _forward_run(problem, self.backend, inner_settings())
        return [_unfolded(x, self.problem) for x in run(folded, factors, stream)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _BackwardRule(ByFormula):
    """Transforms of the gradients of an update; their derivatives are MLX's."""

    problem: DeltaProblem
    backend: Backend | None

    def vmap(
        self,
        operands: Arrays,
        factors: Factors,
        stream: StreamOrDevice,
        axes: Sequence[int | None],
    ) -> list[mx.array]:
        """Return the outputs for operands with a further axis each."""
        problem, folded = _folded(self.problem, operands, axes)
        run = _backward_run(problem, self.backend, inner_settings())
        return [_unfolded(x, self.problem) for x in run(folded, factors, stream)]


def _folded(
    problem: DeltaProblem, operands: Arrays, axes: Sequence[int | None]
) -> tuple[DeltaProblem, list[mx.array]]:
    """Return the update of a larger batch, and its operands."""
    count, folded = mapped_size(operands, axes), []
    for x, axis in zip(operands, axes, strict=True):
        every = mapped(x, axis, count)
        folded.append(every.reshape(count * every.shape[1], *every.shape[2:]))
    return replace(problem, batch=count * problem.batch), folded


def _unfolded(x: mx.array, problem: DeltaProblem) -> mx.array:
    return mx.unflatten(x, 0, (-1, problem.batch))

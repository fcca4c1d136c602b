"""Derivatives and batching of gated delta updates.

Gradients come from MLX's ops and their derivatives, which keep a state for each span of tokens and
compute the rest of a span again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import mlx.core as mx

from ...backends import Backend, StreamOrDevice
from ...call.prepare import kernel_call
from ...core.caches import prepared
from ...core.context import Recorder, current_settings
from ...core.dtypes import FLOAT32
from ...core.problem import Factors
from . import fallback
from .key import NAME
from .problem import DeltaProblem

if TYPE_CHECKING:
    from ...core.family import Run

Arrays = Sequence[mx.array]


@prepared
def _forward_run(problem: DeltaProblem, backend: Backend, _recorder: Recorder | None) -> Run:
    return kernel_call(NAME, problem, backend) or fallback.delta(problem)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaRule:
    """Transforms of an update."""

    problem: DeltaProblem
    backend: Backend

    def vjp(
        self,
        operands: Arrays,
        factors: Factors,
        stream: StreamOrDevice,
        cotangents: Arrays,
        outputs: Arrays,
    ) -> list[mx.array]:
        """Return a gradient for every operand; that of a mask is zero."""
        moving = operands[: len(operands) - self.problem.mask]
        mask = operands[len(moving) :]
        wide = [one.astype(mx.float32) for one in cotangents]

        def forward(*values: mx.array) -> list[mx.array]:
            return self._in_float32((*values, *mask), factors, stream)

        found = mx.vjp(forward, [*moving], wide)[1]
        return [*found, *(mx.zeros_like(one) for one in mask)]

    def jvp(
        self,
        operands: Arrays,
        factors: Factors,
        stream: StreamOrDevice,
        tangents: Sequence[mx.array | None],
    ) -> list[mx.array]:
        """Return a tangent for every output."""
        moving = [i for i, one in enumerate(tangents) if one is not None]

        def forward(*values: mx.array) -> list[mx.array]:
            arrays = [*operands]
            for i, value in zip(moving, values, strict=True):
                arrays[i] = value
            return fallback.delta(self.problem)(arrays, factors, stream)

        given = [one for one in tangents if one is not None]
        return mx.jvp(forward, [operands[i] for i in moving], given)[1]

    def vmap(
        self,
        operands: Arrays,
        factors: Factors,
        stream: StreamOrDevice,
        axes: Sequence[int | None],
    ) -> list[mx.array]:
        """Return the outputs for operands with a further axis each, which becomes more batch."""
        count = next(x.shape[a] for x, a in zip(operands, axes, strict=True) if a is not None)
        folded = [_folded(x, axis, count) for x, axis in zip(operands, axes, strict=True)]
        problem = replace(self.problem, batch=count * self.problem.batch)
        run = _forward_run(problem, self.backend, current_settings().recorder)
        outputs = run(folded, factors, stream)
        return [x.reshape(count, self.problem.batch, *x.shape[1:]) for x in outputs]

    def _in_float32(
        self, operands: Arrays, factors: Factors, stream: StreamOrDevice
    ) -> list[mx.array]:
        wide = replace(self.problem, y=FLOAT32)
        return fallback.checkpointed(wide)(operands, factors, stream)


def _folded(x: mx.array, axis: int | None, count: int) -> mx.array:
    x = mx.broadcast_to(x, (count, *x.shape)) if axis is None else mx.moveaxis(x, axis, 0)
    return x.reshape(-1, *x.shape[2:])

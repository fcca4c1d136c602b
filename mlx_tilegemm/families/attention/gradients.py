"""Derivatives and batching of chained attention.

Gradients of q, k and v come from two kernels, which recompute the weights from q, k and what the
forward kernel left of each row, the log-sum-exp or under an additive mask the highest score and the
sum: nothing of the size of the scores is ever in memory. That of the sinks follows from these and
the result. What is rarely asked for, or not taken by
the kernels, goes through MLX's own ops and their derivatives: tangents, the gradient of an additive
mask, and second derivatives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, NewType

import mlx.core as mx

from ...backends import Backend, StreamOrDevice
from ...call.formulas import ByFormula, mapped, mapped_size, tangents_of
from ...call.prepare import kernel_call
from ...call.transforms import custom_calls, transformable
from ...core.caches import prepared
from ...core.context import Settings, inner_settings
from ...core.dtypes import FLOAT32
from ...core.problem import Factors
from ...core.shapes import Shape
from . import fallback
from .fused_backward import FusedBackward, joined_problem
from .key import OP
from .problem import (
    AttentionProblem,
    KeyValueGradientProblem,
    MaskKind,
    QueryGradientProblem,
)

if TYPE_CHECKING:
    from ...core.family import Run

Arrays = Sequence[mx.array]


def with_row_operands(problem: AttentionProblem) -> AttentionProblem:
    """Return the problem that a differentiable call solves: with what gradients need of rows."""
    if "norm" in problem.row_operands:
        return replace(problem, return_norm=True)
    return replace(problem, return_lse=problem.softmax)


LseGradient = NewType("LseGradient", bool)


@prepared
def _forward_run(problem: AttentionProblem, backend: Backend | None, _settings: Settings) -> Run:
    """Prepare an attention that returns what gradients need of rows, asked for or not."""
    run = kernel_call(OP, problem, backend)
    return run or fallback.attention(with_row_operands(problem))


@prepared
def _backward_run(
    problem: AttentionProblem,
    lse_gradient: LseGradient,
    backend: Backend | None,
    settings: Settings,
) -> Run:
    """Prepare the gradients of q, k, v, q_pe, k_pe and, for each batch row, of the sinks.

    The call takes the attention's operands, the gradient of the result and, with the softmax, that
    of the log-sum-exp if there is one, the result and what is known of its rows.
    """
    by_mlx = partial(_gradients_by_mlx, problem, lse_gradient)
    rule = _BackwardRule(
        problem=problem, lse_gradient=lse_gradient, backend=backend, formula=by_mlx
    )
    if settings.batched:
        return custom_calls(by_mlx, rule)
    joined = joined_problem(problem)
    of_query = QueryGradientProblem(attention=joined, lse_gradient=lse_gradient)
    of_key_value = KeyValueGradientProblem(attention=joined)
    query = kernel_call(OP, of_query, backend, gradients=False)
    key_value = kernel_call(OP, of_key_value, backend, gradients=False)
    if query is None or key_value is None:
        return by_mlx
    fused = FusedBackward(
        problem=problem,
        names=_backward_operands(problem, lse_gradient),
        query_names=of_query.operand_names,
        key_value_names=of_key_value.operand_names,
        query=query,
        key_value=key_value,
    )
    return transformable(fused, rule)


def _backward_operands(problem: AttentionProblem, lse_gradient: bool) -> tuple[str, ...]:
    lse_grad = ("lse_grad",) if lse_gradient else ()
    rows = ("result", *problem.row_operands) if problem.softmax else ()
    return (*problem.operand_names, "grad", *lse_grad, *rows)


def _forward_by_mlx(
    problem: AttentionProblem, operands: Arrays, factors: Factors, stream: StreamOrDevice
) -> list[mx.array]:
    """Return the result in float32, and the log-sum-exp, by ops that MLX differentiates."""
    full = replace(problem, out=FLOAT32, return_lse=problem.softmax, return_norm=False)
    return fallback.attention(full)(operands, factors, stream)


def _gradients_by_mlx(
    problem: AttentionProblem,
    lse_gradient: bool,
    operands: Arrays,
    factors: Factors,
    stream: StreamOrDevice,
) -> list[mx.array]:
    arrays = dict(zip(_backward_operands(problem, lse_gradient), operands, strict=True))
    cotangents = [arrays["grad"].astype(mx.float32)]
    if problem.softmax:
        cotangents.append(arrays["lse_grad"] if lse_gradient else mx.zeros(problem.lse_shape))
    names = problem.operand_names
    moving = [name for name in names if name not in ("mask", "sinks")]
    primals = [arrays[name] for name in moving]
    if problem.sinks:
        # A sink for every batch row has a gradient for every batch row.
        moving.append("sinks")
        shape = (problem.batch, problem.num_heads)
        sinks = arrays["sinks"].astype(mx.float32, stream=stream)
        primals.append(mx.broadcast_to(sinks, shape, stream=stream))

    def forward(*values: mx.array) -> list[mx.array]:
        given = {**arrays, **dict(zip(moving, values, strict=True))}
        return _forward_by_mlx(problem, [given[name] for name in names], factors, stream)

    return mx.vjp(forward, primals, cotangents)[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionRule:
    """Transforms of an attention."""

    problem: AttentionProblem
    backend: Backend | None

    def vjp(
        self,
        operands: Arrays,
        factors: Factors,
        stream: StreamOrDevice,
        cotangents: Arrays,
        outputs: Arrays,
    ) -> list[mx.array]:
        """Return a gradient for every operand."""
        lse_gradient = self.problem.return_lse
        given = cotangents[:2] if lse_gradient else cotangents[:1]
        # The log-sum-exp that a caller wants stands before what an additive mask's gradients need.
        rows = (outputs[0], outputs[-1]) if self.problem.softmax else ()
        run = _backward_run(self.problem, LseGradient(lse_gradient), self.backend, inner_settings())
        gradients = run((*operands, *given, *rows), factors, stream)
        names = self.problem.operand_names
        found = dict(zip((name for name in names if name != "mask"), gradients, strict=True))
        if "sinks" in found:
            found["sinks"] = mx.sum(found["sinks"], axis=0, stream=stream)
            found["sinks"] = found["sinks"].astype(operands[-1].dtype, stream=stream)
        if "mask" in names:
            found["mask"] = self._mask_gradient(operands, factors, stream, cotangents)
        return [found[name] for name in names]

    def _mask_gradient(
        self, operands: Arrays, factors: Factors, stream: StreamOrDevice, cotangents: Arrays
    ) -> mx.array:
        """Return the gradient of a mask, which is lazy and costs nothing if unused."""
        at = self.problem.operand_names.index("mask")
        if self.problem.mask_kind is not MaskKind.ADDITIVE:
            return mx.zeros_like(operands[at])

        wanted = 2 if self.problem.return_lse else 1

        def forward(mask: mx.array) -> list[mx.array]:
            arrays = [*operands]
            arrays[at] = mask
            return _forward_by_mlx(self.problem, arrays, factors, stream)[:wanted]

        wide = [x.astype(mx.float32) for x in cotangents[:wanted]]
        return mx.vjp(forward, [operands[at]], wide)[1][0]

    def jvp(
        self,
        operands: Arrays,
        factors: Factors,
        stream: StreamOrDevice,
        tangents: Sequence[mx.array | None],
    ) -> list[mx.array]:
        """Return a tangent for every output."""
        return tangents_of(partial(self._by_mlx, factors, stream), operands, tangents)

    def vmap(
        self,
        operands: Arrays,
        factors: Factors,
        stream: StreamOrDevice,
        axes: Sequence[int | None],
    ) -> list[mx.array]:
        """Return the outputs for operands with a further axis each."""
        names, count = self.problem.operand_names, mapped_size(operands, axes)
        if _maps_sinks(names, axes):
            return _mapped_by_mlx(partial(self._by_mlx, factors, stream), operands, axes)
        problem, folded = _folded(self.problem, names, operands, axes, count)
        outputs = _forward_run(problem, self.backend, inner_settings())(folded, factors, stream)
        return [_unfolded(x, count) for x in outputs]

    def _by_mlx(
        self, factors: Factors, stream: StreamOrDevice, *operands: mx.array
    ) -> list[mx.array]:
        full = replace(with_row_operands(self.problem), out=FLOAT32)
        out, *rows = fallback.attention(full)(operands, factors, stream)
        return [out.astype(self.problem.out.mlx, stream=stream), *rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class _BackwardRule(ByFormula):
    """Transforms of the gradients of an attention; their derivatives are MLX's."""

    problem: AttentionProblem
    lse_gradient: bool
    backend: Backend | None

    def vmap(
        self,
        operands: Arrays,
        factors: Factors,
        stream: StreamOrDevice,
        axes: Sequence[int | None],
    ) -> list[mx.array]:
        """Return the outputs for operands with a further axis each."""
        count = mapped_size(operands, axes)
        names = _backward_operands(self.problem, self.lse_gradient)
        if _maps_sinks(names, axes):
            return _mapped_by_mlx(self._of_arrays(factors, stream), operands, axes)
        problem, folded = _folded(self.problem, names, operands, axes, count)
        run = _backward_run(problem, LseGradient(self.lse_gradient), self.backend, inner_settings())
        return [_unfolded(x, count) for x in run(folded, factors, stream)]


def _unfolded(value: mx.array, count: int) -> mx.array:
    return mx.reshape(value, (count, -1, *value.shape[1:]))


def _maps_sinks(names: Sequence[str], axes: Sequence[int | None]) -> bool:
    """Whether each step along the mapped axis has sinks of its own, which no batch axis holds."""
    return "sinks" in names and axes[names.index("sinks")] is not None


def _mapped_by_mlx(
    function: Callable[..., list[mx.array]], operands: Arrays, axes: Sequence[int | None]
) -> list[mx.array]:
    return mx.vmap(function, in_axes=tuple(axes))(*operands)


def _folded(
    problem: AttentionProblem,
    names: Sequence[str],
    operands: Arrays,
    axes: Sequence[int | None],
    count: int,
) -> tuple[AttentionProblem, list[mx.array]]:
    """Fold a mapped axis into the batch; return the larger problem and its operands."""
    mask_shape: Shape = problem.mask_shape
    folded: list[mx.array] = []
    for name, x, axis in zip(names, operands, axes, strict=True):
        if name == "mask":
            folded.append(_folded_mask(problem, x, axis, count))
            mask_shape = folded[-1].shape
        elif name == "sinks":
            folded.append(x)
        else:
            every = mapped(x, axis, count)
            folded.append(mx.reshape(every, (count * every.shape[1], *every.shape[2:])))
    rank_four = (mask_shape[0], mask_shape[1], mask_shape[2], mask_shape[3])
    return replace(problem, batch=count * problem.batch, mask_shape=rank_four), folded


def _folded_mask(
    problem: AttentionProblem, mask: mx.array, axis: int | None, count: int
) -> mx.array:
    """Fold the mapped axis of a mask into its batch axis, or leave a mask that all share."""
    if axis is None and problem.mask_shape[0] == 1:
        return mx.reshape(mask, problem.mask_shape)
    every = mx.reshape(mapped(mask, axis, count), (count, *problem.mask_shape))
    rest: Shape = problem.mask_shape[1:]
    full = mx.broadcast_to(every, (count, problem.batch, *rest))
    return mx.reshape(full, (count * problem.batch, *rest))

"""Derivatives and batching of chained attention.

Gradients of q, k and v come from two kernels, which recompute the weights from q, k and the
log-sum-exp that the forward kernel left: nothing of the size of the scores is ever in memory. What
is rarely asked for goes through MLX's own ops and their derivatives: tangents, the gradient of an
additive mask, and second derivatives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import mlx.core as mx

from .. import mlx_route
from ..backends import Backend, StreamOrDevice
from ..backends.launch import Run, kernel_run, operand_names
from ..canary import chosen_plan
from ..dtypes import FLOAT32
from ..errors import IllegalKernelError
from ..plan import Plan
from ..problem import (
    AttentionProblem,
    KeyValueGradientProblem,
    MaskKind,
    QueryGradientProblem,
    Shape,
)
from .transforms import Factors, transformable

Arrays = Sequence[mx.array]


def with_log_sum_exp(problem: AttentionProblem) -> AttentionProblem:
    """Return the problem that a differentiable call solves: its gradients need the log-sum-exp."""
    return replace(problem, return_lse=problem.softmax)


def differentiable_plan(problem: AttentionProblem, plan: Plan, backend: Backend) -> Plan | None:
    """Return the plan, chosen for the problem, of `with_log_sum_exp` of it.

    None, for MLX's own ops, where that text of the kernel is disabled on this machine.
    """
    full = with_log_sum_exp(problem)
    if full == problem:
        return plan
    try:
        return chosen_plan(full, backend, str(plan))
    except IllegalKernelError:
        return None


def differentiable_attention(
    problem: AttentionProblem, plan: Plan, backend: Backend, *, mask_is_scalar: bool
) -> Run:
    """Prepare an attention with its derivatives and its batching.

    With the softmax, the call returns the log-sum-exp whether it was asked for or not.

    Args:
        problem: What is asked.
        plan: Its `differentiable_plan`.
        backend: Where it runs, and its gradients will.
        mask_is_scalar: Whether the mask is an array without axes.
    """
    run = kernel_run(plan, backend, last_is_scalar=mask_is_scalar)
    return transformable(run, _ForwardRule(problem=problem, backend=backend))


@lru_cache(maxsize=1024)
def _forward_run(problem: AttentionProblem, backend: Backend) -> Run:
    full = with_log_sum_exp(problem)
    plan = chosen_plan(full, backend)
    if plan is None:
        return partial(mlx_route.attention, full)
    return differentiable_attention(problem, plan, backend, mask_is_scalar=False)


@lru_cache(maxsize=1024)
def _backward_run(
    problem: AttentionProblem, lse_gradient: bool, mask_is_scalar: bool, backend: Backend
) -> Run:
    """Prepare the gradients of q, k and v.

    The call takes q, k, v, the mask if it is an array, the gradient of the result and, with the
    softmax, that of the log-sum-exp if there is one, the result and the log-sum-exp.
    """
    query = chosen_plan(QueryGradientProblem(attention=problem, lse_gradient=lse_gradient), backend)
    key_value = chosen_plan(KeyValueGradientProblem(attention=problem), backend)
    by_mlx = partial(_gradients_by_mlx, problem, lse_gradient)
    if query is None or key_value is None:
        return by_mlx
    names = _backward_operands(problem, lse_gradient)
    fused = _FusedBackward(
        names=names,
        query_names=operand_names(query),
        key_value_names=operand_names(key_value),
        query=kernel_run(query, backend, last_is_scalar=mask_is_scalar and _ends_in_mask(query)),
        key_value=kernel_run(
            key_value, backend, last_is_scalar=mask_is_scalar and _ends_in_mask(key_value)
        ),
    )
    rule = _BackwardRule(
        problem=problem, lse_gradient=lse_gradient, backend=backend, formula=by_mlx
    )
    return transformable(fused, rule)


def _ends_in_mask(plan: Plan) -> bool:
    return operand_names(plan)[-1] == "mask"


def _backward_operands(problem: AttentionProblem, lse_gradient: bool) -> tuple[str, ...]:
    mask = ("mask",) if problem.mask else ()
    lse_grad = ("lse_grad",) if lse_gradient else ()
    rows = ("result", "lse") if problem.softmax else ()
    return ("q", "k", "v", *mask, "grad", *lse_grad, *rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class _FusedBackward:
    """The two kernels, ready to run."""

    names: tuple[str, ...]
    query_names: tuple[str, ...]
    key_value_names: tuple[str, ...]
    query: Run
    key_value: Run

    def __call__(
        self, operands: Arrays, factors: Factors, stream: StreamOrDevice
    ) -> list[mx.array]:
        arrays = dict(zip(self.names, operands, strict=True))
        q_gradient, *delta = self.query([arrays[x] for x in self.query_names], factors, stream)
        arrays.update(zip(("delta",), delta, strict=False))
        gradients = self.key_value([arrays[x] for x in self.key_value_names], factors, stream)
        return [q_gradient, *gradients]


def _forward_by_mlx(
    problem: AttentionProblem, operands: Arrays, factors: Factors, stream: StreamOrDevice
) -> list[mx.array]:
    """Return the result in float32, and the log-sum-exp, by ops that MLX differentiates."""
    full = replace(with_log_sum_exp(problem), out=FLOAT32)
    return mlx_route.attention(full, operands, factors, stream)


def _gradients_by_mlx(
    problem: AttentionProblem,
    lse_gradient: bool,
    operands: Arrays,
    factors: Factors,
    stream: StreamOrDevice,
) -> list[mx.array]:
    arrays = dict(zip(_backward_operands(problem, lse_gradient), operands, strict=True))
    mask = [arrays["mask"]] if problem.mask else []
    cotangents = [arrays["grad"].astype(mx.float32)]
    if problem.softmax:
        cotangents.append(arrays["lse_grad"] if lse_gradient else mx.zeros(problem.lse_shape))

    def forward(q: mx.array, k: mx.array, v: mx.array) -> list[mx.array]:
        return _forward_by_mlx(problem, (q, k, v, *mask), factors, stream)

    return _vjp(forward, operands[:3], cotangents)


def _vjp(
    function: Callable[..., list[mx.array]], primals: Arrays, cotangents: Arrays
) -> list[mx.array]:
    return mx.vjp(function, [*primals], [*cotangents])[1]


def _jvp(
    function: Callable[..., list[mx.array]], primals: Arrays, tangents: Sequence[mx.array | None]
) -> list[mx.array]:
    """Return tangents; what has none is constant, and MLX need not know how to differentiate it."""
    moving = [i for i, tangent in enumerate(tangents) if tangent is not None]

    def of_moving(*values: mx.array) -> list[mx.array]:
        arrays = [*primals]
        for i, value in zip(moving, values, strict=True):
            arrays[i] = value
        return function(*arrays)

    given = [tangent for tangent in tangents if tangent is not None]
    return mx.jvp(of_moving, [primals[i] for i in moving], given)[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class _ForwardRule:
    """Transforms of an attention."""

    problem: AttentionProblem
    backend: Backend

    def vjp(
        self,
        operands: Arrays,
        factors: Factors,
        stream: StreamOrDevice,
        cotangents: Arrays,
        outputs: Arrays,
    ) -> list[mx.array]:
        mask_is_scalar = len(operands) > 3 and operands[3].ndim == 0
        lse_gradient = self.problem.return_lse
        given = cotangents if lse_gradient else cotangents[:1]
        rows = outputs if self.problem.softmax else ()
        run = _backward_run(self.problem, lse_gradient, mask_is_scalar, self.backend)
        gradients = run((*operands, *given, *rows), factors, stream)
        return [*gradients, *self._mask_gradients(operands, factors, stream, cotangents)]

    def _mask_gradients(
        self, operands: Arrays, factors: Factors, stream: StreamOrDevice, cotangents: Arrays
    ) -> list[mx.array]:
        """Return the gradient of an additive mask, which is lazy and costs nothing if unused."""
        if len(operands) < 4:
            return []
        if self.problem.mask_kind is not MaskKind.ADDITIVE:
            return [mx.zeros_like(operands[3])]

        def forward(mask: mx.array) -> list[mx.array]:
            return _forward_by_mlx(self.problem, (*operands[:3], mask), factors, stream)

        wide = [x.astype(mx.float32) for x in cotangents]
        return _vjp(forward, operands[3:], wide)

    def jvp(
        self,
        operands: Arrays,
        factors: Factors,
        stream: StreamOrDevice,
        tangents: Sequence[mx.array | None],
    ) -> list[mx.array]:
        def forward(*arrays: mx.array) -> list[mx.array]:
            return _forward_by_mlx(self.problem, arrays, factors, stream)

        out, *lse = _jvp(forward, operands, tangents)
        return [out.astype(self.problem.out.mlx), *lse]

    def vmap(
        self,
        operands: Arrays,
        factors: Factors,
        stream: StreamOrDevice,
        axes: Sequence[int | None],
    ) -> list[mx.array]:
        count = _mapped_size(operands, axes)
        problem, folded = _folded(self.problem, operands, axes, count, mask_at=3)
        outputs = _forward_run(problem, self.backend)(folded, factors, stream)
        return [_unfolded(x, count) for x in outputs]


@dataclass(frozen=True, slots=True, kw_only=True)
class _BackwardRule:
    """Transforms of the gradients of an attention; their derivatives are MLX's."""

    problem: AttentionProblem
    lse_gradient: bool
    backend: Backend
    formula: Run

    def vjp(
        self,
        operands: Arrays,
        factors: Factors,
        stream: StreamOrDevice,
        cotangents: Arrays,
        outputs: Arrays,
    ) -> list[mx.array]:
        moving = [i for i, x in enumerate(operands) if x.dtype != mx.bool_]

        def gradients(*values: mx.array) -> list[mx.array]:
            arrays = [*operands]
            for i, value in zip(moving, values, strict=True):
                arrays[i] = value
            return self.formula(arrays, factors, stream)

        found = dict(
            zip(moving, _vjp(gradients, [operands[i] for i in moving], cotangents), strict=True)
        )
        return [found.get(i, mx.zeros_like(x)) for i, x in enumerate(operands)]

    def jvp(
        self,
        operands: Arrays,
        factors: Factors,
        stream: StreamOrDevice,
        tangents: Sequence[mx.array | None],
    ) -> list[mx.array]:
        def gradients(*arrays: mx.array) -> list[mx.array]:
            return self.formula(arrays, factors, stream)

        return _jvp(gradients, operands, tangents)

    def vmap(
        self,
        operands: Arrays,
        factors: Factors,
        stream: StreamOrDevice,
        axes: Sequence[int | None],
    ) -> list[mx.array]:
        count = _mapped_size(operands, axes)
        mask_at = 3 if self.problem.mask else None
        problem, folded = _folded(self.problem, operands, axes, count, mask_at=mask_at)
        run = _backward_run(problem, self.lse_gradient, False, self.backend)
        return [_unfolded(x, count) for x in run(folded, factors, stream)]


def _mapped_size(operands: Arrays, axes: Sequence[int | None]) -> int:
    return next(x.shape[a] for x, a in zip(operands, axes, strict=True) if a is not None)


def _unfolded(value: mx.array, count: int) -> mx.array:
    return mx.reshape(value, (count, -1, *value.shape[1:]))


def _folded(
    problem: AttentionProblem,
    operands: Arrays,
    axes: Sequence[int | None],
    count: int,
    *,
    mask_at: int | None,
) -> tuple[AttentionProblem, list[mx.array]]:
    """Fold a mapped axis into the batch; return the larger problem and its operands."""
    mask_shape: Shape = problem.mask_shape
    folded: list[mx.array] = []
    for i, (x, axis) in enumerate(zip(operands, axes, strict=True)):
        if i == mask_at:
            folded.append(_folded_mask(problem, x, axis, count))
            mask_shape = folded[-1].shape
        else:
            every = _mapped(x, axis, count)
            folded.append(mx.reshape(every, (count * every.shape[1], *every.shape[2:])))
    rank_four = (mask_shape[0], mask_shape[1], mask_shape[2], mask_shape[3])
    return replace(problem, batch=count * problem.batch, mask_shape=rank_four), folded


def _folded_mask(
    problem: AttentionProblem, mask: mx.array, axis: int | None, count: int
) -> mx.array:
    """Fold the mapped axis of a mask into its batch axis, or leave a mask that all share."""
    if axis is None and problem.mask_shape[0] == 1:
        return mx.reshape(mask, problem.mask_shape)
    every = mx.reshape(_mapped(mask, axis, count), (count, *problem.mask_shape))
    rest: Shape = problem.mask_shape[1:]
    full = mx.broadcast_to(every, (count, problem.batch, *rest))
    return mx.reshape(full, (count * problem.batch, *rest))


def _mapped(value: mx.array, axis: int | None, count: int) -> mx.array:
    if axis is None:
        return mx.broadcast_to(value, (count, *value.shape))
    return mx.moveaxis(value, axis, 0)

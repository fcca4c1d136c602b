"""Batching of calls: `mx.vmap` for functions that call kernels.

MLX batches what is inside a custom function too, and refuses kernels there; and nothing in MLX
tells a call that it is being batched, not compiled. So `vmap` says so. Calls are then nodes without
a kernel: of a custom function that makes nothing of its operands, and whose rule for batching is
that of the op. One further operand is mapped in every call, so that the rule always runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from ..backends import StreamOrDevice
from ..core.context import using
from ..core.problem import Factors
from ..core.tracing import is_shapeless
from ..errors import ProblemError
from .transforms import custom_calls

if TYPE_CHECKING:
    from ..core.family import Rule, Run
    from ..core.operand import Operand

Arrays = Sequence[mx.array]

_token: ContextVar[mx.array] = ContextVar("mlx_tilegemm_token")


def vmap(
    function: Callable[..., Any],
    in_axes: Any = 0,  # noqa: ANN401 - a tree, as `mx.vmap` takes it
    out_axes: Any = 0,  # noqa: ANN401
) -> Callable[..., Any]:
    """Return a function that maps ``function`` over an axis, as `mx.vmap` does, kernels included.

    Each call of an op in ``function`` becomes one call for all of the axis. Transforms nest, inside
    and outside, and so does `vmap`.

    Args:
        function: Takes and returns arrays, in lists, tuples and dictionaries too.
        in_axes: The axis of each positional argument, or one for all; None for what is not mapped.
        out_axes: The axis of each result, or one for all.

    Raises:
        ProblemError: Nothing is mapped (a `ValueError`).

    Example:
        >>> x = mx.random.normal((6, 5, 300)).astype(mx.float16)
        >>> vmap(lambda x: matmul(x, w, transpose_b=True))(x).shape
        (6, 5, 70)
    """

    def body(token: mx.array, *arguments: Any) -> Any:  # noqa: ANN401
        marked = _token.set(token)
        try:
            with using(batched=True):
                return function(*arguments)
        finally:
            _token.reset(marked)

    def mapped(*arguments: Any) -> Any:  # noqa: ANN401
        axes = tuple(in_axes) if isinstance(in_axes, (list, tuple)) else (in_axes,) * len(arguments)
        count = _mapped_size(arguments, axes)
        if count is None:
            raise ProblemError(
                f"[vmap] Expected an argument with a mapped axis, got in_axes {in_axes} for "
                f"{len(arguments)} arguments."
            )
        call = mx.vmap(body, in_axes=(0, *axes), out_axes=out_axes)
        return call(mx.zeros((count,)), *arguments)

    return mapped


def _mapped_size(argument: Any, axes: Any) -> int | None:  # noqa: ANN401
    """Return the size of a mapped axis of an argument, if it has one."""
    if isinstance(argument, mx.array):
        return _axis_size(argument, axes) if isinstance(axes, int) else None
    if isinstance(argument, dict):
        places: Sequence[Any] = tuple(argument)
    else:
        places = range(len(argument)) if isinstance(argument, (list, tuple)) else ()
    is_one = axes is None or isinstance(axes, int)
    sizes = (_mapped_size(argument[at], axes if is_one else axes[at]) for at in places)
    return next((size for size in sizes if size is not None), None)


def _axis_size(array: mx.array, axis: int) -> int:
    # MLX then refuses an axis that an array lacks.
    return array.shape[axis] if -array.ndim <= axis < array.ndim else 1


def batched_call(
    results: Sequence[Operand], rule: Rule, again: Callable[[], Run], anysize: Run
) -> Run:
    """Return the call of an op inside of `vmap`.

    Args:
        results: What it returns.
        rule: Its derivatives and its batching.
        again: Prepares the call outside, for operands of which none is mapped.
        anysize: The call where MLX compiles for arrays of any size, which MLX maps by itself.
    """
    shapes = [(one.stored_shape, one.mlx) for one in results]

    def placeholders(_: Arrays, factors: Factors, stream: StreamOrDevice) -> list[mx.array]:
        return [mx.zeros(shape, dtype=dtype, stream=stream) for shape, dtype in shapes]

    run = custom_calls(placeholders, _Batched(rule=rule, again=again))

    def call(operands: Arrays, factors: Factors, stream: StreamOrDevice) -> list[mx.array]:
        if is_shapeless():
            return anysize(operands, factors, stream)
        return run((_token.get(), *operands), factors, stream)

    return call


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batched:
    """Transforms of a call whose first operand is there to be mapped."""

    rule: Rule
    again: Callable[[], Run]

    def vjp(
        self,
        operands: Arrays,
        factors: Factors,
        stream: StreamOrDevice,
        cotangents: Arrays,
        outputs: Arrays,
    ) -> list[mx.array]:
        """Return a gradient for every operand."""
        found = self.rule.vjp(operands[1:], factors, stream, cotangents, outputs)
        return [mx.zeros_like(operands[0]), *found]

    def jvp(
        self,
        operands: Arrays,
        factors: Factors,
        stream: StreamOrDevice,
        tangents: Sequence[mx.array | None],
    ) -> list[mx.array]:
        """Return a tangent for every output."""
        return self.rule.jvp(operands[1:], factors, stream, tangents[1:])

    def vmap(
        self,
        operands: Arrays,
        factors: Factors,
        stream: StreamOrDevice,
        axes: Sequence[int | None],
    ) -> list[mx.array]:
        """Return the outputs for operands with a further axis each."""
        if any(axis is not None for axis in axes[1:]):
            return self.rule.vmap(operands[1:], factors, stream, axes[1:])
        count = operands[0].size
        outputs = self.again()(operands[1:], factors, stream)
        return [mx.broadcast_to(x, (count, *x.shape), stream=stream) for x in outputs]

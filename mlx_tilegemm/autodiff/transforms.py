"""Give a prepared call its derivatives and its batching."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Protocol, cast

import mlx.core as mx

from ..arguments import Number
from ..backends import StreamOrDevice
from ..backends.launch import Run
from ..problem import Shape

Factors = tuple[Number, ...]

_enabled: ContextVar[bool] = ContextVar("mlx_tilegemm_gradients", default=True)


def use_gradients(enabled: bool) -> AbstractContextManager[None]:
    """Choose whether calls inside a ``with`` block carry their derivatives.

    They do by default. Without, a call on a kernel can be neither differentiated nor passed
    through `mx.vmap`, but `mx.export_function` takes it, which MLX's own custom functions refuse,
    and the call costs a few microseconds less. The choice belongs to the running thread or
    asynchronous task; blocks nest, the innermost wins.

    Args:
        enabled: Whether calls carry their derivatives.

    Example:
        >>> with use_gradients(False):
        ...     y = matmul(a, b)
    """
    return _enabling(bool(enabled))


@contextmanager
def _enabling(enabled: bool) -> Iterator[None]:
    token = _enabled.set(enabled)
    try:
        yield
    finally:
        _enabled.reset(token)


def gradients_enabled() -> bool:
    """Return whether calls made here and now carry their derivatives."""
    return _enabled.get()


class Rule(Protocol):
    """The derivatives and the batching of a call with given shapes and options."""

    def vjp(
        self,
        operands: Sequence[mx.array],
        factors: Factors,
        stream: StreamOrDevice,
        cotangents: Sequence[mx.array],
        outputs: Sequence[mx.array],
    ) -> list[mx.array]:
        """Return a gradient for every operand."""

    def jvp(
        self,
        operands: Sequence[mx.array],
        factors: Factors,
        stream: StreamOrDevice,
        tangents: Sequence[mx.array | None],
    ) -> list[mx.array]:
        """Return a tangent for every output; an operand that is constant has tangent None."""

    def vmap(
        self,
        operands: Sequence[mx.array],
        factors: Factors,
        stream: StreamOrDevice,
        axes: Sequence[int | None],
    ) -> list[mx.array]:
        """Return the outputs for operands with a further axis each (None: without), at axis 0."""


def transformable(run: Run, rule: Rule) -> Run:
    """Return the prepared call ``run``, transformed by MLX as ``rule`` says."""

    # Factors and stream pass through MLX as arguments that are no arrays, so that one function
    # serves every value of them.
    def forward(*arguments: object) -> list[mx.array]:
        operands, factors, stream = _split(arguments)
        # MLX differentiates what is inside a custom function too, unless it is stopped.
        return run([mx.stop_gradient(x, stream=stream) for x in operands], factors, stream)

    def vjp(
        primals: Sequence[object], cotangents: list[mx.array], outputs: list[mx.array]
    ) -> list[mx.array | None]:
        operands, factors, stream = _split(primals)
        with on(stream):
            return [*rule.vjp(operands, factors, stream, cotangents, outputs), None, None]

    def jvp(primals: Sequence[object], tangents: Sequence[mx.array | None]) -> list[mx.array]:
        operands, factors, stream = _split(primals)
        with on(stream):
            return rule.jvp(operands, factors, stream, tangents[: len(operands)])

    def vmap(
        inputs: Sequence[object], axes: Sequence[int | None]
    ) -> tuple[list[mx.array], list[int]]:
        operands, factors, stream = _split(inputs)
        with on(stream):
            outputs = rule.vmap(operands, factors, stream, axes[: len(operands)])
        return outputs, [0] * len(outputs)

    function = mx.custom_function(forward)
    function.vjp(vjp)
    function.jvp(jvp)
    function.vmap(vmap)

    def call(
        operands: Sequence[mx.array], factors: Factors, stream: StreamOrDevice
    ) -> list[mx.array]:
        return cast(list[mx.array], function(*operands, factors, stream))

    return call


def _split(arguments: Sequence[object]) -> tuple[list[mx.array], Factors, StreamOrDevice]:
    *operands, factors, stream = arguments
    return (
        cast(list[mx.array], operands),
        cast(Factors, factors),
        cast(StreamOrDevice, stream),
    )


def on(stream: StreamOrDevice) -> AbstractContextManager[object]:
    """Make MLX's ops of a ``with`` block run on ``stream``; None changes nothing."""
    return nullcontext() if stream is None else mx.stream(stream)


def sum_to(value: mx.array, shape: Shape) -> mx.array:
    """Sum ``value`` over the axes along which ``shape`` was broadcast to its own."""
    padded = (1,) * (value.ndim - len(shape)) + shape
    axes = [i for i, (x, y) in enumerate(zip(value.shape, padded, strict=True)) if x != y]
    return mx.reshape(mx.sum(value, axis=axes) if axes else value, shape)


def fold_mapped(value: mx.array, axis: int | None, shape: Callable[[Shape], Shape]) -> mx.array:
    """Bring a mapped axis to the front and give the others the shape ``shape`` makes of theirs."""
    if axis is None:
        return mx.reshape(value, shape(value.shape))
    moved = mx.moveaxis(value, axis, 0)
    return mx.reshape(moved, (moved.shape[0], *shape(moved.shape[1:])))

"""Give a prepared call its derivatives and its batching."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache, partial
from typing import TYPE_CHECKING, NoReturn, cast

import mlx.core as mx

from ..backends import StreamOrDevice
from ..core.arguments import as_number
from ..core.dtypes import mlx_name
from ..core.fast_path import DirectRun, every_of, undirected
from ..core.problem import Factors, Number
from ..core.shapes import Shape
from ..core.tracing import is_traced, keeping_graphs, probes
from ..errors import BackendError, DTypeError, ProblemError

if TYPE_CHECKING:
    from ..core.family import Rule, Run


def transformable(run: Run, rule: Rule | None, anysize: Run | None = None) -> Run:
    """Return the prepared call ``run``, transformed by MLX as ``rule`` says.

    Where nothing is being transformed it is ``run`` itself: the detour takes longer than the rest.

    Args:
        run: The call.
        rule: Its derivatives and its batching; None for those of ``run``.
        anysize: The call where MLX compiles for arrays of any size; None for ``run``.
    """
    traced, shapeless = probes()
    launched = undirected(run)

    @lru_cache(maxsize=64)
    def function(factors: Factors, stream: StreamOrDevice) -> Callable[..., list[mx.array]]:
        assert rule is not None
        return _custom_function(launched, rule, factors, stream)

    def followed(
        operands: Sequence[mx.array], factors: Factors, stream: StreamOrDevice
    ) -> list[mx.array]:
        if anysize is not None and shapeless():
            return anysize(operands, factors, stream)
        if rule is None:
            return launched(operands, factors, stream)
        return function(factors, stream)(*operands)

    def call(
        operands: Sequence[mx.array], factors: Factors, stream: StreamOrDevice
    ) -> list[mx.array]:
        if traced():
            return followed(operands, factors, stream)
        return launched(operands, factors, stream)

    def every(factors: Factors, count: int) -> Callable[..., list[mx.array]]:
        launch = every_of(run, factors, count)

        def direct(*operands: mx.array) -> list[mx.array]:
            if traced():
                return followed(operands[:count], factors, None)
            return launch(*operands)

        return direct

    def first(factors: Factors, count: int) -> Callable[..., mx.array]:
        launch = every_of(run, factors, count)

        def direct(*operands: mx.array) -> mx.array:
            if traced():
                return followed(operands[:count], factors, None)[0]
            return launch(*operands)[0]

        return direct

    return DirectRun(call, every=every, first=first)


def custom_calls(run: Run, rule: Rule) -> Run:
    """Return the call ``run`` with the derivatives and the batching of ``rule`` wherever it is."""

    @lru_cache(maxsize=64)
    def function(factors: Factors, stream: StreamOrDevice) -> Callable[..., list[mx.array]]:
        return _custom_function(run, rule, factors, stream)

    def call(
        operands: Sequence[mx.array], factors: Factors, stream: StreamOrDevice
    ) -> list[mx.array]:
        return function(factors, stream)(*operands)

    return call


def refusing_shapeless(op: str) -> Run:
    """Return the call of a kernel, which is launched for one size, where sizes may change."""

    def call(
        operands: Sequence[mx.array], factors: Factors, stream: StreamOrDevice
    ) -> list[mx.array]:
        raise BackendError(
            f"[{op}] Expected sizes that stay, got those of mx.compile(shapeless=True): a kernel "
            'is launched for one size. Call the op inside `with use_backend("mlx"):`.'
        )

    return call


def evaluating(run: Run) -> Run:
    """Return the call ``run`` of a backend that evaluates its operands, for use in transforms."""

    def call(
        operands: Sequence[mx.array], factors: Factors, stream: StreamOrDevice
    ) -> list[mx.array]:
        if is_traced():
            return keeping_graphs(partial(run, operands, factors, stream))
        return run(operands, factors, stream)

    return call


def _custom_function(
    run: Run, rule: Rule, factors: Factors, stream: StreamOrDevice
) -> Callable[..., list[mx.array]]:
    stop = mx.stop_gradient

    def forward(*operands: mx.array) -> list[mx.array]:
        # MLX differentiates what is inside a custom function too, unless it is stopped.
        return run([stop(x, stream=stream) for x in operands], factors, stream)

    def forward_on_default(*operands: mx.array) -> list[mx.array]:
        return run([*map(stop, operands)], factors, None)

    def vjp(
        primals: Sequence[mx.array],
        cotangents: Sequence[mx.array],
        outputs: Sequence[mx.array],
    ) -> list[mx.array]:
        with on(stream):
            return rule.vjp(primals, factors, stream, cotangents, outputs)

    def jvp(primals: Sequence[mx.array], tangents: Sequence[mx.array | None]) -> list[mx.array]:
        with on(stream):
            return rule.jvp(primals, factors, stream, tangents)

    def vmap(
        operands: Sequence[mx.array], axes: Sequence[int | None]
    ) -> tuple[list[mx.array], list[int]]:
        with on(stream):
            outputs = rule.vmap(operands, factors, stream, axes)
        return outputs, [0] * len(outputs)

    function = mx.custom_function(forward_on_default if stream is None else forward)
    function.vjp(vjp)
    function.jvp(jvp)
    function.vmap(vmap)

    def guarded(*operands: mx.array) -> list[mx.array]:
        return cast(list[mx.array], function(*_guarded(operands)))

    return guarded


def _guarded(operands: Sequence[mx.array]) -> Sequence[mx.array]:
    """Return operands with codes and indices, integers beside floats, whose gradient is refused."""
    integral = [mx.issubdtype(x.dtype, mx.integer) for x in operands]
    if not any(integral) or all(integral):
        return operands
    return [
        _without_gradient()(x) if is_integral else x
        for x, is_integral in zip(operands, integral, strict=True)
    ]


@lru_cache(maxsize=1)
def _without_gradient() -> Callable[[mx.array], mx.array]:
    def refuse(primal: mx.array, cotangent: mx.array, output: mx.array) -> NoReturn:
        raise ProblemError(
            f"[vjp] Expected no gradient with respect to codes or indices, got one of "
            f"{mlx_name(primal.dtype)}: apply mx.stop_gradient to what they are computed from."
        )

    identity = mx.custom_function(lambda x: x)
    identity.vjp(refuse)
    return cast(Callable[[mx.array], mx.array], identity)


def as_factor(
    op: str, name: str, value: object, operands: Sequence[mx.array]
) -> tuple[Number, list[mx.array]]:
    """Return a factor that is a number, and the operands that it multiplies.

    An array that MLX may follow has derivatives of its own, so that it goes into the operands, in
    float32, and 1 is left.

    Raises:
        DTypeError: No real number, or no array of one.
        ProblemError: A number that no float64 holds.
    """
    if not (isinstance(value, mx.array) and value.size == 1 and is_traced()):
        return as_number(op, name, value), [*operands]
    if not all(mx.issubdtype(x.dtype, mx.floating) for x in (value, *operands)):
        raise DTypeError(
            f"[{op}] Expected {name} to be a number while MLX follows a function, or everything to "
            f"be floating point, got an array of {mlx_name(value.dtype)} and operands of "
            f"{', '.join(mlx_name(x.dtype) for x in operands)}."
        )
    factor = mx.reshape(value, ()).astype(mx.float32)
    return 1.0, [x.astype(mx.float32) * factor for x in operands]


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


def bring_forward(
    names: Sequence[str], operands: Sequence[mx.array], axes: Sequence[int | None]
) -> tuple[dict[str, mx.array], set[str], int]:
    """Return operands by name with mapped axes at the front, which have one, and its length."""
    given = {
        name: x if axis is None else mx.moveaxis(x, axis, 0)
        for name, x, axis in zip(names, operands, axes, strict=True)
    }
    mapped = {name for name, axis in zip(names, axes, strict=True) if axis is not None}
    return given, mapped, next(given[name].shape[0] for name in mapped)

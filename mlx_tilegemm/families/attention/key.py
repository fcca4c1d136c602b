"""Key of a prepared attention, and the call prepared for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, NewType

import mlx.core as mx

from ...backends import Backend, StreamOrDevice
from ...core.arguments import ArraySpec, Stated
from ...core.caches import prepared
from ...core.context import Settings
from ...core.problem import Factors
from ...core.shapes import Shape
from ...core.tracing import is_shapeless
from ...errors import BackendError, DTypeError, ProblemError

if TYPE_CHECKING:
    from ...core.family import Run

OP = "attention_chain"

Extras = tuple[tuple[str, Shape, mx.Dtype], ...]
"""Names, shapes and dtypes of q_pe, k_pe, an array mask and sinks, as far as they are given."""

# All flags but the first have types of their own, so that no two can be swapped unnoticed.
ReturnLse = NewType("ReturnLse", bool)
WITHOUT_LSE, WITH_LSE = ReturnLse(False), ReturnLse(True)
Exact = NewType("Exact", bool)
REDUCED, EXACT = Exact(False), Exact(True)


@prepared
def attention_call(
    q_shape: Shape,
    q_dtype: mx.Dtype,
    k_shape: Shape,
    k_dtype: mx.Dtype,
    v_shape: Shape,
    v_dtype: mx.Dtype,
    extras: Extras,
    mask_name: str | None,
    window: int | None,
    softmax: bool,
    return_lse: ReturnLse,
    out_dtype: mx.Dtype | None,
    exact: Exact,
    backend: Backend | None,
    settings: Settings,
) -> tuple[Run, Factors]:
    """Return the call that serves an attention, and the factors of one that no scale is given."""
    # Imported at the first call: kernels and chips are most of what importing the package costs.
    from ...call.prepare import prepare
    from .request import attention_request, taken

    given = {
        "q": _spec(q_shape, q_dtype),
        "k": _spec(k_shape, k_dtype),
        "v": _spec(v_shape, v_dtype),
    }
    given |= {name: _spec(shape, dtype) for name, shape, dtype in extras}
    problem = attention_request(
        OP,
        q=given["q"],
        k=given["k"],
        v=given["v"],
        softmax=softmax,
        mask=given.get("mask", mask_name),
        window=window,
        sinks=given.get("sinks"),
        q_pe=given.get("q_pe"),
        k_pe=given.get("k_pe"),
        return_lse=return_lse,
        out_dtype=out_dtype,
        exact=exact,
    )
    run = prepare(OP, problem, backend, force=settings.kernel, gradients=settings.gradients)
    if window is not None and problem.window is None:
        run = _refusing_shapeless(run)
    kernels_have = taken(given)
    made = run if kernels_have == given else _making(run, kernels_have)
    return made, (_default_scale(given, softmax),)


class AnyLengthKey(NamedTuple):
    """What few queries ask for with any keys that are alike: k and v are those of the most."""

    q: Stated
    k: Stated
    v: Stated
    mask_name: str | None
    scale: float | None
    exact: Exact
    backend: Backend | None
    settings: Settings


@prepared
def any_length_call(key: AnyLengthKey) -> Callable[..., mx.array] | None:
    """Return the call of MLX's op that serves few queries with any keys that are alike, or None.

    Kernels are launched for so many keys; MLX's op, on a GPU, is given nothing but the arrays.
    Nobody records the call or stands in for it.
    """
    from ...call.prepare import Server, prepare_told
    from .fallback import of_any_length
    from .request import attention_request, taken

    given = {"q": _spec(*key.q), "k": _spec(*key.k), "v": _spec(*key.v)}
    try:
        q, k, v = given.values()
        problem = attention_request(OP, q=q, k=k, v=v, mask=key.mask_name, exact=key.exact)
    except (ProblemError, DTypeError):
        # To be refused with its own number of keys.
        return None
    force, gradients = key.settings.kernel, key.settings.gradients
    told = prepare_told(OP, problem, key.backend, force=force, gradients=gradients)
    if told.server is not Server.MLX or taken(given) != given:
        return None

    def of_these(
        operands: Sequence[mx.array], factors: Factors, stream: StreamOrDevice
    ) -> list[mx.array]:
        q, k, v = operands
        run, _ = attention_call(
            q.shape,
            q.dtype,
            k.shape,
            k.dtype,
            v.shape,
            v.dtype,
            (),
            key.mask_name,
            None,
            True,
            WITHOUT_LSE,
            None,
            key.exact,
            key.backend,
            key.settings,
        )
        return run(operands, factors, stream)

    factors = (_default_scale(given, softmax=True) if key.scale is None else key.scale,)
    return of_any_length(problem, of_these, factors)


def _spec(shape: Shape, dtype: mx.Dtype) -> ArraySpec:
    return ArraySpec(shape=shape, dtype=dtype)


def _default_scale(given: Mapping[str, ArraySpec], softmax: bool) -> float:
    depth: int = sum(given[name].shape[3] for name in ("q", "q_pe") if name in given)
    return depth**-0.5 if softmax and depth else 1.0


def _making(run: Run, kernels_have: Mapping[str, ArraySpec]) -> Run:
    """Return the call ``run`` for operands of other dtypes, or without elements."""
    specs = tuple(kernels_have.values())

    def call(
        operands: Sequence[mx.array], factors: Factors, stream: StreamOrDevice
    ) -> list[mx.array]:
        made = [
            _made(x, spec, stream) if x.dtype != spec.dtype or x.shape != spec.shape else x
            for x, spec in zip(operands, specs, strict=True)
        ]
        return run(made, factors, stream)

    return call


def _made(x: mx.array, spec: ArraySpec, stream: StreamOrDevice) -> mx.array:
    if x.shape[-1:] == (0,) and spec.shape[-1:] == (1,):
        x = mx.pad(x, [*[(0, 0)] * (x.ndim - 1), (0, 1)], stream=stream)
    return x.astype(spec.dtype, stream=stream)


def _refusing_shapeless(run: Run) -> Run:
    """Return the call ``run`` whose window is as long as the keys are, for these sizes alone."""

    def call(
        operands: Sequence[mx.array], factors: Factors, stream: StreamOrDevice
    ) -> list[mx.array]:
        if is_shapeless():
            raise BackendError(
                f"[{OP}] Expected a window shorter than the keys while mx.compile(shapeless=True) "
                "traces, got one that hides none of those it traces with."
            )
        return run(operands, factors, stream)

    return call

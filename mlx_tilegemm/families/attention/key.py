"""Key of a prepared attention, and the call prepared for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NewType

import mlx.core as mx

from ...backends import Backend
from ...core.caches import prepared
from ...core.context import Settings
from ...core.shapes import Shape

if TYPE_CHECKING:
    from ...core.family import Run

OP = "attention_chain"

Extras = tuple[tuple[str, Shape, mx.Dtype], ...]
"""Names, shapes and dtypes of q_pe, k_pe, an array mask and sinks, as far as they are given."""

# All flags but the first have types of their own, so that no two can be swapped unnoticed.
ReturnLse = NewType("ReturnLse", bool)


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
    backend: Backend | None,
    settings: Settings,
) -> Run:
    """Return the call that serves an attention of these shapes, dtypes and options."""
    # Imported at the first call: kernels and chips are most of what importing the package costs.
    from ...call.prepare import prepare
    from ...core.arguments import ArraySpec
    from .request import attention_request

    given = {name: ArraySpec(shape=shape, dtype=dtype) for name, shape, dtype in extras}
    problem = attention_request(
        OP,
        q=ArraySpec(shape=q_shape, dtype=q_dtype),
        k=ArraySpec(shape=k_shape, dtype=k_dtype),
        v=ArraySpec(shape=v_shape, dtype=v_dtype),
        softmax=softmax,
        mask=given.get("mask", mask_name),
        window=window,
        sinks=given.get("sinks"),
        q_pe=given.get("q_pe"),
        k_pe=given.get("k_pe"),
        return_lse=return_lse,
        out_dtype=out_dtype,
    )
    return prepare(OP, problem, backend, force=settings.kernel, gradients=settings.gradients)

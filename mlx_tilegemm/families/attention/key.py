"""Key of a prepared attention, and the call prepared for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, NewType

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

# Flags have types of their own, so that two of them cannot be swapped unnoticed.
Softmax = NewType("Softmax", bool)
ReturnLse = NewType("ReturnLse", bool)


class AttentionKey(NamedTuple):
    """What an attention's call is prepared from."""

    q_shape: Shape
    q_dtype: mx.Dtype
    k_shape: Shape
    k_dtype: mx.Dtype
    v_shape: Shape
    v_dtype: mx.Dtype
    extras: Extras
    mask_name: str | None
    window: int | None
    softmax: Softmax
    return_lse: ReturnLse
    out_dtype: mx.Dtype | None
    backend: Backend | None
    settings: Settings


@prepared
def attention_call(key: AttentionKey) -> Run:
    """Return the call that serves an attention of these shapes, dtypes and options."""
    # Imported at the first call: kernels and chips are most of what importing the package costs.
    from ...call.prepare import prepare
    from ...core.arguments import ArraySpec
    from .request import attention_request

    given = {name: ArraySpec(shape=shape, dtype=dtype) for name, shape, dtype in key.extras}
    problem = attention_request(
        OP,
        q=ArraySpec(shape=key.q_shape, dtype=key.q_dtype),
        k=ArraySpec(shape=key.k_shape, dtype=key.k_dtype),
        v=ArraySpec(shape=key.v_shape, dtype=key.v_dtype),
        softmax=key.softmax,
        mask=given.get("mask", key.mask_name),
        window=key.window,
        sinks=given.get("sinks"),
        q_pe=given.get("q_pe"),
        k_pe=given.get("k_pe"),
        return_lse=key.return_lse,
        out_dtype=key.out_dtype,
    )
    settings = key.settings
    return prepare(OP, problem, key.backend, force=settings.kernel, gradients=settings.gradients)

"""Key of a prepared product, and the call prepared for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, NewType

import mlx.core as mx

from ...backends import Backend
from ...core.caches import prepared
from ...core.context import Settings
from ...core.shapes import Shape

if TYPE_CHECKING:
    from ...core.family import Run

# Flags have types of their own, so that two of them cannot be swapped unnoticed.
TransposeA = NewType("TransposeA", bool)
TransposeB = NewType("TransposeB", bool)
Scaled = NewType("Scaled", bool)
BatchInvariant = NewType("BatchInvariant", bool)


class ProductKey(NamedTuple):
    """What a product's call is prepared from."""

    op: str
    a_shape: Shape
    a_dtype: mx.Dtype
    b_shape: Shape
    b_dtype: mx.Dtype
    c_shape: Shape | None
    c_dtype: mx.Dtype | None
    transpose_a: TransposeA
    transpose_b: TransposeB
    out_dtype: mx.Dtype | None
    scaled: Scaled
    batch_invariant: BatchInvariant
    backend: Backend | None
    settings: Settings


@prepared
def product_call(key: ProductKey) -> Run:
    """Return the call that serves a product of these shapes, dtypes and options."""
    # Imported at the first call: kernels and chips are most of what importing the package costs.
    from functools import partial

    from ...call.prepare import check_mlx_may_serve, prepare
    from ...core.arguments import ArraySpec
    from .fallback import wide_gemm
    from .request import gemm_request

    c = None
    if key.c_shape is not None and key.c_dtype is not None:
        c = ArraySpec(shape=key.c_shape, dtype=key.c_dtype)
    problem = gemm_request(
        key.op,
        a=ArraySpec(shape=key.a_shape, dtype=key.a_dtype),
        b=ArraySpec(shape=key.b_shape, dtype=key.b_dtype),
        c=c,
        transpose_a=key.transpose_a,
        transpose_b=key.transpose_b,
        out_dtype=key.out_dtype,
        scaled=key.scaled,
        batch_invariant=key.batch_invariant,
    )
    settings = key.settings
    if problem is None:
        check_mlx_may_serve(key.op, settings.kernel)
        return partial(wide_gemm, key.transpose_a, key.transpose_b)
    return prepare(
        key.op, problem, key.backend, force=settings.kernel, gradients=settings.gradients
    )

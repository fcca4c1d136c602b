"""Key of a prepared product, and the call prepared for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NewType

import mlx.core as mx

from ...backends import Backend
from ...core.caches import prepared
from ...core.context import Settings
from ...core.shapes import Shape

if TYPE_CHECKING:
    from ...core.family import Run

# All flags but the first have types of their own, so that no two can be swapped unnoticed.
TransposeB = NewType("TransposeB", bool)
Scaled = NewType("Scaled", bool)
BatchInvariant = NewType("BatchInvariant", bool)


NOT_SCALED = Scaled(False)


@prepared
def product_call(
    op: str,
    a_shape: Shape,
    a_dtype: mx.Dtype,
    b_shape: Shape,
    b_dtype: mx.Dtype,
    c_shape: Shape | None,
    c_dtype: mx.Dtype | None,
    transpose_a: bool,
    transpose_b: TransposeB,
    out_dtype: mx.Dtype | None,
    scaled: Scaled,
    batch_invariant: BatchInvariant,
    backend: Backend | None,
    settings: Settings,
) -> Run:
    """Return the call that serves a product of these shapes, dtypes and options."""
    # Imported at the first call: kernels and chips are most of what importing the package costs.
    from functools import partial

    from ...call.prepare import check_mlx_may_serve, prepare
    from ...core.arguments import ArraySpec
    from .fallback import wide_gemm
    from .request import gemm_request

    c = None
    if c_shape is not None and c_dtype is not None:
        c = ArraySpec(shape=c_shape, dtype=c_dtype)
    problem = gemm_request(
        op,
        a=ArraySpec(shape=a_shape, dtype=a_dtype),
        b=ArraySpec(shape=b_shape, dtype=b_dtype),
        c=c,
        transpose_a=transpose_a,
        transpose_b=transpose_b,
        out_dtype=out_dtype,
        scaled=scaled,
        batch_invariant=batch_invariant,
    )
    if problem is None:
        check_mlx_may_serve(op, settings.kernel)
        return partial(wide_gemm, transpose_a, transpose_b)
    return prepare(op, problem, backend, force=settings.kernel, gradients=settings.gradients)

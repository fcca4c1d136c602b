"""Key of a prepared product, and the call prepared for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NewType

import mlx.core as mx

from ...backends import Backend, StreamOrDevice
from ...core.caches import prepared
from ...core.context import Settings
from ...core.problem import Factors
from ...core.shapes import Shape

if TYPE_CHECKING:
    from ...core.family import Run

# All flags but the first have types of their own, so that no two can be swapped unnoticed.
TransposeB = NewType("TransposeB", bool)
Scaled = NewType("Scaled", bool)
NoProduct = NewType("NoProduct", bool)
NoAddend = NewType("NoAddend", bool)
BatchInvariant = NewType("BatchInvariant", bool)
Exact = NewType("Exact", bool)


# Their values: choosing one takes an op a fifth of the time of calling its type.
B_AS_IT_IS, B_TRANSPOSED = TransposeB(False), TransposeB(True)
NOT_SCALED, SCALED = Scaled(False), Scaled(True)
WITH_PRODUCT, WITHOUT_PRODUCT = NoProduct(False), NoProduct(True)
WITH_ADDEND, WITHOUT_ADDEND = NoAddend(False), NoAddend(True)
FREE, INVARIANT = BatchInvariant(False), BatchInvariant(True)
REDUCED, EXACT = Exact(False), Exact(True)


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
    no_product: NoProduct,
    no_addend: NoAddend,
    batch_invariant: BatchInvariant,
    exact: Exact,
    backend: Backend | None,
    settings: Settings,
) -> Run:
    """Return the call that serves a product of these shapes, dtypes and options."""
    # Imported at the first call: kernels and chips are most of what importing the package costs.
    from ...call.prepare import check_mlx_may_serve, prepare
    from ...core.arguments import ArraySpec
    from .fallback import addend_run, promoted_run
    from .request import elsewhere, gemm_request, mlx_dtype, result_shape_and_dtype

    a, b = ArraySpec(shape=a_shape, dtype=a_dtype), ArraySpec(shape=b_shape, dtype=b_dtype)
    c = None
    if c_shape is not None and c_dtype is not None:
        c = ArraySpec(shape=c_shape, dtype=c_dtype)
    problem = gemm_request(
        op,
        a=a,
        b=b,
        c=c,
        transpose_a=transpose_a,
        transpose_b=transpose_b,
        out_dtype=out_dtype,
        scaled=scaled,
        no_product=no_product,
        no_addend=no_addend,
        batch_invariant=batch_invariant,
        exact=exact,
    )
    if problem is not None:
        run = prepare(op, problem, backend, force=settings.kernel, gradients=settings.gradients)
        return _without_addend(run) if no_addend else run
    shape, dtype = result_shape_and_dtype(
        op, a=a, b=b, c=c, transpose_a=transpose_a, transpose_b=transpose_b, out_dtype=out_dtype
    )
    if no_product:
        return addend_run(shape, dtype)
    given = {"a": a, "b": b} | ({} if c is None else {"c": c})
    check_mlx_may_serve(op, settings.kernel, elsewhere(given, no_product))
    promoted = mlx_dtype(given)
    assert promoted is not None
    run = promoted_run(
        op, promoted, dtype, transpose_a=transpose_a, transpose_b=transpose_b, exact=exact
    )
    return _without_addend(run) if no_addend else run


def _without_addend(run: Run) -> Run:
    def call(
        operands: Sequence[mx.array], factors: Factors, stream: StreamOrDevice
    ) -> list[mx.array]:
        return run(operands[:2], factors, stream)

    return call

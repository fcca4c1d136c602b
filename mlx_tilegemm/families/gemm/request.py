"""Requests: products that Python arguments ask for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import mlx.core as mx

from ...core.arguments import ArraySpec, as_flag, out_row
from ...core.dtypes import FLOAT32, MLX_FLOATS, NATIVE, DType, Kind, from_mlx, mlx_name
from ...core.shapes import Shape
from ...errors import DTypeError
from .problem import GemmProblem, gemm_problem


def gemm_request(
    op: str,
    *,
    a: ArraySpec,
    b: ArraySpec,
    c: ArraySpec | None = None,
    transpose_a: bool = False,
    transpose_b: bool = False,
    out_dtype: object = None,
    scaled: bool = False,
    no_product: bool = False,
    no_addend: bool = False,
    batch_invariant: bool = False,
    exact: bool = False,
) -> GemmProblem | None:
    """State the product that ``a``, ``b`` and ``c`` ask for.

    Args:
        op: Name to begin messages with.
        a: As of the op.
        b: As of the op.
        c: As of the op.
        transpose_a: As of the op.
        transpose_b: As of the op.
        out_dtype: As of the op.
        scaled: Whether ``alpha`` is neither 0 nor 1.
        no_product: Whether ``alpha`` is 0.
        no_addend: Whether ``beta`` is 0: ``c`` then has a shape and a dtype, but no say.
        batch_invariant: As of the op.
        exact: Whether ``precision`` asks for float32.

    Returns:
        The problem, or None for MLX's own ops: without a product, and for what `mlx_dtype` says.

    Raises:
        ProblemError: Shapes that do not fit together.
        DTypeError: Dtypes that do not go together or that no op takes.
    """
    operands = _operands(a, b, c)
    promoted = mlx_dtype(operands)
    rows = {
        name: _row(op, name, spec.dtype) if promoted is None else FLOAT32
        for name, spec in operands.items()
    }
    if promoted is not None and promoted in _WIDE:
        _check_no_out_dtype(op, out_dtype)
    state = partial(
        gemm_problem,
        op,
        a_shape=a.shape,
        b_shape=b.shape,
        a=rows["a"],
        b=rows["b"],
        transpose_a=as_flag(op, "transpose_a", transpose_a),
        transpose_b=as_flag(op, "transpose_b", transpose_b),
        scaled=scaled,
        batch_invariant=as_flag(op, "batch_invariant", batch_invariant),
        exact=exact,
    )
    c_shape = None if c is None else c.shape
    problem = state(c_shape=c_shape, c=rows.get("c"), out=out_row(op, out_dtype))
    if promoted is not None or no_product:
        return None
    return state(out=problem.out) if no_addend and c else problem


def mlx_dtype(operands: Mapping[str, ArraySpec]) -> mx.Dtype | None:
    """Return what MLX promotes operands to where only its own ops multiply them, else None.

    These are complex64, float64 and floats with integers or bools, as in MLX; and integers that
    have only floats in common. Integers alone, and floats alone, are the kernels'.
    """
    dtypes = [spec.dtype for spec in operands.values()]
    if all(dtype in MLX_FLOATS for dtype in dtypes):
        return None
    promoted = mx.result_type(*dtypes)
    return promoted if mx.issubdtype(promoted, mx.inexact) else None


def elsewhere(operands: Mapping[str, ArraySpec], no_product: bool) -> str:
    """Return why a call that `gemm_request` has no problem for is MLX's."""
    if no_product:
        return "alpha is 0, so that there is no product"
    promoted = mlx_dtype(operands)
    if promoted is not None and promoted in _WIDE:
        return "complex64 and float64 are served by MLX's own ops"
    names = dict.fromkeys(mlx_name(spec.dtype) for spec in operands.values())
    given = " and ".join(filter(None, (", ".join([*names][:-1]), [*names][-1])))
    return f"MLX promotes {given} to {mlx_name(promoted)}, and its own ops serve the call"


def result_shape_and_dtype(
    op: str,
    *,
    a: ArraySpec,
    b: ArraySpec,
    c: ArraySpec | None,
    transpose_a: bool,
    transpose_b: bool,
    out_dtype: mx.Dtype | None,
) -> tuple[Shape, mx.Dtype]:
    """Return the shape and the dtype of a call's result, whoever serves it."""
    promoted = mlx_dtype(_operands(a, b, c))
    if promoted is not None:
        a, b = (replace(x, dtype=mx.float32) for x in (a, b))
        c = c and replace(c, dtype=mx.float32)
    problem = gemm_request(
        op,
        a=a,
        b=b,
        c=c,
        transpose_a=transpose_a,
        transpose_b=transpose_b,
        out_dtype=out_dtype if promoted is None else None,
    )
    assert problem is not None
    natural: mx.Dtype = problem.out.mlx if promoted is None else promoted
    return problem.out_shape, out_dtype or natural


def _operands(a: ArraySpec, b: ArraySpec, c: ArraySpec | None) -> dict[str, ArraySpec]:
    return {"a": a, "b": b} | ({} if c is None else {"c": c})


_WIDE = (mx.complex64, mx.float64)


def _check_no_out_dtype(op: str, out_dtype: object) -> None:
    if out_dtype is not None:
        raise DTypeError(
            f"[{op}] Expected out_dtype None for complex64 and float64 operands, got "
            f"{mlx_name(out_dtype)}; cast the result instead."
        )


def _row(op: str, name: str, dtype: mx.Dtype) -> DType:
    row = from_mlx(dtype)
    if row is None:
        known = ", ".join(row.name for row in NATIVE if row.kind is not Kind.BOOL)
        raise DTypeError(
            f"[{op}] Expected {name} of {known}, complex64 or float64, got {mlx_name(dtype)}."
        )
    return row

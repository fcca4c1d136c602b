"""Requests: products that Python arguments ask for."""

from __future__ import annotations

import mlx.core as mx

from ...core.arguments import ArraySpec, out_row
from ...core.dtypes import NATIVE, DType, Kind, from_mlx, mlx_name
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
    batch_invariant: bool = False,
) -> GemmProblem | None:
    """State the product that ``a``, ``b`` and ``c`` ask for.

    Returns:
        The problem, or None when an operand is complex64 or float64, which MLX's own op serves.

    Raises:
        ProblemError: Shapes that do not fit together.
        DTypeError: Dtypes that do not go together or that no op takes.
    """
    operands = {"a": a, "b": b} | ({} if c is None else {"c": c})
    if any(spec.dtype in _WIDE for spec in operands.values()):
        _check_no_out_dtype(op, out_dtype)
        return None
    rows = {name: _row(op, name, spec.dtype) for name, spec in operands.items()}
    return gemm_problem(
        op,
        a_shape=a.shape,
        b_shape=b.shape,
        a=rows["a"],
        b=rows["b"],
        transpose_a=bool(transpose_a),
        transpose_b=bool(transpose_b),
        c_shape=None if c is None else c.shape,
        c=rows.get("c"),
        out=out_row(op, out_dtype),
        scaled=scaled,
        batch_invariant=bool(batch_invariant),
    )


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

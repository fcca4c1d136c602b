"""Requests: products of scaled codes that Python arguments ask for."""

from __future__ import annotations

from collections.abc import Iterator

from ...core.arguments import ArraySpec, as_flag, check_bias, float_row, out_row
from ...core.dtypes import (
    FLOAT8_E8M0,
    FLOAT32,
    FLOATS,
    INT8,
    INT32,
    DType,
    from_mlx,
    mlx_name,
)
from ...core.scaling import Scaling
from ...core.scaling_request import (
    POWER_WIDTH,
    Block,
    as_block,
    codes_row,
    right_scaling,
    scale_row,
    scaling,
)
from ...core.shapes import shape_text
from ...errors import DTypeError, ProblemError
from .problem import ScaledProblem, scaled_problem


def scaled_request(
    op: str,
    *,
    a: ArraySpec,
    b: ArraySpec,
    a_scales: ArraySpec | None = None,
    b_scales: ArraySpec | None = None,
    a_format: object = None,
    b_format: object = "e4m3",
    block: object = None,
    transpose_b: object = False,
    bias: ArraySpec | None = None,
    out_dtype: object = None,
    batch_invariant: object = False,
    exact: bool = False,
) -> ScaledProblem:
    """State the product that arrays and options ask for; each is as of the op.

    Raises:
        ProblemError: Shapes or options that do not fit together.
        DTypeError: Dtypes that no product takes.
    """
    nt, sizes = as_flag(op, "transpose_b", transpose_b), as_block(op, block)
    a_row, b_row = _left(op, a, a_format), codes_row(op, "b", b, b_format, "b_format")
    if not a.shape or len(b.shape) < 2:
        name, least, shape = ("b", 2, b.shape) if a.shape else ("a", 1, a.shape)
        raise ProblemError(
            f"[{op}] Expected {name} of at least {least} dimensions, got {shape_text(shape)}."
        )
    problem = scaled_problem(
        op,
        a_shape=a.shape,
        b_shape=b.shape,
        a=a_row,
        b=b_row,
        a_scales=_left_scaling(op, a, a_scales, sizes),
        b_scales=None
        if b_scales is None
        else right_scaling(op, "b_scales", b, b_scales, sizes, nt),
        bias=None if bias is None else float_row(op, "bias", bias.dtype),
        out=_result(op, a_row, b_row, out_dtype),
        transpose_b=nt,
        batch_invariant=as_flag(op, "batch_invariant", batch_invariant),
        exact=exact,
    )
    check_bias(op, bias, problem.n)
    return problem


def _left(op: str, a: ArraySpec, name: object) -> DType:
    row = from_mlx(a.dtype)
    if row in FLOATS:
        if name is not None:
            raise ProblemError(
                f"[{op}] Expected no a_format for a of {mlx_name(a.dtype)}, got {name!r}."
            )
        return row
    return codes_row(op, "a", a, "int8" if name is None and row is INT8 else name, "a_format")


def _result(op: str, a: DType, b: DType, out_dtype: object) -> DType:
    out = out_row(op, out_dtype) or (a if a in FLOATS else FLOAT32)
    if out not in FLOATS and not (out is INT32 and a is b is INT8):
        raise DTypeError(
            f"[{op}] Expected a floating point out_dtype, or int32 of int8 by int8, got {out}."
        )
    return out


def _left_scaling(
    op: str, a: ArraySpec, scales: ArraySpec | None, block: Block | None
) -> Scaling | None:
    if scales is None:
        return None
    row = scale_row(op, "a_scales", scales)
    is_row = len(a.shape) == 1
    shape = (1, *a.shape) if is_row else a.shape
    given = (1, *scales.shape) if is_row and len(scales.shape) == 1 else scales.shape
    # Rows first: a batch of single rows becomes rows.
    kinds = [(1, 0), (0, 0), *((1, width) for width in _widths(row, block))]
    return scaling(op, "a_scales", row, shape, given, kinds)


def _widths(row: DType, block: Block | None) -> Iterator[int]:
    if block is not None:
        yield block[1]
    if row is FLOAT8_E8M0:
        yield POWER_WIDTH

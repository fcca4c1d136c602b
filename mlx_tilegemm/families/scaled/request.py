"""Requests: products of scaled codes that Python arguments ask for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from numbers import Integral

import mlx.core as mx

from ...core.arguments import ArraySpec, as_flag, kind_name, out_row
from ...core.dtypes import (
    FLOAT8_E4M3,
    FLOAT8_E5M2,
    FLOAT8_E8M0,
    FLOAT32,
    FLOATS,
    INT8,
    INT32,
    DType,
    from_mlx,
    mlx_name,
)
from ...core.shapes import Shape, shape_text
from ...errors import DTypeError, ProblemError
from .problem import ScaledProblem, Scaling, scaled_problem

FORMATS = {
    row.short if row is not INT8 else row.name: row for row in (FLOAT8_E4M3, FLOAT8_E5M2, INT8)
}
"""Formats of codes, by name."""

POWER_WIDTH = 32
"""Elements that share an e8m0 scale, unless blocks say otherwise."""

Block = tuple[int, int]
"""Columns of the result, and elements along the contracted axis, that share a scale of ``b``."""


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
    a_row, b_row = _left(op, a, a_format), _codes(op, "b", b, b_format)
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
        b_scales=_right_scaling(op, b, b_scales, sizes, nt),
        bias=None if bias is None else _float(op, "bias", bias.dtype),
        out=_result(op, a_row, b_row, out_dtype),
        transpose_b=nt,
        batch_invariant=as_flag(op, "batch_invariant", batch_invariant),
        exact=exact,
    )
    if bias is not None and bias.shape != (problem.n,):
        raise ProblemError(
            f"[{op}] Expected bias of the result's columns, ({problem.n}), got "
            f"{shape_text(bias.shape)}."
        )
    return problem


def as_block(op: str, block: object) -> Block | None:
    """Return the sizes of a block, or None.

    Raises:
        ProblemError: Sizes that are not positive, or not two.
        DTypeError: No sizes.
    """
    if block is None:
        return None
    if not isinstance(block, tuple | list) or not all(
        isinstance(size, Integral) and not isinstance(size, bool) for size in block
    ):
        raise DTypeError(f"[{op}] Expected block to be None or two sizes, got {kind_name(block)}.")
    if len(block) != 2 or min(block) < 1:
        raise ProblemError(f"[{op}] Expected block of two sizes of at least 1, got {tuple(block)}.")
    return (int(block[0]), int(block[1]))


def _left(op: str, a: ArraySpec, name: object) -> DType:
    row = from_mlx(a.dtype)
    if row in FLOATS:
        if name is not None:
            raise ProblemError(
                f"[{op}] Expected no a_format for a of {mlx_name(a.dtype)}, got {name!r}."
            )
        return row
    return _codes(op, "a", a, "int8" if name is None and row is INT8 else name)


def _codes(op: str, operand: str, given: ArraySpec, name: object) -> DType:
    row = FORMATS.get(name) if isinstance(name, str) else None
    if given.dtype not in (mx.uint8, mx.int8):
        kinds = "codes of uint8 or int8" if operand == "b" else "a float, or codes of uint8 or int8"
        raise DTypeError(f"[{op}] Expected {operand} to be {kinds}, got {mlx_name(given.dtype)}.")
    if row is None:
        raise ProblemError(
            f"[{op}] Expected {operand}_format to name the format of the codes, one of "
            f"{', '.join(FORMATS)}, got {name!r}."
        )
    if row.mlx != given.dtype:
        raise DTypeError(
            f"[{op}] Expected {operand} of {mlx_name(row.mlx)} for {operand}_format {name!r}, got "
            f"{mlx_name(given.dtype)}."
        )
    return row


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
    row = _scale_row(op, "a_scales", scales)
    is_row = len(a.shape) == 1
    shape = (1, *a.shape) if is_row else a.shape
    given = (1, *scales.shape) if is_row and len(scales.shape) == 1 else scales.shape
    # Rows first: a batch of single rows becomes rows.
    kinds = [(1, 0), (0, 0), *((1, width) for width in _widths(row, block))]
    return _scaling(op, "a_scales", row, shape, given, kinds)


def _right_scaling(
    op: str, b: ArraySpec, scales: ArraySpec | None, block: Block | None, transpose_b: bool
) -> Scaling | None:
    if scales is None:
        return None
    row = _scale_row(op, "b_scales", scales)
    kinds = [(0, 0), (1, 0), *([block] if block else [])]
    kinds += [(1, POWER_WIDTH)] * (row is FLOAT8_E8M0)
    found = _scaling(op, "b_scales", row, b.shape, scales.shape, kinds, transposed=not transpose_b)
    n = b.shape[-2 if transpose_b else -1]
    # Texts depend on n: what is of all columns is so in one way.
    return replace(found, height=0) if n <= found.height else found


def _widths(row: DType, block: Block | None) -> Iterator[int]:
    if block is not None:
        yield block[1]
    if row is FLOAT8_E8M0:
        yield POWER_WIDTH


def _scaling(
    op: str,
    name: str,
    row: DType,
    operand: Shape,
    scales: Shape,
    kinds: list[Block],
    *,
    transposed: bool = False,
) -> Scaling:
    """Return how scales of a shape lie.

    Args:
        op: Name to begin messages with.
        name: Of the scales.
        row: Their format.
        operand: Shape of what they scale.
        scales: Their shape.
        kinds: Heights and widths that they may be of, 0 for all.
        transposed: The operand, and the scales with it, is stored ``[k, n]``.
    """
    if all(size == 1 for size in scales) and len(scales) <= len(operand):
        return Scaling(dtype=row)
    rows, depth = operand[:-3:-1] if transposed else operand[-2:]
    batch = operand[:-2]
    forms: dict[Shape, Scaling] = {}
    for height, width in kinds:
        found = Scaling(
            dtype=row,
            height=height,
            width=width if width < depth else 0,
            batched=bool(batch),
        )
        counts = found.counts(rows, depth)
        forms.setdefault((*batch, *(counts[::-1] if transposed else counts)), found)
    if not batch:
        forms.setdefault((rows,), Scaling(dtype=row, height=1))
    if scales in forms:
        return forms[scales]
    raise ProblemError(_unlike(op, name, row, operand, scales, [*forms]))


def _unlike(
    op: str, name: str, row: DType, operand: Shape, scales: Shape, forms: list[Shape]
) -> str:
    known = " or ".join(["one scale", *dict.fromkeys(shape_text(form) for form in forms)])
    hint = "" if row is FLOAT8_E8M0 else "; blocks are named, as by block=(128, 128)"
    return (
        f"[{op}] Expected {name} of an operand of shape {shape_text(operand)} to be {known}{hint}, "
        f"got {shape_text(scales)}."
    )


def _scale_row(op: str, name: str, scales: ArraySpec) -> DType:
    if scales.dtype == mx.uint8:
        return FLOAT8_E8M0
    row = from_mlx(scales.dtype)
    if row not in FLOATS:
        raise DTypeError(
            f"[{op}] Expected {name} of float32, float16 or bfloat16, or e8m0 codes of uint8, got "
            f"{mlx_name(scales.dtype)}."
        )
    return row


def _float(op: str, name: str, dtype: mx.Dtype) -> DType:
    row = from_mlx(dtype)
    if row is None or row not in FLOATS:
        raise DTypeError(
            f"[{op}] Expected {name} of float32, float16 or bfloat16, got {mlx_name(dtype)}."
        )
    return row

"""Requests of operands of codes: their formats, and what their scales' shapes say."""

from __future__ import annotations

from dataclasses import replace
from numbers import Integral

import mlx.core as mx

from ..errors import DTypeError, ProblemError
from .arguments import ArraySpec, kind_name
from .dtypes import FLOAT8_E8M0, FLOATS, DType, from_mlx, mlx_name
from .scaling import BYTE_FORMATS, Scaling
from .shapes import Shape, shape_text

POWER_WIDTH = 32
"""Elements that share an e8m0 scale, unless blocks say otherwise."""

Block = tuple[int, int]
"""Columns of the result, and elements along the contracted axis, that share a scale of ``b``."""


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


def codes_row(op: str, operand: str, given: ArraySpec, name: object, option: str) -> DType:
    """Return the format of an operand of codes.

    Args:
        op: Name to begin messages with.
        operand: Name of the operand.
        given: Its shape and dtype.
        name: Name of the format.
        option: Name of the argument that names it.

    Raises:
        ProblemError: A format that is none.
        DTypeError: Codes of another dtype.
    """
    row = BYTE_FORMATS.get(name) if isinstance(name, str) else None
    if given.dtype not in (mx.uint8, mx.int8):
        kinds = "a float, or codes of uint8 or int8" if operand == "a" else "codes of uint8 or int8"
        raise DTypeError(f"[{op}] Expected {operand} to be {kinds}, got {mlx_name(given.dtype)}.")
    if row is None:
        raise ProblemError(
            f"[{op}] Expected {option} to name the format of the codes, one of "
            f"{', '.join(BYTE_FORMATS)}, got {name!r}."
        )
    if row.mlx != given.dtype:
        raise DTypeError(
            f"[{op}] Expected {operand} of {mlx_name(row.mlx)} for {option} {name!r}, got "
            f"{mlx_name(given.dtype)}."
        )
    return row


def right_scaling(
    op: str, name: str, b: ArraySpec, scales: ArraySpec, block: Block | None, transpose_b: bool
) -> Scaling:
    """Return how the scales of a right operand lie.

    Args:
        op: Name to begin messages with.
        name: Of the scales.
        b: The operand, ``[..., n, k]`` with ``transpose_b``, else ``[..., k, n]``.
        scales: Its scales.
        block: Sizes of blocks that may share a scale.
        transpose_b: See ``b``.

    Raises:
        ProblemError: Scales of a shape that is none.
        DTypeError: Scales of another dtype.
    """
    row = scale_row(op, name, scales)
    kinds = [(0, 0), (1, 0), *([block] if block else [])]
    kinds += [(1, POWER_WIDTH)] * (row is FLOAT8_E8M0)
    found = scaling(op, name, row, b.shape, scales.shape, kinds, transposed=not transpose_b)
    n = b.shape[-2 if transpose_b else -1]
    # Texts depend on n: what is of all columns is so in one way.
    return replace(found, height=0) if n <= found.height else found


def scaling(
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

    Raises:
        ProblemError: They are of none of these kinds.
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


def scale_row(op: str, name: str, scales: ArraySpec) -> DType:
    """Return the format of scales.

    Raises:
        DTypeError: Neither floats nor codes.
    """
    if scales.dtype == mx.uint8:
        return FLOAT8_E8M0
    row = from_mlx(scales.dtype)
    if row not in FLOATS:
        raise DTypeError(
            f"[{op}] Expected {name} of float32, float16 or bfloat16, or e8m0 codes of uint8, got "
            f"{mlx_name(scales.dtype)}."
        )
    return row

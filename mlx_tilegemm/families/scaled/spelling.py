"""Spelling of products of scaled codes on the command line."""

from __future__ import annotations

import re
from math import ceil
from typing import TYPE_CHECKING

from ...core.arguments import ArraySpec
from ...core.family import Spelling
from ...core.scaling import BYTE_FORMATS
from ...core.spelling import spelled
from .problem import ScaledProblem
from .request import scaled_request

if TYPE_CHECKING:
    import mlx.core as mx

OPTION = "--fp8-scaled-matmul"
FORM = "MxNxK:bf16,f32:e4m3-128x128"


def parse(text: str) -> ScaledProblem:
    """Return the product that ``MxNxK[:dtypes[:weight]]`` spells: ``1x4096x4096:bf16:e4m3-row``.

    Dtypes are those of ``a``, or of the result where ``a`` is codes, and of the scales. A weight is
    ``e4m3``, ``e5m2`` or ``int8``, then ``-tensor``, ``-row``, ``-32`` (e8m0) or the sizes of
    blocks, then ``-nn`` where it is ``[k, n]``; a format before it with ``*`` is that of ``a``, as
    in ``e4m3*e4m3-128x128``.

    Raises:
        ProblemError: It spells none.
    """
    import mlx.core as mx

    found = spelled(OPTION, FORM, text)
    formats = "|".join(BYTE_FORMATS)
    match = re.fullmatch(
        rf"(?:({formats})\*)?({formats})(?:-(tensor|row|32|\d+x\d+))?(-nn|-nt)?",
        found.word or "e4m3-128x128",
    )
    if match is None or len(found.sizes) != 3:
        raise found.wrong()
    a_format, b_format, kind, layout = match.groups()
    (m, n, k), (dtype, scales) = found.sizes, found.mlx_dtypes(2)
    block = tuple(map(int, kind.split("x"))) if kind and "x" in kind else None
    if block and min(block) < 1:
        raise found.wrong()
    nt = layout != "-nn"
    left = dtype if a_format is None else BYTE_FORMATS[a_format].mlx
    right = BYTE_FORMATS[b_format].mlx
    laid = _counts(kind, n, k, block)
    of_a = _counts(kind, m, k, (1, block[1]) if block else None)
    return scaled_request(
        "tune",
        a=ArraySpec(shape=(m, k), dtype=left),
        b=ArraySpec(shape=(n, k) if nt else (k, n), dtype=right),
        a_scales=None if a_format is None else _scales(of_a, kind, scales),
        b_scales=_scales(laid if nt or laid is None else laid[::-1], kind, scales),
        a_format=a_format,
        b_format=b_format,
        block=block,
        transpose_b=nt,
        out_dtype=mx.int32 if kind is None and a_format == b_format == "int8" else dtype,
    )


def _counts(
    kind: str | None, rows: int, depth: int, block: tuple[int, ...] | None
) -> tuple[int, int] | None:
    if kind is None:
        return None
    if block is not None:
        return (ceil(rows / block[0]), ceil(depth / block[1]))
    return {"tensor": (1, 1), "row": (rows, 1)}.get(kind, (rows, ceil(depth / 32)))


def _scales(shape: tuple[int, int] | None, kind: str | None, dtype: mx.Dtype) -> ArraySpec | None:
    import mlx.core as mx

    if shape is None:
        return None
    return ArraySpec(shape=shape, dtype=mx.uint8 if kind == "32" else dtype)


SPELLING: Spelling[ScaledProblem] = Spelling(
    option=OPTION,
    form="MxNxK:dtypes:weight",
    help="8x4096x4096:bf16,f32:e4m3-128x128; dtypes of a (of the result where a is codes) and of "
    "scales; a weight of e4m3, e5m2 or int8 with -tensor, -row, -32 or -128x128 scales, with -nn "
    "if it is [k, n], and before it the format of a, as in e4m3*e4m3-128x128",
    parse=parse,
    standard=(
        "1x4096x4096:bf16,f32:e4m3-128x128",
        "8x4096x4096:bf16,f32:e4m3-128x128",
        "512x4096x4096:bf16,f32:e4m3*e4m3-128x128",
        "8x4096x4096:bf16:e4m3-row",
        "512x4096x4096:bf16,f32:int8*int8-row",
    ),
)

"""Spelling of products with chosen matrices on the command line."""

from __future__ import annotations

import re

from ...core.dtypes import FLOAT8_E8M0, DType, from_mlx, promote
from ...core.family import Spelling
from ...core.scaling import BYTE_FORMATS, Scaling
from ...core.scaling_request import POWER_WIDTH
from ...core.spelling import spelled
from ...errors import ProblemError
from ...formats import AFFINE, MODES, grouping
from .problem import AnyProblem, ExpertProblem

OPTION = "--experts"
FORM = "TxCxExNxK:bf16,bf16:affine4x64"
PLAIN = ("plain", "grouped")
LAYOUTS = ("nt", "nn")


def parse(text: str) -> ExpertProblem:
    """Return what ``TxCxExNxK[:dtypes[:weight]]`` spells: ``8x8x128x768x2048:bf16:mxfp4``.

    T rows of ``x`` choose C of E experts each, whose matrices are ``[n, k]``. Dtypes are those of
    ``x`` and of the weight, or of its scales and biases. A weight is ``plain``, ``affine4x64``
    (bits and group), ``mxfp4``, ``mxfp8`` or ``nvfp4``, or ``grouped`` for plain ones of rows that
    are sorted already, or ``e4m3``, ``e5m2`` or ``int8`` with ``-tensor``, ``-row``, ``-32`` (e8m0)
    or the sizes of blocks; then ``-nn`` where matrices are ``[k, n]``.

    Raises:
        ProblemError: It spells none.
    """
    found = spelled(OPTION, FORM, text)
    base, *more = (found.word or "plain").split("-")
    affine = re.fullmatch(r"affine(\d)x(\d+)", base)
    mode = AFFINE if affine else base
    has_codes = base in BYTE_FORMATS
    kind = more.pop(0) if has_codes and more and more[0] not in LAYOUTS else None
    layout = more.pop(0) if more else "nt"
    if (
        len(found.sizes) != 5
        or more
        or layout not in LAYOUTS
        or not (has_codes or mode in (*MODES, *PLAIN))
    ):
        raise found.wrong()
    if mode == AFFINE and affine is None:
        raise found.wrong()
    tokens, chosen, experts, n, k = found.sizes
    x, other = (from_mlx(dtype) for dtype in found.mlx_dtypes(2))
    assert x is not None
    assert other is not None
    bits, group = (int(affine[1]), int(affine[2])) if affine else (None, None)
    weight = None if has_codes or mode in PLAIN else grouping("tune", mode, bits, group)
    scaling = _scaling(kind, other)
    if kind is not None and scaling is None:
        raise found.wrong()
    transpose = layout != "nn"
    if weight is not None and (k if transpose else n) % weight.group:
        raise ProblemError(
            f"[tune] Expected {OPTION} to have rows of whole groups of {weight.group}, got "
            f"{text!r}."
        )
    grouped = mode == "grouped"
    is_affine = mode == AFFINE
    return ExpertProblem(
        products=tokens * chosen,
        m=1,
        n=n,
        k=k,
        experts=experts,
        sources=tokens * chosen if grouped else tokens,
        fanout=1 if grouped else chosen,
        x=x,
        w=weight.codes if weight else BYTE_FORMATS.get(base, other),
        weight=weight,
        scaling=scaling,
        scales=(weight.scales or other) if weight else (scaling.dtype if scaling else None),
        biases=other if is_affine else None,
        tensor_scale=False,
        bias=None,
        out=promote(x, other) if mode in PLAIN or is_affine else x,
        transpose=transpose,
        grouped=grouped,
        sorted=False,
        out_shape=(tokens * chosen, n) if grouped else (tokens, chosen, 1, n),
    )


def _scaling(kind: str | None, dtype: DType) -> Scaling | None:
    """Return how scales lie that a word says, or None for no such word."""
    block = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", kind or "")
    if block:
        return Scaling(dtype=dtype, height=int(block[1]), width=int(block[2]), batched=True)
    form = {"tensor": (dtype, 0, 0), "row": (dtype, 1, 0), "32": (FLOAT8_E8M0, 1, POWER_WIDTH)}
    if kind not in form:
        return None
    row, height, width = form[kind]
    return Scaling(dtype=row, height=height, width=width, batched=True)


SPELLING: Spelling[AnyProblem] = Spelling(
    option=OPTION,
    form="TxCxExNxK:dtypes:weight",
    help="8x8x128x768x2048:bf16:affine4x64: 8 rows choose 8 of 128 experts each, of n 768 and k "
    "2048; dtypes of x and of the weight or its scales, or one for both; a weight of plain, "
    "grouped (rows sorted already), affine (bits x group), mxfp4, mxfp8 or nvfp4, or e4m3, e5m2 or "
    "int8 with -tensor, -row, -32 or -128x128 scales, with -nn if matrices are [k, n]",
    parse=parse,
    standard=(
        "1x8x128x768x2048:bf16",
        "1x8x128x768x2048:bf16:affine4x64",
        "8x8x128x768x2048:bf16:affine4x64",
        "512x8x128x768x2048:bf16",
        "512x8x128x768x2048:bf16:affine4x64",
        "8x8x128x768x2048:bf16,f32:e4m3-128x128",
    ),
)

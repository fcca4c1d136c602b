"""Spelling of products with quantized weights on the command line."""

from __future__ import annotations

import re

from ...core.arguments import ArraySpec
from ...core.family import Spelling
from ...core.spelling import spelled
from ...errors import ProblemError
from ...formats import AFFINE, MODES, grouping
from .problem import QuantizedProblem
from .request import quantized_request

OPTION = "--quantized-matmul"
FORM = "MxNxK:f16,f16:affine4x64"


def parse(text: str) -> QuantizedProblem:
    """Return the product that ``MxNxK[:dtypes[:weight]]`` spells: ``1x4096x4096:f16:mxfp4``.

    Dtypes are those of ``x`` and of affine scales and biases. A weight is ``affine4x64`` (bits and
    group), ``mxfp4``, ``mxfp8`` or ``nvfp4``, then ``-nn`` where it is ``[k, n]``.

    Raises:
        ProblemError: It spells none.
    """
    import mlx.core as mx

    found = spelled(OPTION, FORM, text)
    word = found.word or "affine4x64"
    base, _, layout = word.partition("-")
    affine = re.fullmatch(r"affine(\d)x(\d+)", base)
    mode = AFFINE if affine else base
    if len(found.sizes) != 3 or layout not in ("", "nt", "nn") or mode not in MODES:
        raise found.wrong()
    if mode == AFFINE and affine is None:
        raise found.wrong()
    bits, group = (int(affine[1]), int(affine[2])) if affine else (None, None)
    weight = grouping("tune", mode, bits, group)
    m, n, k = found.sizes
    x_dtype, scales_dtype = found.mlx_dtypes(2)
    rows, columns = (k, n) if layout == "nn" else (n, k)
    if columns % weight.group:
        raise ProblemError(
            f"[tune] Expected {OPTION} to have rows of whole groups of {weight.group}, got "
            f"{text!r}."
        )
    groups = ArraySpec(
        shape=(rows, columns // weight.group),
        dtype=scales_dtype if mode == AFFINE else mx.uint8,
    )
    return quantized_request(
        "tune",
        x=ArraySpec(shape=(m, k), dtype=x_dtype),
        w=ArraySpec(shape=(rows, columns * weight.bits // 32), dtype=mx.uint32),
        scales=groups,
        biases=groups if mode == AFFINE else None,
        transpose=layout != "nn",
        group_size=weight.group,
        bits=weight.bits,
        mode=mode,
    )


SPELLING: Spelling[QuantizedProblem] = Spelling(
    option=OPTION,
    form="MxNxK:dtypes:weight",
    help="8x4096x4096:bf16,f16:affine4x64; dtypes of x and of affine scales, or one for both; a "
    "weight of affine (bits x group), mxfp4, mxfp8 or nvfp4, with -nn if it is [k, n]",
    parse=parse,
    standard=(
        "1x4096x4096:bf16:affine4x64",
        "8x4096x4096:bf16:affine4x64",
        "32x4096x4096:bf16,f16:affine4x64",
        "512x4096x4096:bf16:affine4x64",
        "1x4096x4096:bf16:mxfp4",
    ),
)

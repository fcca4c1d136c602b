"""Spelling of products with chosen matrices on the command line."""

from __future__ import annotations

import re

from ...core.dtypes import from_mlx, promote
from ...core.family import Spelling
from ...core.spelling import spelled
from ...errors import ProblemError
from ...formats import AFFINE, MODES, grouping
from .problem import AnyProblem, ExpertProblem

OPTION = "--experts"
FORM = "TxCxExNxK:bf16,bf16:affine4x64"
PLAIN = ("plain", "grouped")


def parse(text: str) -> ExpertProblem:
    """Return what ``TxCxExNxK[:dtypes[:weight]]`` spells: ``8x8x128x768x2048:bf16:mxfp4``.

    T rows of ``x`` choose C of E experts each, whose matrices are ``[n, k]``. Dtypes are those of
    ``x`` and of the weight, or of affine scales and biases. A weight is ``plain``, ``affine4x64``
    (bits and group), ``mxfp4``, ``mxfp8`` or ``nvfp4``, or ``grouped`` for plain ones of rows that
    are sorted already; then ``-nn`` where matrices are ``[k, n]``.

    Raises:
        ProblemError: It spells none.
    """
    found = spelled(OPTION, FORM, text)
    base, _, layout = (found.word or "plain").partition("-")
    affine = re.fullmatch(r"affine(\d)x(\d+)", base)
    mode = AFFINE if affine else base
    if len(found.sizes) != 5 or layout not in ("", "nt", "nn") or mode not in (*MODES, *PLAIN):
        raise found.wrong()
    if mode == AFFINE and affine is None:
        raise found.wrong()
    tokens, chosen, experts, n, k = found.sizes
    x, other = (from_mlx(dtype) for dtype in found.mlx_dtypes(2))
    assert x is not None
    assert other is not None
    bits, group = (int(affine[1]), int(affine[2])) if affine else (None, None)
    weight = None if mode in PLAIN else grouping("tune", mode, bits, group)
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
        w=other if weight is None else weight.codes,
        weight=weight,
        scales=None if weight is None else weight.scales or other,
        biases=other if is_affine else None,
        tensor_scale=False,
        bias=None,
        out=promote(x, other) if weight is None or is_affine else x,
        transpose=transpose,
        grouped=grouped,
        sorted=False,
        out_shape=(tokens * chosen, n) if grouped else (tokens, chosen, 1, n),
    )


SPELLING: Spelling[AnyProblem] = Spelling(
    option=OPTION,
    form="TxCxExNxK:dtypes:weight",
    help="8x8x128x768x2048:bf16:affine4x64: 8 rows choose 8 of 128 experts each, of n 768 and k "
    "2048; dtypes of x and of the weight or its scales, or one for both; a weight of plain, "
    "grouped (rows sorted already), affine (bits x group), mxfp4, mxfp8 or nvfp4, with -nn if "
    "matrices are [k, n]",
    parse=parse,
    standard=(
        "1x8x128x768x2048:bf16",
        "1x8x128x768x2048:bf16:affine4x64",
        "8x8x128x768x2048:bf16:affine4x64",
        "512x8x128x768x2048:bf16",
        "512x8x128x768x2048:bf16:affine4x64",
    ),
)

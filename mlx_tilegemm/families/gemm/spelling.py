"""Spelling of products on the command line."""

from __future__ import annotations

from ...core.arguments import ArraySpec
from ...core.family import Spelling
from ...core.spelling import spelled
from .problem import GemmProblem
from .request import gemm_request

OPTION = "--matmul"


def parse(text: str) -> GemmProblem:
    """Return the product that ``MxNxK[:dtypes[:layout]]`` spells: ``512x4096x4096:f16,bf16:nt``.

    Raises:
        ProblemError: It spells none.
    """
    found = spelled(OPTION, "MxNxK:f16,f32:nt", text)
    layout = found.word or "nn"
    if len(found.sizes) != 3 or layout not in ("nn", "nt", "tn", "tt"):
        raise found.wrong()
    m, n, k = found.sizes
    a_dtype, b_dtype = found.mlx_dtypes(2)
    problem = gemm_request(
        "tune",
        a=ArraySpec(shape=(k, m) if layout[0] == "t" else (m, k), dtype=a_dtype),
        b=ArraySpec(shape=(n, k) if layout[1] == "t" else (k, n), dtype=b_dtype),
        transpose_a=layout[0] == "t",
        transpose_b=layout[1] == "t",
    )
    assert problem is not None
    return problem


SPELLING: Spelling[GemmProblem] = Spelling(
    option=OPTION,
    form="MxNxK:dtypes:layout",
    help="512x4096x4096:f16,bf16:nt; dtypes of a and b or one for both, layout nn, nt, tn, tt",
    parse=parse,
    standard=(
        "4096x4096x4096:f16:nt",
        "4096x4096x4096:f16,f32:nt",
        "512x4096x4096:f32,bf16:nt",
        "8x4096x4096:f16:nt",
        "1x4096x14336:f16:nt",
    ),
)

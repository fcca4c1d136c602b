"""Spelling of gated delta updates on the command line."""

from __future__ import annotations

from dataclasses import replace

from ...core.arguments import ArraySpec
from ...core.family import Spelling
from ...core.spelling import spelled
from .key import NAME
from .problem import DeltaProblem
from .request import delta_request

OPTION = "--gated-delta-update"
FORM = "BxTxHkxHvxDkxDv:bf16,f32:vector"


def parse(text: str) -> DeltaProblem:
    """Return the update that ``BxTxHkxHvxDkxDv[:dtypes[:word]]`` spells.

    Dtypes are those of q, k and v, and of the gates. The word is ``vector`` where each element of a
    key has a decay of its own, and ``first`` where there is no state to begin with.

    Raises:
        ProblemError: It spells none.
    """
    found = spelled(OPTION, FORM, text)
    words = set(found.word.split("-")) - {""}
    if len(found.sizes) != 6 or words - {"vector", "first"}:
        raise found.wrong()
    batch, length, key_heads, value_heads, key_dim, value_dim = found.sizes
    dtype, gates = found.mlx_dtypes(2)
    heads = (batch, length, value_heads)
    keys = ArraySpec(shape=(batch, length, key_heads, key_dim), dtype=dtype)
    decays = (*heads, key_dim) if "vector" in words else heads
    problem = delta_request(
        NAME,
        q=keys,
        k=keys,
        v=ArraySpec(shape=(*heads, value_dim), dtype=dtype),
        gamma=ArraySpec(shape=decays, dtype=gates),
        beta=ArraySpec(shape=heads, dtype=gates),
    )
    return replace(problem, state="first" not in words)


SPELLING: Spelling[DeltaProblem] = Spelling(
    option=OPTION,
    form="BxTxHkxHvxDkxDv:dtypes:word",
    help="1x512x16x32x128x128:bf16,f32; dtypes of q, k and v, and of the gates; a word of vector "
    "for a decay of each key element, of first for no state to begin with, or vector-first",
    parse=parse,
    standard=(
        "1x1x16x32x128x128:bf16,f32",
        "1x8x16x32x128x128:bf16,f32",
        "1x512x16x32x128x128:bf16,f32",
        "1x2048x16x32x128x128:bf16,f32",
        "1x1x32x32x128x128:bf16,f32:vector",
        "1x512x32x32x128x128:bf16,f32:vector",
    ),
)

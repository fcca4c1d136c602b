"""Spelling of attentions on the command line."""

from __future__ import annotations

from ...core.arguments import ArraySpec
from ...core.family import Spelling
from ...core.spelling import spelled
from .problem import AttentionProblem
from .request import attention_request

OPTION = "--attention"


def parse(text: str) -> AttentionProblem:
    """Return the attention that ``BxHqxHkvxLqxLkxD[xDv][:dtypes[:mask]]`` spells.

    Raises:
        ProblemError: It spells none.
    """
    found = spelled(OPTION, "BxHqxHkvxLqxLkxD:f16:causal", text)
    if len(found.sizes) not in (6, 7) or found.word not in ("", "none", "causal"):
        raise found.wrong()
    batch, heads, kv_heads, q_len, kv_len, dim = found.sizes[:6]
    q, k, v = found.mlx_dtypes(3)
    return attention_request(
        "tune",
        q=ArraySpec(shape=(batch, heads, q_len, dim), dtype=q),
        k=ArraySpec(shape=(batch, kv_heads, kv_len, dim), dtype=k),
        v=ArraySpec(shape=(batch, kv_heads, kv_len, found.sizes[-1]), dtype=v),
        mask="causal" if found.word == "causal" else None,
    )


SPELLING: Spelling[AttentionProblem] = Spelling(
    option=OPTION,
    form="BxHqxHkvxLqxLkxD:dtypes:mask",
    help="1x32x8x2048x2048x128:f16:causal; a seventh size is that of v, mask causal or none",
    parse=parse,
    standard=("1x32x8x2048x2048x128:f16:causal", "1x32x8x1x4096x128:f16"),
)

"""The small problems that a mutated decoding attention has to solve."""

from __future__ import annotations

from typing import Any

from ...core.dtypes import BFLOAT16, BOOL, FLOAT16, FLOAT32
from ...core.family import Data
from .problem import AttentionProblem, MaskKind, attention_problem

Trials = list[tuple[AttentionProblem, Data]]

FEW = ((3, 270, 1.0), (1, 256, 1.0), (4, 133, 1.0), (2, 270, 40.0))
"""Queries, keys and how large the scores are: too many keys for one step, once in whole steps."""

MORE = ((10, 70, 1.0), (9, 128, 1.0), (13, 37, 1.0), (9, 70, 40.0))
"""Likewise, with rows for more than one simdgroup."""


def decoding() -> list[tuple[str, Trials]]:
    """Return configurations, each with its problems."""
    causal, boolean = {"mask_kind": MaskKind.CAUSAL}, {"mask_kind": MaskKind.BOOLEAN, "mask": BOOL}
    additive = {"mask_kind": MaskKind.ADDITIVE, "mask": FLOAT32}
    left = {"return_lse": True, "return_norm": True}
    low = {"return_norm": True, "low": -300.0}
    grouped = {"head_dim": 192, "value_dim": 172}
    sizes = {"head_dim": 188, "value_dim": 192}
    rounded = {"head_dim": 64, "value_dim": 40, "v": BFLOAT16}
    sunk = {"return_lse": True, "sinks": FLOAT16}
    return [
        ("32-1x4x1-split2", _trials(FEW, **boolean, **sunk)),
        ("32-1x4x1-split1", _trials(FEW, **causal, **sunk, window=128, pe_dim=9)),
        (
            "32-4x1x1-split1",
            _trials(MORE, **additive, **rounded, **left),
        ),
        ("32-4x1x1-split1", _trials(MORE, **causal, softmax=False, out=BFLOAT16)),
        ("32-2x2x1-split2", _trials(MORE[:2], **additive, softmax=False)),
        (
            "32-1x2x2-split2",
            _trials(FEW, **additive, **grouped, **low, pe_dim=16),
        ),
        ("32-2x1x2-split1", _trials(MORE, **boolean, **sizes, return_lse=True)),
        # What is left unset of float16 reads as NaN.
        (
            "32-1x2x2-split2",
            _trials(FEW, **boolean, **grouped, v=FLOAT16, out=BFLOAT16, return_lse=True),
        ),
        ("32-1x4x1-split2", _trials(FEW, **causal)),
        ("32-1x4x1-split2", _trials(FEW)),
    ]


def _trials(lengths: tuple[tuple[int, int, float], ...], **options: Any) -> Trials:  # noqa: ANN401
    low = options.pop("low", 0.0)
    return [
        (_problem(q_len, kv_len, seed, options), Data(seed=seed, amplitude=amplitude, low=low))
        for seed, (q_len, kv_len, amplitude) in enumerate(lengths)
    ]


def _problem(q_len: int, kv_len: int, seed: int, options: dict[str, Any]) -> AttentionProblem:
    fields: dict[str, Any] = {
        "q": FLOAT16,
        "k": BFLOAT16,
        "v": FLOAT32,
        "softmax": True,
        "mask_kind": MaskKind.NONE,
        "head_dim": 24,
        "value_dim": 33,
        "pe_dim": 0,
    } | options
    head_dim, value_dim = fields.pop("head_dim"), fields.pop("value_dim")
    pe_dim = fields.pop("pe_dim")
    if pe_dim:
        fields["q_pe_shape"], fields["q_pe"] = (2, 4, q_len, pe_dim), BFLOAT16
        fields["k_pe_shape"], fields["k_pe"] = (2, 1 + seed % 2, kv_len, pe_dim), FLOAT16
    if "mask" in fields:
        shapes = ((2, 1, q_len, kv_len), (1, 4, 1, kv_len), (2, 1, q_len, 1))
        fields["mask_shape"] = shapes[seed % 3]
    if "sinks" in fields:
        fields["sinks_shape"] = (4,)
    return attention_problem(
        "mutation",
        q_shape=(2, 4, q_len, head_dim),
        k_shape=(2, 2, kv_len, head_dim),
        v_shape=(2, 2, kv_len, value_dim),
        **fields,
    )

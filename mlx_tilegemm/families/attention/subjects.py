"""Attentions and gradients that mutated texts have to solve.

Each has several threadgroups and sizes off the tiles; the trials of one subject differ only in
sizes that are run-time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, cast

from ...core.dtypes import BFLOAT16, BOOL, FLOAT16, FLOAT32
from ...core.family import Data, Subject
from .decoding_subjects import decoding
from .problem import (
    AttentionProblem,
    KeyValueGradientProblem,
    MaskKind,
    QueryGradientProblem,
    attention_problem,
)

AnyProblem = AttentionProblem | QueryGradientProblem | KeyValueGradientProblem
Made = Subject[AnyProblem]


def subjects() -> Iterator[Made]:
    """Yield every subject; together they contain every line of the templates."""
    yield from _attention()
    yield from _masked()
    yield from _far()
    yield from _featured()
    yield from _backward()
    yield from _rounded()
    yield from _ragged()
    yield from _tall()
    for config, trials in decoding():
        yield _subject("attention_decode", config, *trials)


def _subject(kernel: str, config: str, *trials: tuple[AnyProblem, Data]) -> Made:
    problem = trials[0][0]
    p = problem if isinstance(problem, AttentionProblem) else problem.attention
    chain = "softmax" if p.softmax else "literal"
    flags = f"{chain} {p.mask_kind.value} d{p.head_dim} dv{p.value_dim}"
    return Subject(kernel=kernel, config=config, trials=trials, flags=flags)


def _chain(**options: Any) -> list[tuple[AnyProblem, Data]]:  # noqa: ANN401
    """Return an attention with several lengths, one of them in whole blocks.

    The last has scores that exp cannot take.
    """
    trials: list[tuple[AnyProblem, Data]] = []
    for seed, (q_len, kv_len, amplitude) in enumerate(
        ((19, 37, 1.0), (40, 70, 1.0), (21, 9, 1.0), (32, 64, 1.0), (19, 70, 40.0))
    ):
        fields: dict[str, Any] = {
            "q": FLOAT16,
            "k": BFLOAT16,
            "v": FLOAT32,
            "softmax": True,
            "mask_kind": MaskKind.NONE,
            "head_dim": 24,
            "value_dim": 17,
        } | options
        head_dim, value_dim = fields.pop("head_dim"), fields.pop("value_dim")
        low, pe_dim = fields.pop("low", 0.0), fields.pop("pe_dim", 0)
        amplitude = fields.pop("amplitude", amplitude)
        if pe_dim:
            fields |= {"q_pe_shape": (2, 4, q_len, pe_dim), "q_pe": FLOAT32}
            fields |= {"k_pe_shape": (2, 1 + seed % 2, kv_len, pe_dim), "k_pe": FLOAT16}
        if "mask" in fields:
            columns = 1 if fields.pop("one_column", False) else kv_len
            fields["mask_shape"] = ((2, 1, q_len, columns), (1, 4, 1, columns))[seed % 2]
        problem = attention_problem(
            "mutation",
            q_shape=(2, 4, q_len, head_dim),
            k_shape=(2, 2, kv_len, head_dim),
            v_shape=(2, 2, kv_len, value_dim),
            **fields,
        )
        trials.append((problem, Data(seed=seed, amplitude=amplitude, low=low)))
    return trials


def _featured() -> list[Made]:
    """Return windows, sinks and positional parts; rows that several simdgroups share."""
    kernel = "attention_chain"
    window = {"mask_kind": MaskKind.CAUSAL, "window": 7}
    sinks = {"sinks": FLOAT16, "sinks_shape": (4,), "return_lse": True}
    large = {"head_dim": 21, "value_dim": 281}
    return [
        _subject(kernel, "16x32-direct", *_chain(**window, **sinks)),
        _subject(kernel, "16x32-staged", *_chain(**window, pe_dim=12)),
        _subject(kernel, "16x32-direct", *_chain(pe_dim=12)),
        _subject(kernel, "32x16-staged-reread", *_chain(**window, pe_dim=12)),
        _subject(kernel, "16x8-staged-heads2", *_chain(**large, return_norm=True)),
        _subject(kernel, "16x8-staged-heads2", *_chain(**large, **window, pe_dim=12)),
        _subject(kernel, "16x16-direct-heads2", *_chain(**large, **sinks, pe_dim=12)),
    ]


def _masked() -> list[Made]:
    """Return masks with one column for all keys, with very low scores, and for a literal chain."""
    kernel = "attention_chain"
    boolean = {"mask_kind": MaskKind.BOOLEAN, "mask": BOOL}
    additive = {"mask_kind": MaskKind.ADDITIVE, "mask": FLOAT32}
    return [
        _subject(kernel, "16x32-direct", *_chain(**additive, low=-300.0, return_norm=True)),
        _subject(kernel, "32x16-direct", *_chain(**boolean, softmax=False)),
        _subject(kernel, "32x16-staged", *_chain(**additive, softmax=False, one_column=True)),
    ]


def _far() -> list[Made]:
    """Return rows of scores near the lowest float, and of scores too large for a log-sum-exp."""
    low = {"mask_kind": MaskKind.ADDITIVE, "mask": FLOAT32, "low": -3.0e38}
    large = {"mask_kind": MaskKind.CAUSAL, "q": FLOAT32, "amplitude": 1.0e36}
    queries = partial(_gradients, QueryGradientProblem)
    return [
        _subject("attention_chain", "16x32-direct", *_chain(**low, return_lse=True)),
        _subject("attention_backward_query", "32x32-direct-cached", *queries(**low)),
        _subject("attention_backward_query", "32x32-direct-cached", *queries(**large)),
    ]


def _gradients(of: type[Any], **options: Any) -> list[tuple[AnyProblem, Data]]:  # noqa: ANN401
    """Return the gradients of some attentions."""
    trials = _chain(**options)[:4]
    lse = options.get("softmax", True)
    return [
        (of(attention=replace(cast(AttentionProblem, problem), return_lse=lse)), data)
        for problem, data in trials
    ]


def _backward() -> list[Made]:
    causal = {"mask_kind": MaskKind.CAUSAL}
    boolean = {"mask_kind": MaskKind.BOOLEAN, "mask": BOOL}
    additive = {"mask_kind": MaskKind.ADDITIVE, "mask": FLOAT16}
    found = []
    for kernel, of in (
        ("attention_backward_query", QueryGradientProblem),
        ("attention_backward_key_value", KeyValueGradientProblem),
    ):
        literal = {"softmax": False, "head_dim": 32, "value_dim": 16}
        found += [
            _subject(kernel, "32x32-staged-cached", *_gradients(of, **boolean)),
            _subject(kernel, "16x32-direct-cached", *_gradients(of, **causal)),
            _subject(kernel, "32x16-staged-reloaded", *_gradients(of, **additive, v=FLOAT16)),
            _subject(kernel, "32x32-direct-reloaded", *_gradients(of, **boolean, **literal)),
            _subject(kernel, "32x16-staged-cached", *_gradients(of, **additive, softmax=False)),
            _subject(kernel, "16x32-staged-reloaded", *_gradients(of, **causal, softmax=False)),
            *_grouped_gradients(kernel, of),
        ]
    with_lse = [
        (replace(cast(QueryGradientProblem, problem), lse_gradient=True), data)
        for problem, data in _gradients(QueryGradientProblem)
    ]
    return [*found, _subject("attention_backward_query", "32x32-direct-cached", *with_lse)]


def _grouped_gradients(kernel: str, of: type[Any]) -> list[Made]:
    """Return gradients of rows that several simdgroups share, and under a window."""
    window = {"mask_kind": MaskKind.CAUSAL, "window": 7}
    boolean = {"mask_kind": MaskKind.BOOLEAN, "mask": BOOL}
    staged = {"head_dim": 144, "value_dim": 48, "v": FLOAT16, "out": FLOAT16}
    direct = {"head_dim": 130, "value_dim": 34}
    unequal = {"head_dim": 122, "value_dim": 34}
    return [
        _subject(kernel, "16x16-staged-reloaded-heads2", *_gradients(of, **window, **staged)),
        _subject(kernel, "16x16-direct-reloaded-heads2", *_gradients(of, **direct)),
        _subject(kernel, "16x16-direct-cached-heads2", *_gradients(of, **boolean, **unequal)),
    ]


def _tall() -> list[Made]:
    """Return attentions of which a simdgroup has sixteen rows."""
    causal = {"mask_kind": MaskKind.CAUSAL, "return_lse": True}
    # Of a block of rows that all see some keys, and not all see those before.
    windowed = _chain(mask_kind=MaskKind.CAUSAL, window=60)[1::2]
    boolean = {"mask_kind": MaskKind.BOOLEAN, "mask": BOOL}
    # One row of a mask that says more than q: the maxima of all rows rise in the same steps.
    rising = _chain(mask_kind=MaskKind.ADDITIVE, mask=FLOAT32, amplitude=0.01)[1::2]
    return [
        _subject("attention_chain", "64x32-staged-tall", *_chain(**causal, v=BFLOAT16)),
        _subject("attention_chain", "32x16-staged-tall", *windowed),
        _subject("attention_chain", "32x16-staged-tall", *rising),
        _subject(
            "attention_chain", "32x16-staged-tall", *_chain(**boolean, softmax=False, head_dim=32)
        ),
    ]


def _ragged() -> list[Made]:
    """Return attentions of several fragments, the last not full, and gradients under such masks."""
    additive = {"mask_kind": MaskKind.ADDITIVE, "mask": FLOAT32, "one_column": True}
    gradients = (
        ("attention_backward_query", QueryGradientProblem),
        ("attention_backward_key_value", KeyValueGradientProblem),
    )
    return [
        _subject("attention_chain", "16x32-direct", *_chain(head_dim=21, value_dim=27)),
        _subject("attention_chain", "16x32-direct", *_chain(head_dim=27, value_dim=21)),
        *(
            _subject(
                kernel,
                "32x32-direct-cached",
                *_gradients(of, **additive, head_dim=21, value_dim=27),
            )
            for kernel, of in gradients
        ),
    ]


def _attention() -> list[Made]:
    kernel = "attention_chain"
    causal = {"mask_kind": MaskKind.CAUSAL, "return_lse": True}
    boolean = {"mask_kind": MaskKind.BOOLEAN, "mask": BOOL, "return_lse": True}
    additive = {"mask_kind": MaskKind.ADDITIVE, "mask": FLOAT16}
    return [
        _subject(kernel, "16x32-staged", *_chain(**boolean)),
        _subject(kernel, "16x32-direct", *_chain(**causal)),
        _subject(kernel, "32x16-direct", *_chain(**additive, head_dim=7, value_dim=24)),
        _subject(kernel, "32x32-staged", *_chain(**causal, head_dim=21, out=FLOAT16)),
        _subject(kernel, "16x32-staged", *_chain(**additive, softmax=False)),
        _subject(kernel, "8x32-staged", *_chain(q=FLOAT32, v=FLOAT16, value_dim=32, head_dim=32)),
    ]


def _rounded() -> list[Made]:
    """Return results of bfloat16, to which nothing converts implicitly; columns in full blocks."""
    narrow = {"q": BFLOAT16, "v": BFLOAT16}
    return [
        _subject("attention_chain", "16x32-direct", *_chain(out=BFLOAT16)),
        *(
            _subject(kernel, "32x32-direct-cached", *_gradients(of, **narrow))
            for kernel, of in (
                ("attention_backward_query", QueryGradientProblem),
                ("attention_backward_key_value", KeyValueGradientProblem),
            )
        ),
    ]

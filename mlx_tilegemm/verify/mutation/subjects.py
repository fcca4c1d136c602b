"""The kernels that are mutated, and the small problems they then have to solve.

Each problem has several threadgroups and sizes off the tiles; one kernel serves all problems of a
subject, whose sizes differ only in what is run-time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, cast

from ... import chips
from ...dtypes import BFLOAT16, BOOL, FLOAT16, FLOAT32, INT16, UINT8
from ...kernels import KERNELS
from ...kernels.gemm import variant
from ...plan import Plan
from ...problem import (
    AttentionProblem,
    GemmProblem,
    KeyValueGradientProblem,
    MaskKind,
    Problem,
    QueryGradientProblem,
    attention_problem,
)
from ..cases import Data
from .decoding import decoding


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One problem, with its data.

    Attributes:
        problem: The problem.
        plan: The subject's plan for it.
        data: Which numbers.
    """

    problem: Problem
    plan: Plan
    data: Data


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A kernel to mutate.

    Attributes:
        name: Kernel, configuration and flags, readable.
        trials: What it has to solve; all with the same texts.
    """

    name: str
    trials: tuple[Trial, ...]


@lru_cache(maxsize=1)
def subjects() -> tuple[Subject, ...]:
    """Return every subject; together they contain every line of every template."""
    return (
        *_simdgroup(),
        *_split_k(),
        *_scalar(),
        *_gemv(),
        *_attention(),
        *_swizzled(),
        *_masked(),
        *_featured(),
        *_backward(),
        *_rounded(),
        *_ragged(),
        *(_subject("attention_decode", config, *trials) for config, trials in decoding()),
    )


def _subject(kernel: str, config: str, *trials: tuple[Problem, Data]) -> Subject:
    """Return a subject with the configuration that is most like the one asked for."""
    module = next(one for one in KERNELS if kernel == one.NAME)
    legal = {
        str(one): one
        for one in module.candidates(trials[0][0], chips.DEFAULT)
        if module.reject(trials[0][0], one, chips.DEFAULT) is None
    }
    name = max(legal, key=lambda one: len(set(one.split("-")) & set(config.split("-"))))
    found = legal[name]
    made = tuple(
        Trial(problem=problem, plan=module.plan(problem, found), data=data)
        for problem, data in trials
    )
    specs = {tuple(stage.spec for stage in trial.plan.stages) for trial in made}
    assert len(specs) == 1, f"{kernel}/{config} has {len(specs)} texts"
    return Subject(name=f"{kernel}/{name} {_flags(trials[0][0])}", trials=made)


def _flags(problem: Problem) -> str:
    if isinstance(problem, GemmProblem):
        addend = f"+{problem.c}" if problem.c else ""
        return f"{problem.layout} {problem.a}x{problem.b}{addend} n{problem.n} k{problem.k}"
    p = problem if isinstance(problem, AttentionProblem) else problem.attention
    chain = "softmax" if p.softmax else "literal"
    return f"{chain} {p.mask_kind.value} d{p.head_dim} dv{p.value_dim}"


def _gemm(*rows: int, **options: Any) -> list[tuple[Problem, Data]]:  # noqa: ANN401
    """Return a product with each of some numbers of rows."""
    fields = {"a": FLOAT16, "b": FLOAT32, "n": 70, "k": 43, **options}
    return [(variant(m=m, **fields), Data(seed=m)) for m in rows]


def _simdgroup() -> list[Subject]:
    small, large, kernel = "32x32x16-2x2", "64x64x16-2x2", "gemm_simdgroup"
    batched = {"a_batch": (2, 3), "b_batch": (3,), "c": BFLOAT16}
    tt = {"transpose_a": True, "transpose_b": True}
    return [
        _subject(kernel, f"{small}-staged", *_gemm(45, 9, **batched, c_shape=(3, 1, 70))),
        _subject(kernel, f"{small}-direct", *_gemm(45, **batched, c_shape=(2, 1, 45, 70))),
        _subject(kernel, f"{small}-staged", *_gemm(45, 9, **tt, b=BFLOAT16, n=38)),
        _subject(kernel, f"{small}-direct", *_gemm(45, 9, **tt, out=FLOAT16, scaled=True)),
        _subject(kernel, f"{large}-staged-double", *_gemm(70, 9, n=70, k=53)),
        _subject(kernel, f"{large}-staged-double", *_gemm(70, 9, n=70, k=32, b=FLOAT16)),
        _subject(kernel, f"{large}-staged-swizzle4", *_gemm(150, 9)),
        _subject(kernel, "32x64x16-1x2-staged", *_gemm(64, 128, n=128, k=48)),
        _subject(kernel, "64x32x32-2x2-staged", *_gemm(70, 9, n=40, k=75)),
        _subject(kernel, "64x32x32-2x2-staged", *_gemm(70, n=75, k=75, **tt)),
        *_half_guarded(small, {}),
        *_half_guarded(small, tt),
    ]


def _half_guarded(tile: str, layout: dict[str, Any]) -> list[Subject]:
    """Return products in which only the rows, or only the columns, are off the tiles."""
    return [
        _subject("gemm_simdgroup", f"{tile}-{route}", *_gemm(*rows, n=n, k=43, **layout))
        for route in ("staged", "direct")
        for rows, n in (((45, 9), 64), ((64, 32), 70))
    ]


def _swizzled() -> list[Subject]:
    """Return more block rows than are walked together, ragged and aligned."""
    kernel, config = "gemm_simdgroup", "64x64x16-2x2-staged-swizzle4"
    return [
        _subject(kernel, config, *_gemm(300, 150, b=FLOAT16)),
        _subject(kernel, config, *_gemm(192, 320, b=BFLOAT16, n=64, k=32)),
    ]


def _split_k() -> list[Subject]:
    addend = {"c": FLOAT16, "c_shape": (37,)}
    return [
        _subject(
            "gemm_split_k", "32x32x16-2x2-staged-split4", *_gemm(33, 20, n=37, k=555, **addend)
        ),
        _subject(
            "gemm_split_k",
            "32x32x16-2x2-staged-split4",
            *_gemm(33, 9, n=70, k=512, transpose_a=True, transpose_b=True),
        ),
        _subject(
            "gemm_split_k",
            "32x32x16-2x2-staged-split4",
            *_gemm(33, n=37, k=555, c=BFLOAT16, c_shape=(33, 37)),
        ),
    ]


def _scalar() -> list[Subject]:
    config, kernel = "32x32x16-4x4-thread", "gemm_scalar"
    batched = {"a_batch": (2, 3), "b_batch": (3,), "c": BFLOAT16}
    integers = {"a": UINT8, "b": INT16, "transpose_a": True, "transpose_b": True, "scaled": True}
    return [
        _subject(kernel, config, *_gemm(45, 9, **batched, c_shape=(3, 1, 70))),
        _subject(kernel, config, *_gemm(45, 9, **integers)),
        _subject(kernel, "8x32x32-2x2-thread", *_gemm(45, 9, b=BFLOAT16, out=FLOAT16)),
        _subject(
            kernel, "8x32x32-2x2-thread", *_gemm(45, 9, transpose_a=True, transpose_b=True, k=75)
        ),
    ]


def _gemv() -> list[Subject]:
    batched = {"a_batch": (3,), "b_batch": (3,), "c": BFLOAT16}
    return [
        _subject("gemv", "4x4-8", *_gemm(3, 2, 7, k=300, n=70, transpose_b=True)),
        _subject(
            "gemv",
            "4x4-8",
            *_gemm(
                3,
                2,
                7,
                k=300,
                n=38,
                transpose_a=True,
                transpose_b=True,
                **batched,
                c_shape=(3, 1, 38),
            ),
        ),
        _subject("gemv", "16x4-4", *_gemm(13, 7, k=300, n=37, transpose_b=True)),
        _subject("gemv", "4x4-8", *_gemm(3, k=300, n=37, transpose_b=True)),
        _subject("gemv", "4x4-8", *_gemm(3, 2, 7, k=43, n=300)),
        _subject("gemv", "4x4-8", *_gemm(3, k=256, n=300)),
        _subject(
            "gemv", "1x4-8", *_gemm(1, k=300, n=38, transpose_b=True, **batched, c_shape=(38,))
        ),
        _subject(
            "gemv",
            "1x4-8",
            *_gemm(1, k=300, n=70, transpose_b=True, a_batch=(2, 3), b_batch=(3,)),
        ),
        _subject(
            "gemv",
            "4x4-8",
            *_gemm(
                2, 1, 3, k=19, n=140, b=FLOAT16, transpose_a=True, **batched, c_shape=(3, 1, 140)
            ),
        ),
    ]


def _chain(**options: Any) -> list[tuple[Problem, Data]]:  # noqa: ANN401
    """Return an attention with several lengths, one of them in whole blocks.

    The last has scores that exp cannot take.
    """
    trials: list[tuple[Problem, Data]] = []
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


def _featured() -> list[Subject]:
    """Return windows, sinks and positional parts; rows that several simdgroups share."""
    kernel = "attention_chain"
    window = {"mask_kind": MaskKind.CAUSAL, "window": 7}
    sinks = {"sinks": FLOAT16, "sinks_shape": (4,), "return_lse": True}
    large = {"head_dim": 21, "value_dim": 281}
    return [
        _subject(kernel, "16x32-direct", *_chain(**window, **sinks)),
        _subject(kernel, "16x32-staged", *_chain(**window, pe_dim=12)),
        _subject(kernel, "16x32-direct", *_chain(pe_dim=12)),
        _subject(kernel, "16x8-staged-heads2", *_chain(**large, **window, pe_dim=12)),
        _subject(kernel, "16x16-direct-heads2", *_chain(**large, **sinks, pe_dim=12)),
    ]


def _masked() -> list[Subject]:
    """Return masks with one column for all keys, with very low scores, and for a literal chain."""
    kernel = "attention_chain"
    boolean = {"mask_kind": MaskKind.BOOLEAN, "mask": BOOL}
    additive = {"mask_kind": MaskKind.ADDITIVE, "mask": FLOAT32}
    return [
        _subject(kernel, "16x32-direct", *_chain(**additive, low=-300.0)),
        _subject(kernel, "32x16-direct", *_chain(**boolean, softmax=False)),
        _subject(kernel, "32x16-staged", *_chain(**additive, softmax=False, one_column=True)),
    ]


def _gradients(of: type[Any], **options: Any) -> list[tuple[Problem, Data]]:  # noqa: ANN401
    """Return the gradients of some attentions."""
    trials = _chain(**options)[:4]
    lse = options.get("softmax", True)
    return [
        (of(attention=replace(cast(AttentionProblem, problem), return_lse=lse)), data)
        for problem, data in trials
    ]


def _backward() -> list[Subject]:
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


def _grouped_gradients(kernel: str, of: type[Any]) -> list[Subject]:
    """Return gradients of rows that several simdgroups share, and under a window."""
    window = {"mask_kind": MaskKind.CAUSAL, "window": 7}
    boolean = {"mask_kind": MaskKind.BOOLEAN, "mask": BOOL}
    staged = {"head_dim": 144, "value_dim": 48, "v": FLOAT16, "out": FLOAT16}
    direct = {"head_dim": 130, "value_dim": 34}
    return [
        _subject(kernel, "16x16-staged-reloaded-heads2", *_gradients(of, **window, **staged)),
        _subject(kernel, "16x16-direct-cached-heads2", *_gradients(of, **boolean, **direct)),
    ]


def _rounded() -> list[Subject]:
    """Return results of bfloat16, to which nothing converts implicitly; columns in full blocks."""
    out = {"out": BFLOAT16}
    narrow = {"q": BFLOAT16, "v": BFLOAT16}
    return [
        _subject("gemm_simdgroup", "32x32x16-2x2-direct", *_gemm(45, 9, **out)),
        _subject("gemm_scalar", "32x32x16-4x4-thread", *_gemm(45, 9, **out)),
        _subject("gemm_split_k", "32x32x16-2x2-staged-split4", *_gemm(33, n=37, k=555, **out)),
        _subject("gemv", "4x4-8", *_gemm(3, 2, 7, k=256, n=64, transpose_b=True, **out)),
        _subject("attention_chain", "16x32-direct", *_chain(**out)),
        *(
            _subject(kernel, "32x32-direct-cached", *_gradients(of, **narrow))
            for kernel, of in (
                ("attention_backward_query", QueryGradientProblem),
                ("attention_backward_key_value", KeyValueGradientProblem),
            )
        ),
    ]


def _ragged() -> list[Subject]:
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


def _attention() -> list[Subject]:
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

"""Products that mutated texts have to solve.

Each has several threadgroups and sizes off the tiles; the trials of one subject differ only in
sizes that are run-time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...core.dtypes import BFLOAT16, FLOAT16, FLOAT32, INT16, UINT8
from ...core.family import Data, Subject
from .problem import GemmProblem
from .spec import variant

Trials = tuple[tuple[GemmProblem, Data], ...]
Made = Subject[GemmProblem]


def subjects() -> Iterator[Made]:
    """Yield every subject; together they contain every line of the templates."""
    yield from _simdgroup()
    yield from _split_k()
    yield from _scalar()
    yield from _gemv()
    yield from _swizzled()
    yield from _rounded()


def _subject(kernel: str, config: str, *trials: tuple[GemmProblem, Data]) -> Made:
    problem = trials[0][0]
    addend = f"+{problem.c}" if problem.c else ""
    flags = f"{problem.layout} {problem.a}x{problem.b}{addend} n{problem.n} k{problem.k}"
    return Subject(kernel=kernel, config=config, trials=trials, flags=flags)


def _gemm(*rows: int, **options: Any) -> list[tuple[GemmProblem, Data]]:  # noqa: ANN401
    """Return a product with each of some numbers of rows."""
    fields = {"a": FLOAT16, "b": FLOAT32, "n": 70, "k": 43, **options}
    return [(variant(m=m, **fields), Data(seed=m)) for m in rows]


def _simdgroup() -> list[Made]:
    small, large, kernel = "32x32x16-2x2", "64x64x16-2x2", "gemm_simdgroup"
    batched = {"a_batch": (2, 3), "b_batch": (3,), "c": BFLOAT16}
    outer = {**batched, "b_batch": (2, 1)}
    tt = {"transpose_a": True, "transpose_b": True}
    return [
        _subject(kernel, f"{small}-staged", *_gemm(45, 9, **batched, c_shape=(3, 1, 70))),
        _subject(kernel, f"{small}-direct", *_gemm(45, **outer, c_shape=(2, 1, 45, 70))),
        _subject(kernel, f"{small}-staged", *_gemm(45, 9, **tt, b=BFLOAT16, n=38)),
        _subject(kernel, f"{small}-direct", *_gemm(45, 9, **tt, out=FLOAT16, scaled=True)),
        _subject(kernel, f"{large}-staged-double", *_gemm(70, 9, n=70, k=53)),
        _subject(kernel, f"{large}-staged-double", *_gemm(70, 9, n=70, k=32, b=FLOAT16)),
        _subject(kernel, f"{large}-staged-double", *_gemm(70, 9, n=70, k=53, **tt)),
        _subject(kernel, f"{large}-staged-swizzle4", *_gemm(150, 9)),
        _subject(kernel, "32x64x16-1x2-staged", *_gemm(64, 128, n=128, k=48)),
        _subject(kernel, "64x32x32-2x2-staged", *_gemm(70, 9, n=40, k=75)),
        _subject(kernel, "64x32x32-2x2-staged", *_gemm(70, n=75, k=75, **tt)),
        *_half_guarded(small, {}),
        *_half_guarded(small, tt),
    ]


def _half_guarded(tile: str, layout: dict[str, Any]) -> list[Made]:
    """Return products in which only the rows, or only the columns, are off the tiles."""
    return [
        _subject("gemm_simdgroup", f"{tile}-{route}", *_gemm(*rows, n=n, k=43, **layout))
        for route in ("staged", "direct")
        for rows, n in (((45, 9), 64), ((64, 32), 70))
    ]


def _swizzled() -> list[Made]:
    """Return more block rows than are walked together, ragged and aligned."""
    kernel, config = "gemm_simdgroup", "64x64x16-2x2-staged-swizzle4"
    return [
        _subject(kernel, config, *_gemm(300, 150, b=FLOAT16)),
        _subject(kernel, config, *_gemm(192, 320, b=BFLOAT16, n=64, k=32)),
    ]


def _split_k() -> list[Made]:
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


def _scalar() -> list[Made]:
    config, kernel = "32x32x16-4x4-thread", "gemm_scalar"
    batched = {"a_batch": (2, 3), "b_batch": (3,), "c": BFLOAT16}
    column = {"c": BFLOAT16, "c_shape": (45, 1)}
    integers = {"a": UINT8, "b": INT16, "transpose_a": True, "transpose_b": True, "scaled": True}
    return [
        _subject(kernel, config, *_gemm(45, 9, **batched, c_shape=(3, 1, 70))),
        _subject(kernel, config, *_gemm(45, 9, **integers)),
        _subject(kernel, "8x32x32-2x2-thread", *_gemm(45, b=BFLOAT16, out=FLOAT16, **column)),
        _subject(
            kernel, "8x32x32-2x2-thread", *_gemm(45, 9, transpose_a=True, transpose_b=True, k=75)
        ),
    ]


def _gemv() -> list[Made]:
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
        _subject("gemv", "16x2-4", *_gemm(13, 7, k=300, n=37, transpose_b=True)),
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


def _rounded() -> list[Made]:
    """Return results of bfloat16, to which nothing converts implicitly; columns in full blocks."""
    out = {"out": BFLOAT16}
    return [
        _subject("gemm_simdgroup", "32x32x16-2x2-direct", *_gemm(45, 9, **out)),
        _subject("gemm_scalar", "32x32x16-4x4-thread", *_gemm(45, 9, **out)),
        _subject("gemm_split_k", "32x32x16-2x2-staged-split4", *_gemm(33, n=37, k=555, **out)),
        _subject("gemv", "4x4-8", *_gemm(3, 2, 7, k=256, n=64, transpose_b=True, **out)),
    ]

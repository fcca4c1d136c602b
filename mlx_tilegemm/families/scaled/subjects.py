"""Products of scaled codes that mutated texts have to solve.

Each has several threadgroups and sizes off the tiles; the trials of one subject differ only in
sizes that are run-time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ...core.dtypes import (
    BFLOAT16,
    FLOAT8_E4M3,
    FLOAT8_E5M2,
    FLOAT16,
    FLOAT32,
    INT8,
    INT32,
)
from ...core.family import Data, Subject
from ...core.scaling import Scaling
from .problem import ScaledProblem
from .spec import POWERS, ROWS, block_scaling, variant

Made = Subject[ScaledProblem]


def subjects() -> Iterator[Made]:
    """Yield every subject; together they contain every line of the templates."""
    blocks = {
        "b_scales": block_scaling(FLOAT16, 16, 24),
        "a_scales": block_scaling(BFLOAT16, 1),
        "a": FLOAT8_E4M3,
        "b": FLOAT8_E5M2,
        "bias": FLOAT32,
    }
    wide = replace(POWERS, height=0)
    powers = {"a": FLOAT8_E5M2, "a_scales": POWERS, "b_scales": wide, "out": BFLOAT16}
    rows = ROWS(dtype=FLOAT32)
    integers = {"a": INT8, "b": INT8, "a_scales": rows, "b_scales": rows, "out": FLOAT32}
    own = {"b_scales": Scaling(dtype=FLOAT32, batched=True), "a": FLOAT8_E4M3}
    own |= {"a_scales": Scaling(dtype=FLOAT32, height=1, batched=True), "a_batch": (2, 3)}
    # Each of the axes is one along which b stays, once.
    inner, outer = ({**own, "b_batch": batch} for batch in ((3,), (2, 1)))
    for layout in (True, False):
        yield from _few_rows(layout, blocks, powers, integers, inner)
        yield from _many_rows(layout, blocks, powers, integers, outer)
    # Columns without guards and depths with, the other way round, and whole steps before a tail
    # whose sums are more than what is exact. One element has a scale of NaN.
    yield _subject("scaled_gemv", "1x2-4", *_products(48, 65, True, 1, b_scales=POWERS))
    yield _subject("scaled_gemv", "1x1-4", *_products(90, 48, False, 1))
    for layout in (True, False):
        yield _subject("scaled_gemm", "16x32-1x4", *_products(64, 1050, layout, 11))
    # Whole steps, and simdgroups without columns whose rows of b are in no memory.
    yield _subject("scaled_gemv", "2x4-8-staged", *_products(36, 640, True, 2))
    # Fewer scales than what a step past the end would ask for.
    short = {"a": FLOAT8_E4M3, "a_scales": block_scaling(FLOAT32, 1, 8)}
    short |= {"b_scales": block_scaling(FLOAT32, 1, 8)}
    yield _subject("scaled_gemm", "16x32-1x4", *_products(64, 72, True, 11, **short))
    # Sums of a thread that are odd and more than float32 has all numbers of.
    for config, transpose_b, sizes in (
        ("1x2-4", True, (1, 3, 36000)),
        ("2x4-8-staged", True, (2, 5, 36000)),
        ("1x1-4", False, (1, 19, 6000)),
    ):
        deep = variant(*sizes, transpose_b=transpose_b, a=INT8, b=INT8, out=INT32)
        yield _subject("scaled_gemv", config, (deep, Data(seed=1, exact=True)))
    # A scale for each column of the result, beside floats.
    yield _subject("scaled_gemv", "1x2-4", *_products(37, 90, True, 1, b_scales=rows))
    # One scale for each matrix of a.
    each: dict[str, Any] = {"a": FLOAT8_E4M3, "a_scales": Scaling(dtype=FLOAT32, batched=True)}
    yield _subject("scaled_gemv", "4x2-4", *_products(37, 90, True, 3, a_batch=(3,), **each))
    # Rows of a in bfloat16, to which nothing converts implicitly.
    plain: dict[str, Any] = {"a": BFLOAT16, "b": FLOAT8_E4M3, "bias": BFLOAT16, "out": BFLOAT16}
    yield _subject("scaled_gemv", "2x4-8-staged", *_products(37, 90, True, 2, **plain))


def _few_rows(transpose_b: bool, *options: dict[str, Any]) -> Iterator[Made]:
    # Rows of b that are longer than one step of a simdgroup, and a number of them that leaves the
    # last threadgroup short.
    n, k = (37, 650) if transpose_b else (666, 37)
    kernel = "scaled_gemv"
    for one in options:
        # Where columns share scales, four rows of broken runs would spill.
        fewer = not transpose_b and one["b_scales"].height != 1
        few, rows = ("2x1-4", (2,)) if fewer else ("4x2-4" if transpose_b else "4x1-4", (3, 4))
        yield _subject(kernel, few, *_products(n, k, transpose_b, *rows, **one))
    scales = {"b_scales": block_scaling(FLOAT32)}
    yield _subject(kernel, "2x1-4", *_products(n, k, transpose_b, 2, **scales))
    if transpose_b:
        yield from _staged_rows(*options)
        yield _subject(kernel, "1x2-4", *_products(37, 90, transpose_b, 1, b=FLOAT8_E5M2))
        # Integers of which one side alone has scales, or neither, with a bias.
        floats = ROWS(dtype=FLOAT32)
        alone: list[dict[str, Any]] = [
            {"a_scales": floats},
            {"b_scales": floats},
            {"bias": FLOAT32},
        ]
        for one in alone:
            whole = {"a": INT8, "b": INT8, "out": FLOAT32, **one}
            yield _subject(kernel, "1x2-4", *_products(37, 90, transpose_b, 1, **whole))
    # Whole runs along the rows of b.
    n, k = (37, 640) if transpose_b else (672, 37)
    yield _subject(kernel, "1x2-4", *_products(n, k, transpose_b, 1, a=INT8, b=INT8, out=INT32))


def _staged_rows(*options: dict[str, Any]) -> Iterator[Made]:
    # More than a step of k, fewer rows than simdgroups and as many; simdgroups without columns.
    for rows, one in zip((2, 4, 8), options, strict=False):
        products = _products(37, 650, True, rows, rows - 1, **one)
        yield _subject("scaled_gemv", f"{rows}x4-8-staged", *products)
    # Whole runs, and columns for every simdgroup.
    yield _subject("scaled_gemv", "2x4-8-staged", *_products(64, 640, True, 2, b=FLOAT8_E5M2))


def _many_rows(transpose_b: bool, *options: dict[str, Any]) -> Iterator[Made]:
    n, k = (37, 90) if transpose_b else (90, 33)
    kernel = "scaled_gemm"
    for one in options:
        yield _subject(kernel, "32x32-2x2", *_products(n, k, transpose_b, 35, 11, **one))
    # Rows without guards, columns with; and sums that go on after they were added up.
    scales = {"b_scales": block_scaling(FLOAT32)}
    yield _subject(kernel, "64x64-2x2", *_products(70, 96, transpose_b, 64, 128, **scales))
    deep = variant(11, 37, 2100, transpose_b=transpose_b, a=INT8, b=INT8, out=INT32)
    yield _subject(kernel, "16x32-1x4", (deep, Data(seed=11, exact=True)))


def _products(
    n: int,
    k: int,
    transpose_b: bool,
    *rows: int,
    **options: Any,  # noqa: ANN401 - of `variant`
) -> list[tuple[ScaledProblem, Data]]:
    """Return a product with each of some numbers of rows."""
    return [(variant(m, n, k, transpose_b=transpose_b, **options), Data(seed=m)) for m in rows]


def _subject(kernel: str, config: str, *trials: tuple[ScaledProblem, Data]) -> Made:
    problem = trials[0][0]
    flags = f"{problem.layout} {problem.a}x{problem.b} n{problem.n} k{problem.k}"
    return Subject(kernel=kernel, config=config, trials=trials, flags=flags)

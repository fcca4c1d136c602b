"""Products with quantized weights that mutated texts have to solve.

Each has several threadgroups and sizes off the tiles; the trials of one subject differ only in
sizes that are run-time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...core.dtypes import BFLOAT16, FLOAT16, FLOAT32
from ...core.family import Data, Subject
from .problem import QuantizedProblem
from .spec import variant

Made = Subject[QuantizedProblem]


def subjects() -> Iterator[Made]:
    """Yield every subject; together they contain every line of the templates."""
    mixed = {"x": BFLOAT16, "scales": FLOAT16, "biases": FLOAT32, "out": BFLOAT16}
    scaled = {"mode": "nvfp4", "tensor_scale": True, "bias": BFLOAT16, "out": FLOAT32}
    # Each of the axes is one along which the weight stays, once.
    inner, outer = ({"x_batch": (2, 3), "w_batch": batch} for batch in ((3,), (2, 1)))
    for layout in (True, False):
        yield from _few_rows(layout, mixed, scaled, inner)
        yield from _many_rows(layout, mixed, scaled, outer)


def _few_rows(
    transpose: bool, mixed: dict[str, Any], scaled: dict[str, Any], batched: dict[str, Any]
) -> Iterator[Made]:
    # Rows of the weight that are longer than one step of a simdgroup, and a number of them that
    # leaves the last threadgroup short.
    n, k = (37, 640) if transpose else (672, 37)
    few = "4x4-4" if transpose else "4x1-4"
    most, rows = ("8x4-4", (7, 8)) if transpose else ("4x1-16", (3, 4))
    kernel = "quantized_gemv"
    yield _subject(kernel, few, *_products(n, k, transpose, 3, 4, **mixed, **batched))
    yield _subject(kernel, few, *_products(n, k, transpose, 4, 3, **scaled))
    yield _subject(kernel, "1x2-4", *_products(n, k, transpose, 1, bits=3, group=32))
    yield _subject(kernel, most, *_products(n, k, transpose, *rows, mode="mxfp8"))


def _many_rows(
    transpose: bool, mixed: dict[str, Any], scaled: dict[str, Any], batched: dict[str, Any]
) -> Iterator[Made]:
    # A last step of half a block with nvfp4, and of one row of the weight.
    n, k = (37, 80) if transpose else (80, 33)
    # Rows without guards, columns with.
    sizes = (70, 96) if transpose else (96, 70)
    kernel = "quantized_gemm"
    yield _subject(kernel, "32x32-2x2", *_products(n, k, transpose, 35, 11, **mixed, **batched))
    yield _subject(kernel, "32x32-2x2", *_products(n, k, transpose, 35, 11, **scaled))
    yield _subject(kernel, "64x64-2x2", *_products(*sizes, transpose, 64, 128, bits=5, group=32))
    yield _subject(kernel, "32x64-1x4", *_products(n, k, transpose, 27, mode="mxfp8"))
    # Shares of several steps, the last one shorter and with a last step that is.
    deep = (37, 1136) if transpose else (80, 555)
    shares = _products(*deep, transpose, 19, 33, **scaled)
    yield _subject("quantized_split_k", "16x64-1x4-split4", *shares)


def _products(
    n: int,
    k: int,
    transpose: bool,
    *rows: int,
    **options: Any,  # noqa: ANN401 - of `variant`
) -> list[tuple[QuantizedProblem, Data]]:
    """Return a product with each of some numbers of rows."""
    return [(variant(m, n, k, transpose=transpose, **options), Data(seed=m)) for m in rows]


def _subject(kernel: str, config: str, *trials: tuple[QuantizedProblem, Data]) -> Made:
    problem = trials[0][0]
    flags = f"{problem.layout} {problem.x}x{problem.weight} n{problem.n} k{problem.k}"
    return Subject(kernel=kernel, config=config, trials=trials, flags=flags)

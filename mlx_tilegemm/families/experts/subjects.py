"""Products with chosen matrices that mutated texts have to solve.

Each has several threadgroups and sizes off the tiles; the trials of one subject differ only in
sizes that are run-time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...core.dtypes import (
    BFLOAT16,
    FLOAT8_E4M3,
    FLOAT8_E5M2,
    FLOAT8_E8M0,
    FLOAT16,
    FLOAT32,
    INT8,
)
from ...core.family import Data, Subject
from .kernels.segmented_gemm import variant as segmented
from .problem import AnyProblem
from .spec import Options, block_scaling, variant

Made = Subject[AnyProblem]


def subjects() -> Iterator[Made]:
    """Yield every subject; together they contain every line of the templates."""
    for transpose in (True, False):
        yield from _plain(transpose)
        yield from _quantized(transpose)
        yield from _coded(transpose)
    yield from _staged()
    yield from _segmented()
    # Codes without scales.
    yield _subject("expert_gemv", "1x1-4", _trial(13, (37, 90), w=FLOAT8_E4M3))
    # More products than the threads that list them, some of which have no expert.
    many = _trial(300, (37, 43), experts=5, bias=FLOAT16, outside=1)
    yield _subject("expert_gemm", "16x64-1x4", many)
    # Blocks of their own whose products have no expert.
    yield _subject("expert_gemv", "1x1-4", _trial(41, (37, 43), bias=FLOAT16, outside=1))
    # Whole steps, and simdgroups without columns whose rows of the weight are in no memory.
    yield _subject("expert_gemv", "1x4-4-staged", _trial(61, (36, 256)))
    # As many columns as the lanes of a threadgroup have.
    yield _subject("expert_gemv", "1x1-4", _trial(13, (256, 37), transpose=False))
    # Guards along one axis of a weight alone, at its end.
    yield _subject("expert_gemm", "16x64-1x4", _trial(61, (70, 64), transpose=False))
    for transpose in (True, False):
        yield _subject("expert_gemm", "16x64-1x4", _trial(61, (64, 71), transpose=transpose))
    # Tiles of more runs than there are threads.
    wide = segmented(70, 70, 131, a=FLOAT32, b=FLOAT32, out=FLOAT32)
    yield _subject("segmented_gemm", "64x64x16-2x2", (wide, Data(seed=1)))
    # Rows of more runs than there are threads.
    plain: Options = {"x": FLOAT32, "w": FLOAT16, "out": FLOAT32}
    yield _subject("expert_gemm", "32x64-1x4", _trial(99, (64, 71), **plain))
    yield _subject("expert_gemv", "4x4-4-staged", _trial(29, (37, 301), **plain))
    # Two rows of simdgroups.
    yield _subject("expert_gemm", "64x64-2x2", _trial(131, (70, 71)))
    # Results of bfloat16, to which nothing converts implicitly.
    rounded: Options = {"w": FLOAT16, "out": BFLOAT16}
    yield _subject("expert_gemv", "1x4-4-staged", _trial(13, (37, 43), **rounded))


def _plain(transpose: bool) -> Iterator[Made]:
    mixed: Options = {"x": BFLOAT16, "w": FLOAT16, "out": FLOAT32, "transpose": transpose}
    few = "4x2-4" if transpose else "4x1-4"
    sizes = (37, 301) if transpose else (301, 37)
    yield _subject(
        "expert_gemv",
        few,
        _trial(29, sizes, bias=FLOAT16, fanout=0, m=2, experts=33, **mixed),
        _trial(45, sizes, bias=FLOAT16, fanout=0, m=1, experts=41, **mixed),
        _trial(41, sizes, bias=FLOAT16, fanout=0, m=1, experts=41, outside=1, **mixed),
    )
    yield _subject("expert_gemv", "1x1-4", _trial(13, sizes, fanout=3, **mixed))
    yield _subject(
        "expert_gemv",
        few,
        _trial(33, sizes, grouped=True, **mixed),
        _trial(33, sizes, grouped=True, experts=32, **mixed),
    )
    yield _subject(
        "expert_gemm",
        "16x64-1x4",
        _trial(61, (70, 71), fanout=3, m=2, **mixed),
        _trial(43, (70, 71), fanout=3, experts=37, **mixed),
    )
    yield _subject("expert_gemm", "32x64-1x4", _trial(99, (128, 64), grouped=True, **mixed))


def _quantized(transpose: bool) -> Iterator[Made]:
    mixed: Options = {"x": BFLOAT16, "scales": FLOAT16, "biases": FLOAT32, "out": BFLOAT16}
    scaled: Options = {"mode": "nvfp4", "tensor_scale": True, "bias": BFLOAT16, "out": FLOAT32}
    few = "4x2-4" if transpose else "4x1-4"
    sizes = (37, 640) if transpose else (672, 37)
    layout: Options = {"transpose": transpose}
    yield _subject("expert_gemv", few, _trial(29, sizes, mode="affine", **mixed, **layout))
    yield _subject("expert_gemm", "16x64-1x4", _trial(61, (70, 71), **scaled, **layout))
    yield _subject("expert_gemm", "8x64-1x4", _trial(29, (70, 71), mode="mxfp8", **layout))


def _coded(transpose: bool) -> Iterator[Made]:
    blocks: Options = {"w": FLOAT8_E4M3, "scaling": block_scaling(FLOAT32), "bias": BFLOAT16}
    ragged: Options = {"w": FLOAT8_E5M2, "scaling": block_scaling(FLOAT16, 16, 24)}
    few = "4x2-4" if transpose else "4x1-4"
    sizes = (37, 650) if transpose else (666, 37)
    layout: Options = {"transpose": transpose}
    for options in (blocks, ragged):
        yield _subject("expert_gemv", few, _trial(29, sizes, **options, **layout))
    powers: Options = {"w": FLOAT8_E4M3, "scaling": block_scaling(FLOAT8_E8M0, 1)}
    yield _subject("expert_gemm", "16x64-1x4", _trial(61, (70, 71), **powers, **layout))
    whole: Options = {"w": INT8, "scaling": block_scaling(FLOAT32, 0, 0)}
    yield _subject("expert_gemm", "8x64-1x4", _trial(29, (128, 64), **whole, **layout))


def _staged() -> Iterator[Made]:
    # More than a step of k, and simdgroups whose columns are past the last one.
    mixed: Options = {"x": BFLOAT16, "w": FLOAT16, "out": FLOAT32, "bias": FLOAT16}
    few, one = "4x4-4-staged", "1x4-4-staged"
    yield _subject(
        "expert_gemv",
        few,
        _trial(29, (37, 301), fanout=0, m=2, experts=33, **mixed),
        _trial(45, (37, 301), fanout=0, m=1, experts=41, **mixed),
        _trial(41, (37, 301), fanout=0, m=1, experts=41, outside=1, **mixed),
    )
    yield _subject("expert_gemv", one, _trial(13, (37, 301), fanout=3, **mixed))
    # Whole runs, and whole steps.
    for depth in (264, 256):
        yield _subject("expert_gemv", one, _trial(61, (37, depth), **mixed))
    blocks: Options = {"w": FLOAT8_E4M3, "scaling": block_scaling(FLOAT32), "bias": BFLOAT16}
    for config in (few, one):
        yield _subject("expert_gemv", config, _trial(29, (37, 650), **blocks))


def _segmented() -> Iterator[Made]:
    for transpose in (True, False):
        layout: Options = {"transpose_a": transpose, "transpose_b": not transpose}
        dtypes: Options = {"a": BFLOAT16, "b": FLOAT16, "out": FLOAT32}
        # Segments that end anywhere; up to the end of the axis in whole steps, and in part of one.
        ragged = (segmented(70, 37, 131, **dtypes, **layout), Data(seed=1))
        whole = (segmented(70, 37, 160, **dtypes, **layout), Data(seed=1, exact=True))
        yield _subject("segmented_gemm", "32x32x16-2x2", ragged, whole)
        aligned = (segmented(64, 64, 131, **dtypes, **layout), Data(seed=1, exact=True))
        yield _subject("segmented_gemm", "32x32x16-2x2", aligned)


def _trial(
    products: int,
    sizes: tuple[int, int],
    *,
    outside: int = 0,
    **options: Any,  # noqa: ANN401 - of `variant`
) -> tuple[AnyProblem, Data]:
    return variant(products, *sizes, **options), Data(seed=products, outside=outside)


def _subject(kernel: str, config: str, *trials: tuple[AnyProblem, Data]) -> Made:
    problem = trials[0][0]
    flags = f"{problem.layout} n{problem.n} k{problem.k} {problem.operands[0].dtype}"
    return Subject(kernel=kernel, config=config, trials=trials, flags=flags)

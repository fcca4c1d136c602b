"""Problems of the sweep on an NVIDIA GPU, their operands, and calls of them as users write them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from math import ceil
from typing import Any, Literal

import mlx.core as mx
from cuda_large import drawn
from run import SPECS

import mlx_tilegemm as tg
from mlx_tilegemm.core.problem import Problem
from mlx_tilegemm.families import family_of

PAIRS = ("f16,bf16", "bf16,f16", "f32,bf16", "f16,f16", "bf16,bf16", "f32,f32")
MIXED = PAIRS[:2]
WEIGHTS = (
    "bf16:affine4x64",
    "f16,bf16:affine4x64",
    "f32,f16:affine4x64",
    "f32:affine4x64",
    "bf16:mxfp4",
    "bf16:affine8x64",
)
LOW_BITS = ("bf16:affine2x64", "bf16:affine3x64", "bf16:affine6x64", "bf16:nvfp4", "bf16:mxfp8")
EXPERTS = ("f16,bf16", "bf16:affine4x64", "bf16", "bf16:mxfp4", "f32,bf16:affine4x64")
CODES = ("bf16,f32:e4m3-128x128", "bf16:e4m3-row", "bf16,f32:e4m3*e4m3-128x128")
DELTAS = ("16x32x128x128:bf16,f32", "32x32x128x128:bf16,f32:vector")
CACHE_BYTES = 50 << 20
"""Of the second-level cache; operands of successive calls are several times as large together."""

MOST_SETS = 8

Arrays = Sequence[mx.array]


def problems() -> Iterator[tuple[str, str]]:
    """Yield an op and the spelling of each problem, those that matter most first."""
    for tokens, form in product((1, 8, 64, 512), EXPERTS):
        yield "experts", f"{tokens}x8x128x768x2048:{form}"
    for length, form in product((1, 16, 512, 2048), DELTAS):
        yield "gated_delta_update", f"1x{length}x{form}"
    for keys, rows, dtypes in product((4096, 32768, 131072), (1, 4), ("f16,bf16,bf16", "f16")):
        yield "attention", f"1x32x8x{rows}x{keys}x128:{dtypes}"
    for length, heads, dtypes in product((512, 2048), (8, 32), ("f16,bf16,bf16", "f16")):
        yield "attention", f"1x32x{heads}x{length}x{length}x128:{dtypes}:causal"
    for m, weight in product((1, 8, 16, 32, 64, 512), WEIGHTS):
        yield "quantized_matmul", f"{m}x4096x4096:{weight}"
    for m, pair in product((1, 2, 4, 8, 16, 32, 64, 512), PAIRS):
        yield "matmul", f"{m}x4096x4096:{pair}:nt"
    for m, code in product((1, 8, 64, 512), CODES):
        yield "fp8_scaled_matmul", f"{m}x4096x4096:{code}"
    for m, weight in product((8, 16, 32, 64), LOW_BITS):
        yield "quantized_matmul", f"{m}x4096x4096:{weight}"
    for m, pair in product((1, 8, 64), MIXED):
        yield "matmul", f"{m}x14336x4096:{pair}:nt"
        yield "matmul", f"{m}x4096x14336:{pair}:nt"
    for m, pair in product((2048, 4096), MIXED):
        yield "matmul", f"{m}x4096x4096:{pair}:nt"


def problem_of(op: str, text: str) -> Problem:
    """Return the problem that is spelled so, as kernels see it."""
    return SPECS[op](text).stored()


def operand_sets(problem: Problem) -> list[list[mx.array]]:
    """Return as many sets of operands as no cache holds together, but not very many."""
    size = sum(one.nbytes for one in problem.operands)
    count = min(MOST_SETS, max(1, ceil(4 * CACHE_BYTES / size)))
    sets = [[drawn(one) for one in problem.operands] for _ in range(count)]
    mx.eval(sets)
    return sets


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A call as users write it, by this library and by plain MLX.

    Attributes:
        ours: The op of this library.
        plain: MLX's op of the same arguments; where MLX has none, what is written instead.
    """

    ours: Callable[[Arrays], Sequence[mx.array]]
    plain: Callable[[Arrays], Sequence[mx.array]]


def as_written(op: str, text: str) -> Pair:
    """Return the calls of a problem."""
    return _WRITTEN[op](problem_of(op, text))


def _one(call: Callable[[Arrays], mx.array]) -> Callable[[Arrays], Sequence[mx.array]]:
    return lambda arrays: [call(arrays)]


def _matmul(problem: Any) -> Pair:  # noqa: ANN401 (the family's own problem)
    return Pair(
        ours=_one(lambda x: tg.matmul(x[0], x[1], transpose_b=True)),
        plain=_one(lambda x: x[0] @ x[1].T),
    )


def _formatted(weight: Any) -> dict[str, Any]:  # noqa: ANN401
    return {"group_size": weight.group, "bits": weight.bits, "mode": weight.mode}


def _quantized(problem: Any) -> Pair:  # noqa: ANN401
    form = _formatted(problem.weight)
    return Pair(
        ours=_one(lambda x: tg.quantized_matmul(x[0], x[1], **_grouped(x[2:]), **form)),
        plain=_one(lambda x: mx.quantized_matmul(x[0], x[1], **_grouped(x[2:]), **form)),
    )


def _grouped(arrays: Arrays) -> dict[str, Any]:
    return dict(zip(("scales", "biases"), arrays, strict=False))


def _attention(problem: Any) -> Pair:  # noqa: ANN401
    mask: Literal["causal"] | None = "causal" if problem.q_len == problem.kv_len else None
    scale = problem.head_dim**-0.5
    fast = mx.fast.scaled_dot_product_attention
    return Pair(
        ours=_one(lambda x: tg.attention_chain(*x, scale=scale, mask=mask)),
        plain=_one(lambda x: fast(*x, scale=scale, mask=mask)),
    )


def _experts(problem: Any) -> Pair:  # noqa: ANN401
    if problem.weight is None:
        return Pair(
            ours=_one(partial(_gathered, tg.gather_mm, transposed=False)),
            plain=_one(partial(_gathered, mx.gather_mm, transposed=True)),
        )
    form = _formatted(problem.weight)
    return Pair(
        ours=_one(partial(_gathered_quantized, tg.gather_qmm, form)),
        plain=_one(partial(_gathered_quantized, mx.gather_qmm, form)),
    )


def _gathered(op: Callable[..., mx.array], arrays: Arrays, *, transposed: bool) -> mx.array:
    """Call a product of chosen matrices; MLX's takes them transposed, ours as they are."""
    x, w, indices = arrays
    x, indices = x.reshape(-1, 1, 1, x.shape[-1]), indices.reshape(x.shape[0], -1)
    if transposed:
        return op(x, mx.swapaxes(w, -1, -2), rhs_indices=indices)
    return op(x, w, rhs_indices=indices, transpose_b=True)


def _gathered_quantized(
    op: Callable[..., mx.array], form: dict[str, Any], arrays: Arrays
) -> mx.array:
    x, w, *groups, indices = arrays
    x, indices = x.reshape(-1, 1, 1, x.shape[-1]), indices.reshape(x.shape[0], -1)
    return op(x, w, **_grouped(groups), rhs_indices=indices, **form)


def _by_fallback(problem: Problem) -> Callable[[Arrays], Sequence[mx.array]]:
    run, factors = family_of(problem).fallback(problem), family_of(problem).trial_factors(problem)
    assert run is not None, "problems that can be spelled are those of calls"
    return lambda arrays: run(arrays, factors, None)


def _scaled(problem: Any) -> Pair:  # noqa: ANN401
    """MLX has no such product: its ops decode the codes and multiply what comes of it."""
    names = problem.operand_names
    form = "e4m3" if problem.operands[1].dtype.name.endswith("e4m3") else "e5m2"
    height, width = problem.b_scales.height, problem.b_scales.width
    op = partial(
        tg.fp8_scaled_matmul,
        a_format="e4m3" if "a_scales" in names else None,
        b_format=form,
        block=(height, width) if height > 1 and width else None,
        transpose_b=True,
        out_dtype=problem.out.mlx,
    )
    both = "a_scales" in names

    def ours(arrays: Arrays) -> mx.array:
        return op(*arrays) if both else op(arrays[0], arrays[1], None, arrays[2])

    return Pair(ours=_one(ours), plain=_by_fallback(problem))


def _gated_delta(problem: Any) -> Pair:  # noqa: ANN401
    """Plain MLX is what mlx-lm does where Metal's kernels do not run: a graph of all steps."""
    from mlx_lm.models.gated_delta import gated_delta_ops

    def ours(operands: Any) -> Any:  # noqa: ANN401
        return tg.gated_delta_update(*operands)

    return Pair(ours=ours, plain=lambda x: gated_delta_ops(*x))


_WRITTEN: dict[str, Callable[[Any], Pair]] = {
    "matmul": _matmul,
    "quantized_matmul": _quantized,
    "attention": _attention,
    "experts": _experts,
    "fp8_scaled_matmul": _scaled,
    "gated_delta_update": _gated_delta,
}

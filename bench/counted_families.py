"""The families whose problems are counted: one entry each, which says all that differs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import mlx.core as mx
import mlx_experts
import mlx_kernels
import numpy as np

from mlx_tilegemm.core.dtypes import BFLOAT16, FLOAT16, FLOAT32, FLOATS, DType, promote
from mlx_tilegemm.core.weights import scales_of, values_of, weight_values
from mlx_tilegemm.families import family_of
from mlx_tilegemm.families.attention.problem import AttentionProblem, MaskKind
from mlx_tilegemm.families.attention.spelling import parse as attention_spec
from mlx_tilegemm.families.experts.problem import ExpertProblem
from mlx_tilegemm.families.experts.reference import chosen
from mlx_tilegemm.families.experts.spelling import parse as experts_spec
from mlx_tilegemm.families.gemm.problem import GemmProblem
from mlx_tilegemm.families.gemm.spelling import parse as matmul_spec
from mlx_tilegemm.families.quantized.problem import QuantizedProblem
from mlx_tilegemm.families.quantized.spelling import parse as quantized_spec
from mlx_tilegemm.families.scaled.fallback import left_values, right_values
from mlx_tilegemm.families.scaled.problem import ScaledProblem
from mlx_tilegemm.families.scaled.spelling import parse as scaled_spec
from mlx_tilegemm.formats import byte_values
from mlx_tilegemm.machine.chips.record import Chip

SAMPLE = 8
"""Threadgroups that run of a launch for which they stand."""

Arrays = Sequence[mx.array]
Spelled = tuple[str, str, int]
"""Name of a row, its problem as in ``mlx-tilegemm tune``, and its sample; 0 for all of a launch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """One family.

    Attributes:
        kind: Type of its problems.
        parse: Returns the problem that a word spells.
        rows: Its rows, sizes as in models and benchmarks where a sample does.
        words: Returns a problem's sizes in words, and its dtypes.
        needed: Returns the multiply-adds that the result needs.
        result: Returns an element of the result in float64, by its number, and its standard
            deviation.
        run: Runs MLX's casts and kernels; returns the result and the path in words.
        rival: Returns what MLX computes of a problem, and the operands in float32, in its order;
            None where that is the problem itself. MLX has no product of codes by blocks: mlx-lm
            decodes such a weight to bfloat16 when it loads it.
        constants: Names of operands that MLX's kernels take from `constant` memory.
    """

    kind: type
    parse: Callable[[str], Any]
    rows: tuple[Spelled, ...]
    words: Callable[[Any], tuple[str, Sequence[DType]]]
    needed: Callable[[Any], float]
    result: Callable[[Any, Arrays, int], tuple[float, float]]
    run: Callable[[Any, Arrays, str, Chip], tuple[np.ndarray, str]]
    rival: Callable[[Any, Arrays], tuple[Any, Arrays] | None] = lambda *_: None
    constants: frozenset[str] = frozenset()


def counted(problem: object) -> Counted:
    """Return the entry of a problem."""
    return next(one for one in FAMILIES if isinstance(problem, one.kind))


def describe(problem: object) -> str:
    """Return a problem in a few words."""
    short = {FLOAT16: "f16", FLOAT32: "f32", BFLOAT16: "bf16"}
    size, dtypes = counted(problem).words(problem)
    names = [short[dtype] for dtype in dtypes]
    return f"{size} {'*'.join(dict.fromkeys(names))}"


def compared(problem: object) -> object:
    """Return what MLX computes of a problem."""
    found = counted(problem).rival(problem, ())
    return problem if found is None else found[0]


def run_mlx(problem: object, arrays: Arrays, chip: Chip) -> tuple[np.ndarray, str]:
    """Run MLX's casts and kernels; return the result and the path in words."""
    found = counted(problem).rival(problem, arrays)
    if found is not None:
        result, words = run_mlx(*found, chip)
        return result, f"{words} of a bfloat16 copy"
    price = family_of(problem).price(problem, chip)  # type: ignore[arg-type]
    assert price is not None
    return counted(problem).run(problem, arrays, price.path.split(",")[0], chip)


def floats(array: mx.array) -> np.ndarray:
    """Return an array in float32."""
    return np.array(array.astype(mx.float32))


def _half_flops(problem: Any) -> float:  # noqa: ANN401
    return float(problem.flops() / 2)


def _with_casts(path: str, copies: int) -> str:
    return f"{path}, {copies} cast{'s' if copies > 1 else ''}" if copies else path


def _summed(terms: np.ndarray) -> tuple[float, float]:
    return float(terms.sum()), float(np.linalg.norm(terms))


def _given(problem: Any, arrays: Arrays) -> dict[str, mx.array]:  # noqa: ANN401
    return dict(zip(problem.operand_names, arrays, strict=True))


def _run_alike(
    problem: Any,  # noqa: ANN401
    dtypes: Sequence[DType],
    arrays: Arrays,
    path: str,
    run: Callable[[DType, list[mlx_kernels.Array]], mlx_kernels.Array],
) -> tuple[np.ndarray, str]:
    """Run MLX's kernel on operands of one dtype, to which the others are cast first."""
    compute = reduce(promote, dtypes)
    inputs: list[mlx_kernels.Array] = []
    for array, dtype in zip(arrays, dtypes, strict=True):
        values = mlx_kernels.encode(floats(array), dtype)
        inputs.append(values if dtype is compute else mlx_kernels.cast(values, dtype, compute))
    copies = sum(dtype is not compute for dtype in dtypes)
    out = mlx_kernels.decode(run(compute, inputs), compute).astype(np.float32)
    return out, _with_casts(path, copies)


def _run_gemm(
    problem: GemmProblem, arrays: Arrays, path: str, chip: Chip
) -> tuple[np.ndarray, str]:
    def run(dtype: DType, inputs: list[mlx_kernels.Array]) -> mlx_kernels.Array:
        a, b = inputs
        product = replace(problem, a=dtype, b=dtype, out=dtype)
        return mlx_kernels.run_gemm(product, path, a, b, chip)

    return _run_alike(problem, (problem.a, problem.b), arrays, path, run)


def _gemm_words(problem: GemmProblem) -> tuple[str, Sequence[DType]]:
    return f"{problem.m}x{problem.n}x{problem.k} {problem.layout}", (problem.a, problem.b)


def _gemm_result(problem: GemmProblem, arrays: Arrays, index: int) -> tuple[float, float]:
    row, column = divmod(index, problem.n)
    left, matrix = floats(arrays[0][row]).astype(np.float64), arrays[1]
    right = floats(matrix[column] if problem.transpose_b else matrix[:, column])
    return float(left @ right), float(problem.k**0.5)


def _run_attention(
    problem: AttentionProblem, arrays: Arrays, path: str, chip: Chip
) -> tuple[np.ndarray, str]:
    def run(dtype: DType, inputs: list[mlx_kernels.Array]) -> mlx_kernels.Array:
        q, k, v = inputs
        attention = replace(problem, q=dtype, k=dtype, v=dtype, out=dtype)
        return mlx_kernels.run_attention(attention, path, q, k, v, chip)

    return _run_alike(problem, (problem.q, problem.k, problem.v), arrays, path, run)


def _attention_words(problem: AttentionProblem) -> tuple[str, Sequence[DType]]:
    heads = f"{problem.num_heads}/{problem.num_kv_heads}"
    size = f"{heads} heads {problem.q_len}x{problem.kv_len} D={problem.head_dim}"
    size += " causal" if problem.mask_kind is MaskKind.CAUSAL else ""
    return size, (problem.q, problem.k, problem.v)


def _attention_needed(problem: AttentionProblem) -> float:
    pairs = problem.q_len * problem.kv_len
    if problem.mask_kind is MaskKind.CAUSAL:
        pairs = sum(problem.kv_len - i for i in range(problem.q_len))
    return problem.batch * problem.num_heads * pairs * (problem.head_dim + problem.value_dim)


def _attention_result(problem: AttentionProblem, arrays: Arrays, index: int) -> tuple[float, float]:
    place = np.unravel_index(index, problem.results[0].shape)
    head, row, column = (int(i) for i in place[1:])
    shared = problem.num_heads // problem.num_kv_heads
    q = floats(arrays[0][0, head, row]).astype(np.float64)
    k = floats(arrays[1][0, head // shared]).astype(np.float64)
    v = floats(arrays[2][0, head // shared])[:, column].astype(np.float64)
    scores = k @ q * problem.head_dim**-0.5
    if problem.mask_kind is MaskKind.CAUSAL:
        scores = scores[: problem.kv_len - problem.q_len + row + 1]
    weights = np.exp(scores - scores.max())
    weights /= weights.sum()
    return float(weights @ v[: len(weights)]), float(np.linalg.norm(weights))


def _cast(
    problem: QuantizedProblem | ExpertProblem, dtypes: dict[str, DType | None], arrays: Arrays
) -> tuple[dict[str, mlx_kernels.Array], int]:
    """Return operands by name with floats cast to what MLX computes in, and the number of casts."""
    inputs: dict[str, mlx_kernels.Array] = {}
    copies = 0
    for name, array in _given(problem, arrays).items():
        dtype = dtypes.get(name)
        if dtype is None or not dtype.native:
            inputs[name] = np.array(array)
            continue
        inputs[name] = mlx_kernels.encode(floats(array), dtype)
        if dtype is not problem.computed:
            cast = mlx_kernels.cast(inputs[name], dtype, problem.computed)
            inputs[name] = cast.reshape(array.shape)
            copies += 1
    return inputs, copies


def _run_quantized(
    problem: QuantizedProblem, arrays: Arrays, path: str, chip: Chip
) -> tuple[np.ndarray, str]:
    dtypes = {"x": problem.x, "scales": problem.scales, "biases": problem.biases}
    inputs, copies = _cast(problem, dtypes, arrays)
    out = mlx_kernels.run_quantized(problem, path, inputs, problem.computed, chip)
    return mlx_kernels.decode(out, problem.computed).astype(np.float32), _with_casts(path, copies)


def _quantized_words(problem: QuantizedProblem) -> tuple[str, Sequence[DType]]:
    size = f"{problem.m}x{problem.n}x{problem.k} {problem.layout} {problem.weight}"
    return size, [problem.x, *([problem.scales] if problem.biases else [])]


def _quantized_result(problem: QuantizedProblem, arrays: Arrays, index: int) -> tuple[float, float]:
    (row, column), given = divmod(index, problem.n), _given(problem, arrays)
    part = {
        name: array[column : column + 1]
        for name, array in given.items()
        if name in ("w", "scales", "biases")
    }
    return _summed(floats(given["x"][row]).astype(np.float64) * weight_values(problem, part)[0])


def _scaled_words(problem: ScaledProblem) -> tuple[str, Sequence[DType]]:
    size = f"{problem.m}x{problem.n}x{problem.k} {problem.layout} {problem.b.short} 128x128"
    return size, [problem.a, *([problem.b_scales.dtype] if problem.b_scales else [])]


def _scaled_result(problem: ScaledProblem, arrays: Arrays, index: int) -> tuple[float, float]:
    (row, column), given = divmod(index, problem.n), _given(problem, arrays)
    left, right = left_values(problem, given)[row], right_values(problem, given)[column]
    return _summed(floats(left).astype(np.float64) * floats(right))


def _of_values(problem: ScaledProblem, arrays: Arrays) -> tuple[GemmProblem, Arrays]:
    dense = matmul_spec(f"{problem.m}x{problem.n}x{problem.k}:bf16:{problem.layout}")
    if not arrays:
        return dense, ()
    given = _given(problem, arrays)
    return dense, [one(problem, given).astype(mx.bfloat16) for one in (left_values, right_values)]


def _never(*_: object) -> tuple[np.ndarray, str]:
    raise LookupError("[counters] MLX has no kernel of these")


def _run_experts(
    problem: ExpertProblem, arrays: Arrays, path: str, chip: Chip
) -> tuple[np.ndarray, str]:
    dtypes = {"x": problem.x, "scales": problem.scales, "biases": problem.biases}
    if problem.weight is None:
        dtypes["w"] = problem.w
    inputs, copies = _cast(problem, dtypes, arrays)
    out = mlx_experts.run_experts(problem, inputs, problem.computed)
    return mlx_kernels.decode(out, problem.computed).astype(np.float32), _with_casts(path, copies)


def _experts_words(problem: ExpertProblem) -> tuple[str, Sequence[DType]]:
    size = f"{problem.sources} x {problem.fanout} of {problem.experts} "
    size += f"{problem.n}x{problem.k} {problem.layout}"
    size += f" {problem.weight}" if problem.weight else ""
    size += f" {problem.w.short} 128x128" if problem.has_codes else ""
    second = problem.scales if problem.biases or problem.has_codes else problem.w
    return size, [problem.x, *([second] if second in FLOATS else [])]


def _experts_result(problem: ExpertProblem, arrays: Arrays, index: int) -> tuple[float, float]:
    (row, column), given = divmod(index, problem.n), _given(problem, arrays)
    expert, source = (int(one[row]) for one in chosen(problem, given))
    if problem.has_codes:
        assert problem.scaling is not None
        values = values_of(problem.w, given["w"][expert, column : column + 1])
        at = (np.array([column]), np.arange(problem.k))
        own = values * scales_of(problem.scaling, given["scales"][expert], *at)
    else:
        part: dict[str, mx.array] = {
            name: given[name][expert, column : column + 1]
            for name in ("w", "scales", "biases")
            if name in given
        }
        own = floats(part["w"]) if problem.weight is None else weight_values(problem, part)
    return _summed(floats(given["x"][source, 0]).astype(np.float64) * own[0])


def _experts_of_values(
    problem: ExpertProblem, arrays: Arrays
) -> tuple[ExpertProblem, Arrays] | None:
    if not problem.has_codes:
        return None
    plain = replace(problem, w=BFLOAT16, scaling=None, scales=None)
    if not arrays:
        return plain, ()
    given = _given(problem, arrays)
    values = byte_values(problem.w, given["w"], problem.scaling, given["scales"], problem.transpose)
    dense = {**given, "w": values.astype(mx.bfloat16)}
    return plain, [dense[name] for name in plain.operand_names]


GEMM = Counted(
    kind=GemmProblem,
    parse=matmul_spec,
    rows=(
        ("square f32", "2048x2048x2048:f32", SAMPLE),
        ("square f16", "2048x2048x2048:f16", SAMPLE),
        ("square mixed", "2048x2048x2048:f16,f32", SAMPLE),
        ("prefill nt f16", "512x4096x4096:f16:nt", SAMPLE),
        ("prefill nt bf16", "512x4096x4096:bf16:nt", SAMPLE),
        ("prefill nt mixed", "512x4096x4096:f32,f16:nt", SAMPLE),
        ("prefill wide nt", "128x14336x4096:f16:nt", SAMPLE),
        ("ragged", "333x517x259:f16", 0),
        ("ragged nt mixed", "333x517x259:f16,f32:nt", 0),
        ("deep", "64x64x16384:f16", 0),
        ("decode 1 nt f16", "1x4096x4096:f16:nt", SAMPLE),
        ("decode 1 nn f16", "1x4096x4096:f16", SAMPLE),
        ("decode 1 nt mixed", "1x4096x4096:f32,f16:nt", SAMPLE),
        ("decode 8 nt f16", "8x2048x2048:f16:nt", 0),
        ("decode 8 nt mixed", "8x2048x2048:f32,bf16:nt", 0),
    ),
    words=_gemm_words,
    needed=_half_flops,
    result=_gemm_result,
    run=_run_gemm,
)

ATTENTION = Counted(
    kind=AttentionProblem,
    parse=attention_spec,
    rows=(
        ("attention 64", "1x16x16x1024x1024x64:f16", SAMPLE),
        ("attention 80", "1x16x16x1024x1024x80:f16", SAMPLE),
        ("attention 128", "1x16x16x1024x1024x128:f16", SAMPLE),
        ("attention 128 f32", "1x16x16x1024x1024x128:f32", SAMPLE),
        ("attention 64 mixed", "1x16x16x1024x1024x64:f16,bf16,f32", SAMPLE),
        ("attention causal", "1x16x16x1024x1024x128:f16:causal", SAMPLE),
        ("attention gqa causal ragged", "1x16x4x500x773x64:f16:causal", 0),
        ("attention decode gqa", "1x32x8x1x4096x128:f16", 0),
        ("attention decode", "1x16x16x1x512x128:f16", 0),
    ),
    words=_attention_words,
    needed=_attention_needed,
    result=_attention_result,
    run=_run_attention,
)

# Of few rows and columns both sides share k out among threadgroups.
QUANTIZED = Counted(
    kind=QuantizedProblem,
    parse=quantized_spec,
    rows=tuple(
        (f"quantized {name} {kind}", f"{size}:{weight}", sample)
        for name, size, sample in (
            ("decode 1", "1x4096x4096", SAMPLE),
            ("decode 8", "8x4096x4096", SAMPLE),
            ("decode 16", "16x14336x4096", SAMPLE),
            ("decode 16 narrow", "16x1024x4096", 0),
            ("decode 32 narrow", "32x1024x4096", 0),
            ("decode 64", "64x14336x4096", SAMPLE),
            ("prefill", "512x4096x4096", SAMPLE),
        )
        for kind, weight in (
            ("affine", "bf16:affine4x64"),
            ("affine mixed", "bf16,f16:affine4x64"),
            ("mxfp4", "bf16:mxfp4"),
        )
    ),
    words=_quantized_words,
    needed=_half_flops,
    result=_quantized_result,
    run=_run_quantized,
)

SCALED = Counted(
    kind=ScaledProblem,
    parse=scaled_spec,
    rows=tuple(
        (f"fp8 {name} blocks", f"{rows}x4096x4096:bf16,f32:e4m3-128x128", SAMPLE)
        for name, rows in (
            ("decode 1", 1),
            ("decode 8", 8),
            ("decode 16", 16),
            ("prefill 64", 64),
            ("prefill", 512),
        )
    ),
    words=_scaled_words,
    needed=_half_flops,
    result=_scaled_result,
    run=_never,
    rival=_of_values,
)

# Tokens that choose 8 of 128 experts each.
EXPERTS = Counted(
    kind=ExpertProblem,
    parse=experts_spec,
    rows=tuple(
        (f"experts {name} {kind}", f"{tokens}x8x128x384x1024:{weight}", SAMPLE)
        for name, tokens in (("decode 1", 1), ("decode 8", 8), ("decode 64", 64), ("prefill", 512))
        for kind, weight in (
            ("bf16", "bf16"),
            ("mixed", "bf16,f16"),
            ("affine", "bf16:affine4x64"),
            ("affine mixed", "bf16,f16:affine4x64"),
            ("mxfp4", "bf16:mxfp4"),
            ("fp8", "bf16,f32:e4m3-128x128"),
        )
    ),
    words=_experts_words,
    needed=_half_flops,
    result=_experts_result,
    run=_run_experts,
    rival=_experts_of_values,
    constants=frozenset(("vec_indices", "mat_indices")),
)

FAMILIES = (GEMM, ATTENTION, QUANTIZED, SCALED, EXPERTS)
"""In the order of their rows. To count another family, write its entry."""

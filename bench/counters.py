"""Count what the chosen kernels do, beside MLX's own, on the same problems, in the emulator.

    python bench/counters.py                     # print the comparison
    python bench/counters.py --only decode       # only rows whose names contain a word
    python bench/counters.py --write             # write bench/results/counters.md and .json

Counts, not times: nothing here ran on a GPU. The plan of each row is the one that dispatch chooses
for the chip at that size; where a sample of its threadgroups stands for a launch, only that runs,
and its counts are scaled to the grid: see `emulator.count`. Up to 64 results of every output are
compared with float64 before it is counted.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import reduce
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx
import mlx_experts
import mlx_kernels
import numpy as np
from counters_report import markdown

from mlx_tilegemm import emulator
from mlx_tilegemm.backends.emulator import EmulatorBackend
from mlx_tilegemm.backends.launch import kernel_run
from mlx_tilegemm.core.dtypes import BFLOAT16, FLOAT16, FLOAT32, FLOATS, DType, promote
from mlx_tilegemm.core.family import Data
from mlx_tilegemm.core.weights import weight_values
from mlx_tilegemm.dispatch import choose
from mlx_tilegemm.emulator import Counters, Space
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
from mlx_tilegemm.machine import chips
from mlx_tilegemm.machine.chips.record import Chip
from mlx_tilegemm.machine.lines import LINE_BYTES

AnyProblem = GemmProblem | AttentionProblem | QuantizedProblem | ScaledProblem | ExpertProblem

HERE = Path(__file__).parent
SAMPLE = 8
CHECKED = 64
"""Results of each output that are compared with float64."""

TOLERANCE = 0.02
"""Of the standard deviation of a result of random operands: several roundings to bfloat16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One row.

    Attributes:
        name: What it is typical of.
        problem: What is computed.
        sample: Threadgroups that run of a launch for which they stand; 0 for all.
    """

    name: str
    problem: AnyProblem
    sample: int = SAMPLE


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """What one side does, scaled to the whole grid.

    Attributes:
        path: Its kernels.
        seconds: Modelled time.
        launches: Kernels launched.
        sampled: Whether the threadgroups of a sample stand for a launch; else all of them ran.
        device_bytes: Bytes that threads ask device memory for, loads and stores.
        line_bytes: 128 bytes for each line that a threadgroup touches: what its core fetches if it
            keeps what it has read.
        threadgroup_bytes: Bytes that threads load from and store to threadgroup memory.
        products: 8x8x8 matrix products.
        useful: Share of their multiply-adds that the result needs; None without products. More
            than all of them is an error: the counts are not those of the grid.
        threadgroup_barriers: Barriers of threadgroups.
        simdgroup_barriers: Barriers of simdgroups.
        device_accesses: Loads and stores of simdgroups.
        lines: Lines that these touch.
        fewest_lines: The fewest lines that as many words could lie in.
        threadgroup_loads: Loads of simdgroups from threadgroup memory, `simdgroup_load` included.
        threadgroup_stores: Likewise stores.
        turns: Turns of the threadgroup memory's banks that these take.
        fewest_turns: The same without conflicts.
    """

    path: str
    seconds: float
    launches: int
    sampled: bool
    device_bytes: int
    line_bytes: int
    threadgroup_bytes: int
    products: int
    useful: float | None
    threadgroup_barriers: int
    simdgroup_barriers: int
    device_accesses: int
    lines: int
    fewest_lines: int
    threadgroup_loads: int
    threadgroup_stores: int
    turns: int
    fewest_turns: int

    def __post_init__(self) -> None:
        if self.useful is not None and self.useful > 1:
            raise ValueError(
                f"[counters] Expected {self.path} to multiply no less than the result needs, "
                f"got {self.products} products, {self.useful:.2f} times too few."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row's counts."""

    name: str
    text: str
    chip: str
    sample: int
    ours: Side
    mlx: Side


def _case(name: str, problem: str, *, sample: int = SAMPLE) -> Case:
    """Return a row of a problem that is spelled as in ``mlx-tilegemm tune``."""
    specs: dict[str, Callable[[str], AnyProblem]] = {
        "attention": attention_spec,
        "quantized": quantized_spec,
        "fp8": scaled_spec,
        "experts": experts_spec,
    }
    spec = specs.get(name.split()[0], matmul_spec)
    return Case(name=name, problem=spec(problem), sample=sample)


def cases_to_count() -> list[Case]:
    """Return the rows, sizes as in models and benchmarks where a sample does."""
    return [
        _case("square f32", "2048x2048x2048:f32"),
        _case("square f16", "2048x2048x2048:f16"),
        _case("square mixed", "2048x2048x2048:f16,f32"),
        _case("prefill nt f16", "512x4096x4096:f16:nt"),
        _case("prefill nt bf16", "512x4096x4096:bf16:nt"),
        _case("prefill nt mixed", "512x4096x4096:f32,f16:nt"),
        _case("prefill wide nt", "128x14336x4096:f16:nt"),
        _case("ragged", "333x517x259:f16", sample=0),
        _case("ragged nt mixed", "333x517x259:f16,f32:nt", sample=0),
        _case("deep", "64x64x16384:f16", sample=0),
        _case("decode 1 nt f16", "1x4096x4096:f16:nt"),
        _case("decode 1 nn f16", "1x4096x4096:f16"),
        _case("decode 1 nt mixed", "1x4096x4096:f32,f16:nt"),
        _case("decode 8 nt f16", "8x2048x2048:f16:nt", sample=0),
        _case("decode 8 nt mixed", "8x2048x2048:f32,bf16:nt", sample=0),
        _case("attention 64", "1x16x16x1024x1024x64:f16"),
        _case("attention 80", "1x16x16x1024x1024x80:f16"),
        _case("attention 128", "1x16x16x1024x1024x128:f16"),
        _case("attention 128 f32", "1x16x16x1024x1024x128:f32"),
        _case("attention 64 mixed", "1x16x16x1024x1024x64:f16,bf16,f32"),
        _case("attention causal", "1x16x16x1024x1024x128:f16:causal"),
        _case("attention gqa causal ragged", "1x16x4x500x773x64:f16:causal", sample=0),
        _case("attention decode gqa", "1x32x8x1x4096x128:f16", sample=0),
        _case("attention decode", "1x16x16x1x512x128:f16", sample=0),
        *_quantized_cases(),
        _case("fp8 decode 1 blocks", "1x4096x4096:bf16,f32:e4m3-128x128"),
        _case("fp8 decode 8 blocks", "8x4096x4096:bf16,f32:e4m3-128x128"),
        _case("fp8 prefill 64 blocks", "64x4096x4096:bf16,f32:e4m3-128x128"),
        *_experts_cases(),
    ]


def _quantized_cases() -> list[Case]:
    """Return rows of decoding a token of one to 64 sequences, and of a prompt.

    Of few rows and columns both sides share k out among threadgroups.
    """
    return [
        _case(f"quantized {name} {kind}", f"{size}:{weight}", sample=sample)
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
    ]


def _experts_cases() -> list[Case]:
    """Return rows of tokens that choose 8 of 128 experts each."""
    return [
        _case(f"experts {name} {kind}", f"{tokens}x8x128x384x1024:{weight}")
        for name, tokens in (("decode 1", 1), ("decode 8", 8), ("decode 64", 64), ("prefill", 512))
        for kind, weight in (
            ("bf16", "bf16"),
            ("mixed", "bf16,f16"),
            ("affine", "bf16:affine4x64"),
            ("affine mixed", "bf16,f16:affine4x64"),
            ("mxfp4", "bf16:mxfp4"),
        )
    ]


def count_row(case: Case, chip: Chip) -> Row:
    """Run both sides and return their counts."""
    problem = case.problem
    family = family_of(problem)
    arrays = family.draw(problem, Data())
    mx.eval(*arrays)
    decision = choose(problem, chip)
    plan = decision.plan
    assert plan is not None
    assert decision.mlx is not None
    run = kernel_run(problem, plan, EmulatorBackend())
    with emulator.count(sample=case.sample) as launches:
        (out,) = run(arrays, family.trial_factors(problem), None)
    check(problem, arrays, _floats(out))
    seconds = next(one.seconds for one in decision.candidates if one.plan == plan)
    assert seconds is not None
    ours = side(str(plan), seconds, launches, problem)
    with emulator.count(sample=case.sample) as launches:
        result, path = run_mlx(problem, arrays, chip)
    check(problem, arrays, result)
    price = family_of(rival(problem)).price(rival(problem), chip)
    assert price is not None
    theirs = side(path, price.seconds, launches, problem)
    return Row(
        name=case.name,
        text=describe(problem),
        chip=chip.name,
        sample=case.sample,
        ours=ours,
        mlx=theirs,
    )


def rival(problem: AnyProblem) -> AnyProblem:
    """Return what MLX computes: of codes by blocks the product of a copy decoded beforehand.

    MLX has no product of them; mlx-lm decodes a weight to bfloat16 when it loads it.
    """
    if not isinstance(problem, ScaledProblem):
        return problem
    return matmul_spec(f"{problem.m}x{problem.n}x{problem.k}:bf16:{problem.layout}")


def _floats(array: mx.array) -> np.ndarray:
    return np.array(array.astype(mx.float32))


def run_mlx(problem: AnyProblem, arrays: Sequence[mx.array], chip: Chip) -> tuple[np.ndarray, str]:
    """Run MLX's casts and kernels; return the result and the path in words."""
    if isinstance(problem, ScaledProblem):
        given = dict(zip(problem.operand_names, arrays, strict=True))
        dense = [one(problem, given).astype(mx.bfloat16) for one in (left_values, right_values)]
        result, words = run_mlx(rival(problem), dense, chip)
        return result, f"{words} of a bfloat16 copy"
    price = family_of(problem).price(problem, chip)
    assert price is not None
    path = price.path.split(",")[0]
    if isinstance(problem, (QuantizedProblem, ExpertProblem)):
        return _run_quantized(problem, arrays, path, chip)
    dtypes = operand_dtypes(problem)
    compute = reduce(promote, dtypes)
    inputs: list[mlx_kernels.Array] = []
    for array, dtype in zip(arrays, dtypes, strict=True):
        values = mlx_kernels.encode(_floats(array), dtype)
        inputs.append(values if dtype is compute else mlx_kernels.cast(values, dtype, compute))
    out = _run_alike(problem, compute, path, inputs, chip)
    copies = sum(dtype is not compute for dtype in dtypes)
    text = f"{path}, {copies} cast{'s' if copies > 1 else ''}" if copies else path
    return mlx_kernels.decode(out, compute).astype(np.float32), text


def _run_quantized(
    problem: QuantizedProblem | ExpertProblem, arrays: Sequence[mx.array], path: str, chip: Chip
) -> tuple[np.ndarray, str]:
    compute = problem.computed
    dtypes = {"x": problem.x, "scales": problem.scales, "biases": problem.biases}
    if isinstance(problem, ExpertProblem) and problem.weight is None:
        dtypes["w"] = problem.w
    inputs: dict[str, mlx_kernels.Array] = {}
    copies = 0
    for name, array in zip(problem.operand_names, arrays, strict=True):
        dtype = dtypes.get(name)
        if dtype is None or not dtype.native:
            inputs[name] = np.array(array)
            continue
        inputs[name] = mlx_kernels.encode(_floats(array), dtype)
        if dtype is not compute:
            inputs[name] = mlx_kernels.cast(inputs[name], dtype, compute)
            inputs[name] = inputs[name].reshape(array.shape)
            copies += 1
    if isinstance(problem, ExpertProblem):
        out = mlx_experts.run_experts(problem, inputs, compute)
    else:
        out = mlx_kernels.run_quantized(problem, path, inputs, compute, chip)
    text = f"{path}, {copies} cast{'s' if copies > 1 else ''}" if copies else path
    return mlx_kernels.decode(out, compute).astype(np.float32), text


def _run_alike(
    problem: GemmProblem | AttentionProblem,
    dtype: DType,
    path: str,
    inputs: Sequence[mlx_kernels.Array],
    chip: Chip,
) -> mlx_kernels.Array:
    """Run MLX's kernel of a problem on operands of one dtype."""
    if isinstance(problem, GemmProblem):
        a, b = inputs
        product = replace(problem, a=dtype, b=dtype, out=dtype)
        return mlx_kernels.run_gemm(product, path, a, b, chip)
    q, k, v = inputs
    attention = replace(problem, q=dtype, k=dtype, v=dtype, out=dtype)
    return mlx_kernels.run_attention(attention, path, q, k, v, chip)


def operand_dtypes(problem: GemmProblem | AttentionProblem) -> tuple[DType, ...]:
    """Return the dtypes of the operands, in their order."""
    if isinstance(problem, GemmProblem):
        return problem.a, problem.b
    return problem.q, problem.k, problem.v


def side(path: str, seconds: float, launches: Sequence[Counters], problem: AnyProblem) -> Side:
    """Add up the launches of one side."""
    parts = [_scaled(launch) for launch in launches]
    total = {name: sum(part[name] for part in parts) for name in parts[0]}
    products = total["products"]
    return Side(
        path=path,
        seconds=seconds,
        launches=len(launches),
        sampled=any(launch.threadgroups < launch.grid_threadgroups for launch in launches),
        useful=needed(problem) / (512 * products) if products else None,
        **total,
    )


def _scaled(launch: Counters) -> dict[str, int]:
    accesses = launch.accesses
    assert accesses is not None
    device, threadgroup = (accesses.total(space) for space in (Space.DEVICE, Space.THREADGROUP))
    counted = {
        "device_bytes": device.bytes,
        "line_bytes": LINE_BYTES * sum(accesses.threadgroup_lines.values()),
        "threadgroup_bytes": threadgroup.bytes,
        "products": launch.multiply_accumulates,
        "threadgroup_barriers": launch.threadgroup_barriers,
        "simdgroup_barriers": launch.simdgroup_barriers,
        "device_accesses": device.accesses,
        "lines": device.transactions,
        "fewest_lines": device.fewest_transactions,
        "threadgroup_loads": accesses.total(Space.THREADGROUP, stores=False).accesses,
        "threadgroup_stores": accesses.total(Space.THREADGROUP, stores=True).accesses,
        "turns": threadgroup.transactions,
        "fewest_turns": threadgroup.fewest_transactions,
    }
    share = launch.grid_threadgroups / launch.threadgroups
    return {name: round(count * share) for name, count in counted.items()}


def needed(problem: AnyProblem) -> int:
    """Return the multiply-adds that the result needs."""
    if isinstance(problem, ExpertProblem):
        return problem.rows * problem.n * problem.k
    if not isinstance(problem, AttentionProblem):
        return problem.batch_size * problem.m * problem.n * problem.k
    pairs = problem.q_len * problem.kv_len
    if problem.mask_kind is MaskKind.CAUSAL:
        pairs = sum(problem.kv_len - i for i in range(problem.q_len))
    return problem.batch * problem.num_heads * pairs * (problem.head_dim + problem.value_dim)


def check(problem: AnyProblem, arrays: Sequence[mx.array], out: np.ndarray) -> None:
    """Compare some of the results that were computed with float64.

    A guard against running the wrong thing; exact bounds are the tests' business.
    """
    flat = out.reshape(-1)
    written = np.flatnonzero(np.isfinite(flat))
    assert len(written) >= min(CHECKED, flat.size // 600), "too few results"
    rng = np.random.default_rng(0)
    for index in rng.choice(written, min(CHECKED, len(written)), replace=False):
        if isinstance(problem, ExpertProblem):
            value, magnitude = _expert_result(problem, arrays, *divmod(int(index), problem.n))
        else:
            place = np.unravel_index(index, out.shape)
            value, magnitude = one_result(problem, arrays, place)
        assert abs(flat[index] - value) <= TOLERANCE * magnitude, (index, value, flat[index])


def one_result(
    problem: AnyProblem,
    arrays: Sequence[mx.array],
    index: tuple[np.intp, ...],
) -> tuple[float, float]:
    """Return an element of the result in float64, and its standard deviation."""
    if isinstance(problem, GemmProblem):
        row, column = (int(i) for i in index[-2:])
        left = _floats(arrays[0][row]).astype(np.float64)
        matrix = arrays[1]
        right = _floats(matrix[column] if problem.transpose_b else matrix[:, column])
        return float(left @ right), float(problem.k**0.5)
    if isinstance(problem, ScaledProblem):
        return _scaled_result(problem, arrays, int(index[-2]), int(index[-1]))
    if isinstance(problem, QuantizedProblem):
        return _quantized_result(problem, arrays, int(index[-2]), int(index[-1]))
    assert isinstance(problem, AttentionProblem)
    head, row, column = (int(i) for i in index[1:])
    shared = problem.num_heads // problem.num_kv_heads
    q = _floats(arrays[0][0, head, row]).astype(np.float64)
    k = _floats(arrays[1][0, head // shared]).astype(np.float64)
    v = _floats(arrays[2][0, head // shared])[:, column].astype(np.float64)
    scores = k @ q * problem.head_dim**-0.5
    if problem.mask_kind is MaskKind.CAUSAL:
        scores = scores[: problem.kv_len - problem.q_len + row + 1]
    weights = np.exp(scores - scores.max())
    weights /= weights.sum()
    return float(weights @ v[: len(weights)]), float(np.linalg.norm(weights))


def _quantized_result(
    problem: QuantizedProblem, arrays: Sequence[mx.array], row: int, column: int
) -> tuple[float, float]:
    given = dict(zip(problem.operand_names, arrays, strict=True))
    part = {
        name: array[column : column + 1]
        for name, array in given.items()
        if name in ("w", "scales", "biases")
    }
    terms = _floats(given["x"][row]).astype(np.float64) * weight_values(problem, part)[0]
    return float(terms.sum()), float(np.linalg.norm(terms))


def _scaled_result(
    problem: ScaledProblem, arrays: Sequence[mx.array], row: int, column: int
) -> tuple[float, float]:
    given = dict(zip(problem.operand_names, arrays, strict=True))
    left, right = left_values(problem, given)[row], right_values(problem, given)[column]
    terms = _floats(left).astype(np.float64) * _floats(right)
    return float(terms.sum()), float(np.linalg.norm(terms))


def _expert_result(
    problem: ExpertProblem, arrays: Sequence[mx.array], row: int, column: int
) -> tuple[float, float]:
    given = dict(zip(problem.operand_names, arrays, strict=True))
    expert, source = (int(one[row]) for one in chosen(problem, given))
    part: dict[str, mx.array] = {
        name: given[name][expert, column : column + 1]
        for name in ("w", "scales", "biases")
        if name in given
    }
    own = _floats(part["w"]) if problem.weight is None else weight_values(problem, part)
    terms = _floats(given["x"][source, 0]).astype(np.float64) * own[0]
    return float(terms.sum()), float(np.linalg.norm(terms))


def describe(problem: AnyProblem) -> str:
    """Return a problem in a few words."""
    short = {FLOAT16: "f16", FLOAT32: "f32", BFLOAT16: "bf16"}
    if isinstance(problem, GemmProblem):
        size = f"{problem.m}x{problem.n}x{problem.k} {problem.layout}"
        dtypes = [problem.a, problem.b]
    elif isinstance(problem, ScaledProblem):
        size = f"{problem.m}x{problem.n}x{problem.k} {problem.layout} {problem.b.short}"
        size += " 128x128"
        dtypes = [problem.a, *([problem.b_scales.dtype] if problem.b_scales else [])]
    elif isinstance(problem, QuantizedProblem):
        size = f"{problem.m}x{problem.n}x{problem.k} {problem.layout} {problem.weight}"
        dtypes = [problem.x, *([problem.scales] if problem.biases else [])]
    elif isinstance(problem, ExpertProblem):
        size = f"{problem.sources} x {problem.fanout} of {problem.experts} "
        size += f"{problem.n}x{problem.k} {problem.layout}"
        size += f" {problem.weight}" if problem.weight else ""
        second = problem.scales if problem.biases else problem.w
        dtypes = [problem.x, *([second] if second in FLOATS else [])]
    else:
        heads = f"{problem.num_heads}/{problem.num_kv_heads}"
        size = f"{heads} heads {problem.q_len}x{problem.kv_len} D={problem.head_dim}"
        size += " causal" if problem.mask_kind is MaskKind.CAUSAL else ""
        dtypes = [problem.q, problem.k, problem.v]
    names = [short[dtype] for dtype in dtypes]
    return f"{size} {'*'.join(dict.fromkeys(names))}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run as a command."""
    names = [chip.name for chip in chips.CHIPS]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--chip", type=chips.spelled, default="m1-max", choices=names, help="whose plans count")
    parser.add_argument("--only", default="", help="only rows whose names contain this")
    parser.add_argument("--write", action="store_true", help="write bench/results/counters.*")
    options = parser.parse_args(arguments)
    chip = chips.get(options.chip)
    if chip.neural_fma_per_cycle:
        parser.error(
            f"Expected --chip without neural accelerators, got {chip.name}: MLX multiplies on them "
            "by Metal's tensor operations, which the emulator does not run."
        )
    cases = [case for case in cases_to_count() if options.only in case.name]
    if not cases:
        parser.error(f"Expected --only to be a part of a row's name, got {options.only!r}.")
    if options.write and options.only:
        parser.error("Expected --write without --only: what is written has every row.")
    rows = []
    for case in cases:
        rows.append(count_row(case, chip))
        print(f"# {case.name}", flush=True)
    text = markdown(rows, version("mlx"))
    if options.write:
        (HERE / "results" / "counters.md").write_text(text)
        counted = [asdict(row) for row in rows]
        (HERE / "results" / "counters.json").write_text(json.dumps(counted, indent=1) + "\n")
    print(text)


if __name__ == "__main__":
    main()

"""Draw the pictures of the README and of the documentation into docs/pictures.

    python bench/pictures.py              # all of them
    python bench/pictures.py over-n tile  # some

Each SVG holds the data it shows, as JSON in its description, and `kept` reads it back. Times of
Apple's GPUs are modelled, for nothing was measured on one, and the pictures say so themselves.
Those of `cuda` were measured, on the NVIDIA GPU that it names.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from functools import partial
from html import unescape
from pathlib import Path
from typing import Any

import mlx.core as mx
import model
from published_kernels import BenchConstants

import mlx_tilegemm as tg
from mlx_tilegemm import emulator
from mlx_tilegemm.cli import roofline
from mlx_tilegemm.core.problem import Problem
from mlx_tilegemm.dispatch import ANY, Decision, choose
from mlx_tilegemm.families import families
from mlx_tilegemm.families.attention.spelling import parse as attention
from mlx_tilegemm.families.gated_delta.spelling import parse as gated_delta
from mlx_tilegemm.families.gemm.kernels import gemm_simdgroup
from mlx_tilegemm.families.gemm.spelling import parse as matmul
from mlx_tilegemm.machine import chips
from mlx_tilegemm.machine.chips.record import Chip

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "pictures"
RESULTS = ROOT / "bench" / "results"
TUTORIAL = ROOT / "docs" / "guides" / "a-kernel-of-your-own.md"
CHIPS = ("m1", "m2-pro", "m3-max", "m4", "m5-max")
PAIR = ("m1-max", "m4-max")
SIZES = (256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)
TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
OF_EACH_FAMILY = 2
"""Problems in a roofline, where their numbers have room for a dozen."""

CONTEXTS = (128, 256, 512, 1024, 2048, 4096, 8192, 16384)
PROBLEMS: dict[str, Problem] = {
    "prefill, f16 x f16": matmul("512x4096x4096:f16:nt"),
    "prefill, f16 x f32": matmul("512x4096x4096:f16,f32:nt"),
    "prefill, f16 x bf16": matmul("512x4096x4096:f16,bf16:nt"),
    "ragged, f16 x f32": matmul("333x517x259:f16,f32:nt"),
    "decode, 1 row, f16 x f16": matmul("1x4096x4096:f16:nt"),
    "decode, 8 rows, f32 x f16": matmul("8x4096x4096:f32,f16:nt"),
    "attention, f16, causal": attention("1x32x8x2048x2048x128:f16:causal"),
    "attention, f16 q, bf16 k, v": attention("1x32x8x2048x2048x128:f16,bf16,bf16:causal"),
    "attention, 1 row of 4096, f16": attention("1x32x8x1x4096x128:f16"),
}

Data = dict[str, Any]


def rounded(value: float) -> float:
    """Return four digits of a number: what a picture can show."""
    return float(f"{value:.4g}")


def times(problem: Problem, chip: Chip) -> tuple[float, float]:
    """Return the modelled seconds of this library's best kernel and of MLX's own ops."""
    decision = choose(problem, chip, ANY)
    assert decision.mlx is not None
    assert decision.mlx.seconds is not None
    return ours(decision), decision.mlx.seconds


def ours(decision: Decision) -> float:
    """Return the modelled seconds of the plan that was chosen."""
    (seconds,) = [one.seconds for one in decision.candidates if str(one) == str(decision.plan)]
    assert seconds is not None
    return seconds


def ratio(problem: Problem, chip: Chip) -> float:
    """Return the modelled time of MLX's own ops over that of this library's best kernel."""
    own, theirs = times(problem, chip)
    return theirs / own


def against_mlx() -> Data:
    """Return MLX's modelled time over ours, by problem and chip."""
    ratios = {
        title: [rounded(ratio(problem, chips.get(name))) for name in CHIPS]
        for title, problem in PROBLEMS.items()
    }
    return {"chips": list(CHIPS), "mlx_over_ours": ratios}


def over_n() -> Data:
    """Return modelled TFLOPS of square products over their size, by chip and side."""
    series = {}
    for name in PAIR:
        found = [times(matmul(f"{n}x{n}x{n}:f16,f32:nt"), chips.get(name)) for n in SIZES]
        for side, title in enumerate(("ours", "MLX, its cast included")):
            rates = [2 * n**3 / one[side] / 1e12 for n, one in zip(SIZES, found, strict=True)]
            series[f"{name}: {title}"] = [rounded(rate) for rate in rates]
    return {"n": list(SIZES), "tflops": series}


def over_context() -> Data:
    """Return modelled microseconds of attention over the context's length, by chip and side."""
    series = {}
    spellings = {
        "all rows, causal": "1x32x8x{0}x{0}x128:f16,bf16,bf16:causal",
        "one row": "1x32x8x1x{0}x128:f16,bf16,bf16",
    }
    for title, spelling in spellings.items():
        found = [times(attention(spelling.format(n)), chips.get("m4-max")) for n in CONTEXTS]
        for side, who in enumerate(("ours", "MLX, its casts included")):
            series[f"{title}: {who}"] = [rounded(one[side] * 1e6) for one in found]
    return {"context": list(CONTEXTS), "chip": "m4-max", "microseconds": series}


def over_tokens() -> Data:
    """Return modelled microseconds of gated delta updates over their tokens, by gate and kernel."""
    series = {}
    spellings = {
        "a decay each head": "1x{0}x16x32x128x128:bf16,f32",
        "a decay each key element": "1x{0}x32x32x128x128:bf16,f32:vector",
    }
    for title, spelling in spellings.items():
        problems = [gated_delta(spelling.format(n)) for n in TOKENS]
        for who, force in (("as chosen", ANY), ("token by token", "delta_recurrent")):
            found = [choose(problem, chips.get("m4-max"), force) for problem in problems]
            series[f"{title}: {who}"] = [rounded(ours(one) * 1e6) for one in found]
    return {"tokens": list(TOKENS), "chip": "m4-max", "microseconds": series}


def published() -> Data:
    """Return published GFLOPS and the model's, by chip, and which rows were fitted."""
    rows: dict[str, list[list[float]]] = {}
    for index, point in enumerate(model.read_points()):
        modelled = rounded(model.modelled_gflops(point, BenchConstants()))
        rows.setdefault(point.chip, []).append([point.gflops, modelled, 1 - index % 2])
    return {"published_modelled_fitted": rows}


def standard() -> list[Problem]:
    """Return the first problems of each family that `mlx-tilegemm roofline` draws by itself."""
    spellings = [family.spelling for family in families() if family.spelling]
    return [one.parse(text) for one in spellings for text in one.standard[:OF_EACH_FAMILY]]


def roofline_of(name: str) -> Data:
    """Return the points of a chip's roofline."""
    found = roofline.points(standard(), chips.get(name), {})
    points = [[one.number, one.series, rounded(one.intensity), rounded(one.rate)] for one in found]
    return {"chip": name, "points": points}


def flow() -> Data:
    """Return what each step makes of one call."""
    x = tg.ArraySpec(shape=(512, 4096), dtype=mx.float16)
    w = tg.ArraySpec(shape=(4096, 4096), dtype=mx.float32)
    found = tg.explain(tg.matmul, x, w, transpose_b=True, chip="m4-max")
    assert found.plan is not None
    stage = found.plan.stages[0]
    lines = (found.sources[0].header + found.sources[0].body).count("\n")
    legal = [one for one in found.candidates if one.seconds is not None]
    return {
        "steps": {
            "op": "matmul(x, w, transpose_b=True)",
            "problem": "float16 [512, 4096]\nfloat32 [4096, 4096]",
            "choice": f"{len(legal)} legal candidates\nfor m4-max, and MLX",
            "plan": f"{found.plan}".replace("/", "/\n"),
            "Metal text": f"{lines} lines,\n{stage.resources.threads} threads a group",
            "backend": "Metal, or the emulator",
            "results": "float32 [512, 4096]",
        }
    }


def tile() -> Data:
    """Return the sizes of a staged tile."""
    problem, chip = matmul("2048x2048x2048:f16,f32:nt"), chips.get("m1-max")
    config = next(one for one in gemm_simdgroup.candidates(problem, chip) if one.staged)
    stage = gemm_simdgroup.plan(problem, config).stages[0]
    return {
        "kernel": f"{gemm_simdgroup.NAME}/{config}",
        "block": [config.block_m, config.block_n, config.block_k],
        "simdgroups": [config.simdgroups_m, config.simdgroups_n],
        "threadgroup_bytes": stage.resources.threadgroup_bytes,
        "operands": [problem.a.name, problem.b.name],
    }


def race() -> Data:
    """Return the race of the tutorial's kernel, and what a terminal shows of it."""
    shown: dict[str, Any] = {}
    blocks = TUTORIAL.read_text().split("```python\n")[1:]
    wanted = [blocks[0], next(one for one in blocks if one.startswith("SOFTMAX"))]
    for block in wanted:
        exec(compile(block.split("```")[0], str(TUTORIAL), "exec"), shown)
    x = shown["mx"].random.normal((3, 300))
    try:
        with emulator.settings(workers=1):
            shown["softmax"](x)
    except emulator.KernelCheckError as error:
        (finding,) = error.findings
        assert isinstance(finding, emulator.Finding)
        return {
            "kind": str(finding.kind.value),
            "buffer": finding.buffer,
            "line": finding.line,
            "other_line": finding.other_line,
            "source_line": finding.source_line,
            "printed": str(error),
        }
    raise AssertionError("the tutorial's race was not found")


def cuda() -> Data:
    """Return MLX's time over ours as `cuda_sweep.py` measured it, by the kind of work."""
    kernels = json.loads((RESULTS / "cuda-sweep.json").read_text(encoding="utf-8"))
    calls = json.loads((RESULTS / "cuda-calls.json").read_text(encoding="utf-8"))
    series: dict[str, dict[str, list[float]]] = {}
    for name, found in (("kernel", kernels), ("called", calls)):
        for row in found["rows"]:
            if row.get("mlx_over_ours"):
                kind = series.setdefault(kind_of_work(row), {"kernel": [], "called": []})
                kind[name].append(row["mlx_over_ours"])
    return {"device": kernels["environment"]["device"], "mlx_over_ours": series}


def kind_of_work(row: Data) -> str:
    """Return the op of a measured problem, and whether its operands are of one type."""
    dtypes = row["problem"].split(":")[1].split(",")
    if row["op"] == "gated_delta_update":
        return "gated delta"
    kind = "one type" if len(set(dtypes)) == 1 else "mixed"
    return f"{row['op'].removesuffix('_matmul')}, {kind}"


PICTURES: dict[str, Callable[[], Data]] = {
    "flow": flow,
    "tile": tile,
    "against-mlx": against_mlx,
    "over-n": over_n,
    "over-context": over_context,
    "over-tokens": over_tokens,
    "model": published,
    "race": race,
    "cuda": cuda,
    "roofline-m1-max": partial(roofline_of, "m1-max"),
    "roofline-m4-max": partial(roofline_of, "m4-max"),
    "roofline-m5-max": partial(roofline_of, "m5-max"),
}
"""Each picture's data."""


def kept(name: str) -> Data:
    """Return the data that a picture in docs/pictures holds."""
    text = (FOLDER / f"{name}.svg").read_text(encoding="utf-8")
    start, end = "<dc:description>", "</dc:description>"
    found: Data = json.loads(unescape(text[text.index(start) + len(start) : text.index(end)]))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Run as a command."""
    from pictures_draw import save

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="picture", help=", ".join(PICTURES))
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(PICTURES):
        parser.error(f"Expected pictures of {', '.join(PICTURES)}, got {', '.join(unknown)}.")
    FOLDER.mkdir(exist_ok=True)
    for name in options.names or PICTURES:
        save(FOLDER / f"{name}.svg", name, PICTURES[name]())
        print(FOLDER / f"{name}.svg")


if __name__ == "__main__":
    main()

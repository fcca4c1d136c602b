"""Our kernels against plain MLX on an NVIDIA GPU, over a sweep of problems.

    python bench/cuda_sweep.py --json sweep.json
    python bench/cuda_sweep.py --only attention --candidates 6
    python bench/cuda_sweep.py --ship mlx_tilegemm/assurance/shipped/sm_90.json --json sweep.json

Candidates of a problem are the configurations that its kernels may serve it with, the best ones by
the model of a large Apple chip, which here is only an order to try them in. Processes compile them;
one process then runs all of them and MLX's own ops on the same arrays, leaves out what is further
from MLX's result than rounding explains, and times the rest against each other in interleaved
rounds of many calls each. A call is made anew each time, as in a program that builds its graph as
it goes.
`mlx-tilegemm verify` holds the texts to float64. The table says which card it is of.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import time
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.metadata import version
from itertools import product
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import mlx.core as mx
import numpy as np
from run import SPECS

from mlx_tilegemm.assurance.measurements import key
from mlx_tilegemm.assurance.tuning.calls import launches
from mlx_tilegemm.assurance.tuning.measure import Effort, Launches, measure, spread
from mlx_tilegemm.assurance.userfile import now
from mlx_tilegemm.backends import backend_named
from mlx_tilegemm.backends.launch import kernel_run
from mlx_tilegemm.core.operand import Operand, Role
from mlx_tilegemm.core.plan import Plan
from mlx_tilegemm.core.problem import Problem
from mlx_tilegemm.core.render import text_name
from mlx_tilegemm.cuda import compiler
from mlx_tilegemm.dispatch import MLX, choose
from mlx_tilegemm.families import family_of
from mlx_tilegemm.machine.chips import LARGEST

ROWS = (1, 2, 4, 8, 16, 32, 64, 512)
PAIRS = ("f16,bf16", "bf16,f16", "f32,bf16", "f16,f16", "bf16,bf16", "f32,f32")
WEIGHTS = (
    "f16:affine4x64",
    "bf16,f16:affine4x64",
    "f32:affine4x64",
    "bf16:mxfp4",
    "f16:affine8x64",
)
EFFORT = Effort(rounds=9, warm_seconds=0.05, sample_seconds=0.004)
CUDA = backend_named("cuda")
TOLERANCE = 0.02
"""Of the norms of a difference and of MLX's result; MLX rounds scores and factors to 16 bits."""


def problems() -> Iterator[tuple[str, str]]:
    """Yield an op and the spelling of each problem of the sweep."""
    for keys, rows, dtypes in product((4096, 32768, 131072), (1, 4), ("f16,bf16,bf16", "f16")):
        yield "attention", f"1x32x8x{rows}x{keys}x128:{dtypes}:causal"
    for m, pair in product(ROWS, PAIRS):
        yield "matmul", f"{m}x4096x4096:{pair}:nt"
    for m, pair in product((2048, 4096), PAIRS[:2]):
        yield "matmul", f"{m}x4096x4096:{pair}:nt"
    for m, pair in product((1, 8, 64), PAIRS[:2]):
        yield "matmul", f"{m}x14336x4096:{pair}:nt"
        yield "matmul", f"{m}x4096x14336:{pair}:nt"
    for m, weight in product((1, 8, 16, 64, 512), WEIGHTS):
        yield "quantized_matmul", f"{m}x4096x4096:{weight}"
    for length, heads, dtypes in product((512, 2048, 8192), (8, 32), ("f16,bf16,bf16", "f16")):
        yield "attention", f"1x32x{heads}x{length}x{length}x128:{dtypes}:causal"


def problem_of(op: str, text: str) -> Problem:
    """Return the problem that is spelled so."""
    return SPECS[op](text)


def plans(problem: Problem, count: int) -> dict[str, Plan]:
    """Return the best candidates by the model, at most ``count`` of a kernel, by name."""
    found: dict[str, Plan] = {}
    taken: dict[str, int] = {}
    candidates = [one for one in choose(problem.stored(), LARGEST).candidates if one.plan]
    for one in sorted(candidates, key=lambda one: one.seconds or 0.0):
        assert one.plan is not None
        taken[one.plan.kernel] = taken.get(one.plan.kernel, 0) + 1
        if taken[one.plan.kernel] <= count:
            found[str(one)] = one.plan
    return found


def operands(problem: Problem) -> tuple[mx.array, ...]:
    """Return random arrays for a problem, without values as yet."""
    return tuple(_drawn(one) for one in problem.operands)


def _drawn(one: Operand) -> mx.array:
    shape = one.stored_shape
    if one.mlx == mx.uint32:
        return mx.random.randint(0, 1 << 31, shape).astype(mx.uint32)
    if one.mlx == mx.uint8:
        return mx.random.randint(118, 126, shape).astype(mx.uint8)
    scale = 0.02 if one.role is Role.SCALE else 1.0
    return (scale * mx.random.normal(shape)).astype(one.mlx)


def compiled(task: tuple[str, str, int]) -> int:
    """Compile the candidates of a problem into the cache, and return how many do compile."""
    op, text, count = task
    problem = problem_of(op, text).stored()
    arrays, factors = operands(problem), family_of(problem).trial_factors(problem)
    done = 0
    for plan in plans(problem, count).values():
        try:
            kernel_run(problem, plan, CUDA)(arrays, factors, None)
            done += 1
        except Exception:  # whatever a compiler may raise; the run below says it
            continue
    return done


def _distance(outputs: Sequence[mx.array], wanted: Sequence[mx.array]) -> float:
    pairs = [
        (a.astype(mx.float32), b.astype(mx.float32)) for a, b in zip(outputs, wanted, strict=True)
    ]
    errors = mx.stack([mx.linalg.norm(a - b) / mx.linalg.norm(b) for a, b in pairs])
    return float(np.max(np.array(errors)))


def timed(op: str, text: str, count: int) -> tuple[dict[str, float], dict[str, str]]:
    """Return the median microseconds of a call of each candidate, and what is wrong with others."""
    problem = problem_of(op, text).stored()
    arrays, factors = operands(problem), family_of(problem).trial_factors(problem)
    mx.eval(*arrays)
    fallback = family_of(problem).fallback(problem)
    assert fallback is not None, "problems that can be spelled are those of calls"
    on_mlx = partial(fallback, arrays, factors, None)
    wanted = on_mlx()
    calls: dict[str, Launches] = {MLX: launches(on_mlx)}
    wrong: dict[str, str] = {}
    for name, plan in plans(problem, count).items():
        try:
            call = partial(kernel_run(problem, plan, CUDA), arrays, factors, None)
            distance = _distance(call(), wanted)
        except Exception as error:  # whatever a compiler, a driver or MLX may raise
            wrong[name] = (str(error) or type(error).__name__)[:400]
            continue
        if distance <= TOLERANCE:
            calls[name] = launches(call)
        else:
            wrong[name] = f"{distance:.2g} from MLX's result"
    samples = measure(calls, time.perf_counter, EFFORT)
    return {name: round(spread(one).median * 1e6, 2) for name, one in samples.items()}, wrong


def row(op: str, text: str, times: dict[str, float], wrong: dict[str, str]) -> dict[str, Any]:
    """Return what is known of a problem."""
    ours = {name: value for name, value in times.items() if name != MLX}
    best = min(ours, key=lambda name: ours[name]) if ours else None
    ratio = times[MLX] / ours[best] if best and MLX in times else None
    return {
        "op": op, "problem": text, "kernel": best, "ours_us": best and ours[best],
        "mlx_us": times.get(MLX), "mlx_over_ours": ratio and round(ratio, 3),
        "times_us": times, "wrong": wrong,
    }  # fmt: skip


def environment() -> dict[str, str]:
    """Return what the times were measured on."""
    info = mx.device_info(mx.gpu)
    return {
        "device": str(info.get("device_name", "")),
        "mlx": version("mlx"),
        "nvrtc": compiler.version(),
        "python": platform.python_version(),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a table in Markdown."""
    lines = [
        "| op | problem | kernel | ours, us | MLX, us | MLX / ours |",
        "|---|---|---|--:|--:|--:|",
    ]
    lines += [
        f"| {one['op']} | {one['problem']} | {one['kernel']} | {one['ours_us']} | {one['mlx_us']} "
        f"| {one['mlx_over_ours']} |"
        for one in rows
    ]
    ratios = [one["mlx_over_ours"] for one in rows if one["mlx_over_ours"]]
    chosen = [max(1.0, ratio) for ratio in ratios]
    if ratios:
        lines.append(
            f"\nGeometric mean of MLX / ours over {len(ratios)} problems: "
            f"{geometric_mean(ratios):.2f}; with MLX where it is faster, "
            f"{geometric_mean(chosen):.2f}."
        )
    return "\n".join(lines)


def shipped(found: dict[str, Any], when: str) -> dict[str, Any]:
    """Return a sweep in the form in which the library keeps measurements: the fastest and MLX's.

    The sweep keeps medians alone, which stand for their quartiles too.
    """
    entries = {}
    for one in found["rows"]:
        problem = problem_of(one["op"], one["problem"])
        known = plans(problem, 99)
        names = [
            MLX,
            *sorted((x for x in one["times_us"] if x != MLX), key=one["times_us"].get)[:3],
        ]
        times = [
            {
                "candidate": name,
                **dict.fromkeys(("median", "low", "high"), one["times_us"][name] / 1e6),
                "text": text_name(known[name]) if name in known else "",
            }
            for name in names
        ]
        entries[key(problem.alike())] = {"when": when, "times": times}
    machine = ", ".join((found["environment"]["device"], f"MLX {found['environment']['mlx']}"))
    return {
        "about": "Times of kernels of mlx_tilegemm and of MLX's own ops, in seconds, that stand in "
        "on machines with such a GPU until `mlx-tilegemm tune` measures them there.",
        "command": "python bench/cuda_sweep.py",
        "machine": machine,
        "environment": found["environment"],
        "problems": entries,
    }


def main() -> None:
    """Measure the sweep, or ship one that was measured."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", default="", help="an op")
    parser.add_argument("--candidates", type=int, default=5, help="of a kernel")
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=1e9, help="after which no more is timed")
    parser.add_argument("--ship", type=Path, help="write what --json holds for the library")
    parser.add_argument("--when", default=now(), help="time of the sweep to ship, in UTC")
    options = parser.parse_args()
    if options.ship:
        kept = shipped(json.loads(options.json.read_text(encoding="utf-8")), options.when)
        options.ship.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        return
    start = time.perf_counter()
    tasks = [(*one, options.candidates) for one in problems() if options.only in ("", one[0])]
    with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
        texts = sum(pool.imap_unordered(compiled, tasks, chunksize=1))
    print(f"{texts} candidates compiled in {time.perf_counter() - start:.0f} s")
    rows: list[dict[str, Any]] = []
    for task in tasks:
        if time.perf_counter() - start > options.seconds:
            print(f"out of time: {len(tasks) - len(rows)} problems were not run")
            break
        rows.append(row(*task[:2], *timed(*task)))
        print(*(rows[-1][name] for name in ("problem", "kernel", "ours_us", "mlx_us")), flush=True)
        if options.json:  # after each, so that a sweep that is cut off leaves what it found
            found = {"environment": environment(), "rows": rows}
            options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(environment())
    print(table(rows))
    for one in rows:
        for name, reason in one["wrong"].items():
            print(f"wrong: {one['op']} {one['problem']} {name}: {reason.splitlines()[0][:160]}")


if __name__ == "__main__":
    main()

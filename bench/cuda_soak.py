"""Random problems on random kernels until the time is up, each held against float64.

    python bench/cuda_soak.py --seconds 300 --jobs 8
    python bench/cuda_soak.py --seconds 20 --jobs 1 --seed 7 --backend emulator --scale 0.1

A problem's op, sizes, dtypes and layout are drawn, then one of the configurations that may serve
it, which runs a few times on the same operands. Rows from all over each result are held against the
family's float64 reference and its proven bound, and repeated runs have to give the same bits. What
is wrong is printed with the spelling, configuration and seed that repeat it; the status is then 1.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import mlx.core as mx
from backend import require
from run import SPECS

from mlx_tilegemm.assurance.tuning.calls import mistake, workload
from mlx_tilegemm.backends import BACKENDS, backend_named
from mlx_tilegemm.core.plan import Plan
from mlx_tilegemm.core.problem import Problem
from mlx_tilegemm.dispatch import choose
from mlx_tilegemm.machine.chips import NVIDIA

FLOATS = ("f16", "bf16", "f32")
REPEATS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A random problem and what became of it.

    Attributes:
        op: Its op.
        problem: Its spelling.
        kernel: The configuration that served it.
        seed: Of its operands.
        wrong: What is wrong with its results, empty if they are right.
    """

    op: str
    problem: str
    kernel: str
    seed: int
    wrong: str


def size(draw: random.Random, most: float) -> int:
    """Return a size, small ones as often as large ones; half of the larger ones are multiples."""
    found: int = max(1, round(most ** draw.uniform(0, 1)))
    return found if found < 64 or draw.random() < 0.5 else found - found % 32


def _matmul(draw: random.Random, scale: float) -> str:
    m, n, k = (size(draw, most * scale) for most in (2048, 4096, 4096))
    a, b = draw.choice(FLOATS), draw.choice(FLOATS)
    return f"{m}x{n}x{k}:{a},{b}:{draw.choice(('nn', 'nt', 'tn', 'tt'))}"


def _attention(draw: random.Random, scale: float) -> str:
    groups, shared = draw.choice((1, 2, 8)), draw.choice((1, 2, 4))
    keys = size(draw, 8192 * scale)
    rows = draw.choice((1, min(keys, 4), min(keys, size(draw, 512 * scale))))
    dim = draw.choice((64, 80, 96, 128))
    dtypes = ",".join(draw.choice(FLOATS) for _ in range(3))
    mask = draw.choice(("none", "causal"))
    return f"1x{groups * shared}x{groups}x{rows}x{keys}x{dim}:{dtypes}:{mask}"


def _weight(draw: random.Random) -> tuple[str, int]:
    """Return a quantized weight and the length of its groups."""
    group = draw.choice((32, 64, 128))
    affine = f"affine{draw.choice((2, 3, 4, 5, 6, 8))}x{group}"
    return draw.choice(((affine, group), ("mxfp4", 32), ("mxfp8", 32), ("nvfp4", 16)))


def _quantized(draw: random.Random, scale: float) -> str:
    weight, group = _weight(draw)
    m, n = size(draw, 512 * scale), 32 * size(draw, 64 * scale)
    k = max(group, 128) * size(draw, 16 * scale)
    x = draw.choice(FLOATS)
    scales = draw.choice(FLOATS) if weight.startswith("affine") else x
    return f"{m}x{n}x{k}:{x},{scales}:{weight}"


def _experts(draw: random.Random, scale: float) -> str:
    weight, group = draw.choice((("plain", 32), ("grouped", 32), _weight(draw)))
    tokens, experts = size(draw, 128 * scale), draw.choice((4, 16, 64))
    n, k = 32 * size(draw, 24 * scale), max(group, 128) * size(draw, 8 * scale)
    x = draw.choice(FLOATS)
    other = draw.choice(FLOATS) if weight in ("plain", "grouped") or "affine" in weight else x
    return f"{tokens}x{draw.choice((1, 2, 4))}x{experts}x{n}x{k}:{x},{other}:{weight}"


def _scaled(draw: random.Random, scale: float) -> str:
    m, n, k = size(draw, 256 * scale), 16 * size(draw, 128 * scale), 16 * size(draw, 128 * scale)
    weight = draw.choice(("e4m3", "e5m2", "int8"))
    kind = draw.choice(("-tensor", "-row", "-128x128"))
    left = draw.choice(("", f"{weight}*"))
    return f"{m}x{n}x{k}:{draw.choice(FLOATS)},f32:{left}{weight}{kind}"


def _gated_delta(draw: random.Random, scale: float) -> str:
    length, keys = size(draw, 160 * scale), draw.choice((1, 4))
    values = keys * draw.choice((1, 2))
    dims = (draw.choice((64, 128)), draw.choice((64, 128)))
    words = draw.choice(("", ":vector", ":first", ":vector-first"))
    sizes = "x".join(map(str, (draw.choice((1, 2)), length, keys, values, *dims)))
    return f"{sizes}:{draw.choice(FLOATS)},f32{words}"


SPELLINGS: dict[str, Callable[[random.Random, float], str]] = {
    "matmul": _matmul,
    "attention": _attention,
    "quantized_matmul": _quantized,
    "experts": _experts,
    "fp8_scaled_matmul": _scaled,
    "gated_delta_update": _gated_delta,
}


def drawn(draw: random.Random, scale: float = 1.0) -> tuple[str, str, Problem, Plan]:
    """Return an op, the spelling of a problem of it, that problem, and a plan that may serve it."""
    while True:
        op = draw.choice(list(SPELLINGS))
        text = SPELLINGS[op](draw, scale)
        problem = SPECS[op](text).stored()
        plans = [one.plan for one in choose(problem, NVIDIA).candidates if one.plan]
        if plans:
            return op, text, problem, draw.choice(plans)


def tried(problem: Problem, plan: Plan, seed: int, backend: str) -> str:
    """Run a problem and return what is wrong with it."""
    work = workload(problem, seed)
    call = work.on_kernel(plan, backend_named(backend))
    results = [call(work.operands) for _ in range(REPEATS)]
    mx.eval(*results)
    reason = mistake(work, results[0])
    if reason is not None:
        return reason
    first = list(map(_bits, results[0]))
    if any(list(map(_bits, one)) != first for one in results[1:]):
        return "repeated runs differ"
    return ""


def _bits(array: mx.array) -> bytes:
    with mx.stream(mx.cpu):
        return bytes(memoryview(mx.view(array, mx.uint8)))  # type: ignore[arg-type]


def soaked(task: tuple[int, float, str, float]) -> list[Trial]:
    """Try problems until the time is up; runs in a process of its own."""
    seed, seconds, backend, scale = task
    draw, start = random.Random(seed), time.monotonic()
    found: list[Trial] = []
    while time.monotonic() - start < seconds:
        op, text, problem, plan = drawn(draw, scale)
        data = draw.randrange(1 << 31)
        try:
            wrong = tried(problem, plan, data, backend)
        except Exception as error:  # whatever a compiler, a driver or MLX may raise
            wrong = f"{type(error).__name__}: {error}"
        found.append(Trial(op=op, problem=text, kernel=str(plan), seed=data, wrong=wrong))
        if wrong:
            print(f"wrong: {op} {text} {plan} seed {data}: {wrong[:400]}", flush=True)
    return found


def report(trials: Sequence[Trial]) -> str:
    """Return how many problems each kernel served, and how many of them wrongly."""
    served = Counter(one.kernel.partition("/")[0] for one in trials)
    wrong = Counter(one.kernel.partition("/")[0] for one in trials if one.wrong)
    lines = ["| kernel | problems | wrong |", "|---|--:|--:|"]
    lines += [f"| {name} | {count} | {wrong[name]} |" for name, count in sorted(served.items())]
    configurations = len({one.kernel for one in trials})
    lines.append(
        f"\n{len(trials)} problems, {configurations} configurations, {sum(wrong.values())} wrong"
    )
    return "\n".join(lines)


def main() -> int:
    """Try problems, print what is wrong and a table; 1 if anything is."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=time.time_ns() % (1 << 31))
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--backend", choices=[one.name for one in BACKENDS], default="cuda")
    parser.add_argument("--scale", type=float, default=1.0, help="of the largest sizes")
    parser.add_argument("--json", type=Path, help="write the trials there")
    options = parser.parse_args()
    require(parser, options.backend)
    print(f"seed {options.seed}, {options.jobs} processes, {options.seconds:g} s", flush=True)
    common = (options.seconds, options.backend, options.scale)
    tasks = [(options.seed + number, *common) for number in range(options.jobs)]
    with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
        trials = [one for part in pool.imap_unordered(soaked, tasks) for one in part]
    print(report(trials))
    if options.json:
        kept = {"seed": options.seed, "trials": [asdict(one) for one in trials]}
        options.json.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return int(not trials or any(one.wrong for one in trials))


if __name__ == "__main__":
    raise SystemExit(main())

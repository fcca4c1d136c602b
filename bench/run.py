"""An op of ours against MLX's own, on the backend at hand; correctness first.

    python bench/run.py matmul 512x4096x4096:f16,f32:nt 1x4096x4096:f16:nt
    python bench/run.py attention 1x32x8x2048x2048x128:f16:causal --json result.json
    python bench/run.py matmul 64x96x80:f16,f32 --backend emulator

A problem is spelled as in `mlx-tilegemm tune`: m, n, k, dtypes of a and b, layout; or B, Hq, Hkv,
Lq, Lk, D, dtypes, mask. Both sides' results are first held against float64; what is wrong is not
timed. On Metal the two are then timed against each other in interleaved rounds: medians, quartiles,
and MLX's time over ours, round by round. Elsewhere there is no speed: the emulator's launch is
checked and counted, and what the model of a chip says stands beside it, labelled so.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx_tilegemm as tg
from mlx_tilegemm import backends, emulator
from mlx_tilegemm.assurance.tuning.calls import Call, Workload, busy, launches, mistake, workload
from mlx_tilegemm.assurance.tuning.measure import Clock, Effort, measure, spread
from mlx_tilegemm.assurance.userfile import now, this_machine
from mlx_tilegemm.backends import Backend
from mlx_tilegemm.call.choice import chosen
from mlx_tilegemm.core.plan import Plan
from mlx_tilegemm.core.problem import Problem
from mlx_tilegemm.dispatch import ANY, MLX, Decision, choose
from mlx_tilegemm.errors import TileGemmError
from mlx_tilegemm.families import families
from mlx_tilegemm.machine import chips
from mlx_tilegemm.machine.chips import Chip

SPECS: dict[str, Callable[[str], Problem]] = {
    one.spelling.name: one.spelling.parse for one in families() if one.spelling is not None
}
MODES = (backends.AUTO, *(one.name for one in backends.BACKENDS), backends.MLX)
EMULATED_FLOPS = 1 << 31
"""Larger problems are not emulated: that would take minutes."""

COUNTED = ("device_loaded", "device_stored", "threadgroup_loaded", "threadgroup_stored")
NO_SPEED = {
    "emulator": "no speed: the emulator ran the kernel on a CPU",
    "mlx": "no speed: on this machine MLX's own ops serve both sides",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is asked beside the problems.

    Attributes:
        kernel: A kernel or ``kernel/config`` to force; ``any`` for the best of them.
        chip: Whose modelled times stand beside.
        effort: How much time measuring takes.
        clock: What is measured by.
    """

    kernel: str
    chip: Chip
    effort: Effort
    clock: Clock = time.perf_counter


def compare(problem: Problem, options: Options) -> dict[str, Any]:
    """Return everything that can be said of a problem on the current backend."""
    route = backends.resolve()
    found: dict[str, Any] = {
        "problem": str(problem),
        "backend": route.name,
        "flops": problem.flops(),
        "least_bytes": problem.least_bytes(),
        "modelled": _modelled(choose(problem, options.chip, options.kernel), options.chip),
    }
    has_clock = route.backend is None or route.backend.capabilities.has_clock
    if not has_clock and problem.flops() > EMULATED_FLOPS:
        return found | {"kernel": None, "right": None, "check": "not run: too large to emulate"}
    work = workload(problem)
    if route.backend is None:
        return found | _by_mlx(work)
    plan = chosen(problem, route.backend, force=options.kernel, gradients=False).plan
    if plan is None:
        return found | {"kernel": None, "right": None, "check": "no kernel may serve it"}
    found["kernel"] = str(plan)
    if has_clock:
        return found | _timed(work, plan, route.backend, options)
    return found | _counted(work, plan, route.backend)


def _modelled(decision: Decision, chip: Chip) -> dict[str, Any]:
    ours = next((x for x in decision.candidates if str(x) == str(decision.plan)), None)
    return {
        "chip": chip.name,
        "ours": str(ours) if ours else None,
        "ours_us": _microseconds(ours.seconds) if ours else None,
        "mlx": decision.mlx.config if decision.mlx else None,
        "mlx_us": _microseconds(decision.mlx.seconds) if decision.mlx else None,
    }


def _microseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e6, 3)


def _by_mlx(work: Workload) -> dict[str, Any]:
    reason = mistake(work, _on_mlx(work)(work.operands), by_mlx=True)
    return {"kernel": None, **_checked(reason), "speed": None, "label": NO_SPEED["mlx"]}


def _on_mlx(work: Workload) -> Call:
    call = work.on_mlx()
    assert call is not None, "problems that can be spelled are those of calls"
    return call


def _checked(reason: str | None) -> dict[str, Any]:
    return {"right": reason is None, "check": reason or "right"}


def _counted(work: Workload, plan: Plan, backend: Backend) -> dict[str, Any]:
    with emulator.count() as counters:
        outputs = work.on_kernel(plan, backend)(work.operands)
    counted = {name: sum(getattr(one, name) for one in counters) for name in COUNTED}
    checked = _checked(mistake(work, outputs))
    return {**checked, "counted": counted, "speed": None, "label": NO_SPEED["emulator"]}


def _timed(work: Workload, plan: Plan, backend: Backend, options: Options) -> dict[str, Any]:
    calls = {"ours": work.on_kernel(plan, backend), "mlx": _on_mlx(work)}
    reasons = {
        name: mistake(work, call(work.operands), by_mlx=name == "mlx")
        for name, call in calls.items()
    }
    wrong = [f"{name}: {reason}" for name, reason in reasons.items() if reason]
    if wrong:
        return {**_checked("; ".join(wrong)), "speed": None, "label": "no speed: a wrong result"}
    ready = {name: launches(call, [work.operands]) for name, call in calls.items()}
    effort = options.effort
    samples = measure(ready, options.clock, effort, busy(effort, options.clock))
    ratios = [mlx / ours for ours, mlx in zip(samples["ours"], samples["mlx"], strict=True)]
    speed: dict[str, Any] = {
        f"{name}_us": _figures([x * 1e6 for x in one]) for name, one in samples.items()
    }
    speed["mlx_over_ours"] = _figures(ratios)
    return {**_checked(None), "speed": speed, "label": f"measured on {this_machine()}"}


def _figures(samples: list[float]) -> dict[str, float]:
    found = spread(samples)
    return {name: round(getattr(found, name), 4) for name in ("median", "low", "high")}


def text(result: dict[str, Any]) -> str:
    """Return a result in a few lines."""
    lines = [result["problem"], f"  {result['backend']}, {result['kernel']}: {result['check']}"]
    speed = result.get("speed")
    if speed:
        for name, unit in (("ours_us", " us"), ("mlx_us", " us"), ("mlx_over_ours", "")):
            one = speed[name]
            spread_text = f"({one['low']:.2f} to {one['high']:.2f})"
            lines.append(f"  {name.removesuffix('_us'):14} {one['median']:.2f}{unit} {spread_text}")
    if "label" in result:
        lines.append(f"  {result['label']}")
    if "counted" in result:
        counted = ", ".join(f"{name} {value}" for name, value in result["counted"].items())
        lines.append(f"  counted bytes: {counted}")
    modelled = result["modelled"]
    lines.append(
        f"  modelled on {modelled['chip']}: ours {modelled['ours_us']} us ({modelled['ours']}), "
        f"MLX {modelled['mlx_us']} us ({modelled['mlx']})"
    )
    return "\n".join(lines)


def _wrong(options: argparse.Namespace) -> str | None:
    """Return what is wrong with the options, before any time is spent."""
    if options.rounds < 1:
        return f"[run] Expected at least one round, got {options.rounds}."
    if options.kernel == MLX:
        return "[run] Expected a kernel to compare with MLX's own ops, got mlx."
    if options.json is None or (options.json.parent.is_dir() and not options.json.is_dir()):
        return None
    return f"[run] Expected --json to be a file in a directory that exists, got {options.json}."


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare what is asked for, print it and perhaps write it; 1 if a result is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("op", choices=list(SPECS))
    parser.add_argument("specs", nargs="+", metavar="problem")
    parser.add_argument("--backend", choices=MODES, default="auto")
    parser.add_argument("--kernel", default=ANY, help="a kernel, or kernel/config")
    parser.add_argument("--chip", type=chips.spelled, choices=[chip.name for chip in chips.CHIPS])
    parser.add_argument("--rounds", type=int, default=Effort().rounds)
    parser.add_argument("--json", type=Path, help="write the results there")
    options = parser.parse_args(arguments)
    if wrong := _wrong(options):
        parser.error(wrong)
    asked = Options(
        kernel=options.kernel,
        chip=chips.get(options.chip) if options.chip else chips.detect()[0],
        # Neither side leaves for being slow: each round has to have both.
        effort=Effort(rounds=options.rounds, keep=float("inf")),
    )
    results = []
    try:
        for spec in options.specs:
            with tg.use_backend(options.backend):
                results.append(compare(SPECS[options.op](spec), asked))
            print(text(results[-1]), flush=True)
    except TileGemmError as error:
        parser.error(str(error))
    if options.json:
        system = f"{platform.system()} {platform.machine()}, MLX {version('mlx')}"
        command = " ".join(["python", "bench/run.py", *(arguments or sys.argv[1:])])
        content = {"when": now(), "command": command, "system": system, "results": results}
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 1 if any(one["right"] is False for one in results) else 0


if __name__ == "__main__":
    raise SystemExit(main())

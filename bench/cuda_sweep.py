"""Our kernels against plain MLX on an NVIDIA GPU, over a sweep of problems.

    python bench/cuda_sweep.py --json sweep.json
    python bench/cuda_sweep.py --json sweep.json --only attention    # those with the word; goes on
    python bench/cuda_sweep.py --json sweep.json --ship mlx_tilegemm/assurance/shipped/sm_90.json
    python bench/cuda_sweep.py --json calls.json --calls             # then: ops as users call them
    python bench/cuda_sweep.py --json sweep.json --held-by calls.json --ship ...   # and again
    python bench/cuda_sweep.py --json sweep.json --table calls.json  # prints both, by kind of work

Candidates of a problem are the configurations that its kernels may serve it with, the best ones by
the model of a large Apple chip, which here is only an order to try them in, and those that it is
not offered. Processes compile them, and call MLX's ops once, for MLX compiles some of its kernels,
too, and keeps them. One process then runs all candidates and MLX's own ops on the same arrays,
leaves out what is further from MLX's result than rounding explains, and times the rest against each
other in interleaved rounds of many calls each, by the GPU's time: calls are handed to a GPU that
other work keeps busy until they are all made. They are made anew each time, as in a program that
builds its graph as it goes, on operands that rotate, so that the GPU's cache does not hold them,
and each after the one before, as in a model: a small op of MLX's copies an operand when the last
result is there; such copies are timed alone, and their time is taken out. A problem that takes too
long is given up with its process, and the next one goes on in another; the file is written after
each, and problems that it has times of are not measured again: a whole run begins with new files.
`mlx-tilegemm verify` holds the texts to float64. The table says which card it is of.

With `--calls`, what is timed is the public op, which chooses by the times that are shipped or were
tuned, against MLX's op of the same arguments; where a kernel serves, the public op that is told to
leave the call to MLX's is timed, too. They are timed a second time by the program's time: calls are
handed to an idle GPU, so that of short ones it is the time to make them. What links them is in it
on both sides, though it takes a program about as long as a call: without it MLX would run several
calls side by side, as it cannot where each needs the last. Where what is left to MLX's op takes the
GPU less, or takes less by the sum of both times, `--held-by` leaves the problem out of what is
shipped, so that MLX's op serves it; `--table` then says what that took. Times that this user's
`mlx-tilegemm tune`, or `cuda_model.py`, kept go before those that are shipped: `XDG_STATE_HOME`
names another folder for them.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cache, partial
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import mlx.core as mx
import numpy as np
from backend import require
from cuda_large import drawn
from cuda_problems import as_written, operand_sets, problem_of, problems

import mlx_tilegemm as tg
from mlx_tilegemm.assurance.measurements import key
from mlx_tilegemm.assurance.tuning.calls import busy, launches, links
from mlx_tilegemm.assurance.tuning.measure import Effort, Launches, Wait, Work, measure, spread
from mlx_tilegemm.assurance.userfile import now
from mlx_tilegemm.backends import backend_named
from mlx_tilegemm.backends.launch import kernel_run
from mlx_tilegemm.core.plan import Plan
from mlx_tilegemm.core.problem import Problem
from mlx_tilegemm.core.render import text_name
from mlx_tilegemm.cuda import compiler
from mlx_tilegemm.dispatch import MLX, Candidate, Measurements, Timing, choose
from mlx_tilegemm.families import family_of
from mlx_tilegemm.machine.chips import LARGEST, NVIDIA, Chip

EFFORT = Effort(rounds=9, warm_seconds=0.05, sample_seconds=0.004)
CALLS = Effort(rounds=9, warm_seconds=0.05, sample_seconds=0.004, keep=float("inf"))
CUDA = backend_named("cuda")
COMPILE_SECONDS = 300
"""After which problems are timed, whether all is compiled or not."""

TOLERANCE = 0.02
"""Of the norms of a difference and of MLX's result; MLX rounds scores and factors to 16 bits."""

LAUNCH_US = 1e6 * NVIDIA.limits.call_seconds
"""What a program takes to add a launch to MLX's graph, so that a kernel of two has to gain more."""

AGREED = 0.97
"""Plain MLX's time over that of an op as users call it, at least."""

Task = tuple[str, str, int]
"""An op, the spelling of a problem, and how many candidates of a kernel are tried."""


def plans(problem: Problem, count: int) -> dict[str, Plan]:
    """Return the best candidates by the model, at most ``count`` of a kernel, by name.

    With them come all that the chip of the model is not offered, for it knows nothing of those.
    """
    found: dict[str, Plan] = {}
    taken: dict[str, int] = {}
    modelled = {str(one) for one in _legal(problem, LARGEST)}
    for one in sorted(_legal(problem, NVIDIA), key=lambda one: one.seconds or 0.0):
        assert one.plan is not None
        taken[one.plan.kernel] = taken.get(one.plan.kernel, 0) + (str(one) in modelled)
        if str(one) not in modelled or taken[one.plan.kernel] <= count:
            found[str(one)] = one.plan
    return found


def _legal(problem: Problem, chip: Chip) -> list[Candidate]:
    return [one for one in choose(problem.stored(), chip).candidates if one.plan]


def texts(asked: Sequence[Problem], count: int) -> list[tuple[Problem, str]]:
    """Return a problem and a candidate for each text that problems need, each text once.

    MLX's ops come first, for each problem: what they compile takes longest.
    """
    found = {str(problem): (problem, MLX) for problem in asked}
    for problem in asked:
        for name, plan in plans(problem, count).items():
            found.setdefault(text_name(plan), (problem, name))
    return list(found.values())


def compiled(problem: Problem, name: str) -> bool:
    """Compile a candidate, or let MLX compile what its op needs; return whether that works."""
    factors = family_of(problem).trial_factors(problem)
    try:
        if name == MLX:
            run = family_of(problem).fallback(problem)
            assert run is not None, "problems that can be spelled are those of calls"
            mx.eval(*run([drawn(one) for one in problem.operands], factors, None))
        else:
            # Without values: only their shapes and dtypes matter.
            arrays = [mx.zeros(one.stored_shape, one.mlx) for one in problem.operands]
            kernel_run(problem, plans(problem, 99)[name], CUDA)(arrays, factors, None)
    except Exception:  # whatever a compiler may raise; the run of it says it
        return False
    return True


def _distance(outputs: Sequence[mx.array], wanted: Sequence[mx.array]) -> float:
    pairs = [
        (a.astype(mx.float32).reshape(b.shape), b.astype(mx.float32))
        for a, b in zip(outputs, wanted, strict=True)
    ]
    errors = mx.stack([mx.linalg.norm(a - b) / mx.linalg.norm(b) for a, b in pairs])
    return float(np.max(np.array(errors)))


def timed(op: str, text: str, count: int) -> dict[str, Any]:
    """Return what is known of a problem that is spelled, from measuring it."""
    return row(op, text, *timed_problem(problem_of(op, text), count))


def timed_problem(problem: Problem, count: int) -> tuple[dict[str, float], dict[str, str]]:
    """Return the microseconds of each candidate and of MLX's ops, and what is wrong with others."""
    factors = family_of(problem).trial_factors(problem)
    sets = operand_sets(problem)
    fallback = family_of(problem).fallback(problem)
    assert fallback is not None, "problems that can be spelled are those of calls"
    run = fallback

    def on_mlx(arrays: Sequence[mx.array]) -> Sequence[mx.array]:
        return run(arrays, factors, None)

    wanted = on_mlx(sets[0])
    calls: dict[str, Launches] = {MLX: launches(on_mlx, sets)}
    wrong: dict[str, str] = {}
    for name, plan in plans(problem, count).items():
        try:
            ready = kernel_run(problem, plan, CUDA)
            distance = _distance(ready(sets[0], factors, None), wanted)
        except Exception as error:  # whatever a compiler, a driver or MLX may raise
            wrong[name] = (str(error) or type(error).__name__)[:400]
            continue
        if distance <= TOLERANCE:
            calls[name] = launches(partial(_called, ready, factors), sets)
        else:
            wrong[name] = f"{distance:.2g} from MLX's result"
    samples = measure(calls, time.perf_counter, EFFORT, _busy(), links(sets))
    return {name: round(spread(one).median * 1e6, 2) for name, one in samples.items()}, wrong


def _called(run: Any, factors: Any, arrays: Sequence[mx.array]) -> Sequence[mx.array]:  # noqa: ANN401
    found: Sequence[mx.array] = run(arrays, factors, None)
    return found


def row(op: str, text: str, times: dict[str, float], wrong: dict[str, str]) -> dict[str, Any]:
    """Return what is known of a problem."""
    best = next((name for name in fastest(problem_of(op, text), times) if name != MLX), None)
    ratio = times[MLX] / times[best] if best and MLX in times else None
    return {
        "op": op, "problem": text, "kernel": best, "ours_us": best and times[best],
        "mlx_us": times.get(MLX), "mlx_over_ours": ratio and round(ratio, 3),
        "times_us": times, "wrong": wrong,
    }  # fmt: skip


def called(op: str, text: str, count: int) -> dict[str, Any]:
    """Return the times of an op as users call it and of plain MLX, on the same operands."""
    problem = problem_of(op, text)
    sets, pair = operand_sets(problem), as_written(op, text)
    with tg.use_backend("auto"):
        distance = _distance(pair.ours(sets[0]), pair.plain(sets[0]))
        served = _served(problem)
        calls = {"ours": launches(pair.ours, sets), "plain": launches(pair.plain, sets)}
        if served != MLX:
            calls["left"] = left_to_mlx(calls["ours"])
        on_gpu = measure(calls, time.perf_counter, CALLS, _busy(), links(sets))
        in_program = measure(calls, time.perf_counter, CALLS)
    wrong = {} if distance <= TOLERANCE else {served: f"{distance:.2g} from MLX's result"}
    first = {"op": op, "problem": text, "kernel": served}
    return {**first, **compared(on_gpu), "program": compared(in_program), "wrong": wrong}


def compared(samples: dict[str, list[float]]) -> dict[str, Any]:
    """Return medians in microseconds of an op, of plain MLX and of what is left to MLX's op."""
    ratio = spread([y / x for x, y in zip(samples["ours"], samples["plain"], strict=True)])
    found = {name: round(1e6 * spread(one).median, 2) for name, one in samples.items()}
    return {
        "ours_us": found["ours"], "mlx_us": found["plain"],
        "left_us": found.get("left", found["ours"]), "mlx_over_ours": round(ratio.median, 3),
        "quartiles": [round(ratio.low, 3), round(ratio.high, 3)],
    }  # fmt: skip


@cache
def _busy() -> Work:
    return busy(EFFORT, time.perf_counter)


def left_to_mlx(call: Launches) -> Launches:
    """Return launches of ops that leave each call to MLX's."""

    def left(count: int, work: Work | None) -> Wait:
        with tg.use_kernel(MLX):
            return call(count, work)

    return left


def _served(problem: Problem) -> str:
    from mlx_tilegemm.call.choice import chosen

    return str(chosen(problem, CUDA, gradients=False).plan or MLX)


def worker(pipe: Connection, measured: Callable[..., dict[str, Any]]) -> None:
    """Measure the tasks that come through a pipe; runs in a process of its own."""
    while True:
        task = pipe.recv()
        try:
            pipe.send(measured(*task))
        except Exception as error:  # whatever MLX or a driver may raise
            pipe.send({"failed": f"{type(error).__name__}: {error}"[:400]})


class Worker:
    """A process that measures, and that is given up where it does not answer."""

    def __init__(self, measured: Callable[..., dict[str, Any]]) -> None:
        self._measured = measured
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=worker, args=(other, self._measured), daemon=True)
        self._process.start()
        other.close()

    def answer(self, task: Task, seconds: float) -> dict[str, Any]:
        """Return what is found of a task, or that nothing came in so many seconds."""
        self._pipe.send(task)
        try:
            if self._pipe.poll(seconds):
                found: dict[str, Any] = self._pipe.recv()
                return found
            reason = f"no answer in {seconds:g} s"
        except (EOFError, OSError):
            reason = "the process ended"
        self.stop()
        self._start()
        return {"failed": reason}

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()


def environment() -> dict[str, str]:
    """Return what the times were measured on."""
    info = mx.device_info(mx.gpu)
    return {
        "device": str(info.get("device_name", "")),
        "mlx": version("mlx"),
        "nvrtc": compiler.version(),
        "python": platform.python_version(),
        "when": now(),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a table in Markdown, and what they come to."""
    lines = [
        "| op | problem | our kernel | ours, us | MLX, us | MLX / ours |",
        "|---|---|---|--:|--:|--:|",
    ]
    measured = [one for one in rows if one.get("mlx_over_ours")]
    lines += [
        f"| {one['op']} | {one['problem']} | {one['kernel']} | {one['ours_us']} | {one['mlx_us']} "
        f"| {one['mlx_over_ours']} |"
        for one in measured
    ]
    ratios = [one["mlx_over_ours"] for one in measured]
    if ratios:
        chosen = [max(1.0, ratio) for ratio in ratios]
        below = sum(ratio < AGREED for ratio in ratios)
        lines.append(
            f"\nGeometric mean of MLX / ours over {len(ratios)} problems: "
            f"{geometric_mean(ratios):.2f}, and {geometric_mean(chosen):.2f} with MLX where it is "
            f"faster; {below} below {AGREED}; {len(rows) - len(measured)} not measured."
        )
    return "\n".join(lines)


MIXED_FORMS = ("f16,bf16:nt", "bf16,f16:nt")

KINDS: dict[str, Callable[[str, str], bool]] = {
    "experts, float16 with bfloat16": lambda op, form: op == "experts" and form == "f16,bf16",
    "experts, float32 with 4 bits": lambda op, form: op == "experts" and form.startswith("f32,"),
    "experts, bfloat16 and 4 bits of it": lambda op, form: op == "experts",
    "gated delta": lambda op, form: op == "gated_delta_update",
    "products of float16 with bfloat16": lambda op, form: op == "matmul" and form in MIXED_FORMS,
    "products of float32 with bfloat16": lambda op, form: op == "matmul" and "f32,bf16" in form,
    "products of one type": lambda op, form: op == "matmul",
    "FP8 with scales": lambda op, form: op == "fp8_scaled_matmul",
    "attention, float16 with bfloat16 keys": lambda op, form: op == "attention" and "," in form,
    "attention of one type": lambda op, form: op == "attention",
    "low bits, x of another type": lambda op, form: form.startswith(("f16,", "f32,")),
    "low bits, x of the same type": lambda op, form: op == "quantized_matmul",
}
"""Kinds of work by their op and the dtypes of a problem; the first that fits is a problem's."""

Rows = Sequence[dict[str, Any]]


def kind_of(row: dict[str, Any]) -> str:
    """Return the kind of work of a problem, with the rows that it has, or tokens."""
    op, (sizes, _, form) = row["op"], row["problem"].partition(":")
    title = next(title for title, fits in KINDS.items() if fits(op, form))
    numbers = [int(one) for one in sizes.split("x")]
    count = numbers[{"gated_delta_update": 1, "attention": 3}.get(op, 0)]
    if op == "attention":
        return f"{title}, {'prefill' if form.endswith('causal') else 'decoding'}"
    if op in ("experts", "gated_delta_update"):
        return f"{title}, {count} token{'s' * (count > 1)}"
    spans = ((1, "1 row"), (16, "2 to 16 rows"), (64, "32 and 64 rows"), (1 << 30, "512 and more"))
    return f"{title}, {next(name for most, name in spans if count <= most)}"


def _short(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.1f}" if ratio >= 2 else f"{ratio:.2f}"


def both(kernels: Rows, calls: Rows) -> str:
    """Return kernels and ops as called in one table of Markdown, after a summary by kind.

    Problems that were not called have gaps in it; those without a kernel's time are left out.
    """
    kernels = [one for one in kernels if one.get("mlx_over_ours")]
    slower = slower_as_called(calls, kernels)
    slower |= {(one["op"], one["problem"]) for one in kernels if not is_worth_its_call(one)}
    called_of: dict[tuple[str, str], dict[str, Any]] = {}
    for one in calls:
        problem = one["op"], one["problem"]
        if "failed" not in one:
            is_held = problem in slower and one["kernel"] != MLX
            called_of[problem] = held(one) if is_held else one
    pairs = [(one, called_of.get((one["op"], one["problem"]))) for one in kernels]
    lines = [
        "| work | problems | MLX / kernel | plain MLX / as called | least and most "
        "| in the program's time | least and most |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for kind in dict.fromkeys(kind_of(one) for one in kernels):
        found = [one for one in kernels if kind_of(one) == kind]
        as_called = [called for one, called in pairs if called and kind_of(one) == kind]
        cells = [str(len(found)), _short(geometric_mean(_gpu(one) for one in found))]
        for ratio in (_gpu, _program):
            ratios = [ratio(one) for one in as_called]
            cells.append(_short(geometric_mean(ratios)) if ratios else "")
            cells.append(f"{_short(min(ratios))} to {_short(max(ratios))}" if ratios else "")
        lines.append(f"| {' | '.join([kind, *cells])} |")
    by_gpu, by_program = (
        _at_least([(one["kernel"], ratio(one)) for _, one in pairs if one])
        for ratio in (_gpu, _program)
    )
    lines += [
        f"\nAs called, {by_gpu} by the GPU's time, and {by_program} by the program's.\n",
        "| op | problem | our kernel | us | MLX, us | MLX / ours | as called | us | plain MLX, us "
        "| plain / ours | program, us | plain, us | plain / ours |",
        "|---|---|---|--:|--:|--:|---|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [_line(alone, called) for alone, called in pairs]
    return "\n".join(lines)


def _line(alone: dict[str, Any], called: dict[str, Any] | None) -> str:
    times = ("ours_us", "mlx_us", "mlx_over_ours")
    cells = [alone[name] for name in ("op", "problem", "kernel", *times)]
    if called:
        same = called["kernel"] == alone["kernel"]
        cells += ["the same" if same else called["kernel"], *(called[name] for name in times)]
        cells += [called["program"][name] for name in times]
    else:
        cells += [""] * 7
    return f"| {' | '.join(map(str, cells))} |"


def _gpu(row: dict[str, Any]) -> float:
    ratio: float = row["mlx_over_ours"]
    return ratio


def _program(row: dict[str, Any]) -> float:
    return _gpu(row["program"])


def _at_least(ratios: Sequence[tuple[str, float]]) -> str:
    slow = [kernel for kernel, ratio in ratios if ratio < AGREED]
    return (
        f"{len(ratios) - len(slow)} of {len(ratios)} are at least {AGREED} times as fast as plain "
        f"MLX (of the other {len(slow)} MLX's own op serves {slow.count(MLX)})"
    )


def fastest(problem: Problem, times: dict[str, float]) -> dict[str, float]:
    """Return the times of the three best candidates, and MLX's where it is known.

    The best one takes the least with what its launches take a program; then come those that take
    the GPU as long or longer. What may no longer serve the problem is left out.
    """
    known = plans(problem, 99)
    costs = {
        name: value + LAUNCH_US * len(known[name].stages)
        for name, value in times.items()
        if name in known
    }
    ours = sorted(costs, key=costs.__getitem__)
    slower = [name for name in ours[1:] if times[name] >= times[ours[0]]]
    kept = [*ours[:1], *slower[:2], *([MLX] if MLX in times else [])]
    return {name: times[name] for name in kept}


def slower_as_called(calls: Rows, kernels: Rows) -> set[tuple[str, str]]:
    """Return the problems whose op was slower on a kernel than where it leaves them to MLX's op.

    That is by the GPU's time, or by the sum of the GPU's and the program's: which of them a program
    waits for depends on what else it does. Of a problem that was left to MLX's op then, though the
    sweep has a faster kernel, the kernel's time is the sweep's.
    """
    faster = (one for one in kernels if (one.get("mlx_over_ours") or 0.0) > 1)
    alone = {(one["op"], one["problem"]): one["ours_us"] for one in faster}
    slower = set()
    for one in calls:
        if "failed" in one:
            continue
        problem, program = (one["op"], one["problem"]), one["program"]
        if one["kernel"] == MLX:
            slow = one["mlx_us"] < alone.get(problem, 0.0)
        else:
            lost = one["ours_us"] - one["left_us"]
            slow = max(lost, lost + program["ours_us"] - program["left_us"]) > 0
        if slow:
            slower.add(problem)
    return slower


def is_worth_its_call(row: dict[str, Any]) -> bool:
    """Return whether dispatch would choose a kernel by what the sweep found of a problem.

    A kernel that is not known any more is left to what else is known of it.
    """
    problem, name = problem_of(row["op"], row["problem"]), row.get("kernel") or ""
    if name not in plans(problem, 99) or not row.get("mlx_us"):
        return True
    timings = tuple(
        Timing(candidate=one, median=us / 1e6, low=us / 1e6, high=us / 1e6)
        for one, us in ((name, row["ours_us"]), (MLX, row["mlx_us"]))
    )
    seconds = NVIDIA.limits.call_seconds
    found = Measurements(where="", timings=timings, call_seconds=seconds)
    options: dict[str, Any] = {"mlx_competes": True, "modelled": False}
    return choose(problem, NVIDIA, measurements=found, **options).plan is not None


def held(row: dict[str, Any]) -> dict[str, Any]:
    """Return what an op as called takes where it leaves a problem to MLX's op."""
    return {
        **row,
        **_left(row),
        "program": {**row["program"], **_left(row["program"])},
        "kernel": MLX,
    }


def _left(times: dict[str, Any]) -> dict[str, Any]:
    ratio = round(times["mlx_us"] / times["left_us"], 3)
    return {"ours_us": times["left_us"], "mlx_over_ours": ratio}


def shipped(
    found: dict[str, Any], left_out: Collection[tuple[str, str]] = frozenset()
) -> dict[str, Any]:
    """Return a sweep in the form in which the library keeps measurements: the fastest and MLX's.

    The sweep keeps medians alone, which stand for their quartiles too. A row may say itself when it
    was measured.
    """
    entries = {}
    for one in found["rows"]:
        if not one.get("mlx_over_ours") or (one["op"], one["problem"]) in left_out:
            continue
        problem = problem_of(one["op"], one["problem"])
        known = plans(problem, 99)
        times = [
            {"candidate": name, **dict.fromkeys(("median", "low", "high"), value / 1e6)}
            | {"text": "" if name == MLX else text_name(known[name])}
            for name, value in fastest(problem, one["times_us"]).items()
        ]
        when = one.get("when", found["environment"]["when"])
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


def compile_all(asked: Sequence[Problem], count: int, jobs: int, until: float) -> None:
    """Compile what problems need in processes, until a time on the monotonic clock or for long."""
    start, wanted = time.monotonic(), texts(asked, count)
    until = min(until, start + COMPILE_SECONDS)
    pool = multiprocessing.get_context("spawn").Pool(jobs)
    waiting = [pool.apply_async(compiled, one) for one in wanted]
    for one in waiting:
        one.wait(max(0.0, until - time.monotonic()))
    done = [one for one in waiting if one.ready()]
    pool.terminate()
    good = sum(one.get() for one in done if one.successful())
    taken = time.monotonic() - start
    print(f"{good} of {len(wanted)} texts compiled in {taken:.0f} s", flush=True)


def measured_rows(
    tasks: Sequence[Task], measured: Callable[..., dict[str, Any]], limit: float, until: float
) -> Iterator[dict[str, Any]]:
    """Yield what is found of each task, until a time on the monotonic clock."""
    one = Worker(measured)
    try:
        for number, task in enumerate(tasks):
            if time.monotonic() > until:
                print(f"out of time: {len(tasks) - number} problems were not run", flush=True)
                return
            yield {"op": task[0], "problem": task[1], **one.answer(task, limit)}
    finally:
        one.stop()


def main() -> None:
    """Measure the sweep, or ship one that was measured."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, required=True, help="written, and gone on with")
    parser.add_argument("--only", default="", help="problems whose op or spelling has the word")
    parser.add_argument("--candidates", type=int, default=99, help="of a kernel, at most")
    parser.add_argument("--jobs", type=int, default=8, help="processes that compile")
    parser.add_argument("--seconds", type=float, default=1e9, help="after which no more is timed")
    parser.add_argument("--limit", type=float, default=90, help="seconds of one problem at most")
    parser.add_argument("--calls", action="store_true", help="time the ops as users call them")
    parser.add_argument("--ship", type=Path, help="write what --json holds for the library")
    parser.add_argument("--held-by", type=Path, help="what --calls found, for --ship")
    parser.add_argument("--table", type=Path, help="what --calls found, to print beside --json")
    options = parser.parse_args()
    kept: dict[str, Any] = {"rows": []}
    if options.json.exists():
        kept = json.loads(options.json.read_text(encoding="utf-8"))
    if options.ship:
        calls = json.loads(options.held_by.read_text())["rows"] if options.held_by else []
        found = shipped(kept, slower_as_called(calls, kept["rows"]))
        options.ship.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        return
    if options.table:
        print(both(kept["rows"], json.loads(options.table.read_text(encoding="utf-8"))["rows"]))
        return
    require(parser, "cuda")
    until = time.monotonic() + options.seconds
    kept["rows"] = [one for one in kept["rows"] if "failed" not in one]
    known = {(one["op"], one["problem"]) for one in kept["rows"]}
    tasks = [
        (*one, options.candidates)
        for one in problems()
        if one not in known and options.only in " ".join(one)
    ]
    if not options.calls:
        asked = [problem_of(*task[:2]) for task in tasks]
        compile_all(asked, options.candidates, options.jobs, until)
    for found in measured_rows(tasks, called if options.calls else timed, options.limit, until):
        kept["rows"].append(found)
        names = ("op", "problem", "kernel", "ours_us", "mlx_us", "mlx_over_ours", "failed")
        print(*(found[name] for name in names if name in found), flush=True)
        kept["environment"] = environment()
        options.json.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    print(table(kept["rows"]))
    for one in kept["rows"]:
        for name, reason in one.get("wrong", {}).items():
            print(f"wrong: {one['op']} {one['problem']} {name}: {reason.splitlines()[0][:160]}")


if __name__ == "__main__":
    main()

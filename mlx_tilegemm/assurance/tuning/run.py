"""Go through problems: gate, measure, keep."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

import mlx.core as mx

from ...backends import Backend, runner
from ...core.caches import forget_prepared
from ...core.plan import Plan
from ...core.problem import Problem
from ...dispatch import MLX, Candidate, Timing, choose
from ...errors import BackendError
from ...families import family_of
from ...machine.chips import Chip, detect
from .. import canary, measurements
from ..measurements import TextTiming, Tuned
from ..userfile import UserFile
from .calls import Call, Workload, busy, launches, mistake, workload
from .measure import Clock, Effort, Launches, measure, spread


class Status(Enum):
    """Status of a problem after tuning."""

    MEASURED = "measured"
    KNOWN = "known"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Outcome of tuning a problem.

    Attributes:
        problem: The problem.
        status: Whether it was measured now, or before, or not.
        timings: Times of its candidates, the fastest first.
        left_out: Candidates that were not measured, and why.
        reason: Why it was skipped.
        kept: Whether its times are in the file.
    """

    problem: Problem
    status: Status
    timings: tuple[Timing, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)
    reason: str = ""
    kept: bool = False

    def __str__(self) -> str:
        if not self.timings:
            return f"{self.status.value}: {self.problem}: {self.reason}"
        best = self.timings[0]
        text = f"{self.status.value}: {self.problem}: {best.candidate} {best.median * 1e6:.1f} us"
        mlx = next((one for one in self.timings if one.candidate == MLX), None)
        if mlx is None or mlx is best:
            return text
        return f"{text}, MLX {mlx.median * 1e6:.1f} us"


Progress = Callable[[int, int, Outcome], None]
"""Gets how many problems are done, of how many, and what became of the last."""


def tune(
    problems: Sequence[Problem],
    *,
    again: bool = False,
    effort: Effort | None = None,
    clock: Clock = time.perf_counter,
    progress: Progress = lambda done, total, outcome: None,
) -> list[Outcome]:
    """Measure problems on this machine's GPU and keep the times.

    Args:
        problems: What to measure; those that share a choice are measured once.
        again: Measure also what is known.
        effort: How much time to spend.
        clock: What to measure by.
        progress: Is told of every problem.

    Raises:
        BackendError: Kernels run on no GPU here: other times say nothing about one.
    """
    backend = runner(clock=True)
    if backend is None:
        raise BackendError(
            "[tune] Expected Metal, or CUDA with NVRTC, got an MLX without; times of the emulator "
            "or of a CPU say nothing about a GPU. A dry run lists what would be measured."
        )
    problems = tuple(dict.fromkeys(problem.alike() for problem in problems))
    file = measurements.open_file()
    outcomes: list[Outcome] = []
    try:
        for problem in problems:
            outcome = _known(problem, file) if not again else None
            if outcome is None:
                outcome = _tried(problem, backend, effort or Effort(), clock)
                if outcome.status is Status.MEASURED:
                    kept = file.write(measurements.key(problem), _entry(outcome))
                    outcome = replace(outcome, kept=kept)
            outcomes.append(outcome)
            progress(len(outcomes), len(problems), outcome)
    finally:
        measurements.forget()
        forget_prepared()
    return outcomes


def legal(problem: Problem, chip: Chip) -> tuple[Candidate, ...]:
    """Return the candidates that would be measured for a problem on a chip, MLX's path not."""
    return tuple(one for one in choose(problem, chip).candidates if one.plan is not None)


def _known(problem: Problem, file: UserFile[Tuned]) -> Outcome | None:
    """Return what is known of a problem if that is all there is to know."""
    found = file.read(measurements.key(problem))
    if found is None:
        return None
    timings = measurements.current(found, choose(problem, detect()[0]).candidates)
    if len(timings) < len(found.times):
        return None
    return Outcome(problem=problem, status=Status.KNOWN, timings=timings, kept=True)


def _tried(problem: Problem, backend: Backend, effort: Effort, clock: Clock) -> Outcome:
    """Measure a problem; one that does not fit into memory does not end the run."""
    try:
        return _measured(problem, backend, effort, clock)
    except Exception as error:  # whatever a driver or MLX may raise
        reason = str(error) or type(error).__name__
        return Outcome(problem=problem, status=Status.SKIPPED, reason=reason)


def is_tuned(problem: Problem) -> bool:
    """Return whether a problem is one of a call's own, and not one of its derivatives'."""
    return family_of(problem).fallback(problem) is not None


def _measured(problem: Problem, backend: Backend, effort: Effort, clock: Clock) -> Outcome:
    if not is_tuned(problem):
        reason = f"{type(problem).__name__}: gradients are not tuned"
        return Outcome(problem=problem, status=Status.SKIPPED, reason=reason)
    work = workload(problem)
    calls, left_out = _right_calls(work, backend)
    if not calls:
        reason = "; ".join(dict.fromkeys(left_out.values())) or "no kernel may serve it"
        return Outcome(problem=problem, status=Status.SKIPPED, left_out=left_out, reason=reason)
    samples = measure(calls, clock, effort, busy(effort, clock))
    timings = [_timing(name, found) for name, found in samples.items()]
    if not all(one.low > 0 for one in timings):
        reason = "the clock is too coarse: a sample took no time"
        return Outcome(problem=problem, status=Status.SKIPPED, left_out=left_out, reason=reason)
    return Outcome(
        problem=problem,
        status=Status.MEASURED,
        timings=tuple(sorted(timings, key=lambda one: one.median)),
        left_out=left_out,
    )


def _timing(candidate: str, samples: list[float]) -> Timing:
    found = spread(samples)
    return Timing(candidate=candidate, median=found.median, low=found.low, high=found.high)


def _right_calls(work: Workload, backend: Backend) -> tuple[dict[str, Launches], dict[str, str]]:
    """Return the calls that compute the right result, and why others do not take part."""
    calls: dict[str, Launches] = {}
    left_out: dict[str, str] = {}
    for candidate in legal(work.problem, detect()[0]):
        assert candidate.plan is not None
        reason = _disabled(work.problem, candidate.plan, backend)
        if reason is None:
            call = work.on_kernel(candidate.plan, backend)
            reason = _failure(work, call, candidate.plan, backend)
        if reason is None:
            calls[str(candidate)] = launches(call, [work.operands])
        else:
            left_out[str(candidate)] = reason
    if not calls:
        return {}, left_out
    by_mlx = work.on_mlx()
    assert by_mlx is not None, "only problems that MLX's ops serve are tuned"
    reason = _failure(work, by_mlx, None, backend)
    if reason is None:
        calls[MLX] = launches(by_mlx, [work.operands])
    else:
        left_out[MLX] = reason
    return calls, left_out


def _disabled(problem: Problem, plan: Plan, backend: Backend) -> str | None:
    """Return why a plan's kernels may not run on this machine, after a trial of new ones."""
    if not canary.is_needed(backend):
        return None
    verdict = canary.look_up(plan)
    if verdict.state is canary.State.UNTRIED:
        verdict = canary.prove(problem, plan, backend)
    return str(verdict) if verdict.state is canary.State.DISABLED else None


def _failure(work: Workload, call: Call, plan: Plan | None, backend: Backend) -> str | None:
    """Return why a call may not be timed; a kernel with wrong results is disabled for good."""
    try:
        outputs = call(work.operands)
        mx.eval(*outputs)
    except Exception as error:  # whatever a compiler, a driver or MLX may raise
        return str(error) or type(error).__name__
    reason = mistake(work, outputs, by_mlx=plan is None)
    if reason is not None and plan is not None and canary.is_needed(backend):
        canary.remember(plan, reason)
    return reason


def _entry(outcome: Outcome) -> Tuned:
    # Imported here because jinja2 is a large part of what `import mlx_tilegemm` may cost.
    from ...core.render import text_name

    plans = {str(one): one.plan for one in legal(outcome.problem, detect()[0])}
    times = []
    for timing in outcome.timings:
        plan = plans.get(timing.candidate)
        times.append(TextTiming(timing=timing, text=text_name(plan) if plan else ""))
    return measurements.tuned(times)

"""Choose a kernel: problem and chip in, plan and reasons out.

Pure, total and deterministic. Every configuration of every kernel is a candidate; the kernel's own
`reject` says which are legal, its own `cost` orders them, and the order of declaration decides
between those the model cannot tell apart. MLX's own ops are priced beside them; they are the answer
where none is legal and, if asked to compete, where they are modelled to be faster.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from .core.kernel import Kernel
from .core.plan import Plan
from .core.problem import Problem
from .errors import IllegalKernelError
from .families import family_of, kernels_of
from .machine.chips.record import Chip
from .machine.price import Price

MLX = "mlx"
"""Name of the route by MLX's own ops, and what `choose` is forced to for it."""

REDUCED = 'rounds float32 to TF32, which precision="float32" rules out'
"""Why MLX's own ops are not taken on neural accelerators where all bits are asked for."""

ANY = "any"
"""Choice that `choose` is forced to where a kernel shall serve if one may, however fast MLX is."""

RESOLUTION = 1.1
"""Modelled times closer than this are a tie, which the order of declaration decides. The model is
not more exact, and neighbouring problems then share kernels instead of each compiling its own."""


MEASURED_RESOLUTION = 1.02
"""Measured times closer than this are a tie."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Time that a candidate took for a problem, in seconds.

    Attributes:
        candidate: ``kernel/config``, or ``mlx``.
        median: Median over rounds.
        low: Lower quartile.
        high: Upper quartile.
    """

    candidate: str
    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurements:
    """Times that the candidates for one problem took on a machine.

    Attributes:
        where: Machine and date.
        timings: What was measured; other candidates are left to the model.
        call_seconds: What a launch takes a program beside it, and an op of this library as much
            again: kernels have to gain that on MLX's own ops, and those of two launches on others.
    """

    where: str
    timings: tuple[Timing, ...]
    call_seconds: float = 0.0

    def of(self, candidate: str) -> Timing | None:
        """Return what a candidate took, if that is known."""
        return next((one for one in self.timings if one.candidate == candidate), None)


class Recipe(NamedTuple):
    """Recipe of a plan, for most candidates' plans are never asked for.

    Attributes:
        kernel: The kernel.
        problem: The problem.
        config: The kernel's own configuration.
    """

    kernel: Kernel[Any, Any]
    problem: Problem
    config: object


class Candidate(NamedTuple):
    """One configuration and what became of it.

    Attributes:
        kernel: Name of the kernel.
        config: Its tile and staging choice.
        reason: Why it was refused; None if it is legal.
        seconds: Modelled or measured time of a legal one, and of MLX's own ops in any case.
        recipe: What the plan of a legal one is made from; None for MLX's own ops.
        spread: Quartiles of a measured time; None where it is modelled.
    """

    kernel: str
    config: str
    reason: str | None
    seconds: float | None
    recipe: Recipe | None
    spread: tuple[float, float] | None = None

    @property
    def measured(self) -> bool:
        """Whether its time was measured."""
        return self.spread is not None

    @property
    def plan(self) -> Plan | None:
        """Plan of a legal one; None for MLX's own ops."""
        if self.recipe is None:
            return None
        return self.recipe.kernel.plan(self.recipe.problem, self.recipe.config)

    def __str__(self) -> str:
        return f"{self.kernel}/{self.config}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Choice of a kernel, and the candidates it was made from.

    Attributes:
        problem: What is asked.
        plan: The plan; None stands for MLX's own ops.
        reason: Why.
        considered: The candidates, of this problem or of the one that it shares the choice with.
        mlx: What MLX's own ops would run; None where they cannot stand in.
        mlx_competes: Whether they could be chosen for being faster: only if they are as exact.
        where: Machine and date of measured times; empty where all are modelled.
        modelled: Whether modelled times decide where none were measured.
        call_seconds: What a launch takes a program beside measured times.
        tied: Names of the candidates whose times the chosen one's cannot be told from; it is
            declared before them.
    """

    problem: Problem
    plan: Plan | None
    reason: str
    considered: tuple[Candidate, ...]
    mlx: Candidate | None = None
    mlx_competes: bool = False
    where: str = ""
    modelled: bool = True
    call_seconds: float = 0.0
    tied: tuple[str, ...] = ()

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Every configuration that was considered, for this problem, in order of declaration.

        Made when they are asked for: a call asks for the plan alone, and a model that generates
        makes a choice for each length of its cache.
        """
        return tuple(_bound(one, self.problem) for one in self.considered)

    @property
    def route(self) -> str:
        """Name of the kernel chosen, or ``mlx``."""
        return self.plan.kernel if self.plan else MLX


class Priced(NamedTuple):
    """Candidates and their times, from which one is chosen; see `Decision` for the attributes."""

    candidates: tuple[Candidate, ...]
    mlx: Candidate | None
    mlx_competes: bool
    where: str = ""
    modelled: bool = True
    call_seconds: float = 0.0


class Verdict(NamedTuple):
    """Candidate that is chosen, or None for MLX's own ops; see `Decision` for the rest."""

    best: Candidate | None
    reason: str
    tied: tuple[str, ...] = ()


@lru_cache(maxsize=4096)
def choose(
    problem: Problem,
    chip: Chip,
    force: str | None = None,
    *,
    mlx_competes: bool = False,
    measurements: Measurements | None = None,
    modelled: bool = True,
) -> Decision:
    """Return the cheapest legal plan for a problem on a chip.

    Problems that are alike share one choice; see `mlx_tilegemm.core.problem.Problem.alike`.

    Args:
        problem: What is asked.
        chip: Where it would run.
        force: Restrict the choice: a kernel's name, ``kernel/config`` for one configuration,
            ``mlx``, or ``any``: MLX's own ops only where no kernel may serve.
        mlx_competes: Choose MLX's own ops where they are modelled to be faster. Only where they
            would run on the same chip: on Metal.
        measurements: What candidates for this problem, or the one it shares with, took there. One
            that was measured is preferred to all that are only modelled.
        modelled: Whether times are modelled for the device. Where they are not, MLX's own ops serve
            what nothing was measured for.

    Raises:
        IllegalKernelError: ``force`` names nothing known, or nothing that may serve the problem;
            the message holds the reason of every refusal.
    """
    like = problem.alike()
    if like != problem:
        shared = _shared_choice(
            problem, like, chip, force, measurements, mlx_competes=mlx_competes, modelled=modelled
        )
        if shared is not None:
            return shared
    own = _own_choice(
        problem, chip, force, measurements, mlx_competes=mlx_competes, modelled=modelled
    )
    return _decision(problem, *own)


def _decision(problem: Problem, priced: Priced, verdict: Verdict) -> Decision:
    return Decision(
        problem=problem,
        plan=verdict.best and verdict.best.plan,
        reason=verdict.reason,
        considered=priced.candidates,
        mlx=priced.mlx,
        mlx_competes=priced.mlx_competes,
        where=priced.where,
        modelled=priced.modelled,
        call_seconds=priced.call_seconds,
        tied=verdict.tied,
    )


def _shared_choice(
    problem: Problem,
    like: Problem,
    chip: Chip,
    force: str | None,
    measurements: Measurements | None,
    *,
    mlx_competes: bool,
    modelled: bool,
) -> Decision | None:
    """Return the choice for a problem that is alike, bound to this one; None if that is refused."""
    try:
        priced, verdict = _own_choice(
            like, chip, force, measurements, mlx_competes=mlx_competes, modelled=modelled
        )
    except IllegalKernelError:
        return None
    best = verdict.best and _bound(verdict.best, problem)
    if best is not None:
        assert best.recipe is not None
        if best.recipe.kernel.reject(problem, best.recipe.config, chip) is not None:
            return None
    return _decision(problem, priced, verdict._replace(best=best))


def _bound(one: Candidate, problem: Problem) -> Candidate:
    """Return a candidate as one for another problem; `_replace` would take thrice as long."""
    kernel, config, reason, seconds, recipe, spread = one
    if recipe is None or recipe.problem is problem:
        return one
    recipe = Recipe(recipe.kernel, problem, recipe.config)
    return Candidate(kernel, config, reason, seconds, recipe, spread)


@lru_cache(maxsize=1024)
def _own_choice(
    problem: Problem,
    chip: Chip,
    force: str | None,
    measurements: Measurements | None,
    *,
    mlx_competes: bool,
    modelled: bool,
) -> tuple[Priced, Verdict]:
    price = family_of(problem).price(problem, chip)
    mlx = _mlx(price, exact=problem.exact) if price else None
    priced = Priced(
        candidates=tuple(_candidates(problem, chip)),
        mlx=mlx,
        mlx_competes=mlx_competes and mlx is not None and mlx.reason is None,
        modelled=modelled,
    )
    priced = _with_times(priced, measurements)
    return priced, _best(priced, problem, force)


def _mlx(price: Price, *, exact: bool) -> Candidate:
    reason = REDUCED if price.reduced and exact else None
    return Candidate(
        kernel=MLX, config=price.path, reason=reason, seconds=price.seconds, recipe=None
    )


def _with_times(priced: Priced, measurements: Measurements | None) -> Priced:
    if measurements is None:
        return priced
    found = tuple(_timed(one, measurements.of(str(one))) for one in priced.candidates)
    mlx = priced.mlx and _timed(priced.mlx, measurements.of(MLX))
    where, call_seconds = measurements.where, measurements.call_seconds
    return priced._replace(candidates=found, mlx=mlx, where=where, call_seconds=call_seconds)


def _timed(candidate: Candidate, timing: Timing | None) -> Candidate:
    if timing is None or candidate.seconds is None:
        return candidate
    return candidate._replace(seconds=timing.median, spread=(timing.low, timing.high))


def refuse(
    decision: Decision, problem: Problem, force: str | None, *, refused: str, reason: str
) -> Decision:
    """Return the choice that is left when more is refused than the kernels themselves refuse.

    Args:
        decision: The choice so far.
        problem: What it is for.
        force: As `choose`.
        refused: A kernel's name, or ``kernel/config`` for one configuration.
        reason: Why.

    Raises:
        IllegalKernelError: ``force`` allows nothing that is left.
    """
    found = tuple(
        one._replace(reason=reason, seconds=None, recipe=None)
        if one.seconds is not None and refused in (one.kernel, str(one))
        else one
        for one in decision.candidates
    )
    priced = Priced(
        candidates=found,
        mlx=decision.mlx,
        mlx_competes=decision.mlx_competes,
        where=decision.where,
        modelled=decision.modelled,
        call_seconds=decision.call_seconds,
    )
    return _decision(problem, priced, _best(priced, problem, force))


def _best(priced: Priced, problem: Problem, force: str | None) -> Verdict:
    """Return which candidate is chosen, and why."""
    found = priced.candidates
    if force == MLX:
        return Verdict(None, "MLX's own ops were asked for")
    allowed = found
    if force not in (None, ANY):
        allowed = tuple(one for one in found if force in (one.kernel, str(one)))
    legal = [one for one in allowed if one.seconds is not None]
    if force not in (None, ANY) and not legal:
        raise IllegalKernelError(_forced_message(problem, force, allowed, found))
    if not legal:
        return Verdict(None, _refusal(found))
    rival = priced.mlx if priced.mlx_competes and force is None else None
    measured = [one for one in legal if one.measured]
    if measured:
        asked_for = force not in (None, ANY)
        return _fastest(measured, rival, priced.call_seconds, asked_for=asked_for)
    if force is None and priced.mlx is not None and not priced.modelled:
        return _unmeasured(problem, legal)
    best, *tied = nearest(legal, rival)
    names = tuple(map(str, tied))
    if force not in (None, ANY):
        return Verdict(best, "asked for", names)
    if rival and _seconds(rival) * RESOLUTION < _seconds(best):
        reason = (
            f"MLX's own ops are modelled to be faster: {microseconds(rival)} ({rival}) against "
            f"{microseconds(best)} ({best})"
        )
        return Verdict(None, reason)
    reason = f"lowest modelled time of {len(legal)} legal candidates" + _tie(tied)
    reason += _refused_rival(priced, best)
    return Verdict(best, reason, names)


def _unmeasured(problem: Problem, legal: list[Candidate]) -> Verdict:
    """Return which candidate is chosen where nothing was measured and no model knows the device."""
    if not family_of(problem).stepwise(problem):
        return Verdict(None, "nothing was measured for it here, and no model knows this device")
    best, *tied = nearest(legal, None)
    reason = (
        "MLX has no kernel here and would run ops for each step; nothing was measured, and the "
        "model of another device chose between kernels"
    )
    return Verdict(best, reason, tuple(map(str, tied)))


def _tie(tied: list[Candidate]) -> str:
    return f", declared before {len(tied)} that tie with it" if tied else ""


def _refused_rival(priced: Priced, best: Candidate) -> str:
    """Say that MLX's own ops would be faster, where they are and may not serve."""
    mlx = priced.mlx
    if mlx is None or mlx.reason is None or _seconds(mlx) >= _seconds(best):
        return ""
    return f"; MLX, modelled at {microseconds(mlx)}, is refused: it {mlx.reason}"


def _fastest(
    measured: list[Candidate], rival: Candidate | None, call_seconds: float, *, asked_for: bool
) -> Verdict:
    """Return which candidate is chosen by what was measured, and by what launches take beside it.

    Where the latter decides, a program that waits for the GPU would hardly gain by the kernel, and
    one that does not would lose.
    """

    def taken(one: Candidate) -> float:
        launches = len(one.plan.stages) if call_seconds and one.plan else 0
        return _seconds(one) + launches * call_seconds

    limit = MEASURED_RESOLUTION * min(map(taken, measured))
    best, *tied = (one for one in measured if taken(one) <= limit)
    needed = taken(best) + call_seconds
    if rival and rival.measured and _seconds(rival) * MEASURED_RESOLUTION < needed:
        more = (needed - _seconds(best)) * 1e6
        beside = f", and {more:.2g} us of the program's for its call" if call_seconds else ""
        reason = (
            f"MLX's own ops were measured to be faster: {microseconds(rival)} ({rival}) against "
            f"{microseconds(best)} ({best}){beside}"
        )
        return Verdict(None, reason)
    reason = f"lowest measured time of {len(measured)} candidates" + _tie(tied)
    if asked_for:
        reason = "asked for"
    return Verdict(best, reason, tuple(map(str, tied)))


def preferred(legal: list[Candidate], rival: Candidate | None = None) -> Candidate:
    """Return the first of the `nearest`."""
    return nearest(legal, rival)[0]


def nearest(legal: list[Candidate], rival: Candidate | None = None) -> list[Candidate]:
    """Return the candidates that the model cannot tell from the fastest, in order.

    Beside a rival they are also no slower than that, unless all are: then it is the fastest alone.
    """
    fastest = min(_seconds(one) for one in legal)
    limit = RESOLUTION * fastest
    if rival is not None:
        limit = max(fastest, min(limit, _seconds(rival)))
    return [one for one in legal if _seconds(one) <= limit]


def microseconds(candidate: Candidate) -> str:
    """Return a candidate's time in words; of a modelled one no more digits than it is worth."""
    time = _seconds(candidate) * 1e6
    return f"{time:.2f} us" if candidate.measured else f"{float(f'{time:.2g}'):.15g} us"


def _seconds(candidate: Candidate) -> float:
    assert candidate.seconds is not None
    return candidate.seconds


def _candidates(problem: Problem, chip: Chip) -> Iterator[Candidate]:
    for kernel in kernels_of(type(problem)):
        for config in kernel.candidates(problem, chip):
            yield _candidate(kernel, config, problem, chip)


def _candidate(kernel: Kernel[Any, Any], config: object, problem: Problem, chip: Chip) -> Candidate:
    reason = kernel.reject(problem, config, chip)
    if reason is not None:
        return Candidate(kernel.name, _label(config), reason, None, None)
    time, recipe = kernel.cost(problem, config, chip), Recipe(kernel, problem, config)
    return Candidate(kernel.name, _label(config), None, time, recipe)


@lru_cache(maxsize=1024, typed=True)
def _label(config: object) -> str:
    # By type, too: tuples of two kernels may be equal and read differently.
    return str(config)


def _refusal(candidates: tuple[Candidate, ...]) -> str:
    """Sum up why nothing is legal, each reason once."""
    return "; ".join(dict.fromkeys(one.reason for one in candidates if one.reason))


def _forced_message(
    problem: Problem, force: str, allowed: tuple[Candidate, ...], considered: tuple[Candidate, ...]
) -> str:
    if not allowed:
        serving = [kernel.name for kernel in kernels_of(type(problem))]
        kernel = force.partition("/")[0]
        configs = [str(one) for one in considered if one.kernel == kernel]
        known = ", ".join(configs or [*serving, ANY, MLX])
        form = "" if configs else ", or kernel/config"
        return f"[dispatch] Expected a kernel among {known}{form}, got {force!r}."
    return (
        f"[dispatch] Expected a kernel that may serve ({problem}), got {force}: "
        f"{_refusal(allowed)}."
    )

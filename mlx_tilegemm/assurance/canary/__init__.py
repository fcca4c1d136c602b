"""Canary: no kernel serves a call on a GPU before it has proved itself on that very machine.

The first time a kernel variant is chosen that has no record here, a small ragged instance of it is
compiled, run and compared with float64. A pass is recorded for good; a failure disables the
variant, with a warning, and the next candidate is tried. Calls are prepared once for each key of
arguments, and only then is any of this looked at.

A variant is a text: its name ends in a hash of it. What was found holds for one chip, operating
system and version of MLX, which together compile it.
"""

from __future__ import annotations

import os
import threading
import warnings
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from pathlib import Path

from ...backends import Backend, canary_setting
from ...core.plan import Plan
from ...core.problem import Problem
from ...machine.chips import Chip, detect
from ..userfile import this_machine
from .record import Entry, Record, default_path, entry, is_running

__all__ = [
    "State",
    "Verdict",
    "competes_with_mlx",
    "is_needed",
    "look_up",
    "prove",
    "proved",
    "remember",
    "would_be_needed",
]

MAX_ATTEMPTS = 2
"""Trials of a variant that may end with the process before it counts as failed."""

MAX_REASON = 400
"""Characters of a reason that are kept: a compiler's log may have thousands."""

# What a want of memory, or another program's use of the GPU, puts into an error's text.
_TRANSIENT = (
    "malloc",
    "out of memory",
    "Unable to allocate",
    "Insufficient Memory",
    "InnocentVictim",
    "ImpactingInteractivity",
)


class State(Enum):
    """State of a kernel variant on this machine."""

    PROVEN = "proven"
    UNTRIED = "untried"
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """State of a kernel variant on this machine, and since when or why.

    Attributes:
        state: The state.
        detail: The time it passed, or why it is disabled.
    """

    state: State
    detail: str = ""

    def __str__(self) -> str:
        if self.state is State.PROVEN:
            return f"proven on this machine ({self.detail})"
        if self.state is State.DISABLED:
            return f"disabled on this machine: {self.detail}"
        return "not yet tried on this machine: the first call tries it"


class _Ledger:
    """Verdicts that this process knows, and the file behind them."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.verdicts: dict[str, Verdict] = {}
        self.warned: set[str] = set()

    def look_up(self, name: str) -> Verdict:
        """Return what is known without trying anything."""
        known = self.verdicts.get(name)
        if known is None:
            known = _from_entry(self.record.read(name))
            if known.state is not State.UNTRIED:
                known = self.verdicts.setdefault(name, known)
        return known


def _from_entry(found: Entry | None) -> Verdict:
    if found is not None and found.state == "passed":
        return Verdict(state=State.PROVEN, detail=found.when)
    if found is not None and found.state == "failed":
        return Verdict(state=State.DISABLED, detail=found.reason)
    return Verdict(state=State.UNTRIED)


# Two threads that meet a variant first must not both try it, nor each keep a ledger.
_alone = threading.RLock()


def _ledger() -> _Ledger:
    with _alone:
        return _only_ledger()


@lru_cache(maxsize=1)
def _only_ledger() -> _Ledger:
    setting = canary_setting()
    path = default_path() if setting == "on" else Path(setting)
    return _Ledger(Record(path, this_machine()))


def is_needed(backend: Backend | None) -> bool:
    """Return whether kernels have to prove themselves before they serve calls on ``backend``."""
    return would_be_needed(backend) and canary_setting() != "off"


def would_be_needed(backend: Backend | None) -> bool:
    """Return `is_needed` for a canary that is switched on.

    Kernels have to prove themselves on a GPU. The emulator checks every launch, and where there is
    no Metal a call on the backend ``metal`` is only traced.
    """
    if backend is None or backend.capabilities.checks_launches:
        return False
    return backend.missing() is None


def competes_with_mlx(backend: Backend | None) -> bool:
    """Return whether MLX's own ops would run a call of ``backend`` on the same GPU."""
    rivals = backend is not None and backend.capabilities.rivals_mlx
    return rivals and backend is not None and backend.missing() is None


def look_up(plan: Plan) -> Verdict:
    """Return what is known of a plan's kernels on this machine; nothing is tried."""
    return _ledger().look_up(_name(plan))


def prove(problem: Problem, plan: Plan, backend: Backend, chip: Chip | None = None) -> Verdict:
    """Try a plan's kernels now, whatever is known of them, and record the outcome.

    Args:
        problem: A problem that the plan serves.
        plan: The plan.
        backend: Where to run it.
        chip: The chip the plan was chosen for; None is this machine's.
    """
    with _alone:
        return _try(_ledger(), problem, plan, chip or detect()[0], backend)


def remember(plan: Plan, failure: str | None) -> Verdict:
    """Record what something more thorough than a trial found out about a plan's kernels here.

    Args:
        plan: The plan.
        failure: What is wrong with them; None if nothing is.
    """
    with _alone:
        reason = None if failure is None else _shortened(failure)
        return _conclude(_ledger(), plan, reason, lasting=True)


def _shortened(text: str) -> str:
    return " ".join(text.split())[:MAX_REASON]


def proved(problem: Problem, plan: Plan, backend: Backend) -> Verdict:
    """Return what is known of a plan's kernels, after a trial where that is nothing."""
    ledger, name = _ledger(), _name(plan)
    known = ledger.look_up(name)
    if known.state is State.UNTRIED:
        with _alone:
            known = ledger.look_up(name)
            if known.state is State.UNTRIED:
                known = _try(ledger, problem, plan, detect()[0], backend)
    if known.state is State.DISABLED:
        _warn(ledger, plan, known.detail)
    return known


def _name(plan: Plan) -> str:
    # Imported here because jinja2 is a large part of what `import mlx_tilegemm` may cost.
    from ...core.render import text_name

    return text_name(plan)


def _try(ledger: _Ledger, problem: Problem, plan: Plan, chip: Chip, backend: Backend) -> Verdict:
    name = _name(plan)
    attempts = _unfinished(ledger.record.read(name))
    if attempts >= MAX_ATTEMPTS:
        crashed = f"the process ended {attempts} times while it was being tried"
        return _conclude(ledger, plan, crashed, lasting=True)
    # Written first: should the trial take the process with it, the next one knows.
    running = entry("running", str(plan), process=os.getpid(), attempts=attempts + 1)
    ledger.record.write(name, running)
    try:
        reason, lasting = _outcome(problem, plan, chip, backend)
    except BaseException:
        ledger.record.write(name, None)
        raise
    return _conclude(ledger, plan, reason, lasting=lasting)


def _unfinished(found: Entry | None) -> int:
    if found is None or found.state != "running":
        return 0
    return found.attempts - 1 if is_running(found.process) else found.attempts


def _outcome(problem: Problem, plan: Plan, chip: Chip, backend: Backend) -> tuple[str | None, bool]:
    """Return what is wrong with the variant, or None, and whether that is worth recording."""
    from .instance import smallest_instance
    from .trial import trial

    try:
        instance = smallest_instance(problem, plan, chip)
        if instance is None:
            return "nothing small enough to try it with", True
        return trial(instance, backend), True
    except Exception as error:  # whatever a compiler, a driver or MLX may raise
        text = str(error) or type(error).__name__
        transient = isinstance(error, MemoryError) or any(sign in text for sign in _TRANSIENT)
        return _shortened(text), not transient


def _conclude(ledger: _Ledger, plan: Plan, reason: str | None, *, lasting: bool) -> Verdict:
    name = _name(plan)
    state = "passed" if reason is None else "failed"
    made = entry(state, str(plan), reason=reason or "")
    ledger.verdicts[name] = verdict = _from_entry(made)
    ledger.record.write(name, made if lasting else None)
    return verdict


def _warn(ledger: _Ledger, plan: Plan, reason: str) -> None:
    """Say, once in a process, that a variant is disabled."""
    name = _name(plan)
    with _alone:
        if name in ledger.warned:
            return
        ledger.warned.add(name)
    warnings.warn(
        f"[canary] The kernel {plan} is disabled on this machine, where its trial failed: "
        f"{reason.rstrip('.')}. Other kernels or MLX's own ops serve its calls. To try it again, "
        f"delete {ledger.record.path}. ({name})",
        RuntimeWarning,
        stacklevel=2,
    )

"""Check all variants, or a sample of them, in processes of their own."""

from __future__ import annotations

import hashlib
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path
from typing import TypeVar

from ...backends import Backend, backend_named, runner
from ...emulator import settings
from ...errors import ProblemError
from ...families import all_kernels
from ...machine import chips
from .. import canary
from ..variants import Variant, variants, variants_of
from .check import Outcome, Status, check_variant, stage_names
from .earlier import earlier_passes
from .report import Report, environment
from .workers import run_tasks

T = TypeVar("T")

Progress = Callable[[int, int, Outcome], None]
"""Told after each variant: how many are done, of how many, and the latest outcome."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Request of a campaign: which variants to check, and how.

    Attributes:
        backend: ``metal``, ``cuda`` or ``emulator``.
        kernel: Only this kernel, or ``kernel/config``; empty for all.
        sample: Check only about so many variants; 0 for all.
        repeats: Times each is run.
        static: Whether texts are compiled strictly and linted too.
        compiler: The emulator's compiler; empty for the first one found.
    """

    backend: str
    kernel: str = ""
    sample: int = 0
    repeats: int = 12
    static: bool = True
    compiler: str = ""

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise ProblemError(f"[verify] Expected at least one repeat, got {self.repeats}.")
        if self.sample < 0:
            raise ProblemError(f"[verify] Expected a sample of 0 or more, got {self.sample}.")
        names = [kernel.name for kernel in all_kernels()]
        if self.kernel.split("/")[0] not in ("", *names):
            known = ", ".join(names)
            raise ProblemError(
                f"[verify] Expected a kernel among {known}, or kernel/config, got {self.kernel!r}."
            )


def backend_here() -> Backend:
    """Return the backend that kernels run on here, where `use_backend` does not name another."""
    found = runner()
    assert found is not None, "the emulator runs anywhere"
    return found


def selected(request: Request) -> list[Variant]:
    """Return the variants a request is about, always in the same order.

    The order goes round all kernels, and round the configurations of each, so the first of them are
    a fair sample.
    """
    found = [one for one in _variants(request.backend) if _matches(one, request.kernel)]
    if not found:
        kernel = request.kernel.partition("/")[0]
        same = [one for one in _variants(request.backend) if _matches(one, kernel)]
        known = ", ".join(dict.fromkeys(str(one.plan) for one in same))
        raise ProblemError(f"[verify] Expected one of {known}, got {request.kernel!r}.")
    return list(_interleaved(found))[: request.sample or None]


@lru_cache(maxsize=2)
def _variants(backend: str) -> tuple[Variant, ...]:
    """Return all variants that a backend can run: a GPU runs those of its chip alone."""
    if not _is_of_one_chip(backend):
        return tuple(variants())
    here = [chips.detect()[0]]
    return tuple(one for kernel in all_kernels() for one in variants_of(kernel, here))


def _is_of_one_chip(backend: str) -> bool:
    return backend_named(backend).capabilities.has_clock


def _left_out(backend: str) -> tuple[str, ...]:
    """Return the kernels of which a backend can run no variant."""
    if not _is_of_one_chip(backend):
        return ()
    here = [chips.detect()[0]]
    return tuple(kernel.name for kernel in all_kernels() if not any(variants_of(kernel, here)))


def _matches(variant: Variant, kernel: str) -> bool:
    name, _, config = kernel.partition("/")
    return variant.plan.kernel in (name, name or variant.plan.kernel) and (
        not config or str(variant.plan.config) == config
    )


def _interleaved(found: list[Variant]) -> Iterator[Variant]:
    """Yield one variant of each configuration, then a second one of each, and so on.

    Configurations take turns by kernels, so that the first few variants are of all kernels.
    """
    kernels: dict[str, dict[str, list[Variant]]] = defaultdict(lambda: defaultdict(list))
    for variant in sorted(found, key=_scrambled):
        kernels[variant.plan.kernel][str(variant.plan.config)].append(variant)
    return _in_turn([*_in_turn([[*one.values()] for one in kernels.values()])])


def _in_turn(lists: Sequence[Sequence[T]]) -> Iterator[T]:
    """Yield the first element of each list, then the second of each that has one, and so on."""
    for row in zip_longest(*lists):
        yield from (one for one in row if one is not None)


def _scrambled(variant: Variant) -> bytes:
    return hashlib.blake2s(str(variant).encode()).digest()


def verify(
    request: Request,
    *,
    jobs: int = 0,
    progress: Progress | None = None,
    earlier: Path | None = None,
) -> Report:
    """Check the variants a request is about; an interrupt ends it with what was found until then.

    The report of an interrupted run says so; see `Report.verdict`.

    Args:
        request: What to check.
        jobs: Processes; 0 is one on Metal and one for each CPU on the emulator.
        progress: Called after each variant.
        earlier: A ``verify.json`` whose passes are kept where texts, machine and checks are the
            same.

    Raises:
        ProblemError: ``earlier`` is no report.
    """
    chosen = selected(request)
    here = environment(request.backend, request.compiler)
    parallel = backend_named(request.backend).capabilities.parallel
    count = jobs or (os.cpu_count() or 1 if parallel else 1)
    outcomes = _kept(chosen, earlier_passes(earlier, here, request) if earlier else {})
    waiting = [number for number in range(len(chosen)) if number not in outcomes]
    start = time.perf_counter()
    try:
        for done in run_tasks(_checker, request, waiting, jobs=count):
            outcome = done.result or _lost(chosen[done.number], done.error)
            outcomes[done.number] = outcome
            if progress:
                progress(len(outcomes), len(chosen), outcome)
    except KeyboardInterrupt:
        pass  # fewer outcomes than variants say it
    return Report(
        environment=here,
        request=request,
        seconds=time.perf_counter() - start,
        total=len(chosen),
        outcomes=tuple(outcomes[number] for number in sorted(outcomes)),
        left_out=_left_out(request.backend),
    )


def _kept(chosen: list[Variant], passes: dict[str, Outcome]) -> dict[int, Outcome]:
    """Return the passes of variants that still have the same texts, by number."""
    return {
        number: passes[str(variant)]
        for number, variant in enumerate(chosen)
        if str(variant) in passes
        and stage_names(variant) == tuple(stage.name for stage in passes[str(variant)].stages)
    }


def _checker(request: Request) -> Callable[[int], Outcome]:
    """Return what checks one variant; runs in a process of its own."""
    chosen = selected(request)
    backend = backend_named(request.backend)

    def check(number: int) -> Outcome:
        variant = chosen[number]
        with settings(
            workers=1,
            compiler=request.compiler,
            threadgroup_bytes=variant.chip.limits.threadgroup_bytes,
            time_limit=120.0,
        ):
            outcome = check_variant(
                variant, backend, repeats=request.repeats, static=request.static
            )
        _remember(variant, outcome, backend)
        return outcome

    return check


def _remember(variant: Variant, outcome: Outcome, backend: Backend) -> None:
    """Spare calls the trial of a kernel that was verified on this very machine."""
    ran = bool(outcome.launches or outcome.failures)
    if ran and canary.is_needed(backend):
        canary.remember(variant.plan, "; ".join(outcome.failures) or None)


def _lost(variant: Variant, reason: str) -> Outcome:
    return Outcome(
        variant=str(variant),
        kernel=variant.plan.kernel,
        config=str(variant.plan.config),
        status=Status.FAILED,
        failures=(reason,),
    )

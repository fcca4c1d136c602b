"""Run mutants under the strict emulator and say which were noticed, and by what.

A mutant is a change to a line of a template. It is tried in each subject that contains the line,
until one of them notices.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import lru_cache
from importlib.resources import files

import mlx.core as mx

from ...backends import Backend, Executable, backend_named
from ...backends.launch import kernel_run
from ...core.family import HardData
from ...core.plan import Source
from ...core.reference import Expected, closer, hold
from ...core.render import render
from ...emulator import Finding, settings
from ...errors import KernelCheckError, KernelCompileError, KernelTimeoutError
from ...families import family_of
from ..verify.workers import run_tasks
from .operators import GENERIC, Mutant, mutants
from .subjects import Subject, Trial, subjects

TIME_LIMIT = 10.0
Progress = Callable[[int, int, "Verdict"], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Verdict on a mutant.

    Attributes:
        mutant: The mutant.
        caught_by: ``compile``, ``numerics``, ``time limit``, ``error`` or the kinds of the
            findings; empty for a survivor.
        subject: The subject that noticed, or the first that did not.
        tried: Subjects it was run in.
        reason: Why a survivor is no mistake; empty if nobody has said so.
    """

    mutant: Mutant
    caught_by: str = ""
    subject: str = ""
    tried: int = 0
    reason: str = ""

    @property
    def caught(self) -> bool:
        """Whether it was noticed."""
        return bool(self.caught_by)


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """All verdicts.

    Attributes:
        verdicts: One for each mutant.
        total: Mutants there are; more than verdicts after a sample.
    """

    verdicts: tuple[Verdict, ...]
    total: int

    @property
    def caught(self) -> int:
        """How many were noticed."""
        return sum(one.caught for one in self.verdicts)

    @property
    def equivalent(self) -> tuple[Verdict, ...]:
        """Survivors that change nothing."""
        return tuple(one for one in self.verdicts if not one.caught and one.reason)

    @property
    def unexplained(self) -> tuple[Verdict, ...]:
        """Survivors for which there is no reason."""
        return tuple(one for one in self.verdicts if not one.caught and not one.reason)

    @property
    def rate(self) -> float:
        """Share of the mutants that are not equivalent which were noticed."""
        return self.caught / max(1, self.caught + len(self.unexplained))


@dataclass(frozen=True, slots=True, kw_only=True)
class Variation:
    """One mutant in one subject.

    Attributes:
        mutant: The mutant.
        subject: Index of the subject.
        stage: Index of the stage.
        original: The kernel without it.
        header: Header of the mutated kernel.
        body: Body of the mutated kernel.
    """

    mutant: Mutant
    subject: int
    stage: int
    original: Source
    header: str
    body: str

    @property
    def source(self) -> Source:
        """The mutated kernel."""
        name = f"{self.original.name}_{_hash(self.header + self.body)}"
        return replace(self.original, name=name, header=self.header, body=self.body)


@lru_cache(maxsize=1)
def unique_mutants() -> tuple[tuple[Variation, ...], ...]:
    """Return for every mutant its variation in each subject that contains the line."""
    found: dict[object, list[Variation]] = {}
    for index, subject in enumerate(subjects()):
        for variation in _variations(index, subject):
            ways = found.setdefault(variation.mutant.key, [])
            if not ways or ways[-1].subject != index:
                ways.append(variation)
    return tuple(tuple(ways) for ways in found.values())


def _variations(index: int, subject: Subject) -> Iterator[Variation]:
    for number, stage in enumerate(subject.trials[0].plan.stages):
        source = render(stage.spec)
        texts = [(mutant, text, source.body) for mutant, text in mutants(source.header)]
        texts += [(mutant, source.header, text) for mutant, text in mutants(source.body)]
        for mutant, header, body in texts:
            yield Variation(
                mutant=mutant,
                subject=index,
                stage=number,
                original=source,
                header=header,
                body=body,
            )


def _hash(text: str) -> str:
    return hashlib.blake2s(text.encode(), digest_size=6).hexdigest()


class _Mutated(Backend):
    """The emulator, with one kernel replaced."""

    name = "mutated"

    def __init__(self, original: str, source: Source) -> None:
        self._emulator = backend_named("emulator")
        self.capabilities = self._emulator.capabilities
        self._original = original
        self._source = source

    def compile(self, source: Source) -> Executable:
        """Return the kernel, or its mutant."""
        changed = source.name == self._original
        return self._emulator.compile(self._source if changed else source)


def judge(ways: Sequence[Variation]) -> Verdict:
    """Try one mutant in its subjects, until one notices."""
    first = ways[0]
    for tried, way in enumerate(ways, start=1):
        subject = subjects()[way.subject]
        caught_by = _caught_by(way, subject)
        if caught_by:
            return Verdict(
                mutant=first.mutant, caught_by=caught_by, subject=subject.name, tried=tried
            )
    return Verdict(
        mutant=first.mutant,
        subject=subjects()[first.subject].name,
        tried=len(ways),
        reason=explanation(first.mutant),
    )


def _caught_by(way: Variation, subject: Subject) -> str:
    original = render(subject.trials[0].plan.stages[way.stage].spec).name
    backend = _Mutated(original, way.source)
    for number, trial in enumerate(subject.trials):
        with settings(time_limit=TIME_LIMIT, order=("forward", "reverse")[number % 2]):
            noticed = _noticed(trial, backend)
        if noticed:
            return noticed
    return ""


def _noticed(trial: Trial, backend: _Mutated) -> str:
    """Return what notices that a kernel is wrong, or nothing."""
    try:
        family = family_of(trial.problem)
        run = kernel_run(trial.problem, trial.plan, backend)
        operands = family.draw(trial.problem, trial.data)
        outputs = run(operands, family.trial_factors(trial.problem), None)
        mx.eval(*outputs)
    except KernelCompileError:
        return "compile"
    except KernelTimeoutError:
        return "time limit"
    except KernelCheckError as error:
        kinds = {str(one.kind) for one in error.findings if isinstance(one, Finding)}
        return ", ".join(sorted(kinds))
    except Exception as error:
        return f"error ({type(error).__name__})"
    return "numerics" if hold(trial.problem, outputs, _wanted(trial))[1] else ""


@lru_cache(maxsize=256)
def _wanted(trial: Trial) -> tuple[Expected, ...]:
    family, problem, data = family_of(trial.problem), trial.problem, trial.data
    found = family.reference(problem, family.draw(problem, data), family.trial_factors(problem))
    if not isinstance(data, HardData):
        return found
    pairs = zip(problem.results, found, strict=True)
    return tuple(closer(one, data.within, result.dtype) for result, one in pairs)


def explanation(mutant: Mutant) -> str:
    """Return why a mutant changes nothing, empty if nobody has said so."""
    for template, operator, original, mutated, reason in equivalents():
        pairs = (
            (template, mutant.template),
            (operator, mutant.operator),
            (original, mutant.original),
            (mutated, mutant.mutated),
        )
        if all(wanted in ("*", is_) for wanted, is_ in pairs):
            return reason
    return ""


@lru_cache(maxsize=1)
def equivalents() -> tuple[tuple[str, str, str, str, str], ...]:
    """Return the reviewed table: template, operator, original, mutated, each or ``*``; reason."""
    text = (files(__package__) / "equivalent.tsv").read_text(encoding="ascii")
    rows = [line.split("\t") for line in text.splitlines()[1:]]
    return tuple((row[0], row[1], row[2], row[3], row[4]) for row in rows)


def chosen(sample: int, generic: int | None, templates: Sequence[str] = ()) -> list[int]:
    """Return the numbers of the mutants to run, always the same and in the same order.

    Args:
        sample: So many of all; 0 for all.
        generic: Without a sample, so many of those that `GENERIC` operators make; None for all.
        templates: Patterns of templates to take mutants of, as `fnmatch` has them; empty for all.

    Raises:
        ValueError: No template is named so.
    """
    everything = [ways[0].mutant for ways in unique_mutants()]
    wanted = [
        number
        for number, mutant in enumerate(everything)
        if not templates or any(fnmatchcase(mutant.template, one) for one in templates)
    ]
    if not wanted:
        raise ValueError(f"Expected patterns of existing templates, got {list(templates)}.")
    scrambled = sorted(wanted, key=lambda number: _hash(str(everything[number])))
    named = [number for number in scrambled if everything[number].operator not in GENERIC]
    # Those with a reason last: they are tried in every subject, which takes longest.
    named.sort(key=lambda number: bool(explanation(everything[number])))
    others = [number for number in scrambled if everything[number].operator in GENERIC]
    return scrambled[:sample] if sample else named + others[:generic]


def identity(ways: Sequence[Variation]) -> str:
    """Return what a verdict depends on: the texts of some variations, and how they are tried."""
    everything = subjects()
    parts = (f"{way.source.name} {_left_open(everything[way.subject])}" for way in ways)
    return _hash("\n".join(parts))


def _left_open(subject: Subject) -> str:
    """Return what a subject's texts leave open: its name, launches and data."""
    trials = [
        ([stage.launch for stage in trial.plan.stages], trial.data) for trial in subject.trials
    ]
    return f"{subject.name} {trials}"


def run(
    *,
    sample: int = 0,
    generic: int | None = None,
    templates: Sequence[str] = (),
    jobs: int = 0,
    progress: Progress | None = None,
    known: Mapping[Mutant, Verdict] | None = None,
) -> Campaign:
    """Run all mutants, or a sample; an interrupt ends it with the verdicts until then.

    Args:
        sample: How many; 0 for all.
        generic: How many of those that `GENERIC` operators make; None for all.
        templates: Patterns of templates to take mutants of; empty for all.
        jobs: Processes; 0 for one a CPU.
        progress: Called after each mutant.
        known: Verdicts on mutants that need not be run again.
    """
    numbers = chosen(sample, generic, templates)
    everything = unique_mutants()
    verdicts: dict[int, Verdict] = {}
    for number in numbers:
        ways = everything[number]
        verdict = (known or {}).get(ways[0].mutant)
        if verdict and (verdict.caught or verdict.reason or verdict.tried == len(ways)):
            verdicts[number] = verdict
    numbers = [number for number in numbers if number not in verdicts]
    total = len(numbers) + len(verdicts)
    try:
        for done in run_tasks(_judge, None, numbers, jobs=jobs or os.cpu_count() or 1):
            mutant = everything[done.number][0].mutant
            # A mutant that kills its process was noticed, only not nicely.
            verdict = done.result or Verdict(mutant=mutant, caught_by=f"error ({done.error[-60:]})")
            verdicts[done.number] = verdict
            if progress:
                progress(len(verdicts), total, verdict)
    except KeyboardInterrupt:
        if not verdicts:
            raise
    return Campaign(
        verdicts=tuple(verdicts[number] for number in sorted(verdicts)), total=len(everything)
    )


def _judge(_: object) -> Callable[[int], Verdict]:
    """Return what judges one mutant; runs in a process of its own."""

    def task(number: int) -> Verdict:
        with settings(workers=1):
            return judge(unique_mutants()[number])

    return task

"""Kernel texts that are mutated, with the small problems that they then have to solve."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ...core.family import Data, Family
from ...core.family import Subject as Wanted
from ...core.plan import Plan
from ...core.problem import Problem
from ...families import families, kernel_named
from ...machine import chips
from ..variants import variants


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One problem, with its data.

    Attributes:
        problem: The problem.
        plan: The subject's plan for it.
        data: Which numbers.
    """

    problem: Problem
    plan: Plan
    data: Data


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A kernel to mutate.

    Attributes:
        name: Kernel, configuration and flags, readable.
        trials: What it has to solve; all with the same texts.
    """

    name: str
    trials: tuple[Trial, ...]


@lru_cache(maxsize=1)
def subjects() -> tuple[Subject, ...]:
    """Return every family's subjects; together they contain every line of every template."""
    return tuple(made for one in families() for made in _of_family(one))


def _of_family(family: Family[Any]) -> Iterator[Subject]:
    if family.subjects is not None:
        yield from (_planned(subject) for subject in family.subjects())
        return
    for variant in variants(kernels=family.kernels):
        trial = Trial(problem=variant.problem, plan=variant.plan, data=Data())
        yield Subject(name=str(variant), trials=(trial,))


def _planned(subject: Wanted[Any]) -> Subject:
    """Return a subject with the configuration that is most like the one asked for."""
    kernel, first = kernel_named(subject.kernel), subject.trials[0][0]
    legal = {
        str(one): one
        for chip in (chips.DEFAULT, chips.NVIDIA)
        for one in kernel.candidates(first, chip)
        if kernel.reject(first, one, chip) is None
    }
    wanted = set(subject.config.split("-"))
    name = max(legal, key=lambda one: len(set(one.split("-")) & wanted))
    trials = tuple(
        Trial(problem=problem, plan=kernel.plan(problem, legal[name]), data=data)
        for problem, data in subject.trials
    )
    texts = {tuple(stage.spec for stage in trial.plan.stages) for trial in trials}
    assert len(texts) == 1, f"{kernel.name}/{name} has {len(texts)} texts"
    return Subject(name=f"{kernel.name}/{name} {subject.flags}", trials=trials)

"""Kernel: five pure functions of a problem, a configuration and a chip."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from .plan import Plan
from .problem import Problem

if TYPE_CHECKING:
    from ..machine.chips.record import Chip

P = TypeVar("P", bound=Problem)
C = TypeVar("C")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Kernel(Generic[P, C]):
    """One way to serve problems of type ``P``, in configurations of type ``C``.

    Attributes:
        name: Its name, also that of its module and of its template.
        problem_type: The problems it may serve.
        candidates: Yields every configuration that makes sense, preferred ones first.
        reject: Returns why a configuration may not serve a problem on a chip, or None. It is the
            only statement of the kernel's legality.
        cost: Returns the modelled seconds of a legal configuration on a chip.
        plan: Returns the plan of a legal configuration.
        variant_problems: Yields small problems that together reach every flag of the texts.
    """

    name: str
    problem_type: type[P]
    candidates: Callable[[P, Chip], Iterable[C]]
    reject: Callable[[P, C, Chip], str | None]
    cost: Callable[[P, C, Chip], float]
    plan: Callable[[P, C], Plan]
    variant_problems: Callable[[], Iterator[P]]

    def __str__(self) -> str:
        return self.name


class _Modules(Sequence["Kernel[Any, Any]"]):
    """The ``KERNEL`` of each module of a package, imported when the first one is asked for."""

    def __init__(self, package: str, names: Iterable[str]) -> None:
        self._names = [f"{package}.{name}" for name in names]

    @cached_property
    def _kernels(self) -> list[Kernel[Any, Any]]:
        return [import_module(name).KERNEL for name in self._names]

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, index: int) -> Kernel[Any, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[Kernel[Any, Any]]: ...
    def __getitem__(self, index: int | slice) -> Kernel[Any, Any] | list[Kernel[Any, Any]]:
        return self._kernels[index]


def load_kernels(package: str, names: Iterable[str]) -> Sequence[Kernel[Any, Any]]:
    """Return the ``KERNEL`` of each module of a package, by the modules' names.

    They are imported when the first one is asked for: what a family's ops are called, and what they
    take, is known without.
    """
    return _Modules(package, names)

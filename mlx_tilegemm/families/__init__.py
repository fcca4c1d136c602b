"""The families of ops, one folder each. To add one, write its folder and name it in `FAMILIES`.

A family is described by ``FAMILY`` in ``<name>/family.py``. It is imported when it is first asked
for: kernels are most of what importing the library would cost.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..core.family import Family, Op
    from ..core.kernel import Kernel
    from ..core.problem import Problem

FAMILIES = ("gemm", "attention", "quantized", "scaled", "experts", "gated_delta")
"""Names of the families' folders."""


@lru_cache(maxsize=1)
def families() -> tuple[Family[Any], ...]:
    """Return every family."""
    return tuple(import_module(f"{__name__}.{name}.family").FAMILY for name in FAMILIES)


@lru_cache(maxsize=1)
def problem_types() -> dict[str, type[Problem]]:
    """Return every type of problem, by the name it has in files."""
    return {name: kind for family in families() for name, kind in family.problems.items()}


@lru_cache(maxsize=1)
def _by_problem() -> dict[type[Problem], Family[Any]]:
    return {kind: family for family in families() for kind in family.problems.values()}


def family_of(problem: Problem) -> Family[Any]:
    """Return the family of a problem.

    Raises:
        LookupError: No family has problems of its type.
    """
    found = _by_problem().get(type(problem))
    if found is None:
        raise LookupError(f"no family has problems of type {type(problem).__name__}")
    return found


def all_kernels() -> Iterator[Kernel[Any, Any]]:
    """Yield the kernels of every family."""
    for family in families():
        yield from family.kernels


@lru_cache(maxsize=64)
def kernels_of(problem_type: type[Problem]) -> tuple[Kernel[Any, Any], ...]:
    """Return the kernels that may serve problems of a type, in the order that decides ties."""
    return tuple(one for one in all_kernels() if issubclass(problem_type, one.problem_type))


def kernel_named(name: str) -> Kernel[Any, Any]:
    """Return a kernel by its name.

    Raises:
        LookupError: There is none of that name.
    """
    found = next((one for one in all_kernels() if one.name == name), None)
    if found is None:
        raise LookupError(f"no kernel {name!r}")
    return found


@lru_cache(maxsize=1)
def ops() -> dict[str, Op[Any]]:
    """Return the public operations of every family, by name."""
    return {op.name: op for family in families() for op in family.ops}

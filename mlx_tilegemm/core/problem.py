"""Problem: what is asked of a kernel, as a frozen value.

A problem holds sizes, dtypes, layouts and options, but no array, device or tile size. A function of
its family builds it from shapes and dtypes and makes every check that needs no device, so a problem
that exists is a valid one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .dtypes import FLOAT32, DType
from .operand import Operand

if TYPE_CHECKING:
    from typing_extensions import Self

Number = int | float

Factors = tuple[Number, ...]
"""Run-time factors of a call, in the order of `Problem.factors`."""


class Problem(ABC):
    """Base of all problems, which are frozen dataclasses: hashable, and readable as text."""

    __slots__ = ()

    @property
    @abstractmethod
    def operands(self) -> tuple[Operand, ...]:
        """The arrays that a call takes, in order."""

    @property
    @abstractmethod
    def results(self) -> tuple[Operand, ...]:
        """The arrays that a call gives, in order."""

    @property
    def factors(self) -> tuple[str, ...]:
        """Names of the numbers that a call takes beside its arrays, in order."""
        return ()

    @property
    def accumulates(self) -> DType:
        """Type in which sums are formed, and in which kernels take the factors."""
        return FLOAT32

    @property
    def exact(self) -> bool:
        """Whether float32 is multiplied with all its bits, whatever MLX's switch says."""
        return False

    @property
    def operand_names(self) -> tuple[str, ...]:
        """Names of the arrays that a call takes, in order."""
        return tuple(one.name for one in self.operands)

    def elements(self, name: str) -> int:
        """Return the elements of an operand; 0 where the problem has none of that name."""
        return next((one.elements for one in self.operands if one.name == name), 0)

    def nbytes(self, name: str) -> int:
        """Return the bytes of an operand in memory; 0 where there is none of that name."""
        return next((one.nbytes for one in self.operands if one.name == name), 0)

    @abstractmethod
    def flops(self) -> float:
        """Return the operations that it takes at least; a multiply-add is two."""

    def least_bytes(self) -> float:
        """Return the bytes that have to be moved: each operand and each result once."""
        return float(sum(one.nbytes for one in (*self.operands, *self.results)))

    def alike(self) -> Self:
        """Return the problem that stands for those which share a choice with this one."""
        return self

    def stored(self) -> Self:
        """Return the problem as kernels see it, without what only the caller's shapes say."""
        return self

    def smaller(self) -> Iterator[Self]:
        """Yield smaller problems that the same kernel texts may serve, preferred ones first.

        What is compiled into a text stays; what is a run-time number shrinks to a few, off every
        tile. Which of them have the same texts is for the kernels' own plans to say.
        """
        yield from ()

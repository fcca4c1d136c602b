"""Product: what the problems of all batched products, and the specs of their kernels, share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import fields
from math import prod
from typing import Any, ClassVar, Protocol, TypeVar

from .dtypes import DType
from .operand import Operand
from .plan import Arguments
from .problem import Problem
from .shapes import Shape

MAX_BATCH_AXES = 8
"""Batch axes a kernel decomposes; more never survive merging in practice."""

T = TypeVar("T")


class BatchAxis(Protocol):
    """One axis of a batch."""

    @property
    def size(self) -> int:
        """Number of products along it."""

    @property
    def steps(self) -> tuple[int, ...]:
        """Matrices of each operand to step over, in order."""


class BatchedProduct(Problem):
    """Base of problems whose one result is ``[m, n]``, once for each element of a batch."""

    __slots__ = ()

    m: int
    """Rows of the result."""

    n: int
    """Columns of the result."""

    k: int
    """Length of the contracted axis."""

    batch: tuple[BatchAxis, ...]
    """Batch axes, outermost first."""

    out: DType
    """Element format of the result."""

    out_shape: Shape
    """Shape of the result."""

    @property
    def results(self) -> tuple[Operand, ...]:
        """``out``."""
        return (Operand(name="out", shape=self.out_shape, dtype=self.out),)

    @property
    def batch_size(self) -> int:
        """Number of products."""
        return prod(axis.size for axis in self.batch)

    @property
    def is_empty(self) -> bool:
        """Whether there are no products; rows may be those of a folded batch."""
        return 0 in (self.m, self.batch_size)

    def flops(self) -> float:
        """Return ``2 m n k`` for each product."""
        return 2.0 * self.m * self.n * self.k * self.batch_size


class ProductText(Protocol):
    """Part of a problem that texts depend on; m and the batch sizes are run-time."""

    @property
    def batch_axes(self) -> int:
        """Number of batch axes."""


class ProductSpec(Arguments, ABC):
    """Base of the specs of kernels of batched products."""

    __slots__ = ()

    FAMILY: ClassVar[str]
    """Name of the family, and of the folder of its templates."""

    KERNEL: ClassVar[str]
    """Name of the kernel and stem of its template."""

    STEPPED: ClassVar[tuple[str, ...]]
    """Operands that have steps along batch axes."""

    SIZES = ("m",)

    text: ProductText
    """Part of the problem."""

    @property
    @abstractmethod
    def block(self) -> tuple[int, int, int]:
        """Rows and columns of the result that a threadgroup computes, and the depth of a step."""

    @property
    def template(self) -> str:
        """Template of the kernel."""
        return f"{self.FAMILY}/{self.KERNEL}.metal.j2"

    @property
    def block_text(self) -> str:
        """The block as a part of a Metal name."""
        return "x".join(map(str, self.block))

    @property
    def size_names(self) -> tuple[str, ...]:
        """m, then the size of each batch axis and its steps of each operand."""
        axes = range(self.text.batch_axes)
        return (*self.SIZES, *(name for axis in axes for name in axis_sizes(axis, self.STEPPED)))


def axis_sizes(number: int, stepped: Iterable[str]) -> tuple[str, ...]:
    """Return the names of a batch axis's size and of its steps of some operands."""
    return (f"batch{number}", *(f"{name}_step{number}" for name in stepped))


def product_sizes(problem: BatchedProduct, stepped: Sequence[str]) -> dict[str, int]:
    """Return the run-time sizes of a product by name."""
    sizes = {"m": problem.m}
    for number, axis in enumerate(problem.batch):
        sizes |= zip(axis_sizes(number, stepped), (axis.size, *axis.steps), strict=True)
    return sizes


def reject_batch(problem: BatchedProduct) -> str | None:
    """Return why no kernel decomposes the batch, or None."""
    axes = len(problem.batch)
    if axes > MAX_BATCH_AXES:
        return f"{axes} batch axes remain after merging; at most {MAX_BATCH_AXES}"
    return None


def text_of(kind: type[T], problem: BatchedProduct) -> T:
    """Return what texts depend on: of a dataclass whose fields are the problem's, by name.

    Its field ``batch_axes`` is their number.
    """
    names = {field.name for field in fields(kind)} - {"batch_axes"}  # type: ignore[arg-type]
    values: dict[str, Any] = {name: getattr(problem, name) for name in names}
    values["batch_axes"] = len(problem.batch)
    return kind(**values)

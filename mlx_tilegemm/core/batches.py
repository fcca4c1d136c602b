"""Batches of products of two operands: how their axes broadcast, and how kernels step over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import ProblemError
from .shapes import Shape, pad, shape_text


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchAxis:
    """A batch axis as kernels see it.

    Attributes:
        size: Number of products along it.
        a: Matrices of the left operand to step over; 0 where all products share one.
        b: Likewise of the right one.
    """

    size: int
    a: int
    b: int

    @property
    def steps(self) -> tuple[int, ...]:
        """Matrices of each operand to step over, in order."""
        return (self.a, self.b)


def broadcast_batch(op: str, a: Shape, b: Shape, got: str = "") -> Shape:
    """Return the batch of a product of operands with these shapes, their last two axes aside.

    Args:
        op: Name to begin messages with.
        a: Shape of the left operand.
        b: Likewise of the right one.
        got: The operands as messages have them; their shapes if not given.

    Raises:
        ProblemError: The axes do not broadcast.
    """
    rank = max(len(a), len(b), 2) - 2
    sizes = []
    for left, right in zip(pad(a[:-2], rank), pad(b[:-2], rank), strict=True):
        if left != right and 1 not in (left, right):
            raise ProblemError(
                f"[{op}] Expected batch axes that broadcast, got "
                f"{got or f'{shape_text(a)} and {shape_text(b)}'}."
            )
        sizes.append(right if left == 1 else left)
    return tuple(sizes)


def batch_axes(shape: Shape, a: Shape, b: Shape) -> tuple[BatchAxis, ...]:
    """Return the axes of a batch, neighbours that belong to the same operands as one.

    Args:
        shape: The batch.
        a: Batch of the left operand, which broadcasts to it.
        b: Likewise of the right one.
    """
    rank = len(shape)
    merged: list[tuple[int, bool, bool]] = []
    for size, left, right in zip(shape, pad(a, rank), pad(b, rank), strict=True):
        if size == 1:
            continue
        axis = (size, left != 1, right != 1)
        if merged and merged[-1][1:] == axis[1:]:
            axis = (merged.pop()[0] * size, *axis[1:])
        merged.append(axis)
    return stepped(*([axis[part] for axis in merged] for part in range(3)))  # type: ignore[arg-type]


def stepped(
    sizes: Sequence[int], in_a: Sequence[bool], in_b: Sequence[bool]
) -> tuple[BatchAxis, ...]:
    """Return axes of these sizes, by which operands have them, of matrices one after another."""
    axes: list[BatchAxis] = []
    step_a = step_b = 1
    for size, of_a, of_b in zip(sizes[::-1], in_a[::-1], in_b[::-1], strict=True):
        axes.append(BatchAxis(size=size, a=step_a if of_a else 0, b=step_b if of_b else 0))
        step_a *= size if of_a else 1
        step_b *= size if of_b else 1
    return tuple(axes[::-1])

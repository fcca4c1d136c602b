"""Shapes, as problems and their messages know them."""

from __future__ import annotations

Shape = tuple[int, ...]


def shape_text(shape: Shape) -> str:
    """Print a shape as MLX's messages do: ``(2,3)``."""
    return "(" + ",".join(str(size) for size in shape) + ")"


def pad(shape: Shape, rank: int) -> Shape:
    """Return a shape with axes of size 1 in front, up to ``rank`` axes."""
    return (1,) * (rank - len(shape)) + shape

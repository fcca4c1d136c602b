"""Scaling: how the scales of an operand of codes lie beside it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import NamedTuple

from .dtypes import FLOAT8_E4M3, FLOAT8_E5M2, INT8, DType

BYTE_FORMATS = {
    row.short if row is not INT8 else row.name: row for row in (FLOAT8_E4M3, FLOAT8_E5M2, INT8)
}
"""Formats of codes of a byte each, by name."""

FORMAT_NUMBERS = {FLOAT8_E4M3: 1, FLOAT8_E5M2: 2}
"""How texts tell small floats from what Metal converts itself, which is 0."""

DECODING_INSTRUCTIONS = {FLOAT8_E4M3: 6, FLOAT8_E5M2: 3, INT8: 1}
"""Instructions to decode a code, without its scale."""


def byte_metal(row: DType) -> str:
    """Return Metal's type of codes or floats as MLX binds it."""
    # To Metal the type that MLX names int8_t is another one than char.
    return "int8_t" if row is INT8 else row.metal


class Lay(NamedTuple):
    """How scales lie beside the operand as it is stored.

    Attributes:
        rows: Stored rows of the operand that share a scale; 0 for all.
        columns: Stored columns that share one; 0 for all.
        row_scales: Scales in a stored row of them.
        matrix_scales: Scales from one matrix to the next; 0 where all matrices share them.
    """

    rows: int
    columns: int
    row_scales: int
    matrix_scales: int

    def elements(self, rows: int, columns: int) -> int:
        """Return the elements of a stored operand whose rows are filled up to whole blocks."""
        return rows * max(columns, self.columns * self.row_scales)


UNSCALED = Lay(0, 0, 0, 0)
"""Where there are no scales."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """How the scales of an operand lie.

    Attributes:
        dtype: Format of a scale: a float, or e8m0.
        height: Rows of the result that share a scale, or columns for the right operand; 0 for all.
        width: Elements along the contracted axis that share a scale; 0 for all.
        batched: Each matrix of the operand has scales of its own, not one for all.
    """

    dtype: DType
    height: int = 0
    width: int = 0
    batched: bool = False

    def counts(self, rows: int, depth: int) -> tuple[int, int]:
        """Return how many scales there are along the result and along the contracted axis."""
        return (
            ceil(rows / self.height) if self.height else 1,
            ceil(depth / self.width) if self.width else 1,
        )

    def __str__(self) -> str:
        height, width = (size or "all" for size in (self.height, self.width))
        return f"{self.dtype} each {height}x{width}"

    def turned(self) -> Scaling:
        """Return how the same scales lie where the result's axis is the contracted one."""
        return replace(self, height=self.width, width=self.height)

    def stored_counts(self, n: int, k: int, transposed: bool) -> tuple[int, int]:
        """Return the rows and columns of scales of a right operand.

        Args:
            n: Columns of the result.
            k: Length of the contracted axis.
            transposed: The operand is stored ``[n, k]``, else ``[k, n]``.
        """
        along, depth = self.counts(n, k)
        return (along, depth) if transposed else (depth, along)

    def lay(self, n: int, k: int, transposed: bool) -> Lay:
        """Return how scales of a right operand lie beside it, as of `stored_counts`."""
        rows, columns = self.stored_counts(n, k, transposed)
        matrix = rows * columns if self.batched else 0
        if transposed:
            return Lay(self.height, self.width, columns, matrix)
        return Lay(self.width, self.height, columns, matrix)

"""Tiles of products of few rows with a matrix, which are bound by reading the matrix."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..core.caches import kept
from ..core.dtypes import FLOAT32, DType
from ..core.plan import SIMD_WIDTH, Resources
from .fragment import ADDRESSING_REGISTERS


@dataclass(frozen=True, slots=True, kw_only=True)
class GemvTile:
    """Share of the result that a simdgroup computes.

    Attributes:
        rows: Rows held in registers; a problem of fewer repeats its last one.
        columns: Columns of a simdgroup where the matrix is ``[n, k]``; else each lane takes a run.
        simdgroups: Simdgroups of a threadgroup.
        staged: Rows pass through threadgroup memory, so that its simdgroups read them once.
    """

    rows: int
    columns: int
    simdgroups: int
    staged: bool = False

    def __str__(self) -> str:
        return f"{self.rows}x{self.columns}-{self.simdgroups}" + "-staged" * self.staged

    @property
    def threads(self) -> int:
        """Threads of one threadgroup."""
        return self.simdgroups * SIMD_WIDTH

    def block_columns(self, run: int, transpose: bool) -> int:
        """Return the columns of the result that a threadgroup computes.

        Args:
            run: Elements of a row of the matrix as stored that a lane reads at a time.
            transpose: The matrix is ``[n, k]``.
        """
        return self.simdgroups * self.columns if transpose else SIMD_WIDTH * run

    def block(self, run: int, transpose: bool) -> tuple[int, int, int]:
        """Return rows and columns of the result that a threadgroup computes, and a step's depth.

        Args:
            run: Elements of a row of the matrix as stored that a lane reads at a time.
            transpose: The matrix is ``[n, k]``.
        """
        depth = SIMD_WIDTH * run if transpose else self.simdgroups
        return (self.rows, self.block_columns(run, transpose), depth)

    def shares_elements(self, run: int) -> int:
        """Return the partial sums of one row that simdgroups exchange where runs are columns."""
        return self.simdgroups * run * SIMD_WIDTH

    def staged_elements(self, run: int) -> int:
        """Return the elements of rows that are staged for one step; 0 where they are not."""
        return self.rows * SIMD_WIDTH * run if self.staged else 0


@kept
def gemv_resources(
    tile: GemvTile,
    run: int,
    transpose: bool,
    registers: int | None = None,
    staged: DType | None = None,
) -> Resources:
    """Return threads, threadgroup memory and live registers.

    Args:
        tile: The tile.
        run: Elements of a row of the matrix as stored that a lane reads at a time.
        transpose: The matrix is ``[n, k]``.
        registers: Estimate of the kernel's own; None for what any of its kind has.
        staged: Type in which rows are staged; None where they are not.
    """
    by_columns = tile.rows * tile.columns + (tile.columns + 1) * run
    live = by_columns if transpose else (tile.rows + 1) * run
    shares = 0 if transpose else FLOAT32.bytes * tile.shares_elements(run)
    rows = staged.bytes * tile.staged_elements(run) if staged else 0
    return Resources(
        threads=tile.threads,
        threadgroup_bytes=shares + rows,
        registers=live + ADDRESSING_REGISTERS if registers is None else registers,
    )


def reject_height(m: int, tile: GemvTile, tiles: Iterable[GemvTile]) -> str | None:
    """Return why another of some tiles has the rows for a problem of m rows, or None."""
    if any(m <= other.rows < tile.rows for other in tiles):
        return f"{tile.rows} rows are more than m {m} needs"
    return None

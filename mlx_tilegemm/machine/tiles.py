"""Tiles of GEMMs on simdgroup matrices: their threads, fragments, grids and staged operands."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from ..core.caches import kept
from ..core.dtypes import DType
from ..core.plan import SIMD_WIDTH, Extent, Resources
from .chips.record import Chip
from .cost import residents, streamed_bytes
from .fragment import FRAGMENT, staged_stride
from .products import GemmTile

MOST_UNROLLED = 4
"""Steps of which compilers make one piece, without a loop."""


def is_unrolled(k: int, block_k: int) -> bool:
    """Whether a loop over so long a k is no loop to compilers."""
    return k // block_k <= MOST_UNROLLED


class BlockTile:
    """Base of configurations that share out a block of the result among simdgroups.

    Attributes:
        block_m: Rows of the result that a threadgroup computes.
        block_n: Columns of the result that a threadgroup computes.
        block_k: Depth of one step.
        simdgroups_m: Simdgroups along the rows.
        simdgroups_n: Simdgroups along the columns.
    """

    __slots__ = ()

    block_m: int
    block_n: int
    block_k: int
    simdgroups_m: int
    simdgroups_n: int

    @property
    def block(self) -> tuple[int, int, int]:
        """Rows and columns of the result that a threadgroup computes, and the depth of a step."""
        return (self.block_m, self.block_n, self.block_k)

    @property
    def threads(self) -> int:
        """Threads of one threadgroup."""
        return self.simdgroups_m * self.simdgroups_n * SIMD_WIDTH

    @property
    def fragments_m(self) -> int:
        """Fragments of the result that a simdgroup holds along the rows."""
        return self.block_m // (FRAGMENT * self.simdgroups_m)

    @property
    def fragments_n(self) -> int:
        """Fragments of the result that a simdgroup holds along the columns."""
        return self.block_n // (FRAGMENT * self.simdgroups_n)

    def grid(self, m: int, n: int, count: int) -> Extent:
        """Return the threads for as many results of ``[m, n]``."""
        return (ceil(n / self.block_n) * self.threads, ceil(m / self.block_m), count)

    def modelled(self, needs: Resources) -> GemmTile:
        """Return the tiling as the cost model takes it, of operands that are staged."""
        return GemmTile(
            block_m=self.block_m,
            block_n=self.block_n,
            block_k=self.block_k,
            simdgroups_m=self.simdgroups_m,
            simdgroups_n=self.simdgroups_n,
            staged=True,
            registers=needs.registers,
            threadgroup_memory=needs.threadgroup_bytes,
        )

    def moved_bytes(
        self,
        m: int,
        n: int,
        *,
        a_bytes: float,
        b_bytes: float,
        out_bytes: float,
        needs: Resources,
        chip: Chip,
    ) -> float:
        """Return the bytes that one result of ``[m, n]`` moves, by what its operands hold."""
        simdgroups = self.simdgroups_m * self.simdgroups_n
        held = residents(simdgroups, needs.registers, needs.threadgroup_bytes, chip)
        return streamed_bytes(
            a_bytes=a_bytes,
            b_bytes=b_bytes,
            out_bytes=out_bytes,
            tiles_m=ceil(m / self.block_m),
            tiles_n=ceil(n / self.block_n),
            wave=chip.cores * held,
            panel=1,
            chip=chip,
        )


class TiledSpec:
    """Base of what texts depend on that are written for a `BlockTile`."""

    __slots__ = ()

    config: BlockTile

    @property
    def block(self) -> tuple[int, int, int]:
        """Rows and columns of the result that a threadgroup computes, and the depth of a step."""
        return self.config.block

    @property
    def threads(self) -> int:
        """Threads of one threadgroup."""
        return self.config.threads


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedTiles:
    """Tiles of both operands as they are staged, rows as stored.

    Attributes:
        a_stride: Elements between two rows of the tile of the left operand.
        b_stride: Likewise of the right one.
        a_elements: Elements of the tile of the left operand.
        b_elements: Likewise of the right one.
        nbytes: Bytes of both.
    """

    a_stride: int
    b_stride: int
    a_elements: int
    b_elements: int
    nbytes: int


@kept
def staged_tiles(
    block: tuple[int, int, int],
    a: DType,
    b: DType,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
) -> StagedTiles:
    """Return the staged tiles of operands of two types and layouts."""
    block_m, block_n, block_k = block
    a_rows, a_columns = (block_k, block_m) if transpose_a else (block_m, block_k)
    b_rows, b_columns = (block_n, block_k) if transpose_b else (block_k, block_n)
    a_stride, b_stride = staged_stride(a_columns, a), staged_stride(b_columns, b)
    a_elements, b_elements = a_rows * a_stride, b_rows * b_stride
    return StagedTiles(
        a_stride=a_stride,
        b_stride=b_stride,
        a_elements=a_elements,
        b_elements=b_elements,
        nbytes=a_elements * a.bytes + b_elements * b.bytes,
    )

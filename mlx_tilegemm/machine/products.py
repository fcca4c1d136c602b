"""Work of tiled matrix products, counted from sizes, dtypes and tiles.

The counts hold for every kernel built in the usual way: they serve the kernels of this library,
MLX's, and the published ones that the model is compared with.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

from ..core.caches import kept
from ..core.dtypes import DType
from .chips.record import Chip
from .cost import TileWork, residents, streamed_bytes
from .counts import copying_cycles, widening_cycles
from .fragment import FRAGMENT
from .lines import step_bytes_in_flight, tile_line_bytes


class Product(NamedTuple):
    """``out[m, n] = op(a) @ op(b) + c``, as many times as ``batch_size`` says.

    Attributes:
        m: Rows of the result.
        n: Columns of the result.
        k: Length of the contracted axis.
        a: Element format of ``a`` in memory. Likewise ``b``, ``out`` and ``c`` (None without one).
        b: See ``a``.
        out: See ``a``.
        c: See ``a``.
        c_elements: Elements of ``c`` in memory; 0 without one.
        transpose_a: ``a`` is stored ``[k, m]``.
        transpose_b: ``b`` is stored ``[n, k]``.
        batch_size: Number of products.
        a_matrices: Matrices of ``a`` in memory: fewer than products where it is broadcast.
        b_matrices: Likewise for ``b``.
    """

    m: int
    n: int
    k: int
    a: DType
    b: DType
    out: DType
    c: DType | None = None
    c_elements: int = 0
    transpose_a: bool = False
    transpose_b: bool = False
    batch_size: int = 1
    a_matrices: int = 1
    b_matrices: int = 1

    @property
    def layout(self) -> str:
        """``nn``, ``nt``, ``tn`` or ``tt``: how ``a`` and ``b`` are stored."""
        return layout(self.transpose_a, self.transpose_b)

    @property
    def a_elements(self) -> int:
        """Elements of ``a`` in memory."""
        return self.m * self.k * self.a_matrices

    @property
    def b_elements(self) -> int:
        """Elements of ``b`` in memory."""
        return self.k * self.n * self.b_matrices


def layout(transpose_a: bool, transpose_b: bool) -> str:
    """Return how the operands of a product are stored: ``nn``, ``nt``, ``tn`` or ``tt``."""
    return ("t" if transpose_a else "n") + ("t" if transpose_b else "n")


FRAGMENT_ELEMENTS = FRAGMENT * FRAGMENT


@dataclass(frozen=True, slots=True, kw_only=True)
class GemmTile:
    """Tiling of a GEMM on simdgroup matrices.

    Attributes:
        block_m: Rows of the result of a threadgroup.
        block_n: Columns of the result of a threadgroup.
        block_k: Depth of one step.
        simdgroups_m: Simdgroups along the rows.
        simdgroups_n: Simdgroups along the columns.
        staged: Operands pass through threadgroup memory; else fragments load from device memory.
        panel: Block rows that are walked together.
        registers: Live 32-bit registers of one thread.
        threadgroup_memory: Bytes of threadgroup memory of a threadgroup.
        prefetched: The next step is staged while the current one is multiplied.
    """

    block_m: int
    block_n: int
    block_k: int
    simdgroups_m: int
    simdgroups_n: int
    staged: bool
    panel: int = 1
    registers: int = 0
    threadgroup_memory: int = 0
    prefetched: bool = False

    @property
    def simdgroups(self) -> int:
        """Simdgroups of a threadgroup."""
        return self.simdgroups_m * self.simdgroups_n

    @property
    def fragments(self) -> tuple[int, int]:
        """Fragments of the result of a simdgroup, along rows and columns."""
        return (
            self.block_m // (FRAGMENT * self.simdgroups_m),
            self.block_n // (FRAGMENT * self.simdgroups_n),
        )


class Step(NamedTuple):
    """Work of one step of a threadgroup, and what a core holds: the same for all sizes.

    Attributes:
        rows: Fragments of the result of a simdgroup, along the rows.
        columns: Likewise along the columns.
        widening: Cycles to widen one fragment of an operand.
        copying: Cycles of copying to threadgroup memory.
        loaded: Bytes of fragments that are loaded for each fragment of depth.
        unique: Bytes of the operands, each once.
        lines: Bytes of the lines of ``a`` and of ``b`` that are touched.
        held: Threadgroups that a core holds.
    """

    rows: int
    columns: int
    widening: float
    copying: float
    loaded: int
    unique: int
    lines: tuple[float, float]
    held: int


@kept
def gemm_step(
    tile: GemmTile, a: DType, b: DType, transpose_a: bool, transpose_b: bool, chip: Chip
) -> Step:
    """Return the work of one step of a tiled GEMM."""
    rows, columns = tile.fragments
    unique = tile.block_k * (tile.block_m * a.bytes + tile.block_n * b.bytes)
    return Step(
        rows=rows,
        columns=columns,
        widening=widening_cycles((a, b), chip),
        copying=copying_cycles(tile.staged, unique, tile.simdgroups, chip),
        loaded=tile.simdgroups * FRAGMENT_ELEMENTS * (rows * a.bytes + columns * b.bytes),
        unique=unique,
        lines=step_lines(tile, a, b, transpose_a, transpose_b),
        held=residents(tile.simdgroups, tile.registers, tile.threadgroup_memory, chip),
    )


def gemm_work(
    product: Product, tile: GemmTile, chip: Chip, *, mma_cycles: float | None = None
) -> TileWork:
    """Return the work of a tiled GEMM.

    Args:
        product: What is multiplied.
        tile: How it is cut up.
        chip: Where it runs.
        mma_cycles: Cycles of one multiply-accumulate; None is the chip's for float32.
    """
    p = product
    step = gemm_step(tile, p.a, p.b, p.transpose_a, p.transpose_b, chip)
    steps = ceil(p.k / tile.block_k)
    depth = steps * tile.block_k // FRAGMENT
    simdgroups, chains = tile.simdgroups, step.rows * step.columns
    loads = simdgroups * depth * (step.rows + step.columns)
    loaded, unique = depth * step.loaded, steps * step.unique
    tiles_m, tiles_n = ceil(p.m / tile.block_m), ceil(p.n / tile.block_n)
    tiles = tiles_m * tiles_n * p.batch_size
    wave = chip.cores * min(step.held, ceil(tiles / chip.cores))
    launched = (p.batch_size, tiles_m, tiles_n)
    return TileWork(
        tiles=tiles,
        simdgroups=simdgroups,
        chains=chains,
        issue_cycles=simdgroups * depth * chains * (mma_cycles or chip.mma_cycles),
        alu_cycles=loads * step.widening + steps * step.copying,
        threadgroup_bytes=loaded + unique if tile.staged else 0,
        fragment_bytes=0 if tile.staged else loaded,
        cache_bytes=unique,
        dram_bytes=moved_bytes(p, (tiles_m, tiles_n), tile.panel, step.held, chip),
        waits=steps,
        registers=tile.registers,
        threadgroup_memory=tile.threadgroup_memory,
        prefetched=tile.prefetched,
        barriers=tile.staged,
        shared_bytes=step_bytes_in_flight(*step.lines, launched, wave, tile.panel),
        line_bytes=steps * sum(step.lines),
    )


def step_lines(
    tile: GemmTile, a: DType, b: DType, transpose_a: bool, transpose_b: bool
) -> tuple[float, float]:
    """Return the bytes of the lines of ``a`` and of ``b`` that a threadgroup touches in a step."""
    a_tile, b_tile = (tile.block_m, tile.block_k), (tile.block_k, tile.block_n)
    a_rows, a_columns = a_tile[::-1] if transpose_a else a_tile
    b_rows, b_columns = b_tile[::-1] if transpose_b else b_tile
    return tile_line_bytes(a_rows, a_columns * a.bytes), tile_line_bytes(
        b_rows, b_columns * b.bytes
    )


def moved_bytes(
    product: Product, tiles: tuple[int, int], panel: int, held: int, chip: Chip
) -> float:
    """Return the bytes that one launch moves to and from memory, re-reads included.

    Args:
        product: What is multiplied.
        tiles: Block rows and block columns.
        panel: Block rows that are walked together.
        held: Threadgroups that a core holds.
        chip: Where it runs.
    """
    batch = product.batch_size
    moved = streamed_bytes(
        a_bytes=product.a_elements * product.a.bytes / batch,
        b_bytes=product.b_elements * product.b.bytes / batch,
        out_bytes=written_bytes(product) / batch,
        tiles_m=tiles[0],
        tiles_n=tiles[1],
        wave=chip.cores * held,
        panel=panel,
        chip=chip,
    )
    return moved * batch


def written_bytes(product: Product) -> int:
    """Return the bytes of the result and of what is added to it."""
    out = product.batch_size * product.m * product.n * product.out.bytes
    return out + (product.c_elements * product.c.bytes if product.c else 0)


def dram_bytes(product: Product) -> int:
    """Return the bytes a launch has to move at least."""
    read = product.a_elements * product.a.bytes + product.b_elements * product.b.bytes
    return read + written_bytes(product)

"""Work of tiled matrix products, counted from sizes, dtypes and tiles.

The counts hold for every kernel built in the usual way: they serve the kernels of this library,
MLX's, and the published ones that the model is compared with.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from ..core.dtypes import DType
from .chips.record import Chip
from .cost import TileWork, residents, streamed_bytes
from .counts import copying_cycles, widening_cycles
from .fragment import FRAGMENT
from .lines import step_bytes_in_flight, tile_line_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
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
    steps = ceil(product.k / tile.block_k)
    depth = steps * tile.block_k // FRAGMENT
    rows, columns = tile.fragments
    sizes = (product.a.bytes, product.b.bytes)
    loads = tile.simdgroups * depth * (rows + columns)
    loaded = tile.simdgroups * depth * FRAGMENT_ELEMENTS * (rows * sizes[0] + columns * sizes[1])
    unique = steps * tile.block_k * (tile.block_m * sizes[0] + tile.block_n * sizes[1])
    tiles_m, tiles_n = ceil(product.m / tile.block_m), ceil(product.n / tile.block_n)
    tiles = tiles_m * tiles_n * product.batch_size
    held = residents(tile.simdgroups, tile.registers, tile.threadgroup_memory, chip)
    wave = chip.cores * min(held, ceil(tiles / chip.cores))
    lines = step_lines(product, tile)
    launched = (product.batch_size, tiles_m, tiles_n)
    return TileWork(
        tiles=tiles,
        simdgroups=tile.simdgroups,
        chains=rows * columns,
        issue_cycles=tile.simdgroups * depth * rows * columns * (mma_cycles or chip.mma_cycles),
        alu_cycles=loads * widening_cycles((product.a, product.b), chip)
        + steps * copying_cycles(tile.staged, unique / steps, tile.simdgroups, chip),
        threadgroup_bytes=loaded + unique if tile.staged else 0,
        fragment_bytes=0 if tile.staged else loaded,
        cache_bytes=unique,
        dram_bytes=moved_bytes(product, (tiles_m, tiles_n), tile.panel, held, chip),
        waits=steps,
        registers=tile.registers,
        threadgroup_memory=tile.threadgroup_memory,
        prefetched=tile.prefetched,
        barriers=tile.staged,
        shared_bytes=step_bytes_in_flight(*lines, launched, wave, tile.panel),
        line_bytes=steps * sum(lines),
    )


def step_lines(product: Product, tile: GemmTile) -> tuple[float, float]:
    """Return the bytes of the lines of ``a`` and of ``b`` that a threadgroup touches in a step."""
    a, b = (tile.block_m, tile.block_k), (tile.block_k, tile.block_n)
    a = a[::-1] if product.transpose_a else a
    b = b[::-1] if product.transpose_b else b
    return tile_line_bytes(a[0], a[1] * product.a.bytes), tile_line_bytes(
        b[0], b[1] * product.b.bytes
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

"""Decoding of quantized weights: what texts need to know of one, and the instructions it takes."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from ..core.caches import kept
from ..core.dtypes import FLOAT8_E4M3, FLOAT8_E8M0, FLOAT32, DType
from ..core.plan import SIMD_WIDTH, Resources
from ..formats import AFFINE, Grouping
from .chips.record import Chip
from .cost import TileWork
from .products import Product, gemm_work
from .tiles import BlockTile

BLOCK_K = 32
"""Usual depth of a step: a multiple of every run and at most the smallest group of most weights."""

BROKEN_BITS = (3, 5, 6, 7)
"""Widths of codes that do not divide a word."""

AFFINE_INSTRUCTIONS = 3
"""Instructions to decode an element: cut out the code, widen it, scale and bias it."""

SMALL_INSTRUCTIONS = 6
"""Likewise of a small float: its sign and its magnitude are put in place apart, and scaled."""


def index_metal(elements: int) -> str:
    """Return Metal's type that numbers so many elements: of 32 bits where these suffice."""
    return "uint" if elements <= 1 << 32 else "size_t"


class DecodedText:
    """Base of the parts of problems that texts with ``lib/decode_weight`` depend on."""

    __slots__ = ()

    n: int
    k: int
    weight: Grouping | None
    scales: DType | None
    biases: DType | None

    @property
    def affine(self) -> bool:
        """Whether values are ``scale * code + bias``; else codes are small floats."""
        return self.biases is not None

    @property
    def e4m3(self) -> bool:
        """Whether codes are e4m3, where they are small floats; else they are e2m1."""
        return self.weight is not None and self.weight.codes is FLOAT8_E4M3

    @property
    def power_scales(self) -> bool:
        """Whether scales are e8m0, where they are small floats; else they are e4m3."""
        return self.scales is FLOAT8_E8M0

    @property
    def index_metal(self) -> str:
        """Metal's type that numbers the elements of one matrix of the weight."""
        return index_metal(self.n * self.k)

    @property
    def biases_metal(self) -> str:
        """Metal's type of the affine biases; any where there are none."""
        return (self.biases or FLOAT32).metal


def decoding_instructions(weight: Grouping) -> int:
    """Return the instructions to decode one element."""
    return AFFINE_INSTRUCTIONS if weight.mode == AFFINE else SMALL_INSTRUCTIONS


@kept
def tile_run(bits: int) -> int:
    """Return the elements that a thread decodes at a time: whole words, at least eight."""
    return {2: 16, 4: 8, 6: 16, 8: 8}.get(bits, 32)


@kept
def lane_run(bits: int) -> int:
    """Return the elements that a lane decodes at a time: whole words, 16 bytes at most."""
    return 16 if bits % 2 == 0 else 32


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodingTile(BlockTile):
    """Tiling of a GEMM on simdgroup matrices whose weight is decoded as it is staged.

    Attributes:
        block_m: Rows of the result that a threadgroup computes.
        block_n: Columns of the result that a threadgroup computes.
        simdgroups_m: Simdgroups along the rows.
        simdgroups_n: Simdgroups along the columns.
        block_k: Depth of one step, a multiple of `BLOCK_K`.
    """

    block_m: int
    block_n: int
    simdgroups_m: int
    simdgroups_n: int
    block_k: int = BLOCK_K

    def __str__(self) -> str:
        depth = "" if self.block_k == BLOCK_K else f"x{self.block_k}"
        return f"{self.block_m}x{self.block_n}{depth}-{self.simdgroups_m}x{self.simdgroups_n}"


CONFIGS = (
    DecodingTile(block_m=64, block_n=64, simdgroups_m=2, simdgroups_n=2),
    DecodingTile(block_m=32, block_n=64, simdgroups_m=1, simdgroups_n=4),
    DecodingTile(block_m=32, block_n=32, simdgroups_m=2, simdgroups_n=2),
    DecodingTile(block_m=16, block_n=64, simdgroups_m=1, simdgroups_n=4),
    DecodingTile(block_m=16, block_n=32, simdgroups_m=1, simdgroups_n=4),
    DecodingTile(block_m=8, block_n=32, simdgroups_m=1, simdgroups_n=4),
)
"""Low blocks are for few rows, which taller ones would pad."""


def decoding_work(
    staged: Product,
    tile: DecodingTile,
    needs: Resources,
    chip: Chip,
    *,
    instructions: float,
    depth_bytes: float,
    dram_bytes: float,
) -> TileWork:
    """Return the work of a GEMM that decodes what it stages: one that reads less, and decodes it.

    Args:
        staged: The product, of what is staged whatever is read.
        tile: The tiling.
        needs: What a threadgroup needs.
        chip: The chip.
        instructions: To decode what one block needs of a step in k of 1.
        depth_bytes: What it reads of such a step.
        dram_bytes: Moved by all of the product.
    """
    dense = gemm_work(staged, tile.modelled(needs), chip)
    depth = ceil(staged.k / tile.block_k) * tile.block_k
    return dense._replace(
        alu_cycles=dense.alu_cycles + depth / SIMD_WIDTH * instructions * chip.alu_cycles,
        cache_bytes=depth * depth_bytes,
        line_bytes=0.0,
        shared_bytes=0.0,
        dram_bytes=dram_bytes,
    )

"""Decoding of quantized weights: what texts need to know of one, and the instructions it takes."""

from __future__ import annotations

from dataclasses import dataclass

from ..core.caches import kept
from ..core.dtypes import FLOAT8_E4M3, FLOAT8_E8M0, FLOAT32, DType
from ..core.plan import SIMD_WIDTH
from ..formats import AFFINE, Grouping
from .fragment import FRAGMENT

BLOCK_K = 32
"""Depth of a step: a multiple of every run and at most the smallest group of most weights."""

AFFINE_INSTRUCTIONS = 3
"""Instructions to decode an element: cut out the code, widen it, scale and bias it."""

SMALL_INSTRUCTIONS = 6
"""Likewise of a small float: its sign and its magnitude are put in place apart, and scaled."""


class DecodedText:
    """Base of the parts of problems that texts with ``lib/decode_weight`` depend on."""

    __slots__ = ()

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
class DecodingTile:
    """Tiling of a GEMM on simdgroup matrices whose weight is decoded as it is staged.

    Attributes:
        block_m: Rows of the result that a threadgroup computes.
        block_n: Columns of the result that a threadgroup computes.
        simdgroups_m: Simdgroups along the rows.
        simdgroups_n: Simdgroups along the columns.
    """

    block_m: int
    block_n: int
    simdgroups_m: int
    simdgroups_n: int

    def __str__(self) -> str:
        return f"{self.block_m}x{self.block_n}-{self.simdgroups_m}x{self.simdgroups_n}"

    @property
    def block_k(self) -> int:
        """Depth of one step."""
        return BLOCK_K

    @property
    def block(self) -> tuple[int, int, int]:
        """Rows and columns of the result that a threadgroup computes, and the depth of a step."""
        return (self.block_m, self.block_n, BLOCK_K)

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

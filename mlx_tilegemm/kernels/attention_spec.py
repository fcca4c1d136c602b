"""What the text of chained attention depends on, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from ..dtypes import DType
from ..plan import SIMD_WIDTH, Resources
from ..problem import MaskKind
from .fragment import ADDRESSING_REGISTERS, FRAGMENT, PAIR_BYTES, ROW_REGISTERS, STAGE_PADDING_BYTES

NAME = "attention_chain"
BASE_SIZES = 4
"""Run-time sizes that every text has: lengths, heads and heads that share keys."""

MASK_SIZES = 4
"""Further run-time sizes with an array mask."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What the text of one attention kernel depends on; lengths, heads and batch are run-time.

    Attributes:
        q: Element type of ``q``. Likewise ``k``, ``v``, ``out`` and ``mask`` (None without one).
        k: See ``q``.
        v: See ``q``.
        out: See ``q``.
        mask: See ``q``.
        mask_kind: Which mask there is.
        head_dim: D, of ``q`` and ``k``.
        value_dim: Dv, of ``v`` and the result.
        softmax: Whether rows are normalised between the two products.
        return_lse: Whether the log-sum-exp is written.
        simdgroups: Simdgroups of a threadgroup.
        block_kv: Keys of one step.
        staged: k and v pass through threadgroup memory.
        head_groups: Simdgroups that own eight rows of q together.
        windowed: Whether a causal mask has a window.
        sinks: Element type of the sinks, None without.
        pe_dim: Dp, of the positional parts of q and k; 0 without them.
        q_pe: Element type of ``q_pe``, None without. Likewise ``k_pe``.
        k_pe: See ``q_pe``.
    """

    q: DType
    k: DType
    v: DType
    out: DType
    mask: DType | None
    mask_kind: MaskKind
    head_dim: int
    value_dim: int
    softmax: bool
    return_lse: bool
    simdgroups: int
    block_kv: int
    staged: bool
    head_groups: int
    windowed: bool
    sinks: DType | None
    pe_dim: int
    q_pe: DType | None
    k_pe: DType | None

    @property
    def template(self) -> str:
        """Template of the kernel."""
        return f"{NAME}.metal.j2"

    @property
    def label(self) -> str:
        """Readable part of the kernel's name."""
        dtypes = "_".join(str(dtype) for dtype in (self.q, self.k, self.v, self.out))
        softmax = "softmax" if self.softmax else "literal"
        mask = self.mask_kind.value + "_window" * self.windowed + "_sinks" * bool(self.sinks)
        positional = f"_dp{self.pe_dim}_{self.q_pe}_{self.k_pe}" if self.positional else ""
        sizes = f"d{self.head_dim}_dv{self.value_dim}{positional}"
        return f"tilegemm_{NAME}_{softmax}_{mask}_{dtypes}_{sizes}"

    @property
    def input_names(self) -> tuple[str, ...]:
        """Inputs in order."""
        positional = ("q_pe", "k_pe") if self.positional else ()
        mask = ("mask",) if self.mask else ()
        sinks = ("sinks",) if self.sinks else ()
        return ("q", "k", "v", *positional, *mask, *sinks, "factors", "sizes")

    @property
    def output_names(self) -> tuple[str, ...]:
        """The result, and the log-sum-exp if it is wanted."""
        return ("out", "lse") if self.return_lse else ("out",)

    @property
    def causal(self) -> bool:
        """Whether the mask is causal."""
        return self.mask_kind is MaskKind.CAUSAL

    @property
    def mask_is_boolean(self) -> bool:
        """Whether an array mask selects rather than adds."""
        return self.mask_kind is MaskKind.BOOLEAN

    @property
    def threads(self) -> int:
        """Threads of one threadgroup."""
        return self.simdgroups * SIMD_WIDTH

    @property
    def grouped(self) -> bool:
        """Whether several simdgroups own rows together."""
        return self.head_groups > 1

    @property
    def positional(self) -> bool:
        """Whether q and k have positional parts."""
        return self.pe_dim > 0

    @property
    def window_at(self) -> int:
        """Where among the sizes the window is."""
        return BASE_SIZES

    @property
    def pe_heads_at(self) -> int:
        """Where among the sizes the number of heads of ``k_pe`` is."""
        return BASE_SIZES + (MASK_SIZES if self.mask else 0) + self.windowed

    @property
    def block_q(self) -> int:
        """Rows of q that a threadgroup owns."""
        return self.simdgroups // self.head_groups * FRAGMENT

    @property
    def head_fragments(self) -> int:
        """Fragments along D, of one simdgroup."""
        return part_fragments(self.head_dim, self.head_groups)

    @property
    def value_fragments(self) -> int:
        """Fragments along Dv, of one simdgroup."""
        return part_fragments(self.value_dim, self.head_groups)

    @property
    def pe_fragments(self) -> int:
        """Fragments along Dp, of one simdgroup."""
        return part_fragments(self.pe_dim, self.head_groups)

    @property
    def k_tile_stride(self) -> int:
        """Elements between two staged rows of ``k``."""
        return self._tile_stride(self.head_fragments, self.k)

    @property
    def v_tile_stride(self) -> int:
        """Elements between two staged rows of ``v``."""
        return self._tile_stride(self.value_fragments, self.v)

    @property
    def k_pe_tile_stride(self) -> int:
        """Elements between two staged rows of ``k_pe``; 0 without."""
        return self._tile_stride(self.pe_fragments, self.k_pe) if self.k_pe else 0

    def _tile_stride(self, fragments: int, dtype: DType) -> int:
        return fragments * self.head_groups * FRAGMENT + STAGE_PADDING_BYTES // dtype.bytes

    @property
    def k_tile_elements(self) -> int:
        """Elements of the staged tile of ``k``."""
        return self.block_kv * self.k_tile_stride

    @property
    def v_tile_elements(self) -> int:
        """Elements of the staged tile of ``v``."""
        return self.block_kv * self.v_tile_stride

    @property
    def k_pe_tile_elements(self) -> int:
        """Elements of the staged tile of ``k_pe``; 0 without."""
        return self.block_kv * self.k_pe_tile_stride

    @property
    def partial_elements(self) -> int:
        """Pairs of scores that pass between simdgroups; 0 where each finds its own."""
        buffers = 1 if self.staged else 2
        pairs = self.simdgroups * self.block_kv // FRAGMENT * SIMD_WIDTH
        return buffers * pairs if self.grouped else 0

    @property
    def staged_bytes(self) -> int:
        """Bytes of the staged tiles."""
        if not self.staged:
            return 0
        positional = self.k_pe_tile_elements * self.k_pe.bytes if self.k_pe else 0
        return (
            self.k_tile_elements * self.k.bytes + self.v_tile_elements * self.v.bytes + positional
        )

    @property
    def resources(self) -> Resources:
        """Threads, threadgroup memory and live registers."""
        scores = self.block_kv // FRAGMENT
        kept = self.head_fragments + self.pe_fragments + self.value_fragments
        return Resources(
            threads=self.threads,
            threadgroup_bytes=self.staged_bytes + self.partial_elements * PAIR_BYTES,
            registers=2 * (kept + 2 * scores) + ROW_REGISTERS + ADDRESSING_REGISTERS,
        )


def part_fragments(columns: int, groups: int) -> int:
    """Return the fragments along some columns that each of the head groups has."""
    return ceil(ceil(columns / FRAGMENT) / groups)

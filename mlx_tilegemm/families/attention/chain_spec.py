"""Specialisation of the texts of chained attention, and sizes that follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from ...core.dtypes import FLOAT32, DType
from ...core.plan import SIMD_WIDTH, Resources
from ...machine.fragment import ADDRESSING_REGISTERS, FRAGMENT, PAIR_BYTES
from .problem import MaskKind
from .spec import MASK_SIZES, ROW_SIZES, ForwardSpec

NAME = "attention_chain"

RUN_BYTES = 16
"""Bytes that are staged as one vector."""

MOST_RUNS = 8
"""Runs that a thread has on their way at a time while it stages; four registers each."""

REREAD_REGISTERS = 6
"""Registers, beyond the usual for addresses, of rows of q that are read again. As Mesa's compiler
for M1 has it, like the next."""

GROUP_REGISTERS = 5
"""Further ones where simdgroups own rows together."""

MASK_REGISTERS = {MaskKind.CAUSAL: 2, MaskKind.BOOLEAN: 8, MaskKind.ADDITIVE: 8}
WINDOW_REGISTERS = 5
POSITION_REGISTERS = 3
"""Further ones for ``q_pe`` and ``k_pe``."""

SHARED_POSITION_REGISTERS = 6
"""Further ones of such rows of ``k_pe``, a third tile, where simdgroups that own rows together
stage it: where each has its part of it."""

WIDE_REGISTERS = 2
"""Further ones where values of float32 are staged."""

BROKEN_POSITION_REGISTERS = 45
"""Further ones where such rows end within a fragment, and those of many keys at a time load from
device memory: each has bounds of its own."""

MANY_KEYS = 32

LONG_ROW_RUNS = 16
LONG_ROW_REGISTERS = 31
"""Further ones where one simdgroup stages rows of more runs than that, whose number is no power of
two: what row and column each of them is of is kept."""

BROKEN_RUN_REGISTERS = 4
"""Further ones for staged rows that end within a run."""


class Config(NamedTuple):
    """A tile shape and how k and v reach the fragments.

    A tuple, which is hashed without a Python frame: each candidate is a key of what is kept.

    Attributes:
        simdgroups: Simdgroups of a threadgroup.
        block_kv: Keys of one step.
        staged: k and v pass through threadgroup memory; else fragments load from device memory.
        head_groups: Simdgroups that own eight rows of q together, each a part of their columns.
        reread: The rows of q stay in threadgroup memory and are read at every step, and k and v
            come to one place there one after the other: fewer registers, more barriers.
        tall: Each simdgroup owns sixteen rows, so that a fragment of k or v is loaded for twice as
            many, and k and v of the next step are staged while this one's are multiplied.
    """

    simdgroups: int
    block_kv: int
    staged: bool
    head_groups: int = 1
    reread: bool = False
    tall: bool = False

    def __str__(self) -> str:
        route = "staged" if self.staged else "direct"
        groups = f"-heads{self.head_groups}" if self.head_groups > 1 else ""
        reread = "-reread" * self.reread
        tall = "-tall" * self.tall
        return f"{self.block_q}x{self.block_kv}-{route}{reread}{tall}{groups}"

    @property
    def row_fragments(self) -> int:
        """Fragments along the rows of q that a simdgroup owns."""
        return 2 if self.tall else 1

    @property
    def stages_q(self) -> bool:
        """Whether the rows of q pass through threadgroup memory, or stay there."""
        return self.reread or self.tall

    @property
    def block_q(self) -> int:
        """Rows of q that a threadgroup owns."""
        return self.simdgroups // self.head_groups * self.row_fragments * FRAGMENT


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec(ForwardSpec):
    """Specialisation of the text of one attention kernel.

    Attributes:
        config: The kernel's configuration.
    """

    KERNEL: ClassVar[str] = NAME
    OUTPUTS = ("out", "lse", "norm")
    SIZES = (*ROW_SIZES, *MASK_SIZES, "window", "num_pe_heads")

    config: Config

    @property
    def label(self) -> str:
        """Readable part of the kernel's name."""
        mask = self.mask_kind.value + "_window" * self.windowed + "_sinks" * bool(self.sinks)
        positional = f"_dp{self.pe_dim}_{self.q_pe}_{self.k_pe}" if self.positional else ""
        return self.label_of(self.out, mask, f"d{self.head_dim}_dv{self.value_dim}{positional}")

    @property
    def threads(self) -> int:
        """Threads of one threadgroup."""
        return self.config.simdgroups * SIMD_WIDTH

    @property
    def k_pe_tile_stride(self) -> int:
        """Elements between two staged rows of ``k_pe``; 0 without."""
        return self.tile_stride(self.pe_fragments, self.k_pe) if self.k_pe else 0

    @property
    def q_tile_stride(self) -> int:
        """Elements between two staged rows of ``q``."""
        return self.tile_stride(self.head_fragments, self.q)

    @property
    def q_tile_elements(self) -> int:
        """Elements of the staged tile of ``q``; 0 where it is loaded from device memory."""
        return self.config.block_q * self.q_tile_stride if self.config.stages_q else 0

    @property
    def depth_fragments(self) -> int:
        """Fragments along D that are multiplied at a time."""
        return 2 if self.config.tall and self.head_fragments % 2 == 0 else 1

    @property
    def value_tile_run(self) -> int:
        """Runs of 16 bytes before the staged tile of ``v``."""
        return 0 if self.config.reread else self._runs(self.head_tile_stride, self.k)

    @property
    def step_runs(self) -> int:
        """Runs of 16 bytes of the staged tiles of one step."""
        head = self._runs(self.head_tile_stride, self.k)
        value = self._runs(self.value_tile_stride, self.v)
        return max(head, value) if self.config.reread else head + value

    @property
    def tile_runs(self) -> int:
        """Runs of 16 bytes of all staged tiles of ``k`` and ``v``, and of ``q`` in their place."""
        if not self.config.tall:
            return self.step_runs
        return self.step_runs + max(self.step_runs, self._q_bytes // RUN_BYTES)

    @property
    def _q_bytes(self) -> int:
        return self.q_tile_elements * self.q.bytes

    def _runs(self, stride: int, dtype: DType) -> int:
        return self.config.block_kv * stride * dtype.bytes // RUN_BYTES

    @property
    def k_pe_tile_elements(self) -> int:
        """Elements of the staged tile of ``k_pe``; 0 without."""
        return self.config.block_kv * self.k_pe_tile_stride

    @property
    def partial_buffers(self) -> int:
        """Buffers for the scores that pass between simdgroups: two need no barrier more."""
        return 1 if self.config.staged else 2

    @property
    def partial_elements(self) -> int:
        """Pairs of scores that pass between simdgroups; 0 where each finds its own."""
        pairs = self.config.simdgroups * self.config.block_kv // FRAGMENT * SIMD_WIDTH
        return self.partial_buffers * pairs if self.grouped else 0

    @property
    def staged_bytes(self) -> int:
        """Bytes of the staged tiles."""
        if not self.config.staged:
            return 0
        staged = self.tile_runs * RUN_BYTES + self._q_bytes * self.config.reread
        return staged + (self.k_pe_tile_elements * self.k_pe.bytes if self.k_pe else 0)

    @property
    def resources(self) -> Resources:
        """Threads, threadgroup memory and live registers."""
        return Resources(
            threads=self.threads,
            threadgroup_bytes=self.staged_bytes + self.partial_elements * PAIR_BYTES,
            registers=self._registers,
        )

    @property
    def _registers(self) -> int:
        """Estimated live registers of one thread: q, the result, scores and their addresses."""
        kept = self.pe_fragments + self.value_fragments
        kept += 0 if self.config.reread else self.head_fragments
        kept *= self.config.row_fragments
        scores = 9 * self.config.row_fragments * (self.config.block_kv // FRAGMENT) // 2
        loaded = max(0, 4 * self._runs_on_their_way - scores) // 2
        further = REREAD_REGISTERS * self.config.reread + GROUP_REGISTERS * self.grouped
        further += MASK_REGISTERS.get(self.mask_kind, 0) + WINDOW_REGISTERS * self.windowed
        further += POSITION_REGISTERS * self.positional
        shares_positions = self.positional and self.grouped and self.config.staged
        further += SHARED_POSITION_REGISTERS * shares_positions
        further += BROKEN_POSITION_REGISTERS * self._breaks_positions
        further += BROKEN_RUN_REGISTERS * (self.config.staged and self._breaks_runs)
        further += LONG_ROW_REGISTERS * self._divides_long_rows
        further += WIDE_REGISTERS * (self.config.staged and self.v is FLOAT32)
        return 2 * kept + scores + loaded + ADDRESSING_REGISTERS + further

    @property
    def _breaks_runs(self) -> bool:
        rows = (self.head_dim * self.k.bytes, self.value_dim * self.v.bytes)
        return any(row % RUN_BYTES for row in rows)

    @property
    def _breaks_positions(self) -> bool:
        many = not self.config.staged and self.config.block_kv >= MANY_KEYS
        return many and self.pe_dim % FRAGMENT != 0

    @property
    def _divides_long_rows(self) -> bool:
        """Whether one simdgroup stages rows of many runs, and no power of two of them."""
        runs = min(self.head_dim * self.k.bytes, self.value_dim * self.v.bytes) // RUN_BYTES
        alone = self.config.staged and not self.config.reread and self.config.simdgroups == 1
        return alone and runs > LONG_ROW_RUNS and bool(runs & (runs - 1))

    @property
    def _runs_on_their_way(self) -> int:
        if not self.config.staged:
            return 0
        widest = max(self.head_dim * self.k.bytes, self.value_dim * self.v.bytes)
        return min(MOST_RUNS, self.config.block_kv * widest // (RUN_BYTES * self.threads))

"""Spec of a decoding attention, and the needs of a threadgroup of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from ...core.dtypes import FLOAT32
from ...core.plan import SIMD_WIDTH, Resources, features
from ...machine.fragment import FRAGMENT, PAIR_BYTES, fragments
from .spec import MASK_SIZES, ForwardSpec

NAME = "attention_decode"
RUN_BYTES = 16
"""Bytes of a row that a lane loads at once."""

WAY_REGISTERS = 16
"""Registers of a thread for pointers, counters, bounds and its row's maximum and sum. As Mesa's
compiler for M1 has it, like the next."""

UNEVEN_REGISTERS = 10
"""Further ones where simdgroups have unequal parts of D, which are guarded."""

HEAD_GROUP_REGISTERS = 6
"""Further ones where simdgroups share D: for the shares of the scores."""

PAIR_REGISTERS = 2
"""Further ones where two do, each of which keeps half of D."""

KEY_GROUP_REGISTERS = 9
"""Further ones where simdgroups share the keys: for what they bring together."""

SPLIT_REGISTERS = 5
"""Further ones for the outputs of a share."""

POSITION_REGISTERS = 2
"""Further ones for positional parts: where those of k are."""

CAUSAL_REGISTERS = 2
"""Further ones for a causal mask, which asks for the numbers of keys."""

MASK_REGISTERS = 7
"""Further ones for an array mask, which does so too."""


class Tile(NamedTuple):
    """The share of the work that a threadgroup does.

    A tuple, which is made and hashed without a Python frame: each shape has several.

    Attributes:
        row_groups: Simdgroups of a threadgroup with rows of their own, eight each.
        key_groups: Simdgroups that share those rows and have keys of their own.
        head_groups: Simdgroups that share rows and keys, and have a share of D and Dv each.
        block_kv: Keys of one step of a simdgroup.
    """

    row_groups: int
    key_groups: int
    head_groups: int
    block_kv: int

    def __str__(self) -> str:
        return f"{self.block_kv}-{self.row_groups}x{self.key_groups}x{self.head_groups}"

    @property
    def round_keys(self) -> int:
        """Keys of one step of a threadgroup."""
        return self.key_groups * self.block_kv

    @property
    def simdgroups(self) -> int:
        """Simdgroups of a threadgroup."""
        return self.row_groups * self.key_groups * self.head_groups

    @property
    def threads(self) -> int:
        """Threads of a threadgroup."""
        return self.simdgroups * SIMD_WIDTH


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec(ForwardSpec):
    """Everything that the text of the attending kernel depends on.

    Attributes:
        split: Whether a threadgroup leaves a share for the second kernel: in float32, without
            sinks and log-sum-exp, which are the second kernel's.
        config: What a threadgroup does.
    """

    KERNEL: ClassVar[str] = NAME
    OUTPUTS = ("partials", "maxima", "totals", "out", "lse", "norm")
    SIZES = (
        "rows",
        "q_len",
        "kv_len",
        "first_key",
        "keys_per_split",
        "all_rows",
        "num_kv_heads",
        "window",
        "kv_heads_per_pe_head",
        *MASK_SIZES,
    )

    split: bool
    config: Tile

    @property
    def label(self) -> str:
        """Readable part of the kernel's name."""
        sizes = f"d{self.head_dim}_dp{self.pe_dim}_dv{self.value_dim}"
        return self.label_of(self.out, self.mask_kind.value, sizes)

    @property
    def lacks(self) -> frozenset[str]:
        """Inputs, outputs and sizes that this variant is not given."""
        absent = features(
            {
                ("num_kv_heads",): not (self.masked or self.sinks),
                ("kv_heads_per_pe_head",): not self.positional,
                ("partials", "all_rows"): not self.split,
                ("maxima", "totals"): not (self.split and self.softmax),
                ("out",): self.split,
            }
        )
        # Not plain super(): that does not survive the class a slotted dataclass makes.
        return super(Spec, self).lacks | absent

    @property
    def shares_keys(self) -> bool:
        """Whether several simdgroups of a threadgroup share the keys."""
        return self.config.key_groups > 1

    @property
    def result(self) -> str:
        """Name of the output that holds the result, or a share of it."""
        return self.output_names[0]

    @property
    def threads(self) -> int:
        """Threads of one threadgroup."""
        return self.config.simdgroups * SIMD_WIDTH

    @property
    def head_run(self) -> int:
        """Elements of k that a lane loads at once, one for each of as many fragments."""
        return run_length(self.head_dim, self.config.head_groups, RUN_BYTES // self.k.bytes)

    @property
    def pe_run(self) -> int:
        """Elements of k_pe that a lane loads at once; 1 without."""
        if self.k_pe is None:
            return 1
        return run_length(self.pe_dim, self.config.head_groups, RUN_BYTES // self.k_pe.bytes)

    @property
    def value_run(self) -> int:
        """Fragments of v of which a lane loads its elements at once, two of each."""
        return run_length(self.value_dim, self.config.head_groups, RUN_BYTES // (2 * self.v.bytes))

    @property
    def shared_scores(self) -> int:
        """Pairs of scores in threadgroup memory, of two steps."""
        return 2 * self.config.simdgroups * (self.config.block_kv // FRAGMENT) * SIMD_WIDTH

    @property
    def shared_result(self) -> int:
        """Pairs of elements of the result in threadgroup memory."""
        return self.config.simdgroups * self.config.key_groups * SIMD_WIDTH

    @property
    def shared_rows(self) -> int:
        """Rows of all simdgroups."""
        return self.config.simdgroups * FRAGMENT

    @property
    def resources(self) -> Resources:
        """Threads, threadgroup memory and live registers."""
        rows = 2 * FLOAT32.bytes * self.shared_rows if self.softmax else 0
        scores = PAIR_BYTES * self.shared_scores if self.grouped else 0
        joined = PAIR_BYTES * self.shared_result + rows if self.shares_keys else 0
        return Resources(
            threads=self.threads,
            threadgroup_bytes=scores + joined,
            registers=registers(
                head_dim=self.head_dim,
                pe_dim=self.pe_dim,
                value_dim=self.value_dim,
                k_bytes=self.k.bytes,
                v_bytes=self.v.bytes,
                head_groups=self.config.head_groups,
                block_kv=self.config.block_kv,
                shares_keys=self.shares_keys,
                split=self.split,
                causal=self.causal,
                masked=self.masked,
            )
            + POSITION_REGISTERS * self.positional,
        )


def run_length(size: int, groups: int, longest: int) -> int:
    """Return the largest power of two up to ``longest`` that divides a simdgroup's fragments.

    It is 1 where the last fragment of the last group is not full.
    """
    count = fragments(size, groups)
    if size != FRAGMENT * groups * count:
        return 1
    return next(run for run in (8, 4, 2, 1) if run <= longest and count % run == 0)


def registers(
    *,
    head_dim: int,
    pe_dim: int,
    value_dim: int,
    k_bytes: int,
    v_bytes: int,
    head_groups: int,
    block_kv: int,
    shares_keys: bool,
    split: bool,
    causal: bool,
    masked: bool,
) -> int:
    """Return the estimated live registers of a thread: q, the result, scores and what they meet."""
    keys = block_kv // FRAGMENT
    k_run = 2 * k_bytes * run_length(head_dim, head_groups, RUN_BYTES // k_bytes)
    v_run = 2 * v_bytes * run_length(value_dim, head_groups, RUN_BYTES // (2 * v_bytes))
    held = sum(fragments(size, head_groups) for size in (head_dim, pe_dim, value_dim))
    loaded = (k_run + v_run) * keys // 4
    further = HEAD_GROUP_REGISTERS * (head_groups > 1) + KEY_GROUP_REGISTERS * shares_keys
    further += SPLIT_REGISTERS * split + CAUSAL_REGISTERS * causal + MASK_REGISTERS * masked
    further += PAIR_REGISTERS * (head_groups == 2)
    if head_groups > 1 and (head_dim | value_dim) % (FRAGMENT * head_groups):
        further += UNEVEN_REGISTERS
    return 2 * (held + keys) + loaded + WAY_REGISTERS + further

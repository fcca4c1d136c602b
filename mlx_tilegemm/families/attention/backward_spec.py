"""Common parts of the two kernels of attention's backward pass: tiles and legality."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from ...core.caches import latest
from ...core.dtypes import FLOAT16, FLOATS, DType
from ...core.operand import Operand
from ...core.plan import SIMD_WIDTH
from ...machine.fragment import ADDRESSING_REGISTERS, FRAGMENT, PAIR_BYTES
from ...machine.limits import tiny_operand
from .problem import AttentionProblem, MaskKind
from .spec import (
    VARIANT_MASKS,
    AttentionSpec,
    Fields,
    as_fields,
    attention_fields,
    reject_attention,
    variant,
)

SHARING_REGISTERS = 5
"""Further registers of a head group: lane, simdgroup and where its slices begin. As Mesa's compiler
for M1 has it, like the next."""

MASK_REGISTERS = 9
"""Further registers for an array mask."""

MOST_REGISTERS = 114
"""Registers that a kernel may want by its estimate, which leaves some for the compiler."""

UNGROUPED_HEAD_DIM = 64
"""Heads up to this size need no head groups: a simdgroup's rows fit its registers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A tile shape and how operands reach the fragments.

    Attributes:
        simdgroups: Simdgroups of a threadgroup. Each has eight rows of its own side, or with
            others of its head group a slice of eight rows.
        block: Rows of the other side that are streamed in one step.
        staged: Streamed rows pass through threadgroup memory; else fragments load from device
            memory.
        cached: A simdgroup's own rows stay in registers; else they load where they are used.
        head_groups: Simdgroups of a head group: each holds such a share of every head.
    """

    simdgroups: int
    block: int
    staged: bool
    cached: bool
    head_groups: int = 1

    def __str__(self) -> str:
        route = "staged" if self.staged else "direct"
        rows = "cached" if self.cached else "reloaded"
        shared = f"-heads{self.head_groups}" if self.head_groups > 1 else ""
        return f"{self.block_own}x{self.block}-{route}-{rows}{shared}"

    @property
    def block_own(self) -> int:
        """Rows of its own side that a threadgroup has."""
        return self.simdgroups // self.head_groups * FRAGMENT


CONFIGS = tuple(
    Config(simdgroups=simdgroups, block=block, staged=staged, cached=cached)
    for staged in (True, False)
    for cached in (True, False)
    for simdgroups, block in ((4, 32), (2, 16))
)

GROUPED_CONFIGS = tuple(
    Config(simdgroups=max(4, groups), block=16, staged=staged, cached=cached, head_groups=groups)
    for groups in (2, 4, 8)
    for staged in (True, False)
    for cached in (True, False)
)
"""For heads of which a simdgroup's registers have no room for eight rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackwardSpec(AttentionSpec):
    """Base of the specs of the backward pass.

    Attributes:
        grad: Element type of ``grad``, the gradient that arrives: the result's.
        config: The kernel's configuration.
    """

    UNDECLARED = frozenset({"norm"})

    grad: DType
    config: Config

    @property
    def normed(self) -> bool:
        """Whether weights come from the rows' highest scores and sums, not their log-sum-exp."""
        return self.softmax and self.mask_kind is MaskKind.ADDITIVE

    @property
    def label(self) -> str:
        """Readable part of the kernel's name."""
        mask = self.mask_kind.value + "_window" * self.windowed
        return self.label_of(self.grad, mask, f"d{self.head_dim}_dv{self.value_dim}")

    @property
    def threads(self) -> int:
        """Threads of one threadgroup."""
        return self.config.simdgroups * SIMD_WIDTH

    @property
    def head_tile_elements(self) -> int:
        """Elements of the staged tile of D columns."""
        return self.config.block * self.head_tile_stride

    @property
    def value_tile_elements(self) -> int:
        """Elements of the staged tile of Dv columns."""
        return self.config.block * self.value_tile_stride

    @property
    def staged_bytes(self) -> int:
        """Bytes of the staged tiles."""
        head, value = (dtype.bytes for dtype in self.streamed)
        staged = self.head_tile_elements * head + self.value_tile_elements * value
        return staged if self.config.staged else 0

    @property
    def partial_pairs(self) -> int:
        """Pairs of float32 through which the slices of a product are summed."""
        return self.threads * self.config.block // FRAGMENT

    @property
    def keeps_rows(self) -> bool:
        """Whether a simdgroup's own rows take registers.

        They also do where no barrier in the loop keeps a compiler from loading them only once.
        """
        return self.config.cached or not (self.config.staged or self.grouped)

    @property
    def step_registers(self) -> int:
        """Live registers of one thread beside its own rows and its sums."""
        tiles = 3 * self.config.block // FRAGMENT + 1
        shared = SHARING_REGISTERS if self.grouped else 0
        masked = MASK_REGISTERS if self.masked else 0
        return 2 * tiles + ADDRESSING_REGISTERS + shared + masked

    def shared_bytes(self, products: int) -> int:
        """Return the bytes through which the slices of so many products are summed."""
        return products * self.partial_pairs * PAIR_BYTES if self.grouped else 0


@latest
def backward_fields(problem: AttentionProblem) -> Fields:
    """Return the fields of a `BackwardSpec` that the forward problem alone decides."""
    return as_fields(attention_fields(problem) | {"grad": problem.out})


def reject_registers(registers: int, fewest: int) -> str | None:
    """Return that the estimate leaves the compiler too few registers, or None.

    Args:
        registers: Estimate of the configuration.
        fewest: Estimate of the configuration that wants the fewest: it serves all the same.
    """
    most = max(MOST_REGISTERS, fewest)
    return f"about {registers} registers a thread exceed {most}" if registers > most else None


def reject_backward(
    problem: AttentionProblem, config: Config, staged: Iterable[Operand]
) -> str | None:
    """Return why the configuration may not serve a gradient of the problem, or None.

    Args:
        problem: The attention that is differentiated.
        config: The configuration.
        staged: Operands that a staged configuration stages.
    """
    if reason := reject_attention(problem):
        return reason
    if problem.pe_dim:
        return "q_pe and k_pe are not taken"
    if min(config.simdgroups, config.block) < 1 or config.block % FRAGMENT:
        return f"block {config.block} is not a multiple of {FRAGMENT}"
    if config.head_groups > 1 and (reason := _reject_groups(problem, config)):
        return reason
    if config.staged and (reason := tiny_operand(staged)):
        return f"{reason}, from which nothing is staged"
    return None


def _reject_groups(problem: AttentionProblem, config: Config) -> str | None:
    """Return why no head group may serve the problem, or None."""
    sizes = {"head_dim": problem.head_dim, "value_dim": problem.value_dim}
    if max(sizes.values()) <= UNGROUPED_HEAD_DIM:
        return f"heads of up to {UNGROUPED_HEAD_DIM} need no head groups"
    # Staged slices begin at a fragment, so that what is read past one is zero, as it is stored.
    unit = config.head_groups * (FRAGMENT if config.staged else 1)
    for name, size in sizes.items():
        if size % unit:
            return (
                f"{name} {size} is not a multiple of {unit}: no {config.head_groups} equal slices"
            )
    return None


def variant_attentions() -> Iterator[AttentionProblem]:
    """Yield small attentions whose gradients together reach every flag of the texts."""
    # Every pair of types of two operands: each type is about the loads of its own operand.
    for (i, q), (j, k) in product(enumerate(FLOATS), repeat=2):
        yield _variant(q=q, k=k, v=FLOATS[(i + j) % len(FLOATS)])
    for head_dim, value_dim in ((1, 1), (7, 9), (16, 24), (64, 64), (80, 80), (128, 128)):
        yield _variant(head_dim=head_dim, value_dim=value_dim)
    for out in FLOATS:
        yield _variant(out=out)
    for mask_kind, mask in VARIANT_MASKS:
        for softmax in (True, False):
            yield _variant(mask_kind=mask_kind, mask=mask, softmax=softmax)
    yield _variant(mask_kind=MaskKind.CAUSAL, window=11)
    yield _variant(head_dim=160, value_dim=128, v=FLOAT16)
    # Slices that end within a fragment.
    yield _variant(head_dim=200, value_dim=148, mask_kind=MaskKind.CAUSAL, window=11, softmax=False)


def _variant(*, softmax: bool = True, **options: Any) -> AttentionProblem:  # noqa: ANN401
    return variant(softmax=softmax, return_lse=softmax, **options)

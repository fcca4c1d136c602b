"""What the two kernels of attention's backward pass share: tiles, legality, work and launches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from math import ceil

from ..chips.record import Chip
from ..dtypes import BFLOAT16, BOOL, FLOAT16, FLOAT32, FLOATS, DType
from ..plan import CONSTANT_BINDING_LIMIT, SIMD_WIDTH
from ..problem import AttentionProblem, MaskKind, attention_problem
from .cost import TileWork
from .counts import bytes_in_flight, copying_cycles

FRAGMENT = 8
ADDRESSING_REGISTERS = 24
"""Registers for pointers, counters and bounds, by reading comparable compiled kernels."""

ROW_REGISTERS = 4
"""Log-sum-exp, delta, scale and reference of the lane's row."""

STAGE_PADDING_BYTES = 16
"""Padding of a staged row: neighbouring rows then begin in different banks."""

SCORE_INSTRUCTIONS = 8
"""Instructions to scale, mask and weigh one score of a lane, its exp2 aside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A tile shape and how operands reach the fragments.

    Attributes:
        simdgroups: Simdgroups of a threadgroup, each with eight rows of its own side.
        block: Rows of the other side that are streamed in one step.
        staged: Streamed rows pass through threadgroup memory; else fragments load from device
            memory.
        cached: A simdgroup's own rows stay in registers; else they load where they are used.
    """

    simdgroups: int
    block: int
    staged: bool
    cached: bool

    def __str__(self) -> str:
        route = "staged" if self.staged else "direct"
        rows = "cached" if self.cached else "reloaded"
        return f"{self.simdgroups * FRAGMENT}x{self.block}-{route}-{rows}"


CONFIGS = tuple(
    Config(simdgroups=simdgroups, block=block, staged=staged, cached=cached)
    for staged in (True, False)
    for cached in (True, False)
    for simdgroups, block in ((4, 32), (2, 16))
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackwardSpec:
    """What the text of a kernel of the backward pass depends on; lengths and heads are run-time.

    Attributes:
        q: Element type of ``q``. Likewise ``k``, ``v``, ``grad`` and ``mask`` (None without one).
        k: See ``q``.
        v: See ``q``.
        grad: See ``q``; the gradient that arrives, of the result's type.
        mask: See ``q``.
        mask_kind: Which mask there is.
        head_dim: D, of ``q`` and ``k``.
        value_dim: Dv, of ``v`` and ``grad``.
        softmax: Whether rows are normalised between the two products.
        simdgroups: Simdgroups of a threadgroup.
        block: Streamed rows of one step.
        staged: Streamed rows pass through threadgroup memory.
        cached: A simdgroup's own rows stay in registers.
    """

    q: DType
    k: DType
    v: DType
    grad: DType
    mask: DType | None
    mask_kind: MaskKind
    head_dim: int
    value_dim: int
    softmax: bool
    simdgroups: int
    block: int
    staged: bool
    cached: bool

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
    def block_own(self) -> int:
        """Rows of its own side that a threadgroup has."""
        return self.simdgroups * FRAGMENT

    @property
    def head_fragments(self) -> int:
        """Fragments along D."""
        return ceil(self.head_dim / FRAGMENT)

    @property
    def value_fragments(self) -> int:
        """Fragments along Dv."""
        return ceil(self.value_dim / FRAGMENT)

    @property
    def step_registers(self) -> int:
        """Live registers of one thread beside its own rows and its sums."""
        tiles = 3 * self.block // FRAGMENT + 1
        return 2 * tiles + ROW_REGISTERS + ADDRESSING_REGISTERS

    def label_of(self, kernel: str) -> str:
        """Return a readable name that is a legal part of a Metal name."""
        dtypes = "_".join(str(dtype) for dtype in (self.q, self.k, self.v, self.grad))
        softmax = "softmax" if self.softmax else "literal"
        sizes = f"d{self.head_dim}_dv{self.value_dim}"
        return f"tilegemm_{kernel}_{softmax}_{self.mask_kind.value}_{dtypes}_{sizes}"


def tile_stride(fragments: int, dtype: DType) -> int:
    """Return the elements between two staged rows."""
    return fragments * FRAGMENT + STAGE_PADDING_BYTES // dtype.bytes


def backward_fields(problem: AttentionProblem, config: Config) -> dict[str, object]:
    """Return the fields of a `BackwardSpec` of a forward problem."""
    return {
        "q": problem.q,
        "k": problem.k,
        "v": problem.v,
        "grad": problem.out,
        "mask": problem.mask,
        "mask_kind": problem.mask_kind,
        "head_dim": problem.head_dim,
        "value_dim": problem.value_dim,
        "softmax": problem.softmax,
        "simdgroups": config.simdgroups,
        "block": config.block,
        "staged": config.staged,
        "cached": config.cached,
    }


def reject_backward(
    problem: AttentionProblem, config: Config, staged_elements: tuple[int, int]
) -> str | None:
    """Return why the configuration may not serve a gradient of the problem, or None.

    Args:
        problem: The attention that is differentiated.
        config: The configuration.
        staged_elements: Elements of the two operands that a staged configuration stages.
    """
    if 0 in problem.out_shape:
        return "the result is empty"
    if problem.kv_len == 0:
        return "there are no keys"
    if problem.window:
        return "a window is not taken"
    if problem.pe_dim:
        return "q_pe and k_pe are not taken"
    if min(config.simdgroups, config.block) < 1 or config.block % FRAGMENT:
        return f"block {config.block} is not a multiple of {FRAGMENT}"
    smallest = min(staged_elements)
    if config.staged and smallest < CONSTANT_BINDING_LIMIT:
        return (
            f"an operand has {smallest} elements: below {CONSTANT_BINDING_LIMIT}, MLX binds an "
            "input in the constant address space, from which nothing is staged"
        )
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """What a kernel does for each block of the rows that its simdgroups own.

    Attributes:
        blocks: Threadgroups for one head.
        heads: Heads with such rows, over the whole batch.
        streamed: Rows of the other side that a block meets, in the mean.
        products: Multiply-accumulates of fragments for each fragment of scores.
        own_bytes: Bytes of one row of its own side.
        streamed_bytes: Bytes of one streamed row, as staged: once.
        loaded_bytes: Bytes of one streamed row, as fragments: once for each product.
        moved_bytes: Bytes the launch has to move at least.
        registers: Live 32-bit registers of one thread.
        threadgroup_memory: Bytes of threadgroup memory of a threadgroup.
    """

    blocks: int
    heads: int
    streamed: float
    products: int
    own_bytes: int
    streamed_bytes: int
    loaded_bytes: int
    moved_bytes: int
    registers: int
    threadgroup_memory: int


def backward_work(side: Side, config: Config, chip: Chip) -> TileWork:
    """Return the work of one of the two kernels."""
    steps = ceil(side.streamed / config.block)
    fragments = config.simdgroups * steps * (config.block // FRAGMENT)
    unique = steps * config.block * side.streamed_bytes
    loaded = config.simdgroups * steps * config.block * side.loaded_bytes
    own = config.simdgroups * FRAGMENT * side.own_bytes * (1 if config.cached else steps)
    score_cycles = chip.exp2_cycles + SCORE_INSTRUCTIONS * chip.alu_cycles
    return TileWork(
        tiles=side.blocks * side.heads,
        simdgroups=config.simdgroups,
        chains=config.block // FRAGMENT,
        issue_cycles=fragments * side.products * chip.mma_cycles,
        alu_cycles=2 * fragments * score_cycles
        + steps
        * copying_cycles(
            config.staged, config.block * side.streamed_bytes, config.simdgroups, chip
        ),
        threadgroup_bytes=loaded + unique if config.staged else 0,
        fragment_bytes=own if config.staged else own + loaded,
        cache_bytes=unique,
        repeated_bytes=0 if config.staged else loaded - unique,
        dram_bytes=side.moved_bytes,
        waits=steps if config.staged else 2 * steps,
        registers=side.registers,
        threadgroup_memory=side.threadgroup_memory,
        shared_bytes=bytes_in_flight(
            side.streamed * side.streamed_bytes, side.heads, side.blocks, config.simdgroups, chip
        ),
        barriers=config.staged,
    )


def visible_share(problem: AttentionProblem) -> float:
    """Return the share of the scores that the kernels compute, in the mean."""
    if problem.mask_kind is not MaskKind.CAUSAL:
        return 1.0
    return max(0.0, 1.0 - 0.5 * min(1.0, problem.q_len / problem.kv_len))


def operand_bytes(problem: AttentionProblem) -> int:
    """Return the bytes of q, k, v and the gradient that arrives."""
    grad = problem.batch * problem.num_heads * problem.q_len * problem.value_dim
    return (
        problem.q_elements * problem.q.bytes
        + problem.k_elements * problem.k.bytes
        + problem.v_elements * problem.v.bytes
        + grad * problem.out.bytes
    )


def backward_sizes(problem: AttentionProblem, *, with_mask: bool) -> tuple[int, ...]:
    """Return the run-time sizes of both kernels."""
    heads_per_kv_head = problem.num_heads // problem.num_kv_heads
    sizes = (problem.q_len, problem.kv_len, problem.num_heads, heads_per_kv_head)
    if not with_mask:
        return sizes
    batch, heads, rows, columns = problem.mask_shape
    head_step = 1 if heads > 1 else 0
    batch_step = heads if batch > 1 else 0
    return (*sizes, batch_step, head_step, rows, columns)


def variant_attentions() -> Iterator[AttentionProblem]:
    """Yield small attentions whose gradients together reach every flag of the texts."""
    # Every pair of types of two operands: each type is about the loads of its own operand.
    for (i, q), (j, k) in product(enumerate(FLOATS), repeat=2):
        yield _variant(q=q, k=k, v=FLOATS[(i + j) % len(FLOATS)])
    for head_dim, value_dim in ((1, 1), (7, 9), (16, 24), (64, 64), (80, 80), (128, 128)):
        yield _variant(head_dim=head_dim, value_dim=value_dim)
    for out in FLOATS:
        yield _variant(out=out)
    masks = [(MaskKind.NONE, None), (MaskKind.CAUSAL, None), (MaskKind.BOOLEAN, BOOL)]
    masks += [(MaskKind.ADDITIVE, mask) for mask in FLOATS]
    for mask_kind, mask in masks:
        for softmax in (True, False):
            yield _variant(mask_kind=mask_kind, mask=mask, softmax=softmax)


def _variant(
    *,
    q: DType = FLOAT16,
    k: DType = BFLOAT16,
    v: DType = FLOAT32,
    head_dim: int = 24,
    value_dim: int = 17,
    out: DType | None = None,
    mask_kind: MaskKind = MaskKind.NONE,
    mask: DType | None = None,
    softmax: bool = True,
) -> AttentionProblem:
    forward = attention_problem(
        "variant",
        q_shape=(2, 4, 19, head_dim),
        k_shape=(2, 2, 37, head_dim),
        v_shape=(2, 2, 37, value_dim),
        q=q,
        k=k,
        v=v,
        softmax=softmax,
        mask_kind=mask_kind,
        mask_shape=(2, 1, 19, 37) if mask else None,
        mask=mask,
        out=out,
    )
    return replace(forward, return_lse=softmax)


LSE = FLOAT32
"""Type of the log-sum-exp, of its gradient and of delta."""

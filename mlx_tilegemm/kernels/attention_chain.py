"""Chained attention: candidates, legality, cost and plan. Pure functions of values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import ceil
from typing import Any

from ..chips.record import Chip
from ..dtypes import BFLOAT16, BOOL, FLOAT16, FLOAT32, FLOATS, DType
from ..plan import CONSTANT_BINDING_LIMIT, SIMD_WIDTH, Launch, Plan, Resources, Stage
from ..problem import AttentionProblem, MaskKind, Problem, attention_problem
from .cost import seconds
from .counts import AttentionTile, attention_work
from .limits import reject_plan, threads_per_core

NAME = "attention_chain"
PROBLEM = AttentionProblem
FRAGMENT = 8
PAIR_BYTES = 8
"""What a lane holds of a fragment: two float32."""

BASE_SIZES = 4
"""Run-time sizes that every text has: lengths, heads and heads that share keys."""

MASK_SIZES = 4
"""Further run-time sizes with an array mask."""

MAX_HEAD_DIM = 512
"""Of q, k and v; of the positional parts of q and k it is a quarter."""

OWN_FRAGMENTS = 36
"""Fragments of q and of the result that one simdgroup keeps in registers without head groups."""

ADDRESSING_REGISTERS = 24
"""Registers for pointers, counters and bounds, by reading comparable compiled kernels."""

ROW_REGISTERS = 4
"""Running maximum and sum, decay and reference of the lane's row."""

STAGE_PADDING_BYTES = 16
"""Padding of a staged row: neighbouring rows then begin in different banks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A tile shape and how k and v reach the fragments.

    Attributes:
        simdgroups: Simdgroups of a threadgroup.
        block_kv: Keys of one step.
        staged: k and v pass through threadgroup memory; else fragments load from device memory.
        head_groups: Simdgroups that own eight rows of q together, each a part of their columns.
    """

    simdgroups: int
    block_kv: int
    staged: bool
    head_groups: int = 1

    def __str__(self) -> str:
        route = "staged" if self.staged else "direct"
        groups = f"-heads{self.head_groups}" if self.head_groups > 1 else ""
        return f"{self.block_q}x{self.block_kv}-{route}{groups}"

    @property
    def block_q(self) -> int:
        """Rows of q that a threadgroup owns."""
        return self.simdgroups // self.head_groups * FRAGMENT


CONFIGS = tuple(
    Config(simdgroups=simdgroups, block_kv=block_kv, staged=staged)
    for staged in (True, False)
    for simdgroups, block_kv in ((4, 32), (4, 16), (2, 32), (1, 32))
)

GROUPED_CONFIGS = tuple(
    Config(simdgroups=rows * groups, block_kv=block_kv, staged=staged, head_groups=groups)
    for groups in (2, 4, 8)
    for staged, shapes in ((True, ((4, 16), (2, 16), (2, 8))), (False, ((4, 16), (2, 16), (1, 16))))
    for rows, block_kv in shapes
)
"""For heads that are too large for the registers of one simdgroup."""


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


def head_groups(problem: AttentionProblem) -> int:
    """Return how many simdgroups have room for eight rows of q and of the result."""
    columns = (problem.head_dim, problem.pe_dim, problem.value_dim)
    for groups in (1, 2, 4):
        if sum(part_fragments(size, groups) for size in columns) <= OWN_FRAGMENTS:
            return groups
    return 8


def candidates(problem: Problem, chip: Chip) -> Iterator[Config]:
    """Yield every configuration for heads of this size, preferred ones first."""
    assert isinstance(problem, AttentionProblem)
    groups = head_groups(problem)
    if groups == 1:
        yield from CONFIGS
    else:
        fitting = (groups, 2 * groups)
        yield from (config for config in GROUPED_CONFIGS if config.head_groups in fitting)


def reject(problem: Problem, config: Config, chip: Chip) -> str | None:
    """Return why the configuration may not serve the problem, or None."""
    assert isinstance(problem, AttentionProblem)
    reason = _reject_problem(problem) or _reject_tile(problem, config)
    if reason:
        return reason
    found = plan(problem, config)
    resources = found.stages[0].resources
    reason = reject_plan(found)
    if reason is None and not threads_per_core(resources, chip):
        return (
            f"no core holds {resources.threads} threads of about {resources.registers} registers "
            "at a time"
        )
    return reason


def _reject_problem(problem: AttentionProblem) -> str | None:
    if 0 in problem.out_shape:
        return "the result is empty"
    if problem.kv_len == 0:
        return "there are no keys"
    limits = {"head_dim": MAX_HEAD_DIM, "value_dim": MAX_HEAD_DIM, "pe_dim": MAX_HEAD_DIM // 4}
    for name, limit in limits.items():
        if getattr(problem, name) > limit:
            return f"{name} {getattr(problem, name)} is above {limit}"
    return None


def _reject_tile(problem: AttentionProblem, config: Config) -> str | None:
    if config.simdgroups < 1 or config.block_kv < 1 or config.block_kv % FRAGMENT:
        return f"block_kv {config.block_kv} is not a multiple of {FRAGMENT}"
    staged = [problem.k_elements, problem.v_elements]
    staged += [problem.k_pe_elements] if problem.pe_dim else []
    smallest = min(staged)
    if config.staged and smallest < CONSTANT_BINDING_LIMIT:
        return (
            f"k, v or k_pe has {smallest} elements: below {CONSTANT_BINDING_LIMIT}, MLX binds an "
            "input in the constant address space, from which nothing is staged"
        )
    return None


def cost(problem: Problem, config: Config, chip: Chip) -> float:
    """Return the modelled seconds of the configuration on the chip."""
    assert isinstance(problem, AttentionProblem)
    resources = plan(problem, config).stages[0].resources
    tile = AttentionTile(
        simdgroups=config.simdgroups,
        block_kv=config.block_kv,
        staged=config.staged,
        registers=resources.registers,
        threadgroup_memory=resources.threadgroup_bytes,
        head_groups=config.head_groups,
    )
    return seconds(attention_work(problem, tile, chip), chip)


def plan(problem: Problem, config: Config) -> Plan:
    """Return the plan of a configuration that `reject` accepts."""
    assert isinstance(problem, AttentionProblem)
    spec = Spec(
        q=problem.q,
        k=problem.k,
        v=problem.v,
        out=problem.out,
        mask=problem.mask,
        mask_kind=problem.mask_kind,
        head_dim=problem.head_dim,
        value_dim=problem.value_dim,
        softmax=problem.softmax,
        return_lse=problem.return_lse,
        simdgroups=config.simdgroups,
        block_kv=config.block_kv,
        staged=config.staged,
        head_groups=config.head_groups,
        windowed=problem.window is not None,
        sinks=problem.sinks,
        pe_dim=problem.pe_dim,
        q_pe=problem.q_pe,
        k_pe=problem.k_pe,
    )
    return Plan(
        kernel=NAME,
        config=str(config),
        stages=(Stage(spec=spec, launch=_launch(problem, spec), resources=spec.resources),),
        factors=("scale",),
    )


def _launch(problem: AttentionProblem, spec: Spec) -> Launch:
    blocks = ceil(problem.q_len / spec.block_q)
    lse = ((problem.lse_shape,), (FLOAT32,)) if problem.return_lse else ((), ())
    return Launch(
        grid=(blocks * spec.threads, problem.num_heads, problem.batch),
        threadgroup=(spec.threads, 1, 1),
        sizes=_sizes(problem),
        output_shapes=(problem.out_shape, *lse[0]),
        output_dtypes=(problem.out, *lse[1]),
    )


def _sizes(problem: AttentionProblem) -> tuple[int, ...]:
    heads_per_kv_head = problem.num_heads // problem.num_kv_heads
    sizes: tuple[int, ...] = (
        problem.q_len,
        problem.kv_len,
        problem.num_heads,
        heads_per_kv_head,
    )
    if problem.mask is not None:
        batch, heads, rows, columns = problem.mask_shape
        head_step = 1 if heads > 1 else 0
        batch_step = heads if batch > 1 else 0
        sizes += (batch_step, head_step, rows, columns)
    if problem.window is not None:
        sizes += (problem.window,)
    return (*sizes, problem.num_pe_heads) if problem.pe_dim else sizes


def variant_problems() -> Iterator[Problem]:
    """Yield small problems that together reach every flag of the text."""
    for q, k, v in product(FLOATS, repeat=3):
        yield _variant(q=q, k=k, v=v)
    for head_dim, value_dim in ((1, 1), (7, 9), (16, 24), (40, 64), (80, 80), (128, 128)):
        yield _variant(head_dim=head_dim, value_dim=value_dim)
    for out in FLOATS:
        yield _variant(out=out)
    masks = [(MaskKind.NONE, None), (MaskKind.CAUSAL, None), (MaskKind.BOOLEAN, BOOL)]
    masks += [(MaskKind.ADDITIVE, mask) for mask in FLOATS]
    for mask_kind, mask in masks:
        yield _variant(mask_kind=mask_kind, mask=mask, softmax=False)
        for return_lse in (False, True):
            yield _variant(mask_kind=mask_kind, mask=mask, return_lse=return_lse)
    window: dict[str, Any] = {"mask_kind": MaskKind.CAUSAL, "window": 9}
    boolean: dict[str, Any] = {"mask_kind": MaskKind.BOOLEAN, "mask": BOOL}
    yield _variant(**window, return_lse=True)
    yield _variant(sinks=BFLOAT16, return_lse=True)
    yield _variant(**boolean, pe_dim=12, num_pe_heads=1)
    yield _variant(**window, sinks=FLOAT32, pe_dim=8, num_pe_heads=2)
    # Heads that several simdgroups share: D, Dv and Dp.
    yield _variant(head_dim=192, value_dim=128, softmax=False, q=FLOAT32, v=BFLOAT16)
    yield _variant(head_dim=150, value_dim=190, **boolean, pe_dim=5, num_pe_heads=2)
    yield _variant(head_dim=256, value_dim=256, **window, sinks=FLOAT16, return_lse=True)
    latent: dict[str, Any] = {"k": FLOAT16, "v": FLOAT16, "num_pe_heads": 1}
    yield _variant(head_dim=512, value_dim=512, pe_dim=64, **latent)


def _variant(
    *,
    q: DType = FLOAT16,
    k: DType = BFLOAT16,
    v: DType = FLOAT32,
    head_dim: int = 24,
    value_dim: int = 17,
    pe_dim: int = 0,
    num_pe_heads: int = 0,
    mask: DType | None = None,
    softmax: bool = True,
    sinks: DType | None = None,
    **options: Any,  # noqa: ANN401 - of `attention_problem`
) -> AttentionProblem:
    return attention_problem(
        "variant",
        q_shape=(2, 4, 19, head_dim),
        k_shape=(2, 2, 37, head_dim),
        v_shape=(2, 2, 37, value_dim),
        q=q,
        k=k,
        v=v,
        softmax=softmax,
        mask_shape=(2, 1, 19, 37) if mask else None,
        mask=mask,
        sinks_shape=(4,) if sinks else None,
        sinks=sinks,
        q_pe_shape=(2, 4, 19, pe_dim) if pe_dim else None,
        q_pe=FLOAT32 if pe_dim else None,
        k_pe_shape=(2, num_pe_heads, 37, pe_dim) if pe_dim else None,
        k_pe=FLOAT16 if pe_dim else None,
        **{"mask_kind": MaskKind.NONE, **options},
    )

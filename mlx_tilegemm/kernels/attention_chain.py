"""Chained attention: candidates, legality, cost and plan. Pure functions of values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import ceil

from ..chips.record import Chip
from ..dtypes import BFLOAT16, BOOL, FLOAT16, FLOAT32, FLOATS, DType
from ..plan import CONSTANT_BINDING_LIMIT, SIMD_WIDTH, Launch, Plan, Resources, Stage
from ..problem import AttentionProblem, MaskKind, Problem, attention_problem
from .cost import seconds
from .counts import AttentionTile, attention_work
from .limits import reject_plan

NAME = "attention_chain"
PROBLEM = AttentionProblem
FRAGMENT = 8
MAX_HEAD_DIM = 128
"""Above it q, the result and the scores no longer fit a thread's registers together."""

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
        simdgroups: Simdgroups of a threadgroup, each with eight rows of q.
        block_kv: Keys of one step.
        staged: k and v pass through threadgroup memory; else fragments load from device memory.
    """

    simdgroups: int
    block_kv: int
    staged: bool

    def __str__(self) -> str:
        route = "staged" if self.staged else "direct"
        return f"{self.simdgroups * FRAGMENT}x{self.block_kv}-{route}"


CONFIGS = tuple(
    Config(simdgroups=simdgroups, block_kv=block_kv, staged=staged)
    for staged in (True, False)
    for simdgroups, block_kv in ((4, 32), (4, 16), (2, 32), (1, 32))
)


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

    @property
    def template(self) -> str:
        """Template of the kernel."""
        return f"{NAME}.metal.j2"

    @property
    def label(self) -> str:
        """Readable part of the kernel's name."""
        dtypes = "_".join(str(dtype) for dtype in (self.q, self.k, self.v, self.out))
        softmax = "softmax" if self.softmax else "literal"
        sizes = f"d{self.head_dim}_dv{self.value_dim}"
        return f"tilegemm_{NAME}_{softmax}_{self.mask_kind.value}_{dtypes}_{sizes}"

    @property
    def input_names(self) -> tuple[str, ...]:
        """Inputs in order."""
        mask = ("mask",) if self.mask else ()
        return ("q", "k", "v", *mask, "factors", "sizes")

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
    def block_q(self) -> int:
        """Rows of q that a threadgroup owns."""
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
    def k_tile_stride(self) -> int:
        """Elements between two staged rows of ``k``."""
        return self.head_fragments * FRAGMENT + STAGE_PADDING_BYTES // self.k.bytes

    @property
    def v_tile_stride(self) -> int:
        """Elements between two staged rows of ``v``."""
        return self.value_fragments * FRAGMENT + STAGE_PADDING_BYTES // self.v.bytes

    @property
    def k_tile_elements(self) -> int:
        """Elements of the staged tile of ``k``."""
        return self.block_kv * self.k_tile_stride

    @property
    def v_tile_elements(self) -> int:
        """Elements of the staged tile of ``v``."""
        return self.block_kv * self.v_tile_stride

    @property
    def resources(self) -> Resources:
        """Threads, threadgroup memory and live registers."""
        staged = self.k_tile_elements * self.k.bytes + self.v_tile_elements * self.v.bytes
        scores = self.block_kv // FRAGMENT
        fragments = self.head_fragments + self.value_fragments + 2 * scores
        return Resources(
            threads=self.threads,
            threadgroup_bytes=staged if self.staged else 0,
            registers=2 * fragments + ROW_REGISTERS + ADDRESSING_REGISTERS,
        )


def candidates(problem: Problem, chip: Chip) -> Iterator[Config]:
    """Yield every configuration, preferred ones first."""
    yield from CONFIGS


def reject(problem: Problem, config: Config, chip: Chip) -> str | None:
    """Return why the configuration may not serve the problem, or None."""
    assert isinstance(problem, AttentionProblem)
    reason = _reject_problem(problem) or _reject_tile(problem, config)
    if reason:
        return reason
    return reject_plan(plan(problem, config))


def _reject_problem(problem: AttentionProblem) -> str | None:
    if 0 in problem.out_shape:
        return "the result is empty"
    if problem.kv_len == 0:
        return "there are no keys"
    for name, given in (("window", problem.window), ("sinks", problem.sinks)):
        if given:
            return f"{name} is not taken"
    if problem.pe_dim:
        return "q_pe and k_pe are not taken"
    for name, size in (("head_dim", problem.head_dim), ("value_dim", problem.value_dim)):
        if size > MAX_HEAD_DIM:
            return f"{name} {size} is above {MAX_HEAD_DIM}"
    return None


def _reject_tile(problem: AttentionProblem, config: Config) -> str | None:
    if config.simdgroups < 1 or config.block_kv < 1 or config.block_kv % FRAGMENT:
        return f"block_kv {config.block_kv} is not a multiple of {FRAGMENT}"
    smallest = min(problem.k_elements, problem.v_elements)
    if config.staged and smallest < CONSTANT_BINDING_LIMIT:
        return (
            f"k or v has {smallest} elements: below {CONSTANT_BINDING_LIMIT}, MLX binds an input "
            "in the constant address space, from which nothing is staged"
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
    sizes = (problem.q_len, problem.kv_len, problem.num_heads, heads_per_kv_head)
    if problem.mask is None:
        return sizes
    batch, heads, rows, columns = problem.mask_shape
    head_step = 1 if heads > 1 else 0
    batch_step = heads if batch > 1 else 0
    return (*sizes, batch_step, head_step, rows, columns)


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
    return_lse: bool = False,
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
        mask_kind=mask_kind,
        mask_shape=(2, 1, 19, 37) if mask else None,
        mask=mask,
        return_lse=return_lse,
        out=out,
    )

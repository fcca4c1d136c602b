"""GEMM on simdgroup matrices: candidates, legality, cost and plan. Pure functions of values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

from ....core.caches import kept, latest
from ....core.dtypes import BFLOAT16, FLOAT32, FLOATS, DType
from ....core.kernel import Kernel
from ....core.plan import Plan, Resources, Stage
from ....machine.chips.record import Chip
from ....machine.cost import TileWork, seconds
from ....machine.fragment import ALIGNED_ROWS, FRAGMENT
from ....machine.limits import reject_grid, reject_resources
from ....machine.products import GemmTile, Product, gemm_work
from ....machine.splits import SharedSpec
from ....machine.tiles import BlockTile, StagedTiles, TiledSpec, is_unrolled, staged_tiles
from ..problem import GemmProblem
from ..spec import (
    GemmSpec,
    GemmText,
    gemm_factors,
    gemm_grid,
    gemm_launch,
    gemm_text,
    invariant_by_scalar,
    reject_gemm,
    tiny_gemm_operand,
)
from ..spec import variant_problems as gemm_variant_problems

NAME = "gemm_simdgroup"

RUN_BYTES = 16
"""Bytes that are staged as one vector."""

STAGED_REGISTERS = 22
"""Registers beside the fragments of a staged kernel, for pointers, counters and bounds. As Mesa's
compiler for M1 has it, like the next."""

DIRECT_REGISTERS = 15
"""The same of a direct kernel."""

RAGGED_REGISTERS = 7
"""Further ones of a staged kernel where n or k is no multiple of the block."""

STAGED_WIDE_REGISTERS = 3
"""Further ones of a staged kernel where an operand is float32."""

DIRECT_WIDE_REGISTERS = 2
"""The same of a direct kernel."""

WIDENED_REGISTERS = 7
"""Further ones of a staged kernel of high blocks where both operands are bfloat16 and only rows
have guards."""

BROKEN_RUN_REGISTERS = 3
"""Further ones of a staged kernel for rows that end within a run."""

STAGED_TRANSPOSED_REGISTERS = 3
"""Further ones of a staged kernel whose ``a`` is stored by columns, m apart."""

DIRECT_TRANSPOSED_REGISTERS = 11
"""The same of a direct kernel."""

NEIGHBOURS_REGISTERS = 4
"""Further ones of a direct kernel of halves whose ``b`` is stored ``[n, k]``: a lane's two elements
of a fragment lie k apart."""

WIDENED_TAIL_REGISTERS = 8
"""Further ones then where an operand is bfloat16 and k has a last, shorter step after others."""

UNROLLED_REGISTERS = 3
"""Further ones where the loop is unrolled: loads of one step are moved before the products of
another."""

UNROLLED_LARGE_REGISTERS = 5
"""Further ones then of a staged kernel of `LARGE` fragments of a simdgroup."""

UNROLLED_WIDE_REGISTERS = 4
"""Further ones then where its ``a`` is float32, of which a run has half the elements."""

LARGE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(BlockTile):
    """A tile shape and how operands reach the fragments.

    Attributes:
        block_m: Rows of the result that a threadgroup computes.
        block_n: Columns of the result that a threadgroup computes.
        block_k: Depth of one step.
        simdgroups_m: Simdgroups along the rows.
        simdgroups_n: Simdgroups along the columns.
        staged: Operands pass through threadgroup memory; else fragments load from device memory.
        swizzle_log: Log2 of the block rows that are walked together.
        double_buffered: The next step is staged while the current one is multiplied.
    """

    block_m: int
    block_n: int
    block_k: int
    simdgroups_m: int
    simdgroups_n: int
    staged: bool
    swizzle_log: int = 0
    double_buffered: bool = False

    def __str__(self) -> str:
        block = f"{self.block_m}x{self.block_n}x{self.block_k}"
        route = "staged" if self.staged else "direct"
        swizzle = f"-swizzle{1 << self.swizzle_log}" if self.swizzle_log else ""
        double = "-double" if self.double_buffered else ""
        return f"{block}-{self.simdgroups_m}x{self.simdgroups_n}-{route}{double}{swizzle}"

    @property
    def buffers(self) -> int:
        """Copies of each staged tile."""
        return 2 if self.double_buffered else 1


SWIZZLE_LOG = 2
"""Four block rows are walked together where a result is wide, as MLX does for its large tiles."""

TILES = (
    (64, 64, 16, 2, 2),
    (64, 32, 32, 2, 2),
    (32, 64, 16, 1, 2),
    (32, 32, 16, 2, 2),
    (16, 64, 32, 1, 4),
)
"""block_m, block_n, block_k, simdgroups_m, simdgroups_n; the last is for few rows."""


class Operands(NamedTuple):
    """Types, layouts and ends of both operands, as far as a text's resources depend on them.

    Attributes:
        a: Element type of ``a``. Likewise ``b``.
        b: See ``a``.
        transpose_a: ``a`` is stored ``[k, m]``.
        transpose_b: ``b`` is stored ``[n, k]``.
        ragged: n or k is no multiple of the block.
        broken: A stored row may end within a run of elements that moves as one vector.
        tail: k is no multiple of the block.
        unrolled: k is so short that its steps are no loop to compilers.
        looped: k has several whole steps.
    """

    a: DType
    b: DType
    transpose_a: bool
    transpose_b: bool
    ragged: bool
    broken: bool
    tail: bool
    unrolled: bool
    looped: bool


@kept
def resources(config: Config, operands: Operands) -> Resources:
    """Return threads, threadgroup memory and live registers."""
    return Resources(
        threads=config.threads,
        threadgroup_bytes=config.buffers * _tiles(config, operands).nbytes if config.staged else 0,
        registers=registers(config, operands),
    )


def _tiles(config: Config, of: Operands | GemmText) -> StagedTiles:
    layout = {"transpose_a": of.transpose_a, "transpose_b": of.transpose_b}
    return staged_tiles(config.block, of.a, of.b, **layout)


def registers(config: Config, operands: Operands) -> int:
    """Return the estimated live registers of a thread: fragments, and what their addresses take."""
    rows, columns = config.fragments_m, config.fragments_n
    further = _staged(config, operands) if config.staged else _direct(operands)
    return 2 * (rows * columns + rows + columns) + further


def _staged(config: Config, operands: Operands) -> int:
    """Return the registers beside the fragments where operands are staged."""
    wide = FLOAT32 in (operands.a, operands.b)
    registers = STAGED_REGISTERS + STAGED_WIDE_REGISTERS * wide
    registers += RAGGED_REGISTERS * operands.ragged + BROKEN_RUN_REGISTERS * operands.broken
    registers += STAGED_TRANSPOSED_REGISTERS * operands.transpose_a
    return registers + _steps(config, operands)


def _steps(config: Config, operands: Operands) -> int:
    """Return the registers that the steps of a staged kernel take, as a loop or unrolled."""
    # The loop of a double-buffered kernel stays one where its last step is like the others.
    unrolled = operands.unrolled and (operands.tail or not config.double_buffered)
    large = config.fragments_m * config.fragments_n >= LARGE
    if unrolled and large:
        wide = operands.a is FLOAT32 and not config.double_buffered
        return UNROLLED_REGISTERS + UNROLLED_LARGE_REGISTERS + UNROLLED_WIDE_REGISTERS * wide
    widened = operands.a is operands.b is BFLOAT16 and config.block_m >= ALIGNED_ROWS
    plain = not operands.ragged and not config.double_buffered
    return UNROLLED_REGISTERS * unrolled + WIDENED_REGISTERS * (widened and plain)


def _direct(operands: Operands) -> int:
    """Return the registers beside the fragments where these load from device memory."""
    wide = FLOAT32 in (operands.a, operands.b)
    registers = DIRECT_REGISTERS + DIRECT_WIDE_REGISTERS * wide
    registers += UNROLLED_REGISTERS * operands.unrolled
    registers += DIRECT_TRANSPOSED_REGISTERS * operands.transpose_a
    if wide or not operands.transpose_b:
        return registers
    widened = BFLOAT16 in (operands.a, operands.b) and operands.tail and operands.looped
    return registers + NEIGHBOURS_REGISTERS + WIDENED_TAIL_REGISTERS * widened


def _operands(p: GemmProblem | Product, config: Config) -> Operands:
    _, block_n, block_k = config.block
    b_columns = p.k if p.transpose_b else p.n
    # m is run-time: a row of it may always end within a run.
    broken = p.transpose_a or p.k * p.a.bytes % RUN_BYTES or b_columns * p.b.bytes % RUN_BYTES
    tail = bool(p.k % block_k)
    return Operands(
        a=p.a,
        b=p.b,
        transpose_a=p.transpose_a,
        transpose_b=p.transpose_b,
        ragged=tail or bool(p.n % block_n),
        broken=bool(broken),
        tail=tail,
        unrolled=is_unrolled(p.k, block_k),
        looped=p.k // block_k > 1,
    )


def _resources(p: GemmProblem | Product, config: Config) -> Resources:
    return resources(config, _operands(p, config))


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec(TiledSpec, SharedSpec, GemmSpec):
    """Everything that the text of one simdgroup GEMM depends on.

    Attributes:
        config: The configuration.
        align_m: m is a multiple of a block of `ALIGNED_ROWS` or more, so rows need no guard.
        align_n: n is a multiple of ``block_n``, so columns need no guard.
        align_k: k is a multiple of ``block_k``, so there is no last, shorter step.
        split_k: Depth that one threadgroup sums; the rest of k is other threadgroups'. 0 for all.
    """

    KERNEL: ClassVar[str] = NAME

    config: Config
    align_m: bool
    align_n: bool
    align_k: bool
    split_k: int = 0

    @property
    def tiles(self) -> StagedTiles:
        """The tiles of both operands as they are staged."""
        return _tiles(self.config, self.text)


def _config(
    tile: tuple[int, int, int, int, int],
    *,
    staged: bool,
    double_buffered: bool = False,
    swizzle_log: int = 0,
) -> Config:
    block_m, block_n, block_k, simdgroups_m, simdgroups_n = tile
    return Config(
        block_m=block_m,
        block_n=block_n,
        block_k=block_k,
        simdgroups_m=simdgroups_m,
        simdgroups_n=simdgroups_n,
        staged=staged,
        swizzle_log=swizzle_log,
        double_buffered=double_buffered,
    )


CONFIGS = (
    _config(TILES[0], staged=True),
    _config(TILES[0], staged=True, swizzle_log=SWIZZLE_LOG),
    *(_config(tile, staged=True) for tile in TILES[1:]),
    *(_config(tile, staged=False) for tile in TILES),
    _config(TILES[0], staged=True, double_buffered=True),
)


def candidates(problem: GemmProblem, chip: Chip) -> Iterator[Config]:
    """Yield every configuration, preferred ones first."""
    yield from CONFIGS


def reject(problem: GemmProblem, config: Config, chip: Chip) -> str | None:
    """Return why the configuration may not serve the problem, or None."""
    if problem.is_integer:
        return f"simdgroup matrices hold floats, not {problem.a} and {problem.b}"
    if problem.batch_invariant and invariant_by_scalar(problem):
        return "batch_invariant: one row would be too small for it, so none is its"
    reason = reject_gemm(problem) or tiny_gemm_operand(problem) or _reject_tile(config)
    if reason:
        return reason
    grid = gemm_grid(problem, config.block, threads=config.threads, swizzle_log=config.swizzle_log)
    return reject_resources(_resources(problem, config)) or reject_grid(grid)


def _reject_tile(config: Config) -> str | None:
    if config.double_buffered and not config.staged:
        return "only staged tiles are double-buffered"
    for name, size, simdgroups in (
        ("block_m", config.block_m, config.simdgroups_m),
        ("block_n", config.block_n, config.simdgroups_n),
    ):
        if simdgroups < 1 or size < 1 or size % (FRAGMENT * simdgroups):
            return (
                f"{name} {size} is not a multiple of {FRAGMENT} for each of {simdgroups} simdgroups"
            )
    if config.block_k < 1 or config.block_k % FRAGMENT:
        return f"block_k {config.block_k} is not a multiple of {FRAGMENT}"
    return None


def cost(problem: GemmProblem, config: Config, chip: Chip) -> float:
    """Return the modelled seconds of the configuration on the chip."""
    return seconds(work(problem.product, config, chip), chip)


def work(product: Product, config: Config, chip: Chip) -> TileWork:
    """Return the work of the configuration, as the model counts it."""
    p = product
    return gemm_work(product, _tile(config, _operands(p, config)), chip)


@kept
def _tile(config: Config, operands: Operands) -> GemmTile:
    needs = resources(config, operands)
    return replace(
        config.modelled(needs),
        staged=config.staged,
        panel=1 << config.swizzle_log,
        prefetched=config.double_buffered,
    )


@latest
def plan(problem: GemmProblem, config: Config) -> Plan:
    """Return the plan of a configuration that `reject` accepts."""
    block_m, block_n, block_k = config.block
    spec = Spec(
        text=gemm_text(problem),
        config=config,
        align_m=block_m >= ALIGNED_ROWS and problem.m % block_m == 0,
        align_n=problem.n % block_n == 0,
        align_k=problem.k % block_k == 0,
    )
    launch = gemm_launch(problem, spec, threads=config.threads, swizzle_log=config.swizzle_log)
    return Plan(
        kernel=NAME,
        config=config,
        stages=(Stage(spec=spec, launch=launch, resources=_resources(problem, config)),),
        factors=gemm_factors(problem),
    )


def variant_problems() -> Iterator[GemmProblem]:
    """Yield small problems that together reach every flag of the text."""
    yield from gemm_variant_problems((a, b) for a in FLOATS for b in FLOATS)


KERNEL = Kernel(
    name=NAME,
    problem_type=GemmProblem,
    candidates=candidates,
    reject=reject,
    cost=cost,
    plan=plan,
    variant_problems=variant_problems,
)

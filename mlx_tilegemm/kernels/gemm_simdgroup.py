"""GEMM on simdgroup matrices: candidates, legality, cost and plan. Pure functions of values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from ..chips.record import Chip
from ..dtypes import FLOATS
from ..plan import SIMD_WIDTH, Plan, Resources, Stage, features
from ..problem import GemmProblem, Problem
from .cost import TileWork, seconds
from .counts import GemmTile, gemm_work
from .fragment import ADDRESSING_REGISTERS, FRAGMENT, staged_stride
from .gemm import (
    GemmSpec,
    gemm_factors,
    gemm_fields,
    gemm_launch,
    invariant_by_scalar,
    reject_gemm,
    tiny_gemm_operand,
)
from .gemm import (
    variant_problems as gemm_variant_problems,
)
from .limits import reject_plan

NAME = "gemm_simdgroup"
PROBLEM = GemmProblem
ALIGNED_ROWS = 64
"""Blocks of fewer rows guard them always: m is run-time, and a text without guards for every block
height would cost prompts of varying length a kernel each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec(GemmSpec):
    """What the text of one simdgroup GEMM depends on.

    Attributes:
        config: The kernel's configuration.
        align_m: m is a multiple of a block of `ALIGNED_ROWS` or more, so rows need no guard.
        align_n: n is a multiple of ``block_n``, so columns need no guard.
        split_k: Depth that one threadgroup sums; the rest of k is other threadgroups'. 0 for all.
    """

    KERNEL: ClassVar[str] = NAME
    OUTPUTS = ("out", "partials")

    config: Config
    align_m: bool
    align_n: bool
    split_k: int = 0

    @property
    def lacks(self) -> frozenset[str]:
        """Inputs and outputs that this variant is not given."""
        split = features({("out",): self.split_k > 0, ("partials",): self.split_k == 0})
        # Not plain super(): that does not survive the class a slotted dataclass makes.
        return super(Spec, self).lacks | split

    @property
    def result(self) -> str:
        """Name of the output that is written."""
        return self.output_names[0]

    @property
    def block(self) -> tuple[int, int, int]:
        """Rows and columns of the result that a threadgroup computes, and the depth of a step."""
        return (self.config.block_m, self.config.block_n, self.config.block_k)

    @property
    def buffers(self) -> int:
        """Copies of each staged tile."""
        return 2 if self.config.double_buffered else 1

    @property
    def threads(self) -> int:
        """Threads of one threadgroup."""
        return self.config.simdgroups_m * self.config.simdgroups_n * SIMD_WIDTH

    @property
    def fragments_m(self) -> int:
        """Fragments of the result that a simdgroup holds along the rows."""
        return self.config.block_m // (FRAGMENT * self.config.simdgroups_m)

    @property
    def fragments_n(self) -> int:
        """Fragments of the result that a simdgroup holds along the columns."""
        return self.config.block_n // (FRAGMENT * self.config.simdgroups_n)

    @property
    def a_tile_stride(self) -> int:
        """Elements between two rows of the staged tile of ``a``, as stored."""
        return staged_stride(
            self.config.block_m if self.transpose_a else self.config.block_k, self.a
        )

    @property
    def b_tile_stride(self) -> int:
        """Elements between two rows of the staged tile of ``b``, as stored."""
        return staged_stride(
            self.config.block_k if self.transpose_b else self.config.block_n, self.b
        )

    @property
    def a_tile_elements(self) -> int:
        """Elements of the staged tile of ``a``."""
        return (
            self.config.block_k if self.transpose_a else self.config.block_m
        ) * self.a_tile_stride

    @property
    def b_tile_elements(self) -> int:
        """Elements of the staged tile of ``b``."""
        return (
            self.config.block_n if self.transpose_b else self.config.block_k
        ) * self.b_tile_stride

    @property
    def resources(self) -> Resources:
        """Threads, threadgroup memory and live registers."""
        staged = self.a_tile_elements * self.a.bytes + self.b_tile_elements * self.b.bytes
        fragments = self.fragments_m * self.fragments_n + self.fragments_m + self.fragments_n
        return Resources(
            threads=self.threads,
            threadgroup_bytes=self.buffers * staged if self.config.staged else 0,
            registers=2 * fragments + ADDRESSING_REGISTERS,
        )


def candidates(problem: Problem, chip: Chip) -> Iterator[Config]:
    """Yield every configuration, preferred ones first."""
    yield _config(TILES[0], staged=True)
    yield _config(TILES[0], staged=True, swizzle_log=SWIZZLE_LOG)
    for tile in TILES[1:]:
        yield _config(tile, staged=True)
    for tile in TILES:
        yield _config(tile, staged=False)
    yield _config(TILES[0], staged=True, double_buffered=True)


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


def reject(problem: Problem, config: Config, chip: Chip) -> str | None:
    """Return why the configuration may not serve the problem, or None."""
    assert isinstance(problem, GemmProblem)
    if problem.is_integer:
        return f"simdgroup matrices hold floats, not {problem.a} and {problem.b}"
    if problem.batch_invariant and invariant_by_scalar(problem):
        return "batch_invariant: one row would be too small for it, so none is its"
    reason = reject_gemm(problem) or tiny_gemm_operand(problem) or _reject_tile(config)
    if reason:
        return reason
    return reject_plan(plan(problem, config))


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


def cost(problem: Problem, config: Config, chip: Chip) -> float:
    """Return the modelled seconds of the configuration on the chip."""
    assert isinstance(problem, GemmProblem)
    return seconds(work(problem, config, chip), chip)


def work(problem: GemmProblem, config: Config, chip: Chip) -> TileWork:
    """Return the work of the configuration, as the model counts it."""
    resources = plan(problem, config).stages[0].resources
    tile = GemmTile(
        block_m=config.block_m,
        block_n=config.block_n,
        block_k=config.block_k,
        simdgroups_m=config.simdgroups_m,
        simdgroups_n=config.simdgroups_n,
        staged=config.staged,
        panel=1 << config.swizzle_log,
        registers=resources.registers,
        threadgroup_memory=resources.threadgroup_bytes,
        prefetched=config.double_buffered,
    )
    return gemm_work(problem, tile, chip)


def plan(problem: Problem, config: Config) -> Plan:
    """Return the plan of a configuration that `reject` accepts."""
    assert isinstance(problem, GemmProblem)
    spec = Spec(
        **gemm_fields(problem),
        config=config,
        align_m=config.block_m >= ALIGNED_ROWS and problem.m % config.block_m == 0,
        align_n=problem.n % config.block_n == 0,
    )
    launch = gemm_launch(problem, spec, threads=spec.threads, swizzle_log=config.swizzle_log)
    return Plan(
        kernel=NAME,
        config=str(config),
        stages=(Stage(spec=spec, launch=launch, resources=spec.resources),),
        factors=gemm_factors(problem),
    )


def variant_problems() -> Iterator[Problem]:
    """Yield small problems that together reach every flag of the text."""
    yield from gemm_variant_problems((a, b) for a in FLOATS for b in FLOATS)

"""GEMM without simdgroup matrices: candidates, legality, cost and plan.

Takes every pair of dtypes, integers included, and operands of any size. It is also the check on
the simdgroup kernel, with which it shares no arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import ClassVar

from ....core.caches import kept, latest
from ....core.dtypes import FLOAT32, FLOATS, INT32, INTEGERS, UINT32, DType, Kind
from ....core.kernel import Kernel
from ....core.plan import SIMD_WIDTH, Plan, Resources, Stage
from ....machine.chips.record import Chip
from ....machine.cost import TileWork, seconds
from ....machine.fragment import ADDRESSING_REGISTERS
from ....machine.limits import reject_grid, reject_resources
from ....machine.products import dram_bytes
from ..problem import GemmProblem
from ..spec import (
    GemmSpec,
    gemm_factors,
    gemm_grid,
    gemm_launch,
    gemm_text,
    invariant_by_scalar,
    reject_gemm,
)
from ..spec import variant_problems as gemm_variant_problems

NAME = "gemm_scalar"
ACCUMULATOR_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A tile shape.

    Attributes:
        block_m: Rows of the result that a threadgroup computes.
        block_n: Columns of the result that a threadgroup computes.
        block_k: Depth of one step.
        thread_m: Rows of the result that a thread computes.
        thread_n: Columns of the result that a thread computes.
    """

    block_m: int
    block_n: int
    block_k: int
    thread_m: int
    thread_n: int

    def __str__(self) -> str:
        return (
            f"{self.block_m}x{self.block_n}x{self.block_k}-{self.thread_m}x{self.thread_n}-thread"
        )

    @property
    def block(self) -> tuple[int, int, int]:
        """Rows and columns of the result that a threadgroup computes, and the depth of a step."""
        return (self.block_m, self.block_n, self.block_k)

    @property
    def threads(self) -> int:
        """Threads of one threadgroup."""
        return (self.block_m // self.thread_m) * (self.block_n // self.thread_n)

    @property
    def a_tile_elements(self) -> int:
        """Elements of the staged tile of ``a``, one of padding a row."""
        return self.block_m * (self.block_k + 1)

    @property
    def b_tile_elements(self) -> int:
        """Elements of the staged tile of ``b``, one of padding a row."""
        return self.block_k * (self.block_n + 1)

    @property
    def resources(self) -> Resources:
        """Threads, threadgroup memory and live registers."""
        return _resources(self)


@kept
def _resources(config: Config) -> Resources:
    live = config.thread_m * config.thread_n + config.thread_m + 1
    return Resources(
        threads=config.threads,
        threadgroup_bytes=ACCUMULATOR_BYTES * (config.a_tile_elements + config.b_tile_elements),
        registers=live + ADDRESSING_REGISTERS,
    )


CONFIGS = (
    Config(block_m=64, block_n=64, block_k=16, thread_m=4, thread_n=4),
    Config(block_m=32, block_n=32, block_k=16, thread_m=4, thread_n=4),
    Config(block_m=8, block_n=32, block_k=32, thread_m=2, thread_n=2),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec(GemmSpec):
    """Everything that the text of one scalar GEMM depends on.

    Attributes:
        config: The configuration.
    """

    KERNEL: ClassVar[str] = NAME

    config: Config

    @property
    def block(self) -> tuple[int, int, int]:
        """Rows and columns of the result that a threadgroup computes, and the depth of a step."""
        return self.config.block

    @property
    def threads(self) -> int:
        """Threads of one threadgroup."""
        return self.config.threads

    @property
    def operand(self) -> DType:
        """Type to which an element of an operand is widened before anything else."""
        return FLOAT32 if self.text.a.kind is Kind.FLOAT else INT32

    @property
    def accumulator(self) -> DType:
        """Type of products and sums; unsigned, because int32 overflow has to wrap."""
        return FLOAT32 if self.text.a.kind is Kind.FLOAT else UINT32


def candidates(problem: GemmProblem, chip: Chip) -> Iterator[Config]:
    """Yield every configuration, preferred ones first."""
    yield from CONFIGS


def reject(problem: GemmProblem, config: Config, chip: Chip) -> str | None:
    """Return why the configuration may not serve the problem, or None."""
    if problem.batch_invariant and not invariant_by_scalar(problem):
        return "batch_invariant: the simdgroup kernel serves every number of rows"
    reason = reject_gemm(problem) or _reject_tile(config)
    if reason:
        return reason
    grid = gemm_grid(problem, config.block, threads=config.threads)
    return reject_resources(config.resources) or reject_grid(grid)


def _reject_tile(config: Config) -> str | None:
    if min(config.block_m, config.block_n, config.block_k, config.thread_m, config.thread_n) < 1:
        return "a tile size is below 1"
    if config.block_m % config.thread_m or config.block_n % config.thread_n:
        return "the block is not a multiple of a thread's tile"
    if config.threads % SIMD_WIDTH:
        return f"{config.threads} threads are not whole simdgroups"
    return None


def cost(problem: GemmProblem, config: Config, chip: Chip) -> float:
    """Return the modelled seconds of the configuration on the chip."""
    steps = ceil(problem.k / config.block_k)
    depth = steps * config.block_k
    threads = config.threads
    simdgroups = threads // SIMD_WIDTH
    multiplies = simdgroups * depth * config.thread_m * config.thread_n
    staged = depth * (config.block_m + config.block_n)
    read = threads * depth * (config.thread_m + config.thread_n) * ACCUMULATOR_BYTES
    tiles = ceil(problem.m / config.block_m) * ceil(problem.n / config.block_n)
    resources = config.resources
    work = TileWork(
        tiles=tiles * problem.batch_size,
        simdgroups=simdgroups,
        chains=config.thread_m * config.thread_n,
        issue_cycles=multiplies * chip.alu_cycles,
        # Staging costs about four instructions an element: index, load, convert, store.
        alu_cycles=4 * staged / SIMD_WIDTH * chip.alu_cycles,
        threadgroup_bytes=read + staged * ACCUMULATOR_BYTES,
        cache_bytes=depth * (config.block_m * problem.a.bytes + config.block_n * problem.b.bytes),
        dram_bytes=dram_bytes(problem.product),
        waits=steps,
        registers=resources.registers,
        threadgroup_memory=resources.threadgroup_bytes,
    )
    return seconds(work, chip)


@latest
def plan(problem: GemmProblem, config: Config) -> Plan:
    """Return the plan of a configuration that `reject` accepts."""
    spec = Spec(text=gemm_text(problem), config=config)
    launch = gemm_launch(problem, spec, threads=spec.threads)
    return Plan(
        kernel=NAME,
        config=config,
        stages=(Stage(spec=spec, launch=launch, resources=config.resources),),
        factors=gemm_factors(problem),
    )


def variant_problems() -> Iterator[GemmProblem]:
    """Yield small problems that together reach every flag of the text."""
    yield from gemm_variant_problems((a, b) for a in FLOATS for b in FLOATS)
    yield from gemm_variant_problems((a, b) for a in INTEGERS for b in INTEGERS)


KERNEL = Kernel(
    name=NAME,
    problem_type=GemmProblem,
    candidates=candidates,
    reject=reject,
    cost=cost,
    plan=plan,
    variant_problems=variant_problems,
)

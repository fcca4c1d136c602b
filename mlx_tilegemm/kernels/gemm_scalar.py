"""GEMM without simdgroup matrices: candidates, legality, cost and plan.

Takes every pair of dtypes, integers included, and operands of any size. It is also the check on
the simdgroup kernel, with which it shares no arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import ClassVar

from ..chips.record import Chip
from ..dtypes import FLOAT32, FLOATS, INT32, INTEGERS, UINT32, DType
from ..plan import SIMD_WIDTH, Plan, Resources, Stage
from ..problem import GemmProblem, Problem
from .cost import TileWork, seconds
from .fragment import ADDRESSING_REGISTERS
from .gemm import (
    GemmSpec,
    dram_bytes,
    gemm_factors,
    gemm_fields,
    gemm_launch,
    invariant_by_scalar,
    reject_gemm,
)
from .gemm import (
    variant_problems as gemm_variant_problems,
)
from .limits import reject_plan

NAME = "gemm_scalar"
PROBLEM = GemmProblem
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


CONFIGS = (
    Config(block_m=64, block_n=64, block_k=16, thread_m=4, thread_n=4),
    Config(block_m=32, block_n=32, block_k=16, thread_m=4, thread_n=4),
    Config(block_m=8, block_n=32, block_k=32, thread_m=2, thread_n=2),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec(GemmSpec):
    """What the text of one scalar GEMM depends on.

    Attributes:
        config: The kernel's configuration.
        integer: The product is computed in int32.
    """

    KERNEL: ClassVar[str] = NAME

    config: Config
    integer: bool

    @property
    def block(self) -> tuple[int, int, int]:
        """Rows and columns of the result that a threadgroup computes, and the depth of a step."""
        return (self.config.block_m, self.config.block_n, self.config.block_k)

    @property
    def threads(self) -> int:
        """Threads of one threadgroup."""
        return (self.config.block_m // self.config.thread_m) * (
            self.config.block_n // self.config.thread_n
        )

    @property
    def operand(self) -> DType:
        """Type to which an element of an operand is widened before anything else."""
        return INT32 if self.integer else FLOAT32

    @property
    def accumulator(self) -> DType:
        """Type of products and sums; unsigned, because int32 overflow has to wrap."""
        return UINT32 if self.integer else FLOAT32

    @property
    def a_tile_elements(self) -> int:
        """Elements of the staged tile of ``a``, one of padding a row."""
        return self.config.block_m * (self.config.block_k + 1)

    @property
    def b_tile_elements(self) -> int:
        """Elements of the staged tile of ``b``, one of padding a row."""
        return self.config.block_k * (self.config.block_n + 1)

    @property
    def resources(self) -> Resources:
        """Threads, threadgroup memory and live registers."""
        live = self.config.thread_m * self.config.thread_n + self.config.thread_m + 1
        return Resources(
            threads=self.threads,
            threadgroup_bytes=ACCUMULATOR_BYTES * (self.a_tile_elements + self.b_tile_elements),
            registers=live + ADDRESSING_REGISTERS,
        )


def candidates(problem: Problem, chip: Chip) -> Iterator[Config]:
    """Yield every configuration, preferred ones first."""
    yield from CONFIGS


def reject(problem: Problem, config: Config, chip: Chip) -> str | None:
    """Return why the configuration may not serve the problem, or None."""
    assert isinstance(problem, GemmProblem)
    if problem.batch_invariant and not invariant_by_scalar(problem):
        return "batch_invariant: the simdgroup kernel serves every number of rows"
    reason = reject_gemm(problem) or _reject_tile(config)
    if reason:
        return reason
    return reject_plan(plan(problem, config))


def _reject_tile(config: Config) -> str | None:
    if min(config.block_m, config.block_n, config.block_k, config.thread_m, config.thread_n) < 1:
        return "a tile size is below 1"
    if config.block_m % config.thread_m or config.block_n % config.thread_n:
        return "the block is not a multiple of a thread's tile"
    threads = (config.block_m // config.thread_m) * (config.block_n // config.thread_n)
    if threads % SIMD_WIDTH:
        return f"{threads} threads are not whole simdgroups"
    return None


def cost(problem: Problem, config: Config, chip: Chip) -> float:
    """Return the modelled seconds of the configuration on the chip."""
    assert isinstance(problem, GemmProblem)
    steps = ceil(problem.k / config.block_k)
    depth = steps * config.block_k
    threads = (config.block_m // config.thread_m) * (config.block_n // config.thread_n)
    simdgroups = threads // SIMD_WIDTH
    multiplies = simdgroups * depth * config.thread_m * config.thread_n
    staged = depth * (config.block_m + config.block_n)
    read = threads * depth * (config.thread_m + config.thread_n) * ACCUMULATOR_BYTES
    tiles = ceil(problem.m / config.block_m) * ceil(problem.n / config.block_n)
    resources = plan(problem, config).stages[0].resources
    work = TileWork(
        tiles=tiles * problem.batch_size,
        simdgroups=simdgroups,
        chains=config.thread_m * config.thread_n,
        issue_cycles=multiplies * chip.alu_cycles,
        # Staging costs about four instructions an element: index, load, convert, store.
        alu_cycles=4 * staged / SIMD_WIDTH * chip.alu_cycles,
        threadgroup_bytes=read + staged * ACCUMULATOR_BYTES,
        cache_bytes=depth * (config.block_m * problem.a.bytes + config.block_n * problem.b.bytes),
        dram_bytes=dram_bytes(problem),
        waits=steps,
        registers=resources.registers,
        threadgroup_memory=resources.threadgroup_bytes,
    )
    return seconds(work, chip)


def plan(problem: Problem, config: Config) -> Plan:
    """Return the plan of a configuration that `reject` accepts."""
    assert isinstance(problem, GemmProblem)
    spec = Spec(**gemm_fields(problem), config=config, integer=problem.is_integer)
    launch = gemm_launch(problem, spec, threads=spec.threads)
    return Plan(
        kernel=NAME,
        config=str(config),
        stages=(Stage(spec=spec, launch=launch, resources=spec.resources),),
        factors=gemm_factors(problem),
    )


def variant_problems() -> Iterator[Problem]:
    """Yield small problems that together reach every flag of the text."""
    yield from gemm_variant_problems((a, b) for a in FLOATS for b in FLOATS)
    yield from gemm_variant_problems((a, b) for a in INTEGERS for b in INTEGERS)

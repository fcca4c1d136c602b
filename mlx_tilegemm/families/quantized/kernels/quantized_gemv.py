"""Product of few rows with a quantized weight: candidates, legality, cost and plan.

Decoding a token multiplies one or a few rows with a weight, which is bound by reading the weight:
this kernel reads it once, decodes it once, and multiplies every row with what it decoded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil
from typing import ClassVar

from ....core.caches import kept, latest
from ....core.dtypes import FLOAT32
from ....core.kernel import Kernel
from ....core.plan import SIMD_WIDTH, Extent, Launch, Plan, Resources, Stage
from ....machine.chips.record import Chip
from ....machine.cost import TileWork, seconds
from ....machine.limits import reject_grid, reject_resources
from ..problem import QuantizedProblem
from ..spec import (
    QuantizedSpec,
    decoding_instructions,
    every_weight,
    launch_sizes,
    quantized_text,
    reject_quantized,
    written_bytes,
)
from ..spec import variant_problems as quantized_variant_problems

NAME = "quantized_gemv"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Share of the result that a simdgroup computes.

    Attributes:
        rows: Rows held in registers; a problem of fewer repeats its last one.
        columns: Columns of a simdgroup where the weight is ``[n, k]``; else each lane takes a run.
        simdgroups: Simdgroups of a threadgroup.
    """

    rows: int
    columns: int
    simdgroups: int

    def __str__(self) -> str:
        return f"{self.rows}x{self.columns}-{self.simdgroups}"

    @property
    def threads(self) -> int:
        """Threads of one threadgroup."""
        return self.simdgroups * SIMD_WIDTH


CONFIGS = (
    Config(rows=1, columns=4, simdgroups=4),
    Config(rows=1, columns=2, simdgroups=4),
    Config(rows=1, columns=1, simdgroups=4),
    Config(rows=2, columns=2, simdgroups=4),
    Config(rows=2, columns=1, simdgroups=4),
    Config(rows=4, columns=2, simdgroups=4),
    Config(rows=4, columns=1, simdgroups=4),
    Config(rows=8, columns=2, simdgroups=4),
    Config(rows=8, columns=1, simdgroups=4),
)
"""Few heights, so that decoding in batches of any size needs few kernels; beyond eight, rows no
longer fit a thread's registers beside what they meet. Several columns share what is read of ``x``;
runs of 32 leave registers for fewer."""


@kept
def run_length(bits: int) -> int:
    """Return the elements that a lane decodes at a time: whole words, 16 bytes at most."""
    return 16 if bits % 2 == 0 else 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec(QuantizedSpec):
    """Everything that the text of one product of few rows depends on.

    Attributes:
        config: The configuration.
    """

    KERNEL: ClassVar[str] = NAME

    config: Config

    @property
    def threads(self) -> int:
        """Threads of one threadgroup."""
        return self.config.threads

    @property
    def run(self) -> int:
        """Neighbours of a row of the weight that a lane decodes at a time."""
        return run_length(self.text.weight.bits)

    @property
    def block(self) -> tuple[int, int, int]:
        """Rows and columns of the result that a threadgroup computes, and the depth of a step."""
        columns = threadgroup_columns(self.config, self.text.weight.bits, self.text.transpose)
        depth = SIMD_WIDTH * self.run if self.text.transpose else self.config.simdgroups
        return (self.config.rows, columns, depth)

    @property
    def shares_elements(self) -> int:
        """Partial sums of one row that the simdgroups of a threadgroup exchange."""
        return shares_elements(self.config, self.text.weight.bits)


@kept
def resources(config: Config, bits: int, transpose: bool) -> Resources:
    """Return threads, threadgroup memory and live registers."""
    run = run_length(bits)
    return Resources(
        threads=config.threads,
        threadgroup_bytes=0 if transpose else FLOAT32.bytes * shares_elements(config, bits),
        registers=_by_columns(config, run) if transpose else (config.rows + 1) * run + 22,
    )


def _by_columns(config: Config, run: int) -> int:
    """Return the live registers where lanes share k, as Mesa's compiler for M1 has them."""
    if config.rows == 1:
        return 20 + 6 * config.columns
    return 7 * run // 4 + 5 * config.rows + 11 * run * (config.columns - 1) // 8 + 3


def shares_elements(config: Config, bits: int) -> int:
    """Return the partial sums of one row that the simdgroups of a threadgroup exchange."""
    return config.simdgroups * run_length(bits) * SIMD_WIDTH


def threadgroup_columns(config: Config, bits: int, transpose: bool) -> int:
    """Return the columns of the result that a threadgroup computes."""
    return config.simdgroups * config.columns if transpose else SIMD_WIDTH * run_length(bits)


def candidates(problem: QuantizedProblem, chip: Chip) -> Iterator[Config]:
    """Yield every configuration, preferred ones first."""
    yield from CONFIGS


def reject(problem: QuantizedProblem, config: Config, chip: Chip) -> str | None:
    """Return why the configuration may not serve the problem, or None."""
    if reason := reject_quantized(problem):
        return reason
    if problem.batch_invariant:
        return "batch_invariant: more rows than it serves are summed in another order"
    if problem.m > config.rows:
        return f"m {problem.m} is above {config.rows}: it would read the weight again"
    if not problem.transpose and config.columns > 1:
        return "each lane has columns of its own where the weight is [k, n]"
    if any(problem.m <= other.rows < config.rows for other in CONFIGS):
        return f"{config.rows} rows are more than m {problem.m} needs"
    needs = resources(config, problem.weight.bits, problem.transpose)
    return reject_resources(needs) or reject_grid(_grid(problem, config))


def cost(problem: QuantizedProblem, config: Config, chip: Chip) -> float:
    """Return the modelled seconds of the configuration on the chip."""
    return seconds(work(problem, config, chip), chip)


def work(problem: QuantizedProblem, config: Config, chip: Chip) -> TileWork:
    """Return the work of the configuration, as the model counts it."""
    bits = problem.weight.bits
    columns = threadgroup_columns(config, bits, problem.transpose)
    elements = min(columns, problem.n) * problem.k / SIMD_WIDTH
    weight_bytes = problem.weight_bytes / (problem.weight_rows * problem.weight_columns)
    matrices = max(1, problem.elements("w") // (problem.n * problem.k))
    x_bytes = config.rows * problem.k * problem.x.bytes
    repeated = (config.simdgroups - 1) * x_bytes if problem.transpose else 0
    read = problem.weight_bytes + problem.nbytes("x")
    return TileWork(
        tiles=ceil(problem.n / columns) * problem.batch_size,
        simdgroups=config.simdgroups,
        chains=config.rows * config.columns,
        issue_cycles=elements * config.rows * chip.alu_cycles,
        alu_cycles=elements * decoding_instructions(problem.weight) * chip.alu_cycles,
        threadgroup_bytes=0 if problem.transpose else 8 * config.rows * config.simdgroups * columns,
        vector_bytes=repeated,
        cache_bytes=columns * problem.k * weight_bytes / matrices + x_bytes,
        repeated_bytes=repeated,
        dram_bytes=read + written_bytes(problem),
        registers=resources(config, bits, problem.transpose).registers,
    )


def _grid(problem: QuantizedProblem, config: Config) -> Extent:
    columns = threadgroup_columns(config, problem.weight.bits, problem.transpose)
    blocks = ceil(problem.n / columns)
    return (blocks * config.threads, 1, problem.batch_size)


@latest
def plan(problem: QuantizedProblem, config: Config) -> Plan:
    """Return the plan of a configuration that `reject` accepts."""
    spec = Spec(text=quantized_text(problem), config=config)
    launch = Launch(
        grid=_grid(problem, config),
        threadgroup=(config.threads, 1, 1),
        sizes=launch_sizes(problem, spec),
        output_shapes=(problem.out_shape,),
        output_dtypes=(problem.out,),
    )
    needs = resources(config, problem.weight.bits, problem.transpose)
    stage = Stage(spec=spec, launch=launch, resources=needs)
    return Plan(kernel=NAME, config=config, stages=(stage,))


def variant_problems() -> Iterator[QuantizedProblem]:
    """Yield small problems that together reach every flag of the text."""
    for rows, problems in ((3, quantized_variant_problems), (1, every_weight), (7, every_weight)):
        yield from (replace(one, m=rows).stored() for one in problems())


KERNEL = Kernel(
    name=NAME,
    problem_type=QuantizedProblem,
    candidates=candidates,
    reject=reject,
    cost=cost,
    plan=plan,
    variant_problems=variant_problems,
)

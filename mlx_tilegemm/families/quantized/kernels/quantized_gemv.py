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
from ....core.kernel import Kernel
from ....core.plan import SIMD_WIDTH, Extent, Launch, Plan, Resources, Stage
from ....formats import AFFINE, Grouping
from ....machine.chips.record import Chip
from ....machine.cost import TileWork, seconds
from ....machine.decoding import decoding_instructions, lane_run
from ....machine.gemv import GemvTile, gemv_resources, reject_height
from ....machine.limits import reject_grid, reject_threadgroup
from ..problem import QuantizedProblem
from ..spec import (
    DecodingSpec,
    every_weight,
    launch_sizes,
    quantized_text,
    reject_quantized,
    written_bytes,
)
from ..spec import variant_problems as quantized_variant_problems

NAME = "quantized_gemv"
MANY_SIMDGROUPS = 16

HEIGHTS = (1, 2, 4, 6, 8)
"""Few, so that decoding in batches of any size needs few kernels; beyond eight, rows no longer fit
a thread's registers beside what they meet."""

CONFIGS = (
    *(
        GemvTile(rows=rows, columns=columns, simdgroups=4)
        for rows in HEIGHTS
        for columns in (4, 2, 1)
        if (rows, columns) != (2, 4)
    ),
    *(GemvTile(rows=rows, columns=1, simdgroups=MANY_SIMDGROUPS) for rows in HEIGHTS),
)
"""Several columns share what is read of ``x``; long runs leave registers for fewer. Where lanes
have columns of their own, many simdgroups share k: else too few threads would read the weight."""

BATCH_REGISTERS = 4
"""Registers of the places of several products."""

SHORT_RUN_ROWS = 4
"""Rows from which on runs are short, so that four columns share what is read of ``x``."""


@kept
def run_length(bits: int, rows: int, transpose: bool) -> int:
    """Return the elements that a lane decodes at a time: whole words, 16 bytes at most."""
    if bits in (4, 8) and (rows >= SHORT_RUN_ROWS or not transpose):
        return 8
    return lane_run(bits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec(DecodingSpec):
    """Everything that the text of one product of few rows depends on.

    Attributes:
        config: The configuration.
    """

    KERNEL: ClassVar[str] = NAME

    config: GemvTile

    @property
    def threads(self) -> int:
        """Threads of one threadgroup."""
        return self.config.threads

    @property
    def run(self) -> int:
        """Neighbours of a row of the weight that a lane decodes at a time."""
        return run_length(self.text.weight.bits, self.config.rows, self.text.transpose)

    @property
    def block(self) -> tuple[int, int, int]:
        """Rows and columns of the result that a threadgroup computes, and the depth of a step."""
        return self.config.block(self.run, self.text.transpose)

    @property
    def shares_elements(self) -> int:
        """Partial sums of one row that the simdgroups of a threadgroup exchange."""
        return self.config.shares_elements(self.run)


def candidates(problem: QuantizedProblem, chip: Chip) -> Iterator[GemvTile]:
    """Yield every configuration, preferred ones first."""
    yield from CONFIGS


def reject(problem: QuantizedProblem, config: GemvTile, chip: Chip) -> str | None:
    """Return why the configuration may not serve the problem, or None."""
    if reason := reject_quantized(problem):
        return reason
    if problem.batch_invariant:
        return "batch_invariant: more rows than it serves are summed in another order"
    if problem.m > config.rows:
        return f"m {problem.m} is above {config.rows}: it would read the weight again"
    if not problem.transpose and config.columns > 1:
        return "each lane has columns of its own where the weight is [k, n]"
    if problem.transpose and config.simdgroups == MANY_SIMDGROUPS:
        return "simdgroups share k where the weight is [k, n] alone"
    if reason := reject_height(problem.m, config, CONFIGS):
        return reason
    needs = _resources(problem, config)
    return reject_threadgroup(needs, chip) or reject_grid(_grid(problem, config))


def _resources(problem: QuantizedProblem, config: GemvTile) -> Resources:
    run = run_length(problem.weight.bits, config.rows, problem.transpose)
    if not problem.transpose:
        registers = (config.rows + 1) * run + 5 * config.rows // 2 + 11
    elif config.rows == 1:
        registers = _of_one_row(problem.weight, config, run)
    else:
        registers = _by_columns(config, run)
    registers += BATCH_REGISTERS * (problem.batch_size > 1)
    return gemv_resources(config, run, problem.transpose, registers)


def _of_one_row(weight: Grouping, config: GemvTile, run: int) -> int:
    """Return the live registers where lanes share k and a row: words of codes of each column."""
    words = run * weight.bits // 32
    # While one column is decoded, scales and halves of floats wait for the others.
    waiting = 0 if weight.mode == AFFINE else weight.bits // 4
    columns = config.columns
    return (27 + 5 * columns) // 2 + words * columns + waiting * (columns - 1)


def _by_columns(config: GemvTile, run: int) -> int:
    """Return the live registers where lanes share k, as Mesa's compiler for M1 has them."""
    each = 8 + 4 * config.rows // 3
    # Eight rows and runs of several words are more than the compiler keeps apart.
    many = 3 * (run - 8) * config.columns // 5 - 6 if config.rows >= 8 else 0
    return 7 * run // 4 + 5 * config.rows + each * (config.columns - 1) - 1 + many


def _block_columns(problem: QuantizedProblem, config: GemvTile) -> int:
    run = run_length(problem.weight.bits, config.rows, problem.transpose)
    return config.block_columns(run, problem.transpose)


def cost(problem: QuantizedProblem, config: GemvTile, chip: Chip) -> float:
    """Return the modelled seconds of the configuration on the chip."""
    return seconds(work(problem, config, chip), chip)


def work(problem: QuantizedProblem, config: GemvTile, chip: Chip) -> TileWork:
    """Return the work of the configuration, as the model counts it."""
    columns = _block_columns(problem, config)
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
        registers=_resources(problem, config).registers,
    )


def _grid(problem: QuantizedProblem, config: GemvTile) -> Extent:
    blocks = ceil(problem.n / _block_columns(problem, config))
    return (blocks * config.threads, 1, problem.batch_size)


@latest
def plan(problem: QuantizedProblem, config: GemvTile) -> Plan:
    """Return the plan of a configuration that `reject` accepts."""
    spec = Spec(text=quantized_text(problem), config=config)
    launch = Launch.of(
        problem.results, _grid(problem, config), config.threads, launch_sizes(problem, spec)
    )
    stage = Stage(spec=spec, launch=launch, resources=_resources(problem, config))
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

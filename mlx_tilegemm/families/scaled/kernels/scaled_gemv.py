"""Product of few rows of scaled codes: candidates, legality, cost and plan.

Decoding a token multiplies one or a few rows with a weight, which is bound by reading the weight:
this kernel reads it once, decodes it once, and multiplies every row with what it decoded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil
from typing import ClassVar

from ....core.caches import kept, latest
from ....core.dtypes import BFLOAT16, FLOAT8_E4M3, INT8
from ....core.kernel import Kernel
from ....core.plan import SIMD_WIDTH, Extent, Launch, Plan, Resources, Stage
from ....machine.chips.record import Chip
from ....machine.cost import TileWork, seconds
from ....machine.gemv import GemvTile, gemv_resources, reject_height
from ....machine.limits import reject_grid, reject_resources
from ..problem import ScaledProblem
from ..spec import (
    ScaledSpec,
    decoding_instructions,
    every_format,
    launch_sizes,
    left_instructions,
    reject_scaled,
    scaled_text,
    written_bytes,
)
from ..spec import variant_problems as scaled_variant_problems

NAME = "scaled_gemv"
LONG_RUN, SHORT_RUN = 16, 8
"""Neighbours that a lane decodes at a time."""

PLACE_REGISTERS = 4
"""Registers of the places of several products where ``b`` is stored ``[k, n]``."""

INTEGER_REGISTERS = -8
"""Further registers there of codes of int8, which are numbers already."""

BATCH_REGISTERS = 8
"""Further registers of several products where k ends within a run: where theirs begin."""

SCALED_ROW_REGISTERS, E4M3_ROW_REGISTERS = 1, 2
"""Those of each row that is scaled then, too, for each eight elements of a run, and those of e4m3,
which unlike e5m2 is no half of a half."""

BFLOAT16_REGISTERS = 8
"""Those of rows of bfloat16 then, whose last elements have a register each."""

SHARED_RUN_REGISTERS = 2
"""Those of each row then where a run of ``b`` has several scales; half of one more for each further
column."""

MANY_SUMS, MANY_SUMS_REGISTERS = 32, 9
"""Those of so many sums then."""

SHORT_RUN_ROWS = 4
"""Rows from which on runs are short, so that four columns share what is read of ``a``; so they are
where it is staged."""


@kept
def run_length(tile: GemvTile, transpose_b: bool) -> int:
    """Return the neighbours that a lane decodes at a time."""
    short = transpose_b and (tile.staged or tile.rows >= SHORT_RUN_ROWS)
    return SHORT_RUN if short else LONG_RUN


CONFIGS = (
    GemvTile(rows=1, columns=4, simdgroups=4),
    GemvTile(rows=1, columns=2, simdgroups=4),
    GemvTile(rows=1, columns=1, simdgroups=4),
    GemvTile(rows=2, columns=4, simdgroups=8, staged=True),
    GemvTile(rows=2, columns=2, simdgroups=4),
    GemvTile(rows=2, columns=1, simdgroups=4),
    GemvTile(rows=4, columns=4, simdgroups=8, staged=True),
    GemvTile(rows=4, columns=4, simdgroups=4),
    GemvTile(rows=4, columns=2, simdgroups=4),
    GemvTile(rows=4, columns=1, simdgroups=4),
    GemvTile(rows=8, columns=4, simdgroups=8, staged=True),
    GemvTile(rows=8, columns=4, simdgroups=4),
    GemvTile(rows=8, columns=2, simdgroups=4),
    GemvTile(rows=8, columns=1, simdgroups=4),
)
"""Few heights, so that decoding in batches of any size needs few kernels; beyond eight, rows no
longer fit a thread's registers beside what they meet. Several columns share what is read of ``a``,
and all of a threadgroup where it is staged: with two rows and more it is most of what would be
asked for.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec(ScaledSpec):
    """Everything that the text of one product of few rows depends on.

    Attributes:
        config: The configuration.
    """

    KERNEL: ClassVar[str] = NAME

    config: GemvTile

    @property
    def run(self) -> int:
        """Neighbours of a row of an operand that are decoded together."""
        return run_length(self.config, self.text.transpose_b)

    @property
    def template(self) -> str:
        """Template of the kernel: staged rows have one of their own."""
        return f"scaled/{NAME}{'_staged' * self.config.staged}.metal.j2"

    @property
    def threads(self) -> int:
        """Threads of one threadgroup."""
        return self.config.threads

    @property
    def block(self) -> tuple[int, int, int]:
        """Rows and columns of the result that a threadgroup computes, and the depth of a step."""
        return self.config.block(self.run, self.text.transpose_b)

    @property
    def shares_elements(self) -> int:
        """Partial sums of one row that the simdgroups of a threadgroup exchange."""
        return self.config.shares_elements(self.run)


def candidates(problem: ScaledProblem, chip: Chip) -> Iterator[GemvTile]:
    """Yield every configuration, preferred ones first."""
    yield from CONFIGS


def reject(problem: ScaledProblem, config: GemvTile, chip: Chip) -> str | None:
    """Return why the configuration may not serve the problem, or None."""
    if reason := reject_scaled(problem):
        return reason
    if problem.batch_invariant:
        return "batch_invariant: more rows than it serves are summed in another order"
    if problem.m > config.rows:
        return f"m {problem.m} is above {config.rows}: it would read the weight again"
    if not problem.transpose_b and config.columns > 1:
        return "each lane has columns of its own where b is [k, n]"
    if not problem.transpose_b and config.staged:
        return "simdgroups share nothing of a where b is [k, n]"
    if reason := reject_height(problem.m, config, CONFIGS):
        return reason
    needs = _resources(problem, config)
    return reject_resources(needs) or reject_grid(_grid(problem, config))


def _resources(problem: ScaledProblem, config: GemvTile) -> Resources:
    run = run_length(config, problem.transpose_b)
    registers = _registers(problem, config, run)
    a_tile = scaled_text(problem).a_tile
    return gemv_resources(config, run, problem.transpose_b, registers, staged=a_tile)


def _registers(problem: ScaledProblem, config: GemvTile, run: int) -> int:
    """Return the estimated live registers, as Mesa's compiler for M1 has them."""
    rows, further = config.rows, config.columns - 1
    if not problem.transpose_b:
        # Each row has the sums of a run, and they share a run of codes.
        options = PLACE_REGISTERS * (problem.batch_size > 1)
        options += INTEGER_REGISTERS * (problem.b is INT8)
        return (rows + 1) * run + 3 * rows + 15 + options
    if config.staged:
        # One step has nothing of the next.
        return 14 + 5 * rows + (8 if problem.k <= SIMD_WIDTH * run else 16) * further
    if problem.k % run and not (problem.is_integer and rows == 1):
        return _broken_registers(problem, config, run)
    if run == LONG_RUN:
        return 25 + 12 * further if rows == 1 else 38 + 6 * rows + 23 * further
    return 14 + 5 * rows + (8 + 4 * rows // 3) * further


def _broken_registers(problem: ScaledProblem, config: GemvTile, run: int) -> int:
    """Return the registers where k ends within a run.

    A run is a whole one or the last one, so that the runs of all columns meet in registers.
    """
    rows, further = config.rows, config.columns - 1
    scales = problem.b_scales
    several = scales is not None and scales.width % run != 0
    options = BATCH_REGISTERS * (problem.batch_size > 1)
    options += (SHARED_RUN_REGISTERS * rows + rows * further // 2) * several
    options += BFLOAT16_REGISTERS * (problem.a is BFLOAT16)
    options += MANY_SUMS_REGISTERS * (rows * config.columns >= MANY_SUMS)
    if problem.a_scales and not problem.is_integer:
        each = SCALED_ROW_REGISTERS + E4M3_ROW_REGISTERS * (problem.a is FLOAT8_E4M3)
        options += each * rows * run // SHORT_RUN
    if run == LONG_RUN:
        return 30 + 6 * rows + (18 + rows) * further + options
    return 22 + 5 * rows + (11 + rows) * further + options


def _block_columns(problem: ScaledProblem, config: GemvTile) -> int:
    run = run_length(config, problem.transpose_b)
    return config.block_columns(run, problem.transpose_b)


def cost(problem: ScaledProblem, config: GemvTile, chip: Chip) -> float:
    """Return the modelled seconds of the configuration on the chip."""
    return seconds(work(problem, config, chip), chip)


def work(problem: ScaledProblem, config: GemvTile, chip: Chip) -> TileWork:
    """Return the work of the configuration, as the model counts it."""
    run = run_length(config, problem.transpose_b)
    columns = config.block_columns(run, problem.transpose_b)
    elements = min(columns, problem.n) * problem.k / SIMD_WIDTH
    share = problem.weight_bytes / problem.elements("b")
    a_bytes = config.rows * problem.k * problem.a.bytes
    alone = problem.transpose_b and not config.staged
    repeated = (config.simdgroups - 1) * a_bytes if alone else 0
    # Each simdgroup decodes a for itself, or its part of what all of them have.
    shares = 1 if config.staged else config.simdgroups
    left = config.rows * problem.k / SIMD_WIDTH * shares * left_instructions(problem)
    needs = _resources(problem, config)
    read = problem.weight_bytes + problem.nbytes("a") + problem.nbytes("a_scales")
    return TileWork(
        tiles=ceil(problem.n / columns) * problem.batch_size,
        simdgroups=config.simdgroups,
        chains=config.rows * config.columns,
        issue_cycles=elements * config.rows * chip.alu_cycles,
        alu_cycles=(elements * decoding_instructions(problem) + left) * chip.alu_cycles,
        threadgroup_bytes=_exchanged_bytes(problem, config),
        vector_bytes=repeated,
        cache_bytes=columns * problem.k * share + a_bytes,
        repeated_bytes=repeated,
        dram_bytes=read + written_bytes(problem),
        waits=ceil(problem.k / (SIMD_WIDTH * run)) if config.staged else 1,
        registers=needs.registers,
        threadgroup_memory=needs.threadgroup_bytes,
    )


def _exchanged_bytes(problem: ScaledProblem, config: GemvTile) -> int:
    """Return the bytes that a threadgroup writes to and reads from threadgroup memory."""
    if config.staged:
        rows = config.rows * problem.k * scaled_text(problem).a_tile.bytes
        return (1 + config.simdgroups) * rows
    if problem.transpose_b:
        return 0
    return 8 * config.rows * config.simdgroups * _block_columns(problem, config)


def _grid(problem: ScaledProblem, config: GemvTile) -> Extent:
    blocks = ceil(problem.n / _block_columns(problem, config))
    return (blocks * config.threads, 1, problem.batch_size)


@latest
def plan(problem: ScaledProblem, config: GemvTile) -> Plan:
    """Return the plan of a configuration that `reject` accepts."""
    spec = Spec(text=scaled_text(problem), config=config)
    launch = Launch.of(
        problem.results, _grid(problem, config), config.threads, launch_sizes(problem, spec)
    )
    stage = Stage(spec=spec, launch=launch, resources=_resources(problem, config))
    return Plan(kernel=NAME, config=config, stages=(stage,))


def variant_problems() -> Iterator[ScaledProblem]:
    """Yield small problems that together reach every flag of the text."""
    for rows, problems in ((3, scaled_variant_problems), (1, every_format), (7, every_format)):
        yield from (replace(one, m=rows).stored() for one in problems())


KERNEL = Kernel(
    name=NAME,
    problem_type=ScaledProblem,
    candidates=candidates,
    reject=reject,
    cost=cost,
    plan=plan,
    variant_problems=variant_problems,
)

"""Product of few rows with matrices that they choose: candidates, legality, cost and plan.

Decoding a token multiplies one row with each expert that it chooses, which is bound by reading the
weights: rows of several tokens that share an expert are served together, by one reading.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil
from typing import ClassVar

from ....core.caches import kept, latest
from ....core.dtypes import BFLOAT16, FLOAT32, INT32, DType
from ....core.kernel import Kernel
from ....core.plan import SIMD_WIDTH, Extent, Launch, Plan, Resources, Sizes, Stage
from ....machine.chips.record import Chip
from ....machine.cost import TileWork, seconds
from ....machine.decoding import lane_run
from ....machine.gemv import GemvTile, gemv_resources
from ....machine.limits import reject_grid, reject_resources
from ..problem import ExpertProblem
from ..spec import (
    ExpertSpec,
    expected_blocks,
    expert_sizes,
    expert_text,
    list_seconds,
    most_blocks,
    moved_bytes,
    plain_run,
    reject_experts,
    stages_before,
    weight_instructions,
)
from ..spec import variant_problems as expert_variant_problems

NAME = "expert_gemv"

CONFIGS = (
    GemvTile(rows=1, columns=4, simdgroups=4),
    GemvTile(rows=1, columns=1, simdgroups=4),
    GemvTile(rows=2, columns=4, simdgroups=4),
    GemvTile(rows=2, columns=2, simdgroups=4),
    GemvTile(rows=2, columns=1, simdgroups=4),
    GemvTile(rows=4, columns=4, simdgroups=4),
    GemvTile(rows=4, columns=2, simdgroups=4),
    GemvTile(rows=4, columns=1, simdgroups=4),
)
"""Several columns share what is read of ``x``; runs of 32 leave registers for fewer."""

STAGED_CONFIGS = tuple(
    GemvTile(rows=rows, columns=4, simdgroups=4, staged=True) for rows in (1, 2, 4)
)
"""All columns of a threadgroup share what is read of ``x``; its simdgroups wait for each other."""

STAGED_ROWS = 64
"""Rows from which staged ones are preferred: MLX sorts so many, and asks for ``x`` less often."""


BROKEN_CODES_REGISTERS = 13
"""Further registers where rows of decoded codes end within a run: the last one is another text."""

BROKEN_REGISTERS, BROKEN_ROW_REGISTERS = 4, 12
"""Those of plain elements, and where there is one row."""

BROKEN_BFLOAT16_REGISTERS = 3
"""Those of each column of bfloat16 then, whose last elements have a register each."""

BFLOAT16_REGISTERS = 10
"""Those of rows of bfloat16 then, but for short runs as of float32."""

FILLED_REGISTERS = -4
"""Those of few sums and of codes that fill words, where no row ends within a run."""

MANY_SUMS = 16
"""Sums of a lane from which on nothing is taken off: a few registers more would not be there."""

LONGER_REGISTERS = 28
"""Further ones of staged rows where k has more than one step."""

SHARED_RUN_REGISTERS = 8
"""Further ones of one staged row where a run of codes has several scales; of several rows as much
less, whose sums are most at another place."""

WORDS_REGISTERS = -8
"""Further ones then of codes that fill words."""

PLAIN_ROWS = 64
"""Rows from which a plain weight is the tiles', as it is MLX's: they ask for ``x`` less often than
simdgroups that have a few columns each."""

DECODED_ROWS = 16
"""Likewise of a weight of codes, whose rows for each expert have to be `ROWS_OF_EXPERT` too."""

ROWS_OF_EXPERT = 4
"""See `DECODED_ROWS`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec(ExpertSpec):
    """Everything that the text of one product of few rows depends on.

    Attributes:
        config: The configuration.
        run: Neighbours of a row of the weight that a lane reads together.
    """

    KERNEL: ClassVar[str] = NAME

    config: GemvTile
    run: int

    @property
    def template(self) -> str:
        """Template of the kernel: staged rows have one of their own."""
        return f"experts/{NAME}{'_staged' * self.config.staged}.metal.j2"

    @property
    def threads(self) -> int:
        """Threads of one threadgroup."""
        return self.config.threads

    @property
    def block(self) -> tuple[int, int, int]:
        """Rows and columns of the result that a threadgroup computes, and the depth of a step."""
        return self.config.block(self.run, self.text.transpose)

    @property
    def shares_elements(self) -> int:
        """Partial sums of one row that the simdgroups of a threadgroup exchange."""
        return self.config.shares_elements(self.run)


@kept
def resources(
    config: GemvTile, run: int, transpose: bool, x: DType, registers: int | None = None
) -> Resources:
    """Return threads, threadgroup memory and live registers."""
    needs = gemv_resources(config, run, transpose, registers, staged=x)
    if config.staged:
        places = INT32.bytes * (2 * config.rows + 3)
        return replace(needs, threadgroup_bytes=needs.threadgroup_bytes + places)
    return needs


def _resources(problem: ExpertProblem, config: GemvTile) -> Resources:
    registers = _registers(problem, config)
    return resources(config, _run(problem), problem.transpose, problem.x, registers)


def _registers(problem: ExpertProblem, config: GemvTile) -> int:
    """Return the estimated live registers, as Mesa's compiler for M1 has them.

    All are fitted, by rows, by columns beside the first and by what differs of the weight.
    """
    run, decoded = _run(problem), problem.is_decoded
    broken = (problem.k if problem.transpose else problem.n) % run != 0
    if config.staged:
        if config.rows == 1 and _is_even(problem, config):
            return _columns(problem, config, broken=broken)
        longer = LONGER_REGISTERS + 2 * config.rows + 2 * config.columns * problem.has_codes
        longer += WORDS_REGISTERS * (problem.weight is not None)
        if problem.k <= SIMD_WIDTH * run:
            longer = 0
        return longer + 4 * config.rows + _staged_columns(problem, config, broken=broken)
    if not problem.transpose:
        # Each row has the sums of a run, and they share a run of the weight.
        shared = 15 + 4 * config.rows + (2 + BROKEN_CODES_REGISTERS // 2 * broken) * decoded
        return (config.rows + 1) * run + shared
    return _columns(problem, config, broken=broken)


def _columns(problem: ExpertProblem, config: GemvTile, *, broken: bool) -> int:
    fitted = _decoded_columns if problem.is_decoded else _plain_columns
    return fitted(problem, config, broken=broken)


def _is_even(problem: ExpertProblem, config: GemvTile) -> bool:
    """Whether all lanes have columns and depths in every step, so that none is asked for."""
    step = SIMD_WIDTH * _run(problem)
    return problem.n % (config.simdgroups * config.columns) == 0 and problem.k % step == 0


def _staged_columns(problem: ExpertProblem, config: GemvTile, *, broken: bool) -> int:
    """Return the registers of columns whose runs wait for the rows: of codes, as float32."""
    if problem.is_decoded:
        run, scales = _run(problem), problem.scaling
        several = scales is not None and scales.width % run != 0
        return 4 + config.columns * run + SHARED_RUN_REGISTERS // config.rows * several
    return 24 + _broken_columns(problem, config) * broken


def _broken_columns(problem: ExpertProblem, config: GemvTile) -> int:
    return BROKEN_BFLOAT16_REGISTERS * config.columns * (problem.w is BFLOAT16)


def _plain_columns(problem: ExpertProblem, config: GemvTile, *, broken: bool) -> int:
    further = 0
    if broken:
        further = BROKEN_ROW_REGISTERS if config.rows == 1 else BROKEN_REGISTERS
        further += _broken_columns(problem, config)
        further += BFLOAT16_REGISTERS * (problem.x is BFLOAT16 and problem.w is not FLOAT32)
    if config.rows == 1:
        return 15 + 6 * config.columns + further
    return 15 + config.rows * (4 + config.columns) + 9 * config.columns + further


def _decoded_columns(problem: ExpertProblem, config: GemvTile, *, broken: bool) -> int:
    further = config.columns - 1
    few = config.rows * config.columns < MANY_SUMS
    filled = FILLED_REGISTERS * (few and problem.weight is not None and not broken)
    if config.rows == 1 and not broken:
        # Of one row, a run is multiplied as it is decoded.
        return 31 + filled + (12 if problem.has_codes else 8) * further
    run = _run(problem)
    runs = run + (run + 2) * further + problem.has_codes * further
    if broken:
        runs += BROKEN_CODES_REGISTERS + 2 * BFLOAT16_REGISTERS * (problem.x is BFLOAT16)
    return 26 + runs + filled + config.rows * (4 + config.columns)


def _run(problem: ExpertProblem) -> int:
    return plain_run(problem.w) if problem.weight is None else lane_run(problem.weight.bits)


def is_direct(problem: ExpertProblem, config: GemvTile) -> bool:
    """Whether each row is a block of its own, for which nothing has to be sorted."""
    return config.rows == 1 and not problem.grouped


def most_rows(problem: ExpertProblem) -> int:
    """Return the rows from which tiles are to serve."""
    if not problem.is_decoded:
        return PLAIN_ROWS
    return max(DECODED_ROWS, ROWS_OF_EXPERT * problem.experts)


def candidates(problem: ExpertProblem, chip: Chip) -> Iterator[GemvTile]:
    """Yield every configuration, preferred ones first."""
    many = problem.rows >= STAGED_ROWS
    yield from (*STAGED_CONFIGS, *CONFIGS) if many else (*CONFIGS, *STAGED_CONFIGS)


def reject(problem: ExpertProblem, config: GemvTile, chip: Chip) -> str | None:
    """Return why the configuration may not serve the problem, or None."""
    if reason := reject_experts(problem):
        return reason
    if problem.rows >= most_rows(problem):
        return f"{problem.rows} rows of {problem.experts} experts are enough for tiles"
    if not problem.transpose and config.columns > 1:
        return "each lane has columns of its own where the weight is [k, n]"
    needs = _resources(problem, config)
    return reject_resources(needs) or reject_grid(_grid(problem, config))


def cost(problem: ExpertProblem, config: GemvTile, chip: Chip) -> float:
    """Return the modelled seconds of the configuration on the chip."""
    listed = not (problem.grouped or is_direct(problem, config))
    listing = list_seconds(problem, chip) if listed else 0.0
    return listing + seconds(work(problem, config, chip), chip)


def work(problem: ExpertProblem, config: GemvTile, chip: Chip) -> TileWork:
    """Return the work of the configuration, as the model counts it."""
    run = _run(problem)
    columns = config.block_columns(run, problem.transpose)
    blocks = problem.rows if is_direct(problem, config) else expected_blocks(problem, config.rows)
    elements = min(columns, problem.n) * problem.k / SIMD_WIDTH
    weight_bytes = problem.expert_bytes / (problem.n * problem.k)
    x_bytes = config.rows * problem.k * problem.x.bytes
    alone = problem.transpose and not config.staged
    repeated = (config.simdgroups - 1) * x_bytes if alone else 0
    needs = _resources(problem, config)
    return TileWork(
        tiles=ceil(problem.n / columns) * blocks,
        simdgroups=config.simdgroups,
        chains=config.rows * config.columns,
        issue_cycles=elements * config.rows * chip.alu_cycles,
        alu_cycles=elements * weight_instructions(problem) * chip.alu_cycles,
        threadgroup_bytes=_exchanged_bytes(problem, config),
        vector_bytes=repeated,
        cache_bytes=columns * problem.k * weight_bytes + x_bytes,
        repeated_bytes=repeated,
        dram_bytes=moved_bytes(problem) + reread_bytes(problem, blocks, chip),
        waits=ceil(problem.k / (SIMD_WIDTH * run)) if config.staged else 1,
        registers=needs.registers,
        threadgroup_memory=needs.threadgroup_bytes,
    )


def _exchanged_bytes(problem: ExpertProblem, config: GemvTile) -> int:
    """Return the bytes that a threadgroup writes to and reads from threadgroup memory."""
    if config.staged:
        return (1 + config.simdgroups) * config.rows * problem.k * problem.x.bytes
    if problem.transpose:
        return 0
    columns = config.block_columns(_run(problem), problem.transpose)
    return 8 * config.rows * config.simdgroups * columns


def reread_bytes(problem: ExpertProblem, blocks: int, chip: Chip) -> float:
    """Return the bytes of weights that blocks of the same expert read again, cache missed."""
    again = max(0.0, blocks - problem.expected_experts) * problem.expert_bytes
    walked = problem.expert_bytes * problem.expected_experts
    return again * max(0.0, 1.0 - chip.slc_bytes / max(1.0, walked))


def _grid(problem: ExpertProblem, config: GemvTile) -> Extent:
    columns = config.block_columns(_run(problem), problem.transpose)
    blocks = problem.rows if is_direct(problem, config) else most_blocks(problem, config.rows)
    return (ceil(problem.n / columns) * config.threads, blocks, 1)


@latest
def plan(problem: ExpertProblem, config: GemvTile) -> Plan:
    """Return the plan of a configuration that `reject` accepts."""
    direct = is_direct(problem, config)
    spec = Spec(
        text=expert_text(problem),
        listed=not (direct or problem.grouped),
        direct=direct,
        config=config,
        run=_run(problem),
    )
    launch = Launch.of(
        problem.results,
        _grid(problem, config),
        config.threads,
        Sizes.of(spec, expert_sizes(problem)),
    )
    stage = Stage(spec=spec, launch=launch, resources=_resources(problem, config))
    return Plan(kernel=NAME, config=config, stages=(*stages_before(problem, spec), stage))


def variant_problems() -> Iterator[ExpertProblem]:
    """Yield small problems that together reach every flag of the text."""
    yield from expert_variant_problems()


KERNEL = Kernel(
    name=NAME,
    problem_type=ExpertProblem,
    candidates=candidates,
    reject=reject,
    cost=cost,
    plan=plan,
    variant_problems=variant_problems,
)

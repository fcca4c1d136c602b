"""GEMM of scaled codes on simdgroup matrices: candidates, legality, cost and plan.

Codes are decoded to float32 on their way into threadgroup memory, once for a threadgroup.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from ....core.caches import kept, latest
from ....core.dtypes import FLOAT32, DType
from ....core.kernel import Kernel
from ....core.plan import Launch, Plan, Resources, Stage
from ....machine.chips.record import Chip
from ....machine.cost import TileWork, seconds
from ....machine.decoding import BLOCK_K, CONFIGS, DecodingTile, decoding_work
from ....machine.fragment import ALIGNED_ROWS
from ....machine.limits import reject_grid, reject_resources
from ....machine.products import Product
from ....machine.tiles import StagedTiles, TiledSpec, is_unrolled, staged_tiles
from ..problem import ScaledProblem
from ..spec import (
    ScaledSpec,
    decoding_instructions,
    launch_sizes,
    left_instructions,
    reject_scaled,
    scaled_text,
    written_bytes,
)
from ..spec import variant_problems as scaled_variant_problems

NAME = "scaled_gemm"

BASE_REGISTERS = 24
"""Registers beside sums and fragments, as Mesa's compiler for M1 has it. Likewise those below."""

CODED_REGISTERS = 7
"""Further ones where ``a`` is codes that are decoded."""

WIDE_REGISTERS = 6
"""Further ones where it is float32."""

BATCH_REGISTERS = 10
"""Further ones of the places of several products."""

UNROLLED_REGISTERS = 10
"""Further ones where the steps of k are unrolled: several are decoded ahead."""

TAIL_REGISTERS = 5
"""Further ones where k ends within a step; unrolled, also one of each row and column of fragments
but one."""

EXACT_DEPTH = 1024
"""Depth from which on sums of integers are brought from float32 to integers on the way, as the text
has it."""

LOW_INTEGER_REGISTERS = 6
"""Further ones of blocks of few rows of integers, of which several steps are read ahead."""

LOW_ROWS = 16
"""Most rows of such a block."""

RUN = 8
"""Neighbours that a thread decodes at a time, so that small tiles have one for every thread."""


@kept
def resources(config: DecodingTile, a_tile: DType, transpose_b: bool, registers: int) -> Resources:
    """Return threads, threadgroup memory and live registers."""
    tiles = staged_tiles(config.block, a_tile, FLOAT32, transpose_b=transpose_b)
    return Resources(threads=config.threads, threadgroup_bytes=tiles.nbytes, registers=registers)


def _resources(problem: ScaledProblem, config: DecodingTile) -> Resources:
    a_tile = scaled_text(problem).a_tile
    return resources(config, a_tile, problem.transpose_b, _registers(problem, config))


def _registers(problem: ScaledProblem, config: DecodingTile) -> int:
    """Return the estimated live registers of a thread."""
    rows, columns = config.fragments_m, config.fragments_n
    unrolled, tail = is_unrolled(problem.k, BLOCK_K), problem.k % BLOCK_K > 0
    summed = problem.is_integer and problem.k >= EXACT_DEPTH
    further = BATCH_REGISTERS * (problem.batch_size > 1) + WIDE_REGISTERS * (problem.a is FLOAT32)
    if not tail:
        further += UNROLLED_REGISTERS * unrolled
    elif not summed:
        further += TAIL_REGISTERS + (rows + columns - 1) * unrolled
    if summed:
        # Sums of integers beside those of floats, and what brings one to the other.
        further += 3 * rows * columns + 2
        further += LOW_INTEGER_REGISTERS * (config.block_m <= LOW_ROWS)
    elif problem.a.bytes == 1 and not problem.is_integer:
        further += CODED_REGISTERS
    return 2 * (rows * columns + rows + columns) + BASE_REGISTERS + further


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec(TiledSpec, ScaledSpec):
    """Everything that the text of one GEMM of scaled codes depends on.

    Attributes:
        config: The configuration.
        align_m: m is a multiple of a block of `ALIGNED_ROWS` or more, so rows need no guard.
        align_n: n is a multiple of ``block_n``, so columns need no guard.
    """

    KERNEL: ClassVar[str] = NAME

    config: DecodingTile
    align_m: bool
    align_n: bool

    @property
    def run(self) -> int:
        """Neighbours of a row of an operand that are decoded together."""
        return RUN

    @property
    def tiles(self) -> StagedTiles:
        """The tiles of both operands as they are staged; that of ``b`` is of float32."""
        text = self.text
        return staged_tiles(self.config.block, text.a_tile, FLOAT32, transpose_b=text.transpose_b)


def candidates(problem: ScaledProblem, chip: Chip) -> Iterator[DecodingTile]:
    """Yield every configuration, preferred ones first."""
    yield from CONFIGS


def reject(problem: ScaledProblem, config: DecodingTile, chip: Chip) -> str | None:
    """Return why the configuration may not serve the problem, or None."""
    if reason := reject_scaled(problem):
        return reason
    return reject_resources(_resources(problem, config)) or reject_grid(
        config.grid(problem.m, problem.n, problem.batch_size)
    )


def cost(problem: ScaledProblem, config: DecodingTile, chip: Chip) -> float:
    """Return the modelled seconds of the configuration on the chip."""
    return seconds(work(problem, config, chip), chip)


def work(problem: ScaledProblem, config: DecodingTile, chip: Chip) -> TileWork:
    """Return the work of the configuration: that of a GEMM which reads less and decodes it."""
    needs = _resources(problem, config)
    element = problem.weight_bytes / problem.elements("b")
    right = config.block_n * decoding_instructions(problem)
    return decoding_work(
        _staged_product(problem),
        config,
        needs,
        chip,
        instructions=right + config.block_m * left_instructions(problem),
        depth_bytes=config.block_m * problem.a.bytes + config.block_n * element,
        dram_bytes=_moved_bytes(problem, config, needs, chip),
    )


def _staged_product(problem: ScaledProblem) -> Product:
    return Product(
        m=problem.m,
        n=problem.n,
        k=problem.k,
        a=scaled_text(problem).a_tile,
        b=FLOAT32,
        out=problem.out,
        transpose_b=problem.transpose_b,
        batch_size=problem.batch_size,
    )


def _moved_bytes(
    problem: ScaledProblem, config: DecodingTile, needs: Resources, chip: Chip
) -> float:
    batch = problem.batch_size
    moved = config.moved_bytes(
        problem.m,
        problem.n,
        a_bytes=(problem.nbytes("a") + problem.nbytes("a_scales")) / batch,
        b_bytes=problem.weight_bytes / batch,
        out_bytes=written_bytes(problem) / batch,
        needs=needs,
        chip=chip,
    )
    return moved * batch


@latest
def plan(problem: ScaledProblem, config: DecodingTile) -> Plan:
    """Return the plan of a configuration that `reject` accepts."""
    spec = Spec(
        text=scaled_text(problem),
        config=config,
        align_m=config.block_m >= ALIGNED_ROWS and problem.m % config.block_m == 0,
        align_n=problem.n % config.block_n == 0,
    )
    launch = Launch.of(
        problem.results,
        config.grid(problem.m, problem.n, problem.batch_size),
        config.threads,
        launch_sizes(problem, spec),
    )
    stage = Stage(spec=spec, launch=launch, resources=_resources(problem, config))
    return Plan(kernel=NAME, config=config, stages=(stage,))


def variant_problems() -> Iterator[ScaledProblem]:
    """Yield small problems that together reach every flag of the text."""
    yield from scaled_variant_problems()


KERNEL = Kernel(
    name=NAME,
    problem_type=ScaledProblem,
    candidates=candidates,
    reject=reject,
    cost=cost,
    plan=plan,
    variant_problems=variant_problems,
)

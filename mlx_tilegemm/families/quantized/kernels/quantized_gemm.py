"""GEMM with a quantized weight on simdgroup matrices: candidates, legality, cost and plan.

The weight is decoded to float32 on its way into threadgroup memory, once for a threadgroup's rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from ....core.caches import kept, latest
from ....core.dtypes import BFLOAT16, FLOAT32, DType
from ....core.kernel import Kernel
from ....core.plan import Launch, Plan, Resources, Stage
from ....machine.chips.record import Chip
from ....machine.cost import TileWork, seconds
from ....machine.decoding import (
    BROKEN_BITS,
    CONFIGS,
    DecodingTile,
    decoding_instructions,
    decoding_work,
    tile_run,
)
from ....machine.fragment import ALIGNED_ROWS
from ....machine.limits import reject_grid, reject_resources
from ....machine.products import Product
from ....machine.splits import SharedSpec
from ....machine.tiles import StagedTiles, TiledSpec, is_unrolled, staged_tiles
from ..problem import QuantizedProblem
from ..spec import (
    DecodingSpec,
    launch_sizes,
    quantized_text,
    reject_quantized,
    written_bytes,
)
from ..spec import variant_problems as quantized_variant_problems

NAME = "quantized_gemm"

BASE_REGISTERS = 24
"""Registers beside sums and fragments, as Mesa's compiler for M1 has it. Likewise those below."""

WIDENED_REGISTERS = 6
"""Further ones of a tall block of bfloat16, which the GPU has to widen."""

UNROLLED_REGISTERS = 11
"""Further ones where the steps of k are unrolled: several are decoded ahead."""

UNROLLED_BIAS_REGISTERS = 5
"""Further ones then of the biases of groups."""

UNROLLED_COLUMN_REGISTERS = 7
"""Further ones then where the weight is stored ``[k, n]``."""

UNROLLED_TALL_REGISTERS = 8
"""Further ones of these for more rows of fragments than columns, from `SMALL` on."""

UNROLLED_MIDDLE_REGISTERS, UNROLLED_PLAIN_REGISTERS = -12, -22
"""Further ones then of `MIDDLE` fragments; and of weights stored ``[k, n]``, if these have no
biases or codes of odd widths."""

MIDDLE = 8

COLUMN_REGISTERS = 8
"""Further ones where such a weight's steps are not unrolled, of fewer than `LARGE` fragments."""

UNROLLED_SMALL_REGISTERS = -6
"""Further ones then beside fewer than `SMALL` fragments."""

SMALL = 4

UNROLLED_LARGE_REGISTERS = -14
"""Further ones then beside the sums of `LARGE` fragments, which leave less room."""

LARGE = 16

BATCH_REGISTERS = 8
"""Further ones of the places of several products."""


@kept
def resources(config: DecodingTile, x: DType, transpose: bool, registers: int) -> Resources:
    """Return threads, threadgroup memory and live registers."""
    tiles = staged_tiles(config.block, x, FLOAT32, transpose_b=transpose)
    return Resources(threads=config.threads, threadgroup_bytes=tiles.nbytes, registers=registers)


def _resources(problem: QuantizedProblem, config: DecodingTile) -> Resources:
    return resources(config, problem.x, problem.transpose, _registers(problem, config))


def _registers(problem: QuantizedProblem, config: DecodingTile) -> int:
    """Return the estimated live registers of a thread."""
    rows, columns = config.fragments_m, config.fragments_n
    further = BATCH_REGISTERS * (problem.batch_size > 1)
    further += WIDENED_REGISTERS * (problem.x is BFLOAT16 and config.block_m >= ALIGNED_ROWS)
    if is_unrolled(problem.k, config.block_k):
        biased = problem.biases is not None and problem.weight.bits not in BROKEN_BITS
        further += UNROLLED_REGISTERS + UNROLLED_BIAS_REGISTERS * biased
        if not problem.transpose:
            tall = rows > columns and rows * columns >= SMALL
            further += UNROLLED_COLUMN_REGISTERS + UNROLLED_TALL_REGISTERS * tall
        if rows * columns == MIDDLE and problem.transpose:
            further += UNROLLED_MIDDLE_REGISTERS
        elif rows * columns == MIDDLE and (problem.biases is None or problem.weight.bits % 2):
            further += UNROLLED_PLAIN_REGISTERS
        further += UNROLLED_SMALL_REGISTERS * (rows * columns < SMALL)
        further += UNROLLED_LARGE_REGISTERS * (rows * columns >= LARGE)
    elif not problem.transpose and rows * columns < LARGE:
        further += COLUMN_REGISTERS
    return 2 * (rows * columns + rows + columns) + BASE_REGISTERS + further


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec(TiledSpec, SharedSpec, DecodingSpec):
    """Everything that the text of one quantized GEMM depends on.

    Attributes:
        config: The configuration.
        align_m: m is a multiple of a block of `ALIGNED_ROWS` or more, so rows need no guard.
        align_n: n is a multiple of ``block_n``, so columns need no guard.
        split_k: Depth that one threadgroup sums; the rest of k is other threadgroups'. 0 for all.
    """

    KERNEL: ClassVar[str] = NAME

    config: DecodingTile
    align_m: bool
    align_n: bool
    split_k: int = 0

    @property
    def run(self) -> int:
        """Neighbours of a row of the weight that a thread decodes at a time."""
        return tile_run(self.text.weight.bits)

    @property
    def tiles(self) -> StagedTiles:
        """The tiles of both operands as they are staged; the weight's is of float32."""
        text = self.text
        return staged_tiles(self.config.block, text.x, FLOAT32, transpose_b=text.transpose)


def candidates(problem: QuantizedProblem, chip: Chip) -> Iterator[DecodingTile]:
    """Yield every configuration, preferred ones first."""
    yield from CONFIGS


def reject(problem: QuantizedProblem, config: DecodingTile, chip: Chip) -> str | None:
    """Return why the configuration may not serve the problem, or None."""
    if reason := reject_quantized(problem):
        return reason
    return reject_resources(_resources(problem, config)) or reject_grid(
        config.grid(problem.m, problem.n, problem.batch_size)
    )


def cost(problem: QuantizedProblem, config: DecodingTile, chip: Chip) -> float:
    """Return the modelled seconds of the configuration on the chip."""
    return seconds(work(problem, config, chip), chip)


def work(problem: QuantizedProblem, config: DecodingTile, chip: Chip) -> TileWork:
    """Return the work of the configuration: that of a GEMM which reads less and decodes it."""
    needs = _resources(problem, config)
    element = problem.weight_bytes / max(1, problem.elements("w"))
    return decoding_work(
        _staged_product(problem),
        config,
        needs,
        chip,
        instructions=config.block_n * decoding_instructions(problem.weight),
        depth_bytes=config.block_m * problem.x.bytes + config.block_n * element,
        dram_bytes=_moved_bytes(problem, config, needs, chip),
    )


def _staged_product(problem: QuantizedProblem) -> Product:
    return Product(
        m=problem.m,
        n=problem.n,
        k=problem.k,
        a=problem.x,
        b=FLOAT32,
        out=problem.out,
        transpose_b=problem.transpose,
        batch_size=problem.batch_size,
    )


def _moved_bytes(
    problem: QuantizedProblem, config: DecodingTile, needs: Resources, chip: Chip
) -> float:
    batch = problem.batch_size
    moved = config.moved_bytes(
        problem.m,
        problem.n,
        a_bytes=problem.nbytes("x") / batch,
        b_bytes=problem.weight_bytes / batch,
        out_bytes=written_bytes(problem) / batch,
        needs=needs,
        chip=chip,
    )
    return moved * batch


@latest
def plan(problem: QuantizedProblem, config: DecodingTile) -> Plan:
    """Return the plan of a configuration that `reject` accepts."""
    spec = Spec(
        text=quantized_text(problem),
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


def variant_problems() -> Iterator[QuantizedProblem]:
    """Yield small problems that together reach every flag of the text."""
    yield from quantized_variant_problems()


KERNEL = Kernel(
    name=NAME,
    problem_type=QuantizedProblem,
    candidates=candidates,
    reject=reject,
    cost=cost,
    plan=plan,
    variant_problems=variant_problems,
)

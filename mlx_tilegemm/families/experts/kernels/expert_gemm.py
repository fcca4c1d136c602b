"""GEMM with matrices that rows choose, on simdgroup matrices: candidates, legality, cost and plan.

Rows are gathered on their way into threadgroup memory and scattered on their way out, so that no
operand is sorted and nothing is copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import ClassVar

from ....core.caches import latest
from ....core.dtypes import FLOAT32, DType
from ....core.kernel import Kernel
from ....core.plan import Extent, Launch, Plan, Resources, Sizes, Stage
from ....machine.chips.record import Chip
from ....machine.cost import TileWork, seconds
from ....machine.decoding import BROKEN_BITS, DecodingTile, decoding_work, tile_run
from ....machine.fragment import FRAGMENT
from ....machine.limits import reject_grid, reject_resources
from ....machine.products import Product
from ....machine.tiles import StagedTiles, TiledSpec, is_unrolled, staged_tiles
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

NAME = "expert_gemm"

BASE_REGISTERS = 21
"""Registers beside sums and fragments, as Mesa's compiler for M1 has it. Likewise those below."""

RAGGED_REGISTERS = 3
"""Further ones where the last step of k, or the last columns, are not whole."""

UNROLLED_REGISTERS = 3
"""Further ones where the steps of k are unrolled."""

UNROLLED_RAGGED_REGISTERS = 2
"""Further ones then of a last step that is not whole, and one of each column of fragments."""

DECODED_REGISTERS, RAGGED_DECODED_REGISTERS = 8, 3
"""Further ones of a weight that is decoded, and of a ragged one."""

BOTH_ENDS_REGISTERS = 5
"""Further ones then of one that ends within a run in both of its directions."""

BROKEN_CODE_REGISTERS = -2
"""Those of codes that do not divide a word are fewer."""

WIDE_BLOCK_REGISTERS = 4
"""Further ones of each column of fragments that a block of a decoded weight has more than rows."""


CONFIGS = (
    DecodingTile(block_m=64, block_n=64, simdgroups_m=2, simdgroups_n=2),
    DecodingTile(block_m=32, block_n=64, simdgroups_m=1, simdgroups_n=4),
    DecodingTile(block_m=16, block_n=128, simdgroups_m=1, simdgroups_n=4),
    DecodingTile(block_m=16, block_n=64, simdgroups_m=1, simdgroups_n=4),
    DecodingTile(block_m=16, block_n=32, simdgroups_m=1, simdgroups_n=4),
    DecodingTile(block_m=8, block_n=64, simdgroups_m=1, simdgroups_n=4),
)
"""Low blocks are for few rows of an expert, which taller ones would pad; a wide one asks half as
often for rows, and for where an expert's are, and a narrow one leaves room for more of them."""

DEEP_CONFIGS = (
    DecodingTile(block_m=16, block_n=64, simdgroups_m=1, simdgroups_n=4, block_k=64),
    DecodingTile(block_m=16, block_n=64, simdgroups_m=1, simdgroups_n=4, block_k=128),
    DecodingTile(block_m=8, block_n=64, simdgroups_m=1, simdgroups_n=4, block_k=128),
)
"""For chips where copies go on in the background: the longer a step, the more are on their way."""


def resources(problem: ExpertProblem, config: DecodingTile) -> Resources:
    """Return threads, threadgroup memory and live registers."""
    w, transpose = staged_type(problem), problem.transpose
    tiles = staged_tiles(config.block, problem.x, w, transpose_b=transpose)
    return Resources(
        threads=config.threads,
        threadgroup_bytes=tiles.nbytes,
        registers=_registers(problem, config),
    )


def _registers(problem: ExpertProblem, config: DecodingTile) -> int:
    rows, columns = config.fragments_m, config.fragments_n
    deep = problem.k % config.block_k > 0
    wide = not problem.transpose and problem.n % FRAGMENT > 0
    unrolled = is_unrolled(problem.k, config.block_k)
    further = UNROLLED_REGISTERS * unrolled + RAGGED_REGISTERS * (deep or wide)
    if deep or wide:
        further += (UNROLLED_RAGGED_REGISTERS + columns) * unrolled
        further += RAGGED_DECODED_REGISTERS * problem.is_decoded
        further += BOTH_ENDS_REGISTERS * (problem.is_decoded and deep and wide)
    elif problem.is_decoded:
        further += DECODED_REGISTERS + BROKEN_CODE_REGISTERS * (problem.w.bits in BROKEN_BITS)
        further += WIDE_BLOCK_REGISTERS * max(0, columns - rows)
    return 2 * (rows * columns + rows + columns) + BASE_REGISTERS + further


def staged_type(problem: ExpertProblem) -> DType:
    """Return the type in which the weight is staged: its own, or what it is decoded to."""
    return FLOAT32 if problem.is_decoded else problem.w


def _run(problem: ExpertProblem) -> int:
    return tile_run(problem.w.bits) if problem.is_decoded else plain_run(problem.w)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec(TiledSpec, ExpertSpec):
    """Everything that the text of one GEMM with chosen matrices depends on.

    Attributes:
        config: The configuration.
        align_n: n is a multiple of ``block_n``, so columns need no guard.
        run: Neighbours of a row of the weight that a thread reads together.
    """

    KERNEL: ClassVar[str] = NAME

    config: DecodingTile
    align_n: bool
    run: int

    @property
    def tiles(self) -> StagedTiles:
        """The tiles of both operands as they are staged."""
        text = self.text
        return staged_tiles(self.config.block, text.x, self.staged, transpose_b=text.transpose)

    @property
    def staged(self) -> DType:
        """Type in which the weight is staged: its own, or what it is decoded to."""
        return FLOAT32 if self.text.is_decoded else self.text.w


def candidates(problem: ExpertProblem, chip: Chip) -> Iterator[DecodingTile]:
    """Yield every configuration, preferred ones first."""
    yield from CONFIGS
    if chip.limits.background_copies:
        yield from DEEP_CONFIGS


def reject(problem: ExpertProblem, config: DecodingTile, chip: Chip) -> str | None:
    """Return why the configuration may not serve the problem, or None."""
    if reason := reject_experts(problem):
        return reason
    return reject_resources(resources(problem, config)) or reject_grid(_grid(problem, config))


def cost(problem: ExpertProblem, config: DecodingTile, chip: Chip) -> float:
    """Return the modelled seconds of the configuration on the chip."""
    listing = 0.0 if problem.grouped else list_seconds(problem, chip)
    return listing + seconds(work(problem, config, chip), chip)


def work(problem: ExpertProblem, config: DecodingTile, chip: Chip) -> TileWork:
    """Return the work of the configuration: a GEMM of whole blocks, whose weights differ."""
    element = problem.expert_bytes / (problem.n * problem.k)
    return decoding_work(
        _blocks_product(problem, config),
        config,
        resources(problem, config),
        chip,
        instructions=config.block_n * weight_instructions(problem),
        depth_bytes=config.block_m * problem.x.bytes + config.block_n * element,
        dram_bytes=moved_bytes(problem),
    )


def _blocks_product(problem: ExpertProblem, config: DecodingTile) -> Product:
    return Product(
        m=expected_blocks(problem, config.block_m) * config.block_m,
        n=problem.n,
        k=problem.k,
        a=problem.x,
        b=staged_type(problem),
        out=problem.out,
        transpose_b=problem.transpose,
    )


def _grid(problem: ExpertProblem, config: DecodingTile) -> Extent:
    columns = ceil(problem.n / config.block_n)
    return (columns * config.threads, most_blocks(problem, config.block_m), 1)


@latest
def plan(problem: ExpertProblem, config: DecodingTile) -> Plan:
    """Return the plan of a configuration that `reject` accepts."""
    spec = Spec(
        text=expert_text(problem),
        listed=not problem.grouped,
        direct=False,
        config=config,
        align_n=problem.n % config.block_n == 0,
        run=_run(problem),
    )
    launch = Launch.of(
        problem.results,
        _grid(problem, config),
        config.threads,
        Sizes.of(spec, expert_sizes(problem)),
    )
    stage = Stage(spec=spec, launch=launch, resources=resources(problem, config))
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

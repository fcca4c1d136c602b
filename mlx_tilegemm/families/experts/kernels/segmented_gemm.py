"""Products of segments of the contracted axis: candidates, legality, cost and plan.

Of rows that are sorted by expert, it is the gradient of each expert's weight.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from math import ceil

from ....core.caches import latest
from ....core.dtypes import FLOAT16, FLOAT32, FLOATS, DType
from ....core.kernel import Kernel
from ....core.plan import (
    Arguments,
    Launch,
    Plan,
    Resources,
    Sizes,
    Stage,
)
from ....machine.chips.record import Chip
from ....machine.cost import TileWork, seconds
from ....machine.limits import reject_grid, reject_resources, reject_sizes, tiny_operand
from ....machine.products import Product, gemm_work
from ....machine.tiles import BlockTile, StagedTiles, TiledSpec, staged_tiles
from ..problem import SegmentedProblem

NAME = "segmented_gemm"

BASE_REGISTERS = 29
"""Registers beside sums and fragments, as Mesa's compiler for M1 has it. Likewise those below."""

RAGGED_REGISTERS = 2
"""Further ones where m or n is no multiple of the block."""

BROKEN_RUN_REGISTERS = 3
"""Further ones of each operand of which a stored row may then end within a run of elements."""

WIDE_REGISTERS = 2
"""Further ones of float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(BlockTile):
    """A tile shape.

    Attributes:
        block_m: Rows of a result that a threadgroup computes.
        block_n: Columns of a result that a threadgroup computes.
        block_k: Depth of one step.
        simdgroups_m: Simdgroups along the rows.
        simdgroups_n: Simdgroups along the columns.
    """

    block_m: int
    block_n: int
    block_k: int
    simdgroups_m: int
    simdgroups_n: int

    def __str__(self) -> str:
        block = f"{self.block_m}x{self.block_n}x{self.block_k}"
        return f"{block}-{self.simdgroups_m}x{self.simdgroups_n}"


CONFIGS = (
    Config(block_m=64, block_n=64, block_k=16, simdgroups_m=2, simdgroups_n=2),
    Config(block_m=32, block_n=32, block_k=16, simdgroups_m=2, simdgroups_n=2),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec(TiledSpec, Arguments):
    """Everything that the text of one product of segments depends on.

    Attributes:
        a: Element format of ``a``. Likewise ``b`` and ``out``.
        b: See ``a``.
        out: See ``a``.
        m: Rows of each result.
        n: Columns of each result.
        transpose_a: ``a`` is stored ``[k, m]``.
        transpose_b: ``b`` is stored ``[n, k]``.
        config: The configuration.
    """

    INPUTS = ("a", "b", "segments", "sizes")
    SIZES = ("k",)

    a: DType
    b: DType
    out: DType
    m: int
    n: int
    transpose_a: bool
    transpose_b: bool
    config: Config

    @property
    def template(self) -> str:
        """Template of the kernel."""
        return f"experts/{NAME}.metal.j2"

    @property
    def label(self) -> str:
        """Readable part of the kernel's name, legal in a Metal name."""
        layout = ("t" if self.transpose_a else "n") + ("t" if self.transpose_b else "n")
        block = f"{self.config.block_m}x{self.config.block_n}x{self.config.block_k}"
        dtypes = f"{self.a}_{self.b}_{self.out}"
        return f"tilegemm_{NAME}_{layout}_{dtypes}_{block}_m{self.m}_n{self.n}"

    @property
    def tiles(self) -> StagedTiles:
        """The tiles of both operands as they are staged."""
        return _staged_tiles(self, self.config)


def _staged_tiles(of: Spec | SegmentedProblem, config: Config) -> StagedTiles:
    layout = {"transpose_a": of.transpose_a, "transpose_b": of.transpose_b}
    return staged_tiles(config.block, of.a, of.b, **layout)


def candidates(problem: SegmentedProblem, chip: Chip) -> Iterator[Config]:
    """Yield every configuration, preferred ones first."""
    yield from CONFIGS


def reject(problem: SegmentedProblem, config: Config, chip: Chip) -> str | None:
    """Return why the configuration may not serve the problem, or None."""
    if problem.is_empty:
        return "there is nothing to multiply"
    reason = tiny_operand(problem.operands[:2]) or reject_sizes((problem.k, problem.segments))
    if reason:
        return reason
    return reject_resources(_resources(problem, config)) or reject_grid(
        config.grid(problem.m, problem.n, problem.segments)
    )


def _resources(problem: SegmentedProblem, config: Config) -> Resources:
    rows, columns = config.fragments_m, config.fragments_n
    further = WIDE_REGISTERS * (FLOAT32 in (problem.a, problem.b))
    if problem.m % config.block_m or problem.n % config.block_n:
        further += RAGGED_REGISTERS
        further += BROKEN_RUN_REGISTERS * (problem.transpose_a + (not problem.transpose_b))
    return Resources(
        threads=config.threads,
        threadgroup_bytes=_staged_tiles(problem, config).nbytes,
        registers=2 * (rows * columns + rows + columns) + BASE_REGISTERS + further,
    )


def cost(problem: SegmentedProblem, config: Config, chip: Chip) -> float:
    """Return the modelled seconds of the configuration on the chip."""
    return seconds(work(problem, config, chip), chip)


def work(problem: SegmentedProblem, config: Config, chip: Chip) -> TileWork:
    """Return the work of the configuration: a batch of products of segments that are alike."""
    needs = _resources(problem, config)
    return gemm_work(segments_product(problem), config.modelled(needs), chip)


def segments_product(problem: SegmentedProblem) -> Product:
    """Return the products of all segments, were they as long as each other."""
    return Product(
        m=problem.m,
        n=problem.n,
        k=max(1, ceil(problem.k / problem.segments)),
        a=problem.a,
        b=problem.b,
        out=problem.out,
        transpose_a=problem.transpose_a,
        transpose_b=problem.transpose_b,
        batch_size=problem.segments,
        a_matrices=problem.segments,
        b_matrices=problem.segments,
    )


@latest
def plan(problem: SegmentedProblem, config: Config) -> Plan:
    """Return the plan of a configuration that `reject` accepts."""
    spec = Spec(
        a=problem.a,
        b=problem.b,
        out=problem.out,
        m=problem.m,
        n=problem.n,
        transpose_a=problem.transpose_a,
        transpose_b=problem.transpose_b,
        config=config,
    )
    launch = Launch.of(
        problem.results,
        config.grid(problem.m, problem.n, problem.segments),
        config.threads,
        Sizes.of(spec, {"k": problem.k}),
    )
    stage = Stage(spec=spec, launch=launch, resources=_resources(problem, config))
    return Plan(kernel=NAME, config=config, stages=(stage,))


def variant(
    m: int,
    n: int,
    k: int,
    *,
    segments: int = 5,
    a: DType = FLOAT16,
    b: DType = FLOAT16,
    out: DType = FLOAT16,
    transpose_a: bool = False,
    transpose_b: bool = False,
) -> SegmentedProblem:
    """Return the problem of segments with everything but what is named left at its default."""
    return SegmentedProblem(
        m=m,
        n=n,
        k=k,
        segments=segments,
        a=a,
        b=b,
        out=out,
        transpose_a=transpose_a,
        transpose_b=transpose_b,
        out_shape=(segments, m, n),
    )


def variant_problems() -> Iterator[SegmentedProblem]:
    """Yield small problems that together reach every flag of the text."""
    for transpose_a, transpose_b in product((False, True), repeat=2):
        shape = partial(variant, transpose_a=transpose_a, transpose_b=transpose_b)
        for a, b in zip(FLOATS, (*FLOATS[1:], FLOATS[0]), strict=True):
            yield shape(33, 37, 71, a=a, b=b, out=b)
        yield shape(64, 64, 64)


KERNEL = Kernel(
    name=NAME,
    problem_type=SegmentedProblem,
    candidates=candidates,
    reject=reject,
    cost=cost,
    plan=plan,
    variant_problems=variant_problems,
)

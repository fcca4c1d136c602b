"""Product of few rows with a matrix: candidates, legality, cost and plan.

Decoding multiplies one or a few rows with a weight, which is bound by reading the weight: this
kernel reads it once, in its own type, and multiplies every row with what it read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import ClassVar

from ....core.caches import latest
from ....core.dtypes import BFLOAT16, FLOAT16, FLOAT32, FLOATS, DType
from ....core.kernel import Kernel
from ....core.plan import SIMD_WIDTH, Extent, Launch, Plan, Resources, Sizes, Stage
from ....machine.chips.record import Chip
from ....machine.cost import TileWork, seconds
from ....machine.gemv import GemvTile, gemv_resources, reject_height
from ....machine.limits import reject_grid, reject_resources
from ....machine.products import dram_bytes
from ..problem import GemmProblem
from ..spec import (
    GemmSpec,
    gemm_factors,
    gemm_sizes,
    gemm_text,
    reject_gemm,
    rows_decide,
    tiny_gemm_operand,
)
from ..spec import variant as gemm_variant

NAME = "gemv"
MAX_ROWS = 16
"""Beyond it the rows no longer fit a thread's registers beside the columns they meet."""

VECTOR_BYTES = 16


CONFIGS = (
    GemvTile(rows=1, columns=4, simdgroups=8),
    GemvTile(rows=4, columns=4, simdgroups=8),
    GemvTile(rows=16, columns=2, simdgroups=4),
)
"""Few heights, so that decoding in batches of any size needs few kernels. Several columns share
what is read of ``a``, which with many rows is most of what a simdgroup reads; more than two of them
would want more registers than there are beside sixteen rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec(GemmSpec):
    """Everything that the text of one small-m product depends on.

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
    def block(self) -> tuple[int, int, int]:
        """Rows and columns of the result that a threadgroup computes, and the depth of a step."""
        columns = self.config.block_columns(self.vector_length, self.text.transpose_b)
        return (self.config.rows, columns, SIMD_WIDTH * self.vector_length)

    @property
    def vector_length(self) -> int:
        """Elements of ``b`` that a lane reads at once; fewer where many rows share registers."""
        return vector_length(self.text.b, self.config.rows)

    @property
    def align_k(self) -> bool:
        """Whether k is whole steps of a simdgroup."""
        return self.text.k % (SIMD_WIDTH * self.vector_length) == 0

    @property
    def shares_elements(self) -> int:
        """Partial sums of one row that the simdgroups of a threadgroup exchange."""
        return self.config.shares_elements(self.vector_length)


def vector_length(b: DType, rows: int) -> int:
    """Return the elements of ``b`` that a lane reads at once."""
    return min(VECTOR_BYTES // b.bytes, 4 if rows > 4 else VECTOR_BYTES)


def candidates(problem: GemmProblem, chip: Chip) -> Iterator[GemvTile]:
    """Yield every configuration, preferred ones first."""
    yield from CONFIGS


def reject(problem: GemmProblem, config: GemvTile, chip: Chip) -> str | None:
    """Return why the configuration may not serve the problem, or None."""
    if problem.is_integer:
        return f"it multiplies floats, not {problem.a} and {problem.b}"
    reason = reject_gemm(problem) or tiny_gemm_operand(problem) or rows_decide(problem)
    if reason:
        return reason
    if problem.m > MAX_ROWS:
        return f"m {problem.m} is above {MAX_ROWS}: it reads b again for every {config.rows} rows"
    if reason := reject_height(problem.m, config, CONFIGS):
        return reason
    needs = _resources(problem, config)
    return reject_resources(needs) or reject_grid(_grid(problem, config))


def _resources(problem: GemmProblem, config: GemvTile) -> Resources:
    length = vector_length(problem.b, config.rows)
    registers = _registers(problem, config, length)
    return gemv_resources(config, length, problem.transpose_b, registers)


def _registers(problem: GemmProblem, config: GemvTile, length: int) -> int:
    """Return the estimated live registers of a thread, as Mesa's compiler for M1 has them."""
    rows = config.rows
    if not problem.transpose_b:
        transposed = 3 * rows // 2 if problem.transpose_a else 0
        return (rows + 1) * length + 3 * rows // 2 + 12 + transposed
    # Sums, runs of b and what each row of a takes.
    elements = config.columns * length
    held = rows * config.columns + elements * problem.b.bytes // FLOAT32.bytes
    held += (9 * rows + 28) * problem.transpose_a
    if problem.k >= SIMD_WIDTH * length:
        return held + 2 * rows + 18 + 7 * (problem.b is BFLOAT16)
    # Elements are chosen one by one, and those of bfloat16 have a register each.
    widened = elements // 2 * (problem.b is BFLOAT16)
    return held + rows // 2 + 3 * rows // 2 * (problem.a is not FLOAT16) + 14 + widened


def _block_columns(problem: GemmProblem, config: GemvTile) -> int:
    return config.block_columns(vector_length(problem.b, config.rows), problem.transpose_b)


def cost(problem: GemmProblem, config: GemvTile, chip: Chip) -> float:
    """Return the modelled seconds of the configuration on the chip."""
    return seconds(work(problem, config, chip), chip)


def work(problem: GemmProblem, config: GemvTile, chip: Chip) -> TileWork:
    """Return the work of the configuration, as the model counts it."""
    columns = _block_columns(problem, config)
    depth = problem.k if problem.transpose_b else ceil(problem.k / config.simdgroups)
    per_simdgroup = config.rows * columns * depth / SIMD_WIDTH
    if problem.transpose_b:
        per_simdgroup /= config.simdgroups
    b_bytes = columns * problem.k * problem.b.bytes
    a_bytes = config.rows * problem.k * problem.a.bytes
    # Each simdgroup reads all of the rows of a, or its share of their depth.
    a_repeated = (config.simdgroups - 1) * a_bytes if problem.transpose_b else 0
    passes = ceil(problem.m / config.rows)
    return TileWork(
        tiles=ceil(problem.n / columns) * passes * problem.batch_size,
        simdgroups=config.simdgroups,
        chains=config.rows * config.columns,
        issue_cycles=config.simdgroups * per_simdgroup * chip.alu_cycles,
        threadgroup_bytes=0
        if problem.transpose_b
        else 8 * config.rows * config.simdgroups * columns,
        vector_bytes=a_repeated,
        cache_bytes=b_bytes + a_bytes,
        repeated_bytes=a_repeated,
        dram_bytes=dram_bytes(problem.product) + (passes - 1) * problem.nbytes("b"),
    )


def _grid(problem: GemmProblem, config: GemvTile) -> Extent:
    blocks = ceil(problem.n / _block_columns(problem, config))
    return (blocks * config.threads, ceil(problem.m / config.rows), problem.batch_size)


@latest
def plan(problem: GemmProblem, config: GemvTile) -> Plan:
    """Return the plan of a configuration that `reject` accepts."""
    spec = Spec(text=gemm_text(problem), config=config)
    launch = Launch.of(
        problem.results, _grid(problem, config), config.threads, Sizes.of(spec, gemm_sizes(problem))
    )
    return Plan(
        kernel=NAME,
        config=config,
        stages=(Stage(spec=spec, launch=launch, resources=_resources(problem, config)),),
        factors=gemm_factors(problem),
    )


def variant_problems() -> Iterator[GemmProblem]:
    """Yield small problems that together reach every flag of the text."""
    for rows in (1, 3, 11):
        for transpose_b in (False, True):
            for a, b in ((x, y) for x in FLOATS for y in FLOATS):
                yield gemm_variant(a, b, rows, 37, 43, transpose_b=transpose_b)
            yield gemm_variant(FLOAT16, FLOAT32, rows, 256, 256, transpose_b=transpose_b)
            yield gemm_variant(
                FLOAT32, BFLOAT16, rows, 37, 300, transpose_a=True, transpose_b=transpose_b
            )
            yield gemm_variant(
                FLOAT32, FLOAT16, rows, 300, 19, transpose_b=transpose_b, c=FLOAT16, c_shape=(300,)
            )
            yield gemm_variant(
                FLOAT32, FLOAT16, rows, 40, 19, transpose_b=transpose_b, a_batch=(3,), b_batch=(3,)
            )


KERNEL = Kernel(
    name=NAME,
    problem_type=GemmProblem,
    candidates=candidates,
    reject=reject,
    cost=cost,
    plan=plan,
    variant_problems=variant_problems,
)

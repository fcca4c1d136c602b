"""GEMM with k shared out among threadgroups, for results too small to fill the GPU.

Shares of k are simdgroup GEMMs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from ....core.caches import latest
from ....core.dtypes import BFLOAT16, FLOAT16, FLOAT32, FLOATS
from ....core.kernel import Kernel
from ....core.plan import Launch, Plan, Sizes, Stage
from ....machine.chips.record import Chip
from ....machine.cost import seconds
from ....machine.limits import reject_grid
from ....machine.products import Product
from ....machine.splits import (
    ADDING,
    AddingSpec,
    adding_grid,
    adding_seconds,
    reject_shares,
    share_count,
    share_depth,
    share_stage,
)
from ..problem import GemmProblem
from ..spec import GemmSpec, gemm_factors, gemm_sizes, gemm_text, rows_decide
from ..spec import variant as gemm_variant
from . import gemm_simdgroup

NAME = "gemm_split_k"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Configuration of each share, and how many there are.

    Attributes:
        share: Configuration of the simdgroup GEMM.
        splits: Shares of k, fewer where whole steps leave fewer.
    """

    share: gemm_simdgroup.Config
    splits: int

    def __str__(self) -> str:
        return f"{self.share}-split{self.splits}"


SHARE = gemm_simdgroup.Config(
    block_m=32, block_n=32, block_k=16, simdgroups_m=2, simdgroups_n=2, staged=True
)
"""The smallest block: a result too small to fill the GPU lacks blocks."""

CONFIGS = tuple(Config(share=SHARE, splits=splits) for splits in (4, 16, 32, 64))
"""Few, so that prompts of varying length need few kernels."""

DEEP_SHARES = tuple(
    gemm_simdgroup.Config(
        block_m=block_m,
        block_n=64,
        block_k=block_k,
        simdgroups_m=simdgroups_m,
        simdgroups_n=4 // simdgroups_m,
        staged=True,
    )
    for block_m, block_k, simdgroups_m in ((16, 128, 1), (64, 64, 2))
)
DEEP_CONFIGS = tuple(
    Config(share=share, splits=splits) for share in DEEP_SHARES for splits in (4, 8)
)
"""For chips where copies go on in the background: the longer a step, the more are on their way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReduceSpec(AddingSpec, GemmSpec):
    """Everything that the text of the adding kernel depends on.

    Attributes:
        splits: Shares of k.
    """

    KERNEL: ClassVar[str] = "reduce_splits"
    INPUTS = ("partials", "c", "factors", "sizes")

    splits: int


def candidates(problem: GemmProblem, chip: Chip) -> Iterator[Config]:
    """Yield every configuration, preferred ones first."""
    yield from CONFIGS
    if chip.limits.background_copies:
        yield from DEEP_CONFIGS


def reject(problem: GemmProblem, config: Config, chip: Chip) -> str | None:
    """Return why the configuration may not serve the problem, or None."""
    if problem.batch:
        return "a batch already fills the third dimension of the grid"
    if reason := _reject_share(problem, config.share, chip):
        return reason
    block_k = config.share.block_k
    shares = reject_shares(problem.k, config.splits, block_k, block_k)
    return shares or reject_grid(adding_grid(problem.m * problem.n))


@latest
def _reject_share(problem: GemmProblem, share: gemm_simdgroup.Config, chip: Chip) -> str | None:
    """Return why shares of the problem may not be computed like this, or None."""
    return rows_decide(problem) or gemm_simdgroup.reject(_share_problem(problem), share, chip)


def split_depth(k: int, config: Config) -> int:
    """Return the depth of one share: whole steps, as even as can be."""
    return share_depth(k, config.splits, config.share.block_k)


def split_count(k: int, config: Config) -> int:
    """Return how many shares there are."""
    return share_count(k, config.splits, config.share.block_k)


@latest
def _share_problem(problem: GemmProblem) -> GemmProblem:
    return replace(problem, c=None, c_rows=False, c_columns=False, scaled=False, out=FLOAT32)


def cost(problem: GemmProblem, config: Config, chip: Chip) -> float:
    """Return the modelled seconds of the configuration on the chip."""
    splits = split_count(problem.k, config)
    # A share is a product of its depth in a batch of as many as there are shares.
    shares = Product(
        m=problem.m,
        n=problem.n * splits,
        k=split_depth(problem.k, config),
        a=problem.a,
        b=problem.b,
        out=FLOAT32,
        transpose_a=problem.transpose_a,
        transpose_b=problem.transpose_b,
    )
    time = seconds(gemm_simdgroup.work(shares, config.share, chip), chip)
    return time + adding_seconds(problem.m * problem.n, splits, problem.out.bytes, chip)


@latest
def plan(problem: GemmProblem, config: Config) -> Plan:
    """Return the plan of a configuration that `reject` accepts."""
    return Plan(
        kernel=NAME,
        config=config,
        stages=(_share_stage(problem, config), _reduce_stage(problem, config)),
        factors=gemm_factors(problem),
    )


def _share_stage(problem: GemmProblem, config: Config) -> Stage:
    (whole,) = gemm_simdgroup.plan(_share_problem(problem), config.share).stages
    assert isinstance(whole.spec, gemm_simdgroup.Spec)
    spec = replace(whole.spec, split_k=split_depth(problem.k, config))
    return share_stage(whole, spec, split_count(problem.k, config))


def _reduce_stage(problem: GemmProblem, config: Config) -> Stage:
    spec = ReduceSpec(text=gemm_text(problem), splits=split_count(problem.k, config))
    launch = Launch.of(
        problem.results,
        adding_grid(problem.m * problem.n),
        ADDING.threads,
        Sizes.of(spec, gemm_sizes(problem)),
    )
    return Stage(spec=spec, launch=launch, resources=ADDING)


def variant_problems() -> Iterator[GemmProblem]:
    """Yield small problems that together reach every flag of the text."""
    for a, b in ((x, y) for x in FLOATS for y in FLOATS):
        yield gemm_variant(a, b, 33, 37, 555)
    for transpose_a in (False, True):
        for transpose_b in (False, True):
            for k in (512, 555):
                yield gemm_variant(
                    FLOAT16, FLOAT32, 33, 64, k, transpose_a=transpose_a, transpose_b=transpose_b
                )
    yield gemm_variant(FLOAT16, FLOAT32, 33, 37, 2100)
    # Long enough for shares of long steps.
    for a, b in ((FLOAT16, BFLOAT16), (FLOAT32, BFLOAT16), (FLOAT32, FLOAT32)):
        yield gemm_variant(a, b, 33, 37, 1100, transpose_b=True)
    yield gemm_variant(FLOAT16, FLOAT32, 33, 37, 512, scaled=True)
    for c in FLOATS:
        yield gemm_variant(BFLOAT16, FLOAT16, 33, 37, 512, c=c, c_shape=(37,))
        yield gemm_variant(BFLOAT16, FLOAT16, 33, 37, 512, c=c, c_shape=(33, 1), out=FLOAT16)


KERNEL = Kernel(
    name=NAME,
    problem_type=GemmProblem,
    candidates=candidates,
    reject=reject,
    cost=cost,
    plan=plan,
    variant_problems=variant_problems,
)

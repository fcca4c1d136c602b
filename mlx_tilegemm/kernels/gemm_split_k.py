"""GEMM with k shared out among threadgroups, for results too small to fill the GPU.

Two kernels: simdgroup GEMMs of a share of k each, which leave float32 shares of the result, and one
that adds the shares up in order and finishes the result. No atomics: results repeat bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil
from typing import ClassVar

from ..chips.record import Chip
from ..dtypes import BFLOAT16, FLOAT16, FLOAT32, FLOATS
from ..plan import Launch, Plan, Resources, Sizes, Stage
from ..problem import GemmProblem, Problem
from . import gemm_simdgroup
from .gemm import (
    GemmSpec,
    gemm_factors,
    gemm_fields,
    gemm_sizes,
    rows_decide,
)
from .gemm import (
    variant as gemm_variant,
)
from .limits import reject_plan

NAME = "gemm_split_k"
PROBLEM = GemmProblem
REDUCE_THREADS = 256
REDUCE_REGISTERS = 24
MIN_STEPS = 4
"""Steps of block_k that a share has at least; shorter ones cost more to add up than they save."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """How each share is computed, and how many there are.

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

SPLITS = (4, 16, 32, 64)
"""Few, so that prompts of varying length need few kernels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReduceSpec(GemmSpec):
    """What the text of the adding kernel depends on.

    Attributes:
        splits: Shares of k.
    """

    KERNEL: ClassVar[str] = "reduce_splits"
    INPUTS = ("partials", "c", "factors", "sizes")

    splits: int

    @property
    def block(self) -> tuple[int, int, int]:
        """Rows and columns of the result that a threadgroup computes, and the depth of a step."""
        return (1, REDUCE_THREADS, self.splits)

    @property
    def threads(self) -> int:
        """Threads of one threadgroup."""
        return REDUCE_THREADS

    @property
    def resources(self) -> Resources:
        """Threads and live registers."""
        return Resources(threads=self.threads, threadgroup_bytes=0, registers=REDUCE_REGISTERS)


def candidates(problem: Problem, chip: Chip) -> Iterator[Config]:
    """Yield every configuration, preferred ones first."""
    for splits in SPLITS:
        yield Config(share=SHARE, splits=splits)


def reject(problem: Problem, config: Config, chip: Chip) -> str | None:
    """Return why the configuration may not serve the problem, or None."""
    assert isinstance(problem, GemmProblem)
    if problem.batch:
        return "a batch already fills the third dimension of the grid"
    reason = rows_decide(problem) or gemm_simdgroup.reject(
        _share_problem(problem), config.share, chip
    )
    if reason:
        return reason
    depth = split_depth(problem.k, config)
    if depth < MIN_STEPS * config.share.block_k or split_count(problem.k, config) < 2:
        return f"k {problem.k} is too short for {config.splits} shares"
    return reject_plan(plan(problem, config))


def split_depth(k: int, config: Config) -> int:
    """Return the depth of one share: whole steps, as even as can be."""
    return ceil(ceil(k / config.splits) / config.share.block_k) * config.share.block_k


def split_count(k: int, config: Config) -> int:
    """Return how many shares there are."""
    return ceil(k / split_depth(k, config))


def _share_problem(problem: GemmProblem) -> GemmProblem:
    return replace(problem, c=None, c_rows=False, c_columns=False, scaled=False, out=FLOAT32)


def cost(problem: Problem, config: Config, chip: Chip) -> float:
    """Return the modelled seconds of the configuration on the chip."""
    assert isinstance(problem, GemmProblem)
    splits = split_count(problem.k, config)
    # A share is a product of its depth in a batch of as many as there are shares.
    shares = replace(
        _share_problem(problem),
        k=split_depth(problem.k, config),
        m=problem.m,
        n=problem.n * splits,
    )
    written = 4 * problem.m * problem.n * splits
    adding = chip.launch_seconds + (written + problem.m * problem.n * problem.out.bytes) / (
        chip.dram_bytes_per_second
    )
    return gemm_simdgroup.cost(shares, config.share, chip) + adding


def plan(problem: Problem, config: Config) -> Plan:
    """Return the plan of a configuration that `reject` accepts."""
    assert isinstance(problem, GemmProblem)
    return Plan(
        kernel=NAME,
        config=str(config),
        stages=(_share_stage(problem, config), _reduce_stage(problem, config)),
        factors=gemm_factors(problem),
    )


def _share_stage(problem: GemmProblem, config: Config) -> Stage:
    (whole,) = gemm_simdgroup.plan(_share_problem(problem), config.share).stages
    assert isinstance(whole.spec, gemm_simdgroup.Spec)
    spec = replace(whole.spec, split_k=split_depth(problem.k, config))
    splits = split_count(problem.k, config)
    launch = replace(
        whole.launch,
        grid=(*whole.launch.grid[:2], splits),
        output_shapes=((splits, problem.m, problem.n),),
    )
    return Stage(spec=spec, launch=launch, resources=spec.resources)


def _reduce_stage(problem: GemmProblem, config: Config) -> Stage:
    splits = split_count(problem.k, config)
    spec = ReduceSpec(
        **gemm_fields(problem),
        splits=splits,
    )
    launch = Launch(
        grid=(ceil(problem.m * problem.n / REDUCE_THREADS) * REDUCE_THREADS, 1, 1),
        threadgroup=(REDUCE_THREADS, 1, 1),
        sizes=Sizes.of(spec, gemm_sizes(problem)),
        output_shapes=(problem.out_shape,),
        output_dtypes=(problem.out,),
    )
    return Stage(spec=spec, launch=launch, resources=spec.resources)


def variant_problems() -> Iterator[Problem]:
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
    yield gemm_variant(FLOAT16, FLOAT32, 33, 37, 512, scaled=True)
    for c in FLOATS:
        yield gemm_variant(BFLOAT16, FLOAT16, 33, 37, 512, c=c, c_shape=(37,))
        yield gemm_variant(BFLOAT16, FLOAT16, 33, 37, 512, c=c, c_shape=(33, 1), out=FLOAT16)

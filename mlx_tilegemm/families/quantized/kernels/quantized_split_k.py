"""GEMM with a quantized weight and k shared out among threadgroups, for some tens of rows.

Shares of k are quantized GEMMs of low blocks, which pad few rows; what there is of them alone would
be too few threadgroups for the GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import lcm
from typing import ClassVar

from ....core.caches import latest
from ....core.dtypes import BFLOAT16, FLOAT16, FLOAT32
from ....core.kernel import Kernel
from ....core.plan import Launch, Plan, Stage
from ....machine.chips.record import Chip
from ....machine.cost import seconds
from ....machine.decoding import DecodingTile
from ....machine.limits import reject_grid
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
from ..problem import QuantizedProblem
from ..spec import QuantizedSpec, launch_sizes, quantized_text, variant
from . import quantized_gemm

NAME = "quantized_split_k"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Configuration of each share, and how many there are.

    Attributes:
        share: Configuration of the quantized GEMM.
        splits: Shares of k, fewer where whole groups leave fewer.
    """

    share: DecodingTile
    splits: int

    def __str__(self) -> str:
        return f"{self.share}-split{self.splits}"


SHARES = tuple(
    DecodingTile(block_m=rows, block_n=64, simdgroups_m=1, simdgroups_n=4) for rows in (16, 32)
)
"""Low blocks: a result of more rows has blocks enough."""

CONFIGS = tuple(Config(share=share, splits=splits) for splits in (4, 8, 16) for share in SHARES)
"""Few, so that prompts of varying length need few kernels."""

DEEP_CONFIGS = tuple(
    Config(share=replace(share, block_k=64), splits=8)
    for share in (*SHARES, DecodingTile(block_m=64, block_n=64, simdgroups_m=2, simdgroups_n=2))
)
"""For chips where copies go on in the background: the longer a step, the more are on their way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReduceSpec(AddingSpec, QuantizedSpec):
    """Everything that the text of the adding kernel depends on.

    Attributes:
        splits: Shares of k.
    """

    KERNEL: ClassVar[str] = "quantized_reduce"
    INPUTS = ("partials", "global_scale", "bias", "sizes")

    splits: int


def candidates(problem: QuantizedProblem, chip: Chip) -> Iterator[Config]:
    """Yield every configuration, preferred ones first."""
    yield from CONFIGS
    if chip.limits.background_copies:
        yield from DEEP_CONFIGS


def reject(problem: QuantizedProblem, config: Config, chip: Chip) -> str | None:
    """Return why the configuration may not serve the problem, or None."""
    if problem.batch:
        return "a batch already fills the third dimension of the grid"
    if problem.batch_invariant:
        return "batch_invariant: the order of its sums depends on the number of rows"
    if reason := _reject_share(problem, config.share, chip):
        return reason
    step, block_k = _step(problem, config), config.share.block_k
    shares = reject_shares(problem.k, config.splits, step, block_k)
    return shares or reject_grid(adding_grid(problem.m * problem.n))


@latest
def _reject_share(problem: QuantizedProblem, share: DecodingTile, chip: Chip) -> str | None:
    """Return why shares of the problem may not be computed like this, or None."""
    return quantized_gemm.reject(_share_problem(problem), share, chip)


@latest
def _share_problem(problem: QuantizedProblem) -> QuantizedProblem:
    return replace(problem, tensor_scale=False, bias=None, out=FLOAT32)


def _step(problem: QuantizedProblem, config: Config) -> int:
    """Return what the depth of a share is a multiple of: steps, and groups along k."""
    group = problem.weight.group if problem.transpose else 1
    return lcm(config.share.block_k, group)


def _depth(problem: QuantizedProblem, config: Config) -> int:
    return share_depth(problem.k, config.splits, _step(problem, config))


def _count(problem: QuantizedProblem, config: Config) -> int:
    return share_count(problem.k, config.splits, _step(problem, config))


def cost(problem: QuantizedProblem, config: Config, chip: Chip) -> float:
    """Return the modelled seconds of the configuration on the chip."""
    splits = _count(problem, config)
    share = replace(_share_problem(problem), k=_depth(problem, config))
    work = quantized_gemm.work(share, config.share, chip)
    whole = work._replace(tiles=work.tiles * splits, dram_bytes=work.dram_bytes * splits)
    adding = adding_seconds(problem.m * problem.n, splits, problem.out.bytes, chip)
    return seconds(whole, chip) + adding


@latest
def plan(problem: QuantizedProblem, config: Config) -> Plan:
    """Return the plan of a configuration that `reject` accepts."""
    stages = (_share_stage(problem, config), _reduce_stage(problem, config))
    return Plan(kernel=NAME, config=config, stages=stages)


def _share_stage(problem: QuantizedProblem, config: Config) -> Stage:
    (whole,) = quantized_gemm.plan(_share_problem(problem), config.share).stages
    assert isinstance(whole.spec, quantized_gemm.Spec)
    spec = replace(whole.spec, split_k=_depth(problem, config))
    return share_stage(whole, spec, _count(problem, config))


def _reduce_stage(problem: QuantizedProblem, config: Config) -> Stage:
    spec = ReduceSpec(text=quantized_text(problem), splits=_count(problem, config))
    launch = Launch.of(
        problem.results,
        adding_grid(problem.m * problem.n),
        ADDING.threads,
        launch_sizes(problem, spec),
    )
    return Stage(spec=spec, launch=launch, resources=ADDING)


def variant_problems() -> Iterator[QuantizedProblem]:
    """Yield small problems that together reach every flag of the texts."""
    for transpose in (True, False):
        # Shares of several steps, the last one shorter, and a last step that is.
        n, k = (37, 1136) if transpose else (96, 555)
        yield variant(19, n, k, mode="nvfp4", transpose=transpose, tensor_scale=True, bias=FLOAT16)
        yield variant(19, n, k, bits=3, group=128, x=BFLOAT16, out=FLOAT32, transpose=transpose)
        yield variant(19, 64, 512, mode="mxfp8", bias=FLOAT32, out=BFLOAT16, transpose=transpose)
    yield variant(19, 64, 2100, transpose=False)


KERNEL = Kernel(
    name=NAME,
    problem_type=QuantizedProblem,
    candidates=candidates,
    reject=reject,
    cost=cost,
    plan=plan,
    variant_problems=variant_problems,
)

"""Gated delta update in two kernels: candidates, legality, cost and plan.

What the tokens of a chunk are to each other needs no state: the first kernel computes it for all
chunks at once, and the second goes from chunk to chunk with the rest. That pays where a sequence is
long and several threadgroups of a head would compute it each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import ClassVar

from ....core.caches import latest
from ....core.dtypes import FLOAT32
from ....core.kernel import Kernel
from ....core.plan import SIMD_WIDTH, Launch, Plan, Resources, Sizes, Stage
from ....machine.chips.record import Chip
from ....machine.cost import TileWork, seconds
from ....machine.limits import reject_grid, reject_threadgroup
from ..problem import CHUNK, DeltaProblem
from ..spec import DeltaSpec, delta_launch, delta_sizes, delta_text, variant_problems
from . import delta_chunk
from .delta_chunk import Config

NAME = "delta_scan"

PREPARING = 4
"""Simdgroups of a threadgroup of the first kernel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareSpec(DeltaSpec):
    """Everything that the text of the first kernel depends on."""

    KERNEL: ClassVar[str] = "delta_prepare"
    INPUTS: ClassVar[tuple[str, ...]] = ("q", "k", "gamma", "beta", "mask", "sizes")
    OUTPUTS: ClassVar[tuple[str, ...]] = ("scores",)
    SIZES: ClassVar[tuple[str, ...]] = ("length", "key_heads", "value_heads")

    simdgroups: int = PREPARING

    @property
    def lacks(self) -> frozenset[str]:
        """Inputs that this variant is not given."""
        return frozenset() if self.text.mask else frozenset({"mask"})

    @property
    def variant(self) -> str:
        """The configuration as a part of a Metal name."""
        return str(self.simdgroups)

    @property
    def threads(self) -> int:
        """Threads of one threadgroup."""
        return self.simdgroups * SIMD_WIDTH


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec(delta_chunk.Spec):
    """Everything that the text of the second kernel depends on."""

    KERNEL: ClassVar[str] = NAME
    INPUTS: ClassVar[tuple[str, ...]] = (
        *DeltaSpec.INPUTS[:-2],
        "scores",
        *DeltaSpec.INPUTS[-2:],
    )


def candidates(problem: DeltaProblem, chip: Chip) -> Iterator[Config]:
    """Yield every configuration, preferred ones first."""
    yield from delta_chunk.CONFIGS


def reject(problem: DeltaProblem, config: Config, chip: Chip) -> str | None:
    """Return why the configuration may not serve the problem, or None."""
    if reason := delta_chunk.reject(problem, config, chip):
        return reason
    if reason := reject_threadgroup(resources(config, problem), chip):
        return reason
    return reject_grid((_chunks(problem) * PREPARING * SIMD_WIDTH, 1, problem.matrices))


def cost(problem: DeltaProblem, config: Config, chip: Chip) -> float:
    """Return the modelled seconds of the configuration on the chip."""
    preparing = seconds(_preparing(problem, chip), chip)
    return preparing + seconds(work(problem, config, chip), chip)


def work(problem: DeltaProblem, config: Config, chip: Chip) -> TileWork:
    """Return the work of the second kernel, as the model counts it."""
    whole = delta_chunk.work(problem, config, chip)
    chunks = _chunks(problem)
    scored = chunks * delta_chunk.score_instructions(problem) * chip.alu_cycles
    read = chunks * score_count(problem) * FLOAT32.bytes
    return whole._replace(
        alu_cycles=whole.alu_cycles - scored,
        vector_bytes=whole.vector_bytes / 2,
        cache_bytes=whole.cache_bytes + read,
        dram_bytes=whole.dram_bytes + problem.matrices * read,
        registers=resources(config, problem).registers,
    )


def _preparing(problem: DeltaProblem, chip: Chip) -> TileWork:
    """Return the work of the first kernel."""
    key_bytes = CHUNK * problem.key_dim * (problem.q.bytes + problem.k.bytes)
    written = score_count(problem) * FLOAT32.bytes
    return TileWork(
        tiles=_chunks(problem) * problem.matrices,
        simdgroups=PREPARING,
        chains=2,
        issue_cycles=0,
        alu_cycles=delta_chunk.score_instructions(problem) * chip.alu_cycles,
        threadgroup_bytes=2 * written,
        cache_bytes=key_bytes + written,
        dram_bytes=problem.nbytes("q") + problem.nbytes("k") + problem.nbytes("gamma"),
        registers=_prepare_resources(problem).registers,
        threadgroup_memory=written,
    )


def score_count(problem: DeltaProblem) -> int:
    """Return how many numbers say what the tokens of a chunk are to each other."""
    return 3 * CHUNK * CHUNK + (2 + problem.vector_gate) * CHUNK


def _chunks(problem: DeltaProblem) -> int:
    return ceil(problem.length / CHUNK)


def _prepare_resources(problem: DeltaProblem) -> Resources:
    """Return what the first kernel needs: three registers for each element of a lane's key."""
    elements = ceil(problem.key_dim / SIMD_WIDTH)
    return Resources(
        threads=PREPARING * SIMD_WIDTH,
        threadgroup_bytes=score_count(problem) * FLOAT32.bytes,
        registers=26 + 3 * elements + 25 * problem.vector_gate,
    )


def resources(config: Config, problem: DeltaProblem) -> Resources:
    """Return what the second kernel needs: no scores are computed in it, but read."""
    held = delta_chunk.held_registers(config, problem)
    # Fewer decays of a row are kept than where scores are computed.
    kept = 8 * problem.vector_gate * (config.column_fragments - 1)
    return Resources(
        threads=config.threads,
        threadgroup_bytes=delta_chunk.shared_bytes(problem),
        registers=held + 53 + 18 * config.column_fragments - kept,
    )


@latest
def plan(problem: DeltaProblem, config: Config) -> Plan:
    """Return the plan of a configuration that `reject` accepts."""
    text = delta_text(problem)
    preparing = PrepareSpec(text=text)
    shape = (problem.matrices, _chunks(problem), score_count(problem))
    first = Launch(
        grid=(_chunks(problem) * preparing.threads, 1, problem.matrices),
        threadgroup=(preparing.threads, 1, 1),
        sizes=Sizes.of(preparing, delta_sizes(problem)),
        output_shapes=(shape,),
        output_dtypes=(FLOAT32,),
    )
    scanning = Spec(text=text, config=config)
    (whole,) = delta_chunk.plan(problem, config).stages
    grid = whole.launch.grid
    second = delta_launch(problem, scanning, grid, config.threads)
    return Plan(
        kernel=NAME,
        config=config,
        stages=(
            Stage(spec=preparing, launch=first, resources=_prepare_resources(problem)),
            Stage(spec=scanning, launch=second, resources=resources(config, problem)),
        ),
        factors=("scale",),
    )


def _variant_problems() -> Iterator[DeltaProblem]:
    return variant_problems(steps=CHUNK)


KERNEL = Kernel(
    name=NAME,
    problem_type=DeltaProblem,
    candidates=candidates,
    reject=reject,
    cost=cost,
    plan=plan,
    variant_problems=_variant_problems,
)

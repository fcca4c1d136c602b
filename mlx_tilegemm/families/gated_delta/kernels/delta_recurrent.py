"""Gated delta update token by token: candidates, legality, cost and plan.

The state stays in registers from the first token to the last. Decoding reads and writes it once a
token, which is all that it takes; every further token waits for the one before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import ClassVar, NamedTuple

from ....core.caches import latest
from ....core.dtypes import FLOAT32
from ....core.kernel import Kernel
from ....core.plan import SIMD_WIDTH, Extent, Plan, Resources, Stage
from ....machine.chips.record import Chip
from ....machine.cost import TileWork, seconds
from ....machine.limits import reject_grid, reject_resources
from ..problem import DeltaProblem
from ..spec import (
    DeltaSpec,
    delta_launch,
    delta_text,
    reject_delta,
    token_bytes,
    variant_problems,
)

NAME = "delta_recurrent"


class Counts(NamedTuple):
    """Instructions of a lane for a token.

    Attributes:
        element: For each element of the state: two loads, and what `DeltaProblem.flops` counts.
        halving: For each halving of the lanes that share a row, whose sums are added up.
        token: Beside those: gates, v, y, addresses and the loop.
    """

    element: int
    halving: int
    token: int


COUNTS = Counts(element=7, halving=12, token=40)
"""Of this kernel, which adds up one of two sums as exactly as two floats."""

PLACE_REGISTERS = 51
"""Registers of the places of eight arrays, of their steps and of what a token needs."""

WHOLE_ROW_REGISTERS = -22
"""Further ones where all lanes have a part of one row, whose sums need no places of others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Share of the state that a simdgroup holds.

    Attributes:
        lanes: Lanes of a row of the state.
        simdgroups: Simdgroups of a threadgroup.
        interleaved: Whether neighbours of a row are in neighbouring lanes, and not in one.
    """

    lanes: int
    simdgroups: int
    interleaved: bool = False

    def __str__(self) -> str:
        return f"{self.lanes}-{self.simdgroups}" + "-interleaved" * self.interleaved

    @property
    def rows(self) -> int:
        """Rows of the state that a threadgroup holds."""
        return self.simdgroups * SIMD_WIDTH // self.lanes

    @property
    def threads(self) -> int:
        """Threads of one threadgroup."""
        return self.simdgroups * SIMD_WIDTH


CONFIGS = tuple(Config(lanes=lanes, simdgroups=2) for lanes in (4, 8, 16, 32))
"""Few lanes a row need few steps to add up a row; more keep more of the GPU busy."""

INTERLEAVED_CONFIGS = tuple(
    Config(lanes=lanes, simdgroups=simdgroups, interleaved=True)
    for lanes, simdgroups in ((4, 2), (8, 2), (16, 2), (16, 4), (32, 2))
)
"""For chips where a lane's neighbours come one by one: lanes then take whole pieces of a row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec(DeltaSpec):
    """Everything that the text of an update token by token depends on.

    Attributes:
        config: The configuration.
    """

    KERNEL: ClassVar[str] = NAME

    config: Config

    @property
    def variant(self) -> str:
        """The configuration as a part of a Metal name."""
        return str(self.config).replace("-", "_")

    @property
    def threads(self) -> int:
        """Threads of one threadgroup."""
        return self.config.threads

    @property
    def run(self) -> int:
        """Elements of a row that a lane holds."""
        return ceil(self.text.key_dim / self.config.lanes)

    @property
    def step(self) -> int:
        """Elements of a row from one of a lane's to its next."""
        return self.config.lanes if self.config.interleaved else 1


def resources(config: Config, problem: DeltaProblem) -> Resources:
    """Return threads, threadgroup memory and live registers, fitted to what a compiler says."""
    run = ceil(problem.key_dim / config.lanes)
    options = problem.vector_gate + 6 * bool(problem.every) + 5 * problem.state
    options += WHOLE_ROW_REGISTERS * (config.lanes == SIMD_WIDTH)
    guard = 3 * (run * config.lanes != problem.key_dim)
    return Resources(
        threads=config.threads,
        threadgroup_bytes=0,
        # The state's elements, and half of the key's: the rest is read again.
        registers=PLACE_REGISTERS + 3 * run // 2 + options + guard,
    )


def candidates(problem: DeltaProblem, chip: Chip) -> Iterator[Config]:
    """Yield every configuration, preferred ones first."""
    yield from CONFIGS
    yield from INTERLEAVED_CONFIGS


def reject(problem: DeltaProblem, config: Config, chip: Chip) -> str | None:
    """Return why the configuration may not serve the problem, or None."""
    if reason := reject_delta(problem):
        return reason
    if config.interleaved == chip.limits.joined_loads:
        joined = "" if chip.limits.joined_loads else "not "
        return f"loads of neighbours are {joined}joined here"
    if config.lanes > max(problem.key_dim, CONFIGS[0].lanes):
        return f"rows of {problem.key_dim} elements leave some of {config.lanes} lanes idle"
    needs = resources(config, problem)
    return reject_resources(needs) or reject_grid(_grid(problem, config))


def cost(problem: DeltaProblem, config: Config, chip: Chip, counts: Counts = COUNTS) -> float:
    """Return the modelled seconds of the configuration on the chip."""
    return seconds(work(problem, config, chip, counts), chip)


def work(problem: DeltaProblem, config: Config, chip: Chip, counts: Counts = COUNTS) -> TileWork:
    """Return the work of the configuration, as the model counts it."""
    run = ceil(problem.key_dim / config.lanes)
    halving = counts.halving + 4 * problem.normalize
    reducing = halving * (config.lanes.bit_length() - 1)
    instructions = counts.element * run + reducing + counts.token
    blocks = ceil(problem.value_dim / config.rows)
    state_bytes = config.rows * problem.key_dim * FLOAT32.bytes * (2 + problem.saved)
    read = problem.length * token_bytes(problem)
    return TileWork(
        tiles=blocks * problem.matrices,
        simdgroups=config.simdgroups,
        chains=min(run, SIMD_WIDTH // config.lanes),
        issue_cycles=problem.length * config.simdgroups * instructions * chip.alu_cycles,
        threadgroup_bytes=0,
        vector_bytes=(config.simdgroups - 1) * read,
        cache_bytes=read + state_bytes,
        dram_bytes=problem.least_bytes(),
        # A token's operands are asked for when the one before is done.
        waits=problem.length,
        registers=resources(config, problem).registers,
        barriers=False,
    )


def _grid(problem: DeltaProblem, config: Config) -> Extent:
    blocks = ceil(problem.value_dim / config.rows)
    return (blocks * config.threads, 1, problem.matrices)


@latest
def plan(problem: DeltaProblem, config: Config) -> Plan:
    """Return the plan of a configuration that `reject` accepts."""
    spec = Spec(text=delta_text(problem), config=config)
    launch = delta_launch(problem, spec, _grid(problem, config), config.threads)
    stage = Stage(spec=spec, launch=launch, resources=resources(config, problem))
    return Plan(kernel=NAME, config=config, stages=(stage,), factors=("scale",))


KERNEL = Kernel(
    name=NAME,
    problem_type=DeltaProblem,
    candidates=candidates,
    reject=reject,
    cost=cost,
    plan=plan,
    variant_problems=variant_problems,
)

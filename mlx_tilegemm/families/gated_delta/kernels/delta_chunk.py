"""Gated delta update eight tokens at a time: candidates, legality, cost and plan.

The state stays in registers, as fragments, and meets eight tokens at once; what the tokens are to
each other is computed once for all values of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import ClassVar

from ....core.caches import latest
from ....core.dtypes import FLOAT32
from ....core.kernel import Kernel
from ....core.plan import SIMD_WIDTH, Extent, Plan, Resources, Stage
from ....machine.chips.record import Chip
from ....machine.cost import TileWork, seconds
from ....machine.fragment import (
    FRAGMENT,
    fragments,
    staged_stride,
)
from ....machine.limits import reject_grid, reject_threadgroup
from ..problem import CHUNK, DeltaProblem
from ..spec import (
    DeltaSpec,
    delta_launch,
    delta_text,
    reject_delta,
    token_bytes,
    variant_problems,
)

NAME = "delta_chunk"

LARGE_HEAD = 16
"""Fragments along the keys of a large head."""

FRAGMENT_BYTES = FRAGMENT * FRAGMENT * FLOAT32.bytes

SCORE_INSTRUCTIONS = 48
"""Of a simdgroup for one score beside its products: addresses and the sum over lanes, of half of
them as exact as two floats."""

PRODUCT_INSTRUCTIONS = 14
"""Of a lane for a product of a score: two loads, and a product and a sum as exact as two floats."""

GATE_INSTRUCTIONS = 4
"""Further ones of a lane for an element with a decay of its own: their products are two floats."""

CHUNK_INSTRUCTIONS = 140
"""Of a simdgroup for a chunk: decays, sums of products, keys that are mixed and the loop."""

COLUMN_INSTRUCTIONS = 560
"""Of a simdgroup for eight values of a chunk: v, the substitution of eight rows, and y."""

DECAY_INSTRUCTIONS = 130
"""Further ones where all elements of a key decay alike: w and y decay token by token, and the n are
mixed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Share of the values of a head.

    Attributes:
        column_fragments: Fragments of values of a simdgroup.
        simdgroups: Simdgroups of a threadgroup.
    """

    column_fragments: int
    simdgroups: int

    def __str__(self) -> str:
        return f"{FRAGMENT * self.column_fragments}-{self.simdgroups}"

    @property
    def columns(self) -> int:
        """Values of a threadgroup."""
        return FRAGMENT * self.column_fragments * self.simdgroups

    @property
    def threads(self) -> int:
        """Threads of one threadgroup."""
        return self.simdgroups * SIMD_WIDTH


CONFIGS = tuple(
    Config(column_fragments=fragments, simdgroups=simdgroups)
    for fragments, simdgroups in ((1, 16), (1, 8), (2, 8), (1, 4), (2, 4), (1, 2))
)
"""Many simdgroups share what depends on keys; two fragments each load keys half as often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec(DeltaSpec):
    """Everything that the text of an update chunk by chunk depends on.

    Attributes:
        config: The configuration.
    """

    KERNEL: ClassVar[str] = NAME

    config: Config

    @property
    def variant(self) -> str:
        """The configuration as a part of a Metal name."""
        return f"{self.config.column_fragments}_{self.config.simdgroups}"

    @property
    def threads(self) -> int:
        """Threads of one threadgroup."""
        return self.config.threads

    @property
    def key_fragments(self) -> int:
        """Fragments along a key."""
        return fragments(self.text.key_dim, 1)

    @property
    def key_elements(self) -> int:
        """Elements of a key with those that fill up its last fragment."""
        return FRAGMENT * self.key_fragments

    @property
    def key_stride(self) -> int:
        """Elements between two keys in threadgroup memory."""
        return staged_stride(self.key_elements, FLOAT32)

    @property
    def tile_elements(self) -> int:
        """Elements of a chunk's keys in threadgroup memory."""
        return CHUNK * self.key_stride

    @property
    def after_elements(self) -> int:
        """Elements of those with decays of their own; else one that nothing takes."""
        return self.tile_elements if self.text.vector_gate else 1

    @property
    def decay_elements(self) -> int:
        """Floats of decays of a chunk's elements, if they differ; else one that nothing takes."""
        return 2 * self.key_elements if self.text.vector_gate else 1


def resources(config: Config, problem: DeltaProblem) -> Resources:
    """Return threads, threadgroup memory and live registers."""
    along = fragments(problem.key_dim, 1)
    # Places of fragments that an instruction has no room for.
    places = along // 3
    # Few threads with small heads are left many registers.
    places += 5 * (config.simdgroups == 2 and along < LARGE_HEAD)
    # Products of decays, as two floats each.
    places += problem.vector_gate * (8 if along >= LARGE_HEAD else 3)
    return Resources(
        threads=config.threads,
        threadgroup_bytes=shared_bytes(problem),
        registers=held_registers(config, problem) + 50 + 16 * config.column_fragments + places,
    )


def shared_bytes(problem: DeltaProblem) -> int:
    """Return the bytes of threadgroup memory of a chunk's keys, queries, decays and scores."""
    along = fragments(problem.key_dim, 1)
    tile = CHUNK * staged_stride(FRAGMENT * along, FLOAT32)
    gates = tile + 2 * FRAGMENT * along if problem.vector_gate else 2
    return (2 * tile + gates + 3 * CHUNK * CHUNK + 4 * CHUNK) * FLOAT32.bytes


def held_registers(config: Config, problem: DeltaProblem) -> int:
    """Return the registers of a simdgroup's columns of the state, and those of their options.

    Two for each fragment; more where elements of keys have to be guarded or scaled, or the state is
    left in between, and fewer where no decays of a row are kept.
    """
    guard = 8 * (problem.key_dim % FRAGMENT != 0)
    scaled = 4 * (problem.normalize + bool(problem.every))
    kept = 6 * problem.vector_gate * (config.column_fragments - 1)
    held = 2 * fragments(problem.key_dim, 1) * config.column_fragments
    # So many threads are left few registers, for which a compiler moves what it need not otherwise.
    crowded = 2 * (config.simdgroups == 16)
    return held + guard + scaled - kept + crowded


def candidates(problem: DeltaProblem, chip: Chip) -> Iterator[Config]:
    """Yield every configuration, preferred ones first."""
    yield from CONFIGS


def reject(problem: DeltaProblem, config: Config, chip: Chip) -> str | None:
    """Return why the configuration may not serve the problem, or None."""
    if reason := reject_delta(problem):
        return reason
    if problem.every % CHUNK:
        return f"states after each {problem.every} tokens are inside of chunks of {CHUNK}"
    needed = ceil(problem.value_dim / FRAGMENT)
    if any(
        needed <= other.columns // FRAGMENT < config.columns // FRAGMENT
        for other in CONFIGS
        if other.column_fragments == config.column_fragments
    ):
        return f"{config.columns} values are more than the {problem.value_dim} of a head need"
    return reject_threadgroup(resources(config, problem), chip) or reject_grid(
        _grid(problem, config)
    )


def cost(problem: DeltaProblem, config: Config, chip: Chip) -> float:
    """Return the modelled seconds of the configuration on the chip."""
    return seconds(work(problem, config, chip), chip)


def work(problem: DeltaProblem, config: Config, chip: Chip) -> TileWork:
    """Return the work of the configuration, as the model counts it."""
    chunks = ceil(problem.length / CHUNK)
    along = fragments(problem.key_dim, 1)
    needs = resources(config, problem)
    multiplied = 3 * along * config.column_fragments * config.simdgroups
    staged = 12 + GATE_INSTRUCTIONS * problem.vector_gate
    staging = ceil(FRAGMENT * along / SIMD_WIDTH) * CHUNK * staged
    column = 2 * along + COLUMN_INSTRUCTIONS + DECAY_INSTRUCTIONS * (not problem.vector_gate)
    each = config.column_fragments * column + CHUNK_INSTRUCTIONS
    others = score_instructions(problem) + staging + config.simdgroups * each
    loaded = 3 * along * config.simdgroups * FRAGMENT_BYTES
    stored = (2 + problem.vector_gate) * CHUNK * FRAGMENT * along * FLOAT32.bytes
    read = problem.length * token_bytes(problem)
    blocks = ceil(problem.value_dim / config.columns)
    state_bytes = config.columns * problem.key_dim * FLOAT32.bytes * (2 + problem.saved)
    return TileWork(
        tiles=blocks * problem.matrices,
        simdgroups=config.simdgroups,
        chains=2 * config.column_fragments,
        issue_cycles=chunks * multiplied * chip.mma_cycles,
        alu_cycles=chunks * others * chip.alu_cycles,
        threadgroup_bytes=chunks * (loaded + stored),
        # Keys are read once for their tiles and again for their scores.
        vector_bytes=2 * read,
        cache_bytes=read + state_bytes,
        dram_bytes=problem.least_bytes(),
        # For keys, and then for values.
        waits=2 * chunks,
        registers=needs.registers,
        threadgroup_memory=needs.threadgroup_bytes,
    )


def score_instructions(problem: DeltaProblem) -> float:
    """Return the instructions of simdgroups for what the tokens of a chunk are to each other."""
    product = PRODUCT_INSTRUCTIONS + GATE_INSTRUCTIONS * problem.vector_gate
    each = product * ceil(problem.key_dim / SIMD_WIDTH) + SCORE_INSTRUCTIONS
    return CHUNK * (CHUNK + 1) * each


def _grid(problem: DeltaProblem, config: Config) -> Extent:
    blocks = ceil(problem.value_dim / config.columns)
    return (blocks * config.threads, 1, problem.matrices)


@latest
def plan(problem: DeltaProblem, config: Config) -> Plan:
    """Return the plan of a configuration that `reject` accepts."""
    spec = Spec(text=delta_text(problem), config=config)
    launch = delta_launch(problem, spec, _grid(problem, config), config.threads)
    stage = Stage(
        spec=spec,
        launch=launch,
        resources=resources(config, problem),
    )
    return Plan(kernel=NAME, config=config, stages=(stage,), factors=("scale",))


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

"""Gradients of a gated delta update: candidates, legality, cost and plan.

A threadgroup goes through a head from its last chunk to its first, with all values: whatever is
summed over values or tokens is summed in one place and in one order. A head of more values than
threadgroup memory has room for is several heads of fewer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil
from typing import ClassVar

from ....core.caches import kept, latest
from ....core.dtypes import FLOAT32
from ....core.kernel import Kernel
from ....core.plan import (
    SIMD_WIDTH,
    Extent,
    Launch,
    Plan,
    Resources,
    Sizes,
    Stage,
)
from ....machine.chips.record import Chip
from ....machine.cost import TileWork, seconds
from ....machine.fragment import (
    FRAGMENT,
    fragments,
    staged_stride,
)
from ....machine.limits import reject_grid, reject_resources, tiny_operand
from ..problem import CHUNK, DeltaGradientProblem, DeltaProblem
from ..spec import DeltaSpec, delta_sizes, delta_text, reject_delta, token_bytes
from ..spec import variant_problems as update_variants

NAME = "delta_backward"

SHARES = 4 * FRAGMENT * FRAGMENT
"""Elements that a simdgroup shares out to its lanes: four products of one key fragment."""

PLACE_REGISTERS = 84
"""Registers of the places of 18 arrays, of their steps and of a lane's rows and columns, beside
three numbers of each token of a chunk: a key, its decay and its gradient."""

LONG_KEY_REGISTERS = 5
"""Further ones where a lane has more than two elements of a key."""

MOST_SLICES = 8
"""Slices of a head's values at most: each computes again what depends on keys alone."""

ELEMENT_INSTRUCTIONS = 8 * CHUNK * CHUNK
"""Of a simdgroup for eight elements of a chunk's keys: the gradients of q, k and the decays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Size of a threadgroup.

    Attributes:
        simdgroups: Its simdgroups.
    """

    simdgroups: int

    def __str__(self) -> str:
        return str(self.simdgroups)

    @property
    def threads(self) -> int:
        """Threads of one threadgroup."""
        return self.simdgroups * SIMD_WIDTH


CONFIGS = tuple(Config(simdgroups=simdgroups) for simdgroups in (8, 4, 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec(DeltaSpec):
    """Everything that the text of the gradients depends on.

    Attributes:
        config: The configuration.
        value_dim: Elements of a head of v.
        short: Whether there is but one chunk.
    """

    KERNEL: ClassVar[str] = NAME
    INPUTS: ClassVar[tuple[str, ...]] = (
        "q",
        "k",
        "v",
        "gamma",
        "beta",
        "initial_state",
        "mask",
        "states",
        "grad",
        "state_grad",
        "factors",
        "sizes",
    )
    OUTPUTS: ClassVar[tuple[str, ...]] = (
        "q_grad",
        "k_grad",
        "v_grad",
        "gamma_grad",
        "beta_grad",
        "initial_grad",
    )
    SIZES: ClassVar[tuple[str, ...]] = ("length", "key_heads", "value_heads")

    config: Config
    value_dim: int
    short: bool

    @property
    def lacks(self) -> frozenset[str]:
        """Inputs that this variant is not given."""
        absent = {"mask": not self.text.mask, "states": self.short}
        return frozenset(name for name, lacking in absent.items() if lacking)

    @property
    def variant(self) -> str:
        """The configuration as a part of a Metal name."""
        return f"{self.value_dim}_{self.config.simdgroups}{'_short' * self.short}"

    @property
    def threads(self) -> int:
        """Threads of one threadgroup."""
        return self.config.threads

    @property
    def key_fragments(self) -> int:
        """Fragments along a key."""
        return fragments(self.text.key_dim, 1)

    @property
    def value_fragments(self) -> int:
        """Fragments along a value."""
        return fragments(self.value_dim, 1)

    @property
    def key_elements(self) -> int:
        """Elements of a key with those that fill up its last fragment."""
        return FRAGMENT * self.key_fragments

    @property
    def key_stride(self) -> int:
        """Elements between two keys in threadgroup memory."""
        return staged_stride(self.key_elements, FLOAT32)

    @property
    def value_stride(self) -> int:
        """Elements between two values in threadgroup memory."""
        return staged_stride(FRAGMENT * self.value_fragments, FLOAT32)

    @property
    def key_tile(self) -> int:
        """Elements of a chunk's keys in threadgroup memory."""
        return CHUNK * self.key_stride

    @property
    def after_elements(self) -> int:
        """Elements of those with decays of their own; else one that nothing takes."""
        return self.key_tile if self.text.vector_gate else 1

    @property
    def decay_elements(self) -> int:
        """Decays of a chunk's elements, if they differ; else one that nothing takes."""
        return self.key_elements if self.text.vector_gate else 1

    @property
    def value_tile(self) -> int:
        """Elements of a chunk's values in threadgroup memory."""
        return CHUNK * self.value_stride

    @property
    def shares(self) -> int:
        """Elements that all simdgroups share out to their lanes."""
        return self.config.simdgroups * SHARES

    @property
    def row_shares(self) -> int:
        """Elements of what simdgroups add up for each token."""
        return self.config.simdgroups * CHUNK


@kept
def resources(config: Config, key_dim: int, value_dim: int, *, vector_gate: bool) -> Resources:
    """Return threads, threadgroup memory and live registers."""
    keys, values = FRAGMENT * fragments(key_dim, 1), FRAGMENT * fragments(value_dim, 1)
    key_tile, value_tile = (CHUNK * staged_stride(one, FLOAT32) for one in (keys, values))
    gates = key_tile + keys if vector_gate else 2
    scores = 4 * CHUNK * CHUNK + 4 * CHUNK + 1
    shares = config.simdgroups * (SHARES + 2 * CHUNK)
    long = key_dim > 2 * SIMD_WIDTH
    return Resources(
        threads=config.threads,
        threadgroup_bytes=FLOAT32.bytes * (2 * (key_tile + value_tile) + gates + scores + shares),
        registers=PLACE_REGISTERS + 3 * CHUNK + long * LONG_KEY_REGISTERS,
    )


def slices_of(update: DeltaProblem) -> int:
    """Return how few slices of a head's values have room in threadgroup memory; 1 if none has.

    No gradient needs two values of a head at once: those of q, k, gamma and beta are sums over
    slices, as they are over the heads of v that share a head of k.
    """
    for count in range(1, MOST_SLICES + 1):
        one = sliced(update, count)
        needs = resources(CONFIGS[-1], one.key_dim, one.value_dim, vector_gate=one.vector_gate)
        if reject_resources(needs) is None:
            return count
    return 1


def sliced(update: DeltaProblem, count: int) -> DeltaProblem:
    """Return the update with slices of values for heads, so many of each head.

    The last slice is filled up with zeros.
    """
    return replace(
        update,
        value_heads=update.value_heads * count,
        value_dim=ceil(update.value_dim / count),
    )


def candidates(problem: DeltaGradientProblem, chip: Chip) -> Iterator[Config]:
    """Yield every configuration, preferred ones first."""
    yield from CONFIGS


def reject(problem: DeltaGradientProblem, config: Config, chip: Chip) -> str | None:
    """Return why the configuration may not serve the problem, or None."""
    p = problem.update
    if reason := reject_delta(replace(p, every=0)) or tiny_operand(
        one for one in problem.operands if "state" in one.name
    ):
        return reason
    if p.every != CHUNK or p.normalize or p.log_decay or not p.state:
        return f"it takes linear decays, and the states after each {CHUNK} tokens"
    needs = resources(config, p.key_dim, p.value_dim, vector_gate=p.vector_gate)
    return reject_resources(needs) or reject_grid(_grid(problem, config))


def cost(problem: DeltaGradientProblem, config: Config, chip: Chip) -> float:
    """Return the modelled seconds of the configuration on the chip."""
    return seconds(work(problem, config, chip), chip)


def work(problem: DeltaGradientProblem, config: Config, chip: Chip) -> TileWork:
    """Return the work of the configuration, as the model counts it."""
    p = problem.update
    chunks = ceil(p.length / CHUNK)
    keys, values = fragments(p.key_dim, 1), fragments(p.value_dim, 1)
    needs = resources(config, p.key_dim, p.value_dim, vector_gate=p.vector_gate)
    state_bytes = p.key_dim * p.value_dim * FLOAT32.bytes
    elements = keys * ELEMENT_INSTRUCTIONS
    return TileWork(
        tiles=p.matrices,
        simdgroups=config.simdgroups,
        chains=2,
        # Two products from either side of both states, and two that update one of them.
        issue_cycles=chunks * 7 * keys * values * chip.mma_cycles,
        alu_cycles=chunks * (elements + 12 * keys * values) * chip.alu_cycles,
        threadgroup_bytes=chunks * 7 * keys * values * FRAGMENT * FRAGMENT * FLOAT32.bytes,
        fragment_bytes=chunks * 5 * state_bytes,
        cache_bytes=chunks * 2 * state_bytes + 3 * p.length * token_bytes(p),
        dram_bytes=problem.least_bytes(),
        waits=5 * chunks,
        registers=needs.registers,
        threadgroup_memory=needs.threadgroup_bytes,
    )


def _grid(problem: DeltaGradientProblem, config: Config) -> Extent:
    return (config.threads, 1, problem.update.matrices)


@latest
def plan(problem: DeltaGradientProblem, config: Config) -> Plan:
    """Return the plan of a configuration that `reject` accepts."""
    p = problem.update
    spec = Spec(
        text=replace(delta_text(p), saves=False, state=True),
        config=config,
        value_dim=p.value_dim,
        short=not p.saved,
    )
    launch = Launch(
        grid=_grid(problem, config),
        threadgroup=(config.threads, 1, 1),
        sizes=Sizes.of(spec, delta_sizes(p)),
        output_shapes=tuple(one.shape for one in problem.results),
        output_dtypes=tuple(one.dtype for one in problem.results),
    )
    needs = resources(config, p.key_dim, p.value_dim, vector_gate=p.vector_gate)
    stage = Stage(spec=spec, launch=launch, resources=needs)
    return Plan(kernel=NAME, config=config, stages=(stage,), factors=("scale",))


def variant_problems() -> Iterator[DeltaGradientProblem]:
    """Yield small problems that together reach every flag of the text."""
    for one in update_variants():
        update = replace(one, every=CHUNK, normalize=False, log_decay=False, state=True)
        yield DeltaGradientProblem(update=update)
    yield DeltaGradientProblem(update=replace(update, length=CHUNK - 1))


KERNEL = Kernel(
    name=NAME,
    problem_type=DeltaGradientProblem,
    candidates=candidates,
    reject=reject,
    cost=cost,
    plan=plan,
    variant_problems=variant_problems,
)

"""The gradient of q in chained attention: candidates, legality, cost and plan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import ClassVar

from ....core.caches import kept, latest
from ....core.dtypes import FLOAT32
from ....core.kernel import Kernel
from ....core.plan import Extent, Launch, Plan, Resources, Sizes, Stage, features
from ....machine.chips.record import Chip
from ....machine.cost import seconds
from ....machine.fragment import FRAGMENT, fragments
from ....machine.limits import reject_grid, reject_resources
from ..backward_spec import (
    CONFIGS,
    GROUPED_CONFIGS,
    BackwardSpec,
    Config,
    backward_fields,
    reject_backward,
    reject_registers,
    variant_attentions,
)
from ..backward_work import Side, backward_work, operand_bytes, visible_share
from ..problem import LSE, AttentionProblem, MaskKind, QueryGradientProblem
from ..spec import (
    MASK_SIZES,
    ROW_SIZES,
    Fields,
    as_fields,
    attention_sizes,
    key_operands,
    reject_attention_sizes,
)

NAME = "attention_backward_query"

QUERY_REGISTERS = 3
"""Registers beyond those of a step for the way through the keys. As Mesa's compiler for M1 has it,
like the next."""

SOFTMAX_REGISTERS = 1
"""Further ones for the sums and deltas of rows."""

KEPT_REGISTERS = -3
"""Further ones beside rows that no barrier makes load again: their places are not needed."""

RELOADED_REGISTERS = -10
"""Further ones where such rows do so: not all of them stay."""

BROKEN_REGISTERS = 8
"""Further ones then of rows that end within a fragment."""

BROKEN_BLOCK_REGISTERS = 3
"""Further ones of these for blocks of more than `FEW_KEYS` keys."""

FEW_KEYS = 16

WIDE_REGISTERS = 5
"""Further ones where fragments of float32 load from device memory, of several rows at a time."""

MASK_REGISTERS = 7
"""Further ones for the places of a mask's elements, but for rows of q that stay while all else
loads from device memory."""

WINDOW_REGISTERS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec(BackwardSpec):
    """Everything that the text of one kernel depends on.

    Attributes:
        lse_gradient: A gradient of the log-sum-exp arrives too.
    """

    KERNEL: ClassVar[str] = NAME
    INPUTS = (
        "q",
        "k",
        "v",
        "grad",
        "result",
        "lse",
        "norm",
        "lse_grad",
        "mask",
        "factors",
        "sizes",
    )
    OUTPUTS = ("q_gradient", "delta")
    SIZES = (*ROW_SIZES, *MASK_SIZES, "window")

    lse_gradient: bool

    @property
    def lacks(self) -> frozenset[str]:
        """Inputs, outputs and sizes that this variant is not given."""
        return features(
            {
                ("q", "result", "delta"): not self.softmax,
                ("lse",): not self.softmax or self.normed,
                ("norm",): not self.normed,
                ("lse_grad",): not (self.softmax and self.lse_gradient),
                ("mask", *MASK_SIZES): not self.masked,
                ("window",): not self.windowed,
            }
        )

    @property
    def _way_registers(self) -> int:
        """Live registers for the way through the keys."""
        staged = self.config.staged
        wide = not staged and self.v is FLOAT32 and (self.grouped or self.keeps_rows)
        masked = self.masked and (staged or not self.config.cached)
        registers = QUERY_REGISTERS + SOFTMAX_REGISTERS * self.softmax + WIDE_REGISTERS * wide
        registers += MASK_REGISTERS * masked + WINDOW_REGISTERS * self.windowed
        return registers + KEPT_REGISTERS * self.keeps_rows + self._reloading

    @property
    def _reloading(self) -> int:
        """Further registers where rows that could stay load again."""
        if not self.keeps_rows or self.config.cached:
            return 0
        broken = self.head_dim % FRAGMENT or self.value_dim % FRAGMENT
        blocks = BROKEN_BLOCK_REGISTERS * (self.config.block > FEW_KEYS)
        return RELOADED_REGISTERS + (BROKEN_REGISTERS + blocks if broken else 0)

    @property
    def resources(self) -> Resources:
        """Threads, threadgroup memory and live registers."""
        shared = self.shared_bytes(2 if self.softmax else 1)
        shared += self.threads * LSE.bytes if self.softmax and self.grouped else 0
        own = (self.head_fragments if self.softmax else 0) + self.value_fragments
        kept = self.head_fragments + (own if self.keeps_rows else 0)
        loading = 0 if self.keeps_rows else own // 4
        return Resources(
            threads=self.threads,
            threadgroup_bytes=shared + self.staged_bytes,
            registers=2 * kept + loading + self.step_registers + self._way_registers,
        )


def candidates(problem: QueryGradientProblem, chip: Chip) -> Iterator[Config]:
    """Yield every configuration, preferred ones first."""
    yield from (*CONFIGS, *GROUPED_CONFIGS)


def reject(problem: QueryGradientProblem, config: Config, chip: Chip) -> str | None:
    """Return why the configuration may not serve the problem, or None."""
    if reason := _reject_tile(problem, config):
        return reason
    registers = _resources(_fields(problem), config).registers
    return reject_registers(registers, _fewest_registers(problem))


def _reject_tile(problem: QueryGradientProblem, config: Config) -> str | None:
    forward = problem.attention
    reason = reject_backward(forward, config, key_operands(forward))
    if reason:
        return reason
    needs = _resources(_fields(problem), config)
    reason = reject_resources(needs) or reject_grid(_grid(forward, config, needs.threads))
    return reason or reject_attention_sizes(forward)


@latest
def _fewest_registers(problem: QueryGradientProblem) -> int:
    """Return the registers of the configuration that wants the fewest; 0 where none is legal."""
    legal = (config for config in (*CONFIGS, *GROUPED_CONFIGS) if not _reject_tile(problem, config))
    return min((_resources(_fields(problem), config).registers for config in legal), default=0)


def cost(problem: QueryGradientProblem, config: Config, chip: Chip) -> float:
    """Return the modelled seconds of the configuration on the chip."""
    p, needs = problem.attention, _resources(_fields(problem), config)
    head = fragments(p.head_dim, config.head_groups)
    value = fragments(p.value_dim, config.head_groups)
    k_bytes, v_bytes = p.head_dim * p.k.bytes, p.value_dim * p.v.bytes
    side = Side(
        blocks=ceil(p.q_len / config.block_own),
        heads=p.batch * p.num_heads,
        streamed=p.kv_len * visible_share(p),
        products=2 * head + value if p.softmax else head + value,
        own_bytes=p.head_dim * p.q.bytes + p.value_dim * p.out.bytes,
        streamed_bytes=k_bytes + v_bytes,
        loaded_bytes=2 * k_bytes + v_bytes if p.softmax else k_bytes + v_bytes,
        moved_bytes=operand_bytes(p) + p.nbytes("q"),
        registers=needs.registers,
        threadgroup_memory=needs.threadgroup_bytes,
    )
    return seconds(backward_work(side, config, chip), chip)


@latest
def plan(problem: QueryGradientProblem, config: Config) -> Plan:
    """Return the plan of a configuration that `reject` accepts."""
    p, spec = problem.attention, _spec(_fields(problem), config)
    delta = ((p.lse_shape,), (LSE,)) if p.softmax else ((), ())
    launch = Launch(
        grid=_grid(p, config, spec.threads),
        threadgroup=(spec.threads, 1, 1),
        sizes=Sizes.of(spec, attention_sizes(p)),
        output_shapes=(problem.out_shape, *delta[0]),
        output_dtypes=(p.q, *delta[1]),
    )
    return Plan(
        kernel=NAME,
        config=config,
        stages=(Stage(spec=spec, launch=launch, resources=spec.resources),),
        factors=("scale",),
    )


def _grid(p: AttentionProblem, config: Config, threads: int) -> Extent:
    return (ceil(p.q_len / config.block_own) * threads, p.num_heads, p.batch)


@latest
def _fields(problem: QueryGradientProblem) -> Fields:
    values = backward_fields(problem.attention).values | {"lse_gradient": problem.lse_gradient}
    if not problem.takes_mask:
        values |= {"mask": None, "mask_kind": MaskKind.NONE}
    return as_fields(values)


@kept
def _spec(fields: Fields, config: Config) -> Spec:
    return Spec(**fields.values, config=config)


@kept
def _resources(fields: Fields, config: Config) -> Resources:
    return _spec(fields, config).resources


def variant_problems() -> Iterator[QueryGradientProblem]:
    """Yield small problems that together reach every flag of the text."""
    for attention in variant_attentions():
        yield QueryGradientProblem(attention=attention)
    yield QueryGradientProblem(attention=next(variant_attentions()), lse_gradient=True)


KERNEL = Kernel(
    name=NAME,
    problem_type=QueryGradientProblem,
    candidates=candidates,
    reject=reject,
    cost=cost,
    plan=plan,
    variant_problems=variant_problems,
)

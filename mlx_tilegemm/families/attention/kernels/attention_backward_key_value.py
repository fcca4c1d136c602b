"""The gradients of k and v in chained attention: candidates, legality, cost and plan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import ClassVar

from ....core.caches import kept, latest
from ....core.dtypes import FLOAT32, DType
from ....core.kernel import Kernel
from ....core.operand import Operand
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
from ..problem import AttentionProblem, KeyValueGradientProblem
from ..spec import MASK_SIZES, ROW_SIZES, Fields, attention_sizes, reject_attention_sizes

NAME = "attention_backward_key_value"

KEY_VALUE_REGISTERS = 17
"""Registers beyond those of a step for the way through the queries of several heads. As Mesa's
compiler for M1 has it, like the next."""

SOFTMAX_REGISTERS = 9
"""Further ones for the sums and deltas of rows."""

ARRAY_MASK_REGISTERS = 13
"""Further ones for an array mask, beyond those of a step."""

CAUSAL_REGISTERS = 4

WINDOW_REGISTERS = 3

DIRECT_REGISTERS = 7
"""Further ones where fragments load from device memory, for addresses and bounds."""

CAUSAL_DIRECT_REGISTERS = 6
"""Further ones where they do of causal rows that one simdgroup has whole."""

UNLIKE_REGISTERS = 9
"""Further ones where fragments load so for D and Dv that differ."""

WIDE_REGISTERS = 3
"""Further ones where gradients are float32."""

GROUP_REGISTERS = 1
"""Further ones where simdgroups share D, beyond those of a step; as many again where their rows
stay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec(BackwardSpec):
    """Everything that the text of one kernel depends on."""

    KERNEL: ClassVar[str] = NAME
    INPUTS = ("q", "k", "v", "grad", "lse", "norm", "delta", "mask", "factors", "sizes")
    OUTPUTS = ("k_gradient", "v_gradient")
    SIZES = (*ROW_SIZES, *MASK_SIZES, "window")

    @property
    def lacks(self) -> frozenset[str]:
        """Inputs and sizes that this variant is not given."""
        return features(
            {
                ("delta",): not self.softmax,
                ("lse",): not self.softmax or self.normed,
                ("norm",): not self.normed,
                ("mask", *MASK_SIZES): not self.masked,
                ("window",): not self.windowed,
            }
        )

    @property
    def streamed(self) -> tuple[DType, DType]:
        """Types of the operands that come in blocks of rows: of D columns, and of Dv."""
        return self.q, self.grad

    @property
    def _way_registers(self) -> int:
        """Live registers for the way through the queries of several heads."""
        direct, wide = not self.config.staged, self.grad is FLOAT32
        needs = (
            (SOFTMAX_REGISTERS, self.softmax),
            (ARRAY_MASK_REGISTERS, self.masked),
            (CAUSAL_REGISTERS, self.causal),
            (WINDOW_REGISTERS, self.windowed),
            (DIRECT_REGISTERS, direct),
            (CAUSAL_DIRECT_REGISTERS, direct and self.causal and self.softmax and not self.grouped),
            (WIDE_REGISTERS, wide),
            (GROUP_REGISTERS, self.grouped),
            (GROUP_REGISTERS, self.grouped and self.config.cached),
        )
        return KEY_VALUE_REGISTERS + sum(registers for registers, there in needs if there)

    @property
    def _loading(self) -> int:
        """Live registers for a simdgroup's own rows where they load anew at every step."""
        if self.keeps_rows:
            return 0
        if not self.grouped:
            return (self.head_fragments + self.value_fragments + 6) // 4
        unlike = self.head_dim != self.value_dim and not self.config.staged
        return 2 + UNLIKE_REGISTERS * unlike

    @property
    def resources(self) -> Resources:
        """Threads, threadgroup memory and live registers."""
        shared = self.shared_bytes(2)
        own = self.head_fragments + self.value_fragments
        kept = 2 * own if self.keeps_rows else own
        return Resources(
            threads=self.threads,
            threadgroup_bytes=shared + self.staged_bytes,
            registers=7 * kept // 4 + self._loading + self.step_registers + self._way_registers,
        )


NARROW_HEAD_DIM = 80
"""Heads up to this size need no narrow block: more streamed rows fit beside their sums."""

NARROW = Config(simdgroups=4, block=8, staged=True, cached=False)
"""For heads that no head groups can share, because they have no equal slices."""


def candidates(problem: KeyValueGradientProblem, chip: Chip) -> Iterator[Config]:
    """Yield every configuration, preferred ones first."""
    yield from (*CONFIGS, *GROUPED_CONFIGS, NARROW)


def reject(problem: KeyValueGradientProblem, config: Config, chip: Chip) -> str | None:
    """Return why the configuration may not serve the problem, or None."""
    if reason := _reject_tile(problem, config):
        return reason
    registers = _resources(backward_fields(problem.attention), config).registers
    return reject_registers(registers, _fewest_registers(problem))


def _reject_tile(problem: KeyValueGradientProblem, config: Config) -> str | None:
    p = problem.attention
    reason = reject_backward(p, config, _staged(problem))
    if reason:
        return reason
    if config == NARROW and max(p.head_dim, p.value_dim) <= NARROW_HEAD_DIM:
        return f"heads of up to {NARROW_HEAD_DIM} need no narrow block"
    if config == NARROW and not (p.head_dim | p.value_dim) % (4 * FRAGMENT):
        return "four simdgroups have equal slices of these heads"
    needs = _resources(backward_fields(p), config)
    reason = reject_resources(needs) or reject_grid(_grid(p, config, needs.threads))
    return reason or reject_attention_sizes(p)


@latest
def _fewest_registers(problem: KeyValueGradientProblem) -> int:
    """Return the registers of the configuration that wants the fewest; 0 where none is legal."""
    configs = (*CONFIGS, *GROUPED_CONFIGS, NARROW)
    legal = (config for config in configs if not _reject_tile(problem, config))
    fields = backward_fields(problem.attention)
    return min((_resources(fields, config).registers for config in legal), default=0)


def cost(problem: KeyValueGradientProblem, config: Config, chip: Chip) -> float:
    """Return the modelled seconds of the configuration on the chip."""
    p, needs = problem.attention, _resources(backward_fields(problem.attention), config)
    head = fragments(p.head_dim, config.head_groups)
    value = fragments(p.value_dim, config.head_groups)
    q_bytes, grad_bytes = p.head_dim * p.q.bytes, p.value_dim * p.out.bytes
    k_bytes, v_bytes = p.head_dim * p.k.bytes, p.value_dim * p.v.bytes
    side = Side(
        blocks=ceil(p.kv_len / config.block_own),
        heads=p.batch * p.num_kv_heads,
        streamed=p.q_len * (p.num_heads // p.num_kv_heads) * visible_share(p),
        products=2 * (head + value),
        own_bytes=k_bytes + v_bytes,
        streamed_bytes=q_bytes + grad_bytes,
        loaded_bytes=2 * (q_bytes + grad_bytes),
        moved_bytes=operand_bytes(p) + p.batch * p.num_kv_heads * p.kv_len * (k_bytes + v_bytes),
        registers=needs.registers,
        threadgroup_memory=needs.threadgroup_bytes,
    )
    return seconds(backward_work(side, config, chip), chip)


@latest
def plan(problem: KeyValueGradientProblem, config: Config) -> Plan:
    """Return the plan of a configuration that `reject` accepts."""
    p, spec = problem.attention, _spec(backward_fields(problem.attention), config)
    keys = (p.batch, p.num_kv_heads, p.kv_len)
    launch = Launch(
        grid=_grid(p, config, spec.threads),
        threadgroup=(spec.threads, 1, 1),
        sizes=Sizes.of(spec, attention_sizes(p)),
        output_shapes=((*keys, p.head_dim), (*keys, p.value_dim)),
        output_dtypes=(p.k, p.v),
    )
    return Plan(
        kernel=NAME,
        config=config,
        stages=(Stage(spec=spec, launch=launch, resources=spec.resources),),
        factors=("scale",),
    )


def _grid(p: AttentionProblem, config: Config, threads: int) -> Extent:
    return (ceil(p.kv_len / config.block_own) * threads, p.num_kv_heads, p.batch)


@kept
def _spec(fields: Fields, config: Config) -> Spec:
    return Spec(**fields.values, config=config)


@kept
def _resources(fields: Fields, config: Config) -> Resources:
    return _spec(fields, config).resources


@latest
def _staged(problem: KeyValueGradientProblem) -> tuple[Operand, ...]:
    return tuple(one for one in problem.operands if one.name in ("q", "grad"))


def variant_problems() -> Iterator[KeyValueGradientProblem]:
    """Yield small problems that together reach every flag of the text."""
    for attention in variant_attentions():
        yield KeyValueGradientProblem(attention=attention)


KERNEL = Kernel(
    name=NAME,
    problem_type=KeyValueGradientProblem,
    candidates=candidates,
    reject=reject,
    cost=cost,
    plan=plan,
    variant_problems=variant_problems,
)

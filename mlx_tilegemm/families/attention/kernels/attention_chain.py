"""Chained attention: candidates, legality, cost and plan. Pure functions of values."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import ceil
from typing import Any

from ....core.caches import kept, latest
from ....core.dtypes import BFLOAT16, BOOL, FLOAT16, FLOAT32, FLOATS
from ....core.kernel import Kernel
from ....core.plan import Extent, Launch, Plan, Resources, Sizes, Stage
from ....machine.chips.record import Chip
from ....machine.cost import seconds
from ....machine.fragment import FRAGMENT, fragments
from ....machine.limits import (
    reject_grid,
    reject_resources,
    threads_per_core,
    tiny_operand,
)
from ..chain_spec import NAME, Config, Spec
from ..problem import AttentionProblem, MaskKind
from ..spec import (
    VARIANT_MASKS,
    Fields,
    attention_sizes,
    forward_fields,
    forward_outputs,
    reject_attention,
    reject_attention_sizes,
    tiny_key_operand,
    variant,
)
from ..work import AttentionTile, attention_work

MAX_HEAD_DIM = 512
"""Of q, k and v; of the positional parts of q and k it is a quarter."""

FEW_SIMDGROUPS, FEW_SIMDGROUPS_REGISTERS = 2, 116
"""Most registers, as estimated, of so few simdgroups that stage float32 values: moving code out of
their loop takes a dozen more."""

OWN_FRAGMENTS = 36
"""Fragments of q and of the result that one simdgroup keeps in registers without head groups."""


CONFIGS = tuple(
    Config(simdgroups=simdgroups, block_kv=block_kv, staged=staged, reread=reread)
    for staged, reread in ((True, False), (True, True), (False, False))
    for simdgroups, block_kv in ((4, 32), (4, 16), (2, 32), (1, 32))
)

TALL_CONFIGS = tuple(
    Config(simdgroups=simdgroups, block_kv=block_kv, staged=True, tall=True)
    for simdgroups, block_kv in ((4, 32), (2, 16))
)
"""For chips where copies go on in the background, and a thread has more registers."""

GROUPED_CONFIGS = tuple(
    Config(simdgroups=rows * groups, block_kv=block_kv, staged=staged, head_groups=groups)
    for groups in (2, 4, 8)
    for staged, shapes in ((True, ((4, 16), (2, 16), (2, 8))), (False, ((4, 16), (2, 16), (1, 16))))
    for rows, block_kv in shapes
)
"""For heads that are too large for the registers of one simdgroup."""


def head_groups(problem: AttentionProblem) -> int:
    """Return how many simdgroups have room for eight rows of q and of the result."""
    columns = (problem.head_dim, problem.pe_dim, problem.value_dim)
    for groups in (1, 2, 4):
        if sum(fragments(size, groups) for size in columns) <= OWN_FRAGMENTS:
            return groups
    return 8


def candidates(problem: AttentionProblem, chip: Chip) -> Iterator[Config]:
    """Yield every configuration for heads of this size, preferred ones first."""
    groups = head_groups(problem)
    if groups == 1:
        yield from CONFIGS
        yield from TALL_CONFIGS
    else:
        fitting = (groups, 2 * groups)
        yield from (config for config in GROUPED_CONFIGS if config.head_groups in fitting)


def reject(problem: AttentionProblem, config: Config, chip: Chip) -> str | None:
    """Return why the configuration may not serve the problem, or None."""
    reason = _reject_problem(problem) or _reject_tile(problem, config, chip)
    if reason:
        return reason
    needs = _resources(forward_fields(problem), config)
    reason = reject_resources(needs, chip.limits) or _reject_few(problem, config, needs)
    reason = reason or reject_grid(_grid(problem, config, needs.threads))
    reason = reason or reject_attention_sizes(problem)
    if reason is None and not threads_per_core(needs, chip):
        return (
            f"no core holds {needs.threads} threads of about {needs.registers} registers at a time"
        )
    return reason


@latest
def _reject_problem(problem: AttentionProblem) -> str | None:
    if reason := reject_attention(problem):
        return reason
    limits = {"head_dim": MAX_HEAD_DIM, "value_dim": MAX_HEAD_DIM, "pe_dim": MAX_HEAD_DIM // 4}
    for name, limit in limits.items():
        if getattr(problem, name) > limit:
            return f"{name} {getattr(problem, name)} is above {limit}"
    return None


def _reject_tile(problem: AttentionProblem, config: Config, chip: Chip) -> str | None:
    if config.simdgroups < 1 or config.block_kv < 1 or config.block_kv % FRAGMENT:
        return f"block_kv {config.block_kv} is not a multiple of {FRAGMENT}"
    if config.stages_q and not config.staged:
        return "q comes to threadgroup memory only where k and v are staged"
    if config.tall and not chip.limits.background_copies:
        return "copies to threadgroup memory do not go on in the background here"
    if config.tall and (config.head_groups > 1 or problem.pe_dim):
        return "sixteen rows a simdgroup are of whole heads without positional parts"
    reason = tiny_key_operand(problem) if config.staged else None
    reason = reason or (tiny_operand(problem.operands[:1]) if config.stages_q else None)
    if reason:
        return f"{reason}, from which nothing is staged"
    return None


def _reject_few(problem: AttentionProblem, config: Config, needs: Resources) -> str | None:
    few = config.staged and not config.tall and config.simdgroups <= FEW_SIMDGROUPS
    if few and problem.v is FLOAT32 and needs.registers > FEW_SIMDGROUPS_REGISTERS:
        return f"about {needs.registers} registers a thread exceed {FEW_SIMDGROUPS_REGISTERS}"
    return None


def cost(problem: AttentionProblem, config: Config, chip: Chip) -> float:
    """Return the modelled seconds of the configuration on the chip."""
    tile = _tile(forward_fields(problem), config)
    return seconds(attention_work(problem, tile, chip), chip)


@kept
def _tile(fields: Fields, config: Config) -> AttentionTile:
    needs = _resources(fields, config)
    return AttentionTile(
        simdgroups=config.simdgroups,
        block_kv=config.block_kv,
        staged=config.staged,
        registers=needs.registers,
        threadgroup_memory=needs.threadgroup_bytes,
        head_groups=config.head_groups,
        reread=config.reread,
        row_fragments=config.row_fragments,
    )


@kept
def _resources(fields: Fields, config: Config) -> Resources:
    return Spec(**fields.values, config=config).resources


@latest
def plan(problem: AttentionProblem, config: Config) -> Plan:
    """Return the plan of a configuration that `reject` accepts."""
    spec = Spec(**forward_fields(problem).values, config=config)
    return Plan(
        kernel=NAME,
        config=config,
        stages=(Stage(spec=spec, launch=_launch(problem, spec), resources=spec.resources),),
        factors=("scale",),
    )


def _launch(problem: AttentionProblem, spec: Spec) -> Launch:
    shapes, dtypes = forward_outputs(problem)
    return Launch(
        grid=_grid(problem, spec.config, spec.threads),
        threadgroup=(spec.threads, 1, 1),
        sizes=Sizes.of(spec, attention_sizes(problem)),
        output_shapes=shapes,
        output_dtypes=dtypes,
    )


def _grid(problem: AttentionProblem, config: Config, threads: int) -> Extent:
    return (ceil(problem.q_len / config.block_q) * threads, problem.num_heads, problem.batch)


def variant_problems() -> Iterator[AttentionProblem]:
    """Yield small problems that together reach every flag of the text."""
    for q, k, v in product(FLOATS, repeat=3):
        yield variant(q=q, k=k, v=v)
    for head_dim, value_dim in ((1, 1), (7, 9), (16, 24), (40, 64), (80, 80), (128, 128)):
        yield variant(head_dim=head_dim, value_dim=value_dim)
    for out in FLOATS:
        yield variant(out=out)
    for mask_kind, mask in VARIANT_MASKS:
        yield variant(mask_kind=mask_kind, mask=mask, softmax=False)
        for return_lse in (False, True):
            yield variant(mask_kind=mask_kind, mask=mask, return_lse=return_lse)
    window: dict[str, Any] = {"mask_kind": MaskKind.CAUSAL, "window": 9}
    boolean: dict[str, Any] = {"mask_kind": MaskKind.BOOLEAN, "mask": BOOL}
    yield variant(**window, return_lse=True)
    yield variant(sinks=BFLOAT16, return_lse=True)
    yield variant(mask_kind=MaskKind.ADDITIVE, mask=FLOAT32, return_norm=True)
    yield variant(**boolean, pe_dim=12, num_pe_heads=1)
    yield variant(**window, sinks=FLOAT32, pe_dim=8, num_pe_heads=2)
    # Heads that several simdgroups share: D, Dv and Dp.
    yield variant(head_dim=192, value_dim=128, softmax=False, q=FLOAT32, v=BFLOAT16)
    yield variant(head_dim=150, value_dim=190, **boolean, pe_dim=5, num_pe_heads=2)
    yield variant(head_dim=256, value_dim=256, **window, sinks=FLOAT16, return_lse=True)
    latent: dict[str, Any] = {"k": FLOAT16, "v": FLOAT16, "num_pe_heads": 1}
    yield variant(head_dim=512, value_dim=512, pe_dim=64, **latent)


KERNEL = Kernel(
    name=NAME,
    problem_type=AttentionProblem,
    candidates=candidates,
    reject=reject,
    cost=cost,
    plan=plan,
    variant_problems=variant_problems,
)

"""The work of the two kernels of attention's backward pass, counted from sizes."""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

from ...core.plan import SIMD_WIDTH
from ...machine.chips.record import Chip
from ...machine.cost import TileWork
from ...machine.counts import bytes_in_flight, copying_cycles
from ...machine.fragment import FRAGMENT, PAIR_BYTES
from .backward_spec import Config
from .problem import AttentionProblem, MaskKind

SCORE_INSTRUCTIONS = 8
"""Instructions to scale, mask and weigh one score of a lane, its exp2 aside."""

VISIBLE_MARGIN = 32
"""Keys beside a window that a block of rows meets, since the windows of its rows differ."""


class Side(NamedTuple):
    """Work of a kernel for each block of the rows that its simdgroups own.

    Attributes:
        blocks: Threadgroups for one head.
        heads: Heads with such rows, over the whole batch.
        streamed: Rows of the other side that a block meets, in the mean.
        products: Multiply-accumulates of fragments for each fragment of scores.
        own_bytes: Bytes of one row of its own side.
        streamed_bytes: Bytes of one streamed row, as staged: once.
        loaded_bytes: Bytes of one streamed row, as fragments: once for each product.
        moved_bytes: Bytes the launch has to move at least.
        registers: Live 32-bit registers of one thread.
        threadgroup_memory: Bytes of threadgroup memory of a threadgroup.
    """

    blocks: int
    heads: int
    streamed: float
    products: int
    own_bytes: int
    streamed_bytes: int
    loaded_bytes: int
    moved_bytes: int
    registers: int
    threadgroup_memory: int


def backward_work(side: Side, config: Config, chip: Chip) -> TileWork:
    """Return the work of one of the two kernels."""
    steps = ceil(side.streamed / config.block)
    fragments = config.simdgroups * steps * (config.block // FRAGMENT)
    unique = steps * config.block * side.streamed_bytes
    teams = config.simdgroups // config.head_groups
    loaded = teams * steps * config.block * side.loaded_bytes
    own = teams * FRAGMENT * side.own_bytes * (1 if config.cached else steps)
    # Each simdgroup leaves its part of two products, and reads those of its group.
    summed = 2 * fragments * (1 + config.head_groups) * SIMD_WIDTH * PAIR_BYTES
    shared = summed if config.head_groups > 1 else 0
    score_cycles = chip.exp2_cycles + SCORE_INSTRUCTIONS * chip.alu_cycles
    return TileWork(
        tiles=side.blocks * side.heads,
        simdgroups=config.simdgroups,
        chains=config.block // FRAGMENT,
        issue_cycles=fragments * side.products * chip.mma_cycles,
        alu_cycles=2 * fragments * score_cycles
        + steps
        * copying_cycles(
            config.staged, config.block * side.streamed_bytes, config.simdgroups, chip
        ),
        threadgroup_bytes=shared + (loaded + unique if config.staged else 0),
        fragment_bytes=own if config.staged else own + loaded,
        cache_bytes=unique,
        repeated_bytes=0 if config.staged else loaded - unique,
        dram_bytes=side.moved_bytes,
        waits=steps if config.staged else 2 * steps,
        registers=side.registers,
        threadgroup_memory=side.threadgroup_memory,
        shared_bytes=bytes_in_flight(
            side.streamed * side.streamed_bytes, side.heads, side.blocks, config.simdgroups, chip
        ),
        barriers=config.staged or config.head_groups > 1,
    )


def visible_share(problem: AttentionProblem) -> float:
    """Return the share of the scores that the kernels compute, in the mean."""
    if problem.mask_kind is not MaskKind.CAUSAL:
        return 1.0
    if problem.window:
        return min(1.0, (problem.window + VISIBLE_MARGIN) / problem.kv_len)
    return max(0.0, 1.0 - 0.5 * min(1.0, problem.q_len / problem.kv_len))


def operand_bytes(problem: AttentionProblem) -> int:
    """Return the bytes of q, k, v and the gradient that arrives."""
    return (
        problem.nbytes("q") + problem.nbytes("k") + problem.nbytes("v") + problem.results[0].nbytes
    )

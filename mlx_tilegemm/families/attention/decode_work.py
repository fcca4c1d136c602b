"""The work of an attention whose threadgroups share out rows and keys, counted."""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

from ...core.caches import latest
from ...machine.chips.record import Chip
from ...machine.cost import DRAM_SHARE, TileWork
from ...machine.fragment import FRAGMENT, fragments
from .problem import AttentionProblem
from .work import attention_bytes, step_cycles


class DecodeTile(NamedTuple):
    """Tiling of an attention of few rows. Each simdgroup owns eight rows of q.

    Attributes:
        row_groups: Simdgroups of a threadgroup with rows of their own.
        key_groups: Simdgroups that share rows and have keys of their own.
        head_groups: Simdgroups that share rows and keys and have a share of D and Dv each.
        block_kv: Keys of one step of a simdgroup.
        keys: Keys that are visible at all.
        registers: Live 32-bit registers of one thread.
        threadgroup_memory: Bytes of threadgroup memory of a threadgroup.
    """

    row_groups: int
    key_groups: int
    head_groups: int
    block_kv: int
    keys: int
    registers: int
    threadgroup_memory: int

    @property
    def simdgroups(self) -> int:
        """Simdgroups of a threadgroup."""
        return self.row_groups * self.key_groups * self.head_groups


class _Step(NamedTuple):
    """Work of one step of a simdgroup, the same however the keys are shared out.

    Attributes:
        scores: Fragments of scores.
        products: Multiply-accumulates.
        cycles: All other instructions.
        key_bytes: Bytes of one key and its value.
        blocks: Blocks of rows of the launch.
        dram_bytes: Bytes that the whole launch has to move.
    """

    scores: int
    products: int
    cycles: float
    key_bytes: int
    blocks: int
    dram_bytes: int


@latest
def _step(problem: AttentionProblem, tile: DecodeTile, chip: Chip) -> _Step:
    scores = ceil(tile.block_kv / FRAGMENT)
    head = fragments(problem.head_dim, tile.head_groups)
    head += fragments(problem.pe_dim, tile.head_groups)
    value = fragments(problem.value_dim, tile.head_groups)
    return _Step(
        scores=scores,
        products=scores * (head + value),
        cycles=step_cycles(problem, scores, head + value, value, chip),
        key_bytes=key_bytes(problem),
        blocks=_decode_blocks(problem, tile),
        dram_bytes=attention_bytes(problem),
    )


def decode_work(
    problem: AttentionProblem, tile: DecodeTile, split_keys: int, chip: Chip
) -> TileWork:
    """Return the work of an attention whose threadgroups share out rows and keys.

    Args:
        problem: The attention.
        tile: What a threadgroup does.
        split_keys: Keys of a threadgroup.
        chip: Where it runs.
    """
    step = _step(problem, tile, chip)
    keys, simdgroups = min(split_keys, tile.keys), tile.simdgroups
    steps = ceil(keys / (tile.key_groups * tile.block_kv))
    unique = keys * step.key_bytes
    row_steps = simdgroups * steps
    return TileWork(
        tiles=step.blocks * ceil(tile.keys / split_keys),
        simdgroups=simdgroups,
        chains=step.scores,
        issue_cycles=row_steps * step.products * chip.mma_cycles,
        alu_cycles=row_steps * step.cycles,
        threadgroup_bytes=_shared_bytes(problem, tile, steps),
        fragment_bytes=tile.row_groups * unique,
        cache_bytes=unique,
        repeated_bytes=(tile.row_groups - 1) * unique,
        dram_bytes=step.dram_bytes,
        waits=2 * steps,
        registers=tile.registers,
        threadgroup_memory=tile.threadgroup_memory,
        barriers=tile.head_groups > 1,
    )


def key_bytes(problem: AttentionProblem) -> int:
    """Return the bytes of one key and its value."""
    pe = problem.pe_dim * problem.k_pe.bytes if problem.k_pe else 0
    return problem.head_dim * problem.k.bytes + problem.value_dim * problem.v.bytes + pe


def packed_rows(problem: AttentionProblem) -> int:
    """Return the rows of q that share a head of k and v."""
    return problem.num_heads // problem.num_kv_heads * problem.q_len


def _decode_blocks(problem: AttentionProblem, tile: DecodeTile) -> int:
    blocks = ceil(packed_rows(problem) / (FRAGMENT * tile.row_groups))
    return blocks * problem.batch * problem.num_kv_heads


def _shared_bytes(problem: AttentionProblem, tile: DecodeTile, steps: int) -> float:
    """Return what goes through threadgroup memory: shares of scores, and of the result."""
    scores = tile.simdgroups * steps * tile.block_kv * FRAGMENT * (1 + tile.head_groups)
    result = tile.row_groups * tile.key_groups * FRAGMENT * problem.value_dim * 2
    shared_scores = scores if tile.head_groups > 1 else 0
    return 4.0 * (shared_scores + (result if tile.key_groups > 1 else 0))


def combining_seconds(problem: AttentionProblem, splits: int, chip: Chip) -> float:
    """Return the seconds of writing the splits' shares, and of the launch that joins them."""
    rows = problem.batch * problem.num_heads * problem.q_len
    moved = 2 * 4 * splits * rows * (problem.value_dim + 2)
    return chip.launch_seconds + moved / (DRAM_SHARE * chip.dram_bytes_per_second)

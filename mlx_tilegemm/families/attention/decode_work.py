"""The work of an attention whose threadgroups share out rows and keys, counted."""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

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
        split_keys: Keys of a threadgroup.
        registers: Live 32-bit registers of one thread.
        threadgroup_memory: Bytes of threadgroup memory of a threadgroup.
    """

    row_groups: int
    key_groups: int
    head_groups: int
    block_kv: int
    keys: int
    split_keys: int
    registers: int
    threadgroup_memory: int

    @property
    def simdgroups(self) -> int:
        """Simdgroups of a threadgroup."""
        return self.row_groups * self.key_groups * self.head_groups


def decode_work(problem: AttentionProblem, tile: DecodeTile, chip: Chip) -> TileWork:
    """Return the work of an attention whose threadgroups share out rows and keys."""
    scores = ceil(tile.block_kv / FRAGMENT)
    head = fragments(problem.head_dim, tile.head_groups)
    head += fragments(problem.pe_dim, tile.head_groups)
    value = fragments(problem.value_dim, tile.head_groups)
    keys = min(tile.split_keys, tile.keys)
    steps = ceil(keys / (tile.key_groups * tile.block_kv))
    unique = keys * key_bytes(problem)
    row_steps = tile.simdgroups * steps
    blocks = _decode_blocks(problem, tile)
    return TileWork(
        tiles=blocks * ceil(tile.keys / tile.split_keys),
        simdgroups=tile.simdgroups,
        chains=scores,
        issue_cycles=row_steps * scores * (head + value) * chip.mma_cycles,
        alu_cycles=row_steps * step_cycles(problem, scores, head + value, value, chip),
        threadgroup_bytes=_shared_bytes(problem, tile, steps),
        fragment_bytes=tile.row_groups * unique,
        cache_bytes=unique,
        repeated_bytes=(tile.row_groups - 1) * unique,
        dram_bytes=attention_bytes(problem),
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


def combining_seconds(problem: AttentionProblem, tile: DecodeTile, chip: Chip) -> float:
    """Return the seconds of writing the splits' shares, and of the launch that joins them."""
    rows = problem.batch * problem.num_heads * problem.q_len
    splits = ceil(tile.keys / tile.split_keys)
    moved = 2 * 4 * splits * rows * (problem.value_dim + 2)
    return chip.launch_seconds + moved / (DRAM_SHARE * chip.dram_bytes_per_second)

"""The work of tiled attentions, counted from problem and tile sizes, whoever wrote the kernel."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from ...core.caches import kept, latest
from ...core.dtypes import FLOAT32
from ...machine.chips.record import Chip
from ...machine.cost import TileWork
from ...machine.counts import bytes_in_flight, copying_cycles, widening_cycles
from ...machine.fragment import FRAGMENT, fragments
from .problem import AttentionProblem, MaskKind

SCORE_INSTRUCTIONS = 6
"""Instructions to scale, mask, reduce and sum one score of a lane, its exp2 aside."""


ROW_INSTRUCTIONS = 24
"""Instructions of one step to reduce a row over its lanes and renew its maximum and decay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionTile:
    """Tiling of an attention. Each simdgroup owns eight rows of q or more, or shares them.

    Attributes:
        simdgroups: Simdgroups of a threadgroup.
        block_kv: Keys of one step.
        staged: k and v pass through threadgroup memory.
        registers: Live 32-bit registers of one thread.
        threadgroup_memory: Bytes of threadgroup memory of a threadgroup.
        head_groups: Simdgroups that own eight rows of q together, each a part of their columns;
            they exchange their parts of the scores through threadgroup memory.
        reread: The rows of q stay in threadgroup memory and are read at every step; the tiles of k
            and v share one place there and are waited for one after the other.
        row_fragments: Eights of rows that a simdgroup owns.
    """

    simdgroups: int
    block_kv: int
    staged: bool
    registers: int
    threadgroup_memory: int
    head_groups: int = 1
    reread: bool = False
    row_fragments: int = 1

    @property
    def block_q(self) -> int:
        """Rows of q of a threadgroup."""
        return self.simdgroups // self.head_groups * self.row_fragments * FRAGMENT


def attention_work(problem: AttentionProblem, tile: AttentionTile, chip: Chip) -> TileWork:
    """Return the work of a fused attention that holds its rows of q and the result in registers."""
    groups = tile.head_groups
    head, value = fragments(problem.head_dim, groups), fragments(problem.value_dim, groups)
    positional = fragments(problem.pe_dim, groups)
    products = head + positional + value
    scores = ceil(tile.block_kv / FRAGMENT)
    steps = mean_steps(problem, tile.block_q, tile.block_kv)
    row_steps = tile.simdgroups * tile.row_fragments * steps
    row_bytes = head * problem.k.bytes + value * problem.v.bytes
    row_bytes += positional * problem.k_pe.bytes if problem.k_pe else 0
    unique = steps * tile.block_kv * FRAGMENT * row_bytes * tile.head_groups
    loaded = tile.simdgroups // tile.head_groups * unique
    blocks = ceil(problem.q_len / tile.block_q)
    matrices = problem.batch * problem.num_kv_heads
    other = step_cycles(problem, scores, products, value, chip)
    copying = steps * copying_cycles(tile.staged, unique / steps, tile.simdgroups, chip)
    exchanged = exchanged_bytes(tile) * steps
    q_reads = steps * tile.block_q * problem.head_dim * problem.q.bytes if tile.reread else 0
    return TileWork(
        tiles=blocks * problem.num_heads * problem.batch,
        simdgroups=tile.simdgroups,
        chains=scores * tile.row_fragments,
        issue_cycles=row_steps * scores * products * chip.mma_cycles,
        alu_cycles=row_steps * other + copying,
        threadgroup_bytes=exchanged + q_reads + (loaded + unique if tile.staged else 0),
        fragment_bytes=0 if tile.staged else loaded,
        cache_bytes=unique,
        repeated_bytes=0 if tile.staged else loaded - unique,
        dram_bytes=attention_bytes(problem),
        waits=steps if tile.staged and not tile.reread else 2 * steps,
        registers=tile.registers,
        threadgroup_memory=tile.threadgroup_memory,
        shared_bytes=bytes_in_flight(
            _matrix_bytes(problem),
            matrices,
            blocks * (problem.num_heads // problem.num_kv_heads),
            tile.simdgroups,
            chip,
        ),
        barriers=tile.staged or tile.head_groups > 1,
    )


def step_cycles(
    problem: AttentionProblem, scores: int, products: int, value: int, chip: Chip
) -> float:
    """Return the instructions of a simdgroup for one step over the keys, beside its products.

    Args:
        problem: The attention.
        scores: Fragments of scores.
        products: Multiply-accumulates for each of them.
        value: Fragments of the result.
        chip: Where it runs.
    """
    widening = scores * products * widening_cycles((problem.k, problem.v), chip)
    if not problem.softmax:
        return 2 * scores * chip.alu_cycles + widening
    softmax = 2 * scores * (chip.exp2_cycles + SCORE_INSTRUCTIONS * chip.alu_cycles)
    return softmax + (2 * value + ROW_INSTRUCTIONS) * chip.alu_cycles + widening


def exchanged_bytes(tile: AttentionTile) -> int:
    """Return the bytes of scores that head groups write and read in one step."""
    if tile.head_groups == 1:
        return 0
    written = tile.simdgroups * FRAGMENT * tile.block_kv * FLOAT32.bytes
    return written * (1 + tile.head_groups)


def mean_steps(problem: AttentionProblem, block_q: int, block_kv: int) -> float:
    """Return the steps over the keys that a block of rows makes, in the mean."""
    if problem.mask_kind is not MaskKind.CAUSAL:
        return ceil(problem.kv_len / block_kv)
    return _mean_causal_steps(problem, block_q, block_kv)


@kept
def _mean_causal_steps(problem: AttentionProblem, block_q: int, block_kv: int) -> float:
    # Row i sees the keys up to i + offset, and of these as many as the window has.
    offset, blocks = problem.kv_len - problem.q_len, ceil(problem.q_len / block_q)
    # Steps up to the last key of every block but the last, then of that, which may be shorter.
    steps = positive_quotients(blocks - 1, block_kv, block_q, block_q + offset + block_kv - 1)
    steps += max(0, ceil(problem.kv_len / block_kv))
    if problem.window is not None:
        steps -= positive_quotients(blocks, block_kv, block_q, offset + 1 - problem.window)
    return max(1.0, steps / blocks)


def positive_quotients(count: int, divisor: int, slope: int, start: int) -> int:
    """Return the sum of ``max(0, start + i * slope) // divisor`` for i below ``count``."""
    skipped = max(0, ceil(-start / slope)) if start < 0 else 0
    return floor_sum(count - skipped, divisor, slope, start + skipped * slope)


def floor_sum(count: int, divisor: int, slope: int, start: int) -> int:
    """Return the sum of ``(start + i * slope) // divisor`` for i below ``count``.

    By the Euclidean algorithm; ``slope`` and ``start`` are not negative.
    """
    total = 0
    while count > 0:
        total += count * (count - 1) // 2 * (slope // divisor) + count * (start // divisor)
        slope, start = slope % divisor, start % divisor
        reach = slope * count + start
        if reach < divisor:
            break
        # The same lattice points, counted along the other axis.
        count, start = reach // divisor, reach % divisor
        slope, divisor = divisor, slope
    return total


@latest
def attention_bytes(problem: AttentionProblem) -> int:
    """Return the bytes an attention has to move at least."""
    positional = problem.nbytes("q_pe")
    return problem.nbytes("q") + positional + key_value_bytes(problem) + problem.results[0].nbytes


@latest
def _matrix_bytes(problem: AttentionProblem) -> float:
    """Return the bytes of one head's keys and values, in the mean."""
    return key_value_bytes(problem) / (problem.batch * problem.num_kv_heads)


def key_value_bytes(problem: AttentionProblem) -> int:
    """Return the bytes of the keys and values that some row sees, each once."""
    row = problem.head_dim * problem.k.bytes + problem.value_dim * problem.v.bytes
    heads = problem.batch * problem.num_kv_heads
    seen = problem.kv_len
    if problem.window is not None:
        seen = min(seen, problem.window + problem.q_len - 1)
    positional = problem.pe_dim * problem.k_pe.bytes if problem.k_pe else 0
    return seen * (heads * row + problem.batch * problem.num_pe_heads * positional)

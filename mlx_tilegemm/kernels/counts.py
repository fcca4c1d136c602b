"""The work of tiled GEMMs and attentions, counted from problem and tile sizes.

The counts hold for every kernel built in the usual way, whoever wrote it: they serve the kernels of
this library, MLX's, and the published ones that the model is compared with.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

from ..chips.record import Chip
from ..dtypes import BFLOAT16, FLOAT32, DType
from ..plan import SIMD_WIDTH
from ..problem import AttentionProblem, GemmProblem, MaskKind
from .cost import TileWork, resident_threadgroups, streamed_bytes
from .fragment import FRAGMENT, fragments
from .lines import step_bytes_in_flight, tile_line_bytes

FRAGMENT_ELEMENTS = FRAGMENT * FRAGMENT

SCORE_INSTRUCTIONS = 6
"""Instructions to scale, mask, reduce and sum one score of a lane, its exp2 aside."""

RUN_BYTES = 16
"""What one thread copies to threadgroup memory at a time."""

RUN_INSTRUCTIONS = 10
"""Instructions to copy one such run: place, addresses, load and store. Counted in the template."""

STEP_INSTRUCTIONS = 8
"""Instructions of a simdgroup for a step with barriers beside its copies: the loop and pointers."""

ROW_INSTRUCTIONS = 24
"""Instructions of one step to reduce a row over its lanes and renew its maximum and decay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GemmTile:
    """How a GEMM on simdgroup matrices is cut up.

    Attributes:
        block_m: Rows of the result of a threadgroup.
        block_n: Columns of the result of a threadgroup.
        block_k: Depth of one step.
        simdgroups_m: Simdgroups along the rows.
        simdgroups_n: Simdgroups along the columns.
        staged: Operands pass through threadgroup memory; else fragments load from device memory.
        panel: Block rows that are walked together.
        registers: Live 32-bit registers of one thread.
        threadgroup_memory: Bytes of threadgroup memory of a threadgroup.
        prefetched: The next step is staged while the current one is multiplied.
    """

    block_m: int
    block_n: int
    block_k: int
    simdgroups_m: int
    simdgroups_n: int
    staged: bool
    panel: int = 1
    registers: int = 0
    threadgroup_memory: int = 0
    prefetched: bool = False

    @property
    def simdgroups(self) -> int:
        """Simdgroups of a threadgroup."""
        return self.simdgroups_m * self.simdgroups_n

    @property
    def fragments(self) -> tuple[int, int]:
        """Fragments of the result of a simdgroup, along rows and columns."""
        return (
            self.block_m // (FRAGMENT * self.simdgroups_m),
            self.block_n // (FRAGMENT * self.simdgroups_n),
        )


def gemm_work(
    problem: GemmProblem, tile: GemmTile, chip: Chip, *, mma_cycles: float | None = None
) -> TileWork:
    """Return the work of a tiled GEMM.

    Args:
        problem: What is multiplied.
        tile: How it is cut up.
        chip: Where it runs.
        mma_cycles: Cycles of one multiply-accumulate; None is the chip's for float32.
    """
    steps = ceil(problem.k / tile.block_k)
    depth = steps * tile.block_k // FRAGMENT
    rows, columns = tile.fragments
    sizes = (problem.a.bytes, problem.b.bytes)
    loads = tile.simdgroups * depth * (rows + columns)
    loaded = tile.simdgroups * depth * FRAGMENT_ELEMENTS * (rows * sizes[0] + columns * sizes[1])
    unique = steps * tile.block_k * (tile.block_m * sizes[0] + tile.block_n * sizes[1])
    tiles_m, tiles_n = ceil(problem.m / tile.block_m), ceil(problem.n / tile.block_n)
    work = TileWork(
        tiles=tiles_m * tiles_n * problem.batch_size,
        simdgroups=tile.simdgroups,
        chains=rows * columns,
        issue_cycles=tile.simdgroups * depth * rows * columns * (mma_cycles or chip.mma_cycles),
        alu_cycles=loads * widening_cycles((problem.a, problem.b), chip)
        + steps * copying_cycles(tile.staged, unique / steps, tile.simdgroups, chip),
        threadgroup_bytes=loaded + unique if tile.staged else 0,
        fragment_bytes=0 if tile.staged else loaded,
        cache_bytes=unique,
        dram_bytes=0.0,
        waits=steps,
        registers=tile.registers,
        threadgroup_memory=tile.threadgroup_memory,
        prefetched=tile.prefetched,
        barriers=tile.staged,
    )
    work = with_dram_bytes(work, problem, (tiles_m, tiles_n), tile.panel, chip)
    resident = min(resident_threadgroups(work, chip), ceil(work.tiles / chip.cores))
    wave = chip.cores * resident
    lines = step_lines(problem, tile)
    launched = (problem.batch_size, tiles_m, tiles_n)
    shared = step_bytes_in_flight(*lines, launched, wave, tile.panel)
    return replace(work, shared_bytes=shared, line_bytes=steps * sum(lines))


def step_lines(problem: GemmProblem, tile: GemmTile) -> tuple[float, float]:
    """Return the bytes of the lines of ``a`` and of ``b`` that a threadgroup touches in a step."""
    a, b = (tile.block_m, tile.block_k), (tile.block_k, tile.block_n)
    a = a[::-1] if problem.transpose_a else a
    b = b[::-1] if problem.transpose_b else b
    return tile_line_bytes(a[0], a[1] * problem.a.bytes), tile_line_bytes(
        b[0], b[1] * problem.b.bytes
    )


def with_dram_bytes(
    work: TileWork, problem: GemmProblem, tiles: tuple[int, int], panel: int, chip: Chip
) -> TileWork:
    """Return the work of one launch with what it moves to and from memory, re-reads included."""
    batch = problem.batch_size
    moved = streamed_bytes(
        a_bytes=problem.a_elements * problem.a.bytes / batch,
        b_bytes=problem.b_elements * problem.b.bytes / batch,
        out_bytes=written_bytes(problem) / batch,
        tiles_m=tiles[0],
        tiles_n=tiles[1],
        wave=chip.cores * resident_threadgroups(work, chip),
        panel=panel,
        chip=chip,
    )
    return replace(work, dram_bytes=moved * batch)


def written_bytes(problem: GemmProblem) -> int:
    """Return the bytes of the result and of what is added to it."""
    out = problem.batch_size * problem.m * problem.n * problem.out.bytes
    return out + (problem.c_elements * problem.c.bytes if problem.c else 0)


def copying_cycles(staged: bool, copied_bytes: float, simdgroups: int, chip: Chip) -> float:
    """Return the instructions of all simdgroups for one step that copies so many bytes."""
    if not staged:
        return 0.0
    runs = ceil(copied_bytes / (RUN_BYTES * SIMD_WIDTH * simdgroups))
    return simdgroups * (runs * RUN_INSTRUCTIONS + STEP_INSTRUCTIONS) * chip.alu_cycles


def widening_cycles(dtypes: tuple[DType, ...], chip: Chip) -> float:
    """Return the instructions to widen one fragment, in the mean over operands of these types."""
    return chip.bfloat_cycles * dtypes.count(BFLOAT16) / len(dtypes)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionTile:
    """How an attention is cut up. Each simdgroup owns eight rows of q, or shares them.

    Attributes:
        simdgroups: Simdgroups of a threadgroup.
        block_kv: Keys of one step.
        staged: k and v pass through threadgroup memory.
        registers: Live 32-bit registers of one thread.
        threadgroup_memory: Bytes of threadgroup memory of a threadgroup.
        head_groups: Simdgroups that own eight rows of q together, each a part of their columns;
            they exchange their parts of the scores through threadgroup memory.
    """

    simdgroups: int
    block_kv: int
    staged: bool
    registers: int
    threadgroup_memory: int
    head_groups: int = 1

    @property
    def block_q(self) -> int:
        """Rows of q of a threadgroup."""
        return self.simdgroups // self.head_groups * FRAGMENT

    def fragments(self, columns: int) -> int:
        """Return the fragments along some columns that one simdgroup has."""
        return fragments(columns, self.head_groups)


def attention_work(problem: AttentionProblem, tile: AttentionTile, chip: Chip) -> TileWork:
    """Return the work of a fused attention that holds its rows of q and the result in registers."""
    head, value = tile.fragments(problem.head_dim), tile.fragments(problem.value_dim)
    positional = tile.fragments(problem.pe_dim)
    products = head + positional + value
    scores = ceil(tile.block_kv / FRAGMENT)
    steps = mean_steps(problem, tile.block_q, tile.block_kv)
    row_steps = tile.simdgroups * steps
    row_bytes = head * problem.k.bytes + value * problem.v.bytes
    row_bytes += positional * problem.k_pe.bytes if problem.k_pe else 0
    unique = steps * tile.block_kv * FRAGMENT * row_bytes * tile.head_groups
    loaded = tile.simdgroups // tile.head_groups * unique
    blocks = ceil(problem.q_len / tile.block_q)
    matrices = problem.batch * problem.num_kv_heads
    other = step_cycles(problem, scores, products, value, chip)
    copying = steps * copying_cycles(tile.staged, unique / steps, tile.simdgroups, chip)
    exchanged = exchanged_bytes(tile) * steps
    return TileWork(
        tiles=blocks * problem.num_heads * problem.batch,
        simdgroups=tile.simdgroups,
        chains=scores,
        issue_cycles=row_steps * scores * products * chip.mma_cycles,
        alu_cycles=row_steps * other + copying,
        threadgroup_bytes=exchanged + (loaded + unique if tile.staged else 0),
        fragment_bytes=0 if tile.staged else loaded,
        cache_bytes=unique,
        repeated_bytes=0 if tile.staged else loaded - unique,
        dram_bytes=attention_bytes(problem),
        waits=steps if tile.staged else 2 * steps,
        registers=tile.registers,
        threadgroup_memory=tile.threadgroup_memory,
        shared_bytes=bytes_in_flight(
            key_value_bytes(problem) / matrices,
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


def bytes_in_flight(
    matrix_bytes: float, matrices: int, threadgroups: int, simdgroups: int, chip: Chip
) -> float:
    """Return the bytes that the threadgroups running together walk through again and again.

    Args:
        matrix_bytes: Size of what all threadgroups of one matrix walk through.
        matrices: How many such matrices there are.
        threadgroups: Threadgroups of one matrix.
        simdgroups: Simdgroups of a threadgroup.
        chip: Where it runs.
    """
    running = chip.cores * max(1, chip.saturating_simdgroups // simdgroups)
    return matrix_bytes * min(matrices, ceil(running / threadgroups))


def mean_steps(problem: AttentionProblem, block_q: int, block_kv: int) -> float:
    """Return the steps over the keys that a block of rows makes, in the mean."""
    if problem.mask_kind is not MaskKind.CAUSAL:
        return ceil(problem.kv_len / block_kv)
    # Row i sees the keys up to i + offset, and of these as many as the window has.
    offset = problem.kv_len - problem.q_len
    steps = 0
    for first in range(0, problem.q_len, block_q):
        end = min(first + block_q, problem.q_len) + offset
        begin = first + offset + 1 - problem.window if problem.window is not None else 0
        steps += max(0, ceil(end / block_kv)) - max(0, begin) // block_kv
    return max(1.0, steps / ceil(problem.q_len / block_q))


def attention_bytes(problem: AttentionProblem) -> int:
    """Return the bytes an attention has to move at least."""
    positional = problem.q_pe_elements * problem.q_pe.bytes if problem.q_pe else 0
    return (
        problem.q_elements * problem.q.bytes
        + positional
        + key_value_bytes(problem)
        + problem.out_elements * problem.out.bytes
    )


def key_value_bytes(problem: AttentionProblem) -> int:
    """Return the bytes of the keys and values that some row sees, each once."""
    row = problem.head_dim * problem.k.bytes + problem.value_dim * problem.v.bytes
    heads = problem.batch * problem.num_kv_heads
    seen = problem.kv_len
    if problem.window is not None:
        seen = min(seen, problem.window + problem.q_len - 1)
    positional = problem.pe_dim * problem.k_pe.bytes if problem.k_pe else 0
    return seen * (heads * row + problem.batch * problem.num_pe_heads * positional)

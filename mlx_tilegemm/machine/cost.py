"""Modelled seconds from counted work.

A launch is counted as `TileWork`: what one threadgroup does, how many threadgroups there are, and
what each holds of a core. `estimate` turns that into seconds for a chip. Two times are computed,
and the larger one counts: how long the busiest core is kept *busy* when its threadgroups hide one
another's waiting, and how long its threadgroups take when each *waits* for memory at every step and
too few are there to fill in.

The model leaves out: bank conflicts, misses of the page tables, registers that the compiler spills
below the limit, and the milliseconds a cold GPU takes to reach its clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, exp
from typing import NamedTuple

from ..core.caches import kept
from ..core.plan import SIMD_WIDTH
from .chips.record import Chip

EXPOSED_SHARE = 0.15
"""Share of the shorter phases (arithmetic, threadgroup memory, caches, memory) that the longest
does not hide. Fitted by bench/model.py."""

SCATTERED_READ_FACTOR = 1.5
"""Cost of a fragment loaded straight from device memory over a staged read of as many bytes: its
rows are 16 or 32 bytes long and a matrix row apart, a fraction of a 128-byte line each. Assumed:
published times hardly depend on it."""

DRIFT_SHARE = 0.3
"""Share of what simdgroups of a threadgroup load alike that each fetches from the shared cache on
its own, where no barrier keeps them together. Fitted by bench/model.py."""

WAIT_FACTOR = 1.5
"""Latencies of memory that one wait of a threadgroup costs: address, line, store, barrier. Fitted
by bench/model.py."""

DRAM_SHARE = 0.93
"""Share of the memory bandwidth that streaming reaches, as measured on M4 Pro and M5 Max."""

SPILL_FACTOR = 10.0
"""How much longer arithmetic takes once registers spill, as measured on an M5 Max."""

CHAINS_THAT_COUNT = 4
"""Independent chains of a simdgroup beyond which more do not help, from M1's latency tables."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """The constants that no data sheet tells; see the module's of the same names.

    Attributes:
        exposed_share: See `EXPOSED_SHARE`.
        scattered_read_factor: See `SCATTERED_READ_FACTOR`.
        drift_share: See `DRIFT_SHARE`.
        wait_factor: See `WAIT_FACTOR`.
    """

    exposed_share: float = EXPOSED_SHARE
    scattered_read_factor: float = SCATTERED_READ_FACTOR
    drift_share: float = DRIFT_SHARE
    wait_factor: float = WAIT_FACTOR


FITTED = Constants()


class TileWork(NamedTuple):
    """Work of one threadgroup, and how many there are.

    Every candidate has one, and a tuple is made in a third of a frozen dataclass's time.

    Attributes:
        tiles: Threadgroups of the launch.
        simdgroups: Simdgroups of a threadgroup.
        chains: Independent accumulations of one simdgroup, which hide each other's latency.
        issue_cycles: Cycles of one scheduler that a threadgroup's multiply-accumulates take.
        alu_cycles: Likewise of all its other arithmetic, part of which the chip runs beside them.
        threadgroup_bytes: Threadgroup memory a threadgroup reads and writes.
        fragment_bytes: Bytes it loads straight from device memory into fragments, through L1.
        vector_bytes: Bytes that its simdgroups load again from L1 a line or more at a time.
        cache_bytes: Bytes it reads from the shared cache, each once.
        line_bytes: Bytes of the lines that hold these, each once a step: what the cache behind the
            shared one gives of them. 0 where all of a line is read before it is lost.
        repeated_bytes: Bytes that a second simdgroup and others load again, with no barrier to keep
            them together: part of these comes from the shared cache too.
        dram_bytes: Bytes the whole launch has to move to and from memory.
        waits: Times a threadgroup asks for memory and can do nothing until it comes: its steps.
        registers: Live 32-bit registers of one thread.
        threadgroup_memory: Bytes of threadgroup memory a threadgroup holds.
        prefetched: The next step's data is asked for before the current step's arithmetic.
        shared_bytes: Size of what the threadgroups running together read of the shared cache before
            one of them reads any of it again: keys and values that all walk through, or the lines
            of one step of a GEMM. 0 where that is little.
        barriers: The simdgroups of a threadgroup wait for each other at every step.
        exposed_share: Overrides the model's constant, for kernels that this library does not build.
    """

    tiles: int
    simdgroups: int
    chains: int
    issue_cycles: float
    threadgroup_bytes: float
    cache_bytes: float
    dram_bytes: float
    alu_cycles: float = 0.0
    fragment_bytes: float = 0.0
    vector_bytes: float = 0.0
    line_bytes: float = 0.0
    repeated_bytes: float = 0.0
    waits: float = 1.0
    registers: int = 0
    threadgroup_memory: int = 0
    prefetched: bool = False
    shared_bytes: float = 0.0
    barriers: bool = True
    exposed_share: float | None = None


class Estimate(NamedTuple):
    """Modelled seconds of one launch, by what takes them.

    Attributes:
        arithmetic: All instructions issued. Each phase is given as if it were alone.
        threadgroup: Threadgroup memory.
        l1: Fragments through the core's own cache.
        l2: Reads from the shared cache.
        dram: Memory.
        busy: The five together, as far as they do not hide each other.
        waiting: The busiest core's threadgroups one round after another, waits included.
        launch: Fixed cost.
    """

    arithmetic: float
    threadgroup: float
    l1: float
    l2: float
    dram: float
    busy: float
    waiting: float
    launch: float

    @property
    def seconds(self) -> float:
        """The modelled time."""
        return self.launch + max(self.busy, self.waiting)

    @property
    def bound(self) -> str:
        """Limit of the launch: ``launch``, ``waiting`` or the longest phase."""
        longest = max(self.busy, self.waiting)
        if self.launch > longest:
            return "launch"
        if self.waiting > self.busy:
            return "waiting"
        phases = ("arithmetic", "threadgroup", "l1", "l2", "dram")
        return max(phases, key=lambda name: float(getattr(self, name)))


def resident_threadgroups(work: TileWork, chip: Chip) -> int:
    """Return how many threadgroups of this kind a core holds at a time."""
    return residents(work.simdgroups, work.registers, work.threadgroup_memory, chip)


@kept
def residents(simdgroups: int, registers: int, threadgroup_memory: int, chip: Chip) -> int:
    """Return how many threadgroups a core holds at a time, at least one.

    Args:
        simdgroups: Simdgroups of a threadgroup.
        registers: Live 32-bit registers of one thread.
        threadgroup_memory: Bytes of threadgroup memory of a threadgroup.
        chip: Its table says how many threads a core's registers hold.
    """
    threads = next((threads for most, threads in chip.occupancy if registers <= most), None)
    by_registers = (threads or chip.occupancy[-1][1]) // (SIMD_WIDTH * simdgroups)
    if not threadgroup_memory:
        return max(1, by_registers)
    return max(1, min(by_registers, chip.threadgroup_memory_bytes // threadgroup_memory))


def estimate(work: TileWork, chip: Chip, constants: Constants = FITTED) -> Estimate:
    """Return the modelled time of a launch and its parts."""
    phases, busy, waiting = _phases(work, chip, constants)
    return Estimate(*phases, busy, waiting, chip.launch_seconds)


def _phases(
    work: TileWork, chip: Chip, constants: Constants
) -> tuple[tuple[float, float, float, float, float], float, float]:
    """Return the phases' seconds, and those that an estimate calls busy and waiting."""
    per_core = ceil(work.tiles / chip.cores)
    most = residents(work.simdgroups, work.registers, work.threadgroup_memory, chip)
    resident = min(per_core, most)
    issued, shared, own, cached = _tile_cycles(work, chip, constants)
    at_a_time = schedulers(resident * work.simdgroups, work.chains, chip)
    factor = per_core / chip.clock_hz
    dram = work.dram_bytes / (DRAM_SHARE * chip.dram_bytes_per_second)
    phases = (issued / at_a_time * factor, shared * factor, own * factor, cached * factor, dram)
    longest = max(phases)
    exposed = constants.exposed_share if work.exposed_share is None else work.exposed_share
    moved = shared + own + cached
    busy = longest + exposed * (sum(phases) - longest)
    waiting = per_core / resident * _alone(work, issued, moved, chip, constants)
    return phases, busy, waiting


def _alone(work: TileWork, issued: float, moved: float, chip: Chip, constants: Constants) -> float:
    """Return the seconds of a threadgroup that has a core to itself, waits included.

    Without barriers that is the time of one of its simdgroups: the others do not wait for it.

    Args:
        work: What it does.
        issued: Cycles of one scheduler that its instructions take.
        moved: Cycles of its memory accesses.
        chip: Where it runs.
        constants: Of the model.
    """
    independent = 1 if work.barriers else work.simdgroups
    cycles = issued / schedulers(work.simdgroups // independent, work.chains, chip) + moved
    computing = cycles / independent / chip.clock_hz
    waits = work.waits * constants.wait_factor * chip.memory_latency_seconds
    return max(computing, waits) if work.prefetched else computing + waits


@kept
def schedulers(simdgroups: int, chains: int, chip: Chip) -> float:
    """Return the schedulers of a core that simdgroups of so many independent chains keep busy."""
    in_flight = simdgroups * min(chains, CHAINS_THAT_COUNT)
    utilisation = min(1.0, in_flight / chip.saturating_simdgroups)
    return min(chip.schedulers * utilisation, simdgroups)


def _tile_cycles(
    work: TileWork, chip: Chip, constants: Constants
) -> tuple[float, float, float, float]:
    """Return a threadgroup's cycles: of one scheduler, of threadgroup memory, L1, shared caches."""
    spill = SPILL_FACTOR if work.registers >= chip.occupancy[-1][0] else 1.0
    cache_bytes = work.cache_bytes + constants.drift_share * work.repeated_bytes
    l1_bytes = work.fragment_bytes * constants.scattered_read_factor + work.vector_bytes
    return (
        work.issue_cycles * spill + work.alu_cycles * (1.0 - chip.coissue_share),
        work.threadgroup_bytes / chip.threadgroup_bytes_per_cycle,
        l1_bytes / chip.l1_bytes_per_cycle,
        _shared_cache_cycles(work, cache_bytes, chip),
    )


def _shared_cache_cycles(work: TileWork, read_bytes: float, chip: Chip) -> float:
    """Return the cycles of reading so many bytes, some of which the shared cache has lost."""
    if work.shared_bytes <= chip.l2_bytes:
        return read_bytes / chip.l2_bytes_per_cycle
    kept = kept_share(work.shared_bytes / chip.l2_bytes)
    lost_bytes = max(read_bytes, work.line_bytes) * (1.0 - kept)
    return read_bytes * kept / chip.l2_bytes_per_cycle + lost_bytes / chip.slc_bytes_per_cycle


def kept_share(sweep: float) -> float:
    """Return the share of its reads that a cache serves itself when swept again and again.

    Of a cache that replaces lines at random, a line survives a sweep of ``sweep`` times its size
    with probability exp(-misses / size), and the misses of a sweep are what has not survived: the
    share h solves h = exp(-(1 - h) sweep). Up to its size a cache keeps all.
    """
    if sweep <= 1.0:
        return 1.0
    share, step = 0.0, 1.0
    while step > 1e-9:
        survive = exp(-(1.0 - share) * sweep)
        # Newton's method from below, where the difference is convex and falls to its root.
        step = (survive - share) / (1.0 - sweep * survive)
        share += step
    return share


def seconds(work: TileWork, chip: Chip) -> float:
    """Return the modelled time of a launch, in seconds."""
    # As `estimate(work, chip).seconds`: every candidate is priced, and few are explained.
    _, busy, waiting = _phases(work, chip, FITTED)
    return chip.launch_seconds + max(busy, waiting)


def streamed_bytes(
    *,
    a_bytes: float,
    b_bytes: float,
    out_bytes: float,
    tiles_m: int,
    tiles_n: int,
    wave: int,
    panel: int,
    chip: Chip,
) -> float:
    """Return the bytes a GEMM moves to and from memory, re-reads included.

    The threadgroups that run together cover ``panel`` block rows or more, and read all of ``b`` by
    the time those rows are done; what of it the last cache does not keep is read again for the next
    rows. ``a`` is read once: a panel of it stays in cache.

    Args:
        a_bytes: Size of ``a``.
        b_bytes: Size of ``b``.
        out_bytes: Size of the result, addends included.
        tiles_m: Block rows.
        tiles_n: Block columns.
        wave: Threadgroups that run at a time.
        panel: Block rows that are walked together.
        chip: Where it runs.
    """
    rows_together = max(panel, wave / tiles_n)
    passes = max(1.0, tiles_m / rows_together)
    missed = max(0.0, 1.0 - chip.slc_bytes / b_bytes) if b_bytes else 0.0
    return a_bytes + b_bytes * (1.0 + (passes - 1.0) * missed) + out_bytes

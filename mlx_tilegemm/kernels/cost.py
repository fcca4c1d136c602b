"""Modelled seconds from counted work.

The model is a roofline of one threadgroup on one core, repeated for as many threadgroups as the
busiest core gets, and bounded below by the chip's memory bandwidth. It leaves out: overlap between
threadgroups of different phases, cache misses beyond the first read, and bank conflicts.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from ..chips.record import Chip

EXPOSED_SHARE = 0.5
"""Share of the shorter phases (arithmetic, threadgroup memory, caches) that the longest does not
hide: a single-buffered threadgroup hides none of it, its neighbours on the core hide the rest."""

SCATTERED_READ_FACTOR = 2.0
"""What a fragment loaded straight from device memory costs over a staged read of as many bytes: its
rows are 16 to 32 bytes apart by a whole matrix row, a fraction of a 128-byte line each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TileWork:
    """What one threadgroup does, and how many there are.

    Attributes:
        tiles: Threadgroups of the launch.
        simdgroups: Simdgroups of a threadgroup.
        chains: Independent accumulations of one simdgroup, which hide each other's latency.
        issue_cycles: Cycles of one scheduler that a threadgroup's arithmetic takes.
        threadgroup_bytes: Threadgroup memory a threadgroup reads and writes.
        cache_bytes: Device memory a threadgroup reads through the caches.
        dram_bytes: Bytes the whole launch has to move at least.
    """

    tiles: int
    simdgroups: int
    chains: int
    issue_cycles: float
    threadgroup_bytes: float
    cache_bytes: float
    dram_bytes: float


def seconds(work: TileWork, chip: Chip) -> float:
    """Return the modelled time of a launch, in seconds."""
    tiles_per_core = ceil(work.tiles / chip.cores)
    in_flight = tiles_per_core * work.simdgroups * min(work.chains, 4)
    utilisation = min(1.0, in_flight / chip.saturating_simdgroups)
    phases = (
        work.issue_cycles / chip.schedulers / utilisation,
        work.threadgroup_bytes / chip.threadgroup_bytes_per_cycle,
        work.cache_bytes / chip.l2_bytes_per_cycle,
    )
    longest = max(phases)
    tile_cycles = longest + EXPOSED_SHARE * (sum(phases) - longest)
    compute = tiles_per_core * tile_cycles / chip.clock_hz
    return chip.launch_seconds + max(compute, work.dram_bytes / chip.dram_bytes_per_second)

"""Apple7: M1.

Core counts, clock, bandwidth, issue and MMA cycles: philipturner/metal-benchmarks. Threadgroup and
L2 bandwidth: azhirnov/cpu-gpu-arch, M1. Launch cost: measured on an M3 Pro by kryptic-sh/infr and
assumed here.
"""

from __future__ import annotations

from .record import Chip

M1 = Chip(
    name="m1",
    generation=13,
    cores=8,
    clock_hz=1.278e9,
    schedulers=4,
    mma_cycles=18.0,
    alu_cycles=1.0,
    exp2_cycles=4.0,
    threadgroup_bytes_per_cycle=65.6,
    l2_bytes_per_cycle=37.6,
    dram_bytes_per_second=68.3e9,
    saturating_simdgroups=24,
    launch_seconds=1.2e-6,
)

CHIPS = (M1,)

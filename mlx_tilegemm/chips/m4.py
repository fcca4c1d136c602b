"""Apple9: M4.

Cores and bandwidth: Apple. The clock is uncertain: 1.38 GHz (applegpuinfo) to 1.47 GHz (hmc-tech).
MMA cycles: the ceiling of 15.5 of 16.16 TFLOPS measured on an M4 Max. Threadgroup bandwidth: the
95.7 bytes a cycle measured on an M5 Max, assumed alike. L2: as Apple7, for want of a measurement.
Launch cost: measured on an M3 Pro by kryptic-sh/infr.
"""

from __future__ import annotations

from .record import Chip

M4 = Chip(
    name="m4",
    generation=16,
    cores=10,
    clock_hz=1.47e9,
    schedulers=4,
    mma_cycles=16.7,
    alu_cycles=1.0,
    exp2_cycles=4.0,
    threadgroup_bytes_per_cycle=95.7,
    l2_bytes_per_cycle=37.6,
    dram_bytes_per_second=120.0e9,
    saturating_simdgroups=24,
    launch_seconds=1.2e-6,
)

CHIPS = (M4,)

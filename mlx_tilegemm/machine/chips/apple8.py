"""Apple8: M2, M2 Pro, M2 Max, M2 Ultra.

Only clocks, caches and bandwidth were measured on these; the core is taken to be Apple7's.
"""

from __future__ import annotations

from dataclasses import replace

from .apple7 import KIBI, M1, MEBI
from .record import Chip, Provenance, source, with_cores

_SOURCES = (
    source(Provenance.PUBLISHED, "Apple", "cores", "dram_bytes_per_second"),
    source(Provenance.MEASURED, "philipturner/metal-benchmarks", "clock_hz", "slc_bytes"),
    source(Provenance.ASSUMED, "512 KiB (metal-benchmarks) or 3 MiB on an M2 Pro", "l2_bytes"),
    source(
        Provenance.MEASURED,
        "chipsandcheese, M2 Pro: SLC 234 ns",
        "memory_latency_seconds",
    ),
    source(Provenance.MEASURED, "mesa, src/asahi/compiler/agx_performance.c", "occupancy"),
    source(
        Provenance.ASSUMED,
        "as Apple7",
        "schedulers",
        "mma_cycles",
        "mma_half_cycles",
        "alu_cycles",
        "exp2_cycles",
        "coissue_share",
        "threadgroup_bytes_per_cycle",
        "l1_bytes_per_cycle",
        "l2_bytes_per_cycle",
        "slc_bytes_per_cycle",
        "threadgroup_memory_bytes",
        "saturating_simdgroups",
        "bfloat_cycles",
    ),
    source(Provenance.ASSUMED, "as measured on an M3 Pro by kryptic-sh/infr", "launch_seconds"),
    source(
        Provenance.PUBLISHED,
        "no neural accelerators",
        "neural_fma_per_cycle",
        "neural_float32_fma_per_cycle",
    ),
)


def _chip(name: str, size_class: str, cores: int, dram: float, l2_kibi: int, slc_mebi: int) -> Chip:
    return replace(
        M1,
        name=name,
        family="apple8",
        generation=14,
        size_class=size_class,
        cores=cores,
        clock_hz=1.398e9,
        l2_bytes=l2_kibi * KIBI,
        slc_bytes=slc_mebi * MEBI,
        dram_bytes_per_second=dram,
        memory_latency_seconds=234e-9,
        sources=_SOURCES,
    )


M2 = _chip("m2", "g", 10, 102.4e9, 1536, 8)
M2_PRO = _chip("m2-pro", "s", 19, 204.8e9, 3072, 24)
M2_MAX = _chip("m2-max", "s", 38, 409.6e9, 3072, 48)
M2_ULTRA = _chip("m2-ultra", "d", 76, 819.2e9, 6144, 96)

CHIPS = (
    M2,
    with_cores(M2, 8),
    M2_PRO,
    with_cores(M2_PRO, 16),
    M2_MAX,
    with_cores(M2_MAX, 30),
    M2_ULTRA,
    with_cores(M2_ULTRA, 60),
)

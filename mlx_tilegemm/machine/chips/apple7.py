"""Apple7: M1, M1 Pro, M1 Max, M1 Ultra."""

from __future__ import annotations

from .record import OCCUPANCY, Chip, Provenance, source, with_cores

KIBI = 1 << 10
MEBI = 1 << 20

_SOURCES = (
    source(Provenance.PUBLISHED, "Apple", "cores", "dram_bytes_per_second"),
    source(
        Provenance.MEASURED,
        "philipturner/metal-benchmarks: clock, issue, 17 and 18 cycles of an MMA, on-core data",
        "clock_hz",
        "schedulers",
        "mma_cycles",
        "mma_half_cycles",
        "alu_cycles",
        "exp2_cycles",
        "l1_bytes_per_cycle",
        "l2_bytes",
        "slc_bytes_per_cycle",
        "slc_bytes",
        "threadgroup_memory_bytes",
        "saturating_simdgroups",
    ),
    source(
        Provenance.MEASURED,
        "azhirnov/cpu-gpu-arch, M1: 671 GB/s of threadgroup memory, 384 GB/s of L2, SLC 266 ns",
        "threadgroup_bytes_per_cycle",
        "l2_bytes_per_cycle",
        "memory_latency_seconds",
    ),
    source(Provenance.MEASURED, "mesa, src/asahi/compiler/agx_performance.c", "occupancy"),
    source(
        Provenance.ASSUMED, "no co-issue: changing types costs a cycle, one source", "coissue_share"
    ),
    source(Provenance.ASSUMED, "as measured on an M3 Pro by kryptic-sh/infr", "launch_seconds"),
    source(
        Provenance.DERIVED, "no bfloat16 hardware: a shift or two each, by reading", "bfloat_cycles"
    ),
    source(
        Provenance.PUBLISHED,
        "no neural accelerators",
        "neural_fma_per_cycle",
        "neural_float32_fma_per_cycle",
    ),
)


def _chip(
    name: str,
    size_class: str,
    cores: int,
    clock_hz: float,
    dram: float,
    l2_kibi: int,
    slc_mebi: int,
) -> Chip:
    return Chip(
        name=name,
        family="apple7",
        generation=13,
        size_class=size_class,
        cores=cores,
        clock_hz=clock_hz,
        schedulers=4,
        mma_cycles=18.0,
        mma_half_cycles=17.0,
        alu_cycles=1.0,
        exp2_cycles=4.0,
        coissue_share=0.0,
        threadgroup_bytes_per_cycle=65.6,
        l1_bytes_per_cycle=64.0,
        l2_bytes_per_cycle=37.6,
        l2_bytes=l2_kibi * KIBI,
        slc_bytes_per_cycle=17.5,
        slc_bytes=slc_mebi * MEBI,
        dram_bytes_per_second=dram,
        memory_latency_seconds=266e-9,
        occupancy=OCCUPANCY,
        threadgroup_memory_bytes=60 * 1024,
        saturating_simdgroups=24,
        launch_seconds=1.2e-6,
        bfloat_cycles=4.0,
        neural_fma_per_cycle=0,
        neural_float32_fma_per_cycle=0,
        sources=_SOURCES,
    )


M1 = _chip("m1", "g", 8, 1.278e9, 68.3e9, 768, 8)
M1_PRO = _chip("m1-pro", "s", 16, 1.296e9, 204.8e9, 256, 24)
M1_MAX = _chip("m1-max", "s", 32, 1.296e9, 409.6e9, 512, 48)
M1_ULTRA = _chip("m1-ultra", "d", 64, 1.296e9, 819.2e9, 1024, 96)

CHIPS = (
    M1,
    with_cores(M1, 7),
    M1_PRO,
    with_cores(M1_PRO, 14),
    M1_MAX,
    with_cores(M1_MAX, 24),
    M1_ULTRA,
    with_cores(M1_ULTRA, 48),
)

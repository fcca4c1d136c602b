"""Apple10: M5, M5 Pro, M5 Max, with a neural accelerator in every core."""

from __future__ import annotations

from .record import OCCUPANCY, Chip, Provenance, Source, source, with_cores

MEBI = 1 << 20

_SHARED_SOURCES = (
    source(Provenance.PUBLISHED, "Apple", "cores", "dram_bytes_per_second"),
    source(
        Provenance.MEASURED,
        "a suite of microbenchmarks on an M5 Max: issue, precise exp2, memories, launch",
        "schedulers",
        "alu_cycles",
        "exp2_cycles",
        "threadgroup_bytes_per_cycle",
        "l1_bytes_per_cycle",
        "memory_latency_seconds",
        "launch_seconds",
    ),
    source(
        Provenance.MEASURED,
        "a register loop of matmul2d on an M5 Max: 15.7 TFLOPS with float32, 59.6 with float32 "
        "rounded to TF32, 65.7 with 16 bits",
        "mma_cycles",
        "mma_half_cycles",
        "neural_fma_per_cycle",
        "neural_float32_fma_per_cycle",
    ),
    source(
        Provenance.DERIVED,
        "mixes take 0.71 to 0.81 of their parts' sum: 0.4 of the smaller part hides",
        "coissue_share",
    ),
    source(
        Provenance.DERIVED,
        "58 TFLOPS at 128x64 and 31 at 64x32 of matmul2d both ask for about 22 bytes a cycle",
        "l2_bytes_per_cycle",
    ),
    source(
        Provenance.ASSUMED,
        "as the families before it",
        "l2_bytes",
        "slc_bytes_per_cycle",
        "occupancy",
        "threadgroup_memory_bytes",
        "saturating_simdgroups",
    ),
    source(Provenance.PUBLISHED, "converts bfloat16 as part of an FMA", "bfloat_cycles"),
)

_CLOCK = (source(Provenance.MEASURED, "powermetrics under load", "clock_hz"),)
_CLOCK_PRO = (source(Provenance.ASSUMED, "between M5 and M5 Max", "clock_hz"),)
_SLC = (source(Provenance.MEASURED, "michaelstinkerings.org, M5", "slc_bytes"),)
_SLC_GUESS = (source(Provenance.ASSUMED, "a fit of latencies on an M5 Max", "slc_bytes"),)


def _chip(
    name: str,
    size_class: str,
    cores: int,
    clock_hz: float,
    dram: float,
    slc_mebi: int,
    sources: tuple[Source, ...],
) -> Chip:
    return Chip(
        name=name,
        family="apple10",
        generation=17,
        size_class=size_class,
        cores=cores,
        clock_hz=clock_hz,
        schedulers=4,
        mma_cycles=16.9,
        mma_half_cycles=16.9,
        alu_cycles=1.0,
        exp2_cycles=7.0,
        coissue_share=0.4,
        threadgroup_bytes_per_cycle=95.7,
        l1_bytes_per_cycle=133.0,
        l2_bytes_per_cycle=24.0,
        l2_bytes=4 * MEBI,
        slc_bytes_per_cycle=17.5,
        slc_bytes=slc_mebi * MEBI,
        dram_bytes_per_second=dram,
        memory_latency_seconds=340e-9,
        occupancy=OCCUPANCY,
        threadgroup_memory_bytes=60 * 1024,
        saturating_simdgroups=24,
        launch_seconds=0.8e-6,
        bfloat_cycles=0.0,
        neural_fma_per_cycle=512,
        neural_float32_fma_per_cycle=460,
        sources=(*sources, *_SHARED_SOURCES),
    )


M5 = _chip("m5", "g", 10, 1.578e9, 153.6e9, 32, (*_CLOCK, *_SLC))
M5_PRO = _chip("m5-pro", "s", 20, 1.6e9, 307.2e9, 48, (*_CLOCK_PRO, *_SLC_GUESS))
M5_MAX = _chip("m5-max", "s", 40, 1.62e9, 614.4e9, 71, (*_CLOCK, *_SLC_GUESS))

CHIPS = (
    M5,
    with_cores(M5, 8),
    M5_PRO,
    with_cores(M5_PRO, 16),
    M5_MAX,
    with_cores(M5_MAX, 32, dram_bytes_per_second=460.8e9),
)

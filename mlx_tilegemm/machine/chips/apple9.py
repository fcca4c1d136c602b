"""Apple9: M3, M3 Pro, M3 Max, M3 Ultra, M4, M4 Pro, M4 Max.

Registers, threadgroup memory and cache share one on-chip store here and are handed out as they are
used. The cliff at 128 registers was measured all the same, so Apple7's table stands in.
"""

from __future__ import annotations

from .record import OCCUPANCY, Chip, Provenance, Source, source, with_cores

MEBI = 1 << 20

_SHARED_SOURCES = (
    source(Provenance.PUBLISHED, "Apple", "cores", "dram_bytes_per_second"),
    source(
        Provenance.DERIVED,
        "15.5 of 16.16 TFLOPS at best on an M4 Max, alike for float16 and float32 (mlx-vlm notes)",
        "mma_cycles",
        "mma_half_cycles",
    ),
    source(
        Provenance.MEASURED,
        "5.8 and 6.1 TFLOPS of float32 and float16 FMA on a 16-core M4 Pro",
        "schedulers",
        "alu_cycles",
    ),
    source(
        Provenance.ASSUMED,
        "mixes take 0.71 to 0.81 of their parts' sum on an M5 Max: 0.4 of the smaller part hides",
        "coissue_share",
    ),
    source(
        Provenance.ASSUMED,
        "as measured on an M5 Max: 95.7 and 133 bytes a cycle",
        "threadgroup_bytes_per_cycle",
        "l1_bytes_per_cycle",
    ),
    source(
        Provenance.ASSUMED,
        "as Apple7 and Apple8",
        "exp2_cycles",
        "l2_bytes_per_cycle",
        "slc_bytes_per_cycle",
        "memory_latency_seconds",
        "occupancy",
        "threadgroup_memory_bytes",
        "saturating_simdgroups",
    ),
    source(Provenance.ASSUMED, "no size was published; as the chip before it", "slc_bytes"),
    source(
        Provenance.DERIVED,
        "attention on an M4 is at full speed with k and v of 4 MiB and slower above 8 "
        "(metal-flash-attention)",
        "l2_bytes",
    ),
    source(Provenance.MEASURED, "kryptic-sh/infr on an M3 Pro", "launch_seconds"),
    source(Provenance.PUBLISHED, "converts bfloat16 as part of an FMA", "bfloat_cycles"),
    source(
        Provenance.PUBLISHED,
        "no neural accelerators",
        "neural_fma_per_cycle",
        "neural_float32_fma_per_cycle",
    ),
)

_M3_CLOCK = source(Provenance.ASSUMED, "1.38 (applegpuinfo) or 1.398 GHz (hmc-tech)", "clock_hz")
_M4_CLOCK = source(
    Provenance.ASSUMED,
    "1.38 (applegpuinfo) to 1.47 GHz (hmc-tech); below 1.40 kernels would pass the MMA ceiling",
    "clock_hz",
)
_M4_PRO_CLOCK = source(Provenance.ASSUMED, "1.578 GHz by several indirect readings", "clock_hz")


def _chip(
    name: str,
    generation: int,
    size_class: str,
    cores: int,
    clock: tuple[float, Source],
    dram: float,
    slc_mebi: int,
) -> Chip:
    return Chip(
        name=name,
        family="apple9",
        generation=generation,
        size_class=size_class,
        cores=cores,
        clock_hz=clock[0],
        schedulers=4,
        mma_cycles=16.7,
        mma_half_cycles=16.7,
        alu_cycles=1.0,
        exp2_cycles=4.0,
        coissue_share=0.4,
        threadgroup_bytes_per_cycle=95.7,
        l1_bytes_per_cycle=133.0,
        l2_bytes_per_cycle=37.6,
        l2_bytes=8 * MEBI,
        slc_bytes_per_cycle=17.5,
        slc_bytes=slc_mebi * MEBI,
        dram_bytes_per_second=dram,
        memory_latency_seconds=250e-9,
        occupancy=OCCUPANCY,
        threadgroup_memory_bytes=60 * 1024,
        saturating_simdgroups=24,
        launch_seconds=1.2e-6,
        bfloat_cycles=0.0,
        neural_fma_per_cycle=0,
        neural_float32_fma_per_cycle=0,
        sources=(clock[1], *_SHARED_SOURCES),
    )


_M3 = (1.398e9, _M3_CLOCK)
M3 = _chip("m3", 15, "g", 10, _M3, 102.4e9, 8)
M3_PRO = _chip("m3-pro", 15, "s", 18, _M3, 153.6e9, 12)
M3_MAX = _chip("m3-max", 15, "s", 40, _M3, 409.6e9, 48)
M3_ULTRA = _chip("m3-ultra", 15, "d", 80, _M3, 819.2e9, 96)
_M4_PRO = (1.578e9, _M4_PRO_CLOCK)
M4 = _chip("m4", 16, "g", 10, (1.47e9, _M4_CLOCK), 120.0e9, 8)
M4_PRO = _chip("m4-pro", 16, "s", 20, _M4_PRO, 273.0e9, 24)
M4_MAX = _chip("m4-max", 16, "s", 40, _M4_PRO, 546.0e9, 48)

CHIPS = (
    M3,
    with_cores(M3, 8),
    M3_PRO,
    with_cores(M3_PRO, 14),
    M3_MAX,
    with_cores(M3_MAX, 30, dram_bytes_per_second=307.2e9),
    M3_ULTRA,
    with_cores(M3_ULTRA, 60),
    M4,
    with_cores(M4, 8),
    M4_PRO,
    with_cores(M4_PRO, 16),
    M4_MAX,
    with_cores(M4_MAX, 32, dram_bytes_per_second=410.0e9),
)

"""The record of one GPU, and where each of its numbers comes from."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from enum import Enum
from typing import NamedTuple

from ...core.plan import REGISTER_LIMIT, THREADGROUP_MEMORY_LIMIT


class Provenance(Enum):
    """Provenance of a number: how far it can be trusted."""

    MEASURED = "measured"
    """Somebody ran a benchmark on this very chip, or on another of its family."""

    PUBLISHED = "published"
    """The maker, or a table of clocks and buses, says so."""

    DERIVED = "derived"
    """Computed from other people's measurements of something else."""

    ASSUMED = "assumed"
    """Carried over from another family, or chosen among sources that disagree: uncertain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Source of some of a chip's numbers.

    Attributes:
        fields: Names of the fields.
        provenance: How far they can be trusted.
        text: Who says so.
    """

    fields: tuple[str, ...]
    provenance: Provenance
    text: str


def source(provenance: Provenance, text: str, *names: str) -> Source:
    """Return the source of the fields called ``names``."""
    return Source(fields=names, provenance=provenance, text=text)


class Limits(NamedTuple):
    """What a thread or a threadgroup may use, and what only some chips do; by default Apple's.

    Attributes:
        registers: 32-bit registers from which on a thread spills.
        threadgroup_bytes: Bytes of threadgroup memory of one threadgroup.
        background_copies: Whether copies to threadgroup memory go on beside the threads that
            asked for them, and need none of their registers.
        joined_loads: Whether a compiler joins what a thread loads of neighbours, at whatever
            element they begin.
        call_seconds: What it takes a program to add a launch to MLX's graph, where times that are
            measured are the GPU's alone and a GPU may have to wait for the program.
    """

    registers: int = REGISTER_LIMIT
    threadgroup_bytes: int = THREADGROUP_MEMORY_LIMIT
    background_copies: bool = False
    joined_loads: bool = True
    call_seconds: float = 0.0


APPLE = Limits()
"""Of every Apple GPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chip:
    """Numbers of one GPU that costs depend on. Every one has exactly one entry in ``sources``.

    Attributes:
        name: Lower-case name, for example ``m4-max``; a chip sold with fewer GPU cores has their
            number at its end, ``m4-max-32``.
        family: Metal's GPU family, for example ``apple9``.
        generation: Number in MLX's architecture string (``applegpu_g16s`` is 16).
        size_class: Letter in that string: ``g`` base, ``s`` Pro and Max, ``d`` Ultra.
        cores: GPU cores.
        clock_hz: Shader clock under load, in Hz.
        schedulers: Simdgroup instructions a core issues each cycle.
        mma_cycles: Issue cycles of one 8x8x8 float32 multiply-accumulate of a simdgroup.
        mma_half_cycles: Likewise with float16 operands and sums.
        alu_cycles: Issue cycles of one 32-lane float32 instruction.
        exp2_cycles: Issue cycles of one 32-lane exp2.
        coissue_share: Share of other arithmetic that runs beside multiply-accumulates.
        threadgroup_bytes_per_cycle: Threadgroup memory bandwidth of one core, bytes a cycle.
        l1_bytes_per_cycle: What one core can load from its own cache, bytes a cycle.
        l2_bytes_per_cycle: What one core can read from the shared cache, bytes a cycle.
        l2_bytes: Size of the cache that the GPU's cores share.
        slc_bytes_per_cycle: What one core can read from the cache behind it, bytes a cycle.
        slc_bytes: Size of that cache, in front of memory, which the whole chip shares.
        dram_bytes_per_second: Memory bandwidth of the chip.
        memory_latency_seconds: From asking for a line that is not on the core to having it.
        occupancy: Pairs of (32-bit registers of a thread, threads a core then holds), ascending.
        threadgroup_memory_bytes: Threadgroup memory of one core, shared by its threadgroups.
        saturating_simdgroups: Simdgroups a core needs, one dependent chain each, to fill its ALUs.
        launch_seconds: Fixed cost of one kernel launch.
        bfloat_cycles: Extra instructions to widen or narrow two bfloat16 values of a lane.
        neural_fma_per_cycle: Float16 multiply-adds a cycle of one core's neural accelerator; 0
            without one.
        neural_float32_fma_per_cycle: Likewise as soon as one operand is float32, rounded to TF32.
        sources: Where the numbers come from.
        limits: What a thread and a threadgroup may use.
    """

    name: str
    family: str
    generation: int
    size_class: str
    cores: int
    clock_hz: float
    schedulers: int
    mma_cycles: float
    mma_half_cycles: float
    alu_cycles: float
    exp2_cycles: float
    coissue_share: float
    threadgroup_bytes_per_cycle: float
    l1_bytes_per_cycle: float
    l2_bytes_per_cycle: float
    l2_bytes: int
    slc_bytes_per_cycle: float
    slc_bytes: int
    dram_bytes_per_second: float
    memory_latency_seconds: float
    occupancy: tuple[tuple[int, int], ...]
    threadgroup_memory_bytes: int
    saturating_simdgroups: int
    launch_seconds: float
    bfloat_cycles: float
    neural_fma_per_cycle: int
    neural_float32_fma_per_cycle: int
    sources: tuple[Source, ...]
    limits: Limits = APPLE

    def __hash__(self) -> int:
        # Chips are keys of everything that is modelled; equal ones have equal names.
        return hash(self.name)

    @property
    def peak_flops(self) -> float:
        """Float32 operations a second outside the neural accelerators; an FMA is two."""
        return self.cores * self.schedulers * 32 * 2 * self.clock_hz

    @property
    def neural_flops(self) -> float:
        """Float16 operations a second of the neural accelerators; an FMA is two."""
        return self.cores * self.neural_fma_per_cycle * 2 * self.clock_hz

    @property
    def native_bfloat(self) -> bool:
        """Whether the hardware converts bfloat16."""
        return self.bfloat_cycles == 0

    def source_of(self, name: str) -> Source:
        """Return where the field called ``name`` comes from."""
        return next(one for one in self.sources if name in one.fields)

    @property
    def uncertain(self) -> tuple[str, ...]:
        """Names of the numbers that are assumed."""
        return tuple(
            name
            for one in self.sources
            if one.provenance is Provenance.ASSUMED
            for name in one.fields
        )


NUMBERS = tuple(
    field.name
    for field in fields(Chip)
    if field.name not in ("name", "family", "generation", "size_class", "sources", "limits")
)
"""The fields that need a source."""

OCCUPANCY = (
    (52, 1024),
    (56, 896),
    (64, 832),
    (68, 768),
    (72, 704),
    (80, 640),
    (92, 576),
    (104, 512),
    (116, 448),
    (128, 384),
)
"""Threads of a core by 32-bit registers of a thread: 208 KiB in portions of 64 threads."""


def with_cores(chip: Chip, cores: int, **changes: float) -> Chip:
    """Return the chip as it is sold with fewer GPU cores."""
    return replace(chip, name=f"{chip.name}-{cores}", cores=cores, **changes)  # type: ignore[arg-type]

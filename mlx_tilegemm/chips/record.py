"""The record of one GPU."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Chip:
    """What the cost of a plan depends on.

    Attributes:
        name: Lower-case name, for example ``m4-max``.
        generation: Number in MLX's architecture string (``applegpu_g16s`` is 16).
        cores: GPU cores.
        clock_hz: Shader clock under load, in Hz.
        schedulers: Simdgroup instructions a core issues each cycle.
        mma_cycles: Issue cycles of one 8x8x8 float32 multiply-accumulate of a simdgroup.
        alu_cycles: Issue cycles of one 32-lane float32 instruction.
        exp2_cycles: Issue cycles of one 32-lane exp2.
        threadgroup_bytes_per_cycle: Threadgroup memory bandwidth of one core, bytes a cycle.
        l2_bytes_per_cycle: What one core can read from the last shared cache, bytes a cycle.
        dram_bytes_per_second: Memory bandwidth of the chip.
        saturating_simdgroups: Simdgroups a core needs, one dependent chain each, to fill its ALUs.
        launch_seconds: Fixed cost of one kernel launch.
    """

    name: str
    generation: int
    cores: int
    clock_hz: float
    schedulers: int
    mma_cycles: float
    alu_cycles: float
    exp2_cycles: float
    threadgroup_bytes_per_cycle: float
    l2_bytes_per_cycle: float
    dram_bytes_per_second: float
    saturating_simdgroups: int
    launch_seconds: float

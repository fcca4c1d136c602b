"""Stand-in for NVIDIA GPUs: what is legal there, and numbers that order what is to be measured."""

from __future__ import annotations

from dataclasses import replace

from .record import OCCUPANCY, Chip, Limits

LIMITS = Limits(
    registers=256,
    threadgroup_bytes=48 * 1024,
    background_copies=True,
    joined_loads=False,
    call_seconds=4.2e-6,
)
"""Of a thread, and of memory that a kernel declares; from compute capability 8.0 on.

A launch was measured beside an H100, 2000 of one addition in a graph. Beside an H200 a product of
8 experts of 4 bits took a program 25.5 us on a kernel and 17.5 by MLX's op: an op takes as much
again.
"""


def like(chip: Chip) -> Chip:
    """Return the stand-in, with the numbers of an Apple GPU that takes as many shares of work."""
    occupancy = (*OCCUPANCY, (LIMITS.registers - 1, 256))
    return replace(chip, name="nvidia", family="nvidia", occupancy=occupancy, limits=LIMITS)

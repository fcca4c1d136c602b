"""Instructions and bytes that tiled kernels of all families have in common."""

from __future__ import annotations

from math import ceil

from ..core.dtypes import BFLOAT16, DType
from ..core.plan import SIMD_WIDTH
from .chips.record import Chip

RUN_BYTES = 16
"""Bytes that one thread copies to threadgroup memory at a time."""

RUN_INSTRUCTIONS = 10
"""Instructions to copy one such run: place, addresses, load and store. Counted in the template."""

STEP_INSTRUCTIONS = 8
"""Instructions of a simdgroup for a step with barriers beside its copies: the loop and pointers."""


def copying_cycles(staged: bool, copied_bytes: float, simdgroups: int, chip: Chip) -> float:
    """Return the instructions of all simdgroups for one step that copies so many bytes."""
    if not staged:
        return 0.0
    runs = ceil(copied_bytes / (RUN_BYTES * SIMD_WIDTH * simdgroups))
    return simdgroups * (runs * RUN_INSTRUCTIONS + STEP_INSTRUCTIONS) * chip.alu_cycles


def widening_cycles(dtypes: tuple[DType, ...], chip: Chip) -> float:
    """Return the instructions to widen one fragment, in the mean over operands of these types."""
    return chip.bfloat_cycles * dtypes.count(BFLOAT16) / len(dtypes)


def bytes_in_flight(
    matrix_bytes: float, matrices: int, threadgroups: int, simdgroups: int, chip: Chip
) -> float:
    """Return the bytes that the threadgroups running together walk through again and again.

    Args:
        matrix_bytes: Size of what all threadgroups of one matrix walk through.
        matrices: How many such matrices there are.
        threadgroups: Threadgroups of one matrix.
        simdgroups: Simdgroups of a threadgroup.
        chip: Where it runs.
    """
    running = chip.cores * max(1, chip.saturating_simdgroups // simdgroups)
    return matrix_bytes * min(matrices, ceil(running / threadgroups))

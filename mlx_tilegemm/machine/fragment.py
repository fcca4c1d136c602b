"""Numbers that all kernels on simdgroup matrices have in common, each stated once."""

from __future__ import annotations

from math import ceil

from ..core.dtypes import DType

FRAGMENT = 8
"""Rows and columns of a simdgroup matrix."""

PAIR_BYTES = 8
"""Bytes of a fragment that a lane holds: two float32."""

ALIGNED_ROWS = 64
"""Blocks of fewer rows guard them always: m is run-time, and a text without guards for every block
height would cost prompts of varying length a kernel each."""

STAGE_PADDING_BYTES = 16
"""Padding of a staged row: neighbouring rows then begin in different banks."""

ADDRESSING_REGISTERS = 24
"""Registers for pointers, counters and bounds, by reading comparable compiled kernels."""

ROW_REGISTERS = 4
"""Running maximum and sum, decay and reference of the lane's row in an attention."""


def fragments(size: int, groups: int) -> int:
    """Return the fragments along ``size`` elements that each of as many groups has."""
    return ceil(size / (FRAGMENT * groups))


def staged_stride(columns: int, dtype: DType) -> int:
    """Return the elements between two staged rows of so many columns."""
    return columns + STAGE_PADDING_BYTES // dtype.bytes

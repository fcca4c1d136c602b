"""Finds variables that are used before they are set.

No instrumentation sees registers. But a result that depends on a variable that was never set comes
out differently when such variables start as zero and when they start as a pattern. So a kernel is
compiled both ways, and for each new shape a few threadgroups run both ways.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]

# What the runtime fills outputs with.
_UNWRITTEN = 0xFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """One buffer that both runs wrote to.

    Args:
        before: Its contents before, None for an output.
        patterned: Its contents after the run in which variables start as a pattern.
        zeroed: Its contents after the run in which variables start as zero, by some threadgroups.
        scalar_size: Bytes of its scalars.
        is_float: Whether those are floating-point numbers.
    """

    before: Array | None
    patterned: Array
    zeroed: Array
    scalar_size: int
    is_float: bool


def first_difference(written: Written) -> tuple[int, int] | None:
    """Where two runs differ.

    Returns:
        Byte offset of the first difference and the number of scalars that differ, None if the runs
        agree.
    """
    patterned, zeroed = (
        _bits(array, written.scalar_size) for array in (written.patterned, written.zeroed)
    )
    if written.before is None:
        before = np.full(zeroed.nbytes, _UNWRITTEN, np.uint8).view(zeroed.dtype)
    else:
        before = _bits(written.before, written.scalar_size)
    differs = (zeroed != before) & (zeroed != patterned)
    if written.is_float and differs.any():
        differs &= ~(_is_nan(zeroed) & _is_nan(patterned))
    places = np.flatnonzero(differs)
    if places.size == 0:
        return None
    return int(places[0]) * zeroed.itemsize, int(places.size)


def _bits(array: Array, scalar_size: int) -> npt.NDArray[np.unsignedinteger]:
    """The scalars of an array as unsigned integers."""
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    size = scalar_size if scalar_size in (2, 4, 8) and flat.size % scalar_size == 0 else 1
    bits: npt.NDArray[np.unsignedinteger] = flat.view(np.dtype(f"u{size}"))
    return bits


def _is_nan(bits: npt.NDArray[np.unsignedinteger]) -> npt.NDArray[np.bool_]:
    """Which scalars are NaN; those of two bytes may be half or bfloat and are taken for half."""
    limits = {2: (0x7FFF, 0x7C00), 4: (0x7FFFFFFF, 0x7F800000)}
    if bits.itemsize not in limits:
        return np.zeros(bits.shape, np.bool_)
    magnitude, infinity = limits[bits.itemsize]
    found: npt.NDArray[np.bool_] = np.greater(
        bits & bits.dtype.type(magnitude), bits.dtype.type(infinity)
    )
    return found

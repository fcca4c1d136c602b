"""Price: what MLX's own ops would run, and how long that is modelled to take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Path that MLX would take, and how long that is modelled to take.

    Attributes:
        path: MLX's kernel in words, for example ``steel-64x64x16-2x2``.
        seconds: Modelled time, copies included.
        copied_bytes: Bytes read and written by casts into copies.
        reduced: Float32 factors lose bits on the way: on neural accelerators MLX uses TF32.
    """

    path: str
    seconds: float
    copied_bytes: int = 0
    reduced: bool = False


def make_price(path: str, time: float, copied: int, reduced: bool) -> Price:
    """Return a price whose path also says what else is to be known."""
    notes = [", in TF32"] * reduced + [f", {copied} bytes of copies"] * bool(copied)
    return Price(path=path + "".join(notes), seconds=time, copied_bytes=copied, reduced=reduced)

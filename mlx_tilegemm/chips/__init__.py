"""What is known of each GPU: one record a chip, one file a family.

Numbers carry their source next to them. `get` looks a chip up by name and `detect` names the chip
of this machine; nothing else in the library asks the machine anything.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import mlx.core as mx

from ..errors import ProblemError
from . import m1, m4
from .record import Chip

CHIPS: tuple[Chip, ...] = (*m1.CHIPS, *m4.CHIPS)
DEFAULT: Chip = m4.M4
"""Stands in where there is no Apple GPU to ask."""

__all__ = ["CHIPS", "DEFAULT", "Chip", "detect", "get"]


def get(name: str) -> Chip:
    """Return the chip called ``name``, for example ``"m4"``.

    Raises:
        ProblemError: No chip has that name.
    """
    for chip in CHIPS:
        if chip.name == name.lower():
            return chip
    known = ", ".join(chip.name for chip in CHIPS)
    raise ProblemError(f"[chip] Expected one of {known}, got {name!r}.")


@lru_cache(maxsize=1)
def detect() -> tuple[Chip, str | None]:
    """Return this machine's chip, and a note where it is only the nearest one known."""
    if not mx.metal.is_available():
        return DEFAULT, f"no Apple GPU here; planned for {DEFAULT.name}"
    return match(mx.device_info())


def match(info: dict[str, Any]) -> tuple[Chip, str | None]:
    """Return the chip that `mx.device_info()` describes, and a note where it is only near.

    Args:
        info: Holds ``architecture``, for example ``applegpu_g16s``, and ``device_name``, for
            example ``Apple M4 Max``.
    """
    device = str(info.get("device_name", ""))
    name = "-".join(device.lower().removeprefix("apple").split())
    for chip in CHIPS:
        if chip.name == name:
            return chip, None
    found = re.fullmatch(r"applegpu_g(\d+)[a-z]", str(info.get("architecture", "")))
    generation = int(found.group(1)) if found else DEFAULT.generation
    nearest = min(CHIPS, key=lambda chip: abs(chip.generation - generation))
    return nearest, f"{device or 'this GPU'} has no record; planned for {nearest.name}"

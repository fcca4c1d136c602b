"""Records of GPUs: one a chip, one file a generation.

Every number names its source and how far it can be trusted. `get` looks a chip up by name and
`detect` names the chip of this machine; nothing else in the library asks the machine anything.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import mlx.core as mx

from ...errors import ProblemError
from . import apple7, apple8, apple9, apple10, nvidia
from .record import Chip, Limits, Provenance, Source

CHIPS: tuple[Chip, ...] = (*apple7.CHIPS, *apple8.CHIPS, *apple9.CHIPS, *apple10.CHIPS)
DEFAULT: Chip = apple9.M4
"""Stands in where there is no Apple GPU to ask."""

LARGEST: Chip = max(CHIPS, key=lambda chip: chip.cores)
"""The Apple chip of the most cores."""

NVIDIA: Chip = nvidia.like(LARGEST)
"""Stands in for NVIDIA GPUs, of which nothing is modelled."""

__all__ = [
    "CHIPS",
    "DEFAULT",
    "LARGEST",
    "NVIDIA",
    "Chip",
    "Limits",
    "Provenance",
    "Source",
    "detect",
    "get",
    "match",
]


def spelled(text: str) -> str:
    """Return a chip's name as its record has it, from capitals or not, spaces or hyphens."""
    return "-".join(text.lower().split())


def get(name: str) -> Chip:
    """Return the chip called ``name``, for example ``"m4-max"`` or ``"m4-max-32"``.

    Raises:
        ProblemError: No chip has that name.
    """
    for chip in CHIPS:
        if chip.name == spelled(str(name)):
            return chip
    known = ", ".join(chip.name for chip in CHIPS)
    raise ProblemError(f"[chip] Expected one of {known}, got {name!r}.")


def detect() -> tuple[Chip, str | None]:
    """Return this machine's chip as MLX uses it, and a note where it is only the nearest one known.

    A second note says where MLX leaves its neural accelerators alone.
    """
    if not mx.metal.is_available():
        if mx.cuda.is_available():
            return NVIDIA, "an NVIDIA GPU, of which nothing is modelled"
        return DEFAULT, f"no Apple GPU here; planned for {DEFAULT.name}"
    return _detect_apple()


@lru_cache(maxsize=1)
def _detect_apple() -> tuple[Chip, str | None]:
    # Imported here because only a Mac is asked for its version, once.
    import platform

    from .accelerators import as_mlx_uses, mlx_build, tf32_enabled

    chip, note = match(mx.device_info(), gpu_cores(_registry()))
    system, build = platform.mac_ver()[0], mlx_build()
    used, without = as_mlx_uses(chip, system=system, build=build, tf32=tf32_enabled())
    return used, "; ".join(filter(None, (note, without))) or None


def match(info: dict[str, Any], cores: int | None = None) -> tuple[Chip, str | None]:
    """Return the chip that `mx.device_info()` describes, and a note where it is only near.

    Args:
        info: Holds ``architecture``, for example ``applegpu_g16s``, and ``device_name``, for
            example ``Apple M4 Max``.
        cores: GPU cores, which MLX does not tell; None where they are not known.
    """
    device = str(info.get("device_name") or "")
    name = "-".join(device.lower().removeprefix("apple").split())
    named = [chip for chip in CHIPS if re.fullmatch(re.escape(name) + r"(-\d+)?", chip.name)]
    if name and named:
        return _with_cores(named, cores)
    nearest = _nearest(str(info.get("architecture") or ""), name, cores)
    return nearest, f"{device or 'this GPU'} has no record; planned for {nearest.name}"


def _with_cores(variants: list[Chip], cores: int | None) -> tuple[Chip, str | None]:
    """Choose among one chip's core counts, of which the first is the largest."""
    if len(variants) == 1 or cores == variants[0].cores:
        return variants[0], None
    if cores is None:
        return variants[0], f"GPU cores unknown; planned for the {variants[0].cores} of the largest"
    nearest = min(variants, key=lambda chip: abs(chip.cores - cores))
    if nearest.cores == cores:
        return nearest, None
    return nearest, f"no record has {cores} GPU cores; planned for {nearest.cores}"


def _nearest(architecture: str, name: str, cores: int | None) -> Chip:
    """Return the chip nearest in generation, then in size class, cores and name (``-max``)."""
    found = re.fullmatch(r"applegpu_g(\d+)([a-z])", architecture)
    if found is None:
        return DEFAULT
    generation, size_class = int(found.group(1)), found.group(2)
    suffix = name.rpartition("-")[2]
    return min(
        CHIPS,
        key=lambda chip: (
            abs(chip.generation - generation),
            abs(_size(chip.size_class) - _size(size_class)),
            abs(chip.cores - cores) if cores else 0,
            suffix not in chip.name.split("-"),
            # An Ultra is nearest to the largest of a generation that has none.
            -chip.cores if size_class == "d" else 0,
        ),
    )


def _size(size_class: str) -> int:
    """Return the rank of a size class; what is neither Pro nor larger is as small as a base."""
    return {"s": 1, "d": 2}.get(size_class, 0)


def gpu_cores(registry: str) -> int | None:
    """Return the GPU cores that a listing of macOS's I/O registry tells, or None."""
    found = re.search(r'"gpu-core-count"\s*=\s*(\d+)', registry)
    return int(found.group(1)) if found else None


def _registry() -> str:
    """Return the I/O registry's entry of the GPU; empty where it cannot be had."""
    # Imported here because only this needs it, once, on a Mac.
    import subprocess

    command = ("ioreg", "-rc", "AGXAccelerator", "-d", "1")
    try:
        listing = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return listing.stdout

"""Whether the MLX of this machine uses a chip's neural accelerators.

MLX's rules (0.32): macOS 26.2 or later, and a build for macOS 26 or later, which of its two wheels
only one is. Float32 goes to them as TF32 unless ``MLX_ENABLE_TF32`` is 0.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace

from .record import Chip

SYSTEM = (26, 2)
"""First macOS on which MLX uses the accelerators."""

BUILD = (26,)
"""First macOS that a build with kernels for them is made for."""


def as_mlx_uses(
    chip: Chip, *, system: str, build: str | None, tf32: bool
) -> tuple[Chip, str | None]:
    """Return the chip without the accelerators that MLX leaves alone, and a note if it does.

    Args:
        chip: The chip.
        system: Version of macOS, ``"26.1"``; empty where it is not known.
        build: Version of macOS that MLX was built for; None where it is not known.
        tf32: Whether MLX may round float32 to TF32.
    """
    if not chip.neural_fma_per_cycle:
        return chip, None
    reasons = []
    if system and _version(system) < SYSTEM:
        reasons.append(f"macOS is {system}, not {_text(SYSTEM)} or later")
    if build and _version(build) < BUILD:
        reasons.append(f"its wheel is for macOS {build}, not {_text(BUILD)} or later")
    if reasons:
        without = replace(chip, neural_fma_per_cycle=0, neural_float32_fma_per_cycle=0)
        return without, f"MLX leaves the neural accelerators alone: {', '.join(reasons)}"
    return (chip if tf32 else replace(chip, neural_float32_fma_per_cycle=0)), None


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text))


def _text(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def mlx_build() -> str | None:
    """Return the version of macOS that the installed wheel of MLX's kernels was built for."""
    # Imported here because it takes longer than all chips, and their names are part of every help.
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        wheel = distribution("mlx-metal").read_text("WHEEL") or ""
    except PackageNotFoundError:
        return None  # built from source, or another system
    found = re.search(r"^Tag: .*-macosx_(\d+)_(\d+)_", wheel, re.MULTILINE)
    return f"{found.group(1)}.{found.group(2)}" if found else None


def tf32_enabled() -> bool:
    """Return whether ``MLX_ENABLE_TF32`` lets MLX round float32; read as MLX reads it, by atoi."""
    found = re.match(r"\s*[+-]?\d+", os.environ.get("MLX_ENABLE_TF32", "1"))
    return bool(found and int(found.group()))

"""Scores as exponents of 2, as the kernels' softmax has them."""

from __future__ import annotations

from collections.abc import Callable
from math import log2
from typing import Any

LOG2_E = log2(2.718281828459045)

FAR = -(2.0**126)
"""Masks reach down to the lowest float, which is beyond all floats as an exponent of 2. From here
on exponents come closer together instead, and stay in order."""

FAR_SLOPE = 0.85
FAR_OFFSET = FAR * (LOG2_E - FAR_SLOPE)


def to_exponent(score: Any, where: Callable[..., Any]) -> Any:  # noqa: ANN401 - of two libraries
    """Return scores as exponents of 2.

    Args:
        score: Arrays of MLX or of NumPy.
        where: That library's ``where``.
    """
    return where(score < FAR, score * FAR_SLOPE + FAR_OFFSET, score * LOG2_E)

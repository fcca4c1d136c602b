"""Whether MLX's own ops round float32 before they multiply it, where a call of them runs."""

from __future__ import annotations

from functools import lru_cache

import mlx.core as mx

from ..core.dtypes import FLOAT32, TF32_ROUNDOFF
from ..machine.chips import detect
from ..machine.chips.accelerators import tf32_enabled
from . import StreamOrDevice, device_type

TF32_CAPABILITY = 8
"""First major compute capability of NVIDIA's GPUs that multiply TF32."""


def rounds_float32(stream: StreamOrDevice = None) -> bool:
    """Return whether MLX's ops on ``stream``, None for the default device, use TF32."""
    device = mx.default_device().type if stream is None else device_type(stream)
    return device is mx.gpu and _gpu_rounds()


def factor_roundoff(stream: StreamOrDevice = None) -> float:
    """Return the largest relative error with which MLX's ops on ``stream`` multiply factors.

    Attention on CUDA multiplies weights that it rounds to the type of its operands.
    """
    if rounds_float32(stream):
        return TF32_ROUNDOFF
    device = mx.default_device().type if stream is None else device_type(stream)
    return FLOAT32.unit_roundoff if device is mx.gpu and mx.cuda.is_available() else 0.0


@lru_cache(maxsize=1)
def _gpu_rounds() -> bool:
    if mx.cuda.is_available():
        major = mx.device_info().get("compute_capability_major", TF32_CAPABILITY)
        return tf32_enabled() and int(major) >= TF32_CAPABILITY
    return mx.metal.is_available() and detect()[0].neural_float32_fma_per_cycle > 0

"""Runs unmodified Metal kernels on NVIDIA GPUs, through MLX's CUDA build.

:func:`metal_kernel` stands in for ``mx.fast.metal_kernel``. Kernels become CUDA C++, which NVRTC
compiles; MLX launches them, so that they are part of its graph and its streams.
"""

from .kernel import CudaKernel, metal_kernel
from .settings import Settings, current_settings, settings

__all__ = ["CudaKernel", "Settings", "current_settings", "metal_kernel", "settings"]

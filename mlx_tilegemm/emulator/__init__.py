"""Runs unmodified Metal kernels on the CPU and checks what they do.

:func:`metal_kernel` stands in for ``mx.fast.metal_kernel``; :func:`run_text` runs any Metal text.
Kernels are compiled by a C++ compiler; every GPU thread is a fiber.
"""

from ..errors import (
    EmulatorError,
    KernelCheckError,
    KernelCompileError,
    KernelCrashError,
    KernelTimeoutError,
    ToolchainError,
)
from .accesses import AccessCount, Accesses, AccessSite, Space
from .counters import Counters
from .counting import count
from .findings import Finding, FindingKind, UncheckedWarning
from .metal_kernel import EmulatedKernel, metal_kernel
from .run import Launched, Output, run_text, unchecked
from .settings import Settings, current_settings, settings

__all__ = [
    "AccessCount",
    "AccessSite",
    "Accesses",
    "Counters",
    "EmulatedKernel",
    "EmulatorError",
    "Finding",
    "FindingKind",
    "KernelCheckError",
    "KernelCompileError",
    "KernelCrashError",
    "KernelTimeoutError",
    "Launched",
    "Output",
    "Settings",
    "Space",
    "ToolchainError",
    "UncheckedWarning",
    "count",
    "current_settings",
    "metal_kernel",
    "run_text",
    "settings",
    "unchecked",
]

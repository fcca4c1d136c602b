"""Mixed-dtype GEMM and chained attention for MLX, as Metal kernels that explain themselves."""

from importlib import import_module
from typing import TYPE_CHECKING

from . import errors
from .arguments import ArraySpec
from .backends import use_backend
from .explain import explain
from .ops import addmm, attention_chain, matmul, use_kernel

if TYPE_CHECKING:
    from . import emulator

__all__ = [
    "ArraySpec",
    "addmm",
    "attention_chain",
    "emulator",
    "errors",
    "explain",
    "matmul",
    "use_backend",
    "use_kernel",
]


def __getattr__(name: str) -> object:
    # NumPy, which the emulator needs, would be most of what importing this package costs.
    if name == "emulator":
        return import_module(".emulator", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

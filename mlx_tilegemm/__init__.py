"""Mixed-dtype GEMM and chained attention for MLX, as Metal kernels that explain themselves."""

from . import emulator, errors
from .arguments import ArraySpec
from .backends import use_backend
from .explain import explain
from .ops import addmm, attention_chain, matmul, use_kernel

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

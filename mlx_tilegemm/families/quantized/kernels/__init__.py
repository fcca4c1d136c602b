"""Kernels of products with quantized weights."""

KERNELS = ("quantized_gemv", "quantized_gemm")
"""Names of the kernels' modules, in the order in which ties are decided."""

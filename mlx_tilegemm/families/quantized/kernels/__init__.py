"""Kernels of products with quantized weights."""

KERNELS = ("quantized_gemv", "quantized_gemm", "quantized_split_k")
"""Names of the kernels' modules, in the order in which ties are decided."""

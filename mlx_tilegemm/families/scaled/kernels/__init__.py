"""Kernels of products of scaled codes."""

KERNELS = ("scaled_gemv", "scaled_gemm")
"""Names of the kernels' modules, in the order in which ties are decided."""

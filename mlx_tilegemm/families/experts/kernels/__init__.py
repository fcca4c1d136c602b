"""Kernels of products with chosen matrices."""

KERNELS = ("expert_gemv", "expert_gemm", "segmented_gemm")
"""Names of the kernels' modules, in the order in which ties are decided."""

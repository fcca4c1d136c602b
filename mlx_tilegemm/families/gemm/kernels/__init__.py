"""Kernels of the family, one module each, in the order in which ties between them are decided.

A kernel is a module that ends in its ``KERNEL``, and a template of the same name. To add one, write
both and name it in `KERNELS`.
"""

KERNELS = (
    "gemm_simdgroup",
    "gemv",
    "gemm_split_k",
    "gemm_scalar",
)
"""Names of the kernels' modules."""

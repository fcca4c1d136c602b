"""The kernel of the family."""

KERNELS = ("row_scale",)

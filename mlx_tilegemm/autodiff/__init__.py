"""What MLX's transforms make of a call that runs a kernel.

A kernel is opaque to MLX. Such a call is therefore made through an `mx.custom_function`, whose
rules state its derivatives and its batching as further calls: gradients run on this project's
kernels too, in their operands' dtypes, and are differentiable in turn.
"""

from .attention import differentiable_attention, differentiable_plan, with_log_sum_exp
from .fused import joined_problem
from .gemm import differentiable_gemm

__all__ = [
    "differentiable_attention",
    "differentiable_gemm",
    "differentiable_plan",
    "joined_problem",
    "with_log_sum_exp",
]

"""The public operations of all families."""

from .families.attention.ops import attention_chain
from .families.experts.ops import gather_mm, gather_qmm, grouped_matmul, segmented_mm
from .families.gemm.ops import addmm, matmul
from .families.quantized.ops import quantized_matmul

__all__ = [
    "addmm",
    "attention_chain",
    "gather_mm",
    "gather_qmm",
    "grouped_matmul",
    "matmul",
    "quantized_matmul",
    "segmented_mm",
]

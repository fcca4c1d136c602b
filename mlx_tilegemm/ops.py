"""The public operations of all families."""

from .families.attention.ops import attention_chain
from .families.experts.ops import gather_fp8_mm, gather_mm, gather_qmm, grouped_matmul, segmented_mm
from .families.gated_delta.ops import gated_delta_update
from .families.gemm.ops import addmm, matmul
from .families.quantized.ops import quantized_matmul
from .families.scaled.ops import fp8_scaled_matmul

__all__ = [
    "addmm",
    "attention_chain",
    "fp8_scaled_matmul",
    "gated_delta_update",
    "gather_fp8_mm",
    "gather_mm",
    "gather_qmm",
    "grouped_matmul",
    "matmul",
    "quantized_matmul",
    "segmented_mm",
]

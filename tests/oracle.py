"""The float64 references that tests hold results against, and the proven bounds of their errors."""

from mlx_tilegemm.core.reference import (
    Comparison,
    Expected,
    Values,
    assert_close,
    compare,
    rounding,
    to_numpy,
    wrap,
)
from mlx_tilegemm.families.attention.forward_reference import attention, visible_keys
from mlx_tilegemm.families.gemm.reference import gemm, gemm_bound

__all__ = [
    "Comparison",
    "Expected",
    "Values",
    "assert_close",
    "attention",
    "compare",
    "gemm",
    "gemm_bound",
    "rounding",
    "to_numpy",
    "visible_keys",
    "wrap",
]

"""What is asked of a kernel, as frozen values: sizes, dtypes, layouts, epilogue.

A problem holds no array, device or tile size. It is built from shapes and dtypes by
`gemm_problem` and `attention_problem`, which also make every check that needs no device, so a
problem that exists is a valid one.
"""

from __future__ import annotations

from .attention import (
    AttentionProblem,
    KeyValueGradientProblem,
    MaskKind,
    QueryGradientProblem,
    attention_problem,
)
from .gemm import BatchAxis, GemmProblem, gemm_problem
from .shapes import Shape, shape_text

Problem = GemmProblem | AttentionProblem | QueryGradientProblem | KeyValueGradientProblem

__all__ = [
    "AttentionProblem",
    "BatchAxis",
    "GemmProblem",
    "KeyValueGradientProblem",
    "MaskKind",
    "Problem",
    "QueryGradientProblem",
    "Shape",
    "attention_problem",
    "gemm_problem",
    "shape_text",
]

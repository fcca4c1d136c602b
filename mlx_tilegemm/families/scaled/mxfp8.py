"""Products of codes that MLX's own quantized op computes too: e4m3 with an e8m0 scale for 32."""

from __future__ import annotations

from dataclasses import replace

from ...core.dtypes import FLOAT8_E4M3, FLOAT8_E8M0, FLOAT16, FLOAT32, FLOATS
from ...formats import grouping
from ..quantized.problem import QuantizedProblem, quantized_problem
from .key import NAME
from .problem import ScaledProblem

MODE = "mxfp8"


def as_mxfp8(problem: ScaledProblem) -> QuantizedProblem | None:
    """Return a product as one of a weight of ``mxfp8``; None for other codes or scales.

    Weights of ``mxfp8`` are exact in bfloat16 and float32; float16, which does not hold them all,
    is to be float32 first. The last code of a scale is another thing there: infinity.
    """
    form, scaling = grouping(NAME, MODE), problem.b_scales
    if scaling is None or scaling.dtype is not FLOAT8_E8M0 or problem.b is not FLOAT8_E4M3:
        return None
    fits = (scaling.height, scaling.width) == (1, form.group) and not problem.k % form.group
    if not fits or not problem.transpose_b or problem.batch or problem.is_empty:
        return None
    if problem.a not in FLOATS or problem.a_scales is not None:
        return None
    found = quantized_problem(
        NAME,
        x_shape=(problem.m, problem.k),
        w_shape=(problem.n, problem.k),
        weight=form,
        x=problem.a,
        scales=FLOAT8_E8M0,
        bias=problem.bias,
        out=FLOAT32 if problem.a is FLOAT16 else problem.out,
        batch_invariant=problem.batch_invariant,
        exact=problem.exact,
    )
    return replace(found, out_shape=problem.out_shape)

"""Requests: products with quantized weights that Python arguments ask for."""

from __future__ import annotations

from ...core.arguments import ArraySpec, as_flag, check_bias, float_out_row, float_row
from ...formats import (
    as_grouping,
    check_groups,
    check_tensor_scale,
    check_words,
    compute_dtype,
    natural_dtype,
)
from .problem import QuantizedProblem, quantized_problem


def quantized_request(
    op: str,
    *,
    x: ArraySpec,
    w: ArraySpec,
    scales: ArraySpec,
    biases: ArraySpec | None = None,
    global_scale: ArraySpec | None = None,
    bias: ArraySpec | None = None,
    transpose: object = True,
    group_size: object = None,
    bits: object = None,
    mode: object = "affine",
    out_dtype: object = None,
    batch_invariant: object = False,
    exact: bool = False,
) -> QuantizedProblem:
    """State the product that arrays and options ask for; each is as of the op.

    Raises:
        ProblemError: Shapes or options that do not fit together.
        DTypeError: Dtypes that no product takes.
    """
    weight = as_grouping(op, mode, bits, group_size)
    check_words(op, w)
    check_groups(op, weight, w.shape, scales, biases)
    if global_scale is not None:
        check_tensor_scale(op, weight, global_scale.shape, global_scale.dtype)
    x_row = float_row(op, "operands", compute_dtype(op, x, scales, biases))
    scales_row = weight.scales or float_row(op, "operands", scales.dtype)
    biases_row = None if biases is None else float_row(op, "operands", biases.dtype)
    problem = quantized_problem(
        op,
        x_shape=x.shape,
        w_shape=(*w.shape[:-1], w.shape[-1] * 32 // weight.bits),
        weight=weight,
        x=x_row,
        scales=scales_row,
        biases=biases_row,
        tensor_scale=global_scale is not None,
        bias=None if bias is None else float_row(op, "bias", bias.dtype),
        out=float_out_row(op, out_dtype, natural_dtype(x_row.mlx, scales, biases)),
        transpose=as_flag(op, "transpose", transpose),
        batch_invariant=as_flag(op, "batch_invariant", batch_invariant),
        exact=exact,
    )
    check_bias(op, bias, problem.n)
    return problem

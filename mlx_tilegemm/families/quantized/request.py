"""Requests: products with quantized weights that Python arguments ask for."""

from __future__ import annotations

import mlx.core as mx

from ...core.arguments import ArraySpec, as_flag, as_whole, out_row
from ...core.dtypes import FLOATS, DType, from_mlx, mlx_name
from ...core.shapes import shape_text
from ...errors import DTypeError, ProblemError
from ...formats import (
    Grouping,
    check_groups,
    check_tensor_scale,
    compute_dtype,
    grouping,
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
    weight = grouping(op, mode, _size(op, "bits", bits), _size(op, "group_size", group_size))
    _check_words(op, w, weight)
    check_groups(op, weight, w.shape, scales, biases)
    if global_scale is not None:
        check_tensor_scale(op, weight, global_scale.shape, global_scale.dtype)
    x_row = _row(op, compute_dtype(op, x, scales, biases))
    scales_row = weight.scales or _row(op, scales.dtype)
    biases_row = None if biases is None else _row(op, biases.dtype)
    out = out_row(op, out_dtype) or _row(op, natural_dtype(x_row.mlx, scales, biases))
    if out not in FLOATS:
        raise DTypeError(f"[{op}] Expected a floating point out_dtype, got {out}.")
    problem = quantized_problem(
        op,
        x_shape=x.shape,
        w_shape=(*w.shape[:-1], w.shape[-1] * 32 // weight.bits),
        weight=weight,
        x=x_row,
        scales=scales_row,
        biases=biases_row,
        tensor_scale=global_scale is not None,
        bias=None if bias is None else _row(op, bias.dtype, "bias"),
        out=out,
        transpose=as_flag(op, "transpose", transpose),
        batch_invariant=as_flag(op, "batch_invariant", batch_invariant),
        exact=exact,
    )
    if bias is not None and bias.shape != (problem.n,):
        raise ProblemError(
            f"[{op}] Expected bias of the result's columns, ({problem.n}), got "
            f"{shape_text(bias.shape)}."
        )
    return problem


def _size(op: str, name: str, value: object) -> int | None:
    return None if value is None else as_whole(op, name, value)


def _check_words(op: str, w: ArraySpec, weight: Grouping) -> None:
    if w.dtype != mx.uint32:
        raise DTypeError(
            f"[{op}] The weight matrix should be uint32 but received {mlx_name(w.dtype)}"
        )
    if len(w.shape) < 2:
        raise ProblemError(
            f"[{op}] Expected a weight of at least two dimensions, got {shape_text(w.shape)}."
        )


def _row(op: str, dtype: mx.Dtype, name: str = "operands") -> DType:
    row = from_mlx(dtype)
    if row is None or row not in FLOATS:
        raise DTypeError(
            f"[{op}] Expected {name} of float32, float16 or bfloat16, got {mlx_name(dtype)}."
        )
    return row

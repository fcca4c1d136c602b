"""Products by MLX's own op: for the ``mlx`` backend and for what no kernel serves.

Same semantics as the kernels: float32 accumulation and one rounding. MLX's op casts operands of
other dtypes into copies, and knows neither a bias nor the scale of a whole weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import mlx.core as mx

from ...backends import StreamOrDevice, device_type
from ...call.precision import unrounded
from ...call.transforms import on
from ...core.dtypes import FLOAT32
from ...core.problem import Factors
from ...formats import TENSOR_SCALE
from .key import NAME
from .problem import QuantizedProblem

if TYPE_CHECKING:
    from ...core.family import Run


def quantized(problem: QuantizedProblem) -> Run:
    """Return the call of MLX's op for operands in the problem's order."""
    run = partial(_quantized, problem)
    return unrounded(NAME, run) if problem.exact and multiplies_float32(problem) else run


def multiplies_float32(problem: QuantizedProblem) -> bool:
    """Whether MLX's op decodes the weight to float32."""
    return problem.computed is FLOAT32


def _quantized(
    problem: QuantizedProblem,
    operands: Sequence[mx.array],
    factors: Factors,
    stream: StreamOrDevice,
) -> list[mx.array]:
    given = dict(zip(problem.operand_names, operands, strict=True))
    with on(stream):
        value = _product(problem, given, stream)
        if problem.tensor_scale:
            value = value * (mx.reshape(given["global_scale"], ()) / TENSOR_SCALE)
        if problem.bias is not None:
            value = value + given["bias"].astype(mx.float32)
        return [value.astype(problem.out.mlx)]


def _product(
    problem: QuantizedProblem, given: dict[str, mx.array], stream: StreamOrDevice
) -> mx.array:
    x, w, scales, biases = given["x"], given["w"], given["scales"], given.get("biases")
    if problem.is_empty:
        return mx.zeros(problem.out_shape)
    if not _in_own_dtype(problem, stream):
        x = x.astype(mx.float32)
        if biases is not None:
            scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
    product = mx.quantized_matmul(
        _with_axes_of(w, x),
        w,
        scales,
        biases,
        transpose=problem.transpose,
        group_size=problem.weight.group,
        bits=problem.weight.bits,
        mode=problem.weight.mode,
    )
    return mx.squeeze(product, -2) if x.ndim == 1 else product


def _with_axes_of(w: mx.array, x: mx.array) -> mx.array:
    """Return ``x`` with rows, whose gradient MLX needs, and with as many axes as several weights.

    With fewer MLX would multiply by the first of them alone.
    """
    rows = x if x.ndim > 1 else mx.expand_dims(x, 0)
    return mx.expand_dims(rows, [*range(w.ndim - rows.ndim)])


def _in_own_dtype(problem: QuantizedProblem, stream: StreamOrDevice) -> bool:
    """Whether MLX's op rounds once, to the result's dtype, without a cast to float32 before.

    On a CPU it sums in the operands' dtype.
    """
    return problem.computed is problem.natural and not _is_on_cpu(stream)


def _is_on_cpu(stream: StreamOrDevice) -> bool:
    return device_type(mx.default_device() if stream is None else stream) == mx.cpu

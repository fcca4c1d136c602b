"""Products by MLX's own op: for the ``mlx`` backend and for what no kernel serves.

Same semantics as the kernels: float32 accumulation and one rounding. MLX's op casts operands of
other dtypes into copies, and knows neither a bias nor the scale of a whole weight.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import mlx.core as mx

from ...backends import StreamOrDevice, is_on_gpu
from ...call.precision import unrounded
from ...call.transforms import on
from ...core import mlx_ops
from ...core.dtypes import FLOAT32
from ...core.fast_path import DirectRun, by_mlx
from ...core.problem import Factors
from ...formats import TENSOR_SCALE
from .key import NAME
from .problem import QuantizedProblem

if TYPE_CHECKING:
    from ...core.family import Run


def quantized(problem: QuantizedProblem) -> Run:
    """Return the call of MLX's op for operands in the problem's order."""
    run = _prepared(problem)
    return unrounded(NAME, run) if problem.exact and multiplies_float32(problem) else run


def multiplies_float32(problem: QuantizedProblem) -> bool:
    """Whether MLX's op decodes the weight to float32."""
    return problem.computed is FLOAT32


def _prepared(problem: QuantizedProblem) -> Run:
    weight, own = problem.weight, problem.computed is problem.natural
    transpose, group, bits, mode = problem.transpose, weight.group, weight.bits, weight.mode
    options = (transpose, group, bits, mode)
    is_affine, is_empty = problem.biases is not None, problem.is_empty
    ends = problem.tensor_scale or problem.bias is not None
    out = problem.out.mlx
    given = (problem.x, problem.scales, problem.biases)
    is_wide = all(dtype in (None, FLOAT32) for dtype in given)

    has_rows = min(len(one.shape) for one in problem.operands[:2]) >= 2
    has_axes = has_rows and len(problem.operands[0].shape) >= len(problem.operands[1].shape)
    as_given = own and problem.out is problem.computed and has_axes and not (is_empty or ends)

    @by_mlx
    def direct(
        x: mx.array, w: mx.array, scales: mx.array, biases: mx.array | None, *_: None
    ) -> mx.array:
        return mlx_ops.quantized_matmul(x, w, scales, biases, transpose, group, bits, mode)

    def run(
        operands: Sequence[mx.array], factors: Factors, stream: StreamOrDevice
    ) -> list[mx.array]:
        if as_given and is_on_gpu(stream):
            x, w, scales = operands[:3]
            biases = operands[3] if is_affine else None
            return [mlx_ops.quantized_matmul(x, w, scales, biases, *options, stream=stream)]
        if is_empty:
            return [mx.zeros(problem.out_shape, out, stream=stream)]
        x, w, scales = operands[:3]
        biases = operands[3] if is_affine else None
        # On a CPU MLX's op sums in the operands' dtype.
        if not is_wide and (not own or not is_on_gpu(stream)):
            x, scales, biases = _widened(x, scales, biases, stream)
        rows = x if x.ndim >= 2 and x.ndim >= w.ndim else _with_axes_of(w, x, stream)
        value = mlx_ops.quantized_matmul(rows, w, scales, biases, *options, stream=stream)
        if x.ndim == 1:
            value = mx.squeeze(value, -2, stream=stream)
        if ends:
            value = _ended(problem, operands, value, stream)
        return [value if value.dtype == out else value.astype(out, stream=stream)]

    def first(factors: Factors, count: int) -> Callable[..., mx.array] | None:
        return direct if as_given and is_on_gpu(None) else None

    return DirectRun(run, first=first)


def _widened(
    x: mx.array, scales: mx.array, biases: mx.array | None, stream: StreamOrDevice
) -> tuple[mx.array, mx.array, mx.array | None]:
    """Return the floats among operands in float32."""
    x = x.astype(mx.float32, stream=stream)
    if biases is None:
        return x, scales, None
    scales, biases = (one.astype(mx.float32, stream=stream) for one in (scales, biases))
    return x, scales, biases


def _ended(
    problem: QuantizedProblem,
    operands: Sequence[mx.array],
    value: mx.array,
    stream: StreamOrDevice,
) -> mx.array:
    """Return a product in float32 with the scale of the whole weight and the bias."""
    given = dict(zip(problem.operand_names, operands, strict=True))
    with on(stream):
        if problem.tensor_scale:
            value = value * (mx.reshape(given["global_scale"], ()) / TENSOR_SCALE)
        if problem.bias is not None:
            value = value + given["bias"].astype(mx.float32)
    return value


def _with_axes_of(w: mx.array, x: mx.array, stream: StreamOrDevice) -> mx.array:
    """Return ``x`` with rows, whose gradient MLX needs, and with as many axes as several weights.

    With fewer MLX would multiply by the first of them alone.
    """
    rank = max(2, w.ndim)
    return mx.expand_dims(x, [*range(rank - x.ndim)], stream=stream) if x.ndim < rank else x

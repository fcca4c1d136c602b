"""Products of scaled codes by MLX's own ops: for the ``mlx`` backend and for what no kernel serves.

Same semantics as the kernels: float32 accumulation and one rounding. MLX has a product of e4m3 with
an e8m0 scale for 32 elements alone, so that both operands of all others are decoded into float32
copies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import mlx.core as mx

from ...backends import StreamOrDevice
from ...call.precision import unrounded
from ...call.transforms import on
from ...core import mlx_ops
from ...core.problem import Factors
from ...core.tracing import is_traced
from ...formats import byte_values, element_values, repeated, scales_grid, scales_of_all
from ..quantized.fallback import quantized
from ..quantized.problem import QuantizedProblem
from .key import NAME
from .mxfp8 import as_mxfp8
from .problem import ScaledProblem

if TYPE_CHECKING:
    from ...core.family import Run

Given = Mapping[str, mx.array]

LAST_POWER = 255
"""Code of an e8m0 that is NaN."""

EXACT_DEPTH = 1024
"""Products of int8 whose sum is exact in float32: 2^14 each, to 2^24."""


def scaled(problem: ScaledProblem) -> Run:
    """Return the call of MLX's ops for operands in the problem's order."""
    packed = as_mxfp8(problem)
    if packed is not None:
        return _packed(problem, packed)
    return _decoding(problem)


def _decoding(problem: ScaledProblem) -> Run:
    """Return the call of MLX's ops that decode operands into copies."""
    names, out = problem.operand_names, problem.out.mlx
    product = _empty if problem.is_empty else _integer if problem.is_integer else _float

    def run(
        operands: Sequence[mx.array], factors: Factors, stream: StreamOrDevice
    ) -> list[mx.array]:
        with on(stream):
            given = dict(zip(names, operands, strict=True))
            value = product(problem, given)
            if "bias" in given:
                value = value + given["bias"].astype(mx.float32)
            return [value.astype(out)]

    return unrounded(NAME, run) if problem.exact and multiplies_float32(problem) else run


def _packed(problem: ScaledProblem, packed: QuantizedProblem) -> Run:
    """Return the call of MLX's quantized op, which takes the last code of a scale for infinity.

    MLX can map it over no axis, so that calls that are followed are not its.
    """
    own, followed, out = quantized(packed), _decoding(problem), problem.out.mlx

    def run(
        operands: Sequence[mx.array], factors: Factors, stream: StreamOrDevice
    ) -> list[mx.array]:
        if is_traced():
            return followed(operands, factors, stream)
        with on(stream):
            a, codes, scales, *bias = operands
            (value,) = own([a, codes.view(mx.uint32), scales, *bias], factors, stream)
            unknown = mx.any(scales == LAST_POWER, axis=-1)
            return [mx.where(unknown, mx.nan, value).astype(out)]

    return run


def multiplies_float32(problem: ScaledProblem) -> bool:
    """Whether MLX's ops multiply float32: int8 has so few bits that TF32 holds it as it is."""
    return not problem.is_integer


def _empty(problem: ScaledProblem, given: Given) -> mx.array:
    return mx.zeros(problem.out_shape)


def _float(problem: ScaledProblem, given: Given) -> mx.array:
    return mlx_ops.matmul(
        left_values(problem, given), columns_last(problem, right_values(problem, given))
    )


def _integer(problem: ScaledProblem, given: Given) -> mx.array:
    """Return the product of int8, by float32 sums that are exact, with its scales."""
    a, b = given["a"].astype(mx.float32), columns_last(problem, given["b"].astype(mx.float32))
    rows = mx.expand_dims(a, 0) if a.ndim == 1 else a
    total = mx.zeros((), dtype=mx.int32)
    for start in range(0, problem.k, EXACT_DEPTH):
        part = slice(start, start + EXACT_DEPTH)
        total = total + mlx_ops.matmul(rows[..., part], b[..., part, :]).astype(mx.int32)
    if problem.a_scales is not None:
        total = total * left_scales(problem, given)
    if problem.b_scales is not None:
        scales = scales_of_all(
            problem.b_scales, given["b_scales"], problem.n, problem.k, problem.transpose_b
        )
        total = total * columns_last(problem, scales)
    return mx.squeeze(total, -2) if a.ndim == 1 else total


def left_values(problem: ScaledProblem, given: Given) -> mx.array:
    """Return ``a`` times its scales in float32."""
    values = element_values(problem.a, given["a"])
    if problem.a_scales is None:
        return values
    scaled_rows = values * left_scales(problem, given)
    return mx.squeeze(scaled_rows, 0) if values.ndim == 1 else scaled_rows


def right_values(problem: ScaledProblem, given: Given) -> mx.array:
    """Return ``b`` times its scales in float32, as it is stored."""
    return byte_values(
        problem.b, given["b"], problem.b_scales, given.get("b_scales"), problem.transpose_b
    )


def columns_last(problem: ScaledProblem, b: mx.array) -> mx.array:
    """Return what is stored like ``b`` as ``[..., k, n]``."""
    return mx.swapaxes(b, -1, -2) if problem.transpose_b else b


def left_scales(problem: ScaledProblem, given: Given) -> mx.array:
    """Return the scales of the rows of ``a`` in float32; an axis of 1 is of all."""
    assert problem.a_scales is not None
    scales, width = given["a_scales"], problem.a_scales.width
    if given["a"].ndim == 1 and scales.ndim == 1:
        scales = mx.expand_dims(scales, 0)
    grid = scales_grid(problem.a_scales, scales, -1)
    return repeated(grid, -1, width, problem.k)

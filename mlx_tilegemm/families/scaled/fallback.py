"""Products of scaled codes by MLX's own ops: for the ``mlx`` backend and for what no kernel serves.

MLX has no such product, so that both operands are decoded into float32 copies: same semantics as
the kernels, float32 accumulation and one rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import mlx.core as mx

from ...backends import StreamOrDevice
from ...call.precision import unrounded
from ...call.transforms import on
from ...core.dtypes import FLOAT8_E4M3, FLOAT8_E8M0, DType
from ...core.problem import Factors
from ...core.tracing import is_traced
from ...formats import decode
from .key import NAME
from .problem import ScaledProblem, Scaling

if TYPE_CHECKING:
    from ...core.family import Run

Given = Mapping[str, mx.array]

EXACT_DEPTH = 1024
"""Products of int8 whose sum is exact in float32: 2^14 each, to 2^24."""


def scaled(problem: ScaledProblem) -> Run:
    """Return the call of MLX's ops for operands in the problem's order."""
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


def multiplies_float32(problem: ScaledProblem) -> bool:
    """Whether MLX's ops multiply float32: int8 has so few bits that TF32 holds it as it is."""
    return not problem.is_integer


def _empty(problem: ScaledProblem, given: Given) -> mx.array:
    return mx.zeros(problem.out_shape)


def _float(problem: ScaledProblem, given: Given) -> mx.array:
    return mx.matmul(
        left_values(problem, given), columns_last(problem, right_values(problem, given))
    )


def _integer(problem: ScaledProblem, given: Given) -> mx.array:
    """Return the product of int8, by float32 sums that are exact, with its scales."""
    a, b = given["a"].astype(mx.float32), columns_last(problem, given["b"].astype(mx.float32))
    rows = mx.expand_dims(a, 0) if a.ndim == 1 else a
    total = mx.zeros((), dtype=mx.int32)
    for start in range(0, problem.k, EXACT_DEPTH):
        part = slice(start, start + EXACT_DEPTH)
        total = total + mx.matmul(rows[..., part], b[..., part, :]).astype(mx.int32)
    if problem.a_scales is not None:
        total = total * left_scales(problem, given)
    if problem.b_scales is not None:
        total = total * columns_last(problem, right_scales(problem, given))
    return mx.squeeze(total, -2) if a.ndim == 1 else total


def left_values(problem: ScaledProblem, given: Given) -> mx.array:
    """Return ``a`` times its scales in float32."""
    values = decoded(problem.a, given["a"])
    if problem.a_scales is None:
        return values
    scaled_rows = values * left_scales(problem, given)
    return mx.squeeze(scaled_rows, 0) if values.ndim == 1 else scaled_rows


def right_values(problem: ScaledProblem, given: Given) -> mx.array:
    """Return ``b`` times its scales in float32, as it is stored."""
    values = decoded(problem.b, given["b"])
    return values if problem.b_scales is None else values * right_scales(problem, given)


def columns_last(problem: ScaledProblem, b: mx.array) -> mx.array:
    """Return what is stored like ``b`` as ``[..., k, n]``."""
    return mx.swapaxes(b, -1, -2) if problem.transpose_b else b


def left_scales(problem: ScaledProblem, given: Given) -> mx.array:
    """Return the scales of the rows of ``a`` in float32; an axis of 1 is of all."""
    assert problem.a_scales is not None
    scales, width = given["a_scales"], problem.a_scales.width
    if given["a"].ndim == 1 and scales.ndim == 1:
        scales = mx.expand_dims(scales, 0)
    grid = _grid(problem.a_scales, scales, -1)
    return _repeated(grid, -1, width, problem.k)


def right_scales(problem: ScaledProblem, given: Given) -> mx.array:
    """Return the scales of ``b`` in float32, as it is stored; an axis of 1 is of all."""
    assert problem.b_scales is not None
    n_axis, k_axis = (-2, -1) if problem.transpose_b else (-1, -2)
    grid = _grid(problem.b_scales, given["b_scales"], k_axis)
    grid = _repeated(grid, n_axis, problem.b_scales.height, problem.n)
    return _repeated(grid, k_axis, problem.b_scales.width, problem.k)


def _grid(scaling: Scaling, scales: mx.array, k_axis: int) -> mx.array:
    """Return the values of scales with both axes of a matrix, or of the only one."""
    values = scale_values(scaling, scales)
    if not scaling.height and not scaling.width and not scaling.batched:
        return mx.reshape(values, (1, 1))
    return mx.expand_dims(values, k_axis) if values.ndim == 1 else values


def _repeated(grid: mx.array, axis: int, side: int, size: int) -> mx.array:
    return mx.take(grid, mx.arange(size) // side, axis=axis) if side > 1 else grid


def decoded(row: DType, codes: mx.array) -> mx.array:
    """Return the float32 values of codes of a format."""
    if row is FLOAT8_E4M3 and not is_traced():
        return mx.from_fp8(codes, dtype=mx.float32)
    if row.native:
        return codes.astype(mx.float32)
    # MLX neither maps from_fp8 nor has one of e5m2.
    return decode(codes, row.short)


def scale_values(scaling: Scaling, scales: mx.array) -> mx.array:
    """Return the float32 values of scales."""
    if scaling.dtype is not FLOAT8_E8M0:
        return scales.astype(mx.float32)
    codes = scales.astype(mx.uint32)
    # Code 0 is 2^-127, a denormal, and the last one NaN.
    bits = mx.where(codes == 0, 0x00400000, mx.left_shift(codes, 23))
    return mx.where(codes == 255, 0x7FC00000, bits).astype(mx.uint32).view(mx.float32)

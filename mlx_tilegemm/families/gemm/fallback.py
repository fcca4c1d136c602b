"""Products by MLX's own ops: for the ``mlx`` backend and for what no kernel serves.

Same semantics as the kernels: accumulation in float32 and one rounding to the result type, integer
products exact modulo 2^32. Unlike the kernels, these cast operands into copies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import TYPE_CHECKING

import mlx.core as mx

from ...backends import StreamOrDevice, device_type
from ...call.precision import unrounded
from ...call.transforms import on
from ...core import mlx_ops
from ...core.dtypes import FLOAT32, promote
from ...core.fast_path import DirectRun
from ...core.problem import Factors, Number
from ...core.shapes import Shape
from ...core.tracing import is_shapeless, is_traced
from ...errors import BackendError
from .direct import product as direct_product
from .direct import total
from .problem import GemmProblem

if TYPE_CHECKING:
    from ...core.family import Run

_LIMB_BITS = 16


# Products of two 16-bit limbs are below 2^32; sums of 2^20 of them are exact in float64.
_EXACT_SUM_LENGTH = 1 << 20


def gemm(problem: GemmProblem) -> Run:
    """Return the call for ``(a, b)`` or ``(a, b, c)`` of ``alpha * op(a) @ op(b) + beta * c``."""
    if problem.is_integer:
        return partial(_integer_gemm, problem)
    natural = promote(problem.a, problem.b)
    if problem.c is not None:
        natural = promote(natural, problem.c)
    # MLX rounds to the type it multiplies in; float32 keeps the result to one rounding.
    cast = None if problem.out is natural else mx.float32
    run = _float_gemm(
        cast, problem.out.mlx, transpose_a=problem.transpose_a, transpose_b=problem.transpose_b
    )
    if problem.exact and multiplies_float32(problem):
        return unrounded("matmul", run)
    is_plain = cast is None and not problem.transpose_a
    return DirectRun(run, first=partial(_direct, problem, run)) if is_plain else run


def _direct(
    problem: GemmProblem, run: Run, factors: Factors, count: int
) -> Callable[..., mx.array] | None:
    """Return the call of MLX's op alone; None where there are factors, or axes to be added."""
    if factors != (1, 1) or min(len(one.shape) for one in problem.operands[:2]) < 2:
        return None
    if problem.c is None:
        return direct_product(problem.transpose_b)
    return total(problem.transpose_b, lambda *operands: run(operands, factors, None)[0])


def multiplies_float32(problem: GemmProblem) -> bool:
    """Whether a factor is float32: TF32 holds 16-bit types, cast to float32, as they are."""
    return FLOAT32 in (problem.a, problem.b)


def promoted_run(
    op: str,
    dtype: mx.Dtype,
    out_dtype: mx.Dtype,
    *,
    transpose_a: bool,
    transpose_b: bool,
    exact: bool,
) -> Run:
    """Return the product of operands that MLX promotes to ``dtype``, by MLX's own rules."""
    # MLX rounds to the type it multiplies in; float32 keeps the result to one rounding.
    computed = dtype if out_dtype == dtype else mx.float32

    def run(
        operands: Sequence[mx.array], factors: Sequence[Number], stream: StreamOrDevice
    ) -> list[mx.array]:
        a, b, *c = (x.astype(computed, stream=stream) for x in operands)
        a, b = _transposed((a, b), transpose_a, transpose_b, stream)
        product = _product(a, b, c[0] if c else None, factors, stream)
        return [product.astype(out_dtype, stream=stream)]

    return unrounded(op, run) if exact and computed in (mx.float32, mx.complex64) else run


def addend_run(shape: Shape, dtype: mx.Dtype) -> Run:
    """Return the call for ``alpha`` 0: ``beta * c`` alone, and zeros where ``beta`` is 0 too."""

    def run(
        operands: Sequence[mx.array], factors: Sequence[Number], stream: StreamOrDevice
    ) -> list[mx.array]:
        with on(stream):
            total = _scaled_addend(operands[2], factors[1], dtype)
            if not is_shapeless():
                return [mx.broadcast_to(total, shape)]
            raise BackendError(
                "[addmm] Expected alpha other than 0 while mx.compile(shapeless=True) traces, got "
                "0: the size of the result then follows from nothing."
            )

    return run


def _scaled_addend(c: mx.array, beta: Number, dtype: mx.Dtype) -> mx.array:
    if beta == 0:
        return mx.zeros((), dtype=dtype)
    if dtype == mx.int32:
        return (mx.array(int(beta) % 2**32, dtype=mx.uint32) * _wrapped(c)).astype(dtype)
    wide = mx.float32 if dtype in (mx.float16, mx.bfloat16) else dtype
    return (mx.array(beta, dtype=wide) * c.astype(wide)).astype(dtype)


def _transposed(
    operands: Sequence[mx.array], transpose_a: bool, transpose_b: bool, stream: StreamOrDevice
) -> tuple[mx.array, mx.array]:
    a, b = operands[:2]
    if transpose_a and a.ndim > 1:
        a = mx.swapaxes(a, -1, -2, stream=stream)
    if transpose_b and b.ndim > 1:
        b = mx.swapaxes(b, -1, -2, stream=stream)
    return a, b


def _float_gemm(
    cast: mx.Dtype | None, out: mx.Dtype, *, transpose_a: bool, transpose_b: bool
) -> Run:
    """Return the product of operands that are cast, and that is cast, if ``cast`` is a type."""
    is_transposed = transpose_a or transpose_b

    def call(
        operands: Sequence[mx.array], factors: Sequence[Number], stream: StreamOrDevice
    ) -> list[mx.array]:
        if is_transposed:
            a, b = _transposed(operands, transpose_a, transpose_b, stream)
        else:
            a, b = operands[:2]
        c = operands[2] if len(operands) > 2 else None
        if cast is None:
            return [_product(a, b, c, factors, stream)]
        a, b = a.astype(cast, stream=stream), b.astype(cast, stream=stream)
        return [_product(a, b, c, factors, stream).astype(out, stream=stream)]

    def call_as_written(
        operands: Sequence[mx.array], factors: Sequence[Number], stream: StreamOrDevice
    ) -> list[mx.array]:
        # What one writes for MLX takes half the time of its functions with a stream.
        if stream is None and factors[0] == 1 and len(operands) == 2 and operands[1].ndim == 2:
            return [operands[0] @ (operands[1].T if transpose_b else operands[1])]
        return call(operands, factors, stream)

    return call if transpose_a or cast is not None else call_as_written


def _product(
    a: mx.array, b: mx.array, c: mx.array | None, factors: Sequence[Number], stream: StreamOrDevice
) -> mx.array:
    if c is None and factors[0] == 1:
        return mlx_ops.matmul(a, b, stream=stream)
    if c is None:
        c, factors = mx.zeros((), dtype=a.dtype, stream=stream), (factors[0], 0.0)
    if _is_open_to_faults(factors):
        return _sum(a, b, c, factors, stream)
    alpha, beta = factors
    if 1 not in (a.ndim, b.ndim):
        return mlx_ops.addmm(c, a, b, alpha=alpha, beta=beta, stream=stream)
    a, b, c, added = _matrices(a, b, c, stream)
    product = mlx_ops.addmm(c, a, b, alpha=alpha, beta=beta, stream=stream)
    return mx.squeeze(product, added, stream=stream)


def _is_open_to_faults(factors: Sequence[Number]) -> bool:
    """Whether `mx.addmm` would be wrong: its tangents lack the factors, and it keeps c's sizes."""
    # Sizes are open only where MLX follows a function, too, and are asked for in half the time.
    return is_shapeless() if factors[0] == factors[1] == 1 else is_traced()


def _sum(
    a: mx.array, b: mx.array, c: mx.array, factors: Sequence[Number], stream: StreamOrDevice
) -> mx.array:
    """Return ``alpha * (a @ b) + beta * c`` by ops of its own each, rounded once."""
    dtype = mx.result_type(a, b, c)
    wide = mx.float32 if dtype in (mx.float16, mx.bfloat16) else dtype
    a, b, c = (x.astype(wide, stream=stream) for x in (a, b, c))
    alpha, beta = (mx.array(factor, dtype=wide) for factor in factors)
    product = mx.multiply(alpha, mlx_ops.matmul(a, b, stream=stream), stream=stream)
    total = mx.add(product, mx.multiply(beta, c, stream=stream), stream=stream)
    return total.astype(dtype, stream=stream)


def _matrices(
    a: mx.array, b: mx.array, c: mx.array, stream: StreamOrDevice
) -> tuple[mx.array, mx.array, mx.array, list[int]]:
    """Give vectors their second axis: `mx.addmm` refuses some addends of products with vectors.

    Returns:
        The matrices, ``c`` with their axes, and which axes the product has for the vectors' sake.
    """
    added = [axis for axis, x in ((-2, a), (-1, b)) if x.ndim == 1]
    rank = max(a.ndim, b.ndim, 2) - len(added)
    # One by one: MLX maps several at once wrongly.
    for axis in (*(0,) * (rank - c.ndim), *sorted(added, reverse=True)):
        c = mx.expand_dims(c, axis, stream=stream)
    if a.ndim == 1:
        a = mx.expand_dims(a, 0, stream=stream)
    if b.ndim == 1:
        b = mx.expand_dims(b, 1, stream=stream)
    return a, b, c, added


def _integer_gemm(
    problem: GemmProblem,
    operands: Sequence[mx.array],
    factors: Sequence[Number],
    stream: StreamOrDevice,
) -> list[mx.array]:
    a, b = _transposed(operands, problem.transpose_a, problem.transpose_b, stream)
    c = operands[2] if len(operands) > 2 else None
    # float64 lives on the CPU only.
    with mx.stream(stream if stream is not None and device_type(stream) is mx.cpu else mx.cpu):
        total = _integer_product(a, b, problem.k)
        alpha, beta = (mx.array(int(factor) % 2**32, dtype=mx.uint32) for factor in factors)
        scaled = alpha * total
        return [(scaled if c is None else scaled + beta * _wrapped(c)).astype(mx.int32)]


def _integer_product(a: mx.array, b: mx.array, k: int) -> mx.array:
    """Return ``a @ b`` modulo 2^32 as uint32, by exact float64 products of 16-bit limbs."""
    total = mx.array(0, dtype=mx.uint32)
    starts = range(0, max(k, 1), _EXACT_SUM_LENGTH)
    for start, (i, x), (j, y) in product(starts, enumerate(_limbs(a)), enumerate(_limbs(b))):
        if i + j > 1:
            continue  # a multiple of 2^32
        if k > _EXACT_SUM_LENGTH:
            part = slice(start, start + _EXACT_SUM_LENGTH)
            x, y = x[..., part], y[..., part, :] if y.ndim > 1 else y[part]
        partial = mlx_ops.matmul(x, y)
        total = total + mx.left_shift(_wrapped(partial), _LIMB_BITS * (i + j))
    return total


def _limbs(x: mx.array) -> list[mx.array]:
    """Return float64 digits of ``x`` in base 2^16, lowest first; the highest is signed."""
    if x.itemsize <= 2:
        return [x.astype(mx.float64)]
    low = mx.bitwise_and(x, (1 << _LIMB_BITS) - 1)
    return [low.astype(mx.float64), mx.right_shift(x, _LIMB_BITS).astype(mx.float64)]


def _wrapped(x: mx.array) -> mx.array:
    return x.astype(mx.int64).astype(mx.uint32)

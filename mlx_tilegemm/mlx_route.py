"""The ops' results by MLX's own ops: for the ``mlx`` backend and for what no kernel serves.

Same semantics as the kernels: accumulation in float32 and one rounding to the result type, integer
products exact modulo 2^32, attention rows with nothing to attend to zero. Unlike the kernels, these
cast operands into copies and hold all scores of an attention in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from itertools import product

import mlx.core as mx

from .arguments import Number
from .backends import StreamOrDevice, device_type
from .chips import detect
from .dtypes import promote
from .kernels.mlx_sdpa import serves_attention
from .problem import AttentionProblem, GemmProblem, MaskKind

_LIMB_BITS = 16
# Products of two 16-bit limbs are below 2^32; sums of 2^20 of them are exact in float64.
_EXACT_SUM_LENGTH = 1 << 20


def gemm(
    problem: GemmProblem,
    operands: Sequence[mx.array],
    factors: Sequence[Number],
    stream: StreamOrDevice,
) -> list[mx.array]:
    """Return ``[alpha * op(a) @ op(b) + beta * c]`` for operands ``(a, b)`` or ``(a, b, c)``."""
    a, b = _transposed(operands, problem.transpose_a, problem.transpose_b, stream)
    c = operands[2] if len(operands) > 2 else None
    compute = _integer_gemm if problem.is_integer else _float_gemm
    return [compute(problem, a, b, c, factors, stream)]


def wide_gemm(
    transpose_a: bool,
    transpose_b: bool,
    operands: Sequence[mx.array],
    factors: Sequence[Number],
    stream: StreamOrDevice,
) -> list[mx.array]:
    """Return the product of types that no kernel takes (complex64, float64) by MLX's own rules."""
    a, b = _transposed(operands, transpose_a, transpose_b, stream)
    return [_product(a, b, operands[2] if len(operands) > 2 else None, factors, stream)]


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
    problem: GemmProblem,
    a: mx.array,
    b: mx.array,
    c: mx.array | None,
    factors: Sequence[Number],
    stream: StreamOrDevice,
) -> mx.array:
    natural = promote(problem.a, problem.b)
    if problem.c is not None:
        natural = promote(natural, problem.c)
    if problem.out is not natural:
        # MLX rounds to the type it multiplies in; float32 keeps the result to one rounding.
        a, b = a.astype(mx.float32, stream=stream), b.astype(mx.float32, stream=stream)
    if c is not None:
        a, b, c = _matrices(a, b, mx.broadcast_to(c, problem.out_shape, stream=stream), stream)
    product = _product(a, b, c, factors, stream).astype(problem.out.mlx, stream=stream)
    return mx.reshape(product, problem.out_shape, stream=stream)


def _matrices(
    a: mx.array, b: mx.array, c: mx.array, stream: StreamOrDevice
) -> tuple[mx.array, mx.array, mx.array]:
    """Give vectors their second axis: `mx.addmm` refuses some addends of products with vectors."""
    if b.ndim == 1:
        b, c = (mx.expand_dims(x, -1, stream=stream) for x in (b, c))
    if a.ndim == 1:
        a, c = (mx.expand_dims(x, -2, stream=stream) for x in (a, c))
    return a, b, c


def _product(
    a: mx.array, b: mx.array, c: mx.array | None, factors: Sequence[Number], stream: StreamOrDevice
) -> mx.array:
    if c is None:
        return mx.matmul(a, b, stream=stream)
    alpha, beta = factors
    return mx.addmm(c, a, b, alpha=alpha, beta=beta, stream=stream)


def _integer_gemm(
    problem: GemmProblem,
    a: mx.array,
    b: mx.array,
    c: mx.array | None,
    factors: Sequence[Number],
    stream: StreamOrDevice,
) -> mx.array:
    # float64 lives on the CPU only.
    with mx.stream(stream if stream is not None and device_type(stream) is mx.cpu else mx.cpu):
        total = _integer_product(a, b, problem.k)
        if c is None:
            return total.astype(mx.int32)
        alpha, beta = (mx.array(int(factor) % 2**32, dtype=mx.uint32) for factor in factors)
        return (alpha * total + beta * _wrapped(c)).astype(mx.int32)


def _integer_product(a: mx.array, b: mx.array, k: int) -> mx.array:
    """Return ``a @ b`` modulo 2^32 as uint32, by exact float64 products of 16-bit limbs."""
    total = mx.array(0, dtype=mx.uint32)
    starts = range(0, max(k, 1), _EXACT_SUM_LENGTH)
    for start, (i, x), (j, y) in product(starts, enumerate(_limbs(a)), enumerate(_limbs(b))):
        if i + j > 1:
            continue  # a multiple of 2^32
        part = slice(start, start + _EXACT_SUM_LENGTH)
        partial = mx.matmul(x[..., part], y[..., part, :] if y.ndim > 1 else y[part])
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


def attention(
    problem: AttentionProblem,
    operands: Sequence[mx.array],
    factors: Sequence[Number],
    stream: StreamOrDevice,
) -> list[mx.array]:
    """Return ``[out]`` or ``[out, lse]`` for the operands that the problem names, in its order."""
    if _on_metal(stream) and serves_attention(problem, detect()[0]):
        return [_fused_attention(problem, operands, factors, stream)]
    with nullcontext() if stream is None else mx.stream(stream):
        arrays = dict(zip(problem.operand_names, operands, strict=True))
        if not problem.kv_len:
            return _nothing_to_attend_to(problem, arrays.get("sinks"))
        mask = _causal_mask(problem) if problem.mask_kind is MaskKind.CAUSAL else arrays.get("mask")
        scores = _scores(problem, arrays) * float(factors[0])
        v = arrays["v"].astype(mx.float32)
        if problem.softmax:
            return _softmax_chain(problem, _masked(scores, mask, -mx.inf), v, arrays.get("sinks"))
        out = _values(problem, _masked(scores, mask, 0.0), v)
        return [out.astype(problem.out.mlx)]


def _on_metal(stream: StreamOrDevice) -> bool:
    device = mx.default_device().type if stream is None else device_type(stream)
    return device is mx.gpu and mx.metal.is_available()


def _fused_attention(
    problem: AttentionProblem,
    operands: Sequence[mx.array],
    factors: Sequence[Number],
    stream: StreamOrDevice,
) -> mx.array:
    mask = "causal" if problem.mask_kind is MaskKind.CAUSAL else None
    q, k, v, *sinks = operands
    return mx.fast.scaled_dot_product_attention(
        q,
        k,
        v,
        scale=float(factors[0]),
        mask=mask,
        sinks=sinks[0] if sinks else None,
        stream=stream,
    )


def _nothing_to_attend_to(problem: AttentionProblem, sinks: mx.array | None) -> list[mx.array]:
    out = mx.zeros(problem.out_shape, dtype=problem.out.mlx)
    if not problem.return_lse:
        return [out]
    lse = mx.array(-mx.inf) if sinks is None else _sink_scores(sinks)[..., 0]
    return [out, mx.broadcast_to(lse, problem.lse_shape)]


def _sink_scores(sinks: mx.array) -> mx.array:
    """Return the sinks, ``[Hq]`` or one for each batch row, as a column of scores."""
    rows = sinks if sinks.ndim > 1 else sinks[None]
    return rows.astype(mx.float32)[..., None, None]


def _causal_mask(problem: AttentionProblem) -> mx.array:
    offset = problem.kv_len - problem.q_len
    rows = (mx.arange(problem.q_len) + offset)[:, None]
    columns = mx.arange(problem.kv_len)[None]
    if problem.window is None:
        return rows >= columns
    return mx.logical_and(rows >= columns, rows < columns + problem.window)


def _masked(scores: mx.array, mask: mx.array | None, masked_value: float) -> mx.array:
    if mask is None:
        return scores
    if mask.dtype == mx.bool_:
        return mx.where(mask, scores, masked_value)
    return scores + mask.astype(mx.float32)


def _scores(problem: AttentionProblem, arrays: dict[str, mx.array]) -> mx.array:
    """Return ``q @ k.T + q_pe @ k_pe.T`` as ``[B, Hq, Lq, Lk]``."""
    scores = _keys_product(problem, arrays["q"], arrays["k"])
    if not problem.pe_dim:
        return scores
    return scores + _keys_product(problem, arrays["q_pe"], arrays["k_pe"])


def _keys_product(problem: AttentionProblem, q: mx.array, k: mx.array) -> mx.array:
    """Return ``q @ k.T``; q heads that share a k become rows of one GEMM."""
    p, heads = problem, k.shape[1]
    q, k = q.astype(mx.float32), k.astype(mx.float32)
    grouped = q.reshape(p.batch, heads, p.num_heads // heads * p.q_len, q.shape[3])
    return (grouped @ k.swapaxes(-1, -2)).reshape(p.batch, p.num_heads, p.q_len, p.kv_len)


def _values(problem: AttentionProblem, weights: mx.array, v: mx.array) -> mx.array:
    """Return ``weights @ v`` as ``[B, Hq, Lq, Dv]``."""
    p = problem
    rows = p.num_heads // p.num_kv_heads * p.q_len
    grouped = weights.reshape(p.batch, p.num_kv_heads, rows, p.kv_len)
    return (grouped @ v).reshape(p.out_shape)


def _softmax_chain(
    problem: AttentionProblem, scores: mx.array, v: mx.array, sinks: mx.array | None
) -> list[mx.array]:
    highest = mx.max(scores, axis=-1, keepdims=True)
    if sinks is not None:
        highest = mx.maximum(highest, _sink_scores(sinks))
    highest = mx.stop_gradient(highest)
    # A row of -inf must not become exp(-inf + inf).
    shift = mx.where(highest == -mx.inf, 0.0, highest)
    weights = mx.exp(scores - shift)
    total = mx.sum(weights, axis=-1, keepdims=True)
    if sinks is not None:
        total = total + mx.exp(_sink_scores(sinks) - shift)
    # An unused 0 / 0 would still be a NaN in the gradients.
    nothing = total == 0.0
    divisor = mx.where(nothing, 1.0, total)
    out = mx.where(nothing, 0.0, _values(problem, weights, v) / divisor)
    out = out.astype(problem.out.mlx)
    if not problem.return_lse:
        return [out]
    lse = mx.where(nothing, -mx.inf, shift + mx.log(divisor))
    return [out, mx.squeeze(lse, -1)]

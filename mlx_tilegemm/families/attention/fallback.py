"""Attention by MLX's own ops: for the ``mlx`` backend and for what no kernel serves.

Same semantics as the kernels: accumulation in float32 and one rounding to the result type, rows
with nothing to attend to zero. Unlike the kernels, these cast operands into copies and, but for
MLX's own fused attention, hold all scores in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import mlx.core as mx

from ...backends import StreamOrDevice, device_type
from ...core.problem import Number
from ...machine.chips import detect
from .price import serves_attention
from .problem import AttentionProblem, MaskKind


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

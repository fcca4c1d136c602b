"""Attention by MLX's own ops: for the ``mlx`` backend and for what no kernel serves.

Same semantics as the kernels: accumulation in float32 and one rounding to the result type, rows
with nothing to attend to zero. MLX's own attention is called where it has all that is asked for;
what is written out here, for the others, holds all scores in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import mlx.core as mx

from ...backends import StreamOrDevice
from ...call.precision import unrounded
from ...call.transforms import on
from ...core.context import current_settings
from ...core.fast_path import DirectRun
from ...core.problem import Factors, Number
from ...core.tracing import is_shapeless, is_traced
from ...errors import BackendError
from . import fused
from .exponents import LOG2_E, to_exponent
from .problem import AttentionProblem, MaskKind

if TYPE_CHECKING:
    from ...core.family import Run


def attention(problem: AttentionProblem) -> Run:
    """Return the call for the operands that the problem names: of all its results."""
    run = _by_mlx(problem)
    # The weights of a softmax are float32, and so are the scores of a literal chain.
    return unrounded("attention_chain", run) if problem.exact else run


def of_any_length(
    problem: AttentionProblem, of_these: Run, factors: Factors
) -> Callable[..., mx.array] | None:
    """Return the call of MLX's op for operands as they are, whatever number of keys; or None.

    Args:
        problem: An attention that MLX's op serves, of one of these numbers.
        of_these: The call of MLX's op for the operands that it is passed, where MLX follows a
            function.
        factors: Of the call.
    """
    if problem.exact or not fused.serves(problem):
        return None
    return fused.direct(problem, of_these, factors)


def _by_mlx(problem: AttentionProblem) -> Run:
    written_out = partial(_written_out, problem)
    if not fused.serves(problem):
        return written_out
    by_mlx = fused.attention(problem)

    def call(
        operands: Sequence[mx.array], factors: Factors, stream: StreamOrDevice
    ) -> list[mx.array]:
        # Sizes are open only where MLX follows a function, which is asked for in less time.
        traced = is_traced()
        if traced and is_shapeless():
            return written_out(operands, factors, stream)
        if stream is None:
            return by_mlx(operands, factors, None, traced)
        with mx.stream(stream):
            return by_mlx(operands, factors, stream, traced)

    return DirectRun(call, first=lambda factors, _: fused.direct(problem, call, factors))


def _written_out(
    problem: AttentionProblem,
    operands: Sequence[mx.array],
    factors: Sequence[Number],
    stream: StreamOrDevice,
) -> list[mx.array]:
    shapeless = is_shapeless()
    with on(stream):
        arrays = dict(zip(problem.operand_names, operands, strict=True))
        if not problem.kv_len:
            _check_sizes_stay(shapeless)
            return _nothing_to_attend_to(problem, arrays.get("sinks"))
        mask = arrays.get("mask")
        if problem.mask_kind is MaskKind.CAUSAL:
            mask = _causal_mask(problem, *_positions(problem, arrays, shapeless))
        scores = _scores(problem, arrays) * float(factors[0])
        v, sinks = arrays["v"].astype(mx.float32), arrays.get("sinks")
        if problem.softmax:
            found = _softmax_chain(problem, _masked(scores, mask, -mx.inf), v, sinks)
            return [*found, _norm(scores, mask, sinks)] if problem.return_norm else found
        out = _values(problem, _masked(scores, mask, 0.0), v)
        return [out.astype(problem.out.mlx)]


def _nothing_to_attend_to(problem: AttentionProblem, sinks: mx.array | None) -> list[mx.array]:
    found = [mx.zeros(problem.out_shape, dtype=problem.out.mlx)]
    lse = mx.array([[-mx.inf]]) if sinks is None else _sink_scores(sinks)[..., 0]
    if problem.return_lse:
        found.append(mx.broadcast_to(lse, problem.lse_shape))
    if problem.return_norm:
        shares = mx.where(lse == -mx.inf, 0.0, 1.0)
        pairs = mx.stack([to_exponent(lse, mx.where), shares], axis=-1)
        found.append(mx.broadcast_to(pairs, problem.norm_shape))
    return found


def _sink_scores(sinks: mx.array) -> mx.array:
    """Return the sinks, ``[Hq]`` or one for each batch row, as a column of scores."""
    rows = sinks if sinks.ndim > 1 else sinks[None]
    return rows.astype(mx.float32)[..., None, None]


def _norm(scores: mx.array, mask: mx.array | None, sinks: mx.array | None) -> mx.array:
    """Return what a kernel of gradients makes weights with; its own derivatives are never asked."""
    exponents = LOG2_E * scores
    if mask is not None:
        exponents = exponents + to_exponent(mask.astype(mx.float32), mx.where)
    peak = mx.max(exponents, axis=-1, keepdims=True)
    sink = None if sinks is None else to_exponent(_sink_scores(sinks), mx.where)
    if sink is not None:
        peak = mx.maximum(peak, sink)
    shift = mx.where(peak == -mx.inf, 0.0, peak)
    total = mx.sum(mx.power(2.0, exponents - shift), axis=-1, keepdims=True)
    if sink is not None:
        total = total + mx.power(2.0, sink - shift)
    share = mx.where(total == 0.0, 0.0, 1.0 / total)
    return mx.stop_gradient(mx.concatenate([peak, share], axis=-1))


def _check_sizes_stay(shapeless: bool) -> None:
    if shapeless:
        raise BackendError(
            "[attention_chain] Expected at least one key while mx.compile(shapeless=True) traces, "
            "got none."
        )


def _positions(
    problem: AttentionProblem, arrays: dict[str, mx.array], shapeless: bool
) -> tuple[mx.array, mx.array]:
    """Return the positions of q and of k, of which the last ones are the same."""
    if not shapeless:
        offset = problem.kv_len - problem.q_len
        return mx.arange(problem.q_len) + offset, mx.arange(problem.kv_len)
    if current_settings().batched:
        raise BackendError(
            "[attention_chain] Expected sizes that stay, got those of mx.compile(shapeless=True) "
            "around vmap: MLX then counts no positions for the mask 'causal'."
        )
    # Counted, for the sizes seen now are not those to come.
    rows, columns = (
        mx.cumsum(mx.ones_like(mx.sum(arrays[name].astype(mx.int32), axis=(0, 1, 3))))
        for name in ("q", "k")
    )
    return rows + (mx.max(columns) - mx.max(rows)), columns


def _causal_mask(problem: AttentionProblem, rows: mx.array, columns: mx.array) -> mx.array:
    rows, columns = mx.expand_dims(rows, -1), mx.expand_dims(columns, 0)
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
    """Return ``q @ k.T`` as ``[B, Hq, Lq, Lk]``."""
    transposed = mx.swapaxes(k.astype(mx.float32), -1, -2)
    return _grouped_product(q.astype(mx.float32), transposed, problem.num_heads // k.shape[1])


def _values(problem: AttentionProblem, weights: mx.array, v: mx.array) -> mx.array:
    """Return ``weights @ v`` as ``[B, Hq, Lq, Dv]``."""
    return _grouped_product(weights, v, problem.num_heads // problem.num_kv_heads)


def _grouped_product(x: mx.array, y: mx.array, group: int) -> mx.array:
    """Return ``x @ y`` where so many heads of ``x`` share one of ``y``."""
    if group == 1:
        return x @ y
    parted = mx.unflatten(x, 1, (-1, group))
    if is_shapeless():
        # No size but that of the heads is in the graph.
        return mx.flatten(parted @ mx.expand_dims(y, 2), 1, 2)
    # The heads of a group become rows of one product.
    joined = mx.flatten(parted, 2, 3) @ y
    return mx.flatten(mx.unflatten(joined, 2, (group, x.shape[2])), 1, 2)


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

"""Float64 attention and the bounds of its result and log-sum-exp, before rounding."""

from __future__ import annotations

from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from ...core.reference import U32, Values, factors_error, to_numpy
from .exponents import LOG2_E, to_exponent


class Rows(NamedTuple):
    """What is known of every row of a softmax, and the bounds of it.

    Attributes:
        lse: The log-sum-exp.
        norm: The highest score, as an exponent of 2, and 1 over the sum, as the last axis.
    """

    lse: tuple[Values, Values]
    norm: tuple[Values, Values]


def attention(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    **options: Any,  # noqa: ANN401 - of `attention_and_rows`
) -> tuple[Values, Values, tuple[Values, Values] | None]:
    """Return the result, its bound before rounding and the log-sum-exp, as `attention_and_rows`."""
    value, bound, rows = attention_and_rows(q, k, v, **options)
    return value, bound, rows and rows.lse


def attention_and_rows(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    *,
    scale: float,
    softmax: bool = True,
    mask: mx.array | str | None = None,
    window: int | None = None,
    sinks: mx.array | None = None,
    q_pe: mx.array | None = None,
    k_pe: mx.array | None = None,
    roundoff: float = 0.0,
    weights_roundoff: float = 0.0,
) -> tuple[Values, Values, Rows | None]:
    """Return the result, its bound before rounding and the rows of the softmax, all float64.

    A row with nothing to attend to is 0 with a log-sum-exp of -inf, or of its sink. Factors of the
    two products may be rounded first, with these relative errors.
    """
    queries, keys, values = to_numpy(q), to_numpy(k), to_numpy(v)
    heads, depth = queries.shape[1], queries.shape[-1]
    keys, values = _of_heads(keys, heads), _of_heads(values, heads)
    if q_pe is not None and k_pe is not None:
        queries = np.concatenate([queries, to_numpy(q_pe)], axis=-1)
        keys = np.concatenate([keys, _of_heads(to_numpy(k_pe), heads)], axis=-1)
        depth = queries.shape[-1]
    transposed = np.swapaxes(keys, -1, -2)
    with np.errstate(invalid="ignore", over="ignore"):
        scores = scale * (queries @ transposed)
        size = np.abs(scale) * (np.abs(queries) @ np.abs(transposed))
        rounded = factors_error(roundoff) * size
        scores, size, visible = _masked(scores, size, mask, window)
        # Accelerators that round factors cut what they add up to.
        unit = 2 * U32 if roundoff else U32
        score_error = (depth + 8) * unit * size + rounded
        if not softmax:
            scores = np.where(visible, scores, 0.0)
            score_error = np.where(visible, score_error, 0.0)
            result = scores @ values
            relative = (values.shape[-2] + 4) * unit + factors_error(weights_roundoff)
            spread = (np.abs(scores) * relative + score_error) @ np.abs(values)
            return result, spread, None
        own = (values.shape[-2] + 24) * unit
        return _softmax(scores, score_error, visible, values, sinks, own, weights_roundoff)


def _of_heads(values: Values, heads: int) -> Values:
    return np.repeat(values, heads // values.shape[1], axis=1)


def visible_keys(rows: int, columns: int, window: int | None = None) -> Values:
    """Return which keys the rows of a causal mask see, ``[rows, columns]``."""
    before = np.arange(rows)[:, None] + columns - rows - np.arange(columns)
    return np.asarray((before >= 0) & (before < (columns if window is None else window)))


def _masked(
    scores: Values, size: Values, mask: mx.array | str | None, window: int | None
) -> tuple[Values, Values, Values]:
    visible = np.ones(scores.shape, dtype=bool)
    if mask is None:
        return scores, size, visible
    if isinstance(mask, str):
        visible &= visible_keys(scores.shape[-2], scores.shape[-1], window)
        return scores, size, visible
    if mask.dtype == mx.bool_:
        visible &= np.array(mask)
        return scores, size, visible
    added = to_numpy(mask)
    finite = np.where(np.isfinite(added), added, 0.0)
    return scores + added, size + np.abs(finite), visible


def _softmax(
    scores: Values,
    score_error: Values,
    visible: Values,
    values: Values,
    sinks: mx.array | None,
    own: float,
    weights_roundoff: float,
) -> tuple[Values, Values, Rows]:
    scores = np.where(visible, scores, -np.inf)
    maximum = scores.max(axis=-1, keepdims=True)
    sink = np.array(-np.inf) if sinks is None else to_numpy(sinks)[:, None, None]
    maximum = np.maximum(maximum, sink)
    empty = maximum == -np.inf
    weights = np.exp(scores - np.where(empty, 0.0, maximum))
    total = weights.sum(axis=-1, keepdims=True)
    total = total + np.exp(sink - np.where(empty, 0.0, maximum))
    share = weights / np.where(total == 0, 1.0, total)
    attended = np.where(np.isfinite(scores), score_error, 0.0)
    # A sink is scaled to base 2 like the scores.
    sink_error = 8 * U32 * np.abs(np.where(np.isfinite(sink), sink, 0.0))
    worst = np.maximum(attended.max(axis=-1, keepdims=True), sink_error)
    result = share @ values
    relative = np.expm1(2 * worst) + own + factors_error(weights_roundoff)
    bound = relative * (share @ np.abs(values))
    with np.errstate(divide="ignore"):
        lse = np.where(empty, -np.inf, np.where(empty, 0.0, maximum) + np.log(total))[..., 0]
    lse_error = (worst + own)[..., 0] + 4 * U32 * np.abs(np.where(np.isfinite(lse), lse, 0.0))
    norm = _norm(maximum, total, worst, own)
    return result, bound, Rows(lse=(lse, lse_error), norm=norm)


def _norm(maximum: Values, total: Values, score_error: Values, own: float) -> tuple[Values, Values]:
    peak = to_exponent(maximum, np.where)
    share = np.where(total == 0, 0.0, 1.0 / np.where(total == 0, 1.0, total))
    peak_error = LOG2_E * score_error + 8 * U32 * np.abs(np.where(np.isfinite(peak), peak, 0.0))
    share_error = share * (np.expm1(2 * score_error) + own)
    return np.concatenate([peak, share], -1), np.concatenate([peak_error, share_error], -1)

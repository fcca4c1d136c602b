"""Float64 references and the bounds that results are held to.

The bounds are proven, not tuned: float32 accumulation of k products is off by at most
(k + 2) * 2**-24 of the sum of their magnitudes, and rounding to the result's type adds its unit
roundoff. They depend on nothing but dtypes, sizes and data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from ..dtypes import FLOAT32, DType, from_mlx

Values = npt.NDArray[Any]

U32 = FLOAT32.unit_roundoff
# Smallest steps of float16 and bfloat16 near zero, and of float32, where relative bounds end.
SUBNORMAL_STEP = {"float32": 2.0**-126, "float16": 2.0**-24, "bfloat16": 2.0**-126}


def to_numpy(array: mx.array) -> Values:
    """Return an MLX array as float64, or as int64 if it holds integers."""
    if from_mlx(array.dtype) and mx.issubdtype(array.dtype, mx.integer):
        return np.array(array).astype(np.int64)
    return np.array(array.astype(mx.float32)).astype(np.float64)


def gemm(
    a: mx.array,
    b: mx.array,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    c: mx.array | None = None,
    alpha: float = 1.0,
    beta: float = 1.0,
) -> tuple[Values, Values]:
    """Return alpha * op(a) @ op(b) + beta * c and the sum of the magnitudes of its terms."""
    left, right = _operand(a, transpose_a), _operand(b, transpose_b)
    with np.errstate(invalid="ignore", over="ignore"):
        value = alpha * (left @ right)
        magnitude = np.abs(alpha) * (np.abs(left) @ np.abs(right))
        if c is not None:
            value = value + beta * to_numpy(c)
            magnitude = magnitude + np.abs(beta * to_numpy(c))
    return value, magnitude


def _operand(array: mx.array, transpose: bool) -> Values:
    value = to_numpy(array)
    return np.swapaxes(value, -1, -2) if transpose and value.ndim > 1 else value


def gemm_bound(value: Values, magnitude: Values, k: int, out: DType) -> Values:
    """Return the largest error a correct float32-accumulating GEMM can make."""
    return np.asarray((k + 4) * U32 * magnitude + rounding(value, out))


def rounding(value: Values, out: DType) -> Values:
    """Return the largest error of rounding a value to a type."""
    return np.asarray(out.unit_roundoff * np.abs(value) + SUBNORMAL_STEP[out.name])


def wrap(value: Values) -> Values:
    """Return integers modulo 2**32, as int32 arithmetic leaves them."""
    return ((value + 2**31) % 2**32) - 2**31


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A result held against its bounds.

    Attributes:
        share: Largest error as a share of its bound; infinite where an element is wrong.
        reason: Where and how the result is wrong, None when it is right.
    """

    share: float
    reason: str | None


def compare(got: mx.array, value: Values, bound: Values | float) -> Comparison:
    """Hold each element against its bound; infinities and NaN have to be the same.

    A finite value may be infinite if it, or what it may be off to, is more than the type holds.
    """
    result = to_numpy(got)
    if result.shape != value.shape:
        return Comparison(share=np.inf, reason=f"shape {result.shape}, expected {value.shape}")
    limit = np.broadcast_to(bound, value.shape)
    with np.errstate(invalid="ignore"):
        error = np.abs(result - value)
        right = np.where(np.isfinite(value), error <= limit, result == value)
    right |= np.isnan(value) & np.isnan(result)
    if mx.issubdtype(got.dtype, mx.floating):
        too_large = np.isfinite(value) & (np.abs(value) + limit >= float(mx.finfo(got.dtype).max))
        right |= too_large & (result == np.copysign(np.inf, value))
    wrong = ~right
    if not wrong.any():
        held = np.isfinite(error) & (limit > 0)
        return Comparison(share=float(np.max(error[held] / limit[held], initial=0.0)), reason=None)
    at = tuple(int(i) for i in np.argwhere(wrong)[0])
    return Comparison(
        share=np.inf,
        reason=f"{int(wrong.sum())} of {wrong.size} elements are out of bounds, first at {at}: "
        f"got {result[at].item()}, expected {value[at].item()} within {limit[at].item():.3g}",
    )


def assert_close(got: mx.array, value: Values, bound: Values | float, label: str = "") -> None:
    """Assert what `compare` finds out."""
    reason = compare(got, value, bound).reason
    if reason is not None:
        raise AssertionError(f"{label} {reason}")


def attention(
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
) -> tuple[Values, Values, tuple[Values, Values] | None]:
    """Return the result, its bound before rounding and the log-sum-exp, all float64.

    A row with nothing to attend to is 0 with a log-sum-exp of -inf, or of its sink.
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
        scores, size, visible = _masked(scores, size, mask, window)
        score_error = (depth + 8) * U32 * size
        if not softmax:
            scores = np.where(visible, scores, 0.0)
            score_error = np.where(visible, score_error, 0.0)
            result = scores @ values
            spread = (np.abs(scores) * (values.shape[-2] + 4) * U32 + score_error) @ np.abs(values)
            return result, spread, None
        return _softmax(scores, score_error, visible, values, sinks)


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
) -> tuple[Values, Values, tuple[Values, Values]]:
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
    relative = np.expm1(2 * worst) + (values.shape[-2] + 24) * U32
    bound = relative * (share @ np.abs(values))
    with np.errstate(divide="ignore"):
        lse = np.where(empty, -np.inf, np.where(empty, 0.0, maximum) + np.log(total))[..., 0]
    lse_error = (worst + (values.shape[-2] + 24) * U32)[..., 0] + 4 * U32 * np.abs(
        np.where(np.isfinite(lse), lse, 0.0)
    )
    return result, bound, (lse, lse_error)

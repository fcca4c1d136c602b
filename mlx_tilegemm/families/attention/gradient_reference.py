"""Float64 gradients of attention, and the bounds that results are held to.

They start from what the kernels are given, the rounded result and log-sum-exp included, so their
bounds cover what the kernels do and nothing else.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from ...core.dtypes import FLOAT32
from ...core.reference import U32, Values, to_numpy
from .exponents import LOG2_E, to_exponent
from .forward_reference import Rows, attention_and_rows, visible_keys
from .problem import AttentionProblem, KeyValueGradientProblem, MaskKind, QueryGradientProblem

Arrays = dict[str, mx.array]
Bounded = tuple[Values, Values]
"""A value and the largest error of a right kernel in it, before rounding."""


def forward(
    p: AttentionProblem, arrays: Arrays, scale: float, roundoff: float = 0.0
) -> tuple[Values, Values, Rows | None]:
    """Return what `attention_and_rows` makes of the problem's operands."""
    extras = {name: arrays[name] for name in ("sinks", "q_pe", "k_pe") if name in arrays}
    return attention_and_rows(
        arrays["q"],
        arrays["k"],
        arrays["v"],
        scale=scale,
        softmax=p.softmax,
        mask="causal" if p.mask_kind is MaskKind.CAUSAL else arrays.get("mask"),
        window=p.window,
        roundoff=roundoff,
        weights_roundoff=max(roundoff, p.out.unit_roundoff) if roundoff else 0.0,
        **extras,
    )


def complete(p: AttentionProblem, arrays: Arrays, scale: float, rng: np.random.Generator) -> Arrays:
    """Add to q, k, v and the mask what the forward kernel leaves and the gradients that arrive."""
    grad = rng.standard_normal(p.out_shape).astype(np.float32)
    full = {**arrays, "grad": mx.array(grad).astype(p.out.mlx)}
    if not p.softmax:
        return full
    result, _, rows = forward(p, arrays, scale)
    assert rows is not None
    rounded = mx.array(result.astype(np.float32)).astype(p.out.mlx)
    delta = (to_numpy(full["grad"]) * to_numpy(rounded)).sum(axis=-1)
    return {
        **full,
        "result": rounded,
        "lse": mx.array(rows.lse[0].astype(np.float32)),
        "norm": mx.array(rows.norm[0].astype(np.float32)),
        "lse_grad": mx.array(rng.standard_normal(p.lse_shape).astype(np.float32)),
        "delta": mx.array(delta.astype(np.float32)),
    }


def query_gradient(
    problem: QueryGradientProblem, arrays: Arrays, scale: float
) -> tuple[Bounded, ...]:
    """Return the gradient of q and, with the softmax, delta."""
    p = problem.attention
    keys = _per_head(p, arrays["k"])
    if not p.softmax:
        slopes, error = _slopes(p, arrays)
        visible = _visible(p, arrays)
        return (_product(scale, np.where(visible, slopes, 0.0), error * visible, keys),)
    delta, delta_error = _delta(arrays)
    weighted = _weighted_slopes(p, arrays, scale, delta, delta_error)
    return _product(scale, *weighted, keys), (delta, delta_error)


def key_value_gradients(
    problem: KeyValueGradientProblem, arrays: Arrays, scale: float
) -> tuple[Bounded, ...]:
    """Return the gradients of k and v."""
    p = problem.attention
    if p.softmax:
        weights, weight_error = _weights(p, arrays, scale)
        delta = to_numpy(arrays["delta"])
        slopes, slope_error = _weighted_slopes(p, arrays, scale, delta, np.zeros_like(delta))
    else:
        visible = _visible(p, arrays)
        scores, score_error, _ = _scores(p, arrays, scale)
        weights, weight_error = np.where(visible, scores, 0.0), score_error * visible
        slopes, slope_error = _slopes(p, arrays)
        slopes, slope_error = np.where(visible, slopes, 0.0), slope_error * visible
    queries, grad = to_numpy(arrays["q"]), to_numpy(arrays["grad"])
    key = _product(scale, _transposed(slopes), _transposed(slope_error), queries)
    value = _product(1.0, _transposed(weights), _transposed(weight_error), grad)
    return _shared(p, key), _shared(p, value)


def _transposed(values: Values) -> Values:
    return np.swapaxes(values, -1, -2)


def _per_head(p: AttentionProblem, array: mx.array) -> Values:
    return np.repeat(to_numpy(array), p.num_heads // p.num_kv_heads, axis=1)


def _shared(p: AttentionProblem, bounded: Bounded) -> Bounded:
    """Add up the heads that share keys and values."""
    shape = (p.batch, p.num_kv_heads, p.num_heads // p.num_kv_heads, p.kv_len, -1)
    value, bound = (one.reshape(shape).sum(axis=2) for one in bounded)
    size = np.abs(bounded[0]).reshape(shape).sum(axis=2)
    return value, bound + shape[2] * U32 * size


def _visible(p: AttentionProblem, arrays: Arrays) -> Values:
    shape = (p.batch, p.num_heads, p.q_len, p.kv_len)
    if p.mask_kind is MaskKind.CAUSAL:
        return np.broadcast_to(visible_keys(p.q_len, p.kv_len, p.window), shape)
    if p.mask_kind is MaskKind.BOOLEAN:
        return np.broadcast_to(np.array(arrays["mask"]), shape)
    return np.ones(shape, dtype=bool)


def _scores(p: AttentionProblem, arrays: Arrays, scale: float) -> tuple[Values, Values, Values]:
    """Return the scores, their error and the sum of the magnitudes of their terms."""
    queries, keys = to_numpy(arrays["q"]), _per_head(p, arrays["k"])
    scores = scale * queries @ _transposed(keys)
    size = abs(scale) * np.abs(queries) @ _transposed(np.abs(keys))
    if p.mask_kind is MaskKind.ADDITIVE:
        added = to_numpy(arrays["mask"])
        scores, size = scores + added, size + np.abs(np.where(np.isfinite(added), added, 0.0))
    return scores, (p.head_dim + 8) * U32 * size, size


def _weights(p: AttentionProblem, arrays: Arrays, scale: float) -> Bounded:
    """Return the weights and their error; none is above 1, however coarse the log-sum-exp."""
    scores, error, size = _scores(p, arrays, scale)
    if "norm" in p.row_operands:
        peak, share = np.split(to_numpy(arrays["norm"]), 2, axis=-1)
    else:
        peak, share = to_exponent(to_numpy(arrays["lse"])[..., None], np.where), np.ones(())
    peak = np.where(np.isfinite(peak), peak, 0.0)
    visible = np.where(_visible(p, arrays), scores, -np.inf)
    exponents = (to_exponent(visible, np.where) - peak) / LOG2_E
    # Scores, and the log-sum-exp, are scaled to base 2, each with a few roundings of its own.
    exponent_error = 2 * (error + 4 * U32 * (size + np.abs(peak) / LOG2_E))
    weights = np.exp(np.minimum(exponents, 0.0))
    above = np.exp(np.minimum(exponents + exponent_error, 0.0)) - weights
    below = -weights * np.expm1(-exponent_error)
    return share * weights, share * (np.maximum(above, below) + 16 * U32 * weights)


def _slopes(p: AttentionProblem, arrays: Arrays) -> Bounded:
    """Return the gradient of the weights."""
    grad, values = to_numpy(arrays["grad"]), _per_head(p, arrays["v"])
    size = np.abs(grad) @ _transposed(np.abs(values))
    return grad @ _transposed(values), (p.value_dim + 4) * U32 * size


def _delta(arrays: Arrays) -> Bounded:
    products = to_numpy(arrays["grad"]) * to_numpy(arrays["result"])
    delta, size = products.sum(axis=-1), np.abs(products).sum(axis=-1)
    if "lse_grad" in arrays:
        given = to_numpy(arrays["lse_grad"])
        delta, size = delta - given, size + np.abs(given)
    return delta, (products.shape[-1] + 4) * U32 * size + FLOAT32.smallest_step


def _weighted_slopes(
    p: AttentionProblem, arrays: Arrays, scale: float, delta: Values, delta_error: Values
) -> Bounded:
    """Return the gradient of the scores."""
    weights, weight_error = _weights(p, arrays, scale)
    slopes, slope_error = _slopes(p, arrays)
    centred = slopes - delta[..., None]
    spread = slope_error + delta_error[..., None] + 4 * U32 * np.abs(centred)
    return weights * centred, weight_error * np.abs(centred) + (weights + weight_error) * spread


def _product(factor: float, left: Values, left_error: Values, right: Values) -> Bounded:
    """Return factor * left @ right in float32 sums, from a left with an error."""
    size = np.abs(left) @ np.abs(right)
    terms = left.shape[-1]
    bound = left_error @ np.abs(right) + (terms + 8) * U32 * size
    return factor * (left @ right), abs(factor) * bound

"""Gradients of attention: operands to try their kernels with, and what a right one makes of them.

The reference is float64 and starts from the very operands of the kernel, the rounded result and
log-sum-exp among them, so that only the kernel's own error is left.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from .. import mlx_route
from ..dtypes import BOOL, FLOAT32, DType
from ..problem import (
    AttentionProblem,
    KeyValueGradientProblem,
    MaskKind,
    QueryGradientProblem,
    Shape,
)

if TYPE_CHECKING:
    import numpy as np

    Values = np.ndarray[Any, Any]

GradientProblem = QueryGradientProblem | KeyValueGradientProblem
UNIT = FLOAT32.unit_roundoff


def operands(
    problem: GradientProblem, random: np.random.Generator, scale: float
) -> dict[str, mx.array]:
    """Return new arrays for the kernel of a gradient, by name and in its order."""
    p = problem.attention
    arrays = _drawn(p, random)
    if not p.softmax:
        if isinstance(problem, QueryGradientProblem):
            del arrays["q"]
            if not problem.takes_mask:
                del arrays["mask"]
        return arrays
    mask = {name: arrays.pop(name) for name in ("mask",) if name in arrays}
    exact = replace(p, out=FLOAT32, return_lse=True)
    sinks = {name: arrays.pop(name) for name in ("sinks",) if name in arrays}
    given = arrays | mask | sinks
    attended = [given[name] for name in p.operand_names]
    result, lse = mlx_route.attention(exact, attended, (scale,), mx.cpu)
    arrays["result"] = result.astype(p.out.mlx)
    arrays["lse"] = lse
    if isinstance(problem, QueryGradientProblem):
        if problem.lse_gradient:
            arrays["lse_grad"] = _array(random.standard_normal(p.lse_shape), FLOAT32)
        return arrays | mask
    products = arrays["grad"].astype(mx.float32) * arrays.pop("result").astype(mx.float32)
    arrays["delta"] = mx.sum(products, axis=-1)
    return arrays | mask


def _drawn(p: AttentionProblem, random: np.random.Generator) -> dict[str, mx.array]:
    """Return q, k, v, the gradient that arrives, the mask and the sinks."""
    shapes: dict[str, tuple[Shape, DType]] = {
        "q": ((p.batch, p.num_heads, p.q_len, p.head_dim), p.q),
        "k": ((p.batch, p.num_kv_heads, p.kv_len, p.head_dim), p.k),
        "v": ((p.batch, p.num_kv_heads, p.kv_len, p.value_dim), p.v),
        "grad": (p.out_shape, p.out),
    }
    arrays = {
        name: _array(random.standard_normal(shape), dtype)
        for name, (shape, dtype) in shapes.items()
    }
    if p.mask is BOOL:
        kept = random.uniform(0, 1, p.mask_shape) < 0.7
        kept[..., :1, :] = False  # the first row has nothing to attend to
        arrays["mask"] = mx.array(kept)
    elif p.mask is not None:
        arrays["mask"] = _array(random.standard_normal(p.mask_shape), p.mask)
    if p.sinks is not None:
        arrays["sinks"] = _array(random.standard_normal(p.num_heads), p.sinks)
    return arrays


def _array(values: Values, dtype: DType) -> mx.array:
    return mx.array(values.astype("float32")).astype(dtype.mlx)


@dataclass(frozen=True, slots=True)
class _Term:
    """A factor of a product: its value, how far off a kernel's is, and bounds of its size."""

    value: Values
    error: Values
    size: Values


def expected(
    problem: GradientProblem, arrays: dict[str, mx.array], scale: float
) -> list[tuple[Values, Values]]:
    """Return each output's value and how far off it may be before it is rounded.

    The bounds are of first order and doubled: float32 sums of so many terms as are added, and
    exponentials of scores that are off by as much.
    """
    import numpy as np

    p = problem.attention
    values = {name: np.array(x.astype(mx.float32), np.float64) for name, x in arrays.items()}
    group = p.num_heads // p.num_kv_heads
    for name in ("k", "v"):
        values[name] = np.repeat(values[name], group, axis=1)
    visible = _visible(p, values)
    products = _product(values["grad"], _transposed(values["v"]), p.value_dim)
    if isinstance(problem, QueryGradientProblem):
        delta = _delta(values) if p.softmax else None
        weights = _weights(p, values, scale) if p.softmax else None
        slopes = _slopes(products, delta, weights, visible)
        gradient = _reduced(slopes, values["k"], p.kv_len, scale)
        own = [(delta.value[..., 0], 2 * delta.error[..., 0])] if delta else []
        return [gradient, *own]
    shares = _weights(p, values, scale)
    delta = _exact(values["delta"][..., None]) if p.softmax else None
    slopes = _slopes(products, delta, shares, visible)
    rows = group * p.q_len
    gradients = (
        _reduced(_term_transposed(slopes), values["q"], rows, scale),
        _reduced(_term_transposed(shares), values["grad"], rows, 1.0),
    )
    return [(_grouped(value, p), _grouped(bound, p)) for value, bound in gradients]


def _visible(p: AttentionProblem, values: dict[str, Values]) -> Values:
    import numpy as np

    scores = (p.batch, p.num_heads, p.q_len, p.kv_len)
    if p.mask_kind is MaskKind.BOOLEAN:
        return np.broadcast_to(values["mask"] != 0, scores)
    if p.mask_kind is MaskKind.CAUSAL:
        before = np.arange(p.q_len)[:, None] + p.kv_len - p.q_len - np.arange(p.kv_len)
        return np.broadcast_to((before >= 0) & (before < (p.window or p.kv_len)), scores)
    return np.ones(scores, dtype=bool)


def _transposed(value: Values) -> Values:
    transposed: Values = value.swapaxes(-1, -2)
    return transposed


def _term_transposed(term: _Term) -> _Term:
    return _Term(*(_transposed(x) for x in (term.value, term.error, term.size)))


def _exact(value: Values) -> _Term:
    return _Term(value, 0 * value, abs(value))


def _product(left: Values, right: Values, length: int) -> _Term:
    size = abs(left) @ abs(right)
    return _Term(left @ right, UNIT * (length + 8) * size, size)


def _delta(values: dict[str, Values]) -> _Term:
    """Return the row sums of gradient and result, less the log-sum-exp's gradient, as a column."""
    terms = values["grad"] * values["result"]
    value, size = terms.sum(axis=-1), abs(terms).sum(axis=-1)
    if "lse_grad" in values:
        value, size = value - values["lse_grad"], size + abs(values["lse_grad"])
    error = UNIT * (values["grad"].shape[-1] + 8) * size
    return _Term(*(x[..., None] for x in (value, error, size)))


def _weights(p: AttentionProblem, values: dict[str, Values], scale: float) -> _Term:
    import numpy as np

    visible = _visible(p, values)
    scores = _product(scale * values["q"], _transposed(values["k"]), p.head_dim)
    value, size = scores.value, scores.size
    if p.mask_kind is MaskKind.ADDITIVE:
        finite = np.where(np.isfinite(values["mask"]), values["mask"], 0.0)
        value, size = value + values["mask"], size + abs(finite)
    error = UNIT * (p.head_dim + 16) * size
    if not p.softmax:
        return _Term(*(np.where(visible, x, 0.0) for x in (value, error, size)))
    lse = values["lse"][..., None]
    finite_lse = np.where(np.isfinite(lse), lse, 0.0)
    weights = np.where(visible, np.exp(value - finite_lse), 0.0)
    relative = error + UNIT * (4 * size + 4 * abs(finite_lse) + 24)
    return _Term(weights, weights * relative, weights)


def _slopes(slopes: _Term, delta: _Term | None, weights: _Term | None, visible: Values) -> _Term:
    import numpy as np

    if delta is None or weights is None:
        return _Term(
            *(np.where(visible, x, 0.0) for x in (slopes.value, slopes.error, slopes.size))
        )
    value, size = slopes.value - delta.value, slopes.size + delta.size
    error = slopes.error + delta.error + 4 * UNIT * size
    return _Term(
        weights.value * value,
        weights.error * size + weights.value * error,
        weights.value * size,
    )


def _reduced(term: _Term, operand: Values, length: int, scale: float) -> tuple[Values, Values]:
    """Return a sum of so many terms, each times a row of the operand, and its bound."""
    spread = term.error + UNIT * (length + 8) * term.size
    return scale * (term.value @ operand), 2 * abs(scale) * (spread @ abs(operand))


def _grouped(value: Values, p: AttentionProblem) -> Values:
    """Sum over the heads that share those of k and v."""
    shape = (p.batch, p.num_kv_heads, -1, *value.shape[2:])
    total: Values = value.reshape(shape).sum(axis=2)
    return total

"""Float64 gradients of gated delta updates, and their bounds.

Token by token within each chunk, from the states that the gradients are given. The bound is made
as that of the update, whose errors within a chunk it begins with: the error of a row of the state's
gradient, as a vector's length, is carried from token to token by the same map, transposed; what a
token adds is rounding of its own sums, whose terms are bounded by the lengths of their factors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from ...core.dtypes import FLOAT32
from ...core.problem import Factors
from ...core.reference import U32, Expected, Values, to_numpy
from .problem import CHUNK, DeltaGradientProblem, DeltaProblem
from .reference import Errors, Token, all_tokens, grown, length, step


class _Passed(NamedTuple):
    """A token of the forward pass.

    Attributes:
        token: Its operands.
        before: The state before it.
        after: The state after it.
        missing: What the state misses of v.
        new: By how much k's multiples are in the state.
        error: Of each row of any of these, as a length.
        magnitude: Length of all terms of each row.
    """

    token: Token
    before: Values
    after: Values
    missing: Values
    new: Values
    error: Values
    magnitude: Values


class _Slope(NamedTuple):
    """The gradient of a state.

    Attributes:
        value: Its value.
        error: Of each row, as a length.
        magnitude: Length of all terms of each row.
    """

    value: Values
    error: Values
    magnitude: Values


def expected(
    problem: DeltaGradientProblem, operands: Sequence[mx.array], factors: Factors
) -> tuple[Expected, ...]:
    """Return the gradients of q and k for each head of v, and of all other operands."""
    given = {
        name: np.array(one) if name == "mask" else to_numpy(one)
        for name, one in zip(problem.operand_names, operands, strict=True)
    }
    p = problem.update
    with np.errstate(all="ignore"):
        rows, slope = _backward(p, given, float(factors[0]))
    found = []
    for place, one in enumerate(problem.results[:-1]):
        pairs = [row[place] for row in rows]
        value, bound = (np.stack(part, axis=1) for part in zip(*pairs, strict=True))
        found.append(Expected(value=value.reshape(one.shape), bound=bound.reshape(one.shape)))
    bound = np.broadcast_to(slope.error[..., None], slope.value.shape)
    return (*found, Expected(value=slope.value, bound=bound))


Row = list[tuple[Values, Values]]
"""Gradients of q, k, v, gamma and beta at one token, each with its bound."""


def _backward(
    problem: DeltaProblem, given: dict[str, Values], scale: float
) -> tuple[list[Row], _Slope]:
    tokens = all_tokens(problem, given)
    unit = (problem.key_dim + problem.value_dim + 5 * CHUNK) * U32
    value = given["state_grad"]
    slope = _Slope(value=value, error=np.zeros(value.shape[:3]), magnitude=length(value))
    rows: list[Row] = []
    for start in range((problem.length - 1) // CHUNK * CHUNK, -1, -CHUNK):
        at = start // CHUNK - 1
        state = given["initial_state"] if at < 0 else given["states"][:, at]
        end = min(start + CHUNK, problem.length)
        passed = _passed(problem, [_at(tokens, t) for t in range(start, end)], state, unit)
        slope = slope._replace(magnitude=length(slope.value))
        for one, t in zip(reversed(passed), range(end - 1, start - 1, -1), strict=True):
            row, slope = _token(problem, one, scale * given["grad"][:, t], slope, unit)
            rows.append(row)
    return rows[::-1], slope


def _at(tokens: Token, t: int) -> Token:
    return Token(*(x[:, t] for x in tokens))


def _passed(
    problem: DeltaProblem, tokens: list[Token], state: Values, unit: float
) -> list[_Passed]:
    """Return a chunk's tokens of the forward pass."""
    errors = Errors(decay=2 * U32, key=0.0, sum=unit)
    error, magnitude = np.zeros(state.shape[:3]), length(state)
    found = []
    for token in tokens:
        after, new = step(token, state)
        missing = token.v - (state * token.gamma[:, :, None] @ token.k[..., None])[..., 0]
        kept = token.mask[:, None, None]
        earlier = (error, magnitude)
        more = grown(problem, token, errors, new, error, magnitude)
        error, magnitude = (np.where(kept, x, y) for x, y in zip(more, earlier, strict=True))
        after = np.where(kept[..., None], after, state)
        largest = (np.maximum(x, y) for x, y in zip((error, magnitude), earlier, strict=True))
        found.append(_Passed(token, state, after, missing, new, *largest))
        state = after
    return found


def _token(
    problem: DeltaProblem, one: _Passed, grad: Values, slope: _Slope, unit: float
) -> tuple[Row, _Slope]:
    """Return what a token's gradients are, and the gradient of the state before it."""
    token, seen = one.token, one.token.mask[:, None, None]
    key, rate = length(token.k)[..., None], token.beta[..., None]
    strength, added = np.abs(rate), np.abs(one.new)
    read = np.abs(grad) * length(token.q)[..., None]
    after = slope.value + grad[..., None] * token.q[:, :, None]
    magnitude = slope.magnitude + read
    error = slope.error + unit * magnitude
    new = (after @ token.k[..., None])[..., 0]
    new_error = key * (error + unit * magnitude)
    erased = strength * np.abs(new)
    decayed = after - (rate * new)[..., None] * token.k[:, :, None]
    norm = np.maximum(1.0, np.abs(1.0 - rate * key**2))
    magnitude_before = magnitude + erased * key
    error_before = norm * error + strength * key**2 * unit * magnitude + unit * magnitude_before
    state = token.gamma[:, :, None] * one.before
    lengths, largest = one.magnitude, np.abs(token.gamma).max(axis=-1)[..., None]
    state_error = one.error + unit * lengths
    missing_error = key * state_error + unit * (np.abs(token.v) + np.abs(one.missing))
    k = one.new[..., None] * after - (rate * new)[..., None] * state
    k_error = (
        added * (error + unit * magnitude)
        + strength * missing_error * magnitude
        + strength * new_error * lengths
        + erased * state_error
    )
    gates = one.before * decayed
    before = length(one.before)
    gate_error = before * (error_before + unit * magnitude_before) + state_error * magnitude_before
    wide = (
        (gates, gate_error[..., None])
        if problem.vector_gate
        else (gates.sum(axis=-1, keepdims=True), gate_error[..., None])
    )
    row = [
        (grad[..., None] * one.after, (np.abs(grad) * state_error)[..., None]),
        (k, k_error[..., None]),
        (rate * new, strength * new_error + 2 * U32 * erased),
        wide,
        (new * one.missing, new_error * np.abs(one.missing) + np.abs(new) * missing_error),
    ]
    found = _Slope(
        value=np.where(seen[..., None], token.gamma[:, :, None] * decayed, slope.value),
        error=np.where(seen, largest * (error_before + unit * magnitude_before), slope.error),
        magnitude=np.where(seen, largest * magnitude_before, slope.magnitude),
    )
    return _summed(row, seen), found


def _summed(row: Row, seen: Values) -> Row:
    """Add up over the values of a head what is not a value's own, and flush what is tiny."""
    q, k, (v, v_bound), gamma, (beta, beta_bound) = row
    found = [
        *(
            (value.sum(axis=2), np.broadcast_to(bound, value.shape).sum(axis=2))
            for value, bound in (q, k)
        ),
        (v, v_bound),
        tuple(np.broadcast_to(x, gamma[0].shape).sum(axis=2) for x in gamma),
        (beta.sum(axis=2), beta_bound.sum(axis=2)),
    ]
    return [
        (
            np.where(seen[..., :1] if value.ndim == 3 else seen[..., 0], value, 0.0),
            np.where(seen[..., :1] if value.ndim == 3 else seen[..., 0], 1.05 * bound + TINY, 0.0),
        )
        for value, bound in found
    ]


TINY = 2.0**24 * FLOAT32.smallest_step
"""More than all products of a token lose below float32's normal numbers."""

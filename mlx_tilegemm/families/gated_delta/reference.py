"""Float64 gated delta updates, their bounds, and operands to try kernels with.

The bound follows the error of a row of the state, as a vector's length, from token to token. A
token multiplies it by no more than the largest decay and the norm of ``I - beta k k^T``, which is
``max(1, |1 - beta |k|^2|)``; what the token adds is what rounding does to its own few operations.
These are at most ``Dk + CHUNK + 4`` roundings of sums whose terms, by Cauchy and Schwarz, are no
larger together than the lengths of their factors. `magnitude` bounds the length of all terms of a
state, which are kept apart until the end of a chunk by kernels that go chunk by chunk. With one
decay a head those add to the state sums and differences of a chunk's tokens, which but for a factor
is a rotation: by Cauchy and Schwarz what they add has terms no larger together than the lengths of
a chunk's keys and of its n.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from ...core.dtypes import FLOAT32
from ...core.family import Data, HardData
from ...core.operand import Operand
from ...core.problem import Factors
from ...core.reference import U32, Expected, Values, as_array, as_view, rounding, to_numpy
from .fallback import EPSILON
from .problem import CHUNK, DeltaGradientProblem, DeltaProblem

EXP_ERROR = 16 * U32
"""Largest relative error of an exponential: Metal's is within 4 units in the last place, MLX's
within twice that."""

SECOND_ORDER = 1.01
"""Factor for products of errors, all below a hundredth."""


MIXED = 14 * U32
"""Relative error of what a chunk adds to a state: of three sums for a key, of a decay and of one
rounding for an n, of eight products and of their sums."""


HARD_GATES = {"gamma": 0.9999, "beta": 1.99}
"""Gates with which a state keeps errors for hundreds of tokens where all keys are equal."""


RESET = CHUNK + 3
"""Token, in the middle of a chunk, from which on numbers are others than before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateData(HardData):
    """Hard numbers with other gates.

    Attributes:
        beta: Of all tokens.
        resets: Whether a decay of one element forgets at `RESET` what is large in a state.
    """

    beta: float = HARD_GATES["beta"]
    resets: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class UndefinedData(Data):
    """Numbers with one of v at `RESET` that is none, which no token before it is to see."""


class Token(NamedTuple):
    """Float64 operands of all tokens, heads of q and k repeated."""

    q: Values
    k: Values
    v: Values
    gamma: Values
    beta: Values
    mask: Values


class Errors(NamedTuple):
    """Relative errors that are the same for all tokens.

    Attributes:
        decay: Of a decay, and of one multiplication by it or by a product of several.
        key: Of each element of q and k.
        sum: Of a sum over a key's elements and over the tokens of a chunk.
    """

    decay: float
    key: float
    sum: float


def expected(
    problem: DeltaProblem, operands: Sequence[mx.array], factors: Factors
) -> tuple[Expected, ...]:
    """Return y, the last state and those asked for."""
    given = {
        name: np.array(one) if name == "mask" else to_numpy(one)
        for name, one in zip(problem.operand_names, operands, strict=True)
    }
    with np.errstate(all="ignore"):
        return _recurrence(problem, given, float(factors[0]))


def _recurrence(
    problem: DeltaProblem, given: dict[str, Values], scale: float
) -> tuple[Expected, ...]:
    tokens, errors = all_tokens(problem, given), _errors(problem)
    state = given.get("initial_state", np.zeros(problem.state_shape))
    error = np.zeros(problem.state_shape[:3])
    magnitude, added = length(state), np.zeros(problem.state_shape[:3])
    rows: list[tuple[Values, Values]] = []
    states: list[tuple[Values, Values]] = []
    for t in range(problem.length):
        token = Token(*(x[:, t] for x in tokens))
        if t % CHUNK == 0:
            magnitude, added = length(state), np.zeros(error.shape)
        after, new = step(token, state)
        kept = token.mask[:, None, None]
        decay = np.abs(token.gamma).max(axis=-1)[..., None]
        added = np.where(kept, np.hypot(decay * added, new), added)
        more = grown(problem, token, errors, new, error, magnitude)
        error = np.where(kept, more[0], error)
        magnitude = np.where(kept, more[1], magnitude)
        state = np.where(kept[..., None], after, state)
        y = scale * (state @ token.q[..., None])[..., 0]
        off = (
            abs(scale)
            * length(token.q)[..., None]
            * (error + (errors.sum + errors.key) * (magnitude + error))
        )
        off = SECOND_ORDER * off + 2 * U32 * abs(y) + FLOAT32.smallest_step
        rows.append((np.where(kept, y, 0.0), np.where(kept, off, 0.0)))
        if not problem.vector_gate and ((t + 1) % CHUNK == 0 or t + 1 == problem.length):
            error = error + SECOND_ORDER * MIXED * _chunk_length(tokens, t) * added
        if problem.every and (t + 1) % problem.every == 0:
            states.append((state, error))
    return _results(problem, rows, states, (state, error))


def _chunk_length(tokens: Token, t: int) -> Values:
    """Return the length of all keys up to token t of its chunk, as those of a row."""
    chunk = slice(t - t % CHUNK, t + 1)
    seen = np.where(tokens.mask[:, chunk, None, None], tokens.k[:, chunk], 0.0)
    return np.asarray(np.sqrt((seen * seen).sum(axis=(1, 3)))[..., None])


def _results(
    problem: DeltaProblem,
    rows: list[tuple[Values, Values]],
    states: list[tuple[Values, Values]],
    last: tuple[Values, Values],
) -> tuple[Expected, ...]:
    y, *others = (one.shape for one in problem.results)
    value, bound = _stacked(rows, y)
    found = [Expected(value=value, bound=bound + rounding(value, problem.y))]
    state, error = last
    found.append(Expected(value=state, bound=np.broadcast_to(error[..., None], state.shape)))
    if problem.every:
        value, bound = _stacked(
            [(s, np.broadcast_to(e[..., None], s.shape)) for s, e in states], others[1]
        )
        found.append(Expected(value=value, bound=bound))
    return tuple(found)


def _stacked(pairs: list[tuple[Values, Values]], shape: tuple[int, ...]) -> tuple[Values, Values]:
    if not pairs:
        return np.zeros(shape), np.zeros(shape)
    values, bounds = zip(*pairs, strict=True)
    return np.stack(values, axis=1), np.stack(bounds, axis=1)


def all_tokens(problem: DeltaProblem, given: dict[str, Values]) -> Token:
    """Return the operands of all tokens, as they are multiplied."""
    q, k = (np.repeat(given[name], problem.group, axis=2) for name in ("q", "k"))
    if problem.normalize:
        q, k = (x / np.sqrt((x * x).sum(axis=-1, keepdims=True) + EPSILON) for x in (q, k))
        q = q * problem.key_dim**-0.5
    gamma = np.exp(given["gamma"]) if problem.log_decay else given["gamma"]
    mask = given.get("mask", np.ones((problem.batch, problem.length), dtype=bool))
    wide = gamma if problem.vector_gate else gamma[..., None]
    return Token(q=q, k=k, v=given["v"], gamma=wide, beta=given["beta"], mask=mask)


def _errors(problem: DeltaProblem) -> Errors:
    return Errors(
        decay=2 * U32 + (EXP_ERROR if problem.log_decay else 0.0),
        key=(problem.key_dim / 2 + 8) * U32 if problem.normalize else 0.0,
        sum=(problem.key_dim + CHUNK + 4) * U32,
    )


def step(token: Token, state: Values) -> tuple[Values, Values]:
    """Return the state after a token, and by how much k's multiples are in it."""
    decayed = state * token.gamma[:, :, None]
    remembered = (decayed @ token.k[..., None])[..., 0]
    new = token.beta[..., None] * (token.v - remembered)
    return decayed + new[..., None] * token.k[:, :, None], new


def grown(
    problem: DeltaProblem,
    token: Token,
    errors: Errors,
    new: Values,
    error: Values,
    magnitude: Values,
) -> tuple[Values, Values]:
    """Return the error and the magnitude of each row of the state after a token.

    Args:
        problem: The update.
        token: The token.
        errors: Of all tokens.
        new: By how much the key's multiples are in the state.
        error: Of each row of the state before it, as a length.
        magnitude: Likewise of all terms of each row.
    """
    decay = np.abs(token.gamma).max(axis=-1)[..., None]
    key, beta = length(token.k)[..., None], np.abs(token.beta)[..., None]
    norm = np.maximum(1.0, np.abs(1.0 - token.beta[..., None] * key**2))
    before = decay * magnitude
    carried = decay * error + errors.decay * decay * (magnitude + error)
    remembered = key * (errors.sum + errors.key) * (before + carried)
    added = key * np.abs(new)
    after = before + added
    own = key * beta * remembered + (5 * U32 + errors.key) * added + 3 * U32 * after
    flushed = (problem.key_dim + CHUNK) * FLOAT32.smallest_step * (1 + key) * (1 + beta * key)
    return norm * carried + SECOND_ORDER * own + flushed, after


def length(x: Values) -> Values:
    """Return the length of each vector along the last axis."""
    return np.asarray(np.sqrt((x * x).sum(axis=-1)))


def draw(problem: DeltaProblem | DeltaGradientProblem, data: Data) -> list[mx.array]:
    """Return operands: keys about as long as they are once normalised, and decays up to 1.

    Exact ones begin one element into their buffers; keys have one element that is not 0, and every
    number is a small integer, so that a state that is lost or taken from elsewhere shows. Hard ones
    have one key for all tokens, and a beta and a decay with which errors last.
    """
    random = np.random.default_rng(data.seed)
    update = problem if isinstance(problem, DeltaProblem) else problem.update
    found = {one.name: _drawn(update, one, data, random) for one in problem.operands}
    if isinstance(data, GateData):
        found["beta"][:] = data.beta
        if data.resets:
            _forget_an_element(**found)
    if isinstance(data, UndefinedData):
        found["v"][0, RESET, 0, 1] = mx.nan
    return [as_view(x) if data.exact else x for x in found.values()]


def _forget_an_element(
    *, k: mx.array, v: mx.array, gamma: mx.array, beta: mx.array, **_: mx.array
) -> None:
    """Change hard operands: the first token leaves much in an element of a state, until `RESET`."""
    k[:, 0] = mx.arange(k.shape[-1]) == 0
    v[:, 0] *= 1e6
    beta[:, 0] = 1
    beta[:, 1:RESET] = 0
    gamma[:, RESET, ..., 0] = 0


def _drawn(
    problem: DeltaProblem, operand: Operand, data: Data, random: np.random.Generator
) -> mx.array:
    shape, name = operand.shape, operand.name
    if name == "mask":
        return mx.array(random.random(shape) < 0.7)
    if isinstance(data, HardData) and name in HARD_GATES:
        value = HARD_GATES[name]
        logarithm = name == "gamma" and problem.log_decay
        return as_array(np.full(shape, np.log(value) if logarithm else value), operand.dtype)
    if name in ("gamma", "beta"):
        top = 1 if name == "gamma" else 2
        values = random.integers(0, top + 1, shape) if data.exact else top * random.random(shape)
        if name == "gamma" and problem.log_decay:
            values = np.log(np.maximum(values, 1e-20))
        return as_array(values * 1.0, operand.dtype)
    if not data.exact:
        spread = data.amplitude if name == "v" else 1.0
        if name in ("q", "k"):
            spread = problem.key_dim**-0.5
        values = spread * random.standard_normal(shape)
        if isinstance(data, HardData) and name == "k":
            values[:] = values[:, :1] / length(values[:, :1])[..., None]
        return as_array(values, operand.dtype)
    values = random.integers(-2, 3, shape)
    if name == "k":
        at = random.integers(0, shape[-1], (*shape[:-1], 1))
        values = np.where(np.arange(shape[-1]) == at, random.choice([-1, 1], at.shape), 0)
    return as_array(values * 1.0, operand.dtype)

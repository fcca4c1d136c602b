"""Gated delta updates by MLX's own ops: for the ``mlx`` backend and for what no kernel serves.

Same semantics as the kernels: float32 throughout, gates included, and one rounding of y. MLX's own
op is called in float32, so that it rounds no gate, and where it steps through tokens one by one: in
chunks, on a GPU, it takes a decay below 1e-6 for 1e-6 and inverts a matrix by powers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import mlx.core as mx

from ...backends import StreamOrDevice, device_type
from ...call.transforms import on
from ...core import mlx_ops
from ...core.problem import Factors
from ...core.tracing import is_shapeless
from ...errors import BackendError
from .key import NAME
from .problem import DeltaProblem

if TYPE_CHECKING:
    from ...core.family import Run

EPSILON = 1e-6
"""Added to the sum of squares that q and k are normalised by."""

STEPWISE = 8
"""Tokens up to which MLX's kernel goes one by one."""

SPAN = 64
"""Tokens whose steps are in memory at once while a gradient is computed."""


def delta(problem: DeltaProblem) -> Run:
    """Return the call for the operands that the problem names."""
    return partial(_by_mlx, problem, problem.length)


def checkpointed(problem: DeltaProblem) -> Run:
    """Return the same call, whose gradients keep no more than a state for each `SPAN` tokens."""
    return partial(_by_mlx, problem, SPAN)


def _by_mlx(
    problem: DeltaProblem,
    span: int,
    operands: Sequence[mx.array],
    factors: Factors,
    stream: StreamOrDevice,
) -> list[mx.array]:
    if is_shapeless():
        raise BackendError(
            f"[{NAME}] Expected sizes that stay, got those of mx.compile(shapeless=True): the rule "
            "is a step for each token."
        )
    with on(stream):
        tokens, state = _prepared(problem, dict(zip(problem.operand_names, operands, strict=True)))
        if problem.is_empty:
            return _unchanged(problem, state)
        update = _update(problem, stream)
        if span < problem.length:
            update = mx.checkpoint(update)
        y, state, states = _in_spans(problem, update, tokens, state, span)
        out = (y * float(factors[0])).astype(problem.y.mlx)
        if not problem.every:
            return [out, state]
        none = mx.zeros(problem.states_shape)
        return [out, state, mx.stack(states, axis=1) if states else none]


def _prepared(problem: DeltaProblem, given: dict[str, mx.array]) -> tuple[list[mx.array], mx.array]:
    """Return what has an axis of tokens, in float32 but for the mask, and the state."""
    names = ("q", "k", "v", "gamma", "beta")
    q, k, v, gamma, beta = (seen(given, name).astype(mx.float32) for name in names)
    q, k, gamma = multiplied(problem, q, k, gamma)
    state = given["initial_state"] if problem.state else mx.zeros(problem.state_shape)
    return [q, k, v, gamma, beta, *([given["mask"]] if problem.mask else [])], state


def seen(given: dict[str, mx.array], name: str) -> mx.array:
    """Return an operand with 0 at masked tokens: gradients would take what is not finite there."""
    x = given[name]
    if "mask" not in given:
        return x
    return mx.where(mx.expand_dims(given["mask"], [*range(2, x.ndim)]), x, 0.0)


def multiplied(problem: DeltaProblem, q: mx.array, k: mx.array, gamma: mx.array) -> list[mx.array]:
    """Return q, k and the decays as they are multiplied, from what was given in float32."""
    if problem.normalize:
        q, k = _normalized(q) * problem.key_dim**-0.5, _normalized(k)
    return [q, k, mx.exp(gamma) if problem.log_decay else gamma]


def _normalized(x: mx.array) -> mx.array:
    return x * mx.rsqrt(mx.sum(x * x, axis=-1, keepdims=True) + EPSILON)


def _unchanged(problem: DeltaProblem, state: mx.array) -> list[mx.array]:
    """Return the results where there is no token, or nothing to a head."""
    y, _, *states = problem.results
    shapes = [one.shape for one in states]
    rest = [mx.broadcast_to(mx.expand_dims(state, 1), shape) for shape in shapes]
    return [mx.zeros(y.shape, dtype=y.dtype.mlx), state, *rest]


Update = Callable[..., list[mx.array]]
"""From what has an axis of tokens, and the state, to y and the state after the last token."""


def _in_spans(
    problem: DeltaProblem,
    update: Update,
    tokens: list[mx.array],
    state: mx.array,
    span: int,
) -> tuple[mx.array, mx.array, list[mx.array]]:
    """Return y, the last state and those asked for, so many tokens at a time."""
    ys, states = [], []
    start = 0
    while start < problem.length:
        end = min(start + span, problem.length)
        if problem.every:
            end = min(end, (start // problem.every + 1) * problem.every)
        y, state = update(*(x[:, start:end] for x in tokens), state)
        ys.append(y)
        if problem.every and end % problem.every == 0:
            states.append(state)
        start = end
    return (ys[0] if len(ys) == 1 else mx.concatenate(ys, axis=1)), state, states


def _update(problem: DeltaProblem, stream: StreamOrDevice) -> Update:
    device = mx.default_device().type if stream is None else device_type(stream)
    fused = mlx_ops.gated_delta_update
    if fused is None or (device is mx.gpu and not fused_is_exact(problem)):
        # On a CPU MLX would look for a C++ compiler, for nothing.
        return partial(_written_out, _compiled_step if device is mx.gpu else _step)

    def call(*arrays: mx.array) -> list[mx.array]:
        q, k, v, gamma, beta, *mask, state = arrays
        found: list[mx.array] = fused(q, k, v, gamma, beta, state, *mask)
        return found

    return call


def fused_is_exact(problem: DeltaProblem) -> bool:
    """Whether MLX's kernel goes through tokens one by one, and knows the kind of gate."""
    return not problem.vector_gate and problem.length <= STEPWISE


def _written_out(step: _Step, *arrays: mx.array) -> list[mx.array]:
    """Return y and the last state, token by token."""
    *tokens, state = arrays
    group = tokens[2].shape[2] // tokens[0].shape[2]
    if group > 1:
        tokens[:2] = [mx.repeat(x, group, axis=2) for x in tokens[:2]]
    ys = []
    for t in range(tokens[0].shape[1]):
        y, state = step([x[:, t] for x in tokens], state)
        ys.append(y)
    return [mx.stack(ys, axis=1), state]


_Step = Callable[[list[mx.array], mx.array], tuple[mx.array, mx.array]]
"""From what one token has, and the state, to y and the state after it."""


def _step(token: list[mx.array], state: mx.array) -> tuple[mx.array, mx.array]:
    q, k, v, gamma, beta, *mask = token
    decay = gamma[..., None, None] if gamma.ndim == 2 else gamma[..., None, :]
    before, state = state, state * decay
    remembered = mx.sum(state * k[..., None, :], axis=-1)
    new = (v - remembered) * beta[..., None]
    state = state + new[..., None] * k[..., None, :]
    y = mx.sum(state * q[..., None, :], axis=-1)
    if mask:
        state = mx.where(mask[0][:, None, None, None], state, before)
        y = mx.where(mask[0][:, None, None], y, 0.0)
    return y, state


_compiled_step: _Step = mx.compile(_step)
"""The same with fewer kernels: those of a step are most of its time on a GPU."""

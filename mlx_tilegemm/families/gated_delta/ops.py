"""The public operation on gated delta nets: arrays in, arrays out."""

from __future__ import annotations

import mlx.core as mx

from ...backends import StreamOrDevice, resolved_backend
from ...core.arguments import as_array, as_flag, as_number, as_whole, check_out_dtype
from ...core.context import current_settings
from ...core.fast_path import Served, serve_every, with_fast_path
from ...core.tracing import is_traced
from .key import NAME, DeltaKey, delta_call

ARRAYS = ("q", "k", "v", "gamma", "beta", "initial_state", "mask", "lengths")
"""Arguments that may be arrays."""


@with_fast_path(*ARRAYS)
def gated_delta_update(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    gamma: mx.array,
    beta: mx.array,
    initial_state: mx.array | None = None,
    mask: mx.array | None = None,
    stream: StreamOrDevice = None,
    *,
    scale: float | mx.array = 1.0,
    log_decay: bool = False,
    normalize: bool = False,
    every: int | None = None,
    lengths: mx.array | None = None,
    out_dtype: mx.Dtype | None = None,
) -> Served[list[mx.array]]:
    """Run the gated delta rule over the tokens of sequences, as `mx.fast.gated_delta_update`.

    For every token, with the state S of a head: ``S = gamma * S``, then
    ``S = S + beta * outer(v - S @ k, k)``, then ``y = scale * S @ q``. Everything is computed in
    float32 from operands of their own dtypes, gates included; y is rounded once. The rule is that
    of Yang et al., "Gated Delta Networks" (2024); with a gamma for each element of a key it is that
    of Kimi Delta Attention (2025).

    Args:
        q: ``[B, T, Hk, Dk]`` of float32, float16 or bfloat16, as all operands but the last ones.
        k: ``[B, T, Hk, Dk]``.
        v: ``[B, T, Hv, Dv]``; Hv is a multiple of Hk, and head h reads head ``h // (Hv // Hk)``.
        gamma: ``[B, T, Hv]``, or ``[B, T, Hv, Dk]`` for a decay of each element of a key.
        beta: ``[B, T, Hv]``, from 0 to 2 for a state that does not grow.
        initial_state: ``[B, Hv, Dv, Dk]``; None is zero.
        mask: ``[B, T]``; where it is False a token leaves the state as it is, and its y is 0.
        stream: Stream or device of the call; None is the default one.
        scale: Factor of y, a number or an array of one.
        log_decay: Whether ``gamma`` is the logarithm of the decay.
        normalize: Divide q and k by ``sqrt(sum(x * x) + 1e-6)``, and q by ``sqrt(Dk)`` besides, as
            mlx-lm does before it calls its own.
        every: Also return the states after each so many tokens.
        lengths: ``[B]`` of integers: tokens from there on are masked.
        out_dtype: Dtype of y; None is MLX's promotion of q, k and v.

    Returns:
        y, ``[B, T, Hv, Dv]``, and the last state, ``[B, Hv, Dv, Dk]`` of float32. With ``every``
        the states ``[B, T // every, Hv, Dv, Dk]`` besides.

    Raises:
        ProblemError: Shapes or options that do not fit together (a `ValueError`).
        DTypeError: Arguments of the wrong kind or dtype (a `TypeError`).

    Example:
        >>> q, k = (mx.random.normal((1, 20, 2, 64)).astype(mx.bfloat16) for _ in range(2))
        >>> v = mx.random.normal((1, 20, 4, 32)).astype(mx.bfloat16)
        >>> gamma, beta = (mx.random.uniform(shape=(1, 20, 4)) for _ in range(2))
        >>> y, state = gated_delta_update(q, k, v, gamma, beta, normalize=True)
        >>> y.shape, y.dtype, state.shape
        ((1, 20, 4, 32), mlx.core.bfloat16, (1, 4, 32, 64))
    """
    given = {
        name: value if type(value) is mx.array else as_array(NAME, name, value)
        for name, value in (
            ("q", q),
            ("k", k),
            ("v", v),
            ("gamma", gamma),
            ("beta", beta),
            ("initial_state", initial_state),
            ("mask", mask),
            ("lengths", lengths),
        )
        if value is not None or name in _REQUIRED
    }
    if type(log_decay) is not bool:
        log_decay = as_flag(NAME, "log_decay", log_decay)
    if type(normalize) is not bool:
        normalize = as_flag(NAME, "normalize", normalize)
    if every is not None and type(every) is not int:
        every = as_whole(NAME, "every", every)
    if out_dtype is not None and type(out_dtype) is not mx.Dtype:
        check_out_dtype(NAME, out_dtype)
    settings = current_settings()
    key = DeltaKey(
        arrays=tuple((name, (one.shape, one.dtype)) for name, one in given.items()),
        log_decay=log_decay,
        normalize=normalize,
        every=every,
        out_dtype=out_dtype,
        backend=resolved_backend(stream, settings),
        settings=settings,
    )
    if isinstance(scale, mx.array) and scale.size == 1 and is_traced():
        return None, _scaled(key, [*given.values()], scale, stream)
    factors = (float(as_number(NAME, "scale", scale)),)
    return serve_every(delta_call(key), [given.get(name) for name in ARRAYS], factors, stream)


def _scaled(
    key: DeltaKey, operands: list[mx.array], scale: mx.array, stream: StreamOrDevice
) -> list[mx.array]:
    """Return the results of a call with a scale that has derivatives of its own."""
    natural = mx.result_type(*(dtype for _, (_, dtype) in key.arrays[:3]))
    wide = delta_call(key._replace(out_dtype=mx.float32))
    y, *states = wide(operands, (1.0,), stream)
    factor = mx.reshape(scale, (), stream=stream).astype(mx.float32, stream=stream)
    product = mx.multiply(y, factor, stream=stream)
    return [product.astype(key.out_dtype or natural, stream=stream), *states]


_REQUIRED = frozenset(("q", "k", "v", "gamma", "beta"))

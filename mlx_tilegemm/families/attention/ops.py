"""The public operation on attentions: arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, overload

import mlx.core as mx

from ...backends import Backend, StreamOrDevice, is_on_gpu, resolved_backend
from ...call.transforms import as_factor
from ...core.arguments import as_array, as_flag, as_whole, check_out_dtype
from ...core.context import Settings, current_settings, is_exact
from ...core.fast_path import Served, serve_every, serve_first, with_fast_path
from .key import (
    EXACT,
    REDUCED,
    WITH_LSE,
    WITHOUT_LSE,
    AnyLengthKey,
    Exact,
    Extras,
    any_length_call,
    attention_call,
)

ARRAYS = ("q", "k", "v", "q_pe", "k_pe", "mask", "sinks")
"""Arguments that may be arrays, in the order of the kernels' operands."""


@overload
def attention_chain(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    *,
    scale: float | mx.array | None = None,
    softmax: bool = True,
    mask: Literal["causal"] | mx.array | None = None,
    window: int | None = None,
    sinks: mx.array | None = None,
    q_pe: mx.array | None = None,
    k_pe: mx.array | None = None,
    return_lse: Literal[False] = False,
    out_dtype: mx.Dtype | None = None,
    precision: str | None = None,
    stream: StreamOrDevice = None,
) -> mx.array: ...


@overload
def attention_chain(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    *,
    scale: float | mx.array | None = None,
    softmax: bool = True,
    mask: Literal["causal"] | mx.array | None = None,
    window: int | None = None,
    sinks: mx.array | None = None,
    q_pe: mx.array | None = None,
    k_pe: mx.array | None = None,
    return_lse: Literal[True],
    out_dtype: mx.Dtype | None = None,
    precision: str | None = None,
    stream: StreamOrDevice = None,
) -> tuple[mx.array, mx.array]: ...


@with_fast_path(*ARRAYS, often=("scale", "mask"))
def attention_chain(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    *,
    scale: float | mx.array | None = None,
    softmax: bool = True,
    mask: str | mx.array | None = None,
    window: int | None = None,
    sinks: mx.array | None = None,
    q_pe: mx.array | None = None,
    k_pe: mx.array | None = None,
    return_lse: bool = False,
    out_dtype: mx.Dtype | None = None,
    precision: str | None = None,
    stream: StreamOrDevice = None,
) -> Served[mx.array | tuple[mx.array, mx.array]]:
    """Chain two products in one kernel: ``softmax(scale * q @ k.T + mask) @ v``.

    The scores stay in float32 registers from the first product into the second. Each operand keeps
    its own dtype; neither k and v nor their heads are copied.

    Args:
        q: ``[B, Hq, Lq, D]`` of float32, float16 or bfloat16. Integers and bools beside floats are
            promoted as in MLX, here and in the other operands.
        k: ``[B, Hkv, Lk, D]``; Hq is a multiple of Hkv.
        v: ``[B, Hkv, Lk, Dv]``.
        scale: Factor of the scores, a number or an array of one. None is ``(D + Dp)**-0.5`` with
            the softmax and 1 without.
        softmax: False gives the literal chain ``(scale * q @ k.T) @ v``.
        mask: None; ``"causal"``, aligned to the last position of both sequences as in MLX; a bool
            array, True where a score counts; or a floating point array that is added to the
            scores. Arrays broadcast to ``[B, Hq, Lq, Lk]``. Without the softmax, scores that do
            not count are 0. With it, a row with nothing to attend to is 0 and its log-sum-exp
            -inf.
        window: Keys that a row sees at most, the one at its own position and those before it;
            only with ``mask="causal"``. None for all.
        sinks: ``[Hq]``, floating point: one further score for every row of a head, not scaled,
            that takes part in the softmax and the log-sum-exp and has no value.
        q_pe: ``[B, Hq, Lq, Dp]``, the positional part of q where it is kept apart: the scores are
            then ``scale * (q @ k.T + q_pe @ k_pe.T)``, and nothing is concatenated.
        k_pe: ``[B, Hkv, Lk, Dp]``, or ``[B, 1, Lk, Dp]`` for all heads.
        return_lse: Also return the natural log-sum-exp of every row; needs the softmax.
        out_dtype: Result dtype; None is MLX's promotion of q, k, v, q_pe and k_pe.
        precision: ``"float32"`` to multiply float32, the weights of the softmax included, with all
            its bits where MLX would round it; None for what a block of `use_precision`, or else
            MLX's own switch for TF32 says.
        stream: Stream or device of the call; None is the default one.

    Returns:
        ``[B, Hq, Lq, Dv]``, or that and the log-sum-exp ``[B, Hq, Lq]`` in float32.

    Raises:
        ProblemError: Shapes or options that do not fit together (a `ValueError`).
        DTypeError: Arguments of the wrong kind or dtype (a `TypeError`).
        BackendError: ``precision="float32"`` where only MLX's ops serve, and round (a
            `RuntimeError`).

    Example:
        >>> q = mx.random.normal((1, 8, 128, 64)).astype(mx.float16)
        >>> k = mx.random.normal((1, 2, 128, 64)).astype(mx.bfloat16)
        >>> v = mx.random.normal((1, 2, 128, 64))
        >>> attention_chain(q, k, v, mask="causal").shape
        (1, 8, 128, 64)
    """
    if type(q) is not mx.array:
        q = as_array("attention_chain", "q", q)
    if type(k) is not mx.array:
        k = as_array("attention_chain", "k", k)
    if type(v) is not mx.array:
        v = as_array("attention_chain", "v", v)
    operands: tuple[mx.array, ...] = (q, k, v)
    extras: Extras = ()
    mask_name = None
    if mask is None or isinstance(mask, str):
        mask, mask_name = None, mask
    if mask is not None or sinks is not None or q_pe is not None or k_pe is not None:
        given, extras = _extra_operands(q_pe=q_pe, k_pe=k_pe, mask=mask, sinks=sinks)
        operands += given
    if scale is not None and type(scale) is not float:
        scale, operands, out_dtype = _scale(scale, operands, extras, out_dtype)
        q = operands[0]
        extras = tuple(
            (name, x.shape, x.dtype) for (name, *_), x in zip(extras, operands[3:], strict=True)
        )
    if type(softmax) is not bool:
        softmax = as_flag("attention_chain", "softmax", softmax)
    if type(return_lse) is not bool:
        return_lse = as_flag("attention_chain", "return_lse", return_lse)
    if window is not None:
        window = as_whole("attention_chain", "window", window)
    if out_dtype is not None and type(out_dtype) is not mx.Dtype:
        check_out_dtype("attention_chain", out_dtype)
    settings = current_settings()
    full = EXACT if is_exact("attention_chain", precision, settings) else REDUCED
    backend = resolved_backend(stream, settings)
    asks_more = extras or return_lse or not softmax or type(scale) not in (float, type(None))
    if not asks_more and window is None and out_dtype is None and stream is None:
        call = _of_any_length(q, k, v, mask_name, scale, full, backend, settings)
        if call is not None:
            return call, call(q, k, v)
    run, factors = attention_call(
        q.shape,
        q.dtype,
        k.shape,
        k.dtype,
        v.shape,
        v.dtype,
        extras,
        mask_name,
        window,
        softmax,
        WITH_LSE if return_lse else WITHOUT_LSE,
        out_dtype,
        full,
        backend,
        settings,
    )
    by_name = dict(zip(("q", "k", "v", *(name for name, *_ in extras)), operands, strict=True))
    arrays = [by_name.get(name) for name in ARRAYS]
    factors = factors if scale is None else (scale,)
    if return_lse:
        return _pair(serve_every(run, arrays, factors, stream))
    return serve_first(run, arrays, factors, stream)


def _of_any_length(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    mask_name: str | None,
    scale: float | None,
    exact: Exact,
    backend: Backend | None,
    settings: Settings,
) -> Callable[..., mx.array] | None:
    """Return the call of MLX's op for few queries, kept for all lengths of a cache that are alike.

    A model that generates asks for another length with every token.
    """
    if not (q.ndim == k.ndim == v.ndim == 4 and k.shape[2] == v.shape[2] and is_on_gpu(None)):
        return None
    if settings.kernel or settings.recorder or settings.stand_in or settings.batched:
        return None
    # Imported at the first call, as what a call is prepared by is.
    from .problem import has_few_queries, most_alike

    batch, heads, keys, depth = k.shape
    if not has_few_queries(q.shape[2], keys):
        return None
    most = most_alike(q.shape[2], keys)
    k_most, v_most = (batch, heads, most, depth), (*v.shape[:2], most, v.shape[3])
    stated = ((q.shape, q.dtype), (k_most, k.dtype), (v_most, v.dtype))
    return any_length_call(AnyLengthKey(*stated, mask_name, scale, exact, backend, settings))


def _pair(served: Served[list[mx.array]]) -> Served[tuple[mx.array, mx.array]]:
    """Return what serves an op of two results, as a tuple."""
    call, outputs = served

    def pair(*arrays: mx.array) -> tuple[mx.array, mx.array]:
        assert call is not None
        found = call(*arrays)
        return found[0], found[1]

    return pair if call else None, (outputs[0], outputs[1])


def _extra_operands(**values: object) -> tuple[tuple[mx.array, ...], Extras]:
    """Return the arrays among ``values``, and each one's name, shape and dtype."""
    arrays, extras = [], []
    for name, value in values.items():
        if value is None:
            continue
        array = as_array("attention_chain", name, value)
        arrays.append(array)
        extras.append((name, array.shape, array.dtype))
    return tuple(arrays), tuple(extras)


def _scale(
    scale: object, operands: tuple[mx.array, ...], extras: Extras, out_dtype: mx.Dtype | None
) -> tuple[float, tuple[mx.array, ...], mx.Dtype | None]:
    """Return a scale that is a number, and the operands and the result dtype that go with it."""
    names = ["q", "k", "v", *(name for name, *_ in extras)]
    scaled = [i for i, name in enumerate(names) if name in ("q", "q_pe")]
    given = [operands[i] for i in scaled]
    number, made = as_factor("attention_chain", "scale", scale, given)
    if all(x is y for x, y in zip(made, given, strict=True)):
        return float(number), operands, out_dtype
    natural = mx.result_type(*(x for x, name in zip(operands, names, strict=True) if name in _DATA))
    arrays = dict(enumerate(operands)) | dict(zip(scaled, made, strict=True))
    return float(number), tuple(arrays.values()), out_dtype or natural


_DATA = ("q", "k", "v", "q_pe", "k_pe")

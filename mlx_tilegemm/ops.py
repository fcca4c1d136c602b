"""The public operations: arrays in, arrays out.

An op checks what its arguments are, looks up the call prepared for their shapes, dtypes and
options, and makes it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, overload

import mlx.core as mx

from .arguments import Number, as_array, as_number, default_scale
from .backends import StreamOrDevice, resolve
from .context import forced_kernel, gradients_enabled, recorder
from .dtypes import INTEGERS
from .errors import DTypeError, ProblemError

if TYPE_CHECKING:
    from .backends.launch import Run


def matmul(
    a: mx.array,
    b: mx.array,
    /,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    out_dtype: mx.Dtype | None = None,
    batch_invariant: bool = False,
    stream: StreamOrDevice = None,
) -> mx.array:
    """Multiply matrices of any two dtypes without casting either into a copy.

    Shapes are those of `mx.matmul`: the last two axes are the matrices, the others broadcast; a 1-D
    ``a`` is a row and a 1-D ``b`` a column whose axis the result lacks. Floats accumulate in
    float32 and are rounded once; integers are exact modulo 2^32.

    Args:
        a: ``[..., m, k]``, or ``[..., k, m]`` with ``transpose_a``, of float32, float16 or
            bfloat16, or of int8, uint8, int16 or int32. complex64 and float64 are served by
            `mx.matmul`.
        b: ``[..., k, n]``, or ``[..., n, k]`` with ``transpose_b``; floating point exactly if ``a``
            is.
        transpose_a: Swap the last two axes of ``a`` as it is read; no copy is made, unlike ``a.T``.
        transpose_b: Likewise for ``b``: takes the ``[n, k]`` weight of a linear layer as it is.
        out_dtype: Result dtype. None is MLX's promotion (float16 with bfloat16 is float32), and
            int32 for integers.
        batch_invariant: Choose among kernels in which a row of the result is the same, bit for
            bit, however many rows there are; other kernels may be faster.
        stream: Stream or device of the call; None is the default one.

    Returns:
        ``[..., m, n]``.

    Raises:
        ProblemError: Shapes that do not fit together (a `ValueError`).
        DTypeError: Arguments that are not arrays, a float with an integer, or a dtype that the op
            does not take (a `TypeError`).

    Example:
        >>> x = mx.random.normal((5, 300)).astype(mx.float16)
        >>> w = mx.random.normal((70, 300))
        >>> y = matmul(x, w, transpose_b=True)
        >>> y.shape, y.dtype
        ((5, 70), mlx.core.float32)
    """
    if type(a) is not mx.array:
        a = as_array("matmul", "a", a)
    if type(b) is not mx.array:
        b = as_array("matmul", "b", b)
    call = _gemm_call(
        "matmul",
        a.shape,
        a.dtype,
        b.shape,
        b.dtype,
        None,
        None,
        transpose_a,
        transpose_b,
        out_dtype,
        False,
        batch_invariant,
        resolve(stream).backend,
        forced_kernel(),
        gradients_enabled(),
        recorder(),
    )
    return call((a, b), (1.0, 1.0), stream)[0]


def addmm(
    c: mx.array,
    a: mx.array,
    b: mx.array,
    /,
    *,
    alpha: Number = 1.0,
    beta: Number = 1.0,
    transpose_a: bool = False,
    transpose_b: bool = False,
    out_dtype: mx.Dtype | None = None,
    batch_invariant: bool = False,
    stream: StreamOrDevice = None,
) -> mx.array:
    """Return ``alpha * (a @ b) + beta * c`` in one kernel, rounded once.

    Args:
        c: The addend; broadcasts to the result and may have a dtype of its own.
        a: As in `matmul`.
        b: As in `matmul`.
        alpha: Factor of the product; a whole number for integers.
        beta: Factor of ``c``; a whole number for integers.
        transpose_a: As in `matmul`.
        transpose_b: As in `matmul`.
        out_dtype: Result dtype; None is MLX's promotion of all three operands.
        batch_invariant: As in `matmul`.
        stream: Stream or device of the call; None is the default one.

    Returns:
        ``[..., m, n]``.

    Raises:
        ProblemError: Shapes that do not fit together (a `ValueError`).
        DTypeError: As in `matmul`, or factors that are not real numbers (a `TypeError`).

    Example:
        >>> bias = mx.zeros((70,))
        >>> y = addmm(bias, x, w, transpose_b=True)
    """
    if type(c) is not mx.array:
        c = as_array("addmm", "c", c)
    if type(a) is not mx.array:
        a = as_array("addmm", "a", a)
    if type(b) is not mx.array:
        b = as_array("addmm", "b", b)
    if type(alpha) is not float:
        alpha = as_number("addmm", "alpha", alpha)
    if type(beta) is not float:
        beta = as_number("addmm", "beta", beta)
    if c.dtype in _INTEGERS:
        alpha, beta = _whole("alpha", alpha), _whole("beta", beta)
    call = _gemm_call(
        "addmm",
        a.shape,
        a.dtype,
        b.shape,
        b.dtype,
        c.shape,
        c.dtype,
        transpose_a,
        transpose_b,
        out_dtype,
        alpha != 1.0,
        batch_invariant,
        resolve(stream).backend,
        forced_kernel(),
        gradients_enabled(),
        recorder(),
    )
    return call((a, b, c), (alpha, beta), stream)[0]


@overload
def attention_chain(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    /,
    *,
    scale: float | None = None,
    softmax: bool = True,
    mask: Literal["causal"] | mx.array | None = None,
    window: int | None = None,
    sinks: mx.array | None = None,
    q_pe: mx.array | None = None,
    k_pe: mx.array | None = None,
    return_lse: Literal[False] = False,
    out_dtype: mx.Dtype | None = None,
    stream: StreamOrDevice = None,
) -> mx.array: ...


@overload
def attention_chain(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    /,
    *,
    scale: float | None = None,
    softmax: bool = True,
    mask: Literal["causal"] | mx.array | None = None,
    window: int | None = None,
    sinks: mx.array | None = None,
    q_pe: mx.array | None = None,
    k_pe: mx.array | None = None,
    return_lse: Literal[True],
    out_dtype: mx.Dtype | None = None,
    stream: StreamOrDevice = None,
) -> tuple[mx.array, mx.array]: ...


def attention_chain(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    /,
    *,
    scale: float | None = None,
    softmax: bool = True,
    mask: str | mx.array | None = None,
    window: int | None = None,
    sinks: mx.array | None = None,
    q_pe: mx.array | None = None,
    k_pe: mx.array | None = None,
    return_lse: bool = False,
    out_dtype: mx.Dtype | None = None,
    stream: StreamOrDevice = None,
) -> mx.array | tuple[mx.array, mx.array]:
    """Chain two products in one kernel: ``softmax(scale * q @ k.T + mask) @ v``.

    The scores stay in float32 registers from the first product into the second. Each operand keeps
    its own dtype; neither k and v nor their heads are copied.

    Args:
        q: ``[B, Hq, Lq, D]`` of float32, float16 or bfloat16.
        k: ``[B, Hkv, Lk, D]``; Hq is a multiple of Hkv.
        v: ``[B, Hkv, Lk, Dv]``.
        scale: Factor of the scores. None is ``(D + Dp)**-0.5`` with the softmax and 1 without.
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
        stream: Stream or device of the call; None is the default one.

    Returns:
        ``[B, Hq, Lq, Dv]``, or that and the log-sum-exp ``[B, Hq, Lq]`` in float32.

    Raises:
        ProblemError: Shapes or options that do not fit together (a `ValueError`).
        DTypeError: Arguments of the wrong kind or dtype (a `TypeError`).

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
    extras: _Extras = ()
    mask_name = None
    if mask is None or isinstance(mask, str):
        mask, mask_name = None, mask
    if mask is not None or sinks is not None or q_pe is not None or k_pe is not None:
        given, extras = _extra_operands(stream, q_pe=q_pe, k_pe=k_pe, mask=mask, sinks=sinks)
        operands += given
    if scale is not None and type(scale) is not float:
        scale = as_number("attention_chain", "scale", scale)
    call = _attention_call(
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
        return_lse,
        out_dtype,
        resolve(stream).backend,
        forced_kernel(),
        gradients_enabled(),
        recorder(),
    )
    if scale is None:
        scale = default_scale(q.shape[3] + (0 if q_pe is None else q_pe.shape[3]), softmax)
    outputs = call(operands, (scale,), stream)
    return (outputs[0], outputs[1]) if return_lse else outputs[0]


_Extras = tuple[tuple[str, tuple[int, ...], mx.Dtype], ...]


def _extra_operands(
    stream: StreamOrDevice, **values: object
) -> tuple[tuple[mx.array, ...], _Extras]:
    """Return the arrays among ``values``, and each one's name, shape and dtype."""
    arrays, extras = [], []
    for name, value in values.items():
        if value is None:
            continue
        array = as_array("attention_chain", name, value)
        if name == "mask" and array.ndim == 0:
            # MLX binds an array without axes as a reference, which the kernels do not expect.
            array = mx.reshape(array, (1,), stream=stream)
        arrays.append(array)
        extras.append((name, array.shape, array.dtype))
    return tuple(arrays), tuple(extras)


_INTEGERS = frozenset(dtype.mlx for dtype in INTEGERS)


def _whole(name: str, value: Number) -> int:
    if isinstance(value, float) and not value.is_integer():
        raise DTypeError(
            f"[addmm] Expected {name} to be a whole number for integer operands, got {value}."
        )
    whole = int(value)
    if not -(2**31) <= whole < 2**31:
        raise ProblemError(f"[addmm] Expected {name} to fit int32, got {whole}.")
    return whole


@lru_cache(maxsize=4096)
def _gemm_call(*key: Any) -> Run:  # noqa: ANN401 - of `prepare_gemm`, and who records
    # Imported at the first call: kernels and chips are most of what importing the package costs.
    from .prepare import prepare_gemm

    return prepare_gemm(*key[:-1])


@lru_cache(maxsize=4096)
def _attention_call(*key: Any) -> Run:  # noqa: ANN401 - of `prepare_attention`, and who records
    from .prepare import prepare_attention

    return prepare_attention(*key[:-1])

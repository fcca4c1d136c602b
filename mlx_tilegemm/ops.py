"""The public operations: arrays in, arrays out.

An op checks what its arguments are, looks up the call prepared for their shapes, dtypes and
options, and makes it. Preparing a call, once for each such key, is where problems are stated and
checked, kernels chosen, rendered and compiled.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from functools import lru_cache, partial
from typing import Literal, overload

import mlx.core as mx

from . import mlx_route
from .arguments import (
    ArraySpec,
    Number,
    as_array,
    as_number,
    attention_request,
    default_scale,
    gemm_request,
)
from .autodiff import (
    differentiable_attention,
    differentiable_gemm,
    differentiable_plan,
    gradients_enabled,
)
from .backends import Backend, StreamOrDevice, resolve
from .backends.launch import Run, kernel_run
from .canary import chosen_plan
from .dispatch import ANY, MLX
from .dtypes import INTEGERS
from .errors import BackendError, DTypeError, IllegalKernelError, ProblemError
from .plan import Plan
from .problem import Problem, Shape

_forced: ContextVar[str | None] = ContextVar("mlx_tilegemm_kernel", default=None)


def use_kernel(name: str | None) -> AbstractContextManager[None]:
    """Force a kernel for the ops called inside a ``with`` block.

    The choice belongs to the running thread or asynchronous task; blocks nest, the innermost wins.
    Gradients of these ops choose their own kernels.

    Args:
        name: A kernel (``"gemm_scalar"``: its best legal configuration), one configuration of it
            (``"gemm_simdgroup/64x64x16-2x2-staged"``), ``"mlx"`` for MLX's own ops, ``"any"`` for
            the best of the kernels even where MLX's ops are modelled to be faster, or None for the
            free choice. An op raises `IllegalKernelError` with the reason if the kernel may not
            serve it.

    Example:
        >>> with use_kernel("gemm_scalar"):
        ...     y = matmul(a, b)
    """
    return _forcing(name)


@contextmanager
def _forcing(name: str | None) -> Iterator[None]:
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


def forced_kernel() -> str | None:
    """Return the kernel that `use_kernel` forces here and now, or None."""
    return _forced.get()


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
        _forced.get(),
        gradients_enabled(),
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
        _forced.get(),
        gradients_enabled(),
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
        scale: Factor of the scores. None is ``D**-0.5`` with the softmax and 1 without.
        softmax: False gives the literal chain ``(scale * q @ k.T) @ v``.
        mask: None; ``"causal"``, aligned to the last position of both sequences as in MLX; a bool
            array, True where a score counts; or a floating point array that is added to the
            scores. Arrays broadcast to ``[B, Hq, Lq, Lk]``. Without the softmax, scores that do
            not count are 0. With it, a row with nothing to attend to is 0 and its log-sum-exp
            -inf.
        return_lse: Also return the natural log-sum-exp of every row; needs the softmax.
        out_dtype: Result dtype; None is MLX's promotion of q, k and v.
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
    mask_shape = mask_dtype = mask_name = None
    if mask is None or isinstance(mask, str):
        mask_name = mask
    else:
        array_mask = as_array("attention_chain", "mask", mask)
        operands = (q, k, v, array_mask)
        mask_shape, mask_dtype = array_mask.shape, array_mask.dtype
    if scale is not None and type(scale) is not float:
        scale = as_number("attention_chain", "scale", scale)
    call = _attention_call(
        q.shape,
        q.dtype,
        k.shape,
        k.dtype,
        v.shape,
        v.dtype,
        mask_name,
        mask_shape,
        mask_dtype,
        softmax,
        return_lse,
        out_dtype,
        resolve(stream).backend,
        _forced.get(),
        gradients_enabled(),
    )
    if scale is None:
        scale = default_scale(q.shape[3], softmax)
    outputs = call(operands, (scale,), stream)
    return (outputs[0], outputs[1]) if return_lse else outputs[0]


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
def _gemm_call(
    op: str,
    a_shape: Shape,
    a_dtype: mx.Dtype,
    b_shape: Shape,
    b_dtype: mx.Dtype,
    c_shape: Shape | None,
    c_dtype: mx.Dtype | None,
    transpose_a: bool,
    transpose_b: bool,
    out_dtype: mx.Dtype | None,
    scaled: bool,
    batch_invariant: bool,
    backend: Backend | None,
    force: str | None,
    gradients: bool,
) -> Run:
    problem = gemm_request(
        op,
        a=ArraySpec(shape=a_shape, dtype=a_dtype),
        b=ArraySpec(shape=b_shape, dtype=b_dtype),
        c=_optional_spec(c_shape, c_dtype),
        transpose_a=transpose_a,
        transpose_b=transpose_b,
        out_dtype=out_dtype,
        scaled=scaled,
        batch_invariant=batch_invariant,
    )
    if problem is None:
        _check_not_forced(op, force)
        return partial(mlx_route.wide_gemm, transpose_a, transpose_b)
    plan = _plan(op, problem, backend, force)
    if plan is None or backend is None:
        return partial(mlx_route.gemm, problem)
    run = kernel_run(plan, backend, last_is_scalar=c_shape == ())
    return differentiable_gemm(run, problem, backend) if gradients else run


@lru_cache(maxsize=4096)
def _attention_call(
    q_shape: Shape,
    q_dtype: mx.Dtype,
    k_shape: Shape,
    k_dtype: mx.Dtype,
    v_shape: Shape,
    v_dtype: mx.Dtype,
    mask_name: str | None,
    mask_shape: Shape | None,
    mask_dtype: mx.Dtype | None,
    softmax: bool,
    return_lse: bool,
    out_dtype: mx.Dtype | None,
    backend: Backend | None,
    force: str | None,
    gradients: bool,
) -> Run:
    problem = attention_request(
        "attention_chain",
        q=ArraySpec(shape=q_shape, dtype=q_dtype),
        k=ArraySpec(shape=k_shape, dtype=k_dtype),
        v=ArraySpec(shape=v_shape, dtype=v_dtype),
        softmax=softmax,
        mask=_optional_spec(mask_shape, mask_dtype) or mask_name,
        return_lse=return_lse,
        out_dtype=out_dtype,
    )
    plan = _plan("attention_chain", problem, backend, force)
    if plan is None or backend is None:
        return partial(mlx_route.attention, problem)
    if not gradients:
        return kernel_run(plan, backend, last_is_scalar=mask_shape == ())
    full = differentiable_plan(problem, plan, backend)
    if full is None:
        return partial(mlx_route.attention, problem)
    return differentiable_attention(problem, full, backend, mask_is_scalar=mask_shape == ())


def _optional_spec(shape: Shape | None, dtype: mx.Dtype | None) -> ArraySpec | None:
    return None if shape is None or dtype is None else ArraySpec(shape=shape, dtype=dtype)


def _check_not_forced(op: str, force: str | None) -> None:
    if force not in (None, ANY, MLX):
        raise IllegalKernelError(
            f"[{op}] Expected operands that the kernel {force!r} takes, got complex64 or float64, "
            "which only MLX's own ops take."
        )


def _plan(op: str, problem: Problem, backend: Backend | None, force: str | None) -> Plan | None:
    if backend is not None:
        return chosen_plan(problem, backend, force)
    if force not in (None, ANY, MLX):
        raise BackendError(
            f"[{op}] Expected a backend that runs kernels for the forced kernel {force!r}, got "
            'the mlx backend; call inside `with use_backend("emulator"):` or on a GPU stream.'
        )
    return None

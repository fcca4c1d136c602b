"""The public operations on products: arrays in, arrays out."""

from __future__ import annotations

import mlx.core as mx

from ...backends import StreamOrDevice, resolve
from ...core.arguments import as_array, as_number
from ...core.context import current_settings
from ...core.dtypes import INTEGERS
from ...core.problem import Number
from ...errors import DTypeError, ProblemError
from .key import NOT_SCALED, BatchInvariant, Scaled, TransposeB, product_call


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
    settings = current_settings()
    call = product_call(
        "matmul",
        a.shape,
        a.dtype,
        b.shape,
        b.dtype,
        None,
        None,
        transpose_a,
        TransposeB(transpose_b),
        out_dtype,
        NOT_SCALED,
        BatchInvariant(batch_invariant),
        resolve(stream, settings).backend,
        settings,
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
    settings = current_settings()
    call = product_call(
        "addmm",
        a.shape,
        a.dtype,
        b.shape,
        b.dtype,
        c.shape,
        c.dtype,
        transpose_a,
        TransposeB(transpose_b),
        out_dtype,
        Scaled(alpha != 1.0),
        BatchInvariant(batch_invariant),
        resolve(stream, settings).backend,
        settings,
    )
    return call((a, b, c), (alpha, beta), stream)[0]


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

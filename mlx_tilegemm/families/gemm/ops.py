"""The public operations on products: arrays in, arrays out."""

from __future__ import annotations

import mlx.core as mx

from ...backends import StreamOrDevice, is_left_to_mlx, resolved_backend
from ...call.transforms import as_factor
from ...core.arguments import as_array, as_flag, check_out_dtype
from ...core.context import current_settings, is_exact
from ...core.dtypes import INTEGERS, MLX_FLOATS
from ...core.fast_path import Served, serve_first, with_fast_path
from ...core.problem import Number
from ...errors import DTypeError, ProblemError
from .direct import product
from .key import (
    B_AS_IT_IS,
    B_TRANSPOSED,
    EXACT,
    FREE,
    INVARIANT,
    NOT_SCALED,
    REDUCED,
    SCALED,
    WITH_ADDEND,
    WITH_PRODUCT,
    WITHOUT_ADDEND,
    WITHOUT_PRODUCT,
    product_call,
)


@with_fast_path("a", "b", often=("transpose_b",))
def matmul(
    a: mx.array,
    b: mx.array,
    /,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    out_dtype: mx.Dtype | None = None,
    batch_invariant: bool = False,
    precision: str | None = None,
    stream: StreamOrDevice = None,
) -> Served[mx.array]:
    """Multiply matrices of any two dtypes without casting either into a copy.

    Shapes are those of `mx.matmul`: the last two axes are the matrices, the others broadcast; a 1-D
    ``a`` is a row and a 1-D ``b`` a column whose axis the result lacks. Floats accumulate in
    float32 and are rounded once; integers are exact modulo 2^32.

    Args:
        a: ``[..., m, k]``, or ``[..., k, m]`` with ``transpose_a``, of float32, float16 or
            bfloat16, or of int8, uint8, int16 or int32. Other pairs that `mx.matmul` takes, of
            complex64 or float64 or of a float and an integer or bool, it serves after MLX's
            promotion.
        b: ``[..., k, n]``, or ``[..., n, k]`` with ``transpose_b``.
        transpose_a: Swap the last two axes of ``a`` as it is read; no copy is made, unlike ``a.T``.
        transpose_b: Likewise for ``b``: takes the ``[n, k]`` weight of a linear layer as it is.
        out_dtype: Result dtype. None is MLX's promotion (float16 with bfloat16 is float32), and
            int32 for integers.
        batch_invariant: Choose among kernels in which a row of the result is the same, bit for
            bit, however many rows there are; other kernels may be faster.
        precision: ``"float32"`` to multiply float32 with all its bits where MLX would round it to
            TF32; None for what a block of `use_precision`, or else MLX's own switch says.
        stream: Stream or device of the call; None is the default one.

    Returns:
        ``[..., m, n]``.

    Raises:
        ProblemError: Shapes that do not fit together (a `ValueError`).
        DTypeError: Arguments of the wrong kind, or dtypes that neither the op nor `mx.matmul` takes
            (a `TypeError`).
        BackendError: ``precision="float32"`` where only MLX's ops serve, and round (a
            `RuntimeError`).

    Example:
        >>> x = mx.random.normal((5, 300)).astype(mx.float16)
        >>> w = mx.random.normal((70, 300))
        >>> y = matmul(x, w, transpose_b=True)
        >>> y.shape, y.dtype
        ((5, 70), mlx.core.float32)
    """
    if (
        is_left_to_mlx()
        and (out_dtype is None and precision is None and stream is None)
        and (transpose_a is False and type(batch_invariant) is bool)
        and type(a) is type(b) is mx.array
        and a.dtype in MLX_FLOATS
    ):
        # No prepared call is looked up. An error of MLX is told again below, in our words.
        try:
            if transpose_b is False or (transpose_b is True and b.ndim == 2):
                call = product(transpose_b)
                return call, call(a, b)
        except ValueError:
            pass
    if type(a) is not mx.array:
        a = as_array("matmul", "a", a)
    if type(b) is not mx.array:
        b = as_array("matmul", "b", b)
    if type(transpose_a) is not bool:
        transpose_a = as_flag("matmul", "transpose_a", transpose_a)
    if type(transpose_b) is not bool:
        transpose_b = as_flag("matmul", "transpose_b", transpose_b)
    if type(batch_invariant) is not bool:
        batch_invariant = as_flag("matmul", "batch_invariant", batch_invariant)
    if out_dtype is not None and type(out_dtype) is not mx.Dtype:
        check_out_dtype("matmul", out_dtype)
    settings = current_settings()
    run = product_call(
        "matmul",
        a.shape,
        a.dtype,
        b.shape,
        b.dtype,
        None,
        None,
        transpose_a,
        B_TRANSPOSED if transpose_b else B_AS_IT_IS,
        out_dtype,
        NOT_SCALED,
        WITH_PRODUCT,
        WITH_ADDEND,
        INVARIANT if batch_invariant else FREE,
        EXACT if is_exact("matmul", precision, settings) else REDUCED,
        resolved_backend(stream, settings),
        settings,
    )
    return serve_first(run, (a, b), (1.0, 1.0), stream)


@with_fast_path("a", "b", "c", often=("transpose_b",))
def addmm(
    c: mx.array,
    a: mx.array,
    b: mx.array,
    /,
    alpha: Number | mx.array = 1.0,
    beta: Number | mx.array = 1.0,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    out_dtype: mx.Dtype | None = None,
    batch_invariant: bool = False,
    precision: str | None = None,
    stream: StreamOrDevice = None,
) -> Served[mx.array]:
    """Return ``alpha * (a @ b) + beta * c`` in one kernel, rounded once.

    Args:
        c: The addend; broadcasts to the result and may have a dtype of its own. Integers and bools
            beside floats are promoted as in `mx.addmm`, which then serves the call.
        a: As in `matmul`.
        b: As in `matmul`.
        alpha: Factor of the product; a whole number for integers. With 0 there is no product, as in
            BLAS: a NaN in ``a`` or ``b`` does not reach the result. An array of one element is
            taken too.
        beta: Factor of ``c``, likewise; with 0 only the shape and the dtype of ``c`` matter.
        transpose_a: As in `matmul`.
        transpose_b: As in `matmul`.
        out_dtype: Result dtype; None is MLX's promotion of all three operands.
        batch_invariant: As in `matmul`.
        precision: As in `matmul`.
        stream: Stream or device of the call; None is the default one.

    Returns:
        ``[..., m, n]``.

    Raises:
        ProblemError: Shapes that do not fit together, or factors that no float64 holds (a
            `ValueError`).
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
    if type(alpha) is not float or type(beta) is not float:
        natural = out_dtype or mx.result_type(a, b, c)
        alpha, (a_scaled,) = as_factor("addmm", "alpha", alpha, (a,))
        beta, (c_scaled,) = as_factor("addmm", "beta", beta, (c,))
        if a_scaled is not a or c_scaled is not c:
            a, c, out_dtype = a_scaled, c_scaled, natural
        if c.dtype in _INTEGERS and a.dtype in _INTEGERS and b.dtype in _INTEGERS:
            alpha, beta = _whole("alpha", alpha), _whole("beta", beta)
        else:
            alpha, beta = float(alpha), float(beta)
    elif c.dtype in _INTEGERS and a.dtype in _INTEGERS and b.dtype in _INTEGERS:
        alpha, beta = _whole("alpha", alpha), _whole("beta", beta)
    if type(transpose_a) is not bool:
        transpose_a = as_flag("addmm", "transpose_a", transpose_a)
    if type(transpose_b) is not bool:
        transpose_b = as_flag("addmm", "transpose_b", transpose_b)
    if type(batch_invariant) is not bool:
        batch_invariant = as_flag("addmm", "batch_invariant", batch_invariant)
    if out_dtype is not None and type(out_dtype) is not mx.Dtype:
        check_out_dtype("addmm", out_dtype)
    settings = current_settings()
    run = product_call(
        "addmm",
        a.shape,
        a.dtype,
        b.shape,
        b.dtype,
        c.shape,
        c.dtype,
        transpose_a,
        B_TRANSPOSED if transpose_b else B_AS_IT_IS,
        out_dtype,
        SCALED if alpha != 1.0 else NOT_SCALED,
        WITHOUT_PRODUCT if alpha == 0.0 else WITH_PRODUCT,
        WITHOUT_ADDEND if beta == 0.0 else WITH_ADDEND,
        INVARIANT if batch_invariant else FREE,
        EXACT if is_exact("addmm", precision, settings) else REDUCED,
        resolved_backend(stream, settings),
        settings,
    )
    return serve_first(run, (a, b, c), (alpha, beta), stream)


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

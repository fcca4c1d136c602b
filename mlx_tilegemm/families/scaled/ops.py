"""The public operation on scaled codes: arrays in, arrays out."""

from __future__ import annotations

import mlx.core as mx

from ...backends import StreamOrDevice, resolved_backend
from ...core.arguments import as_array, as_flag, check_out_dtype
from ...core.context import current_settings, is_exact
from ...core.fast_path import Served, serve_first, with_fast_path
from ...core.scaling_request import as_block
from ...errors import DTypeError
from .key import NAME, ScaledKey, optional, scaled_call, stated


@with_fast_path("a", "b", "a_scales", "b_scales", "bias", often=("block", "transpose_b"))
def fp8_scaled_matmul(
    a: mx.array,
    b: mx.array,
    /,
    a_scales: mx.array | None = None,
    b_scales: mx.array | None = None,
    *,
    a_format: str | None = None,
    b_format: str = "e4m3",
    block: tuple[int, int] | None = None,
    transpose_b: bool = False,
    bias: mx.array | None = None,
    out_dtype: mx.Dtype | None = None,
    batch_invariant: bool = False,
    precision: str | None = None,
    stream: StreamOrDevice = None,
) -> Served[mx.array]:
    """Multiply by 8-bit codes and their scales, decoded where they are used, never into a copy.

    An element is its code's value times its scale, in float32; products are summed in float32, and
    the result is rounded once. int8 by int8 is summed in int32 where scales are of tensors or rows,
    which then multiply the sum. Batch axes broadcast, as those of `mx.matmul` do.

    Scales lie as their operand is stored, and their shape says what each is of:

    - one element: the whole operand;
    - a row of ``a`` or a column of the result: ``[..., m, 1]`` and ``[..., n, 1]`` (``[..., 1, n]``
      for ``b`` of ``[k, n]``), without a batch also ``[m]`` and ``[n]``;
    - a matrix of a batch: ``[..., 1, 1]``;
    - with ``block=(j, i)``, the last blocks of which may be short: i elements along k of a row of
      ``a``, ``[..., m, k / i]``, and j columns of the result by i elements along k of ``b``,
      ``[..., n / j, k / i]`` (``[..., k / i, n / j]``);
    - of uint8, also 32 elements along k: ``[..., m, k / 32]`` and ``[..., n, k / 32]``. Where that
      and a ``block`` are of one shape, it is the block's.

    Args:
        a: ``[..., m, k]``, or ``[k]``: float32, float16 or bfloat16, or codes.
        b: Codes ``[..., k, n]``, or ``[..., n, k]`` with ``transpose_b``.
        a_scales: Scales of ``a``, of any float dtype, or e8m0 codes of uint8, whose last is NaN.
        b_scales: Likewise of ``b``.
        a_format: Format of the codes in ``a``: ``"e4m3"`` or ``"e5m2"`` of uint8, ``"int8"`` of
            int8; None for floats.
        b_format: Likewise of ``b``. The formats of both need not be the same.
        block: Sizes of the blocks that share a scale, such as ``(128, 128)``: columns of the
            result, and elements along k.
        transpose_b: ``b`` is stored ``[..., n, k]``.
        bias: ``[n]`` of any float dtype, added before the result is rounded.
        out_dtype: Result dtype; None is that of ``a``, or float32 where ``a`` is codes. int8 by
            int8 without scales and bias may be int32.
        batch_invariant: Choose among kernels in which a row of the result is the same, bit for
            bit, however many rows there are; other kernels may be faster.
        precision: ``"float32"`` to multiply float32 with all its bits where MLX would round it to
            TF32; None for what a block of `use_precision`, or else MLX's own switch says.
        stream: Stream or device of the call; None is the default one.

    Returns:
        ``[..., m, n]``, or ``[..., n]`` for a 1-D ``a``.

    Raises:
        ProblemError: Shapes, formats or options that do not fit together, or a product without
            rows, columns or terms (a `ValueError`).
        DTypeError: Arguments of the wrong kind, or dtypes that no product takes (a `TypeError`).
        BackendError: ``precision="float32"`` where only MLX's ops serve, and round (a
            `RuntimeError`).

    Example:
        >>> x = mx.random.normal((5, 256)).astype(mx.bfloat16)
        >>> codes = formats.encode(mx.random.normal((192, 256)), "e4m3")
        >>> scales = mx.full((2, 2), 0.5)
        >>> y = fp8_scaled_matmul(x, codes, None, scales, block=(128, 128), transpose_b=True)
        >>> y.shape, y.dtype
        ((5, 192), mlx.core.bfloat16)
    """
    if type(a) is not mx.array:
        a = as_array(NAME, "a", a)
    if type(b) is not mx.array:
        b = as_array(NAME, "b", b)
    if a_scales is not None and type(a_scales) is not mx.array:
        a_scales = as_array(NAME, "a_scales", a_scales)
    if b_scales is not None and type(b_scales) is not mx.array:
        b_scales = as_array(NAME, "b_scales", b_scales)
    if bias is not None and type(bias) is not mx.array:
        bias = as_array(NAME, "bias", bias)
    if type(transpose_b) is not bool:
        transpose_b = as_flag(NAME, "transpose_b", transpose_b)
    if type(batch_invariant) is not bool:
        batch_invariant = as_flag(NAME, "batch_invariant", batch_invariant)
    if type(out_dtype) is not mx.Dtype:
        check_out_dtype(NAME, out_dtype)
    if block is not None:
        block = as_block(NAME, block)
    for name, value in (("a_format", a_format), ("b_format", b_format)):
        if value is not None and type(value) is not str:
            kind = type(value).__name__
            raise DTypeError(f"[{NAME}] Expected {name} to be a string, got {kind}.")
    settings = current_settings()
    run = scaled_call(
        ScaledKey(
            a=stated(a),
            b=stated(b),
            a_scales=optional(a_scales),
            b_scales=optional(b_scales),
            a_format=a_format,
            b_format=b_format,
            block=block,
            transpose_b=transpose_b,
            bias=optional(bias),
            out_dtype=out_dtype,
            batch_invariant=batch_invariant,
            exact=is_exact(NAME, precision, settings),
            backend=resolved_backend(stream, settings),
            settings=settings,
        )
    )
    return serve_first(run, (a, b, a_scales, b_scales, bias), (), stream)

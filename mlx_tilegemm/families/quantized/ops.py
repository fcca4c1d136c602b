"""The public operation on quantized weights: arrays in, arrays out."""

from __future__ import annotations

import mlx.core as mx

from ...backends import StreamOrDevice, resolved_backend
from ...core.arguments import as_array, as_flag, as_whole, check_out_dtype
from ...core.context import current_settings, is_exact
from ...core.dtypes import MLX_FLOATS
from ...core.fast_path import Served, serve_first, with_fast_path
from ...errors import DTypeError
from .key import NAME, QuantizedKey, casting, quantized_call, stated


@with_fast_path("x", "w", "scales", "biases", "global_scale", "bias")
def quantized_matmul(
    x: mx.array,
    w: mx.array,
    /,
    scales: mx.array,
    biases: mx.array | None = None,
    transpose: bool = True,
    group_size: int | None = None,
    bits: int | None = None,
    mode: str = "affine",
    *,
    global_scale: mx.array | None = None,
    bias: mx.array | None = None,
    out_dtype: mx.Dtype | None = None,
    batch_invariant: bool = False,
    precision: str | None = None,
    stream: StreamOrDevice = None,
) -> Served[mx.array]:
    """Multiply by a quantized weight, decoded where it is used; no operand is cast into a copy.

    Weights are those of `mx.quantize`. Each is decoded to float32, products are summed in float32,
    and the result is rounded once. Batch axes of ``x`` and of the weight broadcast, as those of
    `mx.matmul` do.

    Args:
        x: ``[..., m, k]``, or ``[k]``, of float32, float16 or bfloat16. Integers are cast to the
            dtype of affine scales, as MLX casts them.
        w: uint32 ``[..., n, k * bits / 32]``, or ``[..., k, n * bits / 32]`` without ``transpose``.
        scales: A scale for each group of a row of ``w``: for ``"affine"`` of any float dtype, else
            uint8.
        biases: A bias for each group, of any float dtype and the shape of ``scales``, for
            ``"affine"`` alone.
        transpose: Multiply by the transpose of ``w``, whose groups are then along ``k``.
        group_size: Elements of a group: 32, 64 or 128 for ``"affine"``. None is the mode's: 64 for
            ``"affine"``, 32 for ``"mxfp4"`` and ``"mxfp8"``, 16 for ``"nvfp4"``.
        bits: Bits of an element: 1, 2, 3, 4, 5, 6 or 8 for ``"affine"``. None is the mode's: 4, or
            8 for ``"mxfp8"``.
        mode: ``"affine"``, ``"mxfp4"``, ``"mxfp8"`` or ``"nvfp4"``.
        global_scale: Scale of the whole weight for ``"nvfp4"``, one float32: the product is
            multiplied by it and divided by 2688, as in `mx.dequantize`.
        bias: ``[n]`` of any float dtype, added before the result is rounded.
        out_dtype: Result dtype; None is MLX's: the promotion of ``x``, ``scales`` and ``biases``
            for ``"affine"``, else that of ``x``.
        batch_invariant: Choose among kernels in which a row of the result is the same, bit for
            bit, however many rows there are; other kernels may be faster.
        precision: ``"float32"`` to multiply float32 with all its bits where MLX would round it to
            TF32; None for what a block of `use_precision`, or else MLX's own switch says.
        stream: Stream or device of the call; None is the default one.

    Returns:
        ``[..., m, n]``, or ``[..., n]`` for a 1-D ``x``.

    Raises:
        ProblemError: Shapes or options that do not fit together, or a product without rows, columns
            or terms (a `ValueError`).
        DTypeError: Arguments of the wrong kind, or dtypes that no product takes (a `TypeError`).
        BackendError: ``precision="float32"`` where only MLX's op serves, and rounds (a
            `RuntimeError`).

    Example:
        >>> x = mx.random.normal((5, 256)).astype(mx.bfloat16)
        >>> w, scales, biases = mx.quantize(mx.random.normal((64, 256)), bits=4)
        >>> half = scales.astype(mx.float16)
        >>> y = quantized_matmul(x, w, half, biases, bits=4, out_dtype=mx.bfloat16)
        >>> y.shape, y.dtype
        ((5, 64), mlx.core.bfloat16)
    """
    if type(x) is not mx.array:
        x = as_array(NAME, "x", x)
    if type(w) is not mx.array:
        w = as_array(NAME, "w", w)
    if type(scales) is not mx.array:
        scales = as_array(NAME, "scales", scales)
    if biases is not None and type(biases) is not mx.array:
        biases = as_array(NAME, "biases", biases)
    if global_scale is not None and type(global_scale) is not mx.array:
        global_scale = as_array(NAME, "global_scale", global_scale)
    if bias is not None and type(bias) is not mx.array:
        bias = as_array(NAME, "bias", bias)
    if type(transpose) is not bool:
        transpose = as_flag(NAME, "transpose", transpose)
    if type(batch_invariant) is not bool:
        batch_invariant = as_flag(NAME, "batch_invariant", batch_invariant)
    if out_dtype is not None and type(out_dtype) is not mx.Dtype:
        check_out_dtype(NAME, out_dtype)
    if group_size is not None and type(group_size) is not int:
        group_size = as_whole(NAME, "group_size", group_size)
    if bits is not None and type(bits) is not int:
        bits = as_whole(NAME, "bits", bits)
    if type(mode) is not str:
        raise DTypeError(f"[{NAME}] Expected mode to be a string, got {type(mode).__name__}.")
    settings = current_settings()
    # In the order of the fields: keywords take longer than all else of a key.
    run = quantized_call(
        QuantizedKey(
            (x.shape, x.dtype),
            (w.shape, w.dtype),
            (scales.shape, scales.dtype),
            None if biases is None else (biases.shape, biases.dtype),
            None if global_scale is None else stated(global_scale),
            None if bias is None else stated(bias),
            transpose,
            group_size,
            bits,
            mode,
            out_dtype,
            batch_invariant,
            is_exact(NAME, precision, settings),
            resolved_backend(stream, settings),
            settings,
        )
    )
    if x.dtype not in MLX_FLOATS:
        run = casting(run, scales.dtype)
    return serve_first(run, (x, w, scales, biases, global_scale, bias), (), stream)

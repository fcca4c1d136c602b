"""Low-bit formats: exact decoding and encoding of small floats, and of MLX's quantized weights.

A small float is a code in a uint8 array, whose format has to be named: ``e4m3`` and ``e5m2`` are
8-bit floats, ``e2m1`` is a 4-bit float in the low bits of a byte, ``e8m0`` a power of two that
scales a group. Values are those of the OCP formats (OFP8, MX): ``e4m3`` has NaN but no infinity,
``e2m1`` neither, ``e8m0`` NaN alone.

A quantized weight is MLX's: codes of 1 to 8 bits, each row one stream of bits in uint32 words, and
a scale for each group of a row. Its modes are ``affine`` (``scale * code + bias``), ``mxfp4``,
``mxfp8`` and ``nvfp4`` (``scale * float``).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import mlx.core as mx

from .core.arguments import ArraySpec, as_array, as_flag, as_whole
from .core.dtypes import (
    FLOAT4_E2M1,
    FLOAT8_E4M3,
    FLOAT8_E5M2,
    FLOAT8_E8M0,
    MLX_FLOATS,
    UINT1,
    UINT2,
    UINT3,
    UINT4,
    UINT5,
    UINT6,
    UINT8,
    DType,
    mlx_name,
)
from .core.scaling import Scaling
from .core.shapes import Shape, shape_text
from .core.tracing import is_traced
from .errors import DTypeError, ProblemError

FORMATS: dict[str, DType] = {
    row.short: row for row in (FLOAT8_E4M3, FLOAT8_E5M2, FLOAT4_E2M1, FLOAT8_E8M0)
}
"""Small floats by name."""

AFFINE = "affine"
AFFINE_CODES = {row.bits: row for row in (UINT1, UINT2, UINT3, UINT4, UINT5, UINT6, UINT8)}
AFFINE_GROUPS = (32, 64, 128)

TENSOR_SCALE = 2688.0
"""Largest e4m3 times largest e2m1, 448 * 6: a tensor scale is given as multiples of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grouping:
    """How a quantized weight is stored.

    Attributes:
        mode: MLX's name of the mode.
        bits: Size of a code.
        group: Elements of a row that share a scale.
    """

    mode: str
    bits: int
    group: int

    @property
    def codes(self) -> DType:
        """Format of the elements, without their scales."""
        return AFFINE_CODES[self.bits] if self.mode == AFFINE else _SMALL[self.mode].codes

    @property
    def scales(self) -> DType | None:
        """Format of the scales; None for affine groups, whose scales are of any float dtype."""
        return None if self.mode == AFFINE else _SMALL[self.mode].scales

    def __str__(self) -> str:
        return f"{self.mode}{self.bits}x{self.group}" if self.mode == AFFINE else self.mode


class _Small(NamedTuple):
    """A mode whose codes are small floats."""

    codes: DType
    scales: DType
    group: int


_SMALL = {
    "mxfp4": _Small(FLOAT4_E2M1, FLOAT8_E8M0, 32),
    "mxfp8": _Small(FLOAT8_E4M3, FLOAT8_E8M0, 32),
    "nvfp4": _Small(FLOAT4_E2M1, FLOAT8_E4M3, 16),
}

_Stated: TypeAlias = mx.array | ArraySpec
"""What has a shape and a dtype."""

MODES = (AFFINE, *_SMALL)
"""Modes of quantized weights."""


def grouping(
    op: str, mode: object, bits: int | None = None, group_size: int | None = None
) -> Grouping:
    """Return how a weight of a mode is stored; None is the mode's own.

    Raises:
        ProblemError: MLX has no such mode, or no such weights of it.
    """
    if mode == AFFINE:
        found = Grouping(mode=AFFINE, bits=4 if bits is None else bits, group=group_size or 64)
        if group_size is not None and group_size not in AFFINE_GROUPS:
            raise ProblemError(
                f"[{op}] The requested group size {group_size} is not supported. The supported "
                "group sizes are 32, 64, and 128."
            )
        if found.bits not in AFFINE_CODES:
            raise ProblemError(
                f"[{op}] The requested number of bits {bits} is not supported. The supported bits "
                "are 1, 2, 3, 4, 5, 6 and 8."
            )
        return found
    if not isinstance(mode, str) or mode not in _SMALL:
        raise ProblemError(f"[{op}] Invalid quantization mode '{mode}'.")
    small = _SMALL[mode]
    if group_size not in (None, small.group):
        raise ProblemError(
            f"[{op}] {mode} quantization requires group size {small.group} but got {group_size}."
        )
    if bits not in (None, small.codes.bits):
        raise ProblemError(
            f"[{op}] {mode} quantization requires bits to be {small.codes.bits} but got {bits}."
        )
    return Grouping(mode=mode, bits=small.codes.bits, group=small.group)


def as_grouping(op: str, mode: object, bits: object, group_size: object) -> Grouping:
    """Return how a weight is stored that arguments of an op tell of; None is the mode's own.

    Raises:
        ProblemError: MLX has no such mode, or no such weights of it.
        DTypeError: Sizes that are no whole numbers.
    """
    sizes = {"bits": bits, "group_size": group_size}
    whole = {
        name: None if size is None else as_whole(op, name, size) for name, size in sizes.items()
    }
    return grouping(op, mode, **whole)


def decode(codes: mx.array, format: str, /, *, dtype: mx.Dtype = mx.float32) -> mx.array:
    """Return the values of codes of a small float, each rounded to ``dtype`` at most once.

    float32 holds every value exactly; float16 and bfloat16 hold every value but large and small
    powers of two of ``e8m0``.

    Args:
        codes: uint8 of any shape; of ``e2m1`` the low four bits count.
        format: ``e4m3``, ``e5m2``, ``e2m1`` or ``e8m0``.
        dtype: A float dtype of the result.

    Returns:
        Values of the shape of ``codes``; codes of NaN are NaN.

    Raises:
        ProblemError: An unknown format (a `ValueError`).
        DTypeError: ``codes`` are no uint8, or ``dtype`` is no float (a `TypeError`).

    Example:
        >>> decode(mx.array([0x38, 0x7E], dtype=mx.uint8), "e4m3")
        array([1, 448], dtype=float32)
    """
    row = _format("decode", format)
    _check_codes("decode", codes)
    _check_float("decode", "dtype", dtype)
    index = codes & (len(row.values) - 1)
    return mx.take(_table(row), index).astype(dtype)


@lru_cache(maxsize=16)
def _table(row: DType, nan: float | None = None) -> mx.array:
    """Return the values of a format's codes, with another value for NaN if one is given."""
    values = [nan if nan is not None and x != x else x for x in row.values]
    # Made of bits: arithmetic may lose what is too small for a normal float32.
    made = mx.array(_float_bits(values), dtype=mx.uint32)
    return made.view(mx.float32)


def _float_bits(values: list[float]) -> list[int]:
    from struct import pack as packed
    from struct import unpack as unpacked

    return list(unpacked(f"<{len(values)}I", packed(f"<{len(values)}f", *values)))


def encode(x: mx.array, format: str, /, *, saturate: bool = True) -> mx.array:
    """Return the codes of the values of a small float that are nearest to ``x``, ties to even.

    Of ``e8m0`` it is the smallest power of two that is not less than ``x``, as scales are rounded.

    Args:
        x: Of float32, float16 or bfloat16.
        format: ``e4m3``, ``e5m2``, ``e2m1`` or ``e8m0``.
        saturate: What is too large, infinities too, becomes the largest number; else infinity,
            where the format has it, or NaN. ``e2m1`` has neither and saturates always.

    Returns:
        uint8 of the shape of ``x``. NaN stays NaN, and is the largest number of ``e2m1``; negative
        numbers are NaN in ``e8m0``.

    Raises:
        ProblemError: An unknown format (a `ValueError`).
        DTypeError: ``x`` is of another dtype (a `TypeError`).

    Example:
        >>> encode(mx.array([1.0, 500.0, 0.3]), "e4m3")
        array([56, 126, 42], dtype=uint8)
    """
    row = _format("encode", format)
    x = as_array("encode", "x", x)
    _check_float("encode", "x", x.dtype)
    saturate = as_flag("encode", "saturate", saturate)
    bits = x.astype(mx.float32).view(mx.uint32)
    return _encode_power(bits, saturate) if row is FLOAT8_E8M0 else _encode(row, bits, saturate)


class _Layout(NamedTuple):
    """Bits of a small float.

    Attributes:
        exponent: Bits of the exponent.
        mantissa: Bits of the mantissa.
        largest: Code of the largest number.
        overflow: Code of what is larger still, where nothing saturates.
        nan: Code of NaN.
    """

    exponent: int
    mantissa: int
    largest: int
    overflow: int
    nan: int


_LAYOUTS = {
    FLOAT8_E4M3: _Layout(4, 3, 0x7E, 0x7F, 0x7F),
    FLOAT8_E5M2: _Layout(5, 2, 0x7B, 0x7C, 0x7E),
    FLOAT4_E2M1: _Layout(2, 1, 0x7, 0x7, 0x7),
}


def _encode(row: DType, bits: mx.array, saturate: bool) -> mx.array:
    """Round float32, given as bits, by integers: operations of floats may flush denormals."""
    to = _LAYOUTS[row]
    sign, magnitude = bits >> 31, bits & 0x7FFFFFFF
    exponent = (magnitude >> 23).astype(mx.int32)
    lowest = 129 - (1 << (to.exponent - 1))  # float32's exponent of the smallest normal number
    dropped = mx.clip(23 - to.mantissa + mx.maximum(lowest - exponent, 0), 1, 25)
    dropped = dropped.astype(mx.uint32)
    whole = (magnitude & 0x7FFFFF) | mx.where(exponent > 0, 1 << 23, 0).astype(mx.uint32)
    half = mx.left_shift(mx.array(1, mx.uint32), dropped - 1)
    rounded = mx.right_shift(whole + half - 1 + (mx.right_shift(whole, dropped) & 1), dropped)
    above = mx.maximum(exponent - lowest, 0).astype(mx.uint32)
    code = rounded + (above << to.mantissa)
    past = to.largest if saturate else to.overflow
    code = mx.where((code > to.largest) | (exponent == 255), past, code)
    code = mx.where(magnitude > 0x7F800000, to.nan, code)
    return (code | (sign << (to.exponent + to.mantissa))).astype(mx.uint8)


def _encode_power(bits: mx.array, saturate: bool) -> mx.array:
    exponent = (bits >> 23) & 0xFF
    fraction = bits & 0x7FFFFF
    # Below the normal numbers all of a power's bits are in the fraction: code 0 is 2^-127.
    above = mx.where(exponent == 0, fraction > 0x400000, fraction > 0).astype(mx.uint32)
    code = exponent + above
    code = mx.where((code > 254) & (exponent < 255), 254 if saturate else 255, code)
    code = mx.where(bits == 0x7F800000, 254 if saturate else 255, code)
    is_nan = ((bits & 0x7FFFFFFF) > 0x7F800000) | ((bits >> 31 == 1) & (bits != 0x80000000))
    return mx.where(is_nan, 255, mx.where(bits == 0x80000000, 0, code)).astype(mx.uint8)


def unpack(words: mx.array, bits: int, /) -> mx.array:
    """Return the codes that words hold, each row of which is one stream of bits.

    Args:
        words: uint32 ``[..., words]``, as `mx.quantize` makes them.
        bits: Size of a code: 1, 2, 3, 4, 5, 6 or 8.

    Returns:
        uint8 ``[..., 32 * words / bits]``.

    Raises:
        ProblemError: Words that end inside a code, or other sizes of codes (a `ValueError`).
        DTypeError: ``words`` are no uint32 (a `TypeError`).

    Example:
        >>> unpack(mx.array([0x76543210], dtype=mx.uint32), 4).tolist()
        [0, 1, 2, 3, 4, 5, 6, 7]
    """
    _check_packed("unpack", words, bits)
    count = words.shape[-1] * 32 // bits
    starts = mx.arange(count, dtype=mx.uint32) * bits
    place = starts & 31
    low = mx.right_shift(mx.take(words, starts >> 5, axis=-1), place)
    # The next word's bits; twice, because a shift by 32 is none.
    after = mx.take(words, mx.minimum((starts >> 5) + 1, words.shape[-1] - 1), axis=-1)
    high = mx.left_shift(mx.left_shift(after, 31 - place), 1)
    return ((low | high) & ((1 << bits) - 1)).astype(mx.uint8)


def pack(codes: mx.array, bits: int, /) -> mx.array:
    """Return the words that hold codes, as `unpack` takes them.

    Args:
        codes: uint8 ``[..., codes]``; the low ``bits`` of each count.
        bits: Size of a code: 1, 2, 3, 4, 5, 6 or 8.

    Returns:
        uint32 ``[..., codes * bits / 32]``.

    Raises:
        ProblemError: Codes that do not fill whole words, or other sizes (a `ValueError`).
        DTypeError: ``codes`` are no uint8 (a `TypeError`).

    Example:
        >>> hex(pack(mx.arange(8).astype(mx.uint8), 4).item())
        '0x76543210'
    """
    _check_codes("pack", codes)
    _check_bits("pack", bits)
    if codes.ndim < 1 or codes.shape[-1] * bits % 32:
        raise ProblemError(
            f"[pack] Expected rows of {bits}-bit codes that fill words of 32 bits, got "
            f"{shape_text(codes.shape)}."
        )
    stream = (mx.right_shift(codes[..., None], mx.arange(bits, dtype=mx.uint8)) & 1).astype(
        mx.uint32
    )
    places = mx.left_shift(
        mx.reshape(stream, (*codes.shape[:-1], codes.shape[-1] * bits // 32, 32)),
        mx.arange(32, dtype=mx.uint32),
    )
    return mx.sum(places, axis=-1).astype(mx.uint32)


def dequantize(
    w: mx.array,
    scales: mx.array,
    biases: mx.array | None = None,
    group_size: int | None = None,
    bits: int | None = None,
    mode: str = AFFINE,
    global_scale: mx.array | None = None,
    dtype: mx.Dtype | None = None,
) -> mx.array:
    """Return a quantized weight's values, computed in float32 and rounded once.

    Args:
        w: uint32 ``[..., columns * bits / 32]``.
        scales: ``[..., columns / group_size]``, of a float dtype for ``affine``, else uint8.
        biases: Of the shape of ``scales``, for ``affine`` alone.
        group_size: Elements that share a scale; None is the mode's own.
        bits: Size of a code; None is the mode's own.
        mode: ``affine``, ``mxfp4``, ``mxfp8`` or ``nvfp4``.
        global_scale: Scale of a tensor of ``nvfp4``, one float32: all values are multiplied by it
            and divided by 2688.
        dtype: Result dtype; None is the promotion of scales and biases, or bfloat16 without
            biases, as in `mx.dequantize`.

    Returns:
        ``[..., columns]``.

    Raises:
        ProblemError: Arguments that do not fit together (a `ValueError`).
        DTypeError: Dtypes of other kinds (a `TypeError`).

    Example:
        >>> w, scales = mx.quantize(mx.ones((2, 64)), mode="mxfp4")
        >>> dequantize(w, scales, mode="mxfp4").shape
        (2, 64)
    """
    form = grouping("dequantize", mode, bits, group_size)
    _check_packed("dequantize", w, form.bits)
    check_groups("dequantize", form, w.shape, scales, biases)
    natural = mx.bfloat16 if biases is None else mx.result_type(scales, biases)
    dtype = natural if dtype is None else dtype
    _check_float("dequantize", "dtype", dtype)
    codes = mx.unflatten(unpack(w, form.bits), -1, (-1, form.group))
    if biases is None:
        assert form.scales is not None
        # MLX reads the code of NaN, all ones, as the next power of two: infinity.
        nan = float("inf") if form.scales is FLOAT8_E8M0 else None
        scale = mx.take(_table(form.scales, nan), scales)
        values = mx.take(_table(form.codes), codes) * scale[..., None]
    else:
        scale, bias = (one.astype(mx.float32)[..., None] for one in (scales, biases))
        values = codes.astype(mx.float32) * scale + bias
    if global_scale is not None:
        check_tensor_scale("dequantize", form, global_scale.shape, global_scale.dtype)
        values = values * (mx.reshape(global_scale, ()) / TENSOR_SCALE)
    return mx.flatten(values, -2, -1).astype(dtype)


def quantize(
    w: mx.array,
    group_size: int | None = None,
    bits: int | None = None,
    mode: str = AFFINE,
    *,
    global_scale: mx.array | None = None,
) -> tuple[mx.array, ...]:
    """Return a weight in codes and scales, and biases for ``affine``, as `mx.quantize` lays it out.

    Codes of ``affine`` are `mx.quantize`'s. Other codes are the nearest, ties to even, on every
    device; scales of ``mxfp4`` and ``mxfp8`` are the smallest powers of two with which a group fits
    its format.

    Args:
        w: ``[..., rows, columns]`` of float32, float16 or bfloat16, whose columns are whole groups.
        group_size: As in `dequantize`.
        bits: As in `dequantize`.
        mode: As in `dequantize`.
        global_scale: As in `dequantize`.

    Returns:
        ``(w, scales, biases)`` for ``affine``, else ``(w, scales)``.

    Raises:
        ProblemError: Arguments that do not fit together (a `ValueError`).
        DTypeError: Dtypes of other kinds (a `TypeError`).

    Example:
        >>> w, scales = quantize(mx.ones((2, 64)), mode="nvfp4")
        >>> w.shape, scales.shape
        ((2, 8), (2, 4))
    """
    form = grouping("quantize", mode, bits, group_size)
    w = as_array("quantize", "w", w)
    _check_float("quantize", "w", w.dtype)
    if w.ndim < 2 or w.shape[-1] % form.group:
        raise ProblemError(
            "[quantize] Expected a matrix whose last axis is a multiple of the group size "
            f"{form.group}, got {shape_text(w.shape)}."
        )
    if global_scale is not None:
        check_tensor_scale("quantize", form, global_scale.shape, global_scale.dtype)
    if form.scales is None:
        return tuple(mx.quantize(w, form.group, form.bits))
    groups = mx.unflatten(w.astype(mx.float32), -1, (-1, form.group))
    if global_scale is not None:
        groups = groups * (TENSOR_SCALE / mx.reshape(global_scale, ()))
    limit = max(x for x in form.codes.values if x == x)
    wanted = mx.max(mx.abs(groups), axis=-1) / limit
    scales = encode(wanted, form.scales.short)
    scale = mx.take(_table(form.scales), scales)[..., None]
    codes = encode(mx.where(scale == 0, 0, groups / scale), form.codes.short)
    return pack(mx.flatten(codes, -2, -1), form.bits), scales


def byte_values(
    row: DType,
    codes: mx.array,
    scaling: Scaling | None,
    scales: mx.array | None,
    transposed: bool,
) -> mx.array:
    """Return the values of codes of a byte each times their scales in float32, as they are stored.

    Args:
        row: Format of the codes.
        codes: ``[..., n, k]`` where ``transposed``, else ``[..., k, n]``.
        scaling: How the scales lie; None without.
        scales: The scales.
        transposed: See ``codes``.
    """
    values = element_values(row, codes)
    if scaling is None or scales is None:
        return values
    n, k = codes.shape[-2:] if transposed else codes.shape[:-3:-1]
    return values * scales_of_all(scaling, scales, n, k, transposed)


def scales_of_all(scaling: Scaling, scales: mx.array, n: int, k: int, transposed: bool) -> mx.array:
    """Return the scales of a right operand in float32, as it is stored; an axis of 1 is of all."""
    n_axis, k_axis = (-2, -1) if transposed else (-1, -2)
    grid = scales_grid(scaling, scales, k_axis)
    grid = repeated(grid, n_axis, scaling.height, n)
    return repeated(grid, k_axis, scaling.width, k)


def scales_grid(scaling: Scaling, scales: mx.array, k_axis: int) -> mx.array:
    """Return the values of scales with both axes of a matrix, or of the only one."""
    values = scale_values(scaling, scales)
    if not scaling.height and not scaling.width and not scaling.batched:
        return mx.reshape(values, (1, 1))
    return mx.expand_dims(values, k_axis) if values.ndim == 1 else values


def repeated(grid: mx.array, axis: int, side: int, size: int) -> mx.array:
    """Return scales with each repeated for the elements that share it, of which there are size."""
    return mx.take(grid, mx.arange(size) // side, axis=axis) if side > 1 else grid


def element_values(row: DType, codes: mx.array) -> mx.array:
    """Return the float32 values of codes of a format, or of plain elements."""
    if row is FLOAT8_E4M3 and not is_traced():
        return mx.from_fp8(codes, dtype=mx.float32)
    if row.native:
        return codes.astype(mx.float32)
    # MLX neither maps from_fp8 nor has one of e5m2.
    return decode(codes, row.short)


def scale_values(scaling: Scaling, scales: mx.array) -> mx.array:
    """Return the float32 values of scales."""
    if scaling.dtype is not FLOAT8_E8M0:
        return scales.astype(mx.float32)
    codes = scales.astype(mx.uint32)
    # Code 0 is 2^-127, a denormal, and the last one NaN.
    bits = mx.where(codes == 0, 0x00400000, mx.left_shift(codes, 23))
    return mx.where(codes == 255, 0x7FC00000, bits).astype(mx.uint32).view(mx.float32)


def scale_sums(
    scaling: Scaling, terms: mx.array, scales: mx.array, *, transposed: bool
) -> mx.array:
    """Return the sums of all elements of an operand that share a scale, shaped as the scales.

    Args:
        scaling: How the scales lie.
        terms: ``[..., along the result, along k]``, or the other way round where ``transposed``.
        scales: The scales.
        transposed: See ``terms``.
    """
    sides = (scaling.height, scaling.width)
    for axis, side in zip((-2, -1), sides[::-1] if transposed else sides, strict=True):
        terms = _blocks(terms, axis, side)
    while terms.size > scales.size:
        terms = mx.sum(terms, axis=0)
    return mx.reshape(terms, scales.shape).astype(scales.dtype)


def _blocks(terms: mx.array, axis: int, side: int) -> mx.array:
    """Sum blocks of elements along an axis, the last of which may be short; 0 is one of all."""
    if side == 0:
        return mx.sum(terms, axis=axis, keepdims=True)
    if side == 1:
        return terms
    missing = -terms.shape[axis] % side
    widths = [(0, 0)] * terms.ndim
    widths[axis] = (0, missing)
    return mx.sum(mx.unflatten(mx.pad(terms, widths), axis, (-1, side)), axis=axis)


def check_words(op: str, w: _Stated) -> None:
    """Check that a weight is matrices of words.

    Raises:
        ProblemError: It has less than two dimensions.
        DTypeError: It is of another dtype.
    """
    if w.dtype != mx.uint32:
        raise DTypeError(
            f"[{op}] The weight matrix should be uint32 but received {mlx_name(w.dtype)}"
        )
    if len(w.shape) < 2:
        raise ProblemError(
            f"[{op}] Expected a weight of at least two dimensions, got {shape_text(w.shape)}."
        )


def check_groups(
    op: str, form: Grouping, w_shape: Shape, scales: _Stated, biases: _Stated | None
) -> None:
    """Check the scales and biases of a weight: which there are, their shapes and dtypes.

    Args:
        op: Name to begin messages with.
        form: How the weight is stored.
        w_shape: Shape of the weight as stored, in words.
        scales: An array, or its shape and dtype.
        biases: Likewise, or None.

    Raises:
        ProblemError: Shapes that do not fit together, or biases that are missing or too many.
        DTypeError: Scales or biases of other dtypes.
    """
    _check_presence(op, form, biases)
    _check_scale_dtypes(op, form, scales, biases)
    if w_shape[:-2] != scales.shape[:-2]:
        raise ProblemError(
            f"[{op}] Weight and scales should have the same batch shape. Received weight with "
            f"shape {shape_text(w_shape)}, scales with {shape_text(scales.shape)}."
        )
    columns = w_shape[-1] * 32 // form.bits
    expected = (*w_shape[:-1], columns // form.group)
    if columns % form.group or expected[-1:] != scales.shape[-1:]:
        raise ProblemError(
            f"[{op}] The shapes of the weight and scales are incompatible based on bits and "
            f"group_size. w.shape() == {shape_text(w_shape)} and scales.shape() == "
            f"{shape_text(scales.shape)} with group_size={form.group} and bits={form.bits}"
        )
    if expected != scales.shape:
        raise ProblemError(
            f"[{op}] Expected scales for every row of the weight, {shape_text(expected)}, got "
            f"{shape_text(scales.shape)}."
        )
    if biases is not None and biases.shape != scales.shape:
        raise ProblemError(
            f"[{op}] Scales and biases should have the same shape. Received scales with shape "
            f"{shape_text(scales.shape)} and biases with {shape_text(biases.shape)}"
        )


def _check_presence(op: str, form: Grouping, biases: _Stated | None) -> None:
    if form.mode == AFFINE and biases is None:
        raise ProblemError(f"[{op}] Biases must be provided for affine quantization.")
    if form.mode != AFFINE and biases is not None:
        raise ProblemError(f"[{op}] Biases must be null for quantization mode '{form.mode}'.")


def _check_scale_dtypes(op: str, form: Grouping, scales: _Stated, biases: _Stated | None) -> None:
    if biases is None:
        if scales.dtype != mx.uint8:
            raise DTypeError(
                f"[{op}] Scale type must be uint8 but received type {mlx_name(scales.dtype)}."
            )
    elif scales.dtype not in MLX_FLOATS or biases.dtype not in MLX_FLOATS:
        raise DTypeError(
            f"[{op}] Only real floating types are supported but scales.dtype() == "
            f"{mlx_name(scales.dtype)} and biases.dtype() == {mlx_name(biases.dtype)}."
        )


def check_tensor_scale(op: str, form: Grouping, shape: Shape, dtype: mx.Dtype) -> None:
    """Check the scale of a tensor: one float32, for ``nvfp4`` alone.

    Raises:
        ProblemError: Another mode, or another shape.
        DTypeError: Another dtype.
    """
    _check_global_scale(op, form, dtype)
    if shape not in ((), (1,)):
        raise ProblemError(
            f"[{op}] Global scale must be a scalar but got shape {shape_text(shape)}."
        )


def check_expert_scales(op: str, form: Grouping, shape: Shape, dtype: mx.Dtype, count: int) -> None:
    """Check the scales of several tensors, one float32 each, for ``nvfp4`` alone.

    Raises:
        ProblemError: Another mode, or another shape.
        DTypeError: Another dtype.
    """
    _check_global_scale(op, form, dtype)
    if shape != (count,):
        raise ProblemError(
            f"[{op}] Global scale must have one entry per expert with shape ({count}) but got "
            f"{shape_text(shape)}."
        )


def _check_global_scale(op: str, form: Grouping, dtype: mx.Dtype) -> None:
    if form.mode != "nvfp4":
        raise ProblemError(f"[{op}] Global scale is only supported for 'nvfp4' quantization mode.")
    if dtype != mx.float32:
        raise DTypeError(f"[{op}] Global scale must have dtype float32 but got {mlx_name(dtype)}.")


def compute_dtype(op: str, x: _Stated, scales: _Stated, biases: object | None) -> mx.Dtype:
    """Return the dtype in which ``x`` is read: its own, or what MLX promotes integers to.

    Raises:
        DTypeError: It has none that a product takes.
    """
    if x.dtype in MLX_FLOATS:
        return x.dtype
    promotes = (biases is not None and mx.issubdtype(x.dtype, mx.integer)) or x.dtype == mx.bool_
    if promotes and biases is not None:
        return scales.dtype
    raise DTypeError(
        f"[{op}] Only real floating types are supported but x.dtype() == {mlx_name(x.dtype)}."
    )


def natural_dtype(x: mx.Dtype, scales: _Stated, biases: _Stated | None) -> mx.Dtype:
    """Return MLX's result dtype: the promotion of all floats, or x's own beside uint8 scales."""
    return x if biases is None else mx.result_type(x, scales.dtype, biases.dtype)


def _format(op: str, name: object) -> DType:
    found = FORMATS.get(name) if isinstance(name, str) else None
    if found is None:
        raise ProblemError(f"[{op}] Expected a format of {', '.join(FORMATS)}, got {name!r}.")
    return found


def _check_codes(op: str, codes: object) -> None:
    given = as_array(op, "codes", codes)
    if given.dtype != mx.uint8:
        raise DTypeError(f"[{op}] Expected codes of uint8, got {mlx_name(given.dtype)}.")


def _check_float(op: str, name: str, dtype: object) -> None:
    if dtype not in MLX_FLOATS:
        raise DTypeError(
            f"[{op}] Expected {name} of float32, float16 or bfloat16, got {mlx_name(dtype)}."
        )


def _check_bits(op: str, bits: object) -> None:
    if bits not in AFFINE_CODES:
        raise ProblemError(f"[{op}] Expected 1, 2, 3, 4, 5, 6 or 8 bits, got {bits!r}.")


def _check_packed(op: str, words: mx.array, bits: int) -> None:
    if as_array(op, "w", words).dtype != mx.uint32:
        raise DTypeError(
            f"[{op}] The weight matrix should be uint32 but received {mlx_name(words.dtype)}"
        )
    _check_bits(op, bits)
    if words.ndim < 1 or words.shape[-1] * 32 % bits:
        raise ProblemError(
            f"[{op}] Expected rows of whole {bits}-bit codes, got {shape_text(words.shape)}."
        )

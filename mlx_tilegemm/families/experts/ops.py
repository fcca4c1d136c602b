"""The public operations on chosen matrices: arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from operator import itemgetter
from typing import Any

import mlx.core as mx

from ...backends import StreamOrDevice, is_on_gpu, resolved_backend
from ...core.arguments import as_array, as_flag, as_whole, check_out_dtype, kind_name
from ...core.context import Settings, current_settings, is_exact
from ...core.fast_path import Served, every_of, with_fast_path
from ...core.scaling_request import as_block
from ...core.tracing import is_shapeless, is_traced, probes
from ...errors import DTypeError
from .fallback import is_on_cpu, multiplies_float32, of_any_size, refuse_sizes
from .indices import as_int32, check_values, flat_indices, spread_indices, spreading
from .key import (
    ARRAYS,
    GATHER_FP8_MM,
    GATHER_MM,
    GATHER_QMM,
    GROUPED_MATMUL,
    INDEXED,
    SEGMENTED_MM,
    ExpertCall,
    ExpertKey,
    expert_call,
    stated,
)
from .problem import ExpertProblem


@with_fast_path(*ARRAYS[GATHER_MM], often=("transpose_b",))
def gather_mm(
    a: mx.array,
    b: mx.array,
    /,
    lhs_indices: mx.array | None = None,
    rhs_indices: mx.array | None = None,
    *,
    sorted_indices: bool = False,
    transpose_b: bool = False,
    out_dtype: mx.Dtype | None = None,
    stream: StreamOrDevice = None,
) -> Served[mx.array]:
    """Multiply matrices that indices choose, without copying, sorting or casting any of them.

    Product ``p`` is ``a[lhs_indices[p]] @ b[rhs_indices[p]]``. Indices count matrices over all
    batch axes of their operand, and broadcast with one another. Products are summed in float32, and
    the result is rounded once.

    Args:
        a: ``[..., m, k]``, or ``[k]``, of float32, float16 or bfloat16.
        b: ``[..., k, n]``, or ``[..., n, k]`` with ``transpose_b``, or ``[k]``, of any of these.
            Integers beside a float are cast to what MLX promotes them to.
        lhs_indices: Integers; None takes the matrices of ``a`` in order, in the shape of its batch
            axes.
        rhs_indices: Integers; None likewise takes those of ``b``. An index of no matrix is refused
            where values are known: on a CPU and in the emulator, outside of `mx.compile` and of
            derivatives. On a GPU nothing is evaluated for it: there a kernel makes its row zero,
            and MLX's own ops, where they serve, read what is not the operand's.
        sorted_indices: Whether ``rhs_indices`` are promised to be sorted, which MLX's own op gains
            from. Kernels take them in any order.
        transpose_b: Swap the last two axes of ``b`` as it is read; no copy is made.
        out_dtype: Result dtype; None is MLX's promotion of ``a`` and ``b``.
        stream: Stream or device of the call; None is the default one.

    Returns:
        ``[..., m, n]`` after the shape to which the indices broadcast, without ``m`` for a 1-D
        ``a`` and without ``n`` for a 1-D ``b``.

    Raises:
        ProblemError: Shapes that do not fit together, or, where values are known, an index out of
            range (a `ValueError`).
        DTypeError: Arguments of the wrong kind, or dtypes that no product takes (a `TypeError`).
        BackendError: Inside `mx.compile` for arrays of any size, if indices of an operand are left
            out (a `RuntimeError`).

    Example:
        >>> x = mx.random.normal((5, 1, 1, 64)).astype(mx.bfloat16)
        >>> experts = mx.random.normal((8, 32, 64)).astype(mx.float16)
        >>> chosen = mx.random.randint(0, 8, (5, 2))
        >>> gather_mm(x, experts, rhs_indices=chosen, transpose_b=True).shape
        (5, 2, 1, 32)
    """
    arrays = _arrays(GATHER_MM, a=a, b=b, lhs_indices=lhs_indices, rhs_indices=rhs_indices)
    options = {
        "sorted_indices": sorted_indices,
        "transpose_b": transpose_b,
        "out_dtype": out_dtype,
    }
    return _gathered(GATHER_MM, arrays, options, stream)


@with_fast_path(*ARRAYS[GATHER_QMM])
def gather_qmm(
    x: mx.array,
    w: mx.array,
    /,
    scales: mx.array,
    biases: mx.array | None = None,
    lhs_indices: mx.array | None = None,
    rhs_indices: mx.array | None = None,
    transpose: bool = True,
    group_size: int | None = None,
    bits: int | None = None,
    mode: str = "affine",
    global_scale: mx.array | None = None,
    *,
    sorted_indices: bool = False,
    out_dtype: mx.Dtype | None = None,
    stream: StreamOrDevice = None,
) -> Served[mx.array]:
    """Multiply by quantized matrices that indices choose, decoded where they are used.

    As `gather_mm`, with a weight of `mx.quantize`: each matrix is decoded to float32, products are
    summed in float32, and the result is rounded once. No operand is copied, sorted or cast.

    Args:
        x: ``[..., m, k]`` of float32, float16 or bfloat16. Integers are cast to the dtype of affine
            scales, as MLX casts them.
        w: uint32 ``[..., n, k * bits / 32]``, or ``[..., k, n * bits / 32]`` without ``transpose``.
        scales: A scale for each group of a row of ``w``: for ``"affine"`` of any float dtype, else
            uint8.
        biases: A bias for each group, of any float dtype and the shape of ``scales``, for
            ``"affine"`` alone.
        lhs_indices: As of `gather_mm`, for ``x``.
        rhs_indices: As of `gather_mm`, for ``w``.
        transpose: Multiply by the transposes of ``w``, whose groups are then along ``k``.
        group_size: Elements of a group, as in `quantized_matmul`; None is the mode's.
        bits: Bits of an element, as in `quantized_matmul`; None is the mode's.
        mode: ``"affine"``, ``"mxfp4"``, ``"mxfp8"`` or ``"nvfp4"``.
        global_scale: float32 ``[experts]`` for ``"nvfp4"``: products with a matrix are multiplied
            by its scale and divided by 2688.
        sorted_indices: As of `gather_mm`.
        out_dtype: Result dtype; None is MLX's: the promotion of ``x``, ``scales`` and ``biases``
            for ``"affine"``, else that of ``x``.
        stream: Stream or device of the call; None is the default one.

    Returns:
        ``[..., m, n]`` after the shape to which the indices broadcast.

    Raises:
        ProblemError: Shapes or options that do not fit together, or, where values are known, an
            index out of range (a `ValueError`).
        DTypeError: Arguments of the wrong kind, or dtypes that no product takes (a `TypeError`).
        BackendError: Inside `mx.compile` for arrays of any size, if indices of an operand are left
            out (a `RuntimeError`).

    Example:
        >>> x = mx.random.normal((5, 1, 1, 64)).astype(mx.bfloat16)
        >>> w, scales = mx.quantize(mx.random.normal((8, 32, 64)), mode="mxfp4")
        >>> chosen = mx.random.randint(0, 8, (5, 2))
        >>> gather_qmm(x, w, scales, rhs_indices=chosen, mode="mxfp4").shape
        (5, 2, 1, 32)
    """
    arrays = _arrays(
        GATHER_QMM,
        x=x,
        w=w,
        scales=scales,
        biases=biases,
        global_scale=global_scale,
        lhs_indices=lhs_indices,
        rhs_indices=rhs_indices,
    )
    options = {
        "transpose": transpose,
        "group_size": group_size,
        "bits": bits,
        "mode": mode,
        "sorted_indices": sorted_indices,
        "out_dtype": out_dtype,
    }
    return _gathered(GATHER_QMM, arrays, options, stream)


@with_fast_path(*ARRAYS[GATHER_FP8_MM], often=("block",))
def gather_fp8_mm(
    x: mx.array,
    w: mx.array,
    /,
    scales: mx.array | None = None,
    lhs_indices: mx.array | None = None,
    rhs_indices: mx.array | None = None,
    *,
    format: str = "e4m3",
    block: tuple[int, int] | None = None,
    transpose: bool = True,
    sorted_indices: bool = False,
    out_dtype: mx.Dtype | None = None,
    stream: StreamOrDevice = None,
) -> Served[mx.array]:
    """Multiply by matrices of 8-bit codes that indices choose, decoded where they are used.

    As `gather_mm`, with a weight of codes: an element is its code's value times its scale, in
    float32; products are summed in float32, and the result is rounded once. No operand is copied,
    sorted or cast. Scales lie as the weight is stored, those of each matrix one after another:

    - one for a matrix: ``[..., 1, 1]``;
    - one for a column of the result: ``[..., n, 1]`` (``[..., 1, n]`` without ``transpose``);
    - with ``block=(j, i)``, the last blocks of which may be short, one for j columns of the result
      by i elements along k: ``[..., n / j, k / i]`` (``[..., k / i, n / j]``);
    - of uint8, also one for 32 elements along k. Where that and a ``block`` are of one shape, it is
      the block's.

    Args:
        x: ``[..., m, k]`` of float32, float16 or bfloat16.
        w: Codes ``[..., n, k]``, or ``[..., k, n]`` without ``transpose``.
        scales: Of any float dtype, or e8m0 codes of uint8, whose last is NaN; None without.
        lhs_indices: As of `gather_mm`, for ``x``.
        rhs_indices: As of `gather_mm`, for ``w``.
        format: Format of the codes: ``"e4m3"`` or ``"e5m2"`` of uint8, ``"int8"`` of int8.
        block: Sizes of the blocks that share a scale, such as ``(128, 128)``.
        transpose: Multiply by the transposes of ``w``.
        sorted_indices: As of `gather_mm`.
        out_dtype: Result dtype; None is that of ``x``.
        stream: Stream or device of the call; None is the default one.

    Returns:
        ``[..., m, n]`` after the shape to which the indices broadcast.

    Raises:
        ProblemError: Shapes, formats or options that do not fit together, or, where values are
            known, an index out of range (a `ValueError`).
        DTypeError: Arguments of the wrong kind, or dtypes that no product takes (a `TypeError`).
        BackendError: Inside `mx.compile` for arrays of any size (a `RuntimeError`).

    Example:
        >>> x = mx.random.normal((5, 1, 1, 256)).astype(mx.bfloat16)
        >>> w = formats.encode(mx.random.normal((8, 192, 256)), "e4m3")
        >>> scales, chosen = mx.full((8, 2, 2), 0.5), mx.random.randint(0, 8, (5, 2))
        >>> gather_fp8_mm(x, w, scales, rhs_indices=chosen, block=(128, 128)).shape
        (5, 2, 1, 192)
    """
    given = {"x": x, "w": w} | ({} if scales is None else {"scales": scales})
    arrays = _arrays(GATHER_FP8_MM, **given, lhs_indices=lhs_indices, rhs_indices=rhs_indices)
    options = {
        "format": format,
        "block": block,
        "transpose": transpose,
        "sorted_indices": sorted_indices,
        "out_dtype": out_dtype,
    }
    return _gathered(GATHER_FP8_MM, arrays, options, stream)


@with_fast_path(*ARRAYS[GROUPED_MATMUL], often=("transpose_b",))
def grouped_matmul(
    a: mx.array,
    b: mx.array,
    offsets: mx.array,
    /,
    *,
    transpose_b: bool = False,
    bias: mx.array | None = None,
    out_dtype: mx.Dtype | None = None,
    stream: StreamOrDevice = None,
) -> Served[mx.array]:
    """Multiply groups of rows by a matrix each, without casting any operand into a copy.

    Group ``g`` is the rows from ``offsets[g - 1]``, or 0 for the first, up to ``offsets[g]``.
    Products are summed in float32, and the result is rounded once.

    Args:
        a: ``[rows, k]`` of float32, float16 or bfloat16, sorted by group.
        b: ``[groups, k, n]``, or ``[groups, n, k]`` with ``transpose_b``, of any of these.
        offsets: Integers ``[groups]``, the end of each group, which never fall. Rows past the last
            are zero in the result.
        transpose_b: Swap the last two axes of ``b`` as it is read; no copy is made.
        bias: ``[groups, n]`` of any float dtype, a row for each group, added before the result is
            rounded.
        out_dtype: Result dtype; None is MLX's promotion of ``a`` and ``b``.
        stream: Stream or device of the call; None is the default one.

    Returns:
        ``[rows, n]``.

    Raises:
        ProblemError: Shapes that do not fit together, or, where values are known as for
            `gather_mm`, offsets that fall or are past the rows (a `ValueError`).
        DTypeError: Arguments of the wrong kind, or dtypes that no product takes (a `TypeError`).
        BackendError: Inside `mx.compile` for arrays of any size (a `RuntimeError`).

    Example:
        >>> rows, groups = mx.random.normal((7, 64)), mx.random.normal((3, 64, 32))
        >>> grouped_matmul(rows, groups, mx.array([2, 2, 7])).shape
        (7, 32)
    """
    arrays = _arrays(GROUPED_MATMUL, a=a, b=b, bias=bias, offsets=offsets)
    options = {"transpose_b": transpose_b, "out_dtype": out_dtype}
    return _served(GROUPED_MATMUL, _grouped, arrays, options, stream)


@with_fast_path(*ARRAYS[SEGMENTED_MM])
def segmented_mm(
    a: mx.array,
    b: mx.array,
    /,
    segments: mx.array,
    *,
    out_dtype: mx.Dtype | None = None,
    stream: StreamOrDevice = None,
) -> Served[mx.array]:
    """Multiply segments of the contracted axis, each for a result of its own.

    Result ``s`` is ``a[:, start:end] @ b[start:end]`` for ``start, end = segments[s]``; it is zero
    where the end is not above the start. Products are summed in float32, and the result is rounded
    once.

    Args:
        a: ``[m, k]`` of float32, float16 or bfloat16.
        b: ``[k, n]`` of any of these.
        segments: Integers ``[..., 2]`` from 0 to ``k``.
        out_dtype: Result dtype; None is MLX's promotion of ``a`` and ``b``.
        stream: Stream or device of the call; None is the default one.

    Returns:
        ``[..., m, n]`` after the shape of ``segments`` without its last axis.

    Raises:
        ProblemError: Shapes that do not fit together, or, where values are known as for
            `gather_mm`, segments past ``k`` (a `ValueError`).
        DTypeError: Arguments of the wrong kind, or dtypes that no product takes (a `TypeError`).
        BackendError: Inside `mx.compile` for arrays of any size (a `RuntimeError`).

    Example:
        >>> a, b = mx.random.normal((8, 64)), mx.random.normal((64, 16))
        >>> segmented_mm(a, b, mx.array([[0, 10], [10, 64]])).shape
        (2, 8, 16)
    """
    arrays = _arrays(SEGMENTED_MM, a=a, b=b, segments=segments)
    return _served(SEGMENTED_MM, _segmented, arrays, {"out_dtype": out_dtype}, stream)


_ROUTED = ("x", "w", "scales", "biases", "global_scale", "bias", "rhs_indices")
"""Arrays of `gathered`."""


@with_fast_path(*_ROUTED, often=(*_ROUTED, "out_dtype", "group_size", "bits", "format", "block"))
def gathered(
    x: mx.array,
    w: mx.array,
    rhs_indices: mx.array,
    *,
    scales: mx.array | None = None,
    biases: mx.array | None = None,
    global_scale: mx.array | None = None,
    bias: mx.array | None = None,
    out_dtype: mx.Dtype | None = None,
    sorted_indices: bool = False,
    group_size: int | None = None,
    bits: int | None = None,
    mode: str = "affine",
    format: str | None = None,
    block: tuple[int, int] | None = None,
    stream: StreamOrDevice = None,
) -> Served[mx.array]:
    """Return what `gather_mm`, `gather_qmm` or `gather_fp8_mm` does, plus a row for each matrix.

    Matrices are ``[n, k]``.

    Args:
        x: As of either.
        w: As of either.
        rhs_indices: As of either.
        scales: As of those; there are none of plain elements.
        biases: As of `gather_qmm`.
        global_scale: As of `gather_qmm`.
        bias: ``[experts, n]`` of any float dtype, added before the result is rounded.
        out_dtype: Result dtype.
        sorted_indices: As of either.
        group_size: As of `gather_qmm`.
        bits: As of `gather_qmm`.
        mode: As of `gather_qmm`.
        format: As of `gather_fp8_mm`; None where elements are no codes of a byte.
        block: As of `gather_fp8_mm`.
        stream: Stream or device of the call.
    """
    options: dict[str, Any] = {"sorted_indices": sorted_indices, "out_dtype": out_dtype}
    given = {"x": x, "w": w, "scales": scales, "biases": biases, "global_scale": global_scale}
    if format is not None:
        op, options = GATHER_FP8_MM, {"format": format, "block": block, **options}
    elif scales is not None:
        op = GATHER_QMM
        options = {"group_size": group_size, "bits": bits, "mode": mode, **options}
    else:
        op, given = GATHER_MM, {"a": x, "b": w}
    options["transpose_b" if op == GATHER_MM else "transpose"] = True
    passed = {name: one for name, one in given.items() if one is not None}
    arrays = _arrays(op, **passed, bias=bias, rhs_indices=rhs_indices)
    names = ("a", "b", *_ROUTED[2:]) if op == GATHER_MM else _ROUTED
    return _gathered(op, arrays, options, stream, names)


def _arrays(op: str, **arrays: object) -> dict[str, mx.array]:
    """Return the arrays that are passed, by name; None is what may not be."""
    return {
        name: value if type(value) is mx.array else as_array(op, name, value)
        for name, value in arrays.items()
        if value is not None or name in _REQUIRED
    }


_INDICES = ("lhs_indices", "rhs_indices")
_REQUIRED = frozenset(("a", "b", "x", "w", "scales", "offsets", "segments"))

_PLAIN: dict[str, frozenset[type]] = {
    "transpose": frozenset((bool,)),
    "transpose_b": frozenset((bool,)),
    "sorted_indices": frozenset((bool,)),
    "group_size": frozenset((int, type(None))),
    "bits": frozenset((int, type(None))),
    "mode": frozenset((str,)),
    "format": frozenset((str,)),
    "out_dtype": frozenset((mx.Dtype, type(None))),
    "block": frozenset((type(None),)),
}
"""Types of arguments that need no look."""


def _call(
    op: str, arrays: dict[str, mx.array], options: dict[str, Any], stream: StreamOrDevice
) -> ExpertCall:
    settings: Settings = current_settings()
    for name, value in options.items():
        if type(value) not in _PLAIN[name]:
            options = {name: _option(op, name, value) for name, value in options.items()}
            break
    return expert_call(
        ExpertKey(
            op,
            stated(arrays),
            (*options.items(), ("exact", is_exact(op, None, settings))),
            resolved_backend(stream, settings),
            settings,
        )
    )


def _option(op: str, name: str, value: object) -> object:
    """Return an argument that is no array, of the kind that it has to be of."""
    if name in ("sorted_indices", "transpose", "transpose_b"):
        return as_flag(op, name, value)
    if name == "block":
        return as_block(op, value)
    if name in ("bits", "group_size"):
        return None if value is None else as_whole(op, name, value)
    if name == "out_dtype":
        check_out_dtype(op, value)
    elif not isinstance(value, str):
        raise DTypeError(f"[{op}] Expected {name} to be a string, got {kind_name(value)}.")
    return value


def _gathered(
    op: str,
    arrays: dict[str, mx.array],
    options: dict[str, Any],
    stream: StreamOrDevice,
    names: tuple[str, ...] | None = None,
) -> Served[mx.array]:
    """Serve an op whose matrices indices choose; ``names`` are the arrays' in order, if others."""
    names = names or ARRAYS[op]
    return _served(op, partial(_by_indices, op), arrays, options, stream, names)


_Serve = Callable[[ExpertCall, dict[str, mx.array], StreamOrDevice], mx.array]
"""Returns the products of a prepared call, of arrays by the op's names and in its order."""


def _served(
    op: str,
    serve: _Serve,
    arrays: dict[str, mx.array],
    options: dict[str, Any],
    stream: StreamOrDevice,
    names: tuple[str, ...] | None = None,
) -> Served[mx.array]:
    call, names = _call(op, arrays, options, stream), names or ARRAYS[op]
    if stream is not None:
        return None, serve(call, arrays, stream)

    def by_name(*values: mx.array | None) -> mx.array:
        given = {name: x for name, x in zip(names, values, strict=True) if x is not None}
        return serve(call, given, None)

    kept: Callable[..., mx.array] = by_name
    if call.direct is not None and names == ARRAYS[op] and is_on_gpu(None):
        kept = call.direct
    elif call.takes_any_shape and not call.casts and op in INDEXED:
        kept = _launched(call, arrays, names, by_name)
    return kept, kept(*map(arrays.get, names))


def _launched(
    call: ExpertCall,
    arrays: dict[str, mx.array],
    names: tuple[str, ...],
    followed: Callable[..., mx.array],
) -> Callable[..., mx.array]:
    """Return the call of a kernel for arrays that are as ``arrays``.

    Args:
        call: The prepared call.
        arrays: Some arrays by name.
        names: Names of those that the call takes, in order; what is not among ``arrays`` is None.
        followed: The call where MLX follows a function.
    """
    problem = call.problem
    assert isinstance(problem, ExpertProblem)
    operands = [i for i, name in enumerate(names) if name in arrays and name not in _INDICES]
    take = itemgetter(*operands)
    first, second = [*arrays.values()][:2]
    rhs_of = spreading(arrays.get("rhs_indices"), second.shape[:-2], call.shape)
    lhs_of = spreading(arrays.get("lhs_indices"), first.shape[:-2], call.shape)
    traced, has_lhs = probes().traced, not problem.fanout
    launch = every_of(call.unfollowed, (), len(operands) + 1 + has_lhs)

    def launched(*values: mx.array | None) -> mx.array:
        if traced():
            return followed(*values)
        if has_lhs:
            return launch(*take(values), lhs_of(values[-2]), rhs_of(values[-1]))[0]
        return launch(*take(values), rhs_of(values[-1]))[0]

    return launched


def _grouped(call: ExpertCall, arrays: dict[str, mx.array], stream: StreamOrDevice) -> mx.array:
    operands = _cast(call, arrays, stream)
    given = operands["offsets"]
    operands["offsets"] = as_int32(given, stream)
    traced = _is_traced(GROUPED_MATMUL)
    ordered = [*operands.values()]
    return _result(GROUPED_MATMUL, call, ordered, stream, traced, {"offsets": given})


def _segmented(call: ExpertCall, arrays: dict[str, mx.array], stream: StreamOrDevice) -> mx.array:
    operands = _cast(call, arrays, stream)
    given = operands["segments"]
    operands["segments"] = mx.reshape(as_int32(given, stream), (-1, 2), stream=stream)
    traced = _is_traced(SEGMENTED_MM)
    ordered = [*operands.values()]
    return _result(SEGMENTED_MM, call, ordered, stream, traced, {"segments": given})


def _by_indices(
    op: str, call: ExpertCall, arrays: dict[str, mx.array], stream: StreamOrDevice
) -> mx.array:
    traced = is_traced()
    problem = call.problem
    assert isinstance(problem, ExpertProblem)
    by_mlx = not traced and (is_on_gpu(stream) or multiplies_float32(problem))
    if by_mlx and call.direct is not None:
        if _are_on_cpu(stream):
            check_values(op, problem, {name: arrays.get(name) for name in _INDICES})
        return call.direct(*map(arrays.get, ARRAYS[op]), stream=stream)
    operands = _cast(call, arrays, stream)
    if traced and is_shapeless():
        return _of_any_size(op, problem, operands, stream)
    lhs, rhs = operands.pop("lhs_indices", None), operands.pop("rhs_indices", None)
    ordered = [*operands.values()]
    indices = spread_indices if call.takes_any_shape and not traced else flat_indices
    if not problem.fanout:
        ordered.append(indices(lhs, ordered[0].shape[:-2], call.shape, stream))
    ordered.append(indices(rhs, ordered[1].shape[:-2], call.shape, stream))
    return _result(op, call, ordered, stream, traced, {"lhs_indices": lhs, "rhs_indices": rhs})


def _cast(
    call: ExpertCall, arrays: dict[str, mx.array], stream: StreamOrDevice
) -> dict[str, mx.array]:
    """Return arrays with the integers among those that are multiplied cast as MLX casts them."""
    for name, dtype in call.casts:
        arrays[name] = arrays[name].astype(dtype, stream=stream)
    return arrays


def _of_any_size(
    op: str, problem: ExpertProblem, operands: dict[str, mx.array], stream: StreamOrDevice
) -> mx.array:
    """Return products by MLX's own op, in whose graph no size is, of operands by the op's names."""
    if not {"lhs_indices", "rhs_indices"} <= {*operands}:
        refuse_sizes(op, "what is not indexed is counted.")
    if problem.is_empty:
        refuse_sizes(op, "one of them is 0.")
    if problem.has_codes:
        refuse_sizes(op, "MLX has no op that multiplies these codes.")
    return of_any_size(op, problem, operands, stream)


def _are_on_cpu(stream: StreamOrDevice) -> bool:
    """Whether values can be asked for without waiting for another processor.

    MLX does not say whether an array has been evaluated. On a CPU asking costs no more than the
    evaluation that is due anyway; on a GPU it would stop the calls that are to follow.
    """
    return is_on_cpu(stream) and is_on_cpu(None)


def _result(
    op: str,
    call: ExpertCall,
    operands: list[mx.array],
    stream: StreamOrDevice,
    traced: bool,
    given: Mapping[str, mx.array | None],
) -> mx.array:
    """Return the result of a call of operands, whose indices are as ``given``."""
    if traced:
        return call.run(operands, (), stream)[0]
    if call.is_eager or (call.is_mlx_s and _are_on_cpu(stream)):
        check_values(op, call.problem, given)
    return call.unfollowed(operands, (), stream)[0]


def _is_traced(op: str) -> bool:
    """Return `is_traced`; how matrices are chosen depends on sizes.

    Raises:
        BackendError: Sizes are those of a shapeless compilation.
    """
    traced = is_traced()
    if traced and is_shapeless():
        refuse_sizes(op, "how matrices are chosen depends on them.")
    return traced

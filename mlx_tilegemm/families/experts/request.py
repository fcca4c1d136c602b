"""Requests: products with chosen matrices that Python arguments ask for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import mlx.core as mx

from ...core.arguments import ArraySpec, as_flag, float_out_row, float_row
from ...core.dtypes import DType, mlx_name
from ...core.scaling import Scaling
from ...core.scaling_request import as_block, codes_row, right_scaling
from ...core.shapes import Shape, shape_text
from ...errors import DTypeError, ProblemError
from ...formats import (
    Grouping,
    as_grouping,
    check_expert_scales,
    check_groups,
    check_words,
    compute_dtype,
    natural_dtype,
)
from .problem import ExpertProblem, SegmentedProblem, broadcast_shapes, check_inner, fanout

Arrays = Mapping[str, ArraySpec]
"""Shapes and dtypes of the arrays that are passed, by the op's names."""

Options = Mapping[str, Any]
"""The op's other arguments by name."""


def gather_mm_request(op: str, arrays: Arrays, options: Options) -> ExpertProblem:
    """State the products that `gather_mm` is asked for.

    Raises:
        ProblemError: Shapes that do not fit together.
        DTypeError: Dtypes that no product takes.
    """
    x, w = arrays["a"], arrays["b"]
    transpose = as_flag(op, "transpose_b", options["transpose_b"])
    if not x.shape or not w.shape:
        raise ProblemError(f"[{op}] Expected operands of at least one dimension, got a scalar.")
    x_shape = x.shape if len(x.shape) > 1 else (1, *x.shape)
    column = (1, *w.shape) if transpose else (*w.shape, 1)
    w_shape = w.shape if len(w.shape) > 1 else column
    n, k = w_shape[-2:] if transpose else w_shape[:-3:-1]
    check_inner(op, x.shape, _as_multiplied(w.shape, transpose), (x_shape[-1], k))
    sizes = _indexed(op, arrays, x_shape, w_shape, (n, k))
    columns = (n,) if len(w.shape) > 1 else ()
    out_shape = (*sizes.out_shape[:-2], *x.shape[-2:-1], *columns)
    return _plain(op, arrays, options, replace(sizes, out_shape=out_shape), transpose)


def grouped_request(op: str, arrays: Arrays, options: Options) -> ExpertProblem:
    """State the products that `grouped_matmul` is asked for; raises as `gather_mm_request`."""
    x, w, offsets = (arrays[name] for name in ("a", "b", "offsets"))
    transpose = as_flag(op, "transpose_b", options["transpose_b"])
    if len(x.shape) != 2 or len(w.shape) != 3:
        raise ProblemError(
            f"[{op}] Expected a of two dimensions and b of three, got {shape_text(x.shape)} and "
            f"{shape_text(w.shape)}."
        )
    _check_integral(op, "offsets", offsets.dtype)
    if offsets.shape != w.shape[:1]:
        raise ProblemError(
            f"[{op}] Expected an offset for each of {w.shape[0]} groups, got offsets of shape "
            f"{shape_text(offsets.shape)}."
        )
    n, k = w.shape[-2:] if transpose else w.shape[:-3:-1]
    check_inner(op, x.shape, _as_multiplied(w.shape, transpose), (x.shape[-1], k))
    rows = x.shape[0]
    sizes = _Sizes(
        products=rows,
        m=1,
        n=n,
        k=k,
        experts=w.shape[0],
        sources=rows,
        fanout=1,
        out_shape=(rows, n),
    )
    return _plain(op, arrays, options, sizes, transpose, grouped=True)


def gather_qmm_request(op: str, arrays: Arrays, options: Options) -> ExpertProblem:
    """State the products that `gather_qmm` is asked for; raises as `gather_mm_request`."""
    x, w, scales, biases = arrays["x"], arrays["w"], arrays["scales"], arrays.get("biases")
    weight = as_grouping(op, options["mode"], options["bits"], options["group_size"])
    check_words(op, w)
    check_groups(op, weight, w.shape, scales, biases)
    experts = prod(w.shape[:-2])
    if "global_scale" in arrays:
        scale = arrays["global_scale"]
        check_expert_scales(op, weight, scale.shape, scale.dtype, experts)
    transpose = as_flag(op, "transpose", options["transpose"])
    if len(x.shape) < 2:
        raise ProblemError(
            f"[{op}] Input must have at least two dimensions but got input with shape "
            f"{shape_text(x.shape)}."
        )
    rows, columns = w.shape[-2], w.shape[-1] * 32 // weight.bits
    n, k = (rows, columns) if transpose else (columns, rows)
    if x.shape[-1] != k:
        raise ProblemError(
            f"[{op}] Last dimension of first input with shape (..., {x.shape[-1]}) does not match "
            f"the expanded quantized matrix ({k}, {n}) computed from shape "
            f"{shape_text(w.shape)} with group_size={weight.group}, bits={weight.bits} and "
            f"transpose={str(transpose).lower()}"
        )
    x_row = float_row(op, "x", compute_dtype(op, x, scales, biases))
    return _problem(
        op,
        arrays,
        options,
        _indexed(op, arrays, x.shape, w.shape, (n, k)),
        x=x_row,
        w=weight.codes,
        natural=natural_dtype(x_row.mlx, scales, biases),
        transpose=transpose,
        weight=weight,
        scales=weight.scales or float_row(op, "scales", scales.dtype),
        biases=None if biases is None else float_row(op, "biases", biases.dtype),
    )


def gather_fp8_request(op: str, arrays: Arrays, options: Options) -> ExpertProblem:
    """State the products that `gather_fp8_mm` is asked for; raises as `gather_mm_request`."""
    x, w, scales = arrays["x"], arrays["w"], arrays.get("scales")
    transpose = as_flag(op, "transpose", options["transpose"])
    row = codes_row(op, "w", w, options["format"], "format")
    for name, one in (("x", x), ("w", w)):
        if len(one.shape) < 2:
            raise ProblemError(
                f"[{op}] Expected {name} of at least two dimensions, got {shape_text(one.shape)}."
            )
    n, k = w.shape[-2:] if transpose else w.shape[:-3:-1]
    check_inner(op, x.shape, _as_multiplied(w.shape, transpose), (x.shape[-1], k))
    x_row = float_row(op, "x", x.dtype)
    sizes = _indexed(op, arrays, x.shape, w.shape, (n, k))
    scaling = None if scales is None else options.get("scaling") or _scaling(op, w, scales, options)
    return _problem(
        op,
        arrays,
        options,
        sizes,
        x=x_row,
        w=row,
        natural=x_row.mlx,
        transpose=transpose,
        scaling=scaling,
        scales=None if scaling is None else scaling.dtype,
    )


def _scaling(op: str, w: ArraySpec, scales: ArraySpec, options: Options) -> Scaling:
    """Return how scales lie, each matrix of the weight having its own."""
    batch = w.shape[:-2]
    if scales.shape[:-2] != batch or len(scales.shape) != len(w.shape):
        raise ProblemError(
            f"[{op}] Expected scales for each matrix of the weight, of shape "
            f"{shape_text((*batch, 1, 1))} or more, got {shape_text(scales.shape)}."
        )
    block = as_block(op, options["block"])
    found = right_scaling(op, "scales", w, scales, block, options["transpose"])
    return replace(found, batched=True)


def segmented_request(op: str, arrays: Arrays, options: Options) -> SegmentedProblem:
    """State the products that `segmented_mm` is asked for; raises as `gather_mm_request`."""
    a, b, segments = (arrays[name] for name in ("a", "b", "segments"))
    if len(a.shape) != 2 or len(b.shape) != 2:
        raise ProblemError(f"[{op}] Batched matmul not supported")
    if segments.shape[-1:] != (2,):
        raise ProblemError(
            f"[{op}] The segments should have shape (..., 2) but {shape_text(segments.shape)} was "
            "provided."
        )
    _check_integral(op, "segments", segments.dtype)
    transpose_a = bool(options.get("transpose_a"))
    transpose_b = bool(options.get("transpose_b"))
    m, k = a.shape[::-1] if transpose_a else a.shape
    inner, n = b.shape[::-1] if transpose_b else b.shape
    check_inner(op, a.shape, b.shape, (k, inner))
    left, right = _rows(op, a.dtype, b.dtype)
    return SegmentedProblem(
        m=m,
        n=n,
        k=k,
        segments=prod(segments.shape[:-1]),
        a=left,
        b=right,
        out=float_out_row(op, options["out_dtype"], mx.result_type(left.mlx, right.mlx)),
        transpose_a=transpose_a,
        transpose_b=transpose_b,
        out_shape=(*segments.shape[:-1], m, n),
        exact=bool(options.get("exact")),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sizes:
    """Sizes of products with chosen matrices; see `ExpertProblem` for each."""

    products: int
    m: int
    n: int
    k: int
    experts: int
    sources: int
    fanout: int
    out_shape: Shape


def _indexed(
    op: str, arrays: Arrays, x_shape: Shape, w_shape: Shape, columns_and_depth: tuple[int, int]
) -> _Sizes:
    """Return the sizes of products by indices, of matrices of two shapes."""
    index_shape = _index_shape(op, arrays, x_shape[:-2], w_shape[:-2])
    n, k = columns_and_depth
    return _Sizes(
        products=prod(index_shape),
        m=x_shape[-2],
        n=n,
        k=k,
        experts=prod(w_shape[:-2]),
        sources=prod(x_shape[:-2]),
        fanout=0 if "lhs_indices" in arrays else fanout(x_shape[:-2], index_shape),
        out_shape=(*index_shape, x_shape[-2], n),
    )


def _plain(
    op: str,
    arrays: Arrays,
    options: Options,
    sizes: _Sizes,
    transpose: bool,
    *,
    grouped: bool = False,
) -> ExpertProblem:
    """Return the problem of a weight of plain elements."""
    x, w = _rows(op, arrays["a"].dtype, arrays["b"].dtype)
    natural = mx.result_type(x.mlx, w.mlx)
    return _problem(
        op,
        arrays,
        options,
        sizes,
        x=x,
        w=w,
        natural=natural,
        transpose=transpose,
        grouped=grouped,
    )


def _problem(
    op: str,
    arrays: Arrays,
    options: Options,
    sizes: _Sizes,
    *,
    x: DType,
    w: DType,
    natural: mx.Dtype,
    transpose: bool,
    weight: Grouping | None = None,
    scaling: Scaling | None = None,
    scales: DType | None = None,
    biases: DType | None = None,
    grouped: bool = False,
) -> ExpertProblem:
    """Return the problem of products of some sizes; ``natural`` is the result's own dtype."""
    return ExpertProblem(
        products=sizes.products,
        m=sizes.m,
        n=sizes.n,
        k=sizes.k,
        experts=sizes.experts,
        sources=sizes.sources,
        fanout=sizes.fanout,
        x=x,
        w=w,
        weight=weight,
        scaling=scaling,
        scales=scales,
        biases=biases,
        tensor_scale="global_scale" in arrays,
        bias=_bias(op, arrays, sizes.experts, sizes.n),
        out=float_out_row(op, options["out_dtype"], natural),
        transpose=transpose,
        grouped=grouped,
        sorted=not grouped and as_flag(op, "sorted_indices", options["sorted_indices"]),
        out_shape=sizes.out_shape,
        exact=bool(options.get("exact")),
    )


def _as_multiplied(shape: Shape, transpose: bool) -> Shape:
    return (*shape[:-2], *shape[:-3:-1]) if transpose else shape


def _index_shape(op: str, arrays: Arrays, x_batch: Shape, w_batch: Shape) -> Shape:
    """Return the shape of the products: that of both indices, or of the batch for one not given."""
    shapes: list[Shape] = []
    for name, batch in (("lhs_indices", x_batch), ("rhs_indices", w_batch)):
        given = arrays.get(name)
        if given is not None and not mx.issubdtype(given.dtype, mx.integer):
            raise DTypeError(f"[{op}] Got indices with invalid dtype. Indices must be integral.")
        shape: Shape = batch if given is None else given.shape
        shapes.append(shape)
        if given is not None and 0 in batch and 0 not in shape:
            raise ProblemError(f"[{op}] Expected {name} of a matrix, got a batch of none.")
    return broadcast_shapes(*shapes)


def _check_integral(op: str, name: str, dtype: mx.Dtype) -> None:
    if not mx.issubdtype(dtype, mx.integer):
        raise DTypeError(
            f"[{op}] Got {name} with invalid dtype. {name.capitalize()} must be integral."
        )


def _rows(op: str, a: mx.Dtype, b: mx.Dtype) -> tuple[DType, DType]:
    """Return the rows of two dtypes, each its own; an integer or bool is what MLX promotes it to.

    Raises:
        DTypeError: No floats, or wider ones.
    """
    promoted = mx.result_type(a, b)
    if not mx.issubdtype(promoted, mx.floating):
        raise DTypeError(
            f"[{op}] Only real floating point types are supported but {mlx_name(a)} and "
            f"{mlx_name(b)} were provided which results in {mlx_name(promoted)}, which is not a "
            "real floating point type."
        )
    left, right = (_read_dtype(one, promoted) for one in (a, b))
    return float_row(op, "a", left), float_row(op, "b", right)


def casts(arrays: Arrays) -> tuple[tuple[str, mx.Dtype], ...]:
    """Return what operands that are multiplied are cast to, by their names: integers, as by MLX."""
    names = tuple(name for name in ("a", "b") if name in arrays)
    if names:
        promoted = mx.result_type(*(mx.zeros((), arrays[name].dtype) for name in names))
    else:
        names, promoted = ("x",), arrays.get("scales", arrays["x"]).dtype
    wanted = {name: _read_dtype(arrays[name].dtype, promoted) for name in names}
    return tuple(one for one in wanted.items() if one[1] != arrays[one[0]].dtype)


def index_shape(arrays: Arrays) -> Shape:
    """Return the shape of indexed products, of arrays in the op's order."""
    x, w = tuple(arrays.values())[:2]
    lhs, rhs = arrays.get("lhs_indices"), arrays.get("rhs_indices")
    left = x.shape[:-2] if lhs is None else lhs.shape
    return broadcast_shapes(left, w.shape[:-2] if rhs is None else rhs.shape)


def _read_dtype(dtype: mx.Dtype, promoted: mx.Dtype) -> mx.Dtype:
    """Return the dtype in which an operand is read: a float's own, else the promoted one."""
    return dtype if mx.issubdtype(dtype, mx.floating) else promoted


def _bias(op: str, arrays: Arrays, experts: int, n: int) -> DType | None:
    bias = arrays.get("bias")
    if bias is None:
        return None
    if bias.shape != (experts, n):
        raise ProblemError(
            f"[{op}] Expected bias of a row for each matrix, ({experts},{n}), got "
            f"{shape_text(bias.shape)}."
        )
    return float_row(op, "bias", bias.dtype)

"""Products with chosen matrices by MLX's own ops: for the ``mlx`` backend and for the rest.

Same semantics as the kernels: float32 accumulation and one rounding. MLX's ops cast operands of
other dtypes into copies, read a weight again for every row unless rows are sorted by it, and know
neither a bias nor groups of rows: rows are sorted here where that is worth it, as models sort them.
Codes of a byte, whose scales may lie in any way, are decoded into a copy first.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import mlx.core as mx

from ...backends import StreamOrDevice, device_type
from ...call.precision import refuse_rounding, unrounded
from ...call.transforms import on
from ...core import mlx_ops
from ...core.arguments import ArraySpec
from ...core.dtypes import FLOAT32
from ...core.fast_path import by_mlx
from ...core.problem import Factors
from ...core.tracing import probes
from ...errors import BackendError
from ...formats import TENSOR_SCALE, byte_values
from .key import GATHER_MM, SEGMENTED_MM
from .problem import AnyProblem, ExpertProblem, SegmentedProblem

if TYPE_CHECKING:
    from ...core.family import Run

SORTED_PRODUCTS = 64
"""Products of a row each from which sorting them is worth it, as mlx-lm has it."""

SORTED_PRODUCTS_ON_CUDA = 1024
"""As many on an NVIDIA GPU: of 64 and 512 products MLX's ops take longer with sorting (H100).

Of 4096, sorting is worth it (H200: plain elements 2.8 against 1.0 ms, mxfp4 2.7 against 1.0), but
not for affine weights, of which MLX's op gains nothing: 2.9 ms without and 3.1 with it.
"""

Given = dict[str, mx.array]


def mlx_call(problem: AnyProblem) -> Run:
    """Return the call of MLX's op for operands in the problem's order."""
    if isinstance(problem, SegmentedProblem):
        return _exactly(SEGMENTED_MM, problem, _segmented(problem))
    return _exactly(GATHER_MM, problem, _chosen(problem))


def of_any_size(op: str, problem: ExpertProblem, given: Given, stream: StreamOrDevice) -> mx.array:
    """Return products by MLX's op, in whose graph no size is, of operands by the op's names.

    Indices of both operands are among them.
    """
    if problem.exact and multiplies_float32(problem):
        refuse_rounding(op, stream)
    with on(stream):
        if problem.computed is not problem.natural or is_on_cpu(stream):
            given = {name: _widened(x) for name, x in given.items()}
        return _chosen_of(problem, given).astype(problem.out.mlx)


def multiplies_float32(problem: AnyProblem) -> bool:
    """Whether MLX's op multiplies float32."""
    return problem.computed is FLOAT32


def sorts(problem: ExpertProblem, least: int = SORTED_PRODUCTS) -> bool:
    """Whether rows are sorted by expert before MLX's op, and back after it.

    Args:
        problem: The products.
        least: From how many products on.
    """
    asked = problem.sorted and problem.fanout == 1
    return problem.m == 1 and problem.products >= least and not (problem.grouped or asked)


def least_sorted(problem: ExpertProblem) -> int:
    """Return from how many products on MLX's ops here are given sorted rows."""
    if not mx.cuda.is_available():
        return SORTED_PRODUCTS
    is_affine = problem.weight is not None and problem.biases is not None
    return sys.maxsize if is_affine else SORTED_PRODUCTS_ON_CUDA


def direct_call(
    op: str, problem: AnyProblem, arrays: Mapping[str, ArraySpec]
) -> Callable[..., mx.array] | None:
    """Return MLX's op for the arrays of a call on a GPU, as they are passed, and a stream.

    None where it does not compute what is asked, or where rows are sorted for it.
    """
    p = problem
    if not isinstance(p, ExpertProblem) or not _is_mlx_s(p):
        return None
    if min(len(one.shape) for one in list(arrays.values())[:2]) < 2:
        return None
    ordered = p.sorted and p.fanout == 1
    is_counted = not {"lhs_indices", "rhs_indices"} <= {*arrays}
    refuse = partial(refuse_sizes, op, "what is not indexed is counted.") if is_counted else None
    return (
        _direct_plain(p, ordered, refuse) if p.weight is None else _direct_coded(p, ordered, refuse)
    )


def refuse_sizes(op: str, reason: str) -> NoReturn:
    """Say why sizes may not change.

    Raises:
        BackendError: Always.
    """
    raise BackendError(
        f"[{op}] Expected sizes that stay, got those of mx.compile(shapeless=True): {reason}"
    )


def _is_mlx_s(p: ExpertProblem) -> bool:
    """Whether products are what MLX's op makes of the operands."""
    own = p.computed is p.natural and p.out is p.natural
    more = p.is_empty or p.tensor_scale or p.bias is not None or p.has_codes
    refused = p.exact and multiplies_float32(p)
    return own and not more and not refused and not sorts(p, least_sorted(p))


_Refuse = Callable[[], NoReturn] | None
"""Refuses sizes that may change; None where they may."""


def _direct_plain(
    problem: ExpertProblem, ordered: bool, refuse: _Refuse
) -> Callable[..., mx.array]:
    transpose, shapeless = problem.transpose, probes().shapeless

    @by_mlx
    def call(
        a: mx.array,
        b: mx.array,
        lhs: mx.array | None,
        rhs: mx.array | None,
        stream: StreamOrDevice = None,
    ) -> mx.array:
        if refuse and shapeless():
            refuse()
        if transpose:
            b = mx.swapaxes(b, -1, -2, stream=stream)
        return mlx_ops.gather_mm(a, b, lhs, rhs, sorted_indices=ordered, stream=stream)

    return call


def _direct_coded(
    problem: ExpertProblem, ordered: bool, refuse: _Refuse
) -> Callable[..., mx.array]:
    weight, shapeless = problem.weight, probes().shapeless
    assert weight is not None
    transpose, group, bits, mode = problem.transpose, weight.group, weight.bits, weight.mode

    @by_mlx
    def call(
        x: mx.array,
        w: mx.array,
        scales: mx.array,
        biases: mx.array | None,
        _: None,
        lhs: mx.array | None,
        rhs: mx.array | None,
        stream: StreamOrDevice = None,
    ) -> mx.array:
        if refuse and shapeless():
            refuse()
        if stream is None and not ordered:
            # Keywords would take a tenth of the call's time.
            return mlx_ops.gather_qmm(x, w, scales, biases, lhs, rhs, transpose, group, bits, mode)
        return mlx_ops.gather_qmm(
            x,
            w,
            scales,
            biases,
            lhs,
            rhs,
            transpose,
            group,
            bits,
            mode,
            sorted_indices=ordered,
            stream=stream,
        )

    return call


def _exactly(op: str, problem: AnyProblem, run: Run) -> Run:
    return unrounded(op, run) if problem.exact and multiplies_float32(problem) else run


class _Way(NamedTuple):
    """How MLX's op is called: where, and whether on operands made float32."""

    on_cpu: bool
    widened: bool


def _chosen(problem: ExpertProblem) -> Run:
    is_wider = problem.computed is not problem.natural

    def run(
        operands: Sequence[mx.array], factors: Factors, stream: StreamOrDevice
    ) -> list[mx.array]:
        given = dict(zip(problem.operand_names, operands, strict=True))
        on_cpu = is_on_cpu(stream)
        # On a CPU MLX's op multiplies float32 alone, or sums in the operands' dtype.
        way = _Way(on_cpu, is_wider or on_cpu)
        with on(stream):
            return [mx.reshape(_products(problem, given, way), problem.out_shape)]

    return run


def _products(problem: ExpertProblem, given: Given, way: _Way) -> mx.array:
    """Return all products, ``[products, m, n]``, in the result's dtype."""
    p = problem
    shape, out = (p.products, p.m, p.n), p.out.mlx
    if p.is_empty:
        value, valid = mx.zeros(shape), None
        experts = mx.zeros((p.products,), dtype=mx.int32)
    else:
        experts, valid = _experts(p, given)
        value = _multiplied(p, given, experts, way)
    if p.tensor_scale and not p.is_empty:
        scale = mx.take(given["global_scale"], experts) / TENSOR_SCALE
        value = value * mx.reshape(scale, (-1, 1, 1))
    if p.bias is not None and p.experts:
        value = value + mx.take(given["bias"], experts, axis=0)[:, None].astype(mx.float32)
    if valid is not None:
        value = mx.where(mx.reshape(valid, (-1, 1, 1)), value, 0)
    return value if value.dtype == out else value.astype(out)


def _experts(problem: ExpertProblem, given: Given) -> tuple[mx.array, mx.array | None]:
    """Return the expert of each product, and which products have one."""
    if not problem.grouped:
        return given["rhs_indices"], None
    rows = mx.arange(problem.products)[:, None]
    found = mx.sum(given["offsets"][None] <= rows, axis=1).astype(mx.int32)
    return mx.minimum(found, problem.experts - 1), found < problem.experts


def _multiplied(problem: ExpertProblem, given: Given, experts: mx.array, way: _Way) -> mx.array:
    p = problem
    x = mx.reshape(given["x"], (p.sources, p.m, p.k))
    sources = given.get("lhs_indices")
    if sources is None and p.fanout != 1:
        sources = mx.arange(p.products) // p.fanout
    if not sorts(p, SORTED_PRODUCTS if way.on_cpu else least_sorted(p)):
        ordered = p.grouped or (p.sorted and sources is None)
        return _by_op(p, given, x, sources, experts, ordered, way.widened)
    order = mx.argsort(experts)
    taken = order if sources is None else mx.take(sources, order)
    x = mx.take(x, taken, axis=0)
    value = _by_op(p, given, x, None, mx.take(experts, order), True, way.widened)
    return mx.take(value, mx.argsort(order), axis=0)


def _by_op(
    problem: ExpertProblem,
    given: Given,
    x: mx.array,
    sources: mx.array | None,
    experts: mx.array,
    ordered: bool,
    widened: bool,
) -> mx.array:
    """Call MLX's op, on operands made float32 where it is to be wider than theirs."""
    p = problem
    if widened:
        x = x.astype(mx.float32)
    if p.weight is None:
        w, experts = _matrices(p, given, experts, widened)
        w = w.astype(mx.float32) if widened else w
        w = mx.swapaxes(w, -1, -2) if p.transpose else w
        return mlx_ops.gather_mm(x, w, sources, experts, sorted_indices=ordered)
    floats = {name: given[name] for name in ("scales", "biases") if name in given}
    if widened and p.biases is not None:
        floats = {name: one.astype(mx.float32) for name, one in floats.items()}
    return mlx_ops.gather_qmm(
        x,
        _stacked(p, given["w"]),
        _stacked(p, floats["scales"]),
        _stacked(p, floats["biases"]) if "biases" in floats else None,
        sources,
        experts,
        p.transpose,
        p.weight.group,
        p.weight.bits,
        p.weight.mode,
        sorted_indices=ordered,
    )


def _matrices(
    problem: ExpertProblem, given: Given, experts: mx.array, widened: bool
) -> tuple[mx.array, mx.array]:
    """Return matrices of plain elements, and which of them each product takes.

    Codes of a byte are decoded, and others may be to be widened: those of all experts, or of each
    product's if these are fewer.
    """
    p = problem
    # A vector stands for a matrix of one column.
    w = mx.reshape(given["w"], (p.experts, *((p.n, p.k) if p.transpose else (p.k, p.n))))
    scales = None if p.scaling is None else _stacked(p, given["scales"])
    is_changed = p.has_codes or (widened and p.w is not FLOAT32)
    if is_changed and p.products < p.experts:
        w = mx.take(w, experts, axis=0)
        scales = None if scales is None else mx.take(scales, experts, axis=0)
        experts = mx.arange(p.products)
    return (byte_values(p.w, w, p.scaling, scales, p.transpose) if p.has_codes else w), experts


def _stacked(problem: ExpertProblem, array: mx.array) -> mx.array:
    """Return matrices with one axis before theirs."""
    return mx.reshape(array, (problem.experts, *array.shape[-2:]))


def _segmented(problem: SegmentedProblem) -> Run:
    p = problem

    def run(
        operands: Sequence[mx.array], factors: Factors, stream: StreamOrDevice
    ) -> list[mx.array]:
        a, b, segments = operands
        with on(stream):
            if p.is_empty:
                return [mx.zeros(p.out_shape, p.out.mlx)]
            if p.computed is not p.natural or is_on_cpu(stream):
                a, b = a.astype(mx.float32), b.astype(mx.float32)
            a = mx.swapaxes(a, 0, 1) if p.transpose_a else a
            b = mx.swapaxes(b, 0, 1) if p.transpose_b else b
            # MLX's op reads what lies past the operands, or ends the process.
            ends = mx.clip(segments, 0, p.k).astype(mx.uint32)
            value = mlx_ops.segmented_mm(a, b, ends)
            return [mx.reshape(value, p.out_shape).astype(p.out.mlx)]

    return run


def _widened(x: mx.array) -> mx.array:
    return x.astype(mx.float32) if mx.issubdtype(x.dtype, mx.floating) else x


def _chosen_of(problem: ExpertProblem, given: Given) -> mx.array:
    weight, experts = problem.weight, given["rhs_indices"]
    indices = (given["lhs_indices"], experts)
    if weight is None:
        b = given["b"]
        is_swapped = problem.transpose and b.ndim > 1
        value = mlx_ops.gather_mm(given["a"], mx.swapaxes(b, -1, -2) if is_swapped else b, *indices)
    else:
        value = mlx_ops.gather_qmm(
            given["x"],
            given["w"],
            given["scales"],
            given.get("biases"),
            *indices,
            problem.transpose,
            weight.group,
            weight.bits,
            weight.mode,
        )
    if problem.tensor_scale:
        scales = mx.take(given["global_scale"], experts) / TENSOR_SCALE
        value = value * mx.expand_dims(scales, (-1, -2))
    if problem.bias is not None:
        value = value + mx.expand_dims(mx.take(given["bias"], experts, axis=0), -2)
    return value


def is_on_cpu(stream: StreamOrDevice) -> bool:
    """Whether MLX's ops of a stream run on the CPU; None is the default one."""
    return device_type(mx.default_device() if stream is None else stream) == mx.cpu

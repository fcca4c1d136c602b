"""Attention by `mx.fast.scaled_dot_product_attention`, wherever that computes what is asked for.

It rounds what it computes to the type of its operands. Where MLX has a fused kernel for them it
accumulates in float32 all the same; where it has none it is a graph of ops that would round the
scores, too, so that operands of 16 bits are then cast to float32. Rows with nothing to attend to
are 0 here and the mean of all values, or NaN, there: they are kept from it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import mlx.core as mx

from ...backends import StreamOrDevice, is_on_gpu
from ...core import mlx_ops
from ...core.dtypes import FLOAT32, DType
from ...core.problem import Number
from ...core.tracing import is_traced
from .price import natural_type
from .problem import AttentionProblem, MaskKind

NODE = "ScaledDotProductAttention"
"""Name of the node of MLX's fused kernels in a graph."""

LOW = -1e30
"""Additive masks below this hide any score, and MLX's kernels may multiply them by log2(e)."""

Arrays = Mapping[str, mx.array]


def serves(problem: AttentionProblem) -> bool:
    """Whether MLX's op has all results of an attention, which is of the sizes seen."""
    sizes = (*problem.out_shape, problem.kv_len, problem.head_dim)
    has_rows = problem.return_lse or problem.return_norm
    return problem.softmax and not has_rows and 0 not in sizes


def takes_as_given(problem: AttentionProblem) -> bool:
    """Whether MLX's op has an attention of its operands as they are, and rounds no scores."""
    return serves(problem) and _type_as_given(problem) is FLOAT32.mlx


def attention(problem: AttentionProblem) -> Callable[..., list[mx.array]]:
    """Return the call of MLX's op for an attention that it serves, of sizes that stay.

    It takes what a `Run` takes, and whether MLX is following a function.
    """
    hidden, out = _hidden_rows(problem), problem.out.mlx
    compute_on = _compute_types(problem)
    operands_of = _of_three if problem.operand_names == ("q", "k", "v") else _of_all
    causal = "causal" if problem.mask_kind is MaskKind.CAUSAL and not problem.window else None
    as_given = _type_as_given(problem)

    def call(
        operands: Sequence[mx.array],
        factors: Sequence[Number],
        stream: StreamOrDevice,
        traced: bool,
    ) -> list[mx.array]:
        compute = compute_on(stream, traced)
        if compute is as_given:
            q, k, v = operands
            found = mlx_ops.scaled_dot_product_attention(
                q, k, v, scale=factors[0], mask=causal, stream=stream
            )
            return [found]
        q, k, v, mask, empty, sinks = operands_of(problem, operands, compute, stream)
        if hidden:
            q = q[:, :, hidden:]
        if problem.window:
            mask = _window_mask(problem, hidden)
        found = mlx_ops.scaled_dot_product_attention(
            q, k, v, scale=float(factors[0]), mask=causal or mask, sinks=sinks, stream=stream
        )
        if empty is not None:
            found = mx.where(empty, 0.0, found)
        if hidden:
            found = mx.pad(found, [(0, 0), (0, 0), (hidden, 0), (0, 0)])
        return [found.astype(out, stream=stream)]

    return call


_Operands = tuple[mx.array, mx.array, mx.array, mx.array | None, mx.array | None, mx.array | None]
"""q, k, v, an array mask, the rows that it hides, and sinks."""


def _of_three(
    problem: AttentionProblem,
    operands: Sequence[mx.array],
    compute: mx.Dtype,
    stream: StreamOrDevice,
) -> _Operands:
    q, k, v = operands
    return (
        q.astype(compute, stream=stream),
        k.astype(compute, stream=stream),
        v.astype(compute, stream=stream),
        None,
        None,
        None,
    )


def _of_all(
    problem: AttentionProblem,
    operands: Sequence[mx.array],
    compute: mx.Dtype,
    stream: StreamOrDevice,
) -> _Operands:
    arrays = dict(zip(problem.operand_names, operands, strict=True))
    q, k, v = (arrays[name].astype(compute) for name in ("q", "k", "v"))
    if problem.pe_dim:
        q, k = _with_positions(problem, q, k, arrays)
    mask, empty = None, None
    if problem.mask_kind is MaskKind.BOOLEAN:
        mask, empty = _boolean(_with_keys(arrays["mask"]), is_on_gpu(stream))
    elif problem.mask_kind is MaskKind.ADDITIVE:
        mask, empty = _additive(_with_keys(arrays["mask"]).astype(compute), is_on_gpu(stream))
    sinks = arrays["sinks"].astype(compute) if problem.sinks else None
    return q, k, v, mask, empty, sinks


def _hidden_rows(problem: AttentionProblem) -> int:
    """Return how many rows of a causal mask see nothing: the first ones."""
    is_causal = problem.mask_kind is MaskKind.CAUSAL
    return max(0, problem.q_len - problem.kv_len) if is_causal else 0


def _window_mask(problem: AttentionProblem, hidden: int) -> mx.array:
    """Return which keys the rows see that see any, ``[Lq - hidden, Lk]``."""
    assert problem.window is not None
    first = problem.kv_len - problem.q_len + hidden
    rows, columns = mx.arange(first, problem.kv_len)[:, None], mx.arange(problem.kv_len)
    return mx.logical_and(rows >= columns, rows < columns + problem.window)


def _with_positions(
    problem: AttentionProblem, q: mx.array, k: mx.array, arrays: Arrays
) -> tuple[mx.array, mx.array]:
    """Put the positional parts behind q and k: MLX has one product of them."""
    shape = (*k.shape[:3], problem.pe_dim)
    k_pe = mx.broadcast_to(arrays["k_pe"].astype(k.dtype), shape)
    q_pe = arrays["q_pe"].astype(q.dtype)
    return mx.concatenate([q, q_pe], axis=-1), mx.concatenate([k, k_pe], axis=-1)


def _with_keys(mask: mx.array) -> mx.array:
    """Return a mask with an axis of keys, which a single number lacks."""
    return mask if mask.ndim else mx.reshape(mask, (1,))


def _boolean(mask: mx.array, on_gpu: bool) -> tuple[mx.array, mx.array]:
    """Return a mask, and which rows see nothing; of the mask for kernels of a GPU, none."""
    empty = mx.logical_not(mx.any(mask, axis=-1, keepdims=True))
    return (mx.logical_or(mask, empty) if on_gpu else mask), empty


def _additive(mask: mx.array, on_gpu: bool) -> tuple[mx.array, mx.array]:
    """Return a mask without rows of -inf, and which those are.

    Kernels of a GPU get no number that overflows in units of log2(e). In a row that is low
    throughout scores do not count, only which keys are highest.
    """
    highest = mx.max(mask, axis=-1, keepdims=True)
    empty = highest == -mx.inf
    if not on_gpu or mask.dtype == mx.float16:
        return mx.where(empty, 0.0, mask), empty
    is_low = mx.logical_and(highest < LOW, mask == highest)
    return mx.where(is_low, LOW, mx.maximum(mask, 2 * LOW)), empty


def _type_as_given(problem: AttentionProblem) -> object:
    """Return the type that operands and result have where MLX's op needs no others, or None."""
    dtypes = {problem.q, problem.k, problem.v, problem.out}
    is_plain = problem.operand_names == ("q", "k", "v") and not problem.window
    if len(dtypes) > 1 or not is_plain or _hidden_rows(problem):
        return None
    return problem.q.mlx


def _compute_types(problem: AttentionProblem) -> Callable[[StreamOrDevice, bool], Any]:
    """Return a function like `compute_type`, which remembers the answers for a problem.

    It is told whether MLX is following a function, under which answers may be others.
    """
    if natural_type(problem) is None:
        return lambda stream, traced: mx.float32
    remembered = lru_cache(maxsize=64)(lambda stream: compute_type(problem, stream).mlx)

    def compute_on(stream: StreamOrDevice, traced: bool) -> Any:  # noqa: ANN401 - mlx has no stub
        if not is_on_gpu(stream):
            return mx.float32
        return compute_type(problem, stream).mlx if traced else remembered(stream)

    return compute_on


def compute_type(problem: AttentionProblem, stream: StreamOrDevice = None) -> DType:
    """Return the type that operands are cast to: theirs, if MLX then loses nothing by it."""
    natural = natural_type(problem)
    return natural if natural and is_fused(problem, natural, stream) else FLOAT32


def is_fused(problem: AttentionProblem, compute: DType, stream: StreamOrDevice = None) -> bool:
    """Whether MLX has a fused kernel for an attention in a type; asked of MLX itself."""
    if not is_on_gpu(stream):
        return False
    # Under a gradient MLX may answer otherwise.
    ask = _has_node if is_traced() else _remembered
    return ask(problem, compute, stream)


def _has_node(problem: AttentionProblem, compute: DType, stream: StreamOrDevice) -> bool:
    depth = problem.head_dim + problem.pe_dim
    q, k, v = (
        mx.zeros((*shape[:3], size), dtype=compute.mlx, stream=stream)
        for shape, size in zip(
            (one.shape for one in problem.operands[:3]),
            (depth, depth, problem.value_dim),
            strict=True,
        )
    )
    mask: mx.array | str | None = None
    if problem.mask is not None:
        kind = mx.bool_ if problem.mask_kind is MaskKind.BOOLEAN else compute.mlx
        mask = mx.zeros(problem.mask_shape, dtype=kind, stream=stream)
    elif problem.window:
        mask = mx.zeros((problem.q_len, problem.kv_len), dtype=mx.bool_, stream=stream)
    elif problem.mask_kind is MaskKind.CAUSAL:
        mask = "causal"
    sinks = mx.zeros((problem.num_heads,), dtype=compute.mlx) if problem.sinks else None
    out = mlx_ops.scaled_dot_product_attention(
        q, k, v, scale=1.0, mask=mask, sinks=sinks, stream=stream
    )
    graph = io.StringIO()
    mx.export_to_dot(graph, out=out)
    return NODE in graph.getvalue()


_remembered = lru_cache(maxsize=256)(_has_node)

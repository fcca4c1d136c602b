"""Attention by `mx.fast.scaled_dot_product_attention`, wherever that computes what is asked for.

It rounds what it computes to the type of its operands. Where MLX has a fused kernel for them it
accumulates in float32 all the same; where it has none it is a graph of ops that would round the
scores, too, so that operands of 16 bits are then cast to float32. That graph also computes what a
causal mask hides: on a CPU it is made for some rows at a time, with the keys that they can see.
Rows with nothing to attend to are 0 here and the mean of all values, or NaN, there: they are kept
from it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial, reduce
from typing import TYPE_CHECKING, Any, NamedTuple

import mlx.core as mx

from ...backends import StreamOrDevice, is_on_gpu
from ...core import mlx_ops
from ...core.dtypes import FLOAT32, DType, promote
from ...core.problem import Factors, Number
from ...core.tracing import is_traced, probes
from .price import natural_type
from .problem import AttentionProblem, MaskKind

if TYPE_CHECKING:
    from ...core.family import Run

NODE = "ScaledDotProductAttention"
"""Name of the node of MLX's fused kernels in a graph."""

LOW = -1e30
"""Additive masks below this hide any score, and MLX's kernels may multiply them by log2(e)."""

LEAST_ROWS, MOST_PARTS = 32, 16
"""Rows of a part of a causal attention on a CPU, at least, and its parts, at most."""

Arrays = Mapping[str, mx.array]


def serves(problem: AttentionProblem) -> bool:
    """Whether MLX's op has all results of an attention, which is of the sizes seen."""
    sizes = (*problem.out_shape, problem.kv_len, problem.head_dim)
    has_rows = problem.return_lse or problem.return_norm
    return problem.softmax and not has_rows and 0 not in sizes


def attention(problem: AttentionProblem) -> Callable[..., list[mx.array]]:
    """Return the call of MLX's op for an attention that it serves, of sizes that stay.

    It takes what a `Run` takes, and whether MLX is following a function.
    """
    hidden, out = _hidden_rows(problem), problem.out.mlx
    compute_on = _compute_types(problem)
    operands_of = _of_three if problem.operand_names == ("q", "k", "v") else _of_all
    as_given = _type_as_given(problem)
    parts, all_keys = _parts(problem), slice(0, problem.kv_len)
    whole = _part(problem, hidden, problem.q_len)._replace(keys=all_keys)

    def call(
        operands: Sequence[mx.array],
        factors: Sequence[Number],
        stream: StreamOrDevice,
        traced: bool,
    ) -> list[mx.array]:
        compute = compute_on(stream, traced)
        in_parts = len(parts) > 1 and not is_on_gpu(stream)
        if compute is as_given and not in_parts:
            q, k, v = operands
            found = mlx_ops.scaled_dot_product_attention(
                q, k, v, scale=factors[0], mask=whole.mask(), stream=stream
            )
            return [found]
        q, k, v, mask, empty, sinks = operands_of(problem, operands, compute, stream)
        attend = partial(
            mlx_ops.scaled_dot_product_attention,
            scale=float(factors[0]),
            sinks=sinks,
            stream=stream,
        )
        if in_parts:
            each = [attend(*part.of(q, k, v), mask=part.mask()) for part in parts]
            found = mx.concatenate(each, axis=2)
        else:
            q = q[:, :, hidden:] if hidden else q
            found = attend(q, k, v, mask=whole.mask() if mask is None else mask)
        if empty is not None:
            found = mx.where(empty, 0.0, found)
        if hidden:
            found = mx.pad(found, [(0, 0), (0, 0), (hidden, 0), (0, 0)])
        return [found.astype(out, stream=stream)]

    return call


def direct(problem: AttentionProblem, run: Run, factors: Factors) -> _Direct | None:
    """Return the call of MLX's op for operands as they are, on the default stream; or None.

    Args:
        problem: An attention that MLX's op serves.
        run: Its call where MLX computes otherwise: while it follows a function, if that matters.
        factors: Of the call.
    """
    as_given = _type_as_given(problem)
    if as_given is None or (len(_parts(problem)) > 1 and not is_on_gpu(None)):
        return None
    compute_on = _compute_types(problem)
    scale, mask = factors[0], _part(problem, 0, problem.q_len).mask()
    found: list[bool] = []
    # While MLX follows a function another type may be computed in, but never wider than float32.
    is_followed = probes().shapeless if as_given is FLOAT32.mlx else probes().traced

    def call(q: mx.array, k: mx.array, v: mx.array, *_: object) -> mx.array:
        if is_followed():
            return run((q, k, v), factors, None)[0]
        if not found:
            found.append(compute_on(None, False) is as_given)
        if not found[0]:
            return run((q, k, v), factors, None)[0]
        return mlx_ops.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)

    return call


_Direct = Callable[..., mx.array]

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


class _Part(NamedTuple):
    """Some rows of an attention, one after the other, and the keys that they see under its mask.

    Attributes:
        rows: Which rows.
        keys: Which keys.
        position: Position of the first of these rows among all keys.
        causal: Whether a row sees no key behind its own position.
        window: Keys that it sees at most, or None.
    """

    rows: slice
    keys: slice
    position: int
    causal: bool
    window: int | None

    def of(self, q: mx.array, k: mx.array, v: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        """Return the part's own rows of ``q``, ``k`` and ``v``."""
        return q[:, :, self.rows], k[:, :, self.keys], v[:, :, self.keys]

    def mask(self) -> mx.array | str | None:
        """Return the mask of the part's scores as MLX's op takes it; None where it has none."""
        if self.window is None:
            return "causal" if self.causal else None
        count = self.rows.stop - self.rows.start
        rows = mx.arange(self.position, self.position + count)[:, None]
        columns = mx.arange(self.keys.start, self.keys.stop)
        return mx.logical_and(rows >= columns, rows < columns + self.window)


def _part(problem: AttentionProblem, start: int, stop: int) -> _Part:
    """Return the rows from ``start`` to ``stop`` of an attention, which all see some key."""
    causal = problem.mask_kind is MaskKind.CAUSAL
    offset, window = problem.kv_len - problem.q_len, problem.window
    position = offset + start
    return _Part(
        rows=slice(start, stop),
        keys=slice(
            max(0, position + 1 - window) if window else 0,
            offset + stop if causal else problem.kv_len,
        ),
        position=position,
        causal=causal,
        window=window,
    )


def _parts(problem: AttentionProblem) -> list[_Part]:
    """Return the parts of an attention that a CPU computes one by one."""
    hidden, end = _hidden_rows(problem), problem.q_len
    if problem.mask_kind is not MaskKind.CAUSAL:
        return [_part(problem, 0, end)]
    count = max(1, min(MOST_PARTS, (end - hidden) // LEAST_ROWS))
    step = max(1, -(-(end - hidden) // count))
    return [_part(problem, at, min(at + step, end)) for at in range(hidden, end, step)]


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
    """Return the type that MLX's op computes in and rounds to if given the operands, or None."""
    natural = reduce(promote, (problem.q, problem.k, problem.v))
    is_plain = problem.operand_names == ("q", "k", "v") and not problem.window
    if natural is not problem.out or not is_plain or _hidden_rows(problem):
        return None
    return natural.mlx


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

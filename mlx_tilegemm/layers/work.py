"""Work of MLX's own primitives: which of them multiply, and what that takes."""

from __future__ import annotations

from math import prod

import mlx.core as mx

from .trace import Edge, Graph, Node

PRODUCTS = frozenset(
    [
        "AddMM",
        "BlockMaskedMM",
        "Convolution",
        "GatherMM",
        "GatherQMM",
        "GatherQQMM",
        "Matmul",
        "QQMatmul",
        "QuantizedMatmul",
        "ScaledDotProductAttention",
        "SegmentedMM",
    ]
)
"""Primitives whose operations can be counted from their shapes."""

UNCOUNTED = frozenset(["CustomKernel", "GatedDeltaUpdate"])
"""Primitives that may multiply, whose operations shapes do not tell."""

_CHOSEN = frozenset(("GatherMM", "GatherQMM", "GatherQQMM"))
"""Products whose matrices are chosen by indices, which MLX holds as uint32."""


def flops(node: Node) -> float | None:
    """Return the operations of a node, a multiply-add counting two; None where they are unknown."""
    if node.primitive in UNCOUNTED:
        return None
    if node.primitive == "Convolution":
        # Filters are [outputs, *kernel, inputs / groups].
        return 2.0 * prod(node.outputs[0].shape) * prod(node.inputs[1].shape[1:])
    if node.primitive == "ScaledDotProductAttention":
        return _attention_flops(node)
    return 2.0 * prod(node.outputs[0].shape) * node.inputs[0].shape[-1]


def _attention_flops(node: Node) -> float:
    q, k, v = (edge.shape for edge in node.inputs[:3])
    pairs = float(q[2] * k[2])
    # Its state is (fallback, scale, is causal, has sinks, ...), of which the fallback is left out.
    flags = [one for one in node.arguments if isinstance(one, bool)]
    if flags and flags[0]:
        hidden = min(q[2], k[2]) - 1
        pairs -= hidden * (hidden + 1) / 2
    return 2.0 * q[0] * q[1] * pairs * (q[3] + v[3])


def moved_bytes(graph: Graph, node: Node) -> float:
    """Return the bytes of a node's operands and results, each once, broadcast ones as stored."""
    sizes = [_stored(graph, edge) for edge in node.inputs]
    if node.primitive in _CHOSEN:
        sizes = _chosen(node, sizes)
    return float(sum(sizes) + sum(edge.nbytes for edge in node.outputs))


def _stored(graph: Graph, edge: Edge) -> int:
    return graph.source(edge, _BROADCASTS).nbytes


_BROADCASTS = frozenset(("Broadcast", "BroadcastAxes", "ExpandDims", "Transpose"))


def _chosen(node: Node, sizes: list[int]) -> list[int]:
    """Count only as many matrices as there are indices to choose them."""
    most = next(prod(edge.shape) for edge in reversed(node.inputs) if edge.dtype == mx.uint32)
    shares = (min(1.0, most / max(1, prod(edge.shape[:-2]))) for edge in node.inputs[1:])
    return [sizes[0], *(int(size * share) for size, share in zip(sizes[1:], shares, strict=True))]

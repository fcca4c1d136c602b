"""Graph of a call, as MLX traces it for an export. Nothing is evaluated."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from ..core.shapes import Shape
from ..errors import ProblemError
from ..formats import AFFINE, dequantize
from .routing import Attribute, Item, Site, routed


@dataclass(frozen=True, slots=True)
class Edge:
    """An array of a graph.

    Attributes:
        name: Its name in the graph.
        shape: Its shape.
        dtype: Its dtype.
    """

    name: str
    shape: Shape
    dtype: mx.Dtype

    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""
        elements = 1
        for size in self.shape:
            elements *= size
        return elements * self.dtype.size


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A primitive of a graph, with its arguments, inputs and outputs."""

    primitive: str
    arguments: tuple[Any, ...]
    inputs: tuple[Edge, ...]
    outputs: tuple[Edge, ...]


VIEWS = frozenset(
    [
        "Broadcast",
        "BroadcastAxes",
        "Contiguous",
        "Copy",
        "ExpandDims",
        "Flatten",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "StopGradient",
        "Transpose",
        "Unflatten",
        "View",
    ]
)
"""Primitives that pass on elements of an input as they are."""

ELEMENTWISE = VIEWS | frozenset(
    [
        "Add",
        "AsType",
        "Compiled",
        "Concatenate",
        "Divide",
        "LogicalAnd",
        "Maximum",
        "Minimum",
        "Multiply",
        "Select",
        "Subtract",
        "Tanh",
    ]
)
"""Primitives that keep elements in place or nearly so, as scaling and masking do."""


@dataclass(frozen=True, slots=True)
class Graph:
    """A traced call.

    Attributes:
        nodes: Every primitive that its outputs depend on, each after those it depends on.
        inputs: Names of the arrays that were passed in, by their names in the graph.
    """

    nodes: tuple[Node, ...]
    inputs: Mapping[str, str]
    _makers: dict[str, Node] = field(init=False, default_factory=dict)
    _takers: dict[str, list[Node]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        for node in self.nodes:
            self._makers.update((edge.name, node) for edge in node.outputs)
            for edge in node.inputs:
                self._takers.setdefault(edge.name, []).append(node)

    def maker(self, edge: Edge) -> Node | None:
        """Return the node that makes an array; None for inputs and constants."""
        return self._makers.get(edge.name)

    def source(self, edge: Edge, through: frozenset[str] = VIEWS) -> Edge:
        """Return the array that ``edge`` is a view of, as far as first inputs lead."""
        node = self.maker(edge)
        while node is not None and node.primitive in through and node.inputs:
            edge = node.inputs[0]
            node = self.maker(edge)
        return edge

    def before(self, edges: Sequence[Edge], through: Callable[[Node], bool]) -> Iterator[Node]:
        """Yield the nodes that arrays depend on, nearest first, going on where ``through`` says."""
        yield from _walk(
            [node for edge in edges if (node := self.maker(edge))],
            lambda node: [made for edge in node.inputs if (made := self.maker(edge))],
            through,
        )

    def after(self, edges: Sequence[Edge], through: Callable[[Node], bool]) -> Iterator[Node]:
        """Yield the nodes that depend on arrays, nearest first, going on where ``through`` says."""
        yield from _walk(
            [node for edge in edges for node in self._takers.get(edge.name, ())],
            lambda node: [n for edge in node.outputs for n in self._takers.get(edge.name, ())],
            through,
        )


def _walk(
    start: list[Node], following: Callable[[Node], list[Node]], through: Callable[[Node], bool]
) -> Iterator[Node]:
    waiting, seen = deque(start), set(start)
    while waiting:
        node = waiting.popleft()
        yield node
        if through(node):
            fresh = [one for one in following(node) if one not in seen]
            seen.update(fresh)
            waiting.extend(dict.fromkeys(fresh))


def trace(
    function: Callable[..., Sequence[mx.array]], arrays: Mapping[str, mx.array], op: str
) -> Graph:
    """Return the graph of ``function(*arrays.values())``.

    Args:
        function: Takes the arrays, returns arrays.
        arrays: By the names they get in `Graph.inputs`.
        op: Name to begin messages with.

    Raises:
        ProblemError: MLX cannot trace the call.
    """
    events: list[dict[str, Any]] = []
    try:
        with routed(_CUSTOM_FUNCTIONS, _DEQUANTIZE):
            mx.export_function(events.append, function, *arrays.values())
    except ValueError as error:
        raise _untraceable(op, error) from error
    inputs: dict[str, str] = {}
    nodes = []
    for event in events:
        if event["type"] == "inputs":
            names = (name for name, *_ in event["inputs"])
            inputs = dict(zip(names, arrays, strict=True))
        elif event["type"] == "primitive":
            nodes.append(_node(event))
    return Graph(nodes=tuple(nodes), inputs=inputs)


def _forward(_: object, function: object, *args: object, **options: object) -> object:
    """Call what a custom function computes: MLX exports no primitive with rules of its own."""
    # Its class, the function, and then the rules.
    forward: Any = gc.get_referents(function)[1]
    return forward(*args, **options)


_CUSTOM_FUNCTIONS = Site(Attribute(mx.custom_function, "__call__"), _forward)


def _dequantized(
    original: Callable[..., mx.array],
    *arguments: Any,  # noqa: ANN401 - those of `mx.dequantize`
    stream: object = None,
    **named: Any,  # noqa: ANN401
) -> mx.array:
    """Return what `mx.dequantize` returns, by primitives that MLX can trace for an export.

    It has none of them for codes of e4m3.
    """
    mode = arguments[_MODE] if len(arguments) > _MODE else named.get("mode", AFFINE)
    if mode == AFFINE:
        return original(*arguments, stream=stream, **named)
    return dequantize(*arguments, **named)


_MODE = 5
"""Place of the mode among the arguments of `mx.dequantize`."""

_DEQUANTIZE = Site(Item(vars(mx), "dequantize"), _dequantized)


def _node(event: dict[str, Any]) -> Node:
    return Node(
        event["name"],
        tuple(event["arguments"]),
        *(tuple(Edge(*edge) for edge in event[side]) for side in ("inputs", "outputs")),
    )


def _untraceable(op: str, error: ValueError) -> ValueError:
    text = str(error)
    if "function transformations" in text:
        return ProblemError(
            f"[{op}] Expected a call that MLX can trace, got one that evaluates arrays on its way."
        )
    if "Unable to get state" in text:
        primitive = text.rsplit(" ", 1)[-1]
        return ProblemError(
            f"[{op}] Expected primitives that MLX can trace for an export, got {primitive}."
        )
    return error

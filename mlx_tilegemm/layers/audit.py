"""Account of a call: every product, attention and custom kernel in it, and who serves each.

MLX traces the call as for an export, which evaluates nothing. Ops of this library stand in the
trace as one node each, with the problem that was asked for and the choice that was made for it.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import chain, takewhile
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from ..backends import Backend, resolve
from ..backends.metal import mlx_kernel
from ..call.choice import chosen
from ..core.arguments import ArraySpec
from ..core.context import using
from ..core.dtypes import mlx_name
from ..core.plan import Source
from ..core.problem import Factors, Problem
from ..core.shapes import Shape
from ..dispatch import MLX
from ..errors import DTypeError
from ..machine.chips import Chip, detect, get
from .attention import marking
from .communication import communication_traced
from .patching import Rules, standing
from .trace import ELEMENTWISE, VIEWS, Edge, Graph, Node, trace
from .work import PRODUCTS, UNCOUNTED, flops, moved_bytes

if TYPE_CHECKING:
    from ..backends import StreamOrDevice
    from ..core.family import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRow:
    """A product, an attention or a custom kernel in a call.

    Attributes:
        primitive: MLX's name of it, several where they are one attention, or the op of this
            library.
        path: The layer whose weight it reads, or the part of the model whose products it combines;
            empty where that is not known.
        shapes: Shapes of its operands.
        dtypes: Their dtypes.
        flops: Its operations, a multiply-add counting two; None where they cannot be counted.
        bytes: Bytes of its operands and results, each once.
        served_by: The kernel of this library, ``mlx``, or another custom kernel's name.
        reason: Why.
        ours: Whether a kernel of this library serves it.
    """

    primitive: str
    path: str
    shapes: tuple[Shape, ...]
    dtypes: tuple[str, ...]
    flops: float | None
    bytes: float
    served_by: str
    reason: str
    ours: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """The products of a call, and who serves each; ``str()`` of it is a table.

    Of a sharded model it is the account of this machine's share, and waits for no other machine.

    Attributes:
        rows: Every product, attention and custom kernel that the results depend on, each after
            those it depends on.
        chip: Name of the chip that kernels were chosen for.
    """

    rows: tuple[AuditRow, ...]
    chip: str

    @property
    def flops(self) -> float:
        """Operations of all rows that can be counted."""
        return sum(row.flops or 0.0 for row in self.rows)

    @property
    def served(self) -> float:
        """Share of `flops` that kernels of this library serve, from 0 to 1; 0 without any."""
        ours = sum(row.flops or 0.0 for row in self.rows if row.ours)
        return ours / self.flops if self.flops else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return everything as what JSON holds."""
        rows = [asdict(row) for row in self.rows]
        return {"chip": self.chip, "served": self.served, "flops": self.flops, "rows": rows}

    def __str__(self) -> str:
        uncounted = sum(row.flops is None for row in self.rows)
        head = (
            f"[audit] {_amount(self.flops)}FLOP in {len(self.rows)} products: {self.served:.1%} "
            f"served by this library, as chosen for {self.chip}"
        )
        if uncounted:
            head += f"; {uncounted} custom kernels not counted"
        return "\n".join([head, *_table(self.rows)]) if self.rows else head


def _table(rows: Sequence[AuditRow]) -> Iterator[str]:
    groups: dict[tuple[object, ...], list[AuditRow]] = {}
    for row in rows:
        where = re.sub(r"\d+", "*", row.path)
        key = (row.primitive, where, row.shapes, row.dtypes, row.served_by, row.reason)
        groups.setdefault(key, []).append(row)
    header = ("count", "what", "where", "operands", "FLOP", "bytes", "served by", "because")
    lines = [header, *(_line(group) for group in groups.values())]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        yield f"  {'  '.join(cells)}".rstrip()


def _line(group: Sequence[AuditRow]) -> tuple[str, ...]:
    first = group[0]
    operands = ", ".join(
        f"{dtype} {list(shape)}" for dtype, shape in zip(first.dtypes, first.shapes, strict=True)
    )
    work = "?" if first.flops is None else _amount(sum(row.flops or 0.0 for row in group))
    moved = _amount(sum(row.bytes for row in group))
    where = first.path + (", ..." if len(group) > 1 and first.path else "")
    return (
        str(len(group)),
        first.primitive,
        where,
        operands,
        work.strip(),
        moved.strip(),
        first.served_by,
        first.reason,
    )


def _amount(value: float) -> str:
    """Return a number with three digits and a unit's prefix, and a space before that."""
    prefixes = ["P", "T", "G", "M", "k"]
    prefix = ""
    while value >= 999.5 and prefixes:
        value, prefix = value / 1000, prefixes.pop()
    return f"{value:.3g} {prefix}"


def audit(
    model: Callable[..., Any],
    /,
    *inputs: Any,  # noqa: ANN401 - whatever the model takes
    chip: Chip | str | None = None,
    **options: Any,  # noqa: ANN401
) -> Audit:
    """Return the account of ``model(*inputs, **options)``, without evaluating anything.

    The model may be patched or not, of any size, and its weights may be arrays that were never
    evaluated: a trace computes none of them. The call must be one that MLX can trace: it may not
    evaluate arrays on its way. Model and arguments, such as caches, stay as they are.

    Args:
        model: A module or any other function of arrays.
        *inputs: Its positional arguments: arrays, or `ArraySpec` where there is no data, in lists,
            tuples and dictionaries too; everything else is passed on.
        chip: Choose as a Mac with this chip would, for example ``"m1"``; None is this machine.
        **options: Its keyword arguments.

    Raises:
        DTypeError: ``model`` cannot be called (a `TypeError`).
        ProblemError: An unknown chip, or MLX cannot trace the call (a `ValueError`).

    Example:
        >>> model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64))
        >>> report = patch(model)
        >>> found = audit(model, ArraySpec(shape=(8, 64), dtype=mx.float32))
        >>> [row.path for row in found.rows], found.flops
        (['layers.0', 'layers.2'], 524288.0)
        >>> print(found)
    """
    if not callable(model):
        raise DTypeError(f"[audit] Expected a model to call, got {type(model).__name__}.")
    calls = _Calls(chip if chip is None or isinstance(chip, Chip) else get(chip))
    arrays: dict[str, mx.array] = {}
    given = _taken((inputs, options), arrays)
    weights = dict(tree_flatten(model.parameters())) if isinstance(model, nn.Module) else {}

    def call(*traced: mx.array) -> list[mx.array]:
        positional, named = _put(given, traced[: len(arrays)])
        with _holding(model, dict(zip(weights, traced[len(arrays) :], strict=True))):
            return list(_arrays(model(*positional, **named)))

    everything = {**arrays, **{f"{_WEIGHT}{name}": array for name, array in weights.items()}}
    stand_in = using(stand_in=calls.prepare, recorder=None)
    with _unchanged(model), stand_in, marking(calls.mark), communication_traced():
        graph = trace(call, everything, "audit")
    standings = standing(Rules(), model) if isinstance(model, nn.Module) else {}
    rows = tuple(_Reader(graph, calls, standings).rows())
    return Audit(rows=rows, chip=(calls.chip or detect()[0]).name)


_WEIGHT = "weight:"


@dataclass(frozen=True, slots=True)
class _Input:
    """The place of an array among arguments."""

    position: int


def _taken(value: Any, arrays: dict[str, mx.array]) -> Any:  # noqa: ANN401
    """Return arguments with their arrays put into ``arrays``, and copies of all else."""
    if isinstance(value, ArraySpec):
        value = mx.zeros(value.shape, dtype=value.dtype)
    if isinstance(value, mx.array):
        arrays[f"input {len(arrays)}"] = value
        return _Input(len(arrays) - 1)
    if type(value) in (list, tuple):
        return type(value)(_taken(one, arrays) for one in value)
    if type(value) is dict:
        return {key: _taken(one, arrays) for key, one in value.items()}
    return value if callable(value) else copy.deepcopy(value)


def _put(value: Any, traced: Sequence[mx.array]) -> Any:  # noqa: ANN401
    if isinstance(value, _Input):
        return traced[value.position]
    if type(value) in (list, tuple):
        return type(value)(_put(one, traced) for one in value)
    if type(value) is dict:
        return {key: _put(one, traced) for key, one in value.items()}
    return value


def _arrays(value: Any) -> Iterator[mx.array]:  # noqa: ANN401
    if isinstance(value, mx.array):
        yield value
    elif isinstance(value, dict):
        yield from chain.from_iterable(map(_arrays, value.values()))
    elif isinstance(value, (list, tuple)):
        yield from chain.from_iterable(map(_arrays, value))


@contextmanager
def _holding(model: object, weights: Mapping[str, mx.array]) -> Iterator[None]:
    """Put arrays in the place of a model's parameters."""
    if not isinstance(model, nn.Module):
        yield
        return
    before = model.parameters()
    model.update(tree_unflatten(list(weights.items())))
    try:
        yield
    finally:
        model.update(before)


@contextmanager
def _unchanged(model: object) -> Iterator[None]:
    """Give every layer back what it held, whatever its call has left in it."""
    layers = [one for _, one in model.named_modules()] if isinstance(model, nn.Module) else []
    before = [(layer, dict(layer), dict(vars(layer))) for layer in layers]
    try:
        yield
    finally:
        for layer, items, attributes in before:
            # Module has an update of its own.
            dict.clear(layer)
            dict.update(layer, items)
            vars(layer).clear()
            vars(layer).update(attributes)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """A prepared call of an op of this library, and who serves it."""

    op: str
    problem: Problem
    served_by: str
    reason: str


_CALL = "audited_call_"
_REFUSAL = "audited_refusal_"


class _Calls:
    """Prepared calls, which show as nodes of a graph."""

    def __init__(self, chip: Chip | None) -> None:
        self.chip = chip
        self.prepared: list[_Call] = []
        self.refusals: list[str] = []

    def prepare(
        self,
        op: str,
        problem: Problem,
        backend: Backend | None,
        *,
        force: str | None,
        **flags: bool,
    ) -> Run:
        route = resolve(on_a_mac=self.chip is not None)
        served_by, reason = MLX, route.reason
        backend = backend or route.backend
        if backend is not None:
            choice = chosen(problem, backend, force=force, chip=self.chip, try_new=False, **flags)
            served_by = str(choice.plan or MLX)
            reason = choice.decision.reason
        self.prepared.append(_Call(op=op, problem=problem, served_by=served_by, reason=reason))
        return _marked(problem, f"{_CALL}{len(self.prepared) - 1}_")

    def mark(self, reason: str, result: mx.array) -> mx.array:
        """Return the result of a call that stays with MLX, marked with the reason why."""
        self.refusals.append(reason)
        name = f"{_REFUSAL}{len(self.refusals) - 1}_"
        return _marker(name, ("x",), ("y",))([result], [result.shape], [result.dtype])[0]

    def of(self, node: Node) -> _Call | None:
        """Return the call that a node stands for, if it does for one."""
        number = _number(node, _CALL)
        return None if number is None else self.prepared[number]

    def refusal(self, node: Node) -> str | None:
        """Return the reason that a node marks a result with, if it does."""
        number = _number(node, _REFUSAL)
        return None if number is None else self.refusals[number]


def _number(node: Node, mark: str) -> int | None:
    if node.primitive != "CustomKernel":
        return None
    found = re.match(rf"custom_kernel_{mark}(\d+)_", node.arguments[0])
    return int(found[1]) if found else None


def _marked(problem: Problem, name: str) -> Run:
    """Return a call that only has the shapes and dtypes of one; it cannot be evaluated."""
    results = problem.results
    mark = _marker(name, problem.operand_names, tuple(one.name for one in results))
    shapes = [one.shape for one in results]
    dtypes = [one.dtype.mlx for one in results]

    def run(
        operands: Sequence[mx.array], factors: Factors, stream: StreamOrDevice
    ) -> list[mx.array]:
        return mark(operands, shapes, dtypes)

    return run


_Marker = Callable[[Sequence[mx.array], list[Shape], list[mx.Dtype]], list[mx.array]]


def _marker(name: str, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> _Marker:
    """Return a function from inputs, shapes and dtypes to outputs that shows in a graph."""
    kernel = mlx_kernel(
        Source(name=name, header="", body="", input_names=inputs, output_names=outputs)
    )

    def mark(
        arrays: Sequence[mx.array], shapes: list[Shape], dtypes: list[mx.Dtype]
    ) -> list[mx.array]:
        return kernel(
            inputs=arrays,
            output_shapes=shapes,
            output_dtypes=dtypes,
            grid=(1, 1, 1),
            threadgroup=(1, 1, 1),
        )

    return mark


class _Reader:
    """From a graph to the rows of an account."""

    def __init__(self, graph: Graph, calls: _Calls, standings: Mapping[str, str]) -> None:
        self.graph = graph
        self.calls = calls
        self.standings = standings
        self.paths: dict[Node, str] = {}

    def rows(self) -> Iterator[AuditRow]:
        """Yield a row for everything that multiplies."""
        spelled = dict(self._attentions())
        inner = {first for first, _ in spelled.values()}
        for node in self.graph.nodes:
            if self._is_counted(node):
                self.paths[node] = self._path(node)
                if node in spelled:
                    yield self._spelled_out(node, *spelled[node])
                elif node not in inner:
                    yield self._row(node)

    def _is_counted(self, node: Node) -> bool:
        if self.calls.refusal(node) is not None:
            return False
        return node.primitive in PRODUCTS or node.primitive in UNCOUNTED

    def _row(self, node: Node) -> AuditRow:
        call = self.calls.of(node)
        if call is None:
            return self._others(node)
        return AuditRow(
            primitive=call.op,
            path=self.paths[node],
            **_operands(node.inputs),
            flops=call.problem.flops(),
            bytes=call.problem.least_bytes(),
            served_by=call.served_by,
            reason=call.reason,
            ours=call.served_by != MLX,
        )

    def _others(self, node: Node) -> AuditRow:
        is_custom = node.primitive == "CustomKernel"
        return AuditRow(
            primitive=node.primitive,
            path=self.paths[node],
            **_operands(node.inputs),
            flops=flops(node),
            bytes=moved_bytes(self.graph, node),
            served_by=node.arguments[0] if is_custom else MLX,
            reason=self._reason(node),
            ours=False,
        )

    def _reason(self, node: Node) -> str:
        following = self.graph.after(node.outputs, _is_elementwise)
        refusals = (self.calls.refusal(one) for one in following)
        refused = next((one for one in refusals if one), None)
        standing = refused or self.standings.get(self.paths[node])
        return standing or _REASONS.get(node.primitive, "its code calls MLX's own op")

    def _spelled_out(self, second: Node, first: Node, softmax: Node) -> AuditRow:
        operands = (*first.inputs[:2], second.inputs[1])
        moved = sum(moved_bytes(self.graph, node) for node in (first, softmax, second))
        return AuditRow(
            primitive=" ".join(node.primitive for node in (first, softmax, second)),
            path=self.paths[second],
            **_operands(operands),
            flops=(flops(first) or 0.0) + (flops(second) or 0.0),
            bytes=moved,
            served_by=MLX,
            reason=self._reason(second),
            ours=False,
        )

    def _attentions(self) -> Iterator[tuple[Node, tuple[Node, Node]]]:
        """Yield the second product around each softmax, with the first and the softmax."""
        for softmax in self.graph.nodes:
            if softmax.primitive == "Softmax":
                rows = softmax.outputs[0].shape[-2:-1]
                first = self._matmul(self.graph.before(softmax.inputs, _is_elementwise), rows)
                second = self._matmul(self.graph.after(softmax.outputs, _is_elementwise), rows)
                if first and second:
                    yield second, (first, softmax)

    def _matmul(self, nodes: Iterator[Node], rows: Shape) -> Node | None:
        found = (node for node in nodes if node.primitive == "Matmul")
        return next((one for one in found if one.outputs[0].shape[-2:-1] == rows), None)

    def _path(self, node: Node) -> str:
        own = [path for edge in node.inputs if (path := self._weight_path(edge)) is not None]
        if own:
            return own[0]
        before = self.graph.before(node.inputs, lambda one: one not in self.paths)
        paths = {self.paths[one] for one in before if one in self.paths} - {""}
        return _common_part(paths)

    def _weight_path(self, edge: Edge) -> str | None:
        name = self.graph.inputs.get(self.graph.source(edge, _AS_STORED).name, "")
        if not name.startswith(_WEIGHT):
            return None
        return name.removeprefix(_WEIGHT).rpartition(".")[0]


_AS_STORED = VIEWS | {"AsType", "Maximum", "Minimum", "Quantize"}

_REASONS = {
    "BlockMaskedMM": "this library has no op of masked blocks",
    "Convolution": "this library has no op of convolutions",
    "CustomKernel": "a custom kernel of the model's own",
    "GatedDeltaUpdate": "this library has no op of recurrences",
}


def _is_elementwise(node: Node) -> bool:
    return node.primitive in ELEMENTWISE


def _operands(edges: Sequence[Edge]) -> dict[str, Any]:
    return {
        "shapes": tuple(edge.shape for edge in edges),
        "dtypes": tuple(mlx_name(edge.dtype) for edge in edges),
    }


def _common_part(paths: set[str]) -> str:
    """Return the part of a model that layers have in common; of one layer, the part it is in."""
    parts = [path.split(".") for path in sorted(paths)]
    if len(parts) == 1:
        return ".".join(parts[0][:-1])
    return ".".join(part[0] for part in takewhile(_are_equal, zip(*parts, strict=False)))


def _are_equal(values: Sequence[str]) -> bool:
    return len(set(values)) == 1

"""Route the layers of a model through this library, and back.

A layer keeps its identity, its parameters and its state; only its class changes, to a subclass
that computes with the ops here. Attention that a layer spells as a call of
`mx.fast.scaled_dot_product_attention` is routed while that layer runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

import mlx.core as mx
import mlx.nn as nn

from ..errors import DTypeError
from ..nn import (
    AllToShardedRoute,
    EmbeddingRoute,
    FP8Linear,
    FP8MultiLinear,
    FP8SwitchLinear,
    LinearRoute,
    QuantizedAllToShardedRoute,
    QuantizedEmbeddingRoute,
    QuantizedLinearRoute,
    QuantizedShardedToAllRoute,
    ShardedToAllRoute,
)
from .attention import attention_everywhere, routed_attention_class
from .functions import (
    FunctionRule,
    forget_compiled,
    functions_everywhere,
    routed_function_class,
)
from .inspection import Findings, findings, flags, held
from .routed_class import original_class, routed_class
from .routing import Attribute, Site, routed
from .usage import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Replaced:
    """A layer that computes through this library.

    Attributes:
        path: Where it is in the model, such as ``layers.0.attention.query_proj``.
        layer: Name of its class.
        op: The op that serves it.
        method: The method whose calls it serves, or the functions that its code calls; empty where
            it serves calls of MLX's attention function, from whichever method.
    """

    path: str
    layer: str
    op: str
    method: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftAlone:
    """A layer of which all, or what its reason names, computes as before.

    Attributes:
        path: Where it is in the model.
        layer: Name of its class.
        reason: Why it was left alone, as a clause.
    """

    path: str
    layer: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchReport:
    """Report on a patched model; ``str()`` of it is readable.

    Attributes:
        replaced: Every layer whose calls go through this library now. Whether a model makes these
            calls, and what then serves them, is what `mlx_tilegemm.audit` tells of an actual call.
        left_alone: Every layer with parameters or products that this library does not serve.
    """

    replaced: tuple[Replaced, ...]
    left_alone: tuple[LeftAlone, ...]

    def __str__(self) -> str:
        rows = [(_called(one), f"-> {one.op}", one.path) for one in self.replaced]
        others = [(one.layer, f"left alone: {one.reason}", one.path) for one in self.left_alone]
        head = f"[patch] {len(rows)} layers replaced, {len(others)} left alone"
        return "\n".join([head, *_grouped(rows), *_grouped(others), f"  {_POINTER}"])


_POINTER = "mlx_tilegemm.audit(model, *inputs) tells who serves each product of a call"


def _called(one: Replaced) -> str:
    return one.layer if one.method in ("", "__call__") else f"{one.layer}.{one.method}"


def _grouped(rows: list[tuple[str, str, str]]) -> Iterator[str]:
    for (layer, what), group in groupby(sorted(rows, key=_what), key=_what):
        paths = [path for *_, path in group]
        more = ", ..." if len(paths) > 1 else ""
        yield f"  {len(paths):4} {layer} {what} ({paths[0]}{more})"


def _what(row: tuple[str, str, str]) -> tuple[str, str]:
    return row[0], row[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Routing of the layers of a class.

    Attributes:
        layer: The class; subclasses that inherit ``method`` are routed too.
        method: The method that is replaced.
        route: A mixin with another such method.
        op: The op that it calls.
        biased_op: The op that it calls where the layer has a bias.
        quantized_op: The op of layers within that hold quantized weights, if it calls only theirs.
    """

    layer: type
    method: str
    route: type
    op: str = "matmul"
    biased_op: str = "addmm"
    quantized_op: str = ""

    @property
    def site(self) -> Site:
        """The method as a place that can be routed for every layer of the class."""
        return _site(self.layer, self.method, self.route)


@lru_cache(maxsize=64)
def _site(layer: type, method: str, route: type) -> Site:
    # One site for a method: it counts the blocks of all threads.
    function = getattr(route, method)
    return Site(Attribute(layer, method), lambda _, *args, **kwargs: function(*args, **kwargs))


RULES = (
    Rule(layer=nn.Linear, method="__call__", route=LinearRoute),
    Rule(layer=nn.Embedding, method="as_linear", route=EmbeddingRoute),
    Rule(layer=nn.AllToShardedLinear, method="__call__", route=AllToShardedRoute),
    # Its bias is added to the sum of all machines' products.
    Rule(
        layer=nn.ShardedToAllLinear,
        method="__call__",
        route=ShardedToAllRoute,
        biased_op="matmul",
    ),
    *(
        Rule(
            layer=layer,
            method="__call__",
            route=route,
            op="quantized_matmul",
            biased_op="quantized_matmul",
        )
        for layer, route in (
            (nn.QuantizedLinear, QuantizedLinearRoute),
            (nn.QuantizedAllToShardedLinear, QuantizedAllToShardedRoute),
            (nn.QuantizedShardedToAllLinear, QuantizedShardedToAllRoute),
        )
    ),
    Rule(
        layer=nn.QuantizedEmbedding,
        method="as_linear",
        route=QuantizedEmbeddingRoute,
        op="quantized_matmul",
        biased_op="quantized_matmul",
    ),
)


ROUTED = "computes through this library already"

REASONS: tuple[tuple[type, str], ...] = tuple(
    (kind, ROUTED) for kind in (FP8Linear, FP8SwitchLinear, FP8MultiLinear)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Everything that says how a model's layers are routed.

    Attributes:
        layers: Rules for layers, the first that fits counts.
        reasons: Why layers of certain classes are left alone.
        functions: Rules for functions that layers call.
    """

    layers: tuple[Rule, ...] = RULES
    reasons: tuple[tuple[type, str], ...] = REASONS
    functions: tuple[FunctionRule, ...] = ()


def patch(model: nn.Module) -> PatchReport:
    """Route a model's linear layers and attention through this library, in place.

    Layers keep their identity and parameters, so optimizers, checkpoints and references to them
    stay valid; quantized layers stay quantized. Layers with a way of their own are left alone; the
    report says which and why. Patching twice is patching once. Functions that `mx.compile` has
    traced keep what they traced. Sharding makes new layers: shard a model first, then patch it.

    Args:
        model: Any module; it may be a single layer.

    Returns:
        What was replaced and what was left alone.

    Raises:
        DTypeError: ``model`` is no `nn.Module` (a `TypeError`).

    Example:
        >>> model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))
        >>> report = patch(model)
        >>> [one.path for one in report.replaced]
        ['layers.0', 'layers.2']
        >>> unpatch(model)
    """
    return patch_by(Rules(), model)[0]


def unpatch(model: nn.Module) -> None:
    """Give every layer of ``model`` the class it had before `patch`.

    Args:
        model: A module, patched or not.

    Raises:
        DTypeError: ``model`` is no `nn.Module` (a `TypeError`).
    """
    for _, layer in _layers("unpatch", model):
        _restore(layer)


def patched(model: nn.Module | None = None) -> AbstractContextManager[PatchReport]:
    """Route a model, or every model, while a ``with`` block runs.

    Args:
        model: As in `patch`; what was patched before stays patched. None routes every
            `nn.Linear`, sharded or not, every `nn.Embedding.as_linear`, what either is once
            quantized, and every call of `mx.fast.scaled_dot_product_attention` of the running
            thread or task.

    Returns:
        A context manager that gives the report.

    Raises:
        DTypeError: ``model`` is neither None nor an `nn.Module` (a `TypeError`).

    Example:
        >>> with patched() as report:
        ...     y = model(x)
    """
    return patched_by(Rules(), model)


def patch_by(rules: Rules, model: nn.Module) -> tuple[PatchReport, list[nn.Module]]:
    """Patch by ``rules``; return the report and the layers that changed."""
    report, changes = judge(rules, model)
    changed = []
    for layer, kind in changes:
        if type(layer) is not kind:
            layer.__class__ = kind
            changed.append(layer)
            forget_compiled(layer)
    return report, changed


def judge(rules: Rules, model: nn.Module) -> tuple[PatchReport, list[tuple[nn.Module, type]]]:
    """Return what patching reports, and the layers that it gives other classes, with these."""
    layers = _layers("patch", model)
    usage = Usage([(path, layer, original_class(type(layer))) for path, layer in layers])
    replaced: list[Replaced] = []
    left_alone: list[LeftAlone] = []
    changes: list[tuple[nn.Module, type]] = []
    for path, layer in layers:
        kind = original_class(type(layer))
        verdict = _judge(path, layer, kind, rules, usage)
        if verdict.route is not None:
            changes.append((layer, verdict.route))
            replaced.append(
                Replaced(path=path, layer=kind.__name__, op=verdict.op, method=verdict.method)
            )
        if verdict.reason:
            left_alone.append(LeftAlone(path=path, layer=kind.__name__, reason=verdict.reason))
    return PatchReport(replaced=tuple(replaced), left_alone=tuple(left_alone)), changes


def patched_by(rules: Rules, model: nn.Module | None) -> AbstractContextManager[PatchReport]:
    """Return a context manager that patches by ``rules``."""
    if model is None:
        return _everything_patched(rules)
    _layers("patched", model)
    return _model_patched(rules, model)


@contextmanager
def _model_patched(rules: Rules, model: nn.Module) -> Iterator[PatchReport]:
    report, changed = patch_by(rules, model)
    try:
        yield report
    finally:
        for layer in changed:
            _restore(layer)


@contextmanager
def _everything_patched(rules: Rules) -> Iterator[PatchReport]:
    methods = {rule.site: rule for rule in rules.layers}
    replaced = [
        Replaced(
            path=f"{rule.layer.__module__}.{rule.layer.__name__}.{rule.method}",
            layer=rule.layer.__name__,
            op=rule.op,
            method=rule.method,
        )
        for rule in methods.values()
    ]
    functions = functions_everywhere(rules.functions)
    with routed(*methods), attention_everywhere() as names, functions as others:
        replaced += [
            Replaced(path=name, layer=name.rpartition(".")[0], op=op)
            for name, op in (*((name, "attention_chain") for name in names), *others)
        ]
        yield PatchReport(replaced=tuple(replaced), left_alone=())


def _layers(op: str, model: object) -> list[tuple[str, nn.Module]]:
    if not isinstance(model, nn.Module):
        raise DTypeError(f"[{op}] Expected an mlx.nn.Module, got {type(model).__name__}.")
    # MLX walks a model from its last layer to its first.
    layers: list[tuple[str, nn.Module]] = model.named_modules()
    return sorted(layers, key=lambda one: [_numbered(part) for part in one[0].split(".")])


def _numbered(part: str) -> tuple[int, str]:
    return (int(part), "") if part.isdigit() else (-1, part)


def _restore(layer: nn.Module) -> None:
    original = original_class(type(layer))
    if original is not type(layer):
        forget_compiled(layer)
        layer.__class__ = original


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verdict:
    """The fate of a layer.

    Attributes:
        route: The class that it gets; None for its own.
        op: The op that then serves it.
        method: The method whose calls it then serves.
        reason: Why it, or some of what it computes, is left alone; empty if nothing is.
    """

    route: type | None = None
    op: str = ""
    method: str = ""
    reason: str = ""


def _judge(path: str, layer: nn.Module, kind: type, rules: Rules, usage: Usage) -> _Verdict:
    for rule in rules.layers:
        if rule.layer in kind.__mro__:
            return _judge_by(rule, path, layer, kind, usage)
    functions = held(layer)
    found = findings(kind, functions, usage.roots(path), flags(layer))
    rules_met = tuple(rule for rule in rules.functions if rule.is_met(kind))
    if rules_met:
        ops = [rule.op for rule in rules_met]
        return _Verdict(
            route=routed_function_class(
                kind, rules_met, functions if found.has_attention else None
            ),
            op=", ".join(dict.fromkeys(ops + ["attention_chain"] * found.has_attention)),
            method=", ".join(rule.function.__name__ for rule in rules_met),
        )
    reason = _reason(layer, kind, rules, found)
    if not found.has_attention:
        return _Verdict(reason=reason)
    others = f"beside MLX's attention function its code has {', '.join(found.products)}"
    return _Verdict(
        route=routed_attention_class(kind, functions),
        op="attention_chain",
        reason=others if found.products else reason if found.fixed else "",
    )


def _judge_by(rule: Rule, path: str, layer: nn.Module, kind: type, usage: Usage) -> _Verdict:
    if rule.route in kind.__mro__:
        return _Verdict(reason=ROUTED)
    if getattr(kind, rule.method) is not original_method(rule):
        return _Verdict(reason=f"its class has a {rule.method} of its own")
    reason = usage.why_not_called(path, rule.method)
    if reason:
        return _Verdict(reason=reason)
    route = routed_class(kind, rule.route)
    return _Verdict(route=route, op=_op(rule, layer), method=rule.method)


def _op(rule: Rule, layer: nn.Module) -> str:
    if rule.quantized_op and any("scales" in one for one in layer.modules()):
        return rule.quantized_op
    return rule.biased_op if "bias" in layer else rule.op


def original_method(rule: Rule) -> object:
    """Return the method of a rule's class, hooked or not."""
    return vars(rule.layer)[rule.method]


def _reason(layer: nn.Module, kind: type, rules: Rules, found: Findings) -> str:
    """Return why products in the code of a layer are left alone; empty if there is none."""
    has_arrays = any(isinstance(value, mx.array) for value in layer.values())
    for known, reason in rules.reasons:
        if issubclass(kind, known):
            return reason
    if "scales" in layer:
        return "quantized weights stay with MLX's quantized products"
    if found.fixed:
        return "it keeps MLX's attention function where no other can be put"
    if found.spells_attention:
        return f"its attention is spelled out, with {', '.join(dict.fromkeys(found.steps))}"
    if found.products:
        return f"its products are its own: {', '.join(found.products)}"
    return "no product is found in its code" if has_arrays else ""


def standing(rules: Rules, model: nn.Module) -> dict[str, str]:
    """Return why a product with a layer's weight would not be this library's, by the layer's path.

    Args:
        rules: What layers are judged by.
        model: A module, patched or not.
    """
    report, _ = judge(rules, model)
    layers = dict(_layers("patch", model))
    reasons = {one.path: _unserved(layers[one.path]) for one in report.replaced}
    return {**reasons, **{one.path: one.reason for one in report.left_alone}}


def _unserved(layer: nn.Module) -> str:
    if original_class(type(layer)) is type(layer):
        return "its layer is not patched"
    return "it is computed outside of its layer's routed calls"

"""Route the layers of a model through this library, and back.

A layer keeps its identity, its parameters and its state; only its class changes, to a subclass
that computes with the ops here. Attention that a layer spells as a call of
`mx.fast.scaled_dot_product_attention` is routed while that layer runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..core.dtypes import FLOATS
from ..errors import DTypeError
from ..nn import EmbeddingRoute, LinearRoute, linear
from ..ops import attention_chain
from .inspection import ATTENTION, attention_modules, names_of_call
from .routing import Function, Site, routed


@dataclass(frozen=True, slots=True, kw_only=True)
class Replaced:
    """A layer that computes through this library.

    Attributes:
        path: Where it is in the model, such as ``layers.0.attention.query_proj``.
        layer: Name of its class.
        op: The op that serves it.
    """

    path: str
    layer: str
    op: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftAlone:
    """A layer that computes as before.

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
        replaced: Every layer that computes through this library now.
        left_alone: Every other layer with parameters of its own.
    """

    replaced: tuple[Replaced, ...]
    left_alone: tuple[LeftAlone, ...]

    def __str__(self) -> str:
        rows = [(one.layer, f"-> {one.op}", one.path) for one in self.replaced]
        others = [(one.layer, f"left alone: {one.reason}", one.path) for one in self.left_alone]
        head = f"[patch] {len(rows)} layers replaced, {len(others)} left alone"
        return "\n".join([head, *_grouped(rows), *_grouped(others)])


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
        function: The same for calls of ``layer``'s own method; gets the original first.
    """

    layer: type
    method: str
    route: type
    function: Function

    @property
    def site(self) -> Site:
        """The method as a name that can be routed for every layer of the class."""
        return _site(self.layer, self.method, self.function)


def _linear_call(_original: Function, layer: Any, x: mx.array) -> mx.array:  # noqa: ANN401
    return linear(x, layer["weight"], layer.get("bias"))


def _as_linear(_original: Function, layer: Any, x: mx.array) -> mx.array:  # noqa: ANN401
    return linear(x, layer["weight"])


RULES = (
    Rule(layer=nn.Linear, method="__call__", route=LinearRoute, function=_linear_call),
    Rule(layer=nn.Embedding, method="as_linear", route=EmbeddingRoute, function=_as_linear),
)


def fast_attention(original: Function, *args: Any, **kwargs: Any) -> mx.array:  # noqa: ANN401
    """Serve a call of `mx.fast.scaled_dot_product_attention`, by ``original`` if need be."""
    result: mx.array = _attention(*args, original=original, **kwargs)
    return result


def _attention(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    *,
    original: Function,
    scale: float,
    mask: Any = None,  # noqa: ANN401 - None, a name or an array
    sinks: mx.array | None = None,
    force_fused: bool = False,
    stream: Any = None,  # noqa: ANN401 - whatever names a stream
) -> Any:  # noqa: ANN401
    floats = all(x.dtype in _FLOATS for x in (q, k, v, *(() if sinks is None else (sinks,))))
    if force_fused or not floats:
        extra = {"sinks": sinks, "force_fused": force_fused, "stream": stream}
        return original(q, k, v, scale=scale, mask=mask, **extra)
    return attention_chain(q, k, v, scale=scale, mask=mask, sinks=sinks, stream=stream)


_FLOATS = frozenset(dtype.mlx for dtype in FLOATS)


@lru_cache(maxsize=1024)
def _site(owner: object, name: str, route: Function) -> Site:
    # One site for a name: it counts the blocks of all threads.
    return Site(owner, name, route)


def attention_site(owner: object = mx.fast, route: Function = fast_attention) -> Site:
    """Return the name of the attention function in ``owner`` as a site."""
    return _site(owner, ATTENTION, route)


Sites = Callable[[frozenset[str]], tuple[Site, ...]]
"""From the modules whose code names the attention function to the sites to route."""


def fast_sites(_modules: frozenset[str]) -> tuple[Site, ...]:
    """Return the site of MLX's own attention function."""
    return (attention_site(),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Everything that says how a model's layers are routed.

    Attributes:
        layers: Rules for layers, the first that fits counts.
        attention: The sites that a layer's attention goes through.
        reasons: Why layers of certain classes are left alone.
    """

    layers: tuple[Rule, ...] = RULES
    attention: Sites = fast_sites
    reasons: tuple[tuple[type, str], ...] = ()


def patch(model: nn.Module) -> PatchReport:
    """Route a model's linear layers and attention through this library, in place.

    Layers keep their identity and parameters, so optimizers, checkpoints and references to them
    stay valid. Quantized layers and layers with a way of their own are left alone; the report
    says which and why. Patching twice is patching once. Functions that `mx.compile` has traced
    keep what they traced.

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
            `nn.Linear`, every `nn.Embedding.as_linear` and every call of
            `mx.fast.scaled_dot_product_attention` of the running thread or task.

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
    layers = _layers("patch", model)
    replaced, left_alone, changed = [], [], []
    for path, layer in layers:
        name = original_class(type(layer)).__name__
        verdict = _judge(layer, rules)
        if isinstance(verdict, _Route):
            replaced.append(Replaced(path=path, layer=name, op=verdict.op))
            if type(layer) is not verdict.layer:
                layer.__class__ = verdict.layer
                changed.append(layer)
        elif verdict:
            left_alone.append(LeftAlone(path=path, layer=name, reason=verdict))
    return PatchReport(replaced=tuple(replaced), left_alone=tuple(left_alone)), changed


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
    ops = {rule.site: "matmul" for rule in rules.layers}
    ops |= dict.fromkeys(rules.attention(frozenset()), "attention_chain")
    replaced = tuple(
        Replaced(path=_site_path(site), layer=_owner_name(site), op=op) for site, op in ops.items()
    )
    with routed(*ops):
        yield PatchReport(replaced=replaced, left_alone=())


def _owner_name(site: Site) -> str:
    return str(getattr(site.owner, "__name__", site.owner))


def _site_path(site: Site) -> str:
    module = f"{site.owner.__module__}." if isinstance(site.owner, type) else ""
    return f"{module}{_owner_name(site)}.{site.name}"


def _layers(op: str, model: object) -> list[tuple[str, nn.Module]]:
    if not isinstance(model, nn.Module):
        raise DTypeError(f"[{op}] Expected an mlx.nn.Module, got {type(model).__name__}.")
    # MLX walks a model from its last layer to its first.
    layers: list[tuple[str, nn.Module]] = model.named_modules()
    return sorted(layers, key=lambda one: [_numbered(part) for part in one[0].split(".")])


def _numbered(part: str) -> tuple[int, str]:
    return (int(part), "") if part.isdigit() else (-1, part)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Route:
    """The class that a layer gets, and the op that serves it."""

    layer: type
    op: str


_ORIGINAL = "_tilegemm_original_class"


def original_class(layer: type) -> type:
    """Return the class that a patched layer had, or ``layer`` if it is none of patching's."""
    original: type = vars(layer).get(_ORIGINAL, layer)
    return original


def _restore(layer: nn.Module) -> None:
    original = original_class(type(layer))
    if original is not type(layer):
        layer.__class__ = original


def _judge(layer: nn.Module, rules: Rules) -> _Route | str | None:
    """Return how a layer is routed, or why it is not; None if there is nothing to say."""
    kind = original_class(type(layer))
    for rule in rules.layers:
        if rule.layer not in kind.__mro__:
            continue
        if rule.route in kind.__mro__:
            return "computes through this library already"
        if getattr(kind, rule.method) is not original_method(rule):
            return f"its class has a {rule.method} of its own"
        return _Route(layer=_routed_class(kind, rule.route), op=_linear_op(layer))
    modules = attention_modules(kind)
    if modules:
        sites = rules.attention(modules)
        return _Route(layer=_attention_class(kind, sites), op="attention_chain")
    return _reason(layer, kind, rules)


def original_method(rule: Rule) -> object:
    """Return the method of a rule's class, hooked or not."""
    return vars(rule.layer)[rule.method]


def _linear_op(layer: nn.Module) -> str:
    return "addmm" if "bias" in layer else "matmul"


_SPELLED_OUT = "its softmax and the products around it are spelled out in ops of their own"


def _reason(layer: nn.Module, kind: type, rules: Rules) -> str | None:
    arrays = [value for value in layer.values() if isinstance(value, mx.array)]
    if not arrays:
        return _SPELLED_OUT if "softmax" in names_of_call(kind) else None
    for known, reason in rules.reasons:
        if issubclass(kind, known):
            return reason
    if "scales" in layer:
        return "quantized weights stay with MLX's quantized products"
    if all(array.ndim < 2 for array in arrays):
        return "it multiplies no matrices"
    return "there is no rule for its class"


def standing(rules: Rules, model: nn.Module) -> dict[str, str]:
    """Return why a product with a layer's weight would not be this library's, by the layer's path.

    Args:
        rules: What layers are judged by.
        model: A module, patched or not.
    """
    return {
        path: reason
        for path, layer in _layers("patch", model)
        if (reason := _standing(layer, _judge(layer, rules)))
    }


def _standing(layer: nn.Module, verdict: _Route | str | None) -> str | None:
    if not isinstance(verdict, _Route):
        return verdict
    if type(layer) is verdict.layer:
        return "it is computed outside of its layer's routed calls"
    return "its layer is not patched"


@lru_cache(maxsize=1024)
def _routed_class(kind: type, route: type) -> type:
    return _subclass(kind, (route, kind), {})


@lru_cache(maxsize=1024)
def _attention_class(kind: type, sites: tuple[Site, ...]) -> type:
    call: Function = kind.__call__

    def __call__(self: nn.Module, *args: Any, **kwargs: Any) -> object:  # noqa: ANN401, N807
        with routed(*sites):
            return call(self, *args, **kwargs)

    return _subclass(kind, (kind,), {"__call__": __call__})


def _subclass(kind: type, bases: tuple[type, ...], members: dict[str, object]) -> type:
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return type(kind.__name__, bases, {**names, **members, _ORIGINAL: kind})

"""Reach of a layer's code, as far as it can be read without running it.

Follows methods and the functions they look up, whatever they look them up in: modules under any
name, classes, defaults, closures, containers, partial functions, and functions of `mx.compile`.
"""

from __future__ import annotations

import gc
import inspect
import sys
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field, is_dataclass, replace
from functools import cached_property, lru_cache, partial, partialmethod, singledispatchmethod
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from .code import HAS, LACKS, Base, Chain, Guard, chains, stored
from .routing import Cell, Default, Item, Place, original_of

ATTENTION = "scaled_dot_product_attention"
"""The name that MLX's attention function has."""

FAST = Item(vars(mx.fast), ATTENTION)
"""The place where MLX keeps its attention function."""

ATTENTION_FUNCTION = original_of(FAST.value)

_PRODUCTS = {
    id(getattr(mx, name)): name
    for name in (
        *("addmm", "block_masked_mm", "einsum", "gather_mm", "gather_qmm", "inner", "matmul"),
        *("outer", "qqmm", "gather_qqmm", "quantized_matmul", "segmented_mm", "tensordot"),
        *("conv1d", "conv2d", "conv3d", "conv_general"),
        *("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
    )
    if hasattr(mx, name)
}
_PRODUCTS |= {
    id(getattr(mx.fast, name)): name for name in ("gated_delta_update",) if hasattr(mx.fast, name)
}
_TELLING = frozenset(("addmm", "einsum", "gather_mm", "gather_qmm", "matmul", "quantized_matmul"))
"""Names that tell a product whatever holds the function."""

_NANOBIND = type(mx.matmul)
_FOLLOWED = (type(mx.compile(lambda x: x)), type(mx.custom_function(lambda x: x)))

SOFTMAX = "softmax"


@dataclass(slots=True)
class Findings:
    """Names that some code reaches.

    Attributes:
        places: Where it finds MLX's attention function, in place of which others can be put.
        attributes: Attributes of the layer that hold it.
        fixed: Whether it also finds it where nothing can be put, such as in a tuple.
        steps: Products that it spells, and softmaxes, in order.
        chains: Names that it looks up in the layer, or in what cannot be told.
    """

    places: dict[Place, None] = field(default_factory=dict)
    attributes: dict[str, None] = field(default_factory=dict)
    fixed: bool = False
    steps: list[str] = field(default_factory=list)
    chains: dict[Chain, None] = field(default_factory=dict)

    @property
    def products(self) -> tuple[str, ...]:
        """The products, each once."""
        return tuple(dict.fromkeys(step for step in self.steps if step != SOFTMAX))

    @property
    def has_attention(self) -> bool:
        """Whether the attention function is found where it can be routed."""
        return bool(self.places or self.attributes)

    @property
    def spells_attention(self) -> bool:
        """Whether a softmax stands between two products."""
        if SOFTMAX not in self.steps:
            return False
        at = self.steps.index(SOFTMAX)
        return any(one != SOFTMAX for one in self.steps[:at]) and any(
            one != SOFTMAX for one in self.steps[at:]
        )


def members(kind: type) -> dict[str, object]:
    """Return what layers of a class have from it and its bases, but for what every layer has."""
    found: dict[str, object] = {}
    for base in reversed(kind.__mro__):
        if base not in _COMMON:
            found |= vars(base)
    return found


_COMMON = frozenset((object, dict, nn.Module))


@lru_cache(maxsize=4096)
def _changing(kind: type, roots: tuple[str, ...]) -> frozenset[str]:
    """Return the attributes that methods of a layer set."""
    found = (value for name in roots for value in _definitions(kind, name)[:1])
    return frozenset().union(*(stored(x.__code__) for x in found if isinstance(x, FunctionType)))


@lru_cache(maxsize=4096)
def findings(
    kind: type,
    held: tuple[tuple[str, Any], ...],
    roots: tuple[str, ...],
    flags: tuple[Guard, ...] = (),
) -> Findings:
    """Return what methods of a layer reach.

    Args:
        kind: The layer's class, or the one it had.
        held: What it holds that may be or contain functions, as `held` returns it.
        roots: Names of the methods.
        flags: Answers that decide which code it runs, as `flags` returns them.
    """
    reader = _Reader(kind, dict(held), dict(flags), _changing(kind, roots))
    for name in roots:
        reader.follow_named(name)
    return reader.findings


def held(layer: nn.Module) -> tuple[tuple[str, Any], ...]:
    """Return the attributes of a layer that may be or contain functions."""
    return tuple((name, _frozen(value)) for name, value in _held(layer))


def flags(layer: nn.Module) -> tuple[Guard, ...]:
    """Return answers to questions about a layer and the settings that it holds, as guards ask."""
    return tuple(_flags(layer))


def _flags(layer: nn.Module) -> Iterator[Guard]:
    yield from (((HAS, name), True) for name in layer)
    for name, value in (*vars(layer).items(), *layer.items()):
        yield (LACKS, name), value is None
        if isinstance(value, bool):
            yield (name,), value
        elif is_dataclass(value) and not isinstance(value, type):
            settings = getattr(value, "__dict__", {})
            yield from (
                ((name, one), flag) for one, flag in settings.items() if isinstance(flag, bool)
            )


def _held(layer: nn.Module) -> Iterator[tuple[str, object]]:
    for name, value in (*vars(layer).items(), *layer.items()):
        if _may_call(value):
            yield name, value


def _may_call(value: object) -> bool:
    if isinstance(value, (nn.Module, mx.array, type)):
        return False
    if isinstance(value, ModuleType):
        return True
    if isinstance(value, dict):
        return any(_may_call(one) for one in value.values())
    if isinstance(value, (list, tuple)):
        return any(_may_call(one) for one in value)
    return callable(value)


class _Held(tuple[Any, ...]):
    """The functions in a container that a layer holds."""

    __slots__ = ()


def _frozen(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, (dict, list, tuple)):
        items = value.values() if isinstance(value, dict) else value
        return _Held(_frozen(one) for one in items if _may_call(one))
    return value if isinstance(value, Hashable) else type(value)


def _definitions(kind: type, name: str) -> list[object]:
    """Return what the bases of a class define under a name, the effective one first."""
    return [vars(base)[name] for base in kind.__mro__ if base not in _COMMON and name in vars(base)]


class _Reader:
    """Follows code from a layer's methods."""

    def __init__(
        self,
        kind: type,
        held: dict[str, Any],
        flags: Mapping[tuple[str, ...], bool],
        changing: frozenset[str],
    ) -> None:
        self.kind = kind
        self.held = held
        self.flags = flags
        self.changing = changing
        self.findings = Findings()
        self.seen: set[int] = set()
        self.made: dict[type, None] = {}

    def follow_named(self, name: str) -> None:
        """Follow what the class has under a name."""
        for value in _definitions(self.kind, name)[:1]:
            if _leads_to_attention(value):
                self.findings.attributes[name] = None
            else:
                self.follow_member(value)

    def follow_member(self, value: object) -> None:
        """Follow what a class defines."""
        if isinstance(value, property):
            value = value.fget
        elif isinstance(value, (staticmethod, classmethod)):
            self.follow_function(value.__func__, is_method=isinstance(value, classmethod))
            return
        elif isinstance(value, (cached_property, partialmethod, singledispatchmethod)):
            value = value.func
        if isinstance(value, FunctionType):
            self.follow_function(value, is_method=True)
        elif value is not None:
            self.follow(value, None)

    def follow_function(self, function: object, *, is_method: bool = False) -> None:
        """Follow a function and whatever is bound to it."""
        if not isinstance(function, FunctionType):
            self.follow(function, None)
            return
        if id(function) in self.seen:
            return
        self.seen.add(id(function))
        code = function.__code__
        self_name = code.co_varnames[0] if is_method and code.co_argcount else None
        for place, value in _bound(function):
            self.follow(value, place)
        for chain in chains(code, self_name):
            if all(map(self._is_met, chain.guards)):
                self._follow_chain(replace(chain, guards=frozenset()), function)

    def _is_met(self, guard: Guard) -> bool:
        question, answer = guard
        if not self.changing.isdisjoint(question):
            return True
        # A layer lacks what is not among its flags; an object of which there are none may not.
        default = False if self.flags and question[0] == HAS else answer
        return self.flags.get(question, default) == answer

    def follow(self, value: object, place: Place | None, name: str = "") -> None:
        """Follow a value that code finds at a place, by a name; None is a place that is fixed."""
        value = original_of(value)
        if value is ATTENTION_FUNCTION:
            self._found_attention(place)
        elif type(value) in _FOLLOWED:
            # They pass for the function they hold, but its defaults are not set through them.
            for one in gc.get_referents(value):
                if type(one) is FunctionType:
                    self.follow_function(one)
        elif isinstance(value, partial):
            self.follow(value.func, place)
            for argument in (*value.args, *value.keywords.values()):
                self.follow(argument, None)
        elif isinstance(value, FunctionType):
            self.follow_function(value)
        elif isinstance(value, MethodType):
            self._follow_bound(value)
        elif isinstance(value, _NANOBIND):
            self._found_function(value, name)
        elif isinstance(value, (dict, list, tuple)):
            self._follow_container(value)
        elif value is None:
            if "kernel" in name:
                self.findings.steps.append(name)
        else:
            self._follow_object(value)

    def _found_attention(self, place: Place | None) -> None:
        if place is None:
            self.findings.fixed = True
        else:
            self.findings.places[place] = None

    def _found_function(self, value: object, name: str) -> None:
        if id(value) in _PRODUCTS:
            self.findings.steps.append(_PRODUCTS[id(value)])
        elif value is mx.softmax:
            self.findings.steps.append(SOFTMAX)
        elif not getattr(value, "__name__", ""):
            # Kernels of `mx.fast.metal_kernel` have no name.
            self.findings.steps.append(name or "a custom kernel")

    def _follow_container(self, value: dict[Any, Any] | list[Any] | tuple[Any, ...]) -> None:
        if id(value) in self.seen:
            return
        self.seen.add(id(value))
        if isinstance(value, tuple):
            for one in value:
                if _may_call(one):
                    self.follow(one, None)
            return
        for key, one in list(value.items() if isinstance(value, dict) else enumerate(value)):
            if _may_call(one):
                self.follow(one, Item(value, key))

    def _follow_class(self, kind: type) -> None:
        """Follow what making an object of a class, and calling that, runs."""
        if kind in self.made or kind.__module__.partition(".")[0] in sys.stdlib_module_names:
            return
        self.made[kind] = None
        for name in ("__init__", "__call__"):
            self._follow_made(kind, name)

    def _follow_made(self, kind: type, name: str) -> None:
        for method in _definitions(kind, name)[:1]:
            if isinstance(method, FunctionType):
                self._follow_method_of(kind, kind, method)

    def _follow_object(self, value: object) -> None:
        wrapped = getattr(value, "__dict__", {}).get("__wrapped__")
        if wrapped is not None:
            self.follow(wrapped, None)
        elif not isinstance(value, (type, ModuleType, nn.Module)):
            call = inspect.getattr_static(type(value), "__call__", None)
            if isinstance(call, FunctionType):
                self._follow_method_of(value, type(value), call)

    def _follow_bound(self, method: MethodType) -> None:
        holder = method.__self__
        if isinstance(holder, nn.Module):
            self.follow_function(method.__func__, is_method=True)
        else:
            kind = holder if isinstance(holder, type) else type(holder)
            self._follow_method_of(holder, kind, method.__func__)

    def _follow_method_of(self, holder: object, kind: type, method: object) -> None:
        """Follow a method of an object that is no layer."""
        held = {} if holder is kind else getattr(holder, "__dict__", {})
        other = _Reader(kind, held, {}, frozenset())
        other.findings, other.seen, other.made = self.findings, self.seen, self.made
        before = dict(self.findings.attributes)
        other.follow_function(method, is_method=True)
        # Its attributes are not the layer's.
        for name in [one for one in self.findings.attributes if one not in before]:
            del self.findings.attributes[name]
            if name in held:
                self.findings.places[Item(held, name)] = None
            else:
                self.findings.fixed = True

    def _follow_chain(self, chain: Chain, function: FunctionType) -> None:
        if chain.base is Base.PRODUCT:
            self.findings.steps.append(chain.name)
        elif chain.base is Base.TEXT:
            # As in getattr(mx.fast, "...").
            if chain.name == ATTENTION:
                self.findings.places[FAST] = None
        elif chain.base is Base.SELF:
            self._follow_self(chain)
        elif chain.base is Base.UNKNOWN:
            self._follow_unknown(chain)
        else:
            self._follow_names(chain, function)

    def _follow_self(self, chain: Chain) -> None:
        self.findings.chains[chain] = None
        if not chain.attributes:
            return
        name = chain.attributes[0]
        if name in self.held:
            self._follow_held(name, self.held[name], chain.attributes[1:])
        self.follow_named(name)

    def _follow_held(self, name: str, value: object, attributes: tuple[str, ...]) -> None:
        if isinstance(value, ModuleType):
            self._follow_found(_attribute(value, None, attributes), attributes)
            return
        before, fixed = dict(self.findings.places), self.findings.fixed
        for one in value if isinstance(value, _Held) else (value,):
            if _leads_to_attention(one):
                self.findings.attributes[name] = None
            else:
                self.follow(one, None)
        self.findings.fixed = fixed or (self.findings.fixed and before == self.findings.places)

    def _follow_unknown(self, chain: Chain) -> None:
        self.findings.chains[chain] = None
        for name in chain.attributes:
            found = _definitions(self.kind, name)
            for value in found:
                self.follow_member(value)
            for kind in list(self.made):
                self._follow_made(kind, name)
            if name == ATTENTION and not found:
                self.findings.places[FAST] = None
            elif name in (SOFTMAX, *_TELLING) and not found:
                self.findings.steps.append(name)

    def _follow_names(self, chain: Chain, function: FunctionType) -> None:
        found = _looked_up(chain, function)
        if found and isinstance(found[0], type) and not found[2] and chain.is_used:
            self._follow_class(found[0])
        self._follow_found(found, (chain.name, *chain.attributes))

    def _follow_found(
        self, found: tuple[object, Place | None, tuple[str, ...]] | None, names: tuple[str, ...]
    ) -> None:
        if found is None or (found[0] is None and found[2]):
            # Of something that only running the code would tell.
            if ATTENTION in names:
                self.findings.places[FAST] = None
            return
        value, place, _ = found
        self.follow(value, place, names[-1] if names else "")


def _leads_to_attention(value: object) -> bool:
    value = original_of(value)
    if isinstance(value, (staticmethod, classmethod)):
        value = value.__func__
    while isinstance(value, partial):
        value = value.func
    return original_of(value) is ATTENTION_FUNCTION


def _bound(function: FunctionType) -> Iterator[tuple[Place, object]]:
    """Yield the defaults and the closure of a function, with their places."""
    for number, value in enumerate(function.__defaults__ or ()):
        if _may_call(value):
            yield Default(function, number), value
    for name, value in (function.__kwdefaults__ or {}).items():
        if _may_call(value):
            yield Item(function.__kwdefaults__, name), value
    for cell in function.__closure__ or ():
        value = _content(cell)
        if _may_call(value):
            yield Cell(cell), value


def _content(cell: CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:
        # Its function is still being defined.
        return None


def _looked_up(
    chain: Chain, function: FunctionType
) -> tuple[object, Place | None, tuple[str, ...]] | None:
    """Return what a chain finds, where, and the attributes that are left once that is no module."""
    scope: dict[str, Any] = function.__globals__
    place: Place | None = None
    if chain.base is Base.IMPORT:
        # `import a.b` looks up what it names from `a`.
        value: object = sys.modules.get(chain.name)
    elif chain.base is Base.FREE:
        value = _free(function, chain.name)
    elif chain.name in scope:
        value, place = scope[chain.name], Item(scope, chain.name)
    else:
        return None
    return _attribute(value, place, chain.attributes)


def _free(function: FunctionType, name: str) -> object:
    """Return a module or class that a function has from around it; all else is followed anyway."""
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    value = _content(cells[name]) if name in cells else None
    return value if isinstance(value, (ModuleType, type)) else None


def _attribute(
    value: object, place: Place | None, attributes: tuple[str, ...]
) -> tuple[object, Place | None, tuple[str, ...]] | None:
    """Return what attributes of a value lead to, as `_looked_up`."""
    while attributes:
        name = attributes[0]
        if isinstance(value, ModuleType):
            names = vars(value)
            if name not in names:
                return None
            value, place = names[name], Item(names, name)
        elif isinstance(value, type):
            value, place = _member(value, name, value), None
        elif _is_plain(value) and name in vars(value):
            value, place = vars(value)[name], Item(vars(value), name)
        elif _is_plain(value) and hasattr(type(value), name):
            value, place = _member(type(value), name, value), None
        else:
            break
        attributes = attributes[1:]
    return value, place, attributes


def _member(kind: type, name: str, holder: object) -> object:
    """Return what a class has under a name, as ``holder``, it or an object of it, has it."""
    member = inspect.getattr_static(kind, name, None)
    if isinstance(member, staticmethod):
        return member.__func__
    if isinstance(member, classmethod):
        return MethodType(member.__func__, kind)
    if isinstance(member, FunctionType) and holder is not kind:
        return MethodType(member, holder)
    return member


def _is_plain(value: object) -> bool:
    """Whether a value only has the attributes that its class and its dictionary give it."""
    special = (nn.Module, dict, list, tuple, partial, FunctionType, MethodType, *_FOLLOWED)
    return hasattr(value, "__dict__") and not isinstance(value, special)

"""Calls of a library's functions, routed through this library wherever a layer's code has them.

Modules copy such a function under a name of their own when they import it, and their classes'
methods look it up there at every call: that is where it is routed, while a layer runs. A function
may also be a method of layers, which then have another.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, wraps
from types import CodeType, FunctionType
from typing import Any

import mlx.nn as nn

from .attention import attention_members, members_within
from .inspection import members
from .routed_class import maker_of, subclass
from .routing import Attribute, Function, Item, Place, Site, original_of, routed


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionRule:
    """Routing of the calls of a function.

    Attributes:
        function: The function of another library, or the function of a method.
        route: What serves its calls; gets the function before the calls' arguments.
        op: The op that it calls.
        compiled: Attributes of layers that keep a compiled function in which the function may be,
            and are None before that: they are made anew when routing begins or ends.
    """

    function: Function
    route: Function
    op: str
    compiled: tuple[str, ...] = ()

    def sites(self, kind: type) -> tuple[Site, ...]:
        """Return where the code of layers of a class looks the function up."""
        return _sites(self, kind)

    def methods(self, kind: type) -> tuple[str, ...]:
        """Return the names by which layers of a class have the function as a method."""
        return tuple(
            name for name, value in members(kind).items() if original_of(value) is self.function
        )

    def is_met(self, kind: type) -> bool:
        """Whether the code of layers of a class has the function."""
        return bool(self.sites(kind) or self.methods(kind))

    def keeps(self, kind: type) -> bool:
        """Whether layers of a class keep a compiled function that may have this one in it."""
        codes = (one.__code__ for one in members(kind).values() if isinstance(one, FunctionType))
        names = {name for code in codes for name in _names(code)}
        return not names.isdisjoint(self.compiled) and bool(self.sites(kind))

    def forget(self, layer: nn.Module) -> None:
        """Drop what a layer has compiled, with or without this routing in it."""
        for name in self.compiled:
            if vars(layer).get(name) is not None:
                vars(layer)[name] = None


@lru_cache(maxsize=1024)
def _sites(rule: FunctionRule, kind: type) -> tuple[Site, ...]:
    found: dict[Item, None] = {}
    for member in members(kind).values():
        if isinstance(member, FunctionType):
            scope = member.__globals__
            for name in _names(member.__code__):
                if original_of(scope.get(name)) is rule.function:
                    found[Item(scope, name)] = None
    return tuple(_site(rule, place) for place in found)


def _names(code: CodeType) -> Iterator[str]:
    """Yield the names that code, and the functions in it, look up in their module."""
    yield from code.co_names
    for one in code.co_consts:
        if isinstance(one, CodeType):
            yield from _names(one)


@lru_cache(maxsize=1024)
def _site(rule: FunctionRule, place: Place) -> Site:
    # One site for a place: it counts the blocks of all threads.
    return Site(place, rule.route)


@lru_cache(maxsize=1024)
def routed_function_class(
    kind: type,
    rules: tuple[FunctionRule, ...],
    held: tuple[tuple[str, Any], ...] | None = None,
) -> type:
    """Return the class of layers of class ``kind`` whose code calls the functions of rules.

    Args:
        kind: Their own class.
        rules: Those that it meets.
        held: What they hold, as `inspection.held` returns it, if their code also reaches MLX's
            attention function, which is then routed too.
    """
    sites = tuple(site for rule in rules for site in rule.sites(kind))
    served = {name: _served(rule) for rule in rules for name in rule.methods(kind)}
    own = {**members(kind), **served}
    if held is None:
        changed = members_within(own, sites)
    else:
        changed = attention_members(kind, held, own, sites)
    maker = (routed_function_class, (kind, rules, held))
    return subclass(kind, (kind,), {**served, **changed}, maker)


def _served(rule: FunctionRule) -> Function:
    @wraps(rule.function)
    def method(*args: Any, **kwargs: Any) -> object:  # noqa: ANN401 - of any method
        return rule.route(rule.function, *args, **kwargs)

    return method


def forget_compiled(layer: nn.Module) -> None:
    """Drop what a layer has compiled, if calls of functions in it are, or were, routed."""
    made = maker_of(type(layer))
    if made is not None and made[0] is routed_function_class:
        for rule in made[1][1]:
            rule.forget(layer)


@contextmanager
def functions_everywhere(rules: tuple[FunctionRule, ...]) -> Iterator[tuple[tuple[str, str], ...]]:
    """Route functions under every name that loaded modules have for them; give names and ops."""
    found = {name: (rule, place) for rule in rules for name, place in _places(rule)}
    with routed(*(_site(rule, place) for rule, place in found.values())):
        _forget_everywhere(rules)
        try:
            yield tuple((name, rule.op) for name, (rule, _) in found.items())
        finally:
            known = {place for _, place in found.values()}
            # A module imported in the block has copied the hook.
            for rule in rules:
                for _, place in _places(rule):
                    if place not in known and not _site(rule, place).is_in_place:
                        place.put(original_of(place.value))
            _forget_everywhere(rules)


def _forget_everywhere(rules: tuple[FunctionRule, ...]) -> None:
    """Drop what layers of all models have compiled: nothing but the collector knows them all."""
    for rule in rules:
        kinds = tuple(_compiling(rule))
        if kinds:
            for one in gc.get_objects():
                if issubclass(type(one), kinds):
                    rule.forget(one)


def _compiling(rule: FunctionRule) -> Iterator[type[nn.Module]]:
    """Yield the loaded classes of layers that keep a compiled function."""
    for scope in {id(place.container): place.container for _, place in _names_of(rule)}.values():
        for kind in list(scope.values()):
            if isinstance(kind, type) and issubclass(kind, nn.Module) and rule.keeps(kind):
                yield kind


def _places(rule: FunctionRule) -> Iterator[tuple[str, Place]]:
    yield from _names_of(rule)
    module_name, name = rule.function.__module__, rule.function.__qualname__
    owner, _, method = name.rpartition(".")
    kind = getattr(sys.modules.get(module_name), owner, None)
    if isinstance(kind, type) and original_of(vars(kind).get(method)) is rule.function:
        yield f"{module_name}.{name}", Attribute(kind, method)


def _names_of(rule: FunctionRule) -> Iterator[tuple[str, Item]]:
    for module_name, module in sorted(sys.modules.items()):
        names = getattr(module, "__dict__", {})
        if module_name.partition(".")[0] == __name__.partition(".")[0]:
            continue
        for name, value in list(names.items()):
            if original_of(value) is rule.function:
                yield f"{module_name}.{name}", Item(names, name)

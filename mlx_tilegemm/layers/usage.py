"""Which layers of a model are called by the code around them, as far as it can be read."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.nn as nn

from .code import Base, Chain
from .inspection import findings, flags, held, members

Layers = Sequence[tuple[str, nn.Module, type]]
"""Path, layer and class of every layer of a model."""


class Usage:
    """Uses that the code of a model's layers makes of the layers.

    Args:
        layers: Every layer of the model.
    """

    def __init__(self, layers: Layers) -> None:
        self._layers = {path: (layer, kind) for path, layer, kind in layers}
        self._names: set[str] = set()
        self._settle()
        # Layers of a class mostly share what they read.
        self._own: dict[tuple[str, str], list[Chain]] = {}
        self._holders: dict[str, set[str]] = {}
        self._others: dict[str, dict[Chain, None]] = {}
        for path in self._layers:
            for chain in self._read(path):
                self._index(path, chain)

    def roots(self, path: str) -> tuple[str, ...]:
        """Return the methods of a layer that may be called, from outside or by other layers."""
        kind = self._layers[path][1]
        own = [
            name
            for name, value in members(kind).items()
            if callable_member(value) and name != "__init__"
        ]
        if "__call__" not in own or path == "":
            return tuple(own)
        return tuple(name for name in own if name == "__call__" or name in self._names)

    def why_not_called(self, path: str, method: str) -> str:
        """Return why a layer's method is never called; empty if it may be."""
        if not path or (method in self._names and self._may_reach(path, method)):
            return ""
        parent, _, name = path.rpartition(".")
        if method != "__call__":
            if any(_reads_weight(chain, name) for chain in self._relevant(parent, name)):
                return f"the code around it reads its weight and calls no {method}"
            return f"nothing calls its {method}: it only looks up rows"
        if name.isdigit() or parent not in self._layers:
            return ""
        relevant = list(self._relevant(parent, name))
        if not relevant or any(_may_call(chain, name) for chain in relevant):
            return ""
        if any(chain.is_by_class for chain in relevant):
            return "the code around it calls a class's __call__ on it"
        return "the code around it reads its weight and does not call it"

    def _may_reach(self, path: str, method: str) -> bool:
        """Whether code looks up a method in what has a layer's name, or no layer's."""
        if method == "__call__":
            return False
        holders = self._holders[method]
        return _last_name(path) in holders or not holders <= set(map(_last_name, self._layers))

    def _settle(self) -> None:
        """Find the names that reachable code uses, which make more code reachable."""
        before = -1
        while len(self._names) != before:
            before = len(self._names)
            for path in self._layers:
                self._names.update(name for chain in self._read(path) for name in chain.attributes)

    def _read(self, path: str) -> tuple[Chain, ...]:
        layer, kind = self._layers[path]
        roots = self.roots(path)
        if path == "" and "__call__" in roots:
            roots = tuple(name for name in roots if name == "__call__" or name in self._names)
        return tuple(findings(kind, held(layer), roots, flags(layer)).chains)

    def _index(self, path: str, chain: Chain) -> None:
        for number, name in enumerate(chain.attributes):
            self._holders.setdefault(name, set()).add(
                chain.attributes[number - 1] if number else ""
            )
            if chain.base is Base.SELF and not number:
                self._own.setdefault((path, name), []).append(chain)
            else:
                self._others.setdefault(name, {})[chain] = None

    def _relevant(self, parent: str, name: str) -> list[Chain]:
        """Return the chains that may lead to the layer ``name`` of the layer at ``parent``."""
        return [*self._own.get((parent, name), ()), *self._others.get(name, ())]


def _last_name(path: str) -> str:
    """Return the name under which a layer, or the list it is in, is an attribute; " " for none."""
    return next((name for name in reversed(path.split(".")) if not name.isdigit()), "") or " "


def callable_member(value: object) -> bool:
    """Whether a class's member is code."""
    return (
        hasattr(value, "__code__")
        or hasattr(value, "__func__")
        or hasattr(value, "fget")
        or (hasattr(value, "func"))
    )


def _following(chain: Chain, name: str) -> str | None:
    at = chain.attributes.index(name) + 1
    return chain.attributes[at] if at < len(chain.attributes) else None


def _reads_weight(chain: Chain, name: str) -> bool:
    return _following(chain, name) == "weight"


def _may_call(chain: Chain, name: str) -> bool:
    following = _following(chain, name)
    if following is None and chain.is_by_class:
        return False
    return following == "__call__" or (following is None and chain.is_used)

"""Classes that patching gives to layers: subclasses of their own, which pickle by what they are of.

A layer's class is made anew wherever a pickled layer is loaded, so patched models pickle and copy
as others do.
"""

from __future__ import annotations

import copyreg
from collections.abc import Callable
from functools import lru_cache
from typing import Any

_ORIGINAL = "_tilegemm_original_class"
_MAKER = "_tilegemm_maker"


class _Routed(type):
    """Class of classes that pickle as a call that makes them."""


def _reduced(kind: type) -> tuple[Callable[..., type], tuple[Any, ...]]:
    maker: tuple[Callable[..., type], tuple[Any, ...]] = vars(kind)[_MAKER]
    return maker


copyreg.pickle(_Routed, _reduced)  # type: ignore[arg-type]


@lru_cache(maxsize=64)
def _metaclass(kind: type[type]) -> type[type]:
    if kind is type:
        return _Routed
    joined = type(kind.__name__, (_Routed, kind), {})
    copyreg.pickle(joined, _reduced)
    return joined


def original_class(layer: type) -> type:
    """Return the class that a patched layer had, or ``layer`` if it is none of patching's."""
    original: type = vars(layer).get(_ORIGINAL, layer)
    return original


def maker_of(layer: type) -> tuple[Callable[..., type], tuple[Any, ...]] | None:
    """Return the function and arguments that made a patched layer's class; None of any other."""
    return vars(layer).get(_MAKER)


def subclass(
    kind: type,
    bases: tuple[type, ...],
    members: dict[str, object],
    maker: tuple[Callable[..., type], tuple[Any, ...]],
) -> type:
    """Return a class that layers of class ``kind`` get.

    Args:
        kind: Their own class.
        bases: Of the new one.
        members: What differs.
        maker: Function and arguments that return this class again, all of which pickle.
    """
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    own = {**names, **members, _ORIGINAL: kind, _MAKER: maker}
    return _metaclass(type(kind))(kind.__name__, bases, own)


@lru_cache(maxsize=1024)
def routed_class(kind: type, route: type) -> type:
    """Return the class of layers of class ``kind`` with the methods of the mixin ``route``."""
    return subclass(kind, (route, kind), {}, (routed_class, (kind, route)))

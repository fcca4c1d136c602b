"""Calls of MLX's attention function, routed through this library."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property, lru_cache, partial, partialmethod, wraps
from types import FunctionType
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..backends import StreamOrDevice
from ..core.dtypes import MLX_FLOATS
from ..core.fast_path import Served, with_fast_path
from ..ops import attention_chain
from .inspection import ATTENTION_FUNCTION, FAST, findings, members
from .routed_class import subclass
from .routing import Function, Item, Place, Site, original_of, routed, substituted


def fast_attention(original: Function, *args: Any, **kwargs: Any) -> mx.array:  # noqa: ANN401
    """Serve a call of `mx.fast.scaled_dot_product_attention`, by ``original`` if need be."""
    if len(args) == 3 and "scale" in kwargs:
        served = _attention(*args, **kwargs)
        if served is not None:
            return served
    result: mx.array = original(*args, **kwargs)
    mark = _mark.get()
    return mark(refusal(*args, **kwargs), result) if mark else result


Mark = Callable[[str, mx.array], mx.array]
"""Takes the reason why MLX serves a call, and its result; returns the result."""

_mark: ContextVar[Mark | None] = ContextVar("mlx_tilegemm_mark", default=None)


@contextmanager
def marking(mark: Mark) -> Iterator[None]:
    """Pass what stays with MLX to ``mark`` while the block runs."""
    token = _mark.set(mark)
    try:
        yield
    finally:
        _mark.reset(token)


def refusal(
    *operands: Any,  # noqa: ANN401
    mask: Any = None,  # noqa: ANN401
    sinks: Any = None,  # noqa: ANN401
    force_fused: bool = False,
    **options: Any,  # noqa: ANN401
) -> str:
    """Return why a call of MLX's attention function stays with MLX; empty if it need not."""
    if force_fused:
        return "it asks for MLX's own kernel by force_fused"
    # Loops, since generators would take most of a call's time here.
    if len(operands) != 3:
        return "its operands are not three arrays"
    for x in operands:
        if not isinstance(x, mx.array):
            return "its operands are not three arrays"
    for x in operands if sinks is None else (*operands, sinks):
        if x.dtype not in MLX_FLOATS:
            return "it has operands that are not float32, float16 or bfloat16"
    for x in operands[:2]:
        if x.ndim != 4 or not x.shape[3]:
            return "it has heads of size 0"
    if not hasattr(options.get("scale"), "__float__"):
        return "its scale is no number"
    if isinstance(mask, mx.array):
        return "" if mask.dtype != mx.complex64 else "its mask is complex"
    named = mask is None or (isinstance(mask, str) and mask == "causal")
    return "" if named else "its mask is neither an array nor 'causal'"


@with_fast_path("q", "k", "v", "mask", "sinks", often=("mask",))
def _attention(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    *,
    scale: float | mx.array,
    mask: str | mx.array | None = None,
    sinks: mx.array | None = None,
    force_fused: bool = False,
    stream: StreamOrDevice = None,
) -> Served[mx.array | None]:
    """Serve a call of MLX's attention function by this library; None is what stays with MLX."""
    if refusal(q, k, v, scale=scale, mask=mask, sinks=sinks, force_fused=force_fused):
        return None, None
    added = mask
    if isinstance(mask, mx.array) and mask.dtype not in MLX_FLOATS and mask.dtype != mx.bool_:
        # MLX promotes masks of integers, and adds them.
        added = mask.astype(mx.float32)
    serve: Any = inspect.unwrap(attention_chain)
    call, result = serve(q, k, v, scale=float(scale), mask=added, sinks=sinks, stream=stream)
    if call is None or added is not mask:
        return None, result
    if sinks is None and not isinstance(mask, mx.array):
        return call, result
    return lambda q, k, v, mask, sinks: call(q, k, v, None, None, mask, sinks), result


def attention_site(place: Place = FAST) -> Site:
    """Return a place of MLX's attention function as a site: one, for it counts all blocks."""
    return _attention_site(place)


@lru_cache(maxsize=4096)
def _attention_site(place: Place) -> Site:
    return Site(place, fast_attention)


def _replaced(function: Function) -> Function:
    original: Any = original_of(function)
    return partial(fast_attention, original)


@contextmanager
def attention_everywhere() -> Iterator[tuple[str, ...]]:
    """Route MLX's attention function under every name that a loaded module has for it."""
    places = {name: place for name, place in _names() if original_of(place.value) is place.value}
    with routed(*map(attention_site, places.values())):
        try:
            yield tuple(places)
        finally:
            # A module imported in the block has copied the hook.
            for _, place in _names():
                if place not in places.values() and not attention_site(place).is_in_place:
                    place.put(original_of(place.value))


def _names() -> Iterator[tuple[str, Item]]:
    yield "mlx.core.fast.scaled_dot_product_attention", FAST
    for module_name, module in sorted(sys.modules.items()):
        names = getattr(module, "__dict__", {})
        if module_name.partition(".")[0] == __name__.partition(".")[0] or names is FAST.container:
            continue
        for name, value in list(names.items()):
            if original_of(value) is ATTENTION_FUNCTION:
                yield f"{module_name}.{name}", Item(names, name)


@lru_cache(maxsize=1024)
def routed_attention_class(kind: type, held: tuple[tuple[str, Any], ...] = ()) -> type:
    """Return the class of layers of class ``kind`` whose code reaches MLX's attention function.

    Args:
        kind: Their own class.
        held: What they hold that may be or contain functions, as `inspection.held` returns it.
    """
    return subclass(
        kind, (kind,), attention_members(kind, held), (routed_attention_class, (kind, held))
    )


def attention_members(
    kind: type,
    held: tuple[tuple[str, Any], ...],
    own: Mapping[str, object] | None = None,
    sites: tuple[Site, ...] = (),
) -> dict[str, object]:
    """Return the members in which layers differ whose calls of MLX's attention function are routed.

    Args:
        kind: Their class.
        held: As of `routed_attention_class`.
        own: Members that they have now, if they are others than their class's.
        sites: Other places that are routed while these run.
    """
    own = members(kind) if own is None else own
    found = findings(kind, held, tuple(name for name in own if name not in _UNWRAPPED))
    wrapped = members_within(own, (*sites, *map(attention_site, found.places)))
    attributes = {name: _held(name, own.get(name)) for name in found.attributes}
    return {**wrapped, **attributes}


_UNWRAPPED = frozenset(
    (
        *("__init__", "__new__", "__init_subclass__", "__class_getitem__", "__set_name__"),
        *("__getattr__", "__getattribute__", "__setattr__", "__delattr__", "__repr__"),
        *("__reduce__", "__reduce_ex__", "__getstate__", "__setstate__"),
    )
)


def members_within(own: Mapping[str, object], sites: tuple[Site, ...]) -> dict[str, object]:
    """Return those members of a class that run, so that they do with sites routed."""
    return {
        name: member
        for name, value in own.items()
        if sites and name not in _UNWRAPPED and (member := _wrapped(value, sites)) is not None
    }


def _wrapped(member: object, sites: tuple[Site, ...]) -> object:
    """Return a member of a class that runs with sites routed; None for what does not run."""
    wrap = partial(_within, sites=sites)
    if isinstance(member, FunctionType):
        return wrap(member)
    if isinstance(member, (staticmethod, classmethod)):
        if not isinstance(member.__func__, FunctionType):
            return None
        return type(member)(wrap(member.__func__))
    if isinstance(member, property):
        parts = (member.fget, member.fset, member.fdel)
        read, write, delete = (None if part is None else wrap(part) for part in parts)
        return property(read, write, delete, member.__doc__)
    if isinstance(member, cached_property):
        copied = cached_property(wrap(member.func))
        copied.__set_name__(object, member.attrname or member.func.__name__)
        return copied
    if isinstance(member, partialmethod):
        return partialmethod(wrap(member.func), *member.args, **member.keywords)
    return None


def _within(function: Callable[..., Any], sites: tuple[Site, ...]) -> Function:
    if inspect.isgeneratorfunction(function):
        return _steps_within(function, sites)

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> object:  # noqa: ANN401 - of any method
        with routed(*sites):
            return function(*args, **kwargs)

    return call


def _steps_within(function: Callable[..., Any], sites: tuple[Site, ...]) -> Function:
    @wraps(function)
    def steps(*args: Any, **kwargs: Any) -> Generator[object, None, object]:  # noqa: ANN401
        running = function(*args, **kwargs)
        while True:
            # Whoever takes the values runs between the blocks.
            with routed(*sites):
                try:
                    value = next(running)
                except StopIteration as end:
                    result: object = end.value
                    return result
            yield value

    return steps


def _held(name: str, member: object) -> object:
    """Return a property that stands for an attribute of layers which holds the function."""
    if member is not None:
        function = member.__func__ if isinstance(member, staticmethod) else member
        return staticmethod(_served(function))

    def read(layer: nn.Module) -> object:
        own = vars(layer)
        if name in own:
            return _served(own[name])
        if name in layer:
            return _served(layer[name])
        raise AttributeError(f"{type(layer).__name__!r} has no attribute {name!r}")

    def write(layer: nn.Module, value: object) -> None:
        vars(layer)[name] = value

    def delete(layer: nn.Module) -> None:
        del vars(layer)[name]

    return property(read, write, delete)


def _served(value: Any) -> Any:  # noqa: ANN401
    """Return what a layer holds with MLX's attention function replaced in it."""
    if isinstance(value, dict):
        return {key: _served(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_served(one) for one in value)
    if original_of(value) is ATTENTION_FUNCTION or isinstance(value, partial):
        return substituted(value, _replaced_if_attention)
    return value


def _replaced_if_attention(function: Function) -> Function:
    return _replaced(function) if original_of(function) is ATTENTION_FUNCTION else function

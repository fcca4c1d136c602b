"""Caches: of prepared calls, which are forgotten when more becomes known, and of pure functions."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from operator import is_
from typing import Any, ParamSpec, TypeVar, cast

V = TypeVar("V")
Arguments = ParamSpec("Arguments")

SIZE = 4096
"""Calls that one cache keeps."""

_caches: list[Any] = []


def prepared(prepare: Callable[Arguments, V]) -> Callable[Arguments, V]:
    """Return a function that keeps what ``prepare`` made of its arguments, the call's key.

    Flags of a key have types of their own (`typing.NewType`), so that type checkers see when two
    are swapped. At run time the key is hashed without a Python frame in between.
    """
    cached = lru_cache(maxsize=SIZE)(prepare)
    _caches.append(cached)
    return cast("Callable[Arguments, V]", cached)


def kept(function: Callable[Arguments, V]) -> Callable[Arguments, V]:
    """Return a pure function of hashable arguments that keeps its latest values."""
    return cast("Callable[Arguments, V]", lru_cache(maxsize=256)(function))


def latest(function: Callable[Arguments, V]) -> Callable[Arguments, V]:
    """Return a pure function that keeps its last value, for the very same positional arguments.

    Comparing identities costs a tenth of hashing a problem: while a problem is planned, what is
    asked of it is asked again and again in a row.
    """
    one = function.__code__.co_argcount == 1
    call = (_latest_of_one if one else _latest_of_several)(function)
    return cast("Callable[Arguments, V]", wraps(function)(call))


def _latest_of_one(function: Callable[..., V]) -> Callable[[object], V]:
    held: tuple[object, Any] = (object(), None)

    def call(argument: object) -> V:
        nonlocal held
        last, value = held
        if last is not argument:
            value = function(argument)
            held = (argument, value)
        return cast(V, value)

    return call


def _latest_of_several(function: Callable[..., V]) -> Callable[..., V]:
    held: tuple[tuple[object, ...], Any] = ((), None)

    def call(*arguments: object) -> V:
        nonlocal held
        last, value = held
        if len(last) != len(arguments) or not all(map(is_, last, arguments)):
            value = function(*arguments)
            held = (arguments, value)
        return cast(V, value)

    return call


def forget_prepared() -> None:
    """Forget all prepared calls: they are prepared anew, with what is known then."""
    for cache in _caches:
        cache.cache_clear()

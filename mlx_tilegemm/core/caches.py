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
    held: tuple[tuple[object, ...], V] | None = None

    def call(*arguments: Arguments.args, **options: Arguments.kwargs) -> V:
        nonlocal held
        last = held
        if last is not None and not options and _are_same(last[0], arguments):
            return last[1]
        value = function(*arguments, **options)
        if not options:
            held = (arguments, value)
        return value

    return wraps(function)(call)


def _are_same(some: tuple[object, ...], others: tuple[object, ...]) -> bool:
    return len(some) == len(others) and all(map(is_, some, others))


def forget_prepared() -> None:
    """Forget all prepared calls: they are prepared anew, with what is known then."""
    for cache in _caches:
        cache.cache_clear()

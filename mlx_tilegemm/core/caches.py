"""Caches: of prepared calls, which are forgotten when more becomes known, and of pure functions."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, ParamSpec, TypeVar, cast

K = TypeVar("K")
V = TypeVar("V")
Arguments = ParamSpec("Arguments")

SIZE = 4096
"""Calls that one cache keeps."""

_caches: list[Any] = []


def prepared(prepare: Callable[[K], V]) -> Callable[[K], V]:
    """Return a function of one hashable key that keeps what ``prepare`` made of it."""
    cached = lru_cache(maxsize=SIZE)(prepare)
    _caches.append(cached)
    return cached


def kept(function: Callable[Arguments, V]) -> Callable[Arguments, V]:
    """Return a pure function of hashable arguments that keeps its latest values."""
    return cast("Callable[Arguments, V]", lru_cache(maxsize=256)(function))


def forget_prepared() -> None:
    """Forget all prepared calls: they are prepared anew, with what is known then."""
    for cache in _caches:
        cache.cache_clear()

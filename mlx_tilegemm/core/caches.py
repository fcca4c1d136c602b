"""Caches of prepared calls, all of which are forgotten together when more becomes known."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

K = TypeVar("K")
V = TypeVar("V")

SIZE = 4096
"""Calls that one cache keeps."""

_caches: list[Any] = []


def prepared(prepare: Callable[[K], V]) -> Callable[[K], V]:
    """Return a function of one hashable key that keeps what ``prepare`` made of it."""
    cached = lru_cache(maxsize=SIZE)(prepare)
    _caches.append(cached)
    return cached


def forget_prepared() -> None:
    """Forget all prepared calls: they are prepared anew, with what is known then."""
    for cache in _caches:
        cache.cache_clear()

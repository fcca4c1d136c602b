"""Caches: of prepared calls, which are forgotten when more becomes known, and of pure functions."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, ParamSpec, TypeVar, cast

V = TypeVar("V")
Arguments = ParamSpec("Arguments")

SIZE = 4096
"""Calls that one cache keeps."""

_forgetting: list[Callable[[], object]] = []


def prepared(prepare: Callable[Arguments, V]) -> Callable[Arguments, V]:
    """Return a function that keeps what ``prepare`` made of its arguments, the call's key.

    Flags of a key have types of their own (`typing.NewType`), so that type checkers see when two
    are swapped. At run time the key is hashed without a Python frame in between.
    """
    cached = lru_cache(maxsize=SIZE)(prepare)
    on_forgetting(cached.cache_clear)
    return cast("Callable[Arguments, V]", cached)


def kept(function: Callable[Arguments, V]) -> Callable[Arguments, V]:
    """Return a pure function of hashable arguments that keeps its latest values."""
    return cast("Callable[Arguments, V]", lru_cache(maxsize=256)(function))


def latest(function: Callable[Arguments, V]) -> Callable[Arguments, V]:
    """Return a pure function that keeps its last value, for the very same one to three arguments.

    Comparing identities costs a tenth of hashing a problem: while a problem is planned, what is
    asked of it is asked again and again in a row.
    """
    arity = function.__code__.co_argcount
    return cast("Callable[Arguments, V]", wraps(function)(_LATEST[arity](function)))


# A function for each number of arguments: comparing tuples of any length takes thrice as long.
def _latest_of_one(function: Callable[[object], V]) -> Callable[[object], V]:
    held: tuple[object, Any] = (object(), None)

    def call(one: object) -> V:
        nonlocal held
        last, value = held
        if last is not one:
            value = function(one)
            held = (one, value)
        result: V = value
        return result

    return call


def _latest_of_two(function: Callable[[object, object], V]) -> Callable[[object, object], V]:
    held: tuple[object, object, Any] = (object(), None, None)

    def call(one: object, two: object) -> V:
        nonlocal held
        first, second, value = held
        if first is not one or second is not two:
            value = function(one, two)
            held = (one, two, value)
        result: V = value
        return result

    return call


def _latest_of_three(
    function: Callable[[object, object, object], V],
) -> Callable[[object, object, object], V]:
    held: tuple[object, object, object, Any] = (object(), None, None, None)

    def call(one: object, two: object, three: object) -> V:
        nonlocal held
        first, second, third, value = held
        if first is not one or second is not two or third is not three:
            value = function(one, two, three)
            held = (one, two, three, value)
        result: V = value
        return result

    return call


_LATEST: dict[int, Callable[[Any], Callable[..., Any]]] = {
    1: _latest_of_one,
    2: _latest_of_two,
    3: _latest_of_three,
}


def on_forgetting(forget: Callable[[], object]) -> None:
    """Have a function called that forgets what was made of prepared calls, when they are."""
    _forgetting.append(forget)


def forget_prepared() -> None:
    """Forget all prepared calls: they are prepared anew, with what is known then."""
    for forget in _forgetting:
        forget()

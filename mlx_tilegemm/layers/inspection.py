"""Calls in the code of a layer's class, as far as its code objects say."""

from __future__ import annotations

from functools import lru_cache
from types import CodeType, FunctionType

import mlx.nn as nn

from .routing import original_of

ATTENTION = "scaled_dot_product_attention"
"""The name that MLX's attention function has, and mlx-lm's."""


@lru_cache(maxsize=1024)
def attention_modules(kind: type) -> frozenset[str]:
    """Return the modules with code of a layer class that names the attention function.

    Follows the class's methods and the functions that they call by name.
    """
    methods = [
        member
        for base in kind.__mro__
        if base is not nn.Module and issubclass(base, nn.Module)
        for member in vars(base).values()
        if isinstance(member, FunctionType)
    ]
    found: set[str] = set()
    seen: set[FunctionType] = set()
    while methods:
        function = methods.pop()
        if function in seen:
            continue
        seen.add(function)
        names = _names(function.__code__)
        if ATTENTION in names:
            found.add(function.__module__)
        called = (original_of(function.__globals__.get(name)) for name in names)
        methods += [one for one in called if isinstance(one, FunctionType)]
    return frozenset(found)


def names_of_call(kind: type) -> set[str]:
    """Return the names that calling a layer of class ``kind`` looks up first."""
    # A module that is a list of others has no call.
    call = getattr(kind, "__call__", None)  # noqa: B004
    return _names(call.__code__) if isinstance(call, FunctionType) else set()


def _names(code: CodeType) -> set[str]:
    inner = [_names(one) for one in code.co_consts if isinstance(one, CodeType)]
    return set(code.co_names).union(*inner)

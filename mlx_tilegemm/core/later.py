"""Functions of modules that are imported when they are first needed."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any


def later(module: str, name: str) -> Callable[..., Any]:
    """Return a function of a module, which is imported at the first call.

    References need NumPy, which is most of what importing the library may cost.
    """

    def call(*arguments: object) -> object:
        return getattr(import_module(module), name)(*arguments)

    return call

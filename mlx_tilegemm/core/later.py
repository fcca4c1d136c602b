"""Functions of modules that are imported when they are first needed."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any


def later(module: str, name: str) -> Callable[..., Any]:
    """Return a function of a module, which is imported at the first call.

    References need NumPy, and together the modules of all families are most of what importing the
    library would cost.
    """

    def call(*arguments: object) -> object:
        return getattr(import_module(module), name)(*arguments)

    return call

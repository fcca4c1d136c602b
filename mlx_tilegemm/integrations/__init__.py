"""Other libraries' models, routed through this one; each module here needs its library."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import mlx_lm

__all__ = ["mlx_lm"]


def __getattr__(name: str) -> object:
    if name in __all__:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

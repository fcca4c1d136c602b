"""How kernels are translated; held in a context variable."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple


class Settings(NamedTuple):
    """How Metal becomes CUDA.

    Args:
        exact: Whether products of 8x8 matrices are sums of float32 products in the emulator's
            order, bit for bit. Otherwise tensor cores make them of parts of each operand, which
            TF32 holds: exact for 16-bit numbers, within a few units of 2^-24 for others.
        line_info: Whether compute-sanitizer and profilers can name lines of the Metal text.
    """

    exact: bool = False
    line_info: bool = False


_current: ContextVar[Settings] = ContextVar("cuda_settings", default=Settings())  # noqa: B039


def current_settings() -> Settings:
    """The settings in force."""
    return _current.get()


@contextmanager
def settings(**changes: bool) -> Iterator[None]:
    """Changes settings within a block.

    Args:
        **changes: Fields of :class:`Settings`.

    Example:
        >>> with settings(exact=True):
        ...     current_settings().exact
        True
    """
    token = _current.set(current_settings()._replace(**changes))
    try:
        yield
    finally:
        _current.reset(token)

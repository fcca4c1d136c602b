"""Names of other libraries that lead here while a block runs, and nowhere else.

A `Site` is a name in a module or class. Inside `routed` it holds a hook; the hook calls this
library's route in the thread or task that entered the block and the original in all others. When
the last block ends the name holds its original again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from threading import Lock
from typing import Any

Function = Callable[..., Any]
"""A function of another library, whose signature is that library's business."""

_active: ContextVar[frozenset[Site]] = ContextVar("mlx_tilegemm_sites", default=frozenset())


class Site:
    """A name that can be routed. It counts the blocks it is in, which threads share.

    Args:
        owner: The module or class that has the name.
        name: The name.
        route: What a routed call does; gets the original function before the call's arguments.
    """

    def __init__(self, owner: object, name: str, route: Function) -> None:
        self.owner = owner
        self.name = name
        self.route = route
        self._lock = Lock()
        self._blocks = 0
        self._original: object = None
        self._hook: object = None

    @property
    def is_in_place(self) -> bool:
        """Whether the name holds this site's hook."""
        return self._hook is not None and vars(self.owner)[self.name] is self._hook

    def enter(self) -> None:
        """Put the hook in place, unless it is there for another block."""
        with self._lock:
            if not self._blocks:
                original = vars(self.owner)[self.name]
                # A layer enters at each call, nearly always with the same original.
                if original is not self._original:
                    self._original, self._hook = original, _hook(self, original)
                setattr(self.owner, self.name, self._hook)
            self._blocks += 1

    def leave(self) -> None:
        """Put the original back, if this was the last block."""
        with self._lock:
            self._blocks -= 1
            # Whoever has replaced the hook meanwhile keeps their function, which may call it.
            if not self._blocks and vars(self.owner)[self.name] is self._hook:
                setattr(self.owner, self.name, self._original)


def _hook(site: Site, original: Function) -> Function:
    @wraps(original)
    def hook(*args: Any, **kwargs: Any) -> object:  # noqa: ANN401 - of any function
        active = _active.get()
        if site not in active:
            return original(*args, **kwargs)
        # A route that calls what it stands in for must not come back to itself.
        token = _active.set(active - {site})
        try:
            return site.route(original, *args, **kwargs)
        finally:
            _active.reset(token)

    hook.__dict__[_HOOK_OF] = original
    return hook


_HOOK_OF = "__tilegemm_hook_of__"


def original_of(value: object) -> object:
    """Return the function that the hook ``value`` stands in for, or ``value`` if it is no hook."""
    return getattr(value, "__dict__", {}).get(_HOOK_OF, value)


@contextmanager
def routed(*sites: Site) -> Iterator[None]:
    """Route ``sites`` for the running thread or task while the block runs. Blocks nest."""
    entered: list[Site] = []
    try:
        for site in sites:
            site.enter()
            entered.append(site)
        token = _active.set(_active.get().union(sites))
        try:
            yield
        finally:
            _active.reset(token)
    finally:
        for site in reversed(entered):
            site.leave()

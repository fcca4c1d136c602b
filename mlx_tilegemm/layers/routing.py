"""Functions of other libraries that lead here while a block runs, and nowhere else.

A `Site` is a place that holds such a function: a name in a module or class, a default, a variable
of a closure, an item of a container. Inside `routed` it holds a hook; the hook calls this
library's route in the thread or task that entered the block and the original in all others. When
the last block ends the place holds its original again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial, wraps
from threading import Lock
from types import CellType, FunctionType
from typing import Any, Protocol

Function = Callable[..., Any]
"""A function of another library, whose signature is that library's business."""

_active: ContextVar[frozenset[Site]] = ContextVar("mlx_tilegemm_sites", default=frozenset())


_NOTHING: frozenset[Site] = frozenset()


class Place(Hashable, Protocol):
    """Something that holds a function and can be made to hold another."""

    @property
    def value(self) -> object:
        """The value that it holds."""

    def put(self, value: object) -> None:
        """Make it hold something else."""


class Attribute:
    """An attribute of a class."""

    __slots__ = ("name", "owner")

    def __init__(self, owner: type, name: str) -> None:
        self.owner = owner
        self.name = name

    @property
    def value(self) -> object:
        """The attribute that the class itself has under the name."""
        return vars(self.owner)[self.name]

    def put(self, value: object) -> None:
        """Set the attribute."""
        setattr(self.owner, self.name, value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Attribute) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[int, str]:
        return id(self.owner), self.name


class Item:
    """A name in a module's dictionary, or what any other container holds under a key."""

    __slots__ = ("container", "key")

    def __init__(self, container: Any, key: Any) -> None:  # noqa: ANN401
        self.container = container
        self.key = key

    @property
    def value(self) -> object:
        """The value that the container holds; None if it has lost the key."""
        if isinstance(self.container, dict):
            return self.container.get(self.key)
        return self.container[self.key]

    def put(self, value: object) -> None:
        """Put something under the key."""
        self.container[self.key] = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Item) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[int, Any]:
        return id(self.container), self.key


@dataclass(frozen=True, slots=True)
class Default:
    """A default of a function's positional argument, by its number."""

    function: FunctionType
    number: int

    @property
    def value(self) -> object:
        """The default."""
        return (self.function.__defaults__ or ())[self.number]

    def put(self, value: object) -> None:
        """Give the function another default."""
        defaults = self.function.__defaults__ or ()
        before, after = defaults[: self.number], defaults[self.number + 1 :]
        self.function.__defaults__ = (*before, value, *after)


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """A variable that a function has from around it."""

    cell: CellType

    @property
    def value(self) -> object:
        """The variable's value."""
        return self.cell.cell_contents

    def put(self, value: object) -> None:
        """Set the variable."""
        self.cell.cell_contents = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Cell) and self.cell is other.cell

    def __hash__(self) -> int:
        return id(self.cell)


class Site:
    """A place whose function can be routed. It counts the blocks it is in, which threads share.

    Args:
        place: What holds the function, itself or as the function of a `functools.partial`.
        route: What a routed call does; gets the original function before the call's arguments.
    """

    def __init__(self, place: Place, route: Function) -> None:
        self.place = place
        self.route = route
        self._lock = Lock()
        self._blocks = 0
        self._original: object = None
        self._hook: object = None

    @property
    def is_in_place(self) -> bool:
        """Whether the place holds this site's hook."""
        return self._hook is not None and self.place.value is self._hook

    def enter(self) -> None:
        """Put the hook in place, unless it is there for another block."""
        with self._lock:
            if not self._blocks:
                original = self.place.value
                # A layer enters at each call, nearly always with the same original.
                if original is not self._original:
                    self._original, self._hook = original, _hooked(self, original)
                self.place.put(self._hook)
            self._blocks += 1

    def leave(self) -> None:
        """Put the original back, if this was the last block."""
        with self._lock:
            self._blocks -= 1
            # Whoever has replaced the hook meanwhile keeps their function, which may call it.
            if not self._blocks and self.place.value is self._hook:
                self.place.put(self._original)


def _hooked(site: Site, original: object) -> object:
    return substituted(original, lambda function: _hook(site, function))


def substituted(value: object, substitute: Callable[[Function], Function]) -> object:
    """Return ``value`` with its function replaced, also where that is a partial function's."""
    if isinstance(value, partial):
        inner: Any = substituted(value.func, substitute)
        return partial(inner, *value.args, **value.keywords)
    function: Any = value
    return substitute(function)


def _hook(site: Site, original: Function) -> Function:
    @wraps(original)
    def hook(*args: Any, **kwargs: Any) -> object:  # noqa: ANN401 - of any function
        active = _active.get()
        if site not in active:
            return original(*args, **kwargs)
        # A route that calls what it stands in for must not come back to itself.
        token = _active.set(active - {site} if len(active) > 1 else _NOTHING)
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


class _Routed(AbstractContextManager[None]):
    """Context manager of `routed`: a class, since a generator's takes thrice as long."""

    __slots__ = ("_sites", "_token")

    def __init__(self, sites: tuple[Site, ...]) -> None:
        self._sites = sites

    def __enter__(self) -> None:
        entered = 0
        try:
            for site in self._sites:
                site.enter()
                entered += 1
        except BaseException:
            self._leave(entered)
            raise
        around = _active.get()
        self._token = _active.set(around.union(self._sites) if around else frozenset(self._sites))

    def __exit__(self, *_: object) -> None:
        _active.reset(self._token)
        self._leave(len(self._sites))

    def _leave(self, count: int) -> None:
        for site in reversed(self._sites[:count]):
            site.leave()


def routed(*sites: Site) -> AbstractContextManager[None]:
    """Route ``sites`` for the running thread or task while the block runs. Blocks nest."""
    return _Routed(sites)

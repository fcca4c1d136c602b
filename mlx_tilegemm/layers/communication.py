"""Communication of a group of machines, as a trace may see it: by shapes alone.

MLX exports none of its primitives for it, and a trace must not wait for other machines.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any

import mlx.core as mx
from mlx.nn.layers.distributed import sum_gradients

from ..core.shapes import Shape
from .routing import Function, Item, Place, Site, original_of, routed


def communication_traced() -> AbstractContextManager[None]:
    """Put what has the shapes of communication in its place, under whatever name it is called."""
    return routed(*(_site(place, name) for place, name in _places()))


def _places() -> Iterator[tuple[Place, str]]:
    wanted = {name: original_of(found) for name, found in _functions()}
    modules = [module for module in sys.modules.values() if hasattr(module, "__dict__")]
    for names in (vars(module) for module in [*modules, mx.distributed]):
        for name, function in wanted.items():
            if function is not None and original_of(names.get(name)) is function:
                yield Item(names, name), name


def _functions() -> Iterator[tuple[str, object]]:
    yield "sum_gradients", sum_gradients
    yield from ((name, getattr(mx.distributed, name, None)) for name in _STAND_INS)


@lru_cache(maxsize=1024)
def _site(place: Place, name: str) -> Site:
    # One site for a place: it counts the blocks of all threads.
    stand_in: Function = _no_sum if name == "sum_gradients" else _STAND_INS[name]
    return Site(place, lambda _, *args, **options: stand_in(*args, **options))


def _no_sum(group: object) -> Callable[[mx.array], mx.array]:
    return _same


def _same(x: mx.array, *_: object, **options: object) -> mx.array:
    # A node of its own: an output that is an input would be none of the call's work.
    return mx.stop_gradient(x)


def _members(group: Any) -> int:  # noqa: ANN401 - mlx.core.distributed.Group
    size: int = (group or mx.distributed.init()).size()
    return size


def _gathered(x: mx.array, group: object = None, **options: object) -> mx.array:
    whole = x[None] if x.ndim == 0 else x
    return mx.concatenate([whole] * _members(group))


def _scattered(x: mx.array, group: object = None, **options: object) -> mx.array:
    return x[: x.shape[0] // _members(group)]


def _received(shape: Shape, dtype: mx.Dtype, *_: object, **options: object) -> mx.array:
    return mx.zeros(shape, dtype=dtype)


def _received_like(x: mx.array, *_: object, **options: object) -> mx.array:
    return mx.zeros(x.shape, dtype=x.dtype)


_STAND_INS: dict[str, Function] = {
    **dict.fromkeys(("all_sum", "all_max", "all_min", "send"), _same),
    "all_gather": _gathered,
    "sum_scatter": _scattered,
    "recv": _received,
    "recv_like": _received_like,
}

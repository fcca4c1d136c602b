"""Calls of layers, looked up by which arrays a layer holds.

What a layer holds stays, so that it need not be asked for its shapes and dtypes at each call: that
takes longer than the rest. An array may still be made another one in place. MLX's own ops look at
what they are given; kernels get it after a look here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from weakref import ref

import mlx.core as mx

from .caches import SIZE
from .fast_path import checks_arrays, on_forgetting_calls

Call = Callable[..., mx.array]


class HeldCalls:
    """Calls of an op by keys that begin with the ids of arrays; both are gone when an array is.

    Args:
        first: Number of the first array that is held among those that calls take.
        count: How many are; None stands for one that is not there.
    """

    def __init__(self, *, first: int, count: int) -> None:
        self._held = slice(first, first + count)
        self._calls: dict[tuple[object, ...], Call] = {}
        self._keys: dict[int, set[tuple[object, ...]]] = {}
        self._refs: dict[int, Any] = {}
        self.find = self._calls.get
        on_forgetting_calls(self.clear)

    def keep(
        self, key: tuple[object, ...], call: Call | None, arrays: Sequence[Any], again: Call
    ) -> None:
        """Keep a call.

        Args:
            key: Ids of the arrays that are held, and what else the call follows from.
            call: The call, or None, which is not kept.
            arrays: What it takes.
            again: Serves arrays of other kinds.
        """
        if call is None:
            return
        if len(self._calls) >= SIZE:
            self.clear()
        held = [one for one in arrays[self._held] if one is not None]
        self._calls[key] = call if checks_arrays(call) else self._checked(call, held, again)
        for one in held:
            place = id(one)
            if place not in self._refs:
                self._refs[place] = ref(one, partial(self._forget, place))
            self._keys.setdefault(place, set()).add(key)

    def clear(self) -> None:
        """Forget all calls."""
        for one in (self._calls, self._keys, self._refs):
            one.clear()

    def _checked(self, call: Call, held: Sequence[mx.array], again: Call) -> Call:
        kinds, places = [(one.shape, one.dtype) for one in held], self._held

        def checked(*arrays: Any) -> mx.array:  # noqa: ANN401 - arrays, or None
            given = [(one.shape, one.dtype) for one in arrays[places] if one is not None]
            return (call if given == kinds else again)(*arrays)

        return checked

    def _forget(self, place: int, _: object) -> None:
        self._refs.pop(place, None)
        for key in self._keys.pop(place, ()):
            self._calls.pop(key, None)

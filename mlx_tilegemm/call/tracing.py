"""Whether MLX is following a function just now, to differentiate, batch, compile or export it.

Derivatives cost a call a few microseconds and matter only then. MLX has no question for it, but
answers it: a compiled function runs its Python body again only where an argument is a tracer, an
array that stands for what is being followed. The placeholders of a compilation stay tracers for
good, but count as such only while something is being followed in the same thread. So a compiled
function that is called with such a placeholder runs its body then, and only then.

That is how MLX 0.32 works, not what it promises. It is tried once, and where it does not hold, or
where compilation is switched off, the answer is always yes: calls then cost more and stay right.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import lru_cache

import mlx.core as mx


class _Seen(threading.local):
    """Whether the body ran in this thread."""

    body = False


def is_traced() -> bool:
    """Return whether MLX may want derivatives or batching of calls made here and now."""
    return _probe()()


@lru_cache(maxsize=1)
def _probe() -> Callable[[], bool]:
    found: list[Callable[[], bool]] = []

    def try_it() -> None:
        probe = _make_probe()
        if _works(probe):
            found.append(probe)

    # The first question may come while something is being followed; in another thread nothing is.
    thread = threading.Thread(target=try_it)
    thread.start()
    thread.join()
    return found[0] if found else lambda: True


def _make_probe() -> Callable[[], bool]:
    seen = _Seen()
    placeholders: list[mx.array] = []

    def body(x: mx.array) -> mx.array:
        seen.body = True
        placeholders.append(x)
        return x

    compiled = mx.compile(body)
    with mx.stream(mx.cpu):
        compiled(mx.zeros(()))
    placeholder = placeholders[0]

    def probe() -> bool:
        seen.body = False
        compiled(placeholder)
        placeholders.clear()
        return seen.body

    return probe


def _works(probe: Callable[[], bool]) -> bool:
    """Tell the probe from one that answers by chance."""
    answers: list[bool] = []

    def followed(x: mx.array) -> mx.array:
        answers.append(probe())
        return x

    x = mx.zeros(())
    followed(x)
    mx.vjp(followed, [x], [x])
    mx.jvp(followed, [x], [x])
    mx.vmap(followed)(x[None])
    mx.compile(lambda y: followed(y))(x)
    followed(x)
    return answers == [False, True, True, True, True, False]

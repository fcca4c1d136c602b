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

import io
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple, TypeVar

import mlx.core as mx

T = TypeVar("T")


class _Seen(threading.local):
    """Whether the body ran in this thread, and whether this thread has compiled it."""

    body = False
    is_compiled = False


def is_traced() -> bool:
    """Return whether MLX may want derivatives or batching of calls made here and now."""
    return _probes().traced()


def is_shapeless() -> bool:
    """Return whether MLX is compiling a function for arrays of any size just now.

    Sizes seen then are those of the first call alone. Again MLX has no question for it, but
    broadcasts in another way: by what the other operand is. So a constant that has the size of a
    placeholder already is not returned as it is, and asking for its value is an error.
    """
    return _probes().shapeless()


def keeping_graphs(run: Callable[[], T]) -> T:
    """Return what ``run`` returns; arrays that it evaluates stay what they were computed from.

    An array that is evaluated forgets its inputs unless MLX marks it as followed, and a derivative
    takes the marks away before its own rules run, those of the derivative around it too: it would
    find constants, and be zero. MLX forgets nothing while the rule of a gradient runs, so that of
    an identity runs ``run``.
    """
    results: list[T] = []

    def gradient(primal: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
        results.append(run())
        return cotangent

    identity = mx.custom_function(lambda x: x)
    identity.vjp(gradient)
    one = mx.ones(())
    mx.vjp(identity, [one], [one])
    return results[0]


def probes() -> Probes:
    """Return the functions that answer `is_traced` and `is_shapeless`, for who asks often."""
    return _probes()


class Probes(NamedTuple):
    """Answers to `is_traced` and to `is_shapeless`."""

    traced: Callable[[], bool]
    shapeless: Callable[[], bool]


@lru_cache(maxsize=1)
def _probes() -> Probes:
    found: list[Probes] = []

    def try_it() -> None:
        probes = _make_probes()
        if _work(probes):
            found.append(probes)
        # Streams of a thread that has ended may abort a process that ends early.
        mx.clear_streams()

    # The first question may come while something is being followed; in another thread nothing is.
    thread = threading.Thread(target=try_it)
    thread.start()
    thread.join()
    return found[0] if found else Probes(lambda: True, _stops_gradients)


def _stops_gradients() -> bool:
    """Return whether a broadcast has a node in the graph that stops gradients, as `is_shapeless`.

    Looking at a graph takes twenty times as long as asking for a value.
    """
    broadcast = mx.add(mx.zeros((1,)), mx.zeros((2,)))
    graph = io.StringIO()
    mx.export_to_dot(graph, broadcast=broadcast)
    return "StopGradient" in graph.getvalue()


def _make_probes() -> Probes:
    seen = _Seen()
    placeholders: list[mx.array] = []

    def kept(x: mx.array) -> mx.array:
        placeholders.append(x)
        return x

    def body(x: mx.array) -> None:
        seen.body = True

    compiled = mx.compile(body)
    with mx.stream(mx.cpu):
        mx.compile(kept)(mx.zeros((1,)))
    placeholder, constant, broadcast = placeholders[0], mx.array([False]), mx.broadcast_arrays

    def compile_here() -> None:
        # Each thread compiles anew, and each device: else the body runs for that once more.
        for device in filter(mx.is_available, (mx.cpu, mx.gpu)):
            with mx.stream(device):
                compiled(mx.zeros((1,)))
        seen.is_compiled, seen.body = True, False

    def traced() -> bool:
        if not seen.is_compiled:
            compile_here()
        compiled(placeholder)
        if not seen.body:
            return False
        seen.body = False
        return True

    def shapeless() -> bool:
        try:
            broadcast(constant, placeholder)[0].item()
        except ValueError:
            return True
        return False

    return Probes(traced, shapeless)


def _work(probes: Probes) -> bool:
    """Tell the probes from some that answer by chance."""
    answers: list[tuple[bool, bool]] = []

    def followed(x: mx.array) -> mx.array:
        answers.append((probes.traced(), probes.shapeless()))
        return x

    x = mx.zeros(())
    followed(x)
    mx.vjp(followed, [x], [x])
    mx.jvp(followed, [x], [x])
    mx.vmap(followed)(x[None])
    mx.compile(lambda y: followed(y))(x)
    mx.compile(lambda y: followed(y), shapeless=True)(x)
    followed(x)
    no, yes = (False, False), (True, False)
    return answers == [no, yes, yes, yes, yes, (True, True), no]

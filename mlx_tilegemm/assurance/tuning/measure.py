"""Time calls against each other, by a clock that is given.

A GPU runs slowly until it has been busy for a while, and its speed drifts with heat and with what
else it does. Calls are therefore warmed up together and then sampled in rounds: each round takes
one sample of every call, in a rotating order, and rounds are compared within themselves.

A GPU that has run all that it was handed waits for the program, and what is timed then is Python.
Where there is work to keep it busy while calls are handed to it, it runs them one after the other
as soon as that ends: what they take longer than the work alone is the GPU's time of them. Calls
that are not handed on by then would wait for the program after all, so that no more are made than
are. What links each call to the one before is made alone, too, and its time is taken out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median, quantiles

import mlx.core as mx

Clock = Callable[[], float]
"""Seconds from any beginning."""

Work = Callable[[], mx.array]
"""Begins something that keeps the GPU busy, and returns its result."""

Wait = Callable[[], object]
"""Returns when what was handed to a GPU is done."""

Launches = Callable[[int, Work | None], Wait]
"""Makes a call so many times, the first after some work, and hands all of them to the GPU."""

MAX_LAUNCHES = 1024
"""Calls of one sample at most."""

HANDED = 0.75
"""Of the time of the work that keeps a GPU busy: by then all calls of a sample are handed to it."""

LEAST = 1e-7
"""Seconds that a call takes at least; what is taken out of a sample may be more, by chance."""

FIRST_ROUNDS = 3
"""Rounds after which what is much slower than the fastest is not sampled again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """Effort that is spent on measuring.

    Attributes:
        rounds: Rounds of samples.
        warm_seconds: Time that all calls are made for beforehand.
        sample_seconds: Shortest time in which a program makes the calls of a sample and has their
            results; a call is repeated until it is as long.
        keep: Calls slower than the fastest by more than this are sampled `FIRST_ROUNDS` times only.
    """

    rounds: int = 15
    warm_seconds: float = 0.5
    sample_seconds: float = 0.005
    keep: float = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Median and quartiles of samples.

    Attributes:
        median: Their median.
        low: Their lower quartile.
        high: Their upper quartile.
    """

    median: float
    low: float
    high: float


def spread(samples: list[float]) -> Spread:
    """Return median and quartiles of at least one sample."""
    if len(samples) == 1:
        return Spread(median=samples[0], low=samples[0], high=samples[0])
    low, middle, high = quantiles(samples, n=4, method="inclusive")
    return Spread(median=middle, low=low, high=high)


def measure(
    calls: dict[str, Launches],
    clock: Clock,
    effort: Effort,
    work: Work | None = None,
    link: Launches | None = None,
) -> dict[str, list[float]]:
    """Return the seconds of one call, by name: a sample for every round it took part in.

    What is left of a sample without work and links is `LEAST` at least, by a clock that goes on.

    Args:
        calls: What is timed.
        clock: What it is timed by.
        effort: Time that is spent.
        work: Keeps the GPU busy while calls are handed to it, so that samples are the GPU's time;
            without it they are the program's.
        link: Makes what links calls to each other, alone; None where they are not linked, or where
            that is a part of what is timed.
    """
    _warm_up(calls, clock, effort)
    counts = {name: _launches(call, clock, effort, work) for name, call in calls.items()}
    # As many links as make a sample: the work's own time differs by more than few of them take.
    links = 0 if link is None else _launches(link, clock, effort, work)
    samples: dict[str, list[float]] = {name: [] for name in calls}
    running = list(calls)
    for number in range(effort.rounds):
        if number == FIRST_ROUNDS:
            running = _fast_ones(running, samples, effort)
        turn = number % len(running)
        none = 0.0 if work is None else _timed(calls[running[0]], 0, clock, work)
        between = 0.0 if link is None else (_timed(link, links, clock, work) - none) / links
        for name in (*running[turn:], *running[:turn]):
            taken = _timed(calls[name], counts[name], clock, work)
            least = LEAST if taken else 0.0
            samples[name].append(max(least, (taken - none) / counts[name] - between))
    return samples


def _warm_up(calls: dict[str, Launches], clock: Clock, effort: Effort) -> None:
    start = clock()
    for _ in range(MAX_LAUNCHES):
        for call in calls.values():
            call(1, None)()
        if clock() - start >= effort.warm_seconds:
            return


def _launches(call: Launches, clock: Clock, effort: Effort, work: Work | None) -> int:
    """Return how many launches make a sample long enough, and not by a hiccup.

    They are fewer where work would end before all of them are handed on.
    """
    count = 1
    while count < MAX_LAUNCHES and any(
        _timed(call, count, clock) < effort.sample_seconds for _ in range(2)
    ):
        count *= 2
    if work is not None:
        most = HANDED * _timed(call, 0, clock, work)
        while count > 1 and 0 < most < max(_handed(call, count, clock, work) for _ in range(2)):
            count //= 2
    return count


def _timed(call: Launches, count: int, clock: Clock, work: Work | None = None) -> float:
    start = clock()
    call(count, work)()
    return clock() - start


def _handed(call: Launches, count: int, clock: Clock, work: Work) -> float:
    """Return the seconds after which work and so many calls after it are handed on."""
    start = clock()
    wait = call(count, work)
    seconds = clock() - start
    wait()
    return seconds


def _fast_ones(names: list[str], samples: dict[str, list[float]], effort: Effort) -> list[str]:
    fastest = min(median(samples[name]) for name in names)
    return [name for name in names if median(samples[name]) <= effort.keep * fastest]

"""Collects what launches did."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from .counters import Counters
from .settings import settings

_launches: ContextVar[list[Counters] | None] = ContextVar("mlx_tilegemm_counted", default=None)


@contextmanager
def count(*, sample: int = 0) -> Iterator[list[Counters]]:
    """Counts what the launches inside a ``with`` block do, with bank conflicts and lines.

    Args:
        sample: How many threadgroups of each launch to run, spread over the grid; 0 for all. A
            sample counts only where its threadgroups did the same, line by line of the kernel, and
            filled their share of every output; if not, or if the kernel changes a buffer that has
            contents already, all threadgroups run. What a launch's counters hold is of those that
            ran: for the whole grid, multiply by ``grid_threadgroups / threadgroups``.

    Yields:
        A list to which each launch adds its counters when it has ended.

    Example:
        >>> import mlx.core as mx
        >>> from mlx_tilegemm import emulator
        >>> x = mx.zeros((64,))
        >>> double = emulator.metal_kernel(
        ...     "double_it", ["x"], ["y"], "uint i = thread_position_in_grid.x; y[i] = 2 * x[i];"
        ... )
        >>> with emulator.count() as launches:
        ...     y = double(inputs=[x], output_shapes=[x.shape], output_dtypes=[x.dtype],
        ...                grid=(64, 1, 1), threadgroup=(64, 1, 1))
        >>> launches[0].device_loaded, launches[0].accesses.distinct_lines["x"]
        (256, 2)
    """
    launches: list[Counters] = []
    token = _launches.set(launches)
    try:
        with settings(checks="strict", registers=False, accesses=True, sample=sample):
            yield launches
    finally:
        _launches.reset(token)


def note_launch(counters: Counters) -> None:
    """Adds a launch to those that are being counted, if any are."""
    launches = _launches.get()
    if launches is not None:
        launches.append(counters)

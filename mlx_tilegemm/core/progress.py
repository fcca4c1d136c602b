"""Signs of life on standard error: on a terminal by tqdm, elsewhere lines now and then."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from types import TracebackType
from typing import Any

DELAY_SECONDS = 0.5
"""Work that is done sooner is not shown."""

REFRESH_SECONDS = 0.2
LINE_SECONDS = 10.0
"""Time between two lines where there is no terminal."""

_is_quiet = False


def be_quiet() -> None:
    """Show nothing from this process: another one shows what it does."""
    global _is_quiet
    _is_quiet = True


def is_shown() -> bool:
    """Whether standard error is a terminal that this process may draw on."""
    return not _is_quiet and sys.stderr is not None and sys.stderr.isatty()


@contextmanager
def working(text: str) -> Iterator[None]:
    """Show on a terminal what is being done and for how long, and take it away afterwards."""
    if not is_shown():
        yield
        return
    done = Event()
    shower = Thread(target=_show, args=(text, done), daemon=True)
    shower.start()
    try:
        yield
    finally:
        done.set()
        shower.join()


def _show(text: str, done: Event) -> None:
    if done.wait(DELAY_SECONDS):
        return
    line = _Line(desc=text, bar_format="{desc} {elapsed}")
    done.wait()
    line.close()


class _Line:
    """A line of a terminal that tqdm draws, anew all the time: a clock that stands looks dead."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - tqdm has no types
        # Imported here because most calls never show anything.
        from tqdm import tqdm

        # Some terminals do not know their size.
        columns, lines = os.get_terminal_size(sys.stderr.fileno())
        size = {"ncols": columns or 80, "nrows": lines or 24}
        self.bar = tqdm(leave=False, file=sys.stderr, **size, **options)
        self._done = Event()
        self._ticking = Thread(target=self._tick, daemon=True)
        self._ticking.start()

    def close(self) -> None:
        """Take it away."""
        self._done.set()
        self._ticking.join()
        self.bar.close()

    def _tick(self) -> None:
        while not self._done.wait(REFRESH_SECONDS):
            self.bar.refresh()


class Counting:
    """Progress through a number of things, as a ``with`` block.

    Args:
        text: What is being done, shown until the first thing is done.
        unit: Plural of what is counted.
    """

    def __init__(self, text: str, unit: str) -> None:
        self._text = text
        self._unit = unit
        self._line: _Line | None = None
        self._said = -LINE_SECONDS

    def __enter__(self) -> Counting:
        if is_shown():
            self._line = _Line(desc=self._text, bar_format="{desc} {elapsed}")
        else:
            _say(self._text)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._line is not None:
            self._line.close()

    def show(self, done: int, total: int) -> None:
        """Show how many are done, of how many."""
        if self._line is None:
            self._show_line(done, total)
            return
        if self._line.bar.total != total:
            self._line.close()
            unit = self._unit.removesuffix("s")
            self._line = _Line(desc=self._text, total=total, initial=done - 1, unit=unit)
        self._line.bar.update(done - self._line.bar.n)

    def note(self, text: str) -> None:
        """Print a line that stays."""
        if self._line is None:
            _say(text)
        else:
            self._line.bar.write(text, file=sys.stderr)

    def _show_line(self, done: int, total: int) -> None:
        now = time.monotonic()
        if done == total or now - self._said >= LINE_SECONDS:
            self._said = now
            _say(f"{done} of {total} {self._unit}")


def _say(text: str) -> None:
    if not _is_quiet and sys.stderr is not None:
        print(text, file=sys.stderr, flush=True)  # noqa: T201

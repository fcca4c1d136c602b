"""Places of this library's files for a user, and locks among the processes that share them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import ENOLCK, ENOTSUP, EOPNOTSUPP
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from filelock import BaseFileLock

_NAME = "mlx_tilegemm"
_POLL_SECONDS = 0.01
_WITHOUT_LOCKS = (ENOLCK, ENOTSUP, EOPNOTSUPP)
"""Errors of file systems that keep no locks; where the call is missing, filelock has its own."""


def cache_place() -> Path:
    """Return the folder for what can be made again."""
    from platformdirs import user_cache_path

    return _of_user(lambda: user_cache_path(_NAME, appauthor=False))


def state_place() -> Path:
    """Return the folder for what was found out on this machine."""
    from platformdirs import user_state_path

    return _of_user(lambda: user_state_path(_NAME, appauthor=False))


def _of_user(place: Callable[[], Path]) -> Path:
    try:
        Path.home()
    except RuntimeError:
        return Path(os.devnull, _NAME)  # cannot be written to, reported as any other such place
    return place()


@contextmanager
def locked(path: Path, seconds: float) -> Iterator[bool]:
    """Hold a lock among processes, and tell whether it is held.

    It is not where there are no locks, or whoever has it does not let go in time: a stopped process
    must not stop this one.

    Args:
        path: The lock's file, whose folder is there.
        seconds: How long to wait.

    Raises:
        OSError: The file cannot be written to.
    """
    # Imported here because of what it costs `import mlx_tilegemm`.
    from filelock import FileLock

    lock = FileLock(path, poll_interval=_POLL_SECONDS)
    if not acquired(lock, seconds):
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def acquired(lock: BaseFileLock, seconds: float) -> bool:
    """Take a lock if that takes no longer, and tell whether it is held."""
    from filelock import Timeout

    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        return False
    except OSError as error:
        if error.errno in _WITHOUT_LOCKS:
            return False
        raise
    return True

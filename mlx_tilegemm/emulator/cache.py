"""A directory of finished builds. A build appears whole, under its final name, or not at all.

What running processes use stays: each has a file with the names of its builds, and holds a lock on
it for as long as it lives. Beyond that, the builds that were used last stay, up to a limit.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.places import acquired, cache_place, locked
from ..core.progress import working
from ..errors import ToolchainError

if TYPE_CHECKING:
    from filelock import BaseFileLock

PLACE_VARIABLE = "MLX_TILEGEMM_CACHE"
LIMIT_VARIABLE = "MLX_TILEGEMM_CACHE_LIMIT"
DEFAULT_LIMIT = 10**9
"""Bytes of builds that are kept when nothing uses them."""

_DIGEST = "sha256"
_LOCKS = ".locks"
_STALE_SECONDS = 24 * 3600.0
_LOCK_SECONDS = 10.0
_LOOK_SECONDS = 3600.0
_LOOK_SHARE = 20
_MOST_AT_ONCE = 100
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """Builds that there are, or that were removed.

    Attributes:
        place: The cache's directory.
        count: How many.
        size: Their bytes.
    """

    place: Path
    count: int
    size: int


@dataclass(frozen=True, slots=True)
class _Build:
    """One build on disk: where, when it was used last, and its bytes."""

    path: Path
    used: float
    size: int


def limit() -> int:
    """Bytes that the builds may take which nothing uses.

    Raises:
        ToolchainError: The environment names no size.
    """
    text = os.environ.get(LIMIT_VARIABLE, "").strip()
    if not text:
        return DEFAULT_LIMIT
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kmg]?)b?", text.lower())
    if not found:
        raise ToolchainError(
            f"[emulator] Expected {LIMIT_VARIABLE} to be a size such as 500M or 2G, got {text!r}."
        )
    return int(float(found[1]) * _UNITS[found[2]])


def contents() -> Contents:
    """The builds that there are."""
    root = _root(os.environ.get(PLACE_VARIABLE, ""))
    return _summed(root, list(_builds(root)))


def clear() -> Contents:
    """Removes every build that no running process uses.

    Returns:
        What was removed.

    Raises:
        ToolchainError: Other processes are at it all the time.
    """
    root = _root(os.environ.get(PLACE_VARIABLE, ""))
    try:
        with working("[emulator] removing builds"):
            removed = _evict(root, 0, seconds=_LOCK_SECONDS)
    except OSError as error:
        raise ToolchainError(f"[emulator] Could not clear {root}: {error}.") from error
    if removed is None:
        raise ToolchainError(f"[emulator] Could not lock {root}: another process does not let go.")
    return _summed(root, removed)


def _summed(root: Path, builds: list[_Build]) -> Contents:
    return Contents(place=root, count=len(builds), size=sum(one.size for one in builds))


def digest(parts: Iterable[str | bytes]) -> str:
    """A name for the sum of some texts."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "little"))
        total.update(data)
    return total.hexdigest()[:32]


def build(key: str, make: Callable[[Path], None]) -> Path:
    """The directory of a build, made now unless there is a whole one.

    Any number of processes may ask for the same key at once: each makes its own copy, one of them
    is kept.

    Args:
        key: Tells the build from all others.
        make: Puts the files of the build into the directory that it is given.

    Returns:
        A directory that holds exactly what ``make`` put there.

    Raises:
        ToolchainError: There is no room to build in, or the environment names no limit.
    """
    root, most = _root(os.environ.get(PLACE_VARIABLE, "")), limit()
    final = root / key
    if _use(root, final):
        return final
    try:
        made = _build_in(root, final, make)
    except OSError as error:
        raise ToolchainError(f"[emulator] Could not store a build in {root}: {error}.") from error
    with suppress(OSError):
        _see_to_limit(root, made, most)
    return made


def _build_in(root: Path, final: Path, make: Callable[[Path], None]) -> Path:
    work = Path(tempfile.mkdtemp(prefix="tmp-", dir=root))
    try:
        make(work)
        (work / _DIGEST).write_text(_content_digest(work), encoding="ascii")
        _publish(work, final)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return final


def _publish(work: Path, final: Path) -> None:
    if final.exists() and not _is_whole(final):
        _discard(final)
    try:
        work.rename(final)
    except OSError:
        # Somebody else was faster.
        if not _is_whole(final):
            raise


def _discard(directory: Path) -> None:
    # Renamed first, so that nobody sees it half removed.
    grave = Path(tempfile.mkdtemp(prefix="tmp-", dir=directory.parent))
    directory.rename(grave / "old")
    shutil.rmtree(grave, ignore_errors=True)


def _is_whole(directory: Path) -> bool:
    try:
        return (directory / _DIGEST).read_text(encoding="ascii") == _content_digest(directory)
    except (OSError, UnicodeDecodeError):
        return False


def _content_digest(directory: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(directory.iterdir()):
        if path.name == _DIGEST or not path.is_file():
            continue
        total.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


@lru_cache(maxsize=8)
def _root(override: str) -> Path:
    """The cache directory, or a private one if that cannot be written to."""
    root = Path(override) if override else cache_place()
    try:
        root.mkdir(parents=True, exist_ok=True)
        probe = Path(tempfile.mkdtemp(prefix="tmp-", dir=root))
        probe.rmdir()
        (root / _LOCKS).mkdir(exist_ok=True)
    except OSError:
        return _private_root()
    _remove_stale(root)
    return root


def _private_root() -> Path:
    try:
        root = Path(tempfile.mkdtemp(prefix="mlx_tilegemm-"))
        (root / _LOCKS).mkdir()
    except OSError as error:
        raise ToolchainError(f"[emulator] No directory to compile in: {error}.") from error
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return root


def _remove_stale(root: Path) -> None:
    """Removes what killed builds left behind."""
    oldest = time.time() - _STALE_SECONDS
    for path in root.glob("tmp-*"):
        try:
            if path.stat().st_mtime < oldest:
                shutil.rmtree(path, ignore_errors=True)
        except OSError:
            continue


def scratch(key: str, use: Callable[[Path], None]) -> None:
    """Lends a directory for the time of a call.

    Args:
        key: Part of the directory's name.
        use: What needs the directory.
    """
    root = _root(os.environ.get(PLACE_VARIABLE, ""))
    try:
        with tempfile.TemporaryDirectory(prefix=f"tmp-{key[:16]}-", dir=root) as directory:
            use(Path(directory))
    except OSError as error:
        raise ToolchainError(f"[emulator] Could not work in {root}: {error}.") from error


class _User:
    """This process as one that uses builds: a file of their names, and a lock on it for life."""

    def __init__(self, root: Path) -> None:
        handle, name = tempfile.mkstemp(prefix=f"{os.getpid()}-", suffix=".txt", dir=root / _LOCKS)
        os.close(handle)
        self.names = Path(name)
        self._used: set[str] = set()
        self.made = 0
        self._lock = _lock_of(self.names)
        self._lock.acquire()
        atexit.register(self._leave, os.getpid())

    def add(self, name: str) -> bool:
        """Note that a build is used from now on; False if that is known."""
        if name in self._used:
            return False
        with self.names.open("a", encoding="utf-8") as file:
            file.write(f"{name}\n")
        self._used.add(name)
        return True

    def _leave(self, process: int) -> None:
        # A forked process that ends is none of the one that it came from.
        if os.getpid() == process:
            self._lock.release()
            _forget(self.names)


def _lock_of(names: Path) -> BaseFileLock:
    from filelock import FileLock

    # Held by the process, whichever thread asks.
    return FileLock(names.with_suffix(".lock"), thread_local=False)


def _forget(names: Path) -> None:
    for path in (names, names.with_suffix(".lock")):
        path.unlink(missing_ok=True)


@lru_cache(maxsize=8)
def _user(root: Path, process: int) -> _User:
    """The user that a process is; one that was forked is another."""
    return _User(root)


def _use(root: Path, build: Path) -> bool:
    """Whether there is a whole build. From now on it stays for as long as this process lives."""
    with suppress(OSError):
        with locked(_root_lock(root), _LOCK_SECONDS):
            is_new = _user(root, os.getpid()).add(build.name)
        if not is_new and build.is_dir():
            return True
    if not _is_whole(build):
        return False
    with suppress(OSError):
        (build / _DIGEST).touch()
    return True


def _root_lock(root: Path) -> Path:
    return root / _LOCKS / "cache.lock"


def _see_to_limit(root: Path, made: Path, most: int) -> None:
    """Removes builds beyond the limit, some at a time. To look costs as much as to load a build."""
    user, looked = _user(root, os.getpid()), root / _LOCKS / "looked"
    user.made += _size(made)
    is_recent = looked.exists() and time.time() - looked.stat().st_mtime < _LOOK_SECONDS
    if is_recent and user.made * _LOOK_SHARE < most:
        return
    with working("[emulator] removing old builds"):
        removed = _evict(root, most, seconds=0.0, at_once=_MOST_AT_ONCE)
    # Whoever has the lock looks; and there may be more to remove.
    if removed is not None and len(removed) < _MOST_AT_ONCE:
        user.made = 0
        looked.touch()


def _evict(
    root: Path, limit: int, *, seconds: float, at_once: int | None = None
) -> list[_Build] | None:
    """Removes the builds that were used longest ago, down to a limit, but for those in use.

    Returns:
        What was removed; None where another process has the lock.
    """
    with locked(_root_lock(root), seconds) as held:
        if not held:
            return None
        builds = sorted(_builds(root), key=lambda one: one.used)
        spare = sum(one.size for one in builds) - limit
        graves = list(islice(_buried(root, builds, spare), at_once))
    for _, grave in graves:
        shutil.rmtree(grave, ignore_errors=True)
    return [build for build, _ in graves]


def _buried(root: Path, builds: list[_Build], spare: int) -> Iterator[tuple[_Build, Path]]:
    """Yields builds that were put out of sight, and where to, until enough are."""
    used = _in_use(root) if spare > 0 else set()
    for build in builds:
        if spare <= 0:
            return
        if build.path.name not in used:
            grave = Path(tempfile.mkdtemp(prefix="tmp-", dir=root))
            build.path.rename(grave / "old")
            spare -= build.size
            yield build, grave


def _in_use(root: Path) -> set[str]:
    """The names of builds that running processes use. Forgets processes that were killed."""
    own = _user(root, os.getpid()).names
    used: set[str] = set()
    for names in (root / _LOCKS).glob("*.txt"):
        if names != own and _has_ended(names):
            _forget(names)
            continue
        with suppress(FileNotFoundError):
            used.update(names.read_text(encoding="utf-8").split())
    return used


def _has_ended(names: Path) -> bool:
    lock = _lock_of(names)
    if not acquired(lock, 0):
        return False
    lock.release()
    return True


def _builds(root: Path) -> Iterator[_Build]:
    for path in root.iterdir():
        if path.name.startswith((".", "tmp-")):
            continue
        # Another process may remove it meanwhile.
        with suppress(OSError):
            yield _Build(path, (path / _DIGEST).stat().st_mtime, _size(path))


def _size(build: Path) -> int:
    return sum(file.stat().st_size for file in build.iterdir())

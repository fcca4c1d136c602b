"""A directory of finished builds. A build appears whole, under its final name, or not at all."""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path

from ..errors import ToolchainError

_VARIABLE = "MLX_TILEGEMM_CACHE"
_DIGEST = "sha256"
_STALE_SECONDS = 24 * 3600.0


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
        ToolchainError: There is no room to build in.
    """
    root = _root(os.environ.get(_VARIABLE, ""))
    final = root / key
    if _is_whole(final):
        return final
    try:
        return _build_in(root, final, make)
    except OSError as error:
        raise ToolchainError(f"[emulator] Could not store a build in {root}: {error}.") from error


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
    root = Path(override) if override else _default_root()
    try:
        root.mkdir(parents=True, exist_ok=True)
        probe = Path(tempfile.mkdtemp(prefix="tmp-", dir=root))
        probe.rmdir()
    except OSError:
        return _private_root()
    _remove_stale(root)
    return root


def _default_root() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "mlx_tilegemm"
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "mlx_tilegemm"


def _private_root() -> Path:
    try:
        root = Path(tempfile.mkdtemp(prefix="mlx_tilegemm-"))
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
    root = _root(os.environ.get(_VARIABLE, ""))
    try:
        with tempfile.TemporaryDirectory(prefix=f"tmp-{key[:16]}-", dir=root) as directory:
            use(Path(directory))
    except OSError as error:
        raise ToolchainError(f"[emulator] Could not work in {root}: {error}.") from error

"""A file in which this library remembers, for a user, what it found out on a machine.

One JSON file for people to read, with entries by machine. It is written whole under another name
and then renamed, under a lock among processes, and read again before every change, so that no
process undoes another's. What is wrong with it is reported once and is never an error: what it
would have told can be found out again.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import mlx.core as mx

from ..core.places import locked, state_place

LOCK_SECONDS = 2.0
"""How long to wait for another process."""

Entry = TypeVar("Entry")


def user_path(name: str) -> Path:
    """Return where a file of this name is kept unless something names another place."""
    return state_place() / name


def this_machine() -> str:
    """Return what a kernel is compiled and run by: chip, operating system and MLX."""
    import platform

    info = mx.device_info()
    chip = f"{info.get('device_name', 'unknown')} ({info.get('architecture', 'unknown')})"
    macos = platform.mac_ver()[0]
    system = f"macOS {macos}" if macos else platform.system()
    return f"{chip}, {system} ({platform.release()}), MLX {mx.__version__}"  # type: ignore[attr-defined]


def now() -> str:
    """Return the time in UTC, as entries hold it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


class UserFile(Generic[Entry]):
    """The file.

    Args:
        path: Where it is.
        machine: Chip, operating system and MLX version that entries belong to.
        version: Version of its form; what an older release wrote is dropped, what a newer one
            wrote is left alone.
        about: What it is, for those who open it.
        purpose: What messages about it begin with.
        without: What happens without it, to end messages with.
        parse: Makes an entry of what JSON holds; raises ValueError or TypeError.
        dump: The other way round.
    """

    def __init__(
        self,
        path: Path,
        machine: str,
        *,
        version: int,
        about: str,
        purpose: str,
        without: str,
        parse: Callable[[dict[str, Any]], Entry],
        dump: Callable[[Entry], dict[str, object]],
    ) -> None:
        self.path = path
        self.machine = machine
        self._version = version
        self._about = about
        self._purpose = purpose
        self._without = without
        self._parse = parse
        self._dump = dump
        self._reported = False

    def read_all(self) -> dict[str, Entry]:
        """Return this machine's entries."""
        try:
            return self._entries(self._load())
        except (OSError, ValueError, TypeError) as error:
            self._report("read", error)
            return {}

    def read(self, name: str) -> Entry | None:
        """Return the entry of this name, or None."""
        return self.read_all().get(name)

    def write(self, name: str, value: Entry | None) -> bool:
        """Put an entry in the place of the one there is; None removes it.

        Returns:
            Whether it is in the file now.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with locked(self.path.with_name(self.path.name + ".lock"), LOCK_SECONDS):
                self._change(name, value)
        except (OSError, ValueError) as error:
            self._report("write", error)
            return False
        return True

    def _change(self, name: str, value: Entry | None) -> None:
        try:
            content = self._load()
            entries = self._entries(content)
        except _NewerVersionError:
            raise
        except (OSError, ValueError, TypeError) as error:
            # A damaged file holds nothing worth keeping: all of it can be found out again.
            self._report("read", error)
            content, entries = {}, {}
        if value is None:
            entries.pop(name, None)
        else:
            entries[name] = value
        machines = content.get("machines", {})
        assert isinstance(machines, dict)
        machines[self.machine] = {key: self._dump(one) for key, one in sorted(entries.items())}
        _replace(self.path, {"about": self._about, "version": self._version, "machines": machines})

    def _load(self) -> dict[str, object]:
        try:
            text = self.path.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return {}
        try:
            content = json.loads(text)
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        if not isinstance(content, dict) or not isinstance(content.get("version"), int):
            raise ValueError("it is not a record of kernels")
        if content["version"] > self._version:
            raise _NewerVersionError(
                f"it has version {content['version']}, made by a newer release"
            )
        if content["version"] < self._version:
            return {}
        if not isinstance(content.get("machines"), dict):
            raise ValueError("it names no machines")
        return content

    def _entries(self, content: dict[str, object]) -> dict[str, Entry]:
        machines = content.get("machines", {})
        own = machines.get(self.machine, {}) if isinstance(machines, dict) else None
        if not isinstance(own, dict) or not all(isinstance(one, dict) for one in own.values()):
            raise ValueError("it names no kernels")
        return {name: self._parse(fields) for name, fields in own.items()}

    def _report(self, what: str, error: Exception) -> None:
        if self._reported:
            return
        self._reported = True
        warnings.warn(
            f"[{self._purpose}] Could not {what} {self.path}: {error}. It is ignored: "
            f"{self._without}.",
            RuntimeWarning,
            stacklevel=2,
        )


class _NewerVersionError(ValueError):
    """The file is of a release that this one must not write over."""


def _replace(path: Path, content: dict[str, object]) -> None:
    # Imported here because of what it costs `import mlx_tilegemm`.
    import tempfile

    handle, name = tempfile.mkstemp(prefix=path.name, suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
            file.write("\n")
            file.flush()
            # A kernel may end the whole machine; what was written before it has to be there after.
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise

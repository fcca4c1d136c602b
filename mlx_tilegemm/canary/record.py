"""The per-user file that remembers which kernel variants passed or failed on this machine.

One JSON file for people to read. It is written whole under another name and then renamed, under a
lock among processes, and read again before every change, so that no process undoes another's. What
is wrong with it is reported once and is never an error: without it kernels are tried again.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

VERSION = 1
LOCK_SECONDS = 2.0
"""How long to wait for another process; a stopped one must not stop this one."""

ABOUT = (
    "Kernels of mlx_tilegemm that were tried on this machine, by chip, macOS and MLX version. "
    "Deleting this file is safe: each kernel is tried again when it is next chosen."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What is known of one kernel variant on one machine.

    Attributes:
        state: ``passed``, ``failed``, or ``running`` while it is being tried.
        when: Time in UTC.
        kernel: Kernel and configuration, for readers.
        reason: Why it failed; else empty.
        process: The process that is trying it; else 0.
        attempts: How often a trial was begun of which no result is known.
    """

    state: str
    when: str
    kernel: str
    reason: str = ""
    process: int = 0
    attempts: int = 0

    def __post_init__(self) -> None:
        texts = (self.when, self.kernel, self.reason)
        numbers = (self.process, self.attempts)
        if self.state not in ("passed", "failed", "running"):
            raise ValueError(f"state {self.state!r}")
        if not all(isinstance(one, str) for one in texts):
            raise TypeError("a text is not one")
        if not all(type(one) is int for one in numbers):
            raise TypeError("a number is not one")


def entry(
    state: str, kernel: str, *, reason: str = "", process: int = 0, attempts: int = 0
) -> Entry:
    """Return an entry of now."""
    return Entry(
        state=state,
        when=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        kernel=kernel,
        reason=reason,
        process=process,
        attempts=attempts,
    )


def default_path() -> Path:
    """Return where the record is kept unless the environment names another place."""
    try:
        home = Path.home()
    except RuntimeError:
        home = Path(os.devnull)  # a place that cannot be written to, reported as any other
    if sys.platform == "darwin":
        return home / "Library" / "Application Support" / "mlx_tilegemm" / "canary.json"
    base = os.environ.get("XDG_STATE_HOME", "")
    return (Path(base) if base else home / ".local/state") / "mlx_tilegemm" / "canary.json"


class Record:
    """The file.

    Args:
        path: Where it is.
        machine: Chip, operating system and MLX version that entries belong to.
    """

    def __init__(self, path: Path, machine: str) -> None:
        self.path = path
        self.machine = machine
        self._reported = False

    def read(self, name: str) -> Entry | None:
        """Return the entry of a kernel variant, or None."""
        try:
            return _entries(self._load(), self.machine).get(name)
        except (OSError, ValueError, TypeError) as error:
            self._report("read", error)
            return None

    def write(self, name: str, value: Entry | None) -> None:
        """Put an entry in the place of the one there is; None removes it."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(self.path.with_name(self.path.name + ".lock")):
                self._change(name, value)
        except (OSError, ValueError) as error:
            self._report("write", error)

    def _change(self, name: str, value: Entry | None) -> None:
        try:
            content = self._load()
            entries = _entries(content, self.machine)
        except _NewerVersionError:
            raise
        except (OSError, ValueError, TypeError) as error:
            # A damaged record holds nothing worth keeping: all of it can be found out again.
            self._report("read", error)
            content, entries = {}, {}
        if value is None:
            entries.pop(name, None)
        else:
            entries[name] = value
        machines = content.get("machines", {})
        assert isinstance(machines, dict)
        machines[self.machine] = {key: _as_json(one) for key, one in sorted(entries.items())}
        _replace(self.path, {"about": ABOUT, "version": VERSION, "machines": machines})

    def _load(self) -> dict[str, object]:
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        content = json.loads(text)
        if not isinstance(content, dict) or not isinstance(content.get("version"), int):
            raise ValueError("it is not a record of kernels")
        if content["version"] > VERSION:
            raise _NewerVersionError(
                f"it has version {content['version']}, made by a newer release"
            )
        if content["version"] < VERSION:
            return {}
        if not isinstance(content.get("machines"), dict):
            raise ValueError("it names no machines")
        return content

    def _report(self, what: str, error: Exception) -> None:
        if self._reported:
            return
        self._reported = True
        warnings.warn(
            f"[canary] Could not {what} {self.path}: {error}. It is ignored: kernels are tried "
            "again where it would have told.",
            RuntimeWarning,
            stacklevel=2,
        )


class _NewerVersionError(ValueError):
    """The file is of a release that this one must not write over."""


def _entries(content: dict[str, object], machine: str) -> dict[str, Entry]:
    machines = content.get("machines", {})
    own = machines.get(machine, {}) if isinstance(machines, dict) else None
    if not isinstance(own, dict) or not all(isinstance(fields, dict) for fields in own.values()):
        raise ValueError("it names no kernels")
    return {name: Entry(**fields) for name, fields in own.items()}


def _as_json(value: Entry) -> dict[str, object]:
    required = ("state", "when", "kernel")
    return {key: one for key, one in asdict(value).items() if one or key in required}


def _replace(path: Path, content: dict[str, object]) -> None:
    # Imported here because of what it costs `import mlx_tilegemm`.
    import tempfile

    handle, name = tempfile.mkstemp(prefix=path.name, suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
            file.write("\n")
            file.flush()
            # A trial may end the whole machine; what was written before it has to be there after.
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock among processes; go on without it where there are no locks or nobody lets go."""
    import fcntl

    with path.open("a") as file:
        deadline = time.monotonic() + LOCK_SECONDS
        held = False
        while not held and time.monotonic() < deadline:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                held = True
            except BlockingIOError:
                time.sleep(0.01)
            except OSError:
                break
        try:
            yield
        finally:
            if held:
                with suppress(OSError):
                    fcntl.flock(file, fcntl.LOCK_UN)


def is_running(process: int) -> bool:
    """Return whether another process with this number exists."""
    if process <= 0 or process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True

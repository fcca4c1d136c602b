"""The per-user file that remembers which kernel variants passed or failed on this machine."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path

from ..userfile import UserFile, now, user_path

VERSION = 1

ABOUT = (
    "Kernels of mlx_tilegemm that were tried on this machine, by chip, macOS and MLX version. "
    "Deleting this file is safe: each kernel is tried again when it is next chosen."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Entry of one kernel variant on one machine.

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
        when=now(),
        kernel=kernel,
        reason=reason,
        process=process,
        attempts=attempts,
    )


def default_path() -> Path:
    """Return where the record is kept unless the environment names another place."""
    return user_path("canary.json")


class Record(UserFile[Entry]):
    """The file.

    Args:
        path: Where it is.
        machine: Chip, operating system and MLX version that entries belong to.
    """

    def __init__(self, path: Path, machine: str) -> None:
        super().__init__(
            path,
            machine,
            version=VERSION,
            about=ABOUT,
            purpose="canary",
            without="kernels are tried again where it would have told",
            parse=lambda fields: Entry(**fields),
            dump=_as_json,
        )


def _as_json(value: Entry) -> dict[str, object]:
    required = ("state", "when", "kernel")
    return {key: one for key, one in asdict(value).items() if one or key in required}


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

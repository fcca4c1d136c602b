"""Broken rules as the user sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from ..errors import KernelCheckError, KernelCrashError, KernelTimeoutError


class FindingKind(str, Enum):
    """Which rule was broken."""

    OUT_OF_BOUNDS = "out-of-bounds"
    UNINITIALIZED = "uninitialized"
    RACE = "race"
    DIVERGENCE = "divergence"
    MISALIGNED = "misaligned"
    UNWRITTEN_OUTPUT = "unwritten-output"
    STORE_TO_INPUT = "store-to-input"
    THREADGROUP_MEMORY = "threadgroup-memory"
    UNDEFINED_BEHAVIOR = "undefined-behavior"
    TIME_LIMIT = "time-limit"
    CRASH = "crash"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One broken rule.

    Args:
        kind: Which rule.
        kernel: The kernel.
        file: The file that the kernel's text names, else an empty string.
        line: The line in it, 0 when unknown.
        source_line: The text of that line, empty when it is not at hand.
        other_file: For a race, the file of the other access.
        other_line: For a race, the line of the other access.
        buffer: The buffer or threadgroup array, empty when none is involved.
        index: Element of the buffer, None when none is involved.
        thread: ``thread_position_in_threadgroup`` of the first thread that did it.
        threadgroup: ``threadgroup_position_in_grid`` of that thread.
        count: How often it happened at this place.
        message: What happened, in words.
    """

    kind: FindingKind
    kernel: str
    file: str
    line: int
    source_line: str
    other_file: str = ""
    other_line: int = 0
    buffer: str
    index: int | None
    thread: tuple[int, int, int]
    threadgroup: tuple[int, int, int]
    count: int
    message: str

    def __str__(self) -> str:
        place = f"{self.file or self.kernel}:{self.line}" if self.line else self.kernel
        who = f"thread {self.thread} of threadgroup {self.threadgroup}"
        if self.kind is FindingKind.UNWRITTEN_OUTPUT:
            who = "no thread"
        times = f", {self.count} times" if self.count > 1 else ""
        lines = [f"{place}: [{self.kind}] {self.message} ({who}{times})"]
        if self.source_line:
            lines.append(f"    {self.source_line}")
        return "\n".join(lines)


class UncheckedWarning(UserWarning):
    """A strict check cannot run on this machine; the message says which, and why."""


class CheckedTimeoutError(KernelTimeoutError, KernelCheckError):
    """The kernel was stopped; the findings name the threads that were stuck."""


class CheckedCrashError(KernelCrashError, KernelCheckError):
    """Emulated code crashed; the findings say where."""


def raise_findings(kernel: str, findings: Sequence[Finding]) -> None:
    """Raises all findings of a launch as one error; the worst kind decides its class."""
    if not findings:
        return
    kinds = {finding.kind for finding in findings}
    error: type[KernelCheckError] = KernelCheckError
    title = "broke a rule"
    if FindingKind.TIME_LIMIT in kinds:
        error, title = CheckedTimeoutError, "did not end in time"
    elif FindingKind.CRASH in kinds:
        error, title = CheckedCrashError, "crashed"
    listed = "\n".join(f"  {finding}" for finding in findings)
    count = f"{len(findings)} finding" + ("s" if len(findings) > 1 else "")
    raise error(f"[emulator] {kernel} {title}: {count}.\n{listed}", tuple(findings))

"""The checks of a launch and the order in which it runs; held in a context variable."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

from ..core.plan import THREADGROUP_MEMORY_LIMIT

_CHECKS = ("strict", "off")
_ORDERS = ("forward", "reverse", "random")


def _default_workers() -> int:
    return min(os.cpu_count() or 1, 64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How the emulator runs kernels.

    Args:
        checks: ``"strict"`` finds broken rules, ``"off"`` only computes.
        order: In which order threads, simdgroups and threadgroups run: ``"forward"``,
            ``"reverse"`` or ``"random"``.
        seed: Chooses the random order.
        workers: CPU threads to use.
        registers: Whether the strict checks look for variables that are used before they are set.
            That takes a clang on Linux; see :func:`unchecked`.
        language: Whether the strict checks refuse text that Metal does not take and C++ does, such
            as a pointer without an address space; it takes a clang, and a warning says where there
            is none.
        misalign: Whether buffers and threadgroup arrays start at addresses that are aligned to
            their element type and no better.
        accesses: Whether to find out what each simdgroup accesses together, with the strict checks;
            see :func:`count`.
        sample: How many threadgroups to run, spread over the grid; 0 for all. What the others would
            write stays unwritten and is not missed. With ``accesses``, the others run too unless
            those that ran stand for them.
        threadgroup_bytes: Bytes of threadgroup memory that a threadgroup may have; by default those
            of Apple's GPUs.
        time_limit: Seconds after which a launch is stopped.
        compiler: Command of the C++ compiler, ``"zig"`` for that of the ``ziglang`` package; by
            default the first one found that serves.
    """

    checks: str = "strict"
    order: str = "forward"
    seed: int = 0
    workers: int = 0
    registers: bool = True
    language: bool = True
    misalign: bool = False
    accesses: bool = False
    sample: int = 0
    threadgroup_bytes: int = THREADGROUP_MEMORY_LIMIT
    time_limit: float = 300.0
    compiler: str = ""

    def __post_init__(self) -> None:
        if self.checks not in _CHECKS:
            raise ValueError(
                f"[settings] Expected checks to be one of {_CHECKS}, got {self.checks!r}."
            )
        if self.order not in _ORDERS:
            raise ValueError(
                f"[settings] Expected order to be one of {_ORDERS}, got {self.order!r}."
            )
        if not 0 <= self.workers <= 64:
            raise ValueError(f"[settings] Expected 0 to 64 workers, got {self.workers}.")
        if self.sample < 0 or self.sample == 1:
            raise ValueError(
                f"[settings] Expected a sample of at least two threadgroups, got {self.sample}."
            )
        if self.threadgroup_bytes < 0:
            raise ValueError(
                "[settings] Expected 0 or more bytes of threadgroup memory, got "
                f"{self.threadgroup_bytes}."
            )
        if self.time_limit <= 0:
            raise ValueError(f"[settings] Expected a positive time limit, got {self.time_limit}.")

    @property
    def strict(self) -> bool:
        """Whether the checks are on."""
        return self.checks == "strict"

    @property
    def worker_count(self) -> int:
        """CPU threads to use; 0 in ``workers`` means all of them."""
        return self.workers or _default_workers()


_current: ContextVar[Settings] = ContextVar("mlx_tilegemm_emulator_settings")


def current_settings() -> Settings:
    """The settings in force in this thread or task."""
    return _current.get(None) or Settings()


@contextmanager
def settings(**overrides: Any) -> Iterator[Settings]:  # noqa: ANN401 (fields of Settings)
    """Changes settings for the launches inside a ``with`` block.

    Args:
        **overrides: Fields of :class:`Settings`.

    Example:
        >>> with settings(order="reverse", misalign=True) as changed:
        ...     changed.order
        'reverse'
    """
    changed = replace(current_settings(), **overrides)
    token = _current.set(changed)
    try:
        yield changed
    finally:
        _current.reset(token)

"""Run numbered tasks in processes that may die: a task that kills its process is told from others.

Each process makes its own tasks, so that only numbers and results cross between processes.
"""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar, cast

from ...core.progress import be_quiet
from ...errors import BackendError

Request = TypeVar("Request")
Result = TypeVar("Result")
Task = Callable[[int], Result]

_INTERRUPTS = (signal.SIGINT,)

TASKS_PER_PROCESS = 400
"""A process is replaced after so many tasks: it keeps every kernel it loaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done(Generic[Result]):
    """A finished task.

    Attributes:
        number: Which task.
        result: What it returned; None if it did not.
        error: Why it returned nothing.
    """

    number: int
    result: Result | None = None
    error: str = ""


class _Worker:
    """One process and the task it is busy with."""

    def __init__(self, prepare: Callable[[Any], Task[Any]], request: object) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(
            target=_serve, args=(theirs, prepare, request), daemon=True
        )
        # Blocked until it ignores them: importing takes long enough to be interrupted.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPTS)
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        self.current: int | None = None
        self.given = 0
        self.started = False

    def give(self, number: int) -> None:
        self.current = number
        self.given += 1
        self.connection.send(number)

    def confirm(self) -> None:
        """Take note that the process runs: until then its end says nothing about a task."""
        try:
            self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            raise BackendError(
                "[verify] Expected processes that start, got one that ended with status "
                f"{self.process.exitcode} before its first task. A script that starts them keeps "
                'what it does under `if __name__ == "__main__":`.'
            ) from None
        self.started = True

    def take(self) -> Done[Any]:
        """Return what came of the current task, the death of the process included."""
        number = cast(int, self.current)
        self.current = None
        try:
            return cast(Done[Any], self.connection.recv())
        except (EOFError, OSError):
            self.process.join()
            self.given = TASKS_PER_PROCESS
            reason = f"its process died with status {self.process.exitcode}"
            return Done(number=number, error=reason)

    def stop(self) -> None:
        self.connection.close()
        self.process.join(timeout=5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def run_tasks(
    prepare: Callable[[Request], Task[Result]],
    request: Request,
    numbers: Sequence[int],
    *,
    jobs: int,
) -> Iterator[Done[Result]]:
    """Yield tasks as they finish, in any order.

    Args:
        prepare: Called once in each process with ``request``; returns what does a task. It has to
            be a function of a module.
        request: Passed to ``prepare``.
        numbers: The tasks.
        jobs: Processes.

    Raises:
        BackendError: A process ended before it could do anything.
    """
    waiting = list(reversed(numbers))
    workers: list[_Worker] = []
    try:
        while waiting or any(worker.current is not None for worker in workers):
            while waiting and len(workers) < jobs:
                workers.append(_Worker(prepare, request))
                workers[-1].give(waiting.pop())
            ready = wait([worker.connection for worker in workers])
            for worker in [one for one in workers if one.connection in ready]:
                if not worker.started:
                    worker.confirm()
                    continue
                yield worker.take()
                if waiting and worker.given < TASKS_PER_PROCESS:
                    worker.give(waiting.pop())
                else:
                    workers.remove(worker)
                    worker.stop()
    finally:
        for worker in workers:
            worker.process.kill()
            worker.stop()


def _serve(connection: Connection, prepare: Callable[[Any], Task[Any]], request: object) -> None:
    # An interrupt is for the parent, which then ends its processes and shows their progress.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _INTERRUPTS)
    be_quiet()
    task: Task[Any] | None = None
    try:
        connection.send(None)
    except BrokenPipeError:
        return
    while True:
        try:
            number = connection.recv()
        except EOFError:
            return
        try:
            task = task or prepare(request)
            done: Done[Any] = Done(number=number, result=task(number))
        except Exception:
            done = Done(number=number, error=traceback.format_exc())
        try:
            connection.send(done)
        except BrokenPipeError:  # nobody waits for it any more
            return

"""Runs a compiled kernel on NumPy arrays."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from ..errors import EmulatorError
from . import native
from .accesses import Accesses, read_accesses
from .arguments import Arguments, Buffer, Dispatch, LoadedParameter
from .build import BuiltKernel
from .counters import Counters, read_counters
from .counting import note_launch
from .findings import Finding, FindingKind, raise_findings
from .report import Subject, make_findings
from .settings import Settings
from .signature import EntryPoint, Source

_POLL_SECONDS = 0.2
_FAILURES = {
    1: "no address space for the emulated memory",
    2: "a buffer is too large for the emulated memory",
    3: "out of memory",
}

# The runtime has one address space and one set of workers.
_launch_lock = threading.Lock()


@lru_cache(maxsize=1)
def _finding_room() -> ctypes.Array[native.Finding]:
    """Memory for the records of one launch; guarded by the launch lock."""
    return (native.Finding * native.MAX_FINDINGS)()


class LoadedKernel:
    """A kernel that is in memory and can be launched any number of times.

    Args:
        runtime: Path of the runtime library.
        built: The compiled text.
        entry: Which of its kernels.
    """

    def __init__(self, runtime: Path, built: BuiltKernel, entry: EntryPoint) -> None:
        self.entry = entry
        self.built = built
        self._runtime = native.load_runtime(runtime)
        self._library = ctypes.CDLL(str(built.library), mode=ctypes.RTLD_LOCAL)
        position = built.entries.index(entry)
        function = getattr(self._library, f"msl_entry_{position}")
        self._address = ctypes.cast(function, ctypes.c_void_p)
        self.parameters = self._describe(position)

    def _never_written(self, buffers: Mapping[int, Buffer]) -> list[Finding]:
        """The finding on outputs that an empty grid leaves unwritten."""
        names = {p.index: p.name for p in self.entry.function.parameters}
        return [
            Finding(
                kind=FindingKind.UNWRITTEN_OUTPUT,
                kernel=self.entry.name,
                file="",
                line=0,
                source_line="",
                buffer=names[index],
                index=0,
                thread=(0, 0, 0),
                threadgroup=(0, 0, 0),
                count=1,
                message=f"{buffer.data.size} elements of '{names[index]}': the grid is empty",
            )
            for index, buffer in buffers.items()
            if not buffer.initialized and buffer.data.size
        ]

    def _describe(self, position: int) -> tuple[LoadedParameter, ...]:
        describe = getattr(self._library, f"msl_describe_{position}")
        count = len(self.entry.function.parameters)
        records = (native.Parameter * max(count, 1))()
        describe(records)
        return tuple(
            LoadedParameter(
                size=max(record.size, 1),
                alignment=max(record.alignment, 1),
                scalar_size=max(record.scalar_size, 1),
                is_const=bool(record.flags & native.CONST_FLAG),
            )
            for record in records[:count]
        )

    def launch(
        self, buffers: Mapping[int, Buffer], dispatch: Dispatch, settings: Settings
    ) -> Counters:
        """Runs the kernel and waits for it.

        Args:
            buffers: By buffer index; those that the kernel may write to are changed.
            dispatch: The grid.
            settings: What to check, in which order to run.

        Raises:
            KernelCheckError: The kernel broke a rule.
            EmulatorError: It could not be launched.
        """
        arguments = self._arguments(buffers, dispatch)
        if dispatch.is_empty:
            if settings.strict:
                raise_findings(self.entry.name, self._never_written(buffers))
            return self._counters(native.Counters(), arguments, dispatch)
        with _launch_lock:
            counters, records = self._run_even(arguments, buffers, dispatch, settings)
            findings = make_findings(records, self._subject(arguments), self._offset)
            accesses = self._accesses(arguments, settings)
        raise_findings(self.entry.name, findings)
        found = self._counters(counters, arguments, dispatch, accesses)
        note_launch(found)
        return found

    def _counters(
        self,
        record: native.Counters,
        arguments: Arguments,
        dispatch: Dispatch,
        accesses: Accesses | None = None,
    ) -> Counters:
        return read_counters(
            record,
            kernel=self.entry.name,
            grid_threadgroups=dispatch.threadgroups,
            names=arguments.names,
            accesses=accesses,
        )

    def _accesses(self, arguments: Arguments, settings: Settings) -> Accesses | None:
        if not (settings.accesses and settings.strict):
            return None
        subject = self._subject(arguments)
        return read_accesses(self._runtime, subject, arguments.constant, self._offset)

    def _arguments(self, buffers: Mapping[int, Buffer], dispatch: Dispatch) -> Arguments:
        return Arguments(
            self.entry.name,
            self.entry.function.parameters,
            self.parameters,
            buffers,
            dispatch.dynamic_threadgroup,
        )

    def _run_even(
        self,
        arguments: Arguments,
        buffers: Mapping[int, Buffer],
        dispatch: Dispatch,
        settings: Settings,
    ) -> tuple[native.Counters, list[native.Finding]]:
        """Runs the sample that is asked for, or all where its counts are not those of the grid."""
        if settings.sample and settings.accesses and settings.strict:
            if not self._updates(buffers):
                counters, records = self._run(arguments, dispatch, settings)
                if records or not counters.uneven:
                    return counters, records
            settings = replace(settings, sample=0)
        return self._run(arguments, dispatch, settings)

    def _updates(self, buffers: Mapping[int, Buffer]) -> bool:
        """Whether the kernel may write to a buffer that has contents already."""
        return any(
            buffers[index].initialized and not (buffers[index].read_only or loaded.is_const)
            for index, loaded in self._buffer_parameters(buffers)
        )

    def _buffer_parameters(
        self, buffers: Mapping[int, Buffer]
    ) -> list[tuple[int, LoadedParameter]]:
        """Index and type of the buffers of a launch, as the runtime counts them."""
        return [
            (parameter.index, loaded)
            for parameter, loaded in zip(
                self.entry.function.parameters, self.parameters, strict=True
            )
            if parameter.source is Source.BUFFER
            and not (parameter.enabled_by and parameter.index not in buffers)
        ]

    def _run(
        self, arguments: Arguments, dispatch: Dispatch, settings: Settings
    ) -> tuple[native.Counters, list[native.Finding]]:
        launch = arguments.for_launch(self._address, dispatch, settings, self.built.is_tracked)
        failure = self._runtime.msl_rt_begin(ctypes.byref(launch))
        if failure:
            raise EmulatorError(f"[emulator] {self.entry.name}: {_FAILURES[failure]}.")
        try:
            self._wait(settings.time_limit)
        finally:
            while not self._runtime.msl_rt_wait(_POLL_SECONDS):
                self._runtime.msl_rt_cancel()
            counters = native.Counters()
            room = _finding_room()
            count = self._runtime.msl_rt_end(ctypes.byref(counters), room, native.MAX_FINDINGS)
        return counters, [native.Finding.from_buffer_copy(record) for record in room[:count]]

    def _wait(self, time_limit: float) -> None:
        """Waits in slices, so that signals reach Python."""
        deadline = time.monotonic() + time_limit
        try:
            while not self._runtime.msl_rt_wait(min(_POLL_SECONDS, time_limit)):
                if time.monotonic() > deadline:
                    self._runtime.msl_rt_cancel()
                    return
        except BaseException:
            self._runtime.msl_rt_cancel()
            raise

    def _subject(self, arguments: Arguments) -> Subject:
        return Subject(
            kernel=self.entry.name,
            text=self.built.text,
            library=self.built.library,
            buffers=arguments.names,
            element_sizes=arguments.item_sizes,
        )

    def _offset(self, pc: int) -> int | None:
        """Offset of a return address in the kernel's library, None if it lies elsewhere."""
        path = ctypes.create_string_buffer(4096)
        offset = int(self._runtime.msl_rt_locate(pc, path, len(path)))
        if Path(path.value.decode(errors="replace")).resolve() != self.built.library.resolve():
            return None
        return offset - 1

"""Runs a compiled kernel on NumPy arrays."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import EmulatorError
from . import native
from .build import BuiltKernel
from .findings import raise_findings
from .report import Subject, make_findings
from .settings import Settings
from .signature import EntryPoint, Source

Array = npt.NDArray[np.generic]

_POLL_SECONDS = 0.2
_ORDERS = {"forward": 0, "reverse": 1, "random": 2}
_FAILURES = {
    1: "no address space for the emulated memory",
    2: "a buffer is too large for the emulated memory",
    3: "out of memory",
}
# The runtime has one address space and one set of workers.
_launch_lock = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Buffer:
    """One buffer of a launch.

    Args:
        data: A contiguous array; written to when it is no input.
        read_only: Whether a store to it is an error.
        initialized: Whether its contents mean something to the kernel.
        start: Bytes of ``data`` before the address that the kernel gets.
    """

    data: Array
    read_only: bool = False
    initialized: bool = True
    start: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """What a launch did. Bytes are counted while the checks are on, by thread, without caches.

    Args:
        threadgroups: Threadgroups run.
        threadgroup_bytes: Threadgroup memory that one of them takes.
        device_loaded: Bytes read from buffers.
        device_stored: Bytes written to buffers.
        loaded: Bytes read, by buffer name.
        stored: Bytes written, by buffer name.
        threadgroup_loaded: Bytes read from threadgroup memory.
        threadgroup_stored: Bytes written to threadgroup memory.
        multiply_accumulates: 8x8x8 matrix products.
        threadgroup_barriers: Barriers met by threadgroups.
        simdgroup_barriers: Barriers met by simdgroups.
        simd_functions: Calls of simd and quad functions, by thread.
        atomics: Atomic accesses, by thread.
    """

    threadgroups: int
    threadgroup_bytes: int
    device_loaded: int
    device_stored: int
    loaded: Mapping[str, int]
    stored: Mapping[str, int]
    threadgroup_loaded: int
    threadgroup_stored: int
    multiply_accumulates: int
    threadgroup_barriers: int
    simdgroup_barriers: int
    simd_functions: int
    atomics: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedParameter:
    """What the C++ type of a kernel parameter says.

    Args:
        size: Bytes of one element.
        alignment: Alignment of one element.
        scalar_size: Bytes of the smallest part that threads may use apart.
        is_const: Whether the kernel may only read it.
    """

    size: int
    alignment: int
    scalar_size: int
    is_const: bool


class LoadedKernel:
    """A kernel that is in memory and can be launched any number of times."""

    def __init__(self, runtime: Path, built: BuiltKernel, entry: EntryPoint) -> None:
        self.entry = entry
        self.built = built
        self._runtime = native.load_runtime(runtime)
        self._library = ctypes.CDLL(str(built.library), mode=ctypes.RTLD_LOCAL)
        position = built.entries.index(entry)
        function = getattr(self._library, f"msl_entry_{position}")
        self._address = ctypes.cast(function, ctypes.c_void_p)
        self.parameters = self._describe(position)

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
        self,
        buffers: Mapping[int, Buffer],
        grid: Sequence[int],
        threadgroup: Sequence[int],
        settings: Settings,
        dynamic_threadgroup: Mapping[int, int],
    ) -> Counters:
        """Runs the kernel and waits for it.

        Args:
            buffers: By buffer index.
            grid: Threads in x, y and z.
            threadgroup: Threads of a threadgroup in x, y and z.
            settings: What to check, in which order to run.
            dynamic_threadgroup: Bytes by index of the ``[[threadgroup(n)]]`` arguments.

        Raises:
            KernelCheckError: The kernel broke a rule.
            EmulatorError: It could not be launched.
        """
        plan = _Plan(self, buffers, dynamic_threadgroup)
        arguments = plan.arguments(self._address, grid, threadgroup, settings)
        if 0 in grid or 0 in threadgroup:
            return _counters(native.Counters(), plan.names)
        with _launch_lock:
            counters, records = self._run(arguments, settings)
        if records:
            findings = make_findings(records, self._subject(plan), self._offset)
            raise_findings(self.entry.name, findings)
        return _counters(counters, plan.names)

    def _run(
        self, arguments: native.LaunchArguments, settings: Settings
    ) -> tuple[native.Counters, list[native.Finding]]:
        failure = self._runtime.msl_rt_begin(ctypes.byref(arguments))
        if failure:
            raise EmulatorError(f"[emulator] {self.entry.name}: {_FAILURES[failure]}.")
        try:
            self._wait(settings.time_limit)
        finally:
            while not self._runtime.msl_rt_wait(_POLL_SECONDS):
                self._runtime.msl_rt_cancel()
            counters = native.Counters()
            records = (native.Finding * native.MAX_FINDINGS)()
            count = self._runtime.msl_rt_end(ctypes.byref(counters), records, native.MAX_FINDINGS)
        return counters, list(records[:count])

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

    def _subject(self, plan: _Plan) -> Subject:
        return Subject(
            kernel=self.entry.name,
            text=self.built.text,
            library=self.built.library,
            buffers=plan.names,
            element_sizes=plan.item_sizes,
        )

    def _offset(self, pc: int) -> int | None:
        """Offset of a return address in the kernel's library, None if it lies elsewhere."""
        path = ctypes.create_string_buffer(4096)
        offset = int(self._runtime.msl_rt_locate(pc, path, len(path)))
        if path.value.decode(errors="replace") != str(self.built.library):
            return None
        return offset - 1


class _Plan:
    """The arguments of one launch in the runtime's form; keeps them alive."""

    def __init__(
        self, kernel: LoadedKernel, buffers: Mapping[int, Buffer], dynamic: Mapping[int, int]
    ) -> None:
        parameters = kernel.entry.function.parameters
        count = len(parameters)
        self.names: list[str] = []
        self.item_sizes: list[int] = []
        self._records = (native.BufferArgument * max(count, 1))()
        self._parameters = (ctypes.c_uint32 * max(count, 1))()
        self._elements = (ctypes.c_uint32 * max(count, 1))()
        self._scalars = (ctypes.c_uint32 * max(count, 1))()
        self._names = (ctypes.c_char_p * max(count, 1))()
        self._dynamic = (ctypes.c_uint64 * max(count, 1))()
        self.count = count
        dynamic_count = 0
        for i, parameter in enumerate(parameters):
            loaded = kernel.parameters[i]
            self._elements[i] = loaded.size
            self._scalars[i] = loaded.scalar_size
            self._names[i] = parameter.name.encode()
            self._parameters[i] = native.NO_MEMORY
            if parameter.enabled_by and parameter.index not in buffers:
                continue
            if parameter.source is Source.BUFFER:
                self._parameters[i] = len(self.names)
                self._add(parameter.name, loaded, _buffer_of(kernel, buffers, parameter.index))
            elif parameter.source is Source.THREADGROUP:
                if parameter.index not in dynamic:
                    raise EmulatorError(
                        f"[emulator] {kernel.entry.name}: Expected a size for "
                        f"[[threadgroup({parameter.index})]] '{parameter.name}', got none."
                    )
                self._dynamic[dynamic_count] = dynamic[parameter.index]
                self._parameters[i] = native.DYNAMIC_PARAMETER | dynamic_count
                dynamic_count += 1

    def _add(self, name: str, loaded: LoadedParameter, buffer: Buffer) -> None:
        record = self._records[len(self.names)]
        record.data = buffer.data.ctypes.data
        record.bytes = buffer.data.nbytes
        record.start = buffer.start
        record.scalar_size = loaded.scalar_size
        record.alignment = loaded.alignment
        record.flags = (native.READ_ONLY if buffer.read_only or loaded.is_const else 0) | (
            native.INITIALIZED if buffer.initialized else 0
        )
        self.names.append(name)
        self.item_sizes.append(loaded.size)

    def arguments(
        self,
        entry: ctypes.c_void_p,
        grid: Sequence[int],
        threadgroup: Sequence[int],
        settings: Settings,
    ) -> native.LaunchArguments:
        return native.LaunchArguments(
            entry=entry,
            buffers=self._records,
            dynamic_bytes=self._dynamic,
            parameters=self._parameters,
            element_sizes=self._elements,
            scalar_sizes=self._scalars,
            parameter_names=self._names,
            buffer_count=len(self.names),
            parameter_count=self.count,
            grid=tuple(grid),
            threadgroup=tuple(threadgroup),
            strict=settings.strict,
            order=_ORDERS[settings.order],
            workers=settings.worker_count,
            misalign=settings.misalign,
            seed=settings.seed & (2**64 - 1),
        )


def _buffer_of(kernel: LoadedKernel, buffers: Mapping[int, Buffer], index: int) -> Buffer:
    buffer = buffers.get(index)
    if buffer is None:
        raise EmulatorError(
            f"[emulator] {kernel.entry.name}: Expected an argument for buffer {index}, got none."
        )
    return buffer


def _counters(record: native.Counters, names: Sequence[str]) -> Counters:
    loaded = {name: int(record.buffer_loaded[i]) for i, name in enumerate(names)}
    stored = {name: int(record.buffer_stored[i]) for i, name in enumerate(names)}
    return Counters(
        threadgroups=record.threadgroups,
        threadgroup_bytes=record.threadgroup_bytes,
        device_loaded=sum(loaded.values()),
        device_stored=sum(stored.values()),
        loaded=loaded,
        stored=stored,
        threadgroup_loaded=record.threadgroup_loaded,
        threadgroup_stored=record.threadgroup_stored,
        multiply_accumulates=record.multiply_accumulates,
        threadgroup_barriers=record.threadgroup_barriers,
        simdgroup_barriers=record.simdgroup_barriers,
        simd_functions=record.simd_functions,
        atomics=record.atomics,
    )

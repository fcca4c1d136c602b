"""The arguments of a launch, as Python has them and as the runtime takes them."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ..errors import EmulatorError, ProblemError
from . import native
from .settings import Settings
from .signature import Parameter, Source

Array = npt.NDArray[np.generic]

_MAX_THREADS = 1024
_ORDERS = {"forward": 0, "reverse": 1, "random": 2}


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
class Dispatch:
    """How many threads a launch has.

    Args:
        grid: Threads in x, y and z.
        threadgroup: Threads of a threadgroup in x, y and z.
        dynamic_threadgroup: Bytes by index of the ``[[threadgroup(n)]]`` arguments.
    """

    grid: tuple[int, int, int]
    threadgroup: tuple[int, int, int]
    dynamic_threadgroup: Mapping[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, sizes in (("grid", self.grid), ("threadgroup", self.threadgroup)):
            if len(sizes) != 3 or min(sizes) < 0:
                raise ProblemError(f"[emulator] Expected three sizes in {name}, got {sizes}.")
        if 0 in self.threadgroup and 0 not in self.grid:
            raise ProblemError(
                f"[emulator] Expected threads in the threadgroup, got {self.threadgroup}."
            )
        threads = self.threadgroup[0] * self.threadgroup[1] * self.threadgroup[2]
        if threads > _MAX_THREADS:
            # In MLX's words.
            raise ProblemError(
                f"Thread group size ({threads}) is greater than  the maximum allowed threads per "
                f"threadgroup ({_MAX_THREADS})."
            )

    @property
    def threadgroups(self) -> int:
        """Threadgroups of the grid."""
        if self.is_empty:
            return 0
        return math.prod(
            -(-grid // min(grid, size))
            for grid, size in zip(self.grid, self.threadgroup, strict=True)
        )

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to run."""
        return 0 in self.grid or 0 in self.threadgroup


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedParameter:
    """A kernel parameter, read from its C++ type.

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


class Arguments:
    """The arguments of one launch in the runtime's form; keeps them alive."""

    def __init__(
        self,
        kernel: str,
        parameters: Sequence[Parameter],
        loaded_parameters: Sequence[LoadedParameter],
        buffers: Mapping[int, Buffer],
        dynamic: Mapping[int, int],
    ) -> None:
        count = len(parameters)
        self.names: list[str] = []
        self.item_sizes: list[int] = []
        self.constant: list[bool] = []
        self._records = (native.BufferArgument * max(count, 1))()
        self._parameters = (ctypes.c_uint32 * max(count, 1))()
        self._elements = (ctypes.c_uint32 * max(count, 1))()
        self._scalars = (ctypes.c_uint32 * max(count, 1))()
        self._names = (ctypes.c_char_p * max(count, 1))()
        self._dynamic = (ctypes.c_uint64 * max(count, 1))()
        self.count = count
        dynamic_count = 0
        for i, parameter in enumerate(parameters):
            loaded = loaded_parameters[i]
            self._elements[i] = loaded.size
            self._scalars[i] = loaded.scalar_size
            self._names[i] = parameter.name.encode()
            self._parameters[i] = native.NO_MEMORY
            if parameter.enabled_by and parameter.index not in buffers:
                continue
            if parameter.source is Source.BUFFER:
                self._parameters[i] = len(self.names)
                self.constant.append(parameter.is_constant)
                self._add(parameter.name, loaded, _buffer_of(kernel, buffers, parameter.index))
            elif parameter.source is Source.THREADGROUP:
                if parameter.index not in dynamic:
                    raise EmulatorError(
                        f"[emulator] {kernel}: Expected a size for "
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

    def for_launch(
        self, entry: ctypes.c_void_p, dispatch: Dispatch, settings: Settings, is_tracked: bool
    ) -> native.LaunchArguments:
        """The structure that starts a launch.

        Args:
            entry: Address of the kernel.
            dispatch: The grid.
            settings: What to check, in which order to run.
            is_tracked: Whether the kernel knows of its values whether they were set.
        """
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
            grid=dispatch.grid,
            threadgroup=dispatch.threadgroup,
            strict=settings.strict,
            order=_ORDERS[settings.order],
            workers=settings.worker_count,
            misalign=settings.misalign,
            sample=settings.sample,
            accesses=settings.accesses and settings.strict,
            tracked=is_tracked,
            threadgroup_bytes=settings.threadgroup_bytes,
            seed=settings.seed & (2**64 - 1),
        )


def _buffer_of(kernel: str, buffers: Mapping[int, Buffer], index: int) -> Buffer:
    buffer = buffers.get(index)
    if buffer is None:
        raise EmulatorError(
            f"[emulator] {kernel}: Expected an argument for buffer {index}, got none."
        )
    return buffer

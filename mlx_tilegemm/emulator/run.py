"""Runs any complete Metal text on NumPy arrays."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from ..errors import EmulatorError, KernelCompileError
from .arguments import Buffer, Dispatch
from .build import BuiltKernel, build_kernel, build_runtime, find_tracker
from .counters import Counters
from .findings import UncheckedWarning
from .language import LANGUAGE, checked_language, missing_clang
from .launch import LoadedKernel
from .rewrite import ConstantValue
from .settings import Settings, current_settings
from .signature import EntryPoint, Source
from .toolchain import BuildMode, Compiler, find_compiler

Array = npt.NDArray[np.generic]
Sizes = tuple[int, int, int]
_VARIABLES = "variables that are used before they are set"
_SWITCHED_OFF = "switched off"


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A buffer that the kernel has to fill.

    Args:
        shape: Its shape.
        dtype: Its element type.
    """

    shape: tuple[int, ...]
    dtype: npt.DTypeLike


BufferValue = Array | np.generic | bytes | Output


@dataclass(frozen=True, slots=True, kw_only=True)
class Launched:
    """The results of a launch.

    Args:
        outputs: The buffers that the kernel may write to, by index.
        counters: What it did.
        text: The text that ran.
        unchecked: What the strict checks left out, and why.
    """

    outputs: Mapping[int, Array]
    counters: Counters
    text: str
    unchecked: tuple[str, ...] = ()


def run_text(
    text: str,
    *,
    buffers: Sequence[BufferValue] | Mapping[int | str, BufferValue],
    grid: Sequence[int],
    threadgroup: Sequence[int],
    settings: Settings | None = None,
    kernel: str | None = None,
    function_constants: Mapping[int | str, ConstantValue] | None = None,
    dynamic_threadgroup: Mapping[int, int] | None = None,
    include_dirs: Sequence[str | Path] = (),
) -> Launched:
    """Runs one kernel of a Metal text.

    Args:
        text: Complete Metal text, as a ``.metal`` file would hold it.
        buffers: Arguments by position, by ``[[buffer(n)]]`` index or by parameter name. Arrays are
            copied; ``bytes`` and NumPy scalars serve structs and references; :class:`Output` makes
            a buffer whose contents the kernel must write.
        grid: Threads of the grid in x, y and z, as for ``dispatchThreads``.
        threadgroup: Threads of a threadgroup in x, y and z.
        settings: By default those in force.
        kernel: Which kernel, by ``host_name`` or function name; needed if there are several.
        function_constants: Values by index or by name.
        dynamic_threadgroup: Bytes of the ``[[threadgroup(n)]]`` arguments, by index.
        include_dirs: Directories for the text's own ``#include`` lines.

    Returns:
        Outputs and counters.

    Raises:
        KernelCompileError: The text does not compile.
        KernelCheckError: The kernel broke a rule.

    Example:
        >>> text = '''
        ... #include <metal_stdlib>
        ... kernel void twice(device const float* x [[buffer(0)]], device float* y [[buffer(1)]],
        ...                   uint i [[thread_position_in_grid]]) { y[i] = 2 * x[i]; }
        ... '''
        >>> x = np.arange(4, dtype=np.float32)
        >>> buffers = [x, Output(shape=(4,), dtype=np.float32)]
        >>> run_text(text, buffers=buffers, grid=(4, 1, 1), threadgroup=(4, 1, 1)).outputs[1]
        array([0., 2., 4., 6.], dtype=float32)
    """
    chosen = settings or current_settings()
    constants = tuple(sorted((function_constants or {}).items(), key=repr))
    loaded = load_text(
        text,
        prelude="msl/prelude_metal.h",
        settings=build_settings(chosen),
        kernel=kernel or "",
        constants=constants,
        include_dirs=tuple(str(path) for path in include_dirs),
    )
    bound = {index: _buffer(value) for index, value in _by_index(loaded.entry, buffers).items()}
    dispatch = Dispatch(
        grid=cast(Sizes, tuple(grid)),
        threadgroup=cast(Sizes, tuple(threadgroup)),
        dynamic_threadgroup=dynamic_threadgroup or {},
    )
    counters = loaded.launch(bound, dispatch, chosen)
    return Launched(
        outputs=_outputs(loaded, bound),
        counters=counters,
        text=text,
        unchecked=unchecked(chosen),
    )


def unchecked(settings: Settings | None = None) -> tuple[str, ...]:
    """What the checks of a launch leave out, each with the reason; empty when they are complete.

    Args:
        settings: By default those in force.
    """
    chosen = settings or current_settings()
    if not chosen.strict:
        return (f"all of them: {_SWITCHED_OFF}",)
    variables = find_tracker(chosen.compiler).reason if chosen.registers else _SWITCHED_OFF
    language = missing_clang() if chosen.language else _SWITCHED_OFF
    reasons = {_VARIABLES: variables, LANGUAGE: language}
    return tuple(f"{check}: {reason}" for check, reason in reasons.items() if reason)


def build_settings(settings: Settings) -> Settings:
    """The settings without what loaded code does not depend on."""
    return Settings(
        checks=settings.checks,
        compiler=settings.compiler,
        registers=settings.registers,
        language=settings.language,
    )


@lru_cache(maxsize=4096)
def load_text(
    text: str,
    *,
    prelude: str,
    settings: Settings,
    kernel: str = "",
    constants: tuple[tuple[int | str, ConstantValue], ...] = (),
    include_dirs: tuple[str, ...] = (),
) -> LoadedKernel:
    """Compiles a text, if that was not done before, and loads one of its kernels.

    Args:
        text: The text.
        prelude: The header of ours that comes before it.
        settings: Decide how it is instrumented, and by which compiler.
        kernel: Which kernel; may be empty if there is one only.
        constants: Function constants.
        include_dirs: Directories for its includes.
    """
    parts = (text, prelude, settings, kernel, constants, include_dirs)
    if not (settings.strict and settings.language):
        return _load(*parts)
    with checked_language(text, prelude, include_dirs):
        return _load(*parts)


def _load(
    text: str,
    prelude: str,
    settings: Settings,
    kernel: str,
    constants: tuple[tuple[int | str, ConstantValue], ...],
    include_dirs: tuple[str, ...],
) -> LoadedKernel:
    linker = find_compiler(settings.compiler)
    compiler, mode = _compiler(settings, linker)
    built = build_kernel(
        compiler,
        text,
        prelude=prelude,
        mode=mode,
        function_constants=dict(constants),
        include_dirs=include_dirs,
        linker=linker,
    )
    return LoadedKernel(build_runtime(linker), built, _choose(built, kernel))


def _compiler(settings: Settings, first: Compiler) -> tuple[Compiler, BuildMode]:
    """What compiles kernels, and for what."""
    if not settings.strict:
        return first, BuildMode.FAST
    if not settings.registers:
        return first, BuildMode.CHECKED
    tracker = find_tracker(settings.compiler)
    if tracker.compiler is not None:
        return tracker.compiler, BuildMode.TRACKED
    _warn(tracker.reason)
    return first, BuildMode.CHECKED


@lru_cache(maxsize=16)
def _warn(reason: str) -> None:
    """Says once what is not checked: wherever filters change, Python would say it again."""
    warnings.warn(
        f"[emulator] Not checked: {_VARIABLES}: {reason}.", UncheckedWarning, stacklevel=2
    )


def _choose(built: BuiltKernel, kernel: str) -> EntryPoint:
    names = [entry.name for entry in built.entries]
    matching = [entry for entry in built.entries if not kernel or entry.name == kernel]
    if not names:
        raise KernelCompileError("[emulator] Expected a kernel function in the text, found none.")
    if len(matching) != 1:
        wanted = f"one named '{kernel}'" if kernel else "the name of one"
        raise KernelCompileError(f"[emulator] Expected {wanted}, got the kernels {names}.")
    return matching[0]


def _by_index(
    entry: EntryPoint, buffers: Sequence[BufferValue] | Mapping[int | str, BufferValue]
) -> dict[int, BufferValue]:
    if not isinstance(buffers, Mapping):
        return dict(enumerate(buffers))
    indices = {
        parameter.name: parameter.index
        for parameter in entry.function.parameters
        if parameter.source is Source.BUFFER
    }
    found = {}
    for key, value in buffers.items():
        if isinstance(key, str) and key not in indices:
            raise EmulatorError(
                f"[emulator] {entry.name}: Expected a buffer of {sorted(indices)}, got '{key}'."
            )
        found[indices[key] if isinstance(key, str) else key] = value
    return found


def _buffer(value: BufferValue) -> Buffer:
    if isinstance(value, Output):
        return Buffer(data=np.empty(value.shape, value.dtype), initialized=False)
    if isinstance(value, bytes):
        return Buffer(data=np.frombuffer(bytearray(value), np.uint8))
    return Buffer(data=np.array(value, order="C"))


def _outputs(loaded: LoadedKernel, bound: Mapping[int, Buffer]) -> dict[int, Array]:
    writable = {
        parameter.index
        for parameter, described in zip(
            loaded.entry.function.parameters, loaded.parameters, strict=True
        )
        if parameter.source is Source.BUFFER and not described.is_const
    }
    return {index: buffer.data for index, buffer in bound.items() if index in writable}

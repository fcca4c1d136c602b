"""NVRTC, nvJitLink and nvFatbin, through NVIDIA's own bindings, and a cache of what they made."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

from ..emulator import cache
from ..emulator.build import INCLUDE
from ..errors import BackendError, KernelCompileError
from .translate import Translated

OWN_INCLUDE = Path(__file__).parent / "include"
_CUBIN_NAME = "kernel.cubin"
_WORD = re.compile(r"[\w$]+")
_VARIABLE = re.compile(
    r"^\.(?:global|const)\b[^;{]*?([\w$]+)(?:\[\d*\])?(?: = [^;]*)?;\n", re.MULTILINE
)
_PACKING_DRIVER = 12080
"""First driver, 1000 times its major version and ten times its minor one, whose CUDA packs code."""

_OPTIONS = (
    "--std=c++20",
    "--device-as-default-execution-space",
    "--device-int128",
    # Attributes that only the emulator's compilers know.
    "--diag-suppress=1097",
    "--disable-warnings",
    f"-I{OWN_INCLUDE}",
    f"-I{INCLUDE}",
)


def missing() -> str | None:
    """Return what keeps kernels from being compiled, as a clause, or None."""
    try:
        version()
    except BackendError as error:
        return str(error)
    return None


@lru_cache(maxsize=1)
def version() -> str:
    """Return NVRTC's version.

    Raises:
        BackendError: The bindings, or NVRTC, are not installed.
    """
    nvrtc = _nvrtc()
    major, minor = _checked(nvrtc, nvrtc.nvrtcVersion())
    return f"{major}.{minor}"


@lru_cache(maxsize=1)
def _nvrtc() -> Any:  # noqa: ANN401 (the bindings have no types)
    try:
        nvrtc = import_module("cuda.bindings.nvrtc")
        nvrtc.nvrtcVersion()
    except (ImportError, RuntimeError) as error:
        raise BackendError(
            "[cuda] Expected NVRTC and its bindings, which `pip install mlx-tilegemm[cuda13]` "
            f"installs, got: {error}"
        ) from error
    return nvrtc


@lru_cache(maxsize=1)
def linker() -> Any | None:  # noqa: ANN401
    """Return the bindings of nvJitLink, which makes cubins of PTX, or None where it is missing."""
    try:
        link = import_module("cuda.bindings.nvjitlink")
        # It reads no PTX that is newer than itself.
        return link if tuple(link.version()) >= tuple(map(int, version().split("."))) else None
    except (ImportError, RuntimeError):
        return None


def versions() -> tuple[str, str]:
    """Return the versions of NVRTC and of nvJitLink, empty where that is missing."""
    link = linker()
    return version(), ".".join(map(str, link.version())) if link else ""


def _checked(nvrtc: Any, answer: Sequence[Any]) -> Any:  # noqa: ANN401
    status, *values = answer
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise BackendError(f"[cuda] Expected NVRTC to work, got {status}.")
    return values[0] if len(values) == 1 else values


@lru_cache(maxsize=1)
def _headers_digest() -> str:
    folders = (OWN_INCLUDE, INCLUDE)
    files = [(at, one) for at in folders for one in sorted(at.rglob("*")) if one.is_file()]
    return cache.digest(
        part for folder, one in files for part in (str(one.relative_to(folder)), one.read_bytes())
    )


def compiled(translated: Translated, architecture: str, *, line_info: bool = False) -> bytes:
    """Return the cubin of a kernel, out of the cache where it is there.

    Args:
        translated: The kernel.
        architecture: Of the GPU, as in ``90``.
        line_info: Whether it tells lines of the text.

    Raises:
        KernelCompileError: The text does not compile.
        BackendError: NVRTC is not installed.
    """
    options = (*translated.options, *(("-lineinfo",) if line_info else ()))
    own = [option for option in _OPTIONS if not option.startswith("-I")]
    parts = (translated.code, _headers_digest(), *versions(), architecture, *own, *options)

    def make(directory: Path) -> None:
        cubin = compile_code(translated.code, architecture, options)
        (directory / _CUBIN_NAME).write_bytes(cubin)

    return (cache.build("cuda-" + cache.digest(parts), make) / _CUBIN_NAME).read_bytes()


@lru_cache(maxsize=1)
def packer() -> Any | None:  # noqa: ANN401
    """Return the bindings of nvFatbin, or None where it, or a driver that unpacks, is missing."""
    try:
        status, driver = import_module("cuda.bindings.driver").cuDriverGetVersion()
        fatbin = import_module("cuda.bindings.nvfatbin")
        fatbin.version()
    except (ImportError, RuntimeError):
        return None
    return fatbin if not int(status) and driver >= _PACKING_DRIVER else None


def packed(fatbin: Any, cubin: bytes, architecture: str) -> bytes:  # noqa: ANN401
    """Return a cubin in a fat binary, compressed: MLX copies and hashes code whenever it is called.

    Args:
        fatbin: The bindings of nvFatbin.
        cubin: The code.
        architecture: Of the GPU, as in ``90``.
    """
    options = ["-64", "-compress-mode=size"]
    handle = fatbin.create(options, len(options))
    try:
        fatbin.add_cubin(handle, cubin, len(cubin), architecture, "kernel")
        made = bytearray(fatbin.size(handle))
        fatbin.get(handle, made)
    finally:
        fatbin.destroy(handle)
    return bytes(made)


def compile_code(code: str, architecture: str, options: Sequence[str]) -> bytes:
    """Compile CUDA C++ to a cubin.

    Args:
        code: The source.
        architecture: Of the GPU, as in ``90``.
        options: Of NVRTC, besides those of every kernel.

    Raises:
        KernelCompileError: It does not compile.
        BackendError: NVRTC is not installed.
    """
    link = linker()
    if link is None:
        return _compile(code, (f"--gpu-architecture=sm_{architecture}", *options), "CUBIN")
    ptx = _compile(code, (f"--gpu-architecture=compute_{architecture}", *options), "PTX")
    return _assemble(link, without_unused(ptx.rstrip(b"\0").decode()), architecture, options)


def _compile(code: str, options: Sequence[str], result: str) -> bytes:
    nvrtc = _nvrtc()
    program = _checked(nvrtc, nvrtc.nvrtcCreateProgram(code.encode(), b"kernel.cu", 0, [], []))
    try:
        every = [option.encode() for option in (*_OPTIONS, *options)]
        (status,) = nvrtc.nvrtcCompileProgram(program, len(every), every)
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            text = _read(nvrtc, program, "ProgramLog").rstrip(b"\0").decode(errors="replace")
            raise KernelCompileError(f"[cuda] the kernel does not compile:\n{text.strip()}")
        return _read(nvrtc, program, result)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _read(nvrtc: Any, program: object, what: str) -> bytes:  # noqa: ANN401
    room: bytes = b" " * _checked(nvrtc, getattr(nvrtc, f"nvrtcGet{what}Size")(program))
    _checked(nvrtc, (*getattr(nvrtc, f"nvrtcGet{what}")(program, room), None))
    return room


def without_unused(ptx: str) -> str:
    """Return PTX without the variables that nothing in it uses, such as headers' constants.

    MLX hashes a kernel's code whenever it is called, and most of it would be these.
    """
    counts = Counter(_WORD.findall(ptx))
    return _VARIABLE.sub(lambda found: "" if counts[found[1]] == 1 else found[0], ptx)


def _assemble(link: Any, ptx: str, architecture: str, options: Sequence[str]) -> bytes:  # noqa: ANN401
    kept = [option for option in options if option == "-lineinfo"]
    every = [f"-arch=sm_{architecture}", "-O3", *kept]
    handle = link.create(len(every), every)
    data = ptx.encode()
    link.add_data(handle, link.InputType.PTX, data, len(data), "kernel.ptx")
    link.complete(handle)
    cubin = bytearray(link.get_linked_cubin_size(handle))
    link.get_linked_cubin(handle, cubin)
    link.destroy(handle)
    return bytes(cubin)

"""Where a call runs: on Metal, in the emulator, or as MLX's own ops; one file per backend.

The choice is made per call from three facts: what the caller asked for with `use_backend` (or the
environment variable ``MLX_TILEGEMM_BACKEND``), what this build of MLX has, and the device of the
call's stream.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache

import mlx.core as mx

from ..errors import BackendError, DTypeError, ProblemError
from .base import Backend, Executable, StreamOrDevice
from .emulator import EmulatorBackend
from .metal import MetalBackend

__all__ = [
    "EMULATOR",
    "METAL",
    "Backend",
    "Executable",
    "Route",
    "StreamOrDevice",
    "canary_setting",
    "device_type",
    "resolve",
    "use_backend",
]

ENVIRONMENT_VARIABLE = "MLX_TILEGEMM_BACKEND"
CANARY_VARIABLE = "MLX_TILEGEMM_CANARY"
MODES = ("auto", "metal", "emulator", "mlx")

METAL: Backend = MetalBackend()
EMULATOR: Backend = EmulatorBackend()

_mode: ContextVar[str | None] = ContextVar("mlx_tilegemm_backend", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Where a call runs.

    Attributes:
        backend: What runs its kernel; None when MLX's own ops serve it.
        reason: Why, as a clause.
    """

    backend: Backend | None
    reason: str

    @property
    def name(self) -> str:
        """``metal``, ``emulator`` or ``mlx``."""
        return self.backend.name if self.backend else "mlx"


def use_backend(name: str) -> AbstractContextManager[None]:
    """Choose where ops run, inside a ``with`` block.

    The choice belongs to the running thread or asynchronous task; blocks nest, the innermost wins.

    Args:
        name: ``"metal"`` runs the kernels on the GPU; ``"emulator"`` runs the same kernels on the
            CPU; ``"mlx"`` computes the same results with MLX's own ops; ``"auto"``, the default,
            is metal on an Apple GPU, mlx where MLX's ops are faster than emulating (CUDA, or a
            Mac whose default device is the CPU), and the emulator elsewhere.

    Raises:
        ProblemError: An unknown name.

    Example:
        >>> with use_backend("mlx"):
        ...     y = matmul(a, b)
    """
    return _using(_checked(name, "a backend"))


@contextmanager
def _using(name: str) -> Iterator[None]:
    token = _mode.set(name)
    try:
        yield
    finally:
        _mode.reset(token)


def _checked(name: str, what: str) -> str:
    if name not in MODES:
        raise ProblemError(
            f"[use_backend] Expected {what} of 'auto', 'metal', 'emulator' or 'mlx', got {name!r}."
        )
    return name


@lru_cache(maxsize=1)
def _default_mode() -> str:
    return _checked(os.environ.get(ENVIRONMENT_VARIABLE) or "auto", ENVIRONMENT_VARIABLE)


@lru_cache(maxsize=1)
def canary_setting() -> str:
    """Return ``"on"``, ``"off"``, or the path of the record that kernels are remembered in.

    Raises:
        ProblemError: The environment variable ``MLX_TILEGEMM_CANARY`` is none of these.
    """
    value = os.environ.get(CANARY_VARIABLE) or "on"
    if value not in ("on", "off") and not value.endswith(".json"):
        raise ProblemError(
            f"[canary] Expected {CANARY_VARIABLE} of 'on', 'off' or the path of a .json file, got "
            f"{value!r}."
        )
    return value


def resolve(stream: StreamOrDevice = None) -> Route:
    """Return where a call with this ``stream`` runs now.

    Raises:
        BackendError: The backend asked for cannot run here.
        DTypeError: ``stream`` is neither a stream nor a device.
    """
    device = mx.default_device().type if stream is None else device_type(stream)
    return _route(
        _mode.get() or _default_mode(),
        mx.metal.is_available(),
        mx.cuda.is_available(),
        device is mx.gpu,
        stream is not None,
    )


def device_type(stream: StreamOrDevice) -> mx.DeviceType:
    """Return whether ``stream``, which is not None, is on the CPU or the GPU.

    Raises:
        DTypeError: It is neither a stream nor a device.
    """
    if isinstance(stream, mx.DeviceType):
        return stream
    device = stream if isinstance(stream, mx.Device) else getattr(stream, "device", None)
    if not isinstance(device, mx.Device):
        raise DTypeError(
            f"[use_backend] Expected stream to be a stream, a device or None, got "
            f"{type(stream).__name__}."
        )
    return device.type


@lru_cache(maxsize=64)
def _route(mode: str, has_metal: bool, has_cuda: bool, on_gpu: bool, given: bool) -> Route:
    if given and on_gpu and not (has_metal or has_cuda):
        raise BackendError(
            "[use_backend] Expected a stream or device that this machine has, got one of the GPU "
            "and an MLX without Metal and CUDA."
        )
    if mode == "auto":
        return _automatic(has_metal, has_cuda, on_gpu, given)
    asked = "asked for"
    if mode == "mlx":
        return Route(backend=None, reason=asked)
    if mode == "emulator":
        return Route(backend=EMULATOR, reason=asked)
    if not has_metal:
        raise BackendError(
            "[use_backend] Expected Metal for the backend 'metal', got an MLX without it; use "
            "'emulator' to run the kernels on the CPU, or 'auto'."
        )
    if given and not on_gpu:
        return Route(backend=None, reason="the call's stream is on the CPU")
    return Route(backend=METAL, reason=asked)


def _automatic(has_metal: bool, has_cuda: bool, on_gpu: bool, given: bool) -> Route:
    if has_metal and on_gpu:
        return Route(backend=METAL, reason="Metal is available")
    if has_metal:
        what = "the call's stream" if given else "the default device"
        return Route(backend=None, reason=f"{what} is on the CPU")
    if has_cuda:
        return Route(backend=None, reason="this MLX runs on CUDA, and the kernels are Metal")
    return Route(backend=EMULATOR, reason="no Metal and no CUDA on this machine")

"""Backends, one file each, and the choice of where a call runs: on one, or as MLX's own ops.

The choice is made per call from three facts: what the caller asked for with `use_backend` (or the
environment variable ``MLX_TILEGEMM_BACKEND``), what this build of MLX has, and the device of the
call's stream. To add a backend, write its file and name it in `BACKENDS`.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import lru_cache

import mlx.core as mx

from ..core.context import UNASKED, Settings, current_settings, using
from ..errors import BackendError, DTypeError, ProblemError
from .base import (
    ASKED,
    Backend,
    Capabilities,
    Executable,
    KernelMaker,
    Place,
    Route,
    StreamOrDevice,
)
from .cuda import CudaBackend
from .emulator import EmulatorBackend
from .metal import MetalBackend

__all__ = [
    "BACKENDS",
    "Backend",
    "Capabilities",
    "Executable",
    "KernelMaker",
    "Place",
    "Route",
    "StreamOrDevice",
    "backend_named",
    "canary_setting",
    "device_type",
    "is_left_to_mlx",
    "is_on_gpu",
    "resolve",
    "resolved_backend",
    "runner",
    "use_backend",
    "use_runner",
]

BACKENDS: tuple[Backend, ...] = (MetalBackend(), CudaBackend(), EmulatorBackend())
"""Every backend, in the order in which they are asked whether they serve a call."""

ENVIRONMENT_VARIABLE = "MLX_TILEGEMM_BACKEND"
CANARY_VARIABLE = "MLX_TILEGEMM_CANARY"
AUTO, MLX = "auto", "mlx"


def use_backend(backend: str | Backend) -> AbstractContextManager[None]:
    """Choose where ops run, inside a ``with`` block.

    The choice belongs to the running thread or asynchronous task; blocks nest, the innermost wins.

    Args:
        backend: ``"metal"`` runs the kernels on an Apple GPU; ``"cuda"`` runs the same kernels on
            an NVIDIA GPU; ``"emulator"`` runs them on the CPU, checked and slowly; ``"mlx"``
            computes the same results with MLX's own ops; ``"auto"``, the default, is metal on an
            Apple GPU, cuda on an NVIDIA GPU for which NVRTC is installed, and mlx everywhere else.
            A `Backend` object is taken as it is.

    Raises:
        ProblemError: An unknown name.

    Example:
        >>> with use_backend("mlx"):
        ...     y = matmul(a, b)
    """
    return using(backend=_checked(backend, "a Backend or one"))


def backend_named(name: str) -> Backend:
    """Return a backend by its name.

    Raises:
        ProblemError: There is none of that name.
    """
    found = next((one for one in BACKENDS if one.name == name), None)
    if found is None:
        names = " or ".join(repr(one.name) for one in BACKENDS)
        raise ProblemError(f"[use_backend] Expected a backend of {names}, got {name!r}.")
    return found


def _checked(backend: str | Backend, what: str) -> str | Backend:
    names = (AUTO, *(one.name for one in BACKENDS), MLX)
    if isinstance(backend, Backend) or (isinstance(backend, str) and backend in names):
        return backend
    known = ", ".join(repr(name) for name in names[:-1])
    raise ProblemError(
        f"[use_backend] Expected {what} of {known} or {names[-1]!r}, got {backend!r}."
    )


@lru_cache(maxsize=1)
def _default_mode() -> str | Backend:
    return _checked(os.environ.get(ENVIRONMENT_VARIABLE) or AUTO, ENVIRONMENT_VARIABLE)


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


def resolve(
    stream: StreamOrDevice = None, settings: Settings | None = None, *, on_a_mac: bool = False
) -> Route:
    """Return where a call with this ``stream`` runs now.

    Args:
        stream: Of the call; None for the default device.
        settings: The settings in force, where they are at hand.
        on_a_mac: Where it would run on a Mac whose default device is its GPU.

    Raises:
        BackendError: The backend asked for cannot run here.
        DTypeError: ``stream`` is neither a stream nor a device.
    """
    device = mx.default_device().type if stream is None else device_type(stream)
    asked = (settings or current_settings()).backend
    return _route(asked, device is mx.gpu, stream is not None, on_a_mac)


def resolved_backend(stream: StreamOrDevice, settings: Settings) -> Backend | None:
    """Return the backend of `resolve`, in half its time where ``stream`` is None."""
    if stream is None:
        return _default_backend(settings.backend, mx.default_device().type is mx.gpu)
    return resolve(stream, settings).backend


@lru_cache(maxsize=64)
def _default_backend(asked: str | Backend | None, on_gpu: bool) -> Backend | None:
    return _route(asked, on_gpu, False, False).backend


def is_left_to_mlx() -> bool:
    """Return whether MLX's own ops serve every call here and now, and nobody asks for more.

    What MLX has too is then computed as it does, without looking up a prepared call.
    """
    settings = current_settings()
    return settings is _left.settings or _left.look(settings)


class _Left:
    """The settings seen last under which MLX's own ops serve every call on any device."""

    settings: Settings | None = None

    def look(self, settings: Settings) -> bool:
        """Return whether they serve every call under ``settings`` on the default device of now."""
        on_gpu = mx.default_device().type is mx.gpu
        if not _is_left(settings, on_gpu):
            return False
        if _is_left(settings, not on_gpu):
            self.settings = settings
        return True


_left = _Left()


@lru_cache(maxsize=64)
def _is_left(settings: Settings, on_gpu: bool) -> bool:
    return settings[1:] == UNASKED and _default_backend(settings.backend, on_gpu) is None


def is_on_gpu(stream: StreamOrDevice) -> bool:
    """Return whether MLX's ops of a stream run on a GPU; None is the default one.

    Raises:
        DTypeError: ``stream`` is neither a stream nor a device.
    """
    return (mx.default_device().type if stream is None else device_type(stream)) is mx.gpu


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
def _route(asked: str | Backend | None, on_gpu: bool, given: bool, on_a_mac: bool) -> Route:
    # What this MLX has, and the environment, stay as they are as long as the process runs.
    place = Place(
        metal=on_a_mac or mx.metal.is_available(),
        cuda=not on_a_mac and mx.cuda.is_available(),
        on_gpu=on_gpu or (on_a_mac and not given),
        given=given,
    )
    asked = _default_mode() if asked is None else asked
    if given and on_gpu and not (place.metal or place.cuda):
        raise BackendError(
            "[use_backend] Expected a stream or device that this machine has, got one of the GPU "
            "and an MLX without Metal and CUDA."
        )
    if isinstance(asked, Backend):
        return asked.asked(place)
    if asked == MLX:
        return Route(backend=None, reason=ASKED)
    if asked != AUTO:
        return backend_named(asked).asked(place)
    claims = (one.automatic(place) for one in BACKENDS)
    why = "MLX runs on CUDA, and the kernels are Metal" if place.cuda else "no Metal GPU is here"
    nobody = Route(backend=None, reason=why)
    found = next((one for one in claims if one is not None), nobody)
    return replace(found, reason="as on a Mac") if on_a_mac and found.backend else found


def use_runner() -> AbstractContextManager[None]:
    """Run ops on kernels inside a ``with`` block where nothing is asked for, GPU or no GPU."""
    asked = current_settings().backend or _default_mode()
    return using(backend=(asked == AUTO and runner()) or asked)


def runner(*, clock: bool = False) -> Backend | None:
    """Return the backend that kernels run on here and now, also where MLX's ops serve calls.

    Args:
        clock: Only one whose times say something about a device.
    """
    route = resolve()
    if route.backend is not None and (route.backend.capabilities.has_clock or not clock):
        return route.backend
    usable = (one for one in BACKENDS if one.missing() is None)
    return next((one for one in usable if one.capabilities.has_clock or not clock), None)

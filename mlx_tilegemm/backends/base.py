"""Backend: a place where rendered kernels run, and what it says of itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import mlx.core as mx

from ..core.plan import SIMD_WIDTH, Extent, Source

StreamOrDevice = (
    mx.Stream | mx.Device | mx.DeviceType | mx.ThreadLocalStream | None  # as MLX spells it
)


class Executable(Protocol):
    """A compiled kernel; called as the result of `mx.fast.metal_kernel` is."""

    def __call__(
        self,
        *,
        inputs: Sequence[mx.array],
        output_shapes: Sequence[Sequence[int]],
        output_dtypes: Sequence[mx.Dtype],
        grid: Extent,
        threadgroup: Extent,
        stream: StreamOrDevice = None,
    ) -> list[mx.array]:
        """Launch the kernel once."""


class Bound(NamedTuple):
    """A kernel for launches alike but for values and the stream.

    Attributes:
        kernel: Launches it.
        further: Inputs that it takes after those which differ from launch to launch.
    """

    kernel: Executable
    further: tuple[mx.array, ...]


KernelMaker = Callable[..., Any]
"""Maker of kernels; called as `mx.fast.metal_kernel` is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """Properties of a backend that others act on; nothing asks for its name.

    Attributes:
        lazy: Calls become part of MLX's graph, which may trace them; else they are evaluated at
            once and need arrays with values.
        checks_launches: Every launch is checked for what a kernel may not do, so that kernels need
            no proof before they serve calls.
        rivals_mlx: MLX's own ops would run on the same device, so that their times compare.
        modelled: Times of kernels are modelled for its device; else they serve calls that do not
            ask for them only where they were measured.
        has_clock: Times of calls say something about a device.
        compiles: It compiles texts itself; else MLX does when a kernel first runs.
        parallel: Several processes may run kernels side by side without slowing each other.
        language: Latest version of Metal's language whose texts it takes.
        simd_width: Threads that run in step.
        lane_layout: Which elements of an 8x8 matrix a lane holds: ``"apple"`` is Metal's own.
    """

    lazy: bool
    checks_launches: bool
    rivals_mlx: bool
    has_clock: bool
    compiles: bool
    parallel: bool
    modelled: bool = True
    language: tuple[int, int] = (3, 2)
    simd_width: int = SIMD_WIDTH
    lane_layout: str = "apple"


class Place(NamedTuple):
    """Facts that the choice of a backend is made from.

    Attributes:
        metal: MLX has Metal here.
        cuda: MLX has CUDA here.
        on_gpu: The call's stream, or the default device, is on a GPU.
        given: The call names its stream.
    """

    metal: bool
    cuda: bool
    on_gpu: bool
    given: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Route of a call: where it runs.

    Attributes:
        backend: What runs its kernel; None when MLX's own ops serve it.
        reason: Why, as a clause.
    """

    backend: Backend | None
    reason: str

    @property
    def name(self) -> str:
        """The backend's name, or ``mlx``."""
        return self.backend.name if self.backend else "mlx"


ASKED = "asked for"


class Backend(ABC):
    """A place where rendered kernels run. Objects are keys of prepared calls, by identity."""

    name: str
    """Name by which `use_backend` takes it."""

    capabilities: Capabilities

    @abstractmethod
    def compile(self, source: Source) -> Executable:
        """Return the ready kernel of ``source``; a source seen before costs a look-up."""

    def bound(self, kernel: Executable, sizes: tuple[int, ...]) -> Bound:
        """Return a kernel of this backend for launches alike but for values and the stream.

        Args:
            kernel: The kernel.
            sizes: Integers of its last input, in all launches.
        """
        return Bound(kernel, (self.resident(mx.array(sizes, dtype=mx.int32)),))

    def resident(self, array: mx.array) -> mx.array:
        """Return a small array, which many launches read, where kernels read it fastest."""
        return array

    def metal_kernel(self) -> KernelMaker | None:
        """Return what makes Metal kernels of others run here; None for `mx.fast.metal_kernel`."""
        return None

    def missing(self) -> str | None:
        """Return what keeps kernels from running here, as a clause, or None."""
        return None

    def asked(self, place: Place) -> Route:
        """Return the route of a call for which this backend was asked.

        Raises:
            BackendError: It cannot run here.
        """
        return Route(backend=self, reason=ASKED)

    def automatic(self, place: Place) -> Route | None:
        """Return the route of a call for which nothing was asked, or None to leave it to others."""
        return None

    def runs(self, count: int) -> Iterator[tuple[str, AbstractContextManager[object]]]:
        """Yield so many ways to run a kernel, by name; on a GPU they repeat."""
        for number in range(1, count + 1):
            yield f"run {number}", nullcontext()

    def device_name(self) -> str:
        """Return the name of the device that runs kernels, as far as it has one."""
        return str(mx.device_info().get("device_name", ""))

    def unchecked(self) -> tuple[str, ...]:
        """Return the checks of a launch that it makes elsewhere but not here, with reasons."""
        return ()

    def compiler_name(self, asked: str) -> str:
        """Return what compiles kernels, for reports.

        Args:
            asked: The compiler that was asked for; empty for the first found.
        """
        return "MLX's, at first use"

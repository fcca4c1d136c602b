"""What a backend is: something that turns a rendered kernel into a callable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import mlx.core as mx

from ..plan import Extent, Source

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


class Backend(Protocol):
    """A place where rendered kernels run."""

    @property
    def name(self) -> str:
        """``metal`` or ``emulator``."""

    def __hash__(self) -> int:
        """Backends are keys of the prepared calls."""

    def compile(self, source: Source) -> Executable:
        """Return the ready kernel of ``source``; a source seen before costs a look-up."""

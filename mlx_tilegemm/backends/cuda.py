"""Run kernels on an NVIDIA GPU, through MLX's CUDA build: the same text, translated."""

from __future__ import annotations

from functools import lru_cache
from typing import cast

import mlx.core as mx

from ..core.plan import Source
from ..errors import BackendError
from .base import ASKED, Backend, Bound, Capabilities, Executable, KernelMaker, Place, Route


class CudaBackend(Backend):
    """NVIDIA GPUs; calls are lazy, and a kernel is compiled when it is first called."""

    name = "cuda"
    capabilities = Capabilities(
        lazy=True,
        checks_launches=False,
        rivals_mlx=True,
        has_clock=True,
        compiles=True,
        parallel=False,
        modelled=False,
    )

    def compile(self, source: Source) -> Executable:
        """Return the translated kernel of ``source``."""
        return _kernel(source)

    def bound(self, kernel: Executable, sizes: tuple[int, ...]) -> Bound:
        """Return a kernel whose launch is found out at its first call, and has the sizes."""
        from ..cuda import CudaKernel

        if not isinstance(kernel, CudaKernel):
            return super().bound(kernel, sizes)
        return Bound(cast(Executable, kernel.bound(sizes)), ())

    def resident(self, array: mx.array) -> mx.array:
        """Return the array in the GPU's own memory."""
        from ..cuda.memory import on_device

        return on_device(array)

    def metal_kernel(self) -> KernelMaker:
        """Return `mlx_tilegemm.cuda.metal_kernel`."""
        from ..cuda import metal_kernel

        return metal_kernel

    def missing(self) -> str | None:
        """Return that MLX has no CUDA here, or that NVRTC is not installed."""
        if not mx.cuda.is_available():
            return "MLX has no CUDA here"
        from ..cuda.compiler import missing

        return missing()

    def asked(self, place: Place) -> Route:
        """Return this backend, or MLX's own ops for a stream of the CPU."""
        if not place.cuda:
            raise BackendError(
                "[use_backend] Expected CUDA for the backend 'cuda', got an MLX without it; use "
                "'emulator' to run the kernels on the CPU, or 'auto'."
            )
        lacking = self.missing()
        if lacking is not None:
            raise BackendError(lacking)
        if place.given and not place.on_gpu:
            return Route(backend=None, reason="the call's stream is on the CPU")
        return Route(backend=self, reason=ASKED)

    def automatic(self, place: Place) -> Route | None:
        """Return this backend where MLX's own ops would run on an NVIDIA GPU, and NVRTC is there.

        They serve all the same what kernels were not measured to be faster at.
        """
        if not place.cuda or not place.on_gpu or self.missing() is not None:
            return None
        return Route(backend=self, reason="CUDA is available")

    def compiler_name(self, asked: str) -> str:
        """Return NVRTC and its version."""
        from ..cuda.compiler import version

        return f"NVRTC {version()}"


@lru_cache(maxsize=512)
def _kernel(source: Source) -> Executable:
    # Imported here because of what it costs `import mlx_tilegemm`.
    from ..cuda import metal_kernel

    kernel = metal_kernel(
        name=source.name,
        input_names=list(source.input_names),
        output_names=list(source.output_names),
        source=source.body,
        header=source.header,
    )
    return cast(Executable, kernel)

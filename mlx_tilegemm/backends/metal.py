"""Run kernels on an Apple GPU. The only caller of `mx.fast.metal_kernel`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, cast

import mlx.core as mx

from ..core.plan import Source
from ..errors import BackendError
from .base import ASKED, Backend, Capabilities, Executable, Place, Route


class MetalBackend(Backend):
    """Apple GPUs, through MLX; calls are lazy and MLX compiles a kernel when it first runs."""

    name = "metal"
    capabilities = Capabilities(
        lazy=True,
        checks_launches=False,
        rivals_mlx=True,
        has_clock=True,
        compiles=False,
        parallel=False,
    )

    def compile(self, source: Source) -> Executable:
        """Return MLX's kernel object for ``source``."""
        return mlx_kernel(source)

    def missing(self) -> str | None:
        """Return that there is no Metal, where there is none: calls are then only traced."""
        return None if mx.metal.is_available() else "MLX has no Metal here"

    def asked(self, place: Place) -> Route:
        """Return this backend, or MLX's own ops for a stream of the CPU."""
        if not place.metal:
            raise BackendError(
                "[use_backend] Expected Metal for the backend 'metal', got an MLX without it; use "
                "'emulator' to run the kernels on the CPU, or 'auto'."
            )
        if place.given and not place.on_gpu:
            return Route(backend=None, reason="the call's stream is on the CPU")
        return Route(backend=self, reason=ASKED)

    def automatic(self, place: Place) -> Route | None:
        """Return this backend on an Apple GPU, MLX's own ops on a Mac's CPU."""
        if not place.metal:
            return None
        if place.on_gpu:
            return Route(backend=self, reason="Metal is available")
        where = "the call's stream" if place.given else "the default device"
        return Route(backend=None, reason=f"{where} is on the CPU")


@lru_cache(maxsize=512)
def mlx_kernel(source: Source) -> Executable:
    """Return MLX's kernel object for ``source``, which traces calls on machines without Metal."""
    kernel = mx.fast.metal_kernel(
        name=source.name,
        input_names=list(source.input_names),
        output_names=list(source.output_names),
        source=source.body,
        header=source.header,
    )
    return cast(Executable, kernel)


def generated_texts(
    call: Callable[..., Sequence[mx.array]], operands: Sequence[mx.array]
) -> tuple[str, ...]:
    """Return the Metal texts that MLX generates for the kernels which ``call(operands)`` launches.

    MLX writes it while tracing an export, on machines without Metal too; nothing is evaluated.
    """
    texts: list[str] = []

    def record(event: dict[str, Any]) -> None:
        if event.get("name") == "CustomKernel":
            texts.append(event["arguments"][1])

    mx.export_function(record, lambda *arrays: list(call(arrays)), *operands)
    return tuple(texts)

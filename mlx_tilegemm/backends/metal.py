"""Run kernels on an Apple GPU. The only caller of `mx.fast.metal_kernel`."""

from __future__ import annotations

from functools import lru_cache
from typing import cast

import mlx.core as mx

from ..plan import Source
from .base import Executable


class MetalBackend:
    """Apple GPUs, through MLX; calls are lazy and MLX compiles a kernel when it first runs."""

    name = "metal"

    def compile(self, source: Source) -> Executable:
        """Return MLX's kernel object for ``source``."""
        return _kernel(source)


@lru_cache(maxsize=512)
def _kernel(source: Source) -> Executable:
    kernel = mx.fast.metal_kernel(
        name=source.name,
        input_names=list(source.input_names),
        output_names=list(source.output_names),
        source=source.body,
        header=source.header,
    )
    return cast(Executable, kernel)

"""Run kernels on an Apple GPU. The only caller of `mx.fast.metal_kernel`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, cast

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


def generated_text(call: Callable[..., Sequence[mx.array]], operands: Sequence[mx.array]) -> str:
    """Return the Metal text that MLX generates for the kernels which ``call(operands)`` launches.

    MLX writes it while tracing an export, on machines without Metal too; nothing is evaluated.
    """
    texts: list[str] = []

    def record(event: dict[str, Any]) -> None:
        if event.get("name") == "CustomKernel":
            texts.append(event["arguments"][1])

    mx.export_function(record, lambda *arrays: list(call(arrays)), *operands)
    return "\n".join(texts)

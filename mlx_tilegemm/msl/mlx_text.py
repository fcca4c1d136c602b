"""The Metal text, launch geometry and names that MLX itself makes of a custom-kernel call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from ..errors import EmulatorError


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedCall:
    """A call as MLX would send it to Metal.

    Args:
        name: The kernel's full name.
        text: The complete text behind MLX's prelude.
        grid: Threads in x, y and z.
        threadgroup: Threads of a threadgroup in x, y and z.
        shape_info: For each input, whether the kernel takes its shape, strides and rank.
        ensure_row_contiguous: Whether inputs are made row-contiguous.
    """

    name: str
    text: str
    grid: tuple[int, int, int]
    threadgroup: tuple[int, int, int]
    shape_info: tuple[tuple[bool, bool, bool], ...]
    ensure_row_contiguous: bool


def trace_call(kernel: Callable[..., Sequence[mx.array]], arguments: dict[str, Any]) -> TracedCall:
    """Traces one call of an ``mx.fast.metal_kernel`` object.

    MLX writes the text while it traces an export, on machines without Metal too; its own errors
    for wrong arguments come out of here.

    Args:
        kernel: The object.
        arguments: Keyword arguments of the call, with arrays and scalars as inputs.
    """
    inputs = arguments["inputs"]
    arrays = [value for value in inputs if isinstance(value, mx.array)]
    records: list[dict[str, Any]] = []

    def call(*traced: mx.array) -> Sequence[mx.array]:
        rest = iter(traced)
        bound = [next(rest) if isinstance(value, mx.array) else value for value in inputs]
        return kernel(**{**arguments, "inputs": bound})

    mx.export_function(records.append, call, *arrays)
    for record in records:
        if record.get("type") == "primitive" and record.get("name") == "CustomKernel":
            return _read(record["arguments"])
    raise EmulatorError("[emulator] This version of MLX does not show the text of custom kernels.")


def _read(fields: Sequence[Any]) -> TracedCall:
    return TracedCall(
        name=fields[0],
        text=fields[1],
        grid=(fields[2], fields[3], fields[4]),
        threadgroup=(fields[5], fields[6], fields[7]),
        shape_info=tuple(tuple(flags) for flags in fields[8]),
        ensure_row_contiguous=fields[9],
    )

"""A stand-in for the metal backend: it computes ``a @ b`` by MLX's ops, with faults on demand."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NoReturn
from unittest import mock

import mlx.core as mx

from mlx_tilegemm import backends, dispatch
from mlx_tilegemm.assurance import canary, measurements
from mlx_tilegemm.backends import Backend, Executable
from mlx_tilegemm.backends.metal import MetalBackend
from mlx_tilegemm.core.caches import forget_prepared
from mlx_tilegemm.core.plan import Source
from mlx_tilegemm.families.gemm import fallback

Fault = Callable[[str], str | None]
"""Name of the fault that a kernel of a name has, or None."""

Broken = Callable[[list[mx.array], mx.array], mx.array]
"""Result of a kernel, from its operands and what is right."""

THREADS = (
    "Thread group size (1024) is greater than  the maximum allowed threads per threadgroup (896)."
)
COMPILE = "[metal::Device] Unable to build metal library from source\nerror: no\nmatching function"


ON_A_GPU = replace(MetalBackend.capabilities, rivals_mlx=False)
"""Of a backend whose kernels have to prove themselves."""


class FakeMetal(Backend):
    """Makes kernels of one product each: of the text it reads no more than the name's layout.

    Args:
        fault: Gets a kernel's name and returns which fault it has, or None.
    """

    name = "metal"
    capabilities = ON_A_GPU

    def __init__(self, fault: Fault = lambda name: None) -> None:
        self.fault = fault
        self.launched: list[str] = []

    def compile(self, source: Source) -> Executable:
        def execute(
            *, inputs: Any, output_shapes: Any, output_dtypes: Any, **_: Any
        ) -> list[mx.array]:
            self.launched.append(source.name)
            operands = _as_multiplied(source.name, inputs)
            broken = FAULTS[self.fault(source.name)](operands, operands[0] @ operands[1])
            return [broken.astype(output_dtypes[0]).reshape(output_shapes[0])]

        return execute


def _as_multiplied(name: str, inputs: list[mx.array]) -> list[mx.array]:
    (layout,) = re.findall("_([nt]{2})_", name)
    operands = [one.astype(mx.float32) for one in inputs[:2]]
    return [
        mx.swapaxes(one, -1, -2) if stored == "t" else one
        for one, stored in zip(operands, layout, strict=True)
    ]


def _raises(error: BaseException) -> Broken:
    def fault(inputs: list[mx.array], result: mx.array) -> NoReturn:
        raise error

    return fault


def _with_one(value: float) -> Broken:
    def fault(inputs: list[mx.array], result: mx.array) -> mx.array:
        columns = mx.arange(result.shape[-1]) == result.shape[-1] - 1
        rows = mx.arange(result.shape[-2])[:, None] == result.shape[-2] - 1
        return mx.where(rows & columns, value, result)

    return fault


def _in_half(inputs: list[mx.array], result: mx.array) -> mx.array:
    return inputs[0].astype(mx.float16).astype(mx.float32) @ inputs[1]


def _without_last_term(inputs: list[mx.array], result: mx.array) -> mx.array:
    return inputs[0][..., :-1] @ inputs[1][..., :-1, :]


def _dies(inputs: list[mx.array], result: mx.array) -> NoReturn:
    os._exit(9)


FAULTS: dict[str | None, Broken] = {
    None: lambda inputs, result: result,
    "compile": _raises(RuntimeError(COMPILE)),
    "threads": _raises(ValueError(THREADS)),
    "memory": _raises(RuntimeError("[metal::malloc] Attempting to allocate 9 bytes")),
    "interrupt": _raises(KeyboardInterrupt()),
    "dies": _dies,
    "nan": _with_one(mx.nan),
    "wrong": _with_one(1.0),
    "half": _in_half,
    "term": _without_last_term,
    "shifted": lambda inputs, result: mx.roll(result, 1, -1),
}


def forget() -> None:
    """Forget everything that a new process would not know."""
    forget_prepared()
    measurements.forget()
    for cache in (canary._only_ledger, backends.canary_setting, dispatch.choose):
        cache.cache_clear()


@contextmanager
def fake_metal(
    setting: object, fault: Fault = lambda name: None, backend: Backend | None = None
) -> Iterator[Backend]:
    """Run the block's ops on a GPU, the backend yielded, as in a new process.

    MLX's own ops do not compete: whether they are modelled to be faster is not the matter here.

    Args:
        setting: Value of the canary's environment variable.
        fault: As `FakeMetal`.
        backend: Another backend instead.
    """
    backend = backend or FakeMetal(fault)
    forget()
    with (
        mock.patch.dict(os.environ, {backends.CANARY_VARIABLE: str(setting)}),
        backends.use_backend(backend),
    ):
        yield backend
    forget()


class ClockedMetal(FakeMetal):
    """A fake GPU whose kernels take given seconds, 2 ms if none are given, on its own clock."""

    def __init__(self, seconds: Mapping[str, float], fault: Fault = lambda name: None) -> None:
        super().__init__(fault)
        self.seconds = seconds
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    def compile(self, source: Source) -> Executable:
        execute = super().compile(source)

        def timed(**arguments: Any) -> list[mx.array]:
            self.now += self.seconds.get(source.name, 2e-3)
            return execute(**arguments)

        return timed


@contextmanager
def clocked_metal(
    setting: object,
    seconds: Mapping[str, float],
    *,
    mlx_seconds: float = 3e-3,
    fault: Fault = lambda name: None,
) -> Iterator[ClockedMetal]:
    """Pretend as `fake_metal` does, with a `ClockedMetal`; MLX's products take time on it too."""
    metal = ClockedMetal(seconds, fault)
    by_mlx = fallback.gemm

    def timed(problem: Any) -> Any:
        run = by_mlx(problem)

        def call(*arguments: Any) -> Any:
            metal.now += mlx_seconds
            return run(*arguments)

        return call

    with fake_metal(setting, backend=metal), mock.patch.object(fallback, "gemm", timed):
        yield metal

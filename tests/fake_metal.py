"""A stand-in for the metal backend: it computes ``a @ b`` by MLX's ops, with faults on demand."""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from unittest import mock

import mlx.core as mx

from mlx_tilegemm import backends, dispatch
from mlx_tilegemm.assurance import canary, measurements
from mlx_tilegemm.backends import Backend, Capabilities
from mlx_tilegemm.core.caches import forget_prepared
from mlx_tilegemm.families.gemm import fallback

THREADS = (
    "Thread group size (1024) is greater than  the maximum allowed threads per threadgroup (896)."
)
COMPILE = "[metal::Device] Unable to build metal library from source\nerror: no\nmatching function"


class FakeMetal(Backend):
    """Makes kernels of one product each: of the text it reads no more than the name's layout.

    Args:
        fault: Gets a kernel's name and returns which fault it has, or None.
    """

    name = "metal"

    def __init__(self, fault=lambda name: None, *, rivals_mlx=False):
        self.capabilities = Capabilities(
            lazy=True,
            checks_launches=False,
            rivals_mlx=rivals_mlx,
            has_clock=True,
            compiles=False,
            parallel=False,
        )
        self.fault = fault
        self.launched = []

    def compile(self, source):
        def execute(*, inputs, output_shapes, output_dtypes, grid, threadgroup, stream=None):
            self.launched.append(source.name)
            operands = _as_multiplied(source.name, inputs)
            broken = FAULTS[self.fault(source.name)](operands, operands[0] @ operands[1])
            return [broken.astype(output_dtypes[0]).reshape(output_shapes[0])]

        return execute


def _as_multiplied(name, inputs):
    layout = re.search("_([nt]{2})_", name).group(1)
    operands = [one.astype(mx.float32) for one in inputs[:2]]
    return [
        mx.swapaxes(one, -1, -2) if stored == "t" else one
        for one, stored in zip(operands, layout, strict=True)
    ]


def _raises(error):
    def fault(inputs, result):
        raise error

    return fault


def _with_one(value):
    def fault(inputs, result):
        columns = mx.arange(result.shape[-1]) == result.shape[-1] - 1
        rows = mx.arange(result.shape[-2])[:, None] == result.shape[-2] - 1
        return mx.where(rows & columns, value, result)

    return fault


def _in_half(inputs, result):
    return inputs[0].astype(mx.float16).astype(mx.float32) @ inputs[1]


def _without_last_term(inputs, result):
    return inputs[0][..., :-1] @ inputs[1][..., :-1, :]


def _dies(inputs, result):
    os._exit(9)


FAULTS = {
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
    "shifted": lambda inputs, result: mx.roll(result, 1, axis=-1),
}


def forget():
    """Forget everything that a new process would not know."""
    forget_prepared()
    measurements.forget()
    for cache in (canary._only_ledger, backends.canary_setting, dispatch.choose):
        cache.cache_clear()


@contextmanager
def fake_metal(setting, fault=lambda name: None, backend=None):
    """Pretend that this machine has Metal, as the backend yielded, and that the process is new.

    MLX's own ops do not compete: whether they are modelled to be faster is not the matter here.

    Args:
        setting: Value of the canary's environment variable.
        fault: As `FakeMetal`.
        backend: What to put in the place of the metal backend instead.
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

    def __init__(self, seconds, fault=lambda name: None):
        super().__init__(fault)
        self.seconds = seconds
        self.now = 0.0

    def clock(self):
        return self.now

    def compile(self, source):
        execute = super().compile(source)

        def timed(**arguments):
            self.now += self.seconds.get(source.name, 2e-3)
            return execute(**arguments)

        return timed


@contextmanager
def clocked_metal(setting, seconds, *, mlx_seconds=3e-3, fault=lambda name: None):
    """Pretend as `fake_metal` does, with a `ClockedMetal`; MLX's products take time on it too."""
    metal = ClockedMetal(seconds, fault)
    by_mlx = fallback.gemm

    def timed(*arguments):
        metal.now += mlx_seconds
        return by_mlx(*arguments)

    with fake_metal(setting, backend=metal), mock.patch.object(fallback, "gemm", timed):
        yield metal

"""The toy family used as any other; tests/test_adding_a_family.py runs it in a copy."""

from __future__ import annotations

import tempfile
from pathlib import Path
from unittest import mock

import mlx.core as mx
import numpy as np
from lazy_kernels import LazyKernels
from mlx_tilegemm.families.toy.ops import row_scale

import mlx_tilegemm as tg
from mlx_tilegemm import backends
from mlx_tilegemm.assurance import canary, tuning
from mlx_tilegemm.assurance.canary.instance import smallest_instance
from mlx_tilegemm.assurance.canary.trial import trial
from mlx_tilegemm.machine import chips

d, x = mx.array([2.0, -3.0, 0.5] * 5), mx.random.normal((15, 7)).astype(mx.float16)


def op() -> None:
    y, counted = row_scale(d, x)
    right = np.array(d)[:, None] * np.array(x.astype(mx.float32))
    np.testing.assert_allclose(np.array(y), right, rtol=1e-3)
    np.testing.assert_array_equal(np.array(counted), (right < 0).sum(axis=1))
    assert (y.dtype, counted.dtype) == (mx.float16, mx.int32)
    assert "row_scale/32" in str(tg.explain(row_scale, d, x))
    assert tg.explain("row_scale", d, x).route == "row_scale"
    with tg.use_backend("mlx"):
        assert mx.array_equal(row_scale(d, x)[1], counted)


def gradients() -> None:
    found = mx.grad(lambda d, x: row_scale(d, x)[0].sum(), argnums=(0, 1))(d, x)
    assert mx.allclose(found[0], x.astype(mx.float32).sum(axis=1), atol=1e-2)
    assert mx.allclose(found[1], mx.broadcast_to(d[:, None], x.shape))
    tangent = mx.jvp(lambda d: row_scale(d, x)[0], [d], [mx.ones_like(d)])[1][0]
    assert mx.allclose(tangent, x)


def batching() -> None:
    many = mx.random.normal((3, 15, 7))
    emulator = backends.resolve().backend
    assert emulator is not None
    lazy = LazyKernels(emulator)
    with tg.use_backend(lazy):
        y, counted = mx.vmap(row_scale, in_axes=(None, 0))(d, many)
    assert mx.allclose(y, d[:, None] * many)
    assert counted.shape == (3, 15)
    assert lazy.launches


def canary_and_tuning() -> None:
    problem = tg.explain(row_scale, d, x).problem
    chip = chips.detect()[0]
    emulator = backends.resolve().backend
    assert problem is not None
    assert emulator is not None
    plan = tg.explain(row_scale, d, x).plan
    assert plan is not None
    instance = smallest_instance(problem, plan, chip)
    assert instance is not None
    assert trial(instance, emulator) is None
    with tg.record() as shapes:
        row_scale(d, x)
    assert shapes.problems == (problem,)
    with tempfile.TemporaryDirectory() as folder:
        shapes.save(Path(folder) / "shapes.json")
        assert tuning.load(Path(folder) / "shapes.json").problems == (problem,)
        setting = {backends.CANARY_VARIABLE: str(Path(folder) / "canary.json")}
        with mock.patch.dict("os.environ", setting), tg.use_backend(Clocked(emulator)):
            backends.canary_setting.cache_clear()
            (outcome,) = tuning.tune([problem], effort=tuning.Effort(rounds=2, warm_seconds=0.0))
            assert outcome.status is tuning.Status.MEASURED, outcome
            assert {one.candidate for one in outcome.timings} == {"row_scale/32", "mlx"}
            assert canary.look_up(plan).state is canary.State.PROVEN


class Clocked(LazyKernels):
    """The emulator, taken for a GPU whose kernels have to prove themselves and can be timed."""

    def __init__(self, backend: backends.Backend) -> None:
        super().__init__(backend)
        self.capabilities = backends.backend_named("metal").capabilities


op()
gradients()
batching()
canary_and_tuning()
print("all right")

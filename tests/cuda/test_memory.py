"""Small arrays lie where a GPU reads them without asking the host."""

from __future__ import annotations

import mlx.core as mx
import pytest
from fake_cuda import FakeCuda

import mlx_tilegemm as tg
from mlx_tilegemm.cuda import compiler, kernel, memory, metal_kernel

LACKING = compiler.missing()
needs_nvrtc = pytest.mark.skipif(LACKING is not None, reason=LACKING or "")


@pytest.fixture
def made(monkeypatch):
    """Arrays that were put into the GPU's memory."""
    found = []

    def on_device(array):
        found.append(memory.on_device(array))
        return found[-1]

    monkeypatch.setattr(kernel, "on_device", on_device)
    monkeypatch.setattr(
        "mlx_tilegemm.backends.cuda.CudaBackend.resident", lambda _, x: on_device(x)
    )
    kernel._scalar.cache_clear()
    kernel._integers.cache_clear()
    yield found
    kernel._scalar.cache_clear()
    kernel._integers.cache_clear()


@pytest.mark.parametrize("array", [mx.array(2.5), mx.array([True]), mx.array([[3, -4], [5, 6]])])
def test_an_array_is_the_beginning_of_a_larger_one(array, monkeypatch):
    sizes, pad = [], mx.pad

    def padded(*given, **options):
        sizes.append(pad(*given, **options).nbytes)
        return pad(*given, **options)

    monkeypatch.setattr(mx, "pad", padded)
    found = memory.on_device(array)
    assert (found.shape, found.dtype) == (array.shape, array.dtype)
    assert mx.array_equal(found, array)
    assert sizes[0] > max(8, array.nbytes)


@needs_nvrtc
def test_sizes_and_factors_of_a_launch(made, monkeypatch):
    launches = FakeCuda(monkeypatch).launches
    x, w, c = mx.ones((5, 40), mx.float16), mx.ones((24, 40)), mx.ones((5, 24))
    with tg.use_backend("cuda"), tg.use_kernel("gemv"):
        mx.eval(tg.addmm(c, x, w.T, alpha=0.5))
    (launch,) = launches
    (factors,) = launch["inputs"][3:]
    assert any(factors is kept for kept in made)
    # Sizes are arguments, for which no thread waits: m.
    assert launch["scalars"] == (5,)
    assert factors.tolist() == [0.5, 1.0]


@needs_nvrtc
def test_scalars_and_shapes_of_anybodys_kernel(made, monkeypatch):
    """Equal numbers of other kinds, or signs, are not taken for each other."""
    launches = FakeCuda(monkeypatch).launches
    ours = metal_kernel(
        name="scaled",
        input_names=["x", "by"],
        output_names=["y"],
        source="y[thread_position_in_grid.x] = x[thread_position_in_grid.x] * by * x_shape[0];",
    )
    for by in (1, 1.0, True, 0.0, -0.0, 1):
        ours(
            inputs=[mx.ones(32), by],
            output_shapes=[(32,)],
            output_dtypes=[mx.float32],
            grid=(32, 1, 1),
            threadgroup=(32, 1, 1),
        )
    taken = [call["inputs"][-1] for call in launches]
    assert all(any(one is kept for kept in made) for call in launches for one in call["inputs"][1:])
    assert [str(one.dtype) for one in taken[:3]] == [
        "mlx.core.int32", "mlx.core.float32", "mlx.core.bool",
    ]  # fmt: skip
    assert (1 / taken[4]).item() == -mx.inf
    assert taken[5] is taken[0]

"""Streams, threads and devices: calls run where they are told to, by whom they are told."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import oracle
import pytest

import mlx_tilegemm as tg
from mlx_tilegemm.backends import backend_named
from mlx_tilegemm.core.dtypes import from_mlx
from mlx_tilegemm.errors import BackendError, DTypeError

mx.random.seed(11)
X = mx.random.normal((9, 40)).astype(mx.float16)
W = mx.random.normal((33, 40))
BIAS = mx.random.normal((33,)).astype(mx.bfloat16)
Q = mx.random.normal((1, 4, 5, 16)).astype(mx.float16)
K = mx.random.normal((1, 2, 7, 16)).astype(mx.bfloat16)
V = mx.random.normal((1, 2, 7, 12))
MASK = mx.random.normal((5, 7))
INTEGERS = [mx.random.randint(-50, 50, shape).astype(mx.int8) for shape in ((9, 40), (33, 40))]
mx.eval(X, W, BIAS, Q, K, V, MASK, *INTEGERS)

CALLS = {
    "matmul": lambda **options: tg.matmul(X, W, transpose_b=True, **options),
    "addmm": lambda **options: tg.addmm(BIAS, X, W, transpose_b=True, **options),
    "rounded": lambda **options: tg.matmul(X, W.T, out_dtype=mx.bfloat16, **options),
    "integers": lambda **options: tg.matmul(*INTEGERS, transpose_b=True, **options),
    "attention": lambda **options: tg.attention_chain(Q, K, V, mask=MASK, **options),
    "causal": lambda **options: tg.attention_chain(Q, K, V, mask="causal", **options),
}


def check(name, result):
    """Hold a result of one of the calls to the bounds of its sums."""
    if name == "integers":
        value, _ = oracle.gemm(*INTEGERS, transpose_b=True)
        assert np.array_equal(np.array(result), value)
    elif name in ("attention", "causal"):
        mask = MASK if name == "attention" else name
        value, bound, _ = oracle.attention(Q, K, V, scale=16**-0.5, mask=mask)
        oracle.assert_close(result, value, bound + oracle.rounding(value, from_mlx(mx.float32)))
    else:
        c = BIAS if name == "addmm" else None
        value, size = oracle.gemm(X, W, transpose_b=True, c=c)
        oracle.assert_close(result, value, oracle.gemm_bound(value, size, 40, dtype_of(result)))


def dtype_of(result):
    dtype = from_mlx(result.dtype)
    assert dtype is not None
    return dtype


@pytest.fixture
def machine(monkeypatch, nothing_asked):
    """Return a function that says what this machine pretends to have; nothing is emulated."""

    def pretend(*, metal=False, cuda=False, default=mx.cpu):
        monkeypatch.setattr(mx.metal, "is_available", lambda: metal)
        monkeypatch.setattr(mx.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(type(backend_named("cuda")), "missing", lambda self: "no NVRTC")
        monkeypatch.setattr(mx, "default_device", lambda: mx.Device(default))
        monkeypatch.setattr(type(backend_named("emulator")), "compile", refuse)

    return pretend


def refuse(*_):
    raise AssertionError("a kernel is made where MLX's ops should serve")


@pytest.mark.parametrize("name", CALLS)
class TestStreams:
    def test_of_mlx_ops_are_the_callers(self, name):
        # A stream serves its own thread only, so MLX's refusal shows where the work was put.
        with ThreadPoolExecutor(1) as pool:
            stream = pool.submit(mx.new_stream, mx.cpu).result()
            with tg.use_backend("mlx"):
                check(name, CALLS[name](stream=mx.new_stream(mx.cpu)))
                with pytest.raises(RuntimeError, match=r"There is no Stream\(cpu, \d+\) in curr"):
                    mx.eval(CALLS[name](stream=stream))

    @pytest.mark.parametrize("stream", [mx.cpu, mx.Device(mx.cpu), mx.default_stream(mx.cpu)])
    def test_of_kernels(self, kernels, name, stream):
        if mx.metal.is_available():
            stream = mx.gpu
        check(name, CALLS[name](stream=stream))

    @pytest.mark.parametrize("backend", ["auto", "emulator"])
    def test_of_a_device_that_is_not_there(self, machine, name, backend):
        machine()
        message = "Expected a stream or device that this machine has, got one of the GPU"
        with tg.use_backend(backend), pytest.raises(BackendError, match=message):
            CALLS[name](stream=mx.gpu)


@pytest.mark.parametrize("name", CALLS)
class TestMachines:
    def test_cuda_is_served_by_mlx_ops(self, machine, name):
        machine(cuda=True, default=mx.gpu)
        check(name, CALLS[name]())

    def test_a_mac_whose_default_device_is_the_cpu(self, machine, name):
        machine(metal=True, default=mx.cpu)
        check(name, CALLS[name]())

    def test_a_mac_told_to_use_the_cpu(self, machine, name):
        machine(metal=True, default=mx.gpu)
        check(name, CALLS[name](stream=mx.cpu))


class TestExplained:
    def test_cuda(self, machine):
        machine(cuda=True, default=mx.gpu)
        explanation = tg.explain(tg.matmul, X, W, transpose_b=True)
        assert explanation.route == explanation.backend == "mlx"
        assert "serve: MLX runs on CUDA, and the kernels are Metal" in str(explanation)

    def test_a_mac_whose_default_device_is_the_cpu(self, machine):
        machine(metal=True, default=mx.cpu)
        for op, arguments in ((tg.matmul, (X, W.T)), (tg.attention_chain, (Q, K, V))):
            explanation = tg.explain(op, *arguments)
            assert explanation.route == explanation.backend == "mlx"
            assert "the default device is on the CPU" in str(explanation)

    def test_a_mac_told_to_use_the_cpu(self, machine):
        machine(metal=True, default=mx.gpu)
        assert "the call's stream is on the CPU" in str(
            tg.explain(tg.matmul, X, W.T, stream=mx.cpu)
        )


def test_patched_models_work_on_cuda(machine):
    model = nn.Sequential(nn.Linear(40, 33), nn.ReLU(), nn.Linear(33, 5))
    expected = model(X)
    machine(cuda=True, default=mx.gpu)
    with tg.patched(model):
        got = model(X)
    assert got.dtype == expected.dtype
    assert mx.allclose(got, expected, rtol=1e-5, atol=1e-5)


class Tensor:
    """What another library's array on a device of its own looks like."""

    __module__ = "torch"
    shape = (9, 40)
    device = "cuda:0"

    def __array__(self):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


@pytest.mark.parametrize("theirs", [Tensor(), np.ones((9, 40), np.float16), [[1.0] * 40]])
def test_arrays_of_other_libraries_are_named(theirs):
    kind = type(theirs)
    name = kind.__name__ if kind is list else f"{kind.__module__}.{kind.__name__}"
    with pytest.raises(DTypeError, match=rf"Expected a to be an mlx\.core\.array, got {name}; mx"):
        tg.matmul(theirs, W, transpose_b=True)
    with pytest.raises(DTypeError, match=rf"Expected k to be an mlx\.core\.array, got {name}; mx"):
        tg.attention_chain(Q, theirs, V)


def any_kernel(backend):
    return None if backend == "mlx" else "any"


class TestThreads:
    @pytest.mark.parametrize("backend", ["kernels", "mlx"])
    def test_may_all_call_at_once(self, backend):
        if backend == "kernels":
            backend = "metal" if mx.metal.is_available() else "emulator"
        together = threading.Barrier(4)

        def work(turn):
            names = list(CALLS)
            together.wait()
            with tg.use_backend(backend), tg.use_kernel(any_kernel(backend)):
                for name in names[turn:] + names[:turn]:
                    check(name, CALLS[name]())

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))

    def test_may_meet_at_a_kernel_no_one_has_made(self, kernels):
        # Sizes that no other test uses: whoever comes first prepares the call.
        x, w = mx.random.normal((3, 71)), mx.random.normal((2, 71)).astype(mx.float16)
        mx.eval(x, w)
        expected = np.array(x) @ np.array(w.astype(mx.float32)).T
        backend = "metal" if mx.metal.is_available() else "emulator"
        together = threading.Barrier(3)

        def work(_):
            together.wait()
            with tg.use_backend(backend), tg.use_kernel("any"):
                return np.array(tg.matmul(x, w, transpose_b=True))

        with ThreadPoolExecutor(3) as pool:
            for result in pool.map(work, range(3)):
                np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)

    def test_may_share_a_patched_model(self):
        model = nn.MultiHeadAttention(16, 2)
        x = mx.random.normal((1, 6, 16))
        mx.eval(model.parameters(), x)
        expected = np.array(model(x, x, x))
        tg.patch(model)
        backend = "metal" if mx.metal.is_available() else "emulator"

        def work(name):
            with tg.use_backend(name), tg.use_kernel(any_kernel(name)):
                return [np.array(model(x, x, x)) for _ in range(5)]

        with ThreadPoolExecutor(4) as pool:
            for results in pool.map(work, [backend, "mlx", backend, "mlx"]):
                for result in results:
                    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)
        assert mx.fast.scaled_dot_product_attention.__name__ == "scaled_dot_product_attention"

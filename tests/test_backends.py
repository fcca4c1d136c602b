"""Where calls run: what is asked, what the machine has, and the stream decide; and importing."""

import asyncio
import contextvars
import os
import subprocess
import sys
import threading

import mlx.core as mx
import pytest
from lazy_kernels import LazyKernels

import mlx_tilegemm as tg
from mlx_tilegemm.backends import Route, backend_named, emulator, is_left_to_mlx, resolve
from mlx_tilegemm.core.caches import forget_prepared
from mlx_tilegemm.core.context import noting_problems
from mlx_tilegemm.cuda import compiler
from mlx_tilegemm.errors import BackendError, DTypeError, ProblemError
from mlx_tilegemm.families.attention.key import attention_call
from mlx_tilegemm.families.gemm.key import product_call

METAL, CUDA, EMULATOR = map(backend_named, ("metal", "cuda", "emulator"))


@pytest.fixture
def machine(monkeypatch, nothing_asked):
    """Return a function that says what this machine pretends to have, where nothing is asked."""

    def pretend(*, metal=False, cuda=False, default=mx.cpu):
        monkeypatch.setattr(mx.metal, "is_available", lambda: metal)
        monkeypatch.setattr(mx.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(mx, "default_device", lambda: mx.Device(default))

    return pretend


class TestResolve:
    @pytest.mark.parametrize(
        ("mode", "has", "default", "stream", "expected"),
        [
            ("auto", "metal", mx.gpu, None, "metal"),
            ("auto", "metal", mx.gpu, mx.gpu, "metal"),
            ("auto", "metal", mx.gpu, mx.cpu, "mlx"),
            ("auto", "metal", mx.cpu, None, "mlx"),
            ("auto", "metal", mx.cpu, mx.gpu, "metal"),
            ("auto", "cuda", mx.gpu, None, "cuda"),
            ("auto", "cuda", mx.gpu, mx.cpu, "mlx"),
            ("auto", "cuda", mx.cpu, None, "mlx"),
            ("auto", "neither", mx.cpu, None, "mlx"),
            ("auto", "neither", mx.cpu, mx.cpu, "mlx"),
            ("emulator", "neither", mx.cpu, None, "emulator"),
            ("metal", "metal", mx.gpu, None, "metal"),
            ("metal", "metal", mx.cpu, None, "metal"),
            ("metal", "metal", mx.gpu, mx.cpu, "mlx"),
            ("emulator", "metal", mx.gpu, None, "emulator"),
            ("emulator", "cuda", mx.gpu, None, "emulator"),
            ("cuda", "cuda", mx.gpu, None, "cuda"),
            ("cuda", "cuda", mx.cpu, None, "cuda"),
            ("cuda", "cuda", mx.gpu, mx.cpu, "mlx"),
            ("mlx", "metal", mx.gpu, None, "mlx"),
            ("mlx", "neither", mx.cpu, None, "mlx"),
        ],
    )
    def test_table(self, machine, monkeypatch, mode, has, default, stream, expected):
        monkeypatch.setattr(compiler, "missing", lambda: None)
        machine(metal=has == "metal", cuda=has == "cuda", default=default)
        with tg.use_backend(mode):
            route = resolve(stream)
        assert route.name == expected
        backends = {"metal": METAL, "cuda": CUDA, "emulator": EMULATOR, "mlx": None}
        assert route.backend is backends[expected]
        assert route.reason

    def test_metal_where_there_is_none(self, machine):
        machine()
        with tg.use_backend("metal"), pytest.raises(BackendError, match=r"Expected Metal"):
            tg.matmul(mx.zeros((3, 3)), mx.zeros((3, 3)))

    def test_cuda_where_there_is_none(self, machine):
        machine()
        with tg.use_backend("cuda"), pytest.raises(BackendError, match=r"Expected CUDA"):
            tg.matmul(mx.zeros((3, 3)), mx.zeros((3, 3)))

    def test_cuda_without_nvrtc(self, machine, monkeypatch):
        machine(cuda=True, default=mx.gpu)
        monkeypatch.setattr(compiler, "missing", lambda: "[cuda] Expected NVRTC, got none.")
        with tg.use_backend("cuda"), pytest.raises(BackendError, match=r"Expected NVRTC"):
            tg.matmul(mx.zeros((3, 3)), mx.zeros((3, 3)))
        assert resolve().reason == "MLX runs on CUDA, and the kernels are Metal"

    @pytest.mark.parametrize(
        "stream",
        [mx.cpu, mx.Device(mx.cpu), mx.default_stream(mx.cpu), mx.new_thread_local_stream(mx.cpu)],
    )
    def test_every_way_to_name_a_stream(self, machine, stream):
        machine(metal=True, default=mx.gpu)
        assert resolve(stream).reason == "the call's stream is on the CPU"

    @pytest.mark.parametrize("stream", ["cpu", 0, mx.float32])
    def test_other_things_are_no_streams(self, stream):
        with pytest.raises(DTypeError, match="Expected stream to be a stream"):
            resolve(stream)


class TestUseBackend:
    def test_unknown_names_raise_at_once(self):
        with pytest.raises(ProblemError, match=r"'metal', 'cuda', 'emulator' or 'mlx', got 'gpu'"):
            tg.use_backend("gpu")

    def test_what_is_no_backend_is_told_that_objects_are_taken(self):
        with pytest.raises(ProblemError, match=r"Expected a Backend or one of 'auto'.*, got 3\."):
            tg.use_backend(3)

    def test_blocks_nest_and_end_even_by_an_error(self, machine):
        machine()
        with tg.use_backend("emulator"):
            with pytest.raises(ZeroDivisionError), tg.use_backend("mlx"):
                raise ZeroDivisionError(resolve().name)
            assert resolve().name == "emulator"
            with tg.use_backend("auto"):
                assert resolve().name == "mlx"
            assert resolve().name == "emulator"
        assert resolve().name == "mlx"

    def test_a_block_is_of_its_thread(self, machine):
        machine()
        seen = []
        with tg.use_backend("emulator"):
            thread = threading.Thread(target=lambda: seen.append(resolve().name))
            thread.start()
            thread.join()
            context = contextvars.copy_context()
            assert context.run(lambda: resolve().name) == "emulator"
        assert seen == ["mlx"]

    def test_a_block_is_of_its_task(self):
        async def task(name, seen, turn):
            with tg.use_backend(name):
                for _ in range(3):
                    await turn.wait()
                    await asyncio.sleep(0)
                    seen.append((name, resolve().name))

        async def both():
            seen, turn = [], asyncio.Event()
            turn.set()
            await asyncio.gather(task("mlx", seen, turn), task("emulator", seen, turn))
            return seen

        seen = asyncio.run(both())
        assert len(set(seen)) == 2
        assert all(asked == got for asked, got in seen)


class TestLeftToMlx:
    @pytest.fixture
    def prepared_calls(self):
        """Return how many calls of products and attention are looked up."""

        def count():
            infos = [call.cache_info() for call in (product_call, attention_call)]
            return sum(info.hits + info.misses for info in infos)

        return count

    @pytest.mark.parametrize("backend", ["auto", "mlx"])
    def test_what_its_ops_have_is_not_looked_up(self, machine, prepared_calls, backend):
        machine()
        x = mx.ones((3, 4))
        before = prepared_calls()
        with tg.use_backend(backend):
            assert is_left_to_mlx()
            found = tg.matmul(x, x, transpose_b=True)
        assert prepared_calls() == before
        assert found.shape == (3, 3)

    def test_a_call_like_an_earlier_one_is_not_looked_up(self, machine, prepared_calls):
        machine()
        x, q = mx.ones((3, 4)), mx.ones((1, 2, 5, 4))
        before = prepared_calls()
        for _ in range(3):
            tg.attention_chain(q, q, q)
            tg.addmm(x, x, mx.ones((4, 4)))
        assert prepared_calls() == before + 2

    @pytest.mark.parametrize(
        "block",
        [
            tg.use_kernel("any"),
            tg.use_gradients(False),
            tg.use_precision("float32"),
            noting_problems(lambda problem: None),
        ],
    )
    def test_who_asks_for_more_is_not_left_to_it(self, machine, prepared_calls, block):
        machine()
        x = mx.ones((3, 4))
        tg.matmul(x, x.T)
        before = prepared_calls()
        with block:
            assert not is_left_to_mlx()
            tg.matmul(x, x.T)
        assert prepared_calls() == before + 1
        assert is_left_to_mlx()

    @pytest.mark.parametrize("metal", [False, True])
    def test_a_device_of_now_is_asked_where_there_are_two(self, machine, monkeypatch, metal):
        machine(metal=metal)
        assert is_left_to_mlx()
        monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu))
        assert is_left_to_mlx() is not metal


class Elsewhere(LazyKernels):
    """A backend that leaves every call to MLX's own ops."""

    def asked(self, place):
        return Route(backend=None, reason="a test")


class TestBackendObjects:
    A, B = mx.ones((5, 7)), mx.ones((7, 3))

    def test_they_are_taken_as_they_are(self):
        backend = LazyKernels(EMULATOR)
        with tg.use_backend(backend):
            assert resolve().backend is backend
            y = tg.matmul(self.A, self.B)
        assert mx.array_equal(y, mx.full((5, 3), 7.0))
        assert len(backend.launches) == 1

    def test_two_of_one_name_share_no_prepared_calls(self):
        two = [LazyKernels(EMULATOR), LazyKernels(EMULATOR)]
        for backend in (*two, two[0]):
            with tg.use_backend(backend):
                tg.matmul(self.A, self.B)
        assert [len(one.launches) for one in two] == [2, 1]

    def test_they_say_where_calls_run(self):
        backend = Elsewhere(EMULATOR)
        with tg.use_backend(backend):
            assert resolve() == Route(backend=None, reason="a test")
            assert mx.array_equal(tg.matmul(self.A, self.B), mx.full((5, 3), 7.0))
        assert backend.launches == []


def python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


WITHOUT_EMULATOR = """
import sys
sys.modules["mlx_tilegemm.emulator"] = None  # as where there is nothing to compile with
import mlx.core as mx, mlx_tilegemm as tg
x = mx.random.normal((1, 2, 5, 8)).astype(mx.float16)
w = mx.random.normal((1, 2, 5, 8))
rows = w.swapaxes(-1, -2)
attention = tg.attention_chain(x, w, w, mask="causal")
print(mx.allclose(tg.matmul(x, w, transpose_b=True), x @ rows).item())
print(mx.allclose(tg.addmm(w[..., :5], x, rows), w[..., :5] + x @ rows).item())
print(mx.allclose(attention, mx.fast.scaled_dot_product_attention(
    x.astype(mx.float32), w, w, scale=8**-0.5, mask="causal"), atol=1e-6).item())
print(tg.explain(tg.matmul, x, w, transpose_b=True).reason)
"""


class TestEnvironment:
    def test_sets_the_default(self):
        code = "import mlx_tilegemm.backends as b; print(b.resolve().name)"
        assert python(code, MLX_TILEGEMM_BACKEND="emulator").stdout.strip() == "emulator"

    @pytest.mark.skipif(mx.metal.is_available() or mx.cuda.is_available(), reason="a GPU is here")
    def test_without_it_mlx_serves_where_there_is_no_gpu_and_no_compiler(self):
        printed = python(WITHOUT_EMULATOR, MLX_TILEGEMM_BACKEND="").stdout.splitlines()
        assert printed == [*["True"] * 3, "MLX's own ops serve: no Metal GPU is here"]

    def test_a_block_wins(self):
        code = (
            "import mlx_tilegemm.backends as b\n"
            "with b.use_backend('emulator'): print(b.resolve().name)"
        )
        assert python(code, MLX_TILEGEMM_BACKEND="mlx").stdout.strip() == "emulator"

    def test_a_wrong_value_is_named_when_it_is_first_needed(self):
        code = (
            "import mlx_tilegemm as tg, mlx.core as mx\n"
            "try: tg.matmul(mx.zeros((3, 3)), mx.zeros((3, 3)))\n"
            "except ValueError as error: print(error)"
        )
        printed = python(code, MLX_TILEGEMM_BACKEND="opencl").stdout
        assert "Expected MLX_TILEGEMM_BACKEND of 'auto', 'metal', 'cuda', 'emulator' or" in printed
        assert "got 'opencl'" in printed


class TestEmulator:
    """What the emulator does not do, it must say; a wrong result or gradient is the alternative."""

    @pytest.fixture(autouse=True)
    def no_launch(self, monkeypatch):
        """Stand in for the kernel: these tests are about what happens around it."""

        def fake(**_):
            def kernel(*, inputs, output_shapes, output_dtypes, grid, threadgroup):
                mx.eval(*inputs)
                return [mx.ones(output_shapes[0], dtype=output_dtypes[0])]

            return kernel

        monkeypatch.setattr(tg.emulator, "metal_kernel", fake, raising=False)
        # A kernel made from the stand-in must serve no other test, nor the other way round.
        emulator._kernel.cache_clear()
        forget_prepared()
        yield
        emulator._kernel.cache_clear()
        forget_prepared()

    @pytest.fixture
    def call(self):
        weight = mx.ones((7, 3))

        def call(x):
            with tg.use_backend("emulator"):
                return tg.matmul(x, weight)

        return call

    def test_plain_calls_run(self, call):
        assert mx.array_equal(call(mx.ones((5, 7))), mx.ones((5, 3)))

    def test_compile_is_refused(self, call):
        with pytest.raises(BackendError, match=r'use_backend\("mlx"\)'):
            mx.compile(call)(mx.ones((5, 7)))

    def test_vmap_is_refused(self, call):
        with pytest.raises(BackendError, match=r"mx\.vmap"):
            mx.vmap(call)(mx.ones((2, 5, 7)))

    def test_a_gradient_that_does_not_pass_through_is_unharmed(self, call):
        y = call(mx.ones((5, 7)))
        gradient = mx.grad(lambda scale: (scale * y).sum())(mx.array(2.0))
        assert gradient.item() == 15.0

    def test_errors_of_the_caller_s_own_graph_pass(self, call):
        bad = mx.ones((5, 7)) @ mx.ones((7, 7))
        with pytest.raises(ValueError, match="broadcast"):
            call(bad + mx.ones((6, 7)))


class TestMetal:
    def test_kernels_are_made_once_per_source(self):
        source = tg.explain("matmul", mx.zeros((33, 65)), mx.zeros((65, 19))).source
        assert METAL.compile(source) is METAL.compile(source)

    def test_generated_text_is_mlx_own(self):
        x, w = mx.zeros((33, 65), dtype=mx.float16), mx.zeros((65, 19))
        explanation = tg.explain("matmul", x, w)
        source, text = explanation.source, explanation.text
        assert text.startswith(source.header)
        signature = text[len(source.header) : text.index(source.body)]
        assert f"[[kernel]] void custom_kernel_{source.name}_float16_t_float" in signature
        assert "const device float16_t* a [[buffer(0)]]" in signature
        assert "device float* out" in signature


class TestImport:
    def test_exported_names_are_exact(self):
        # Submodules become attributes by being imported; what is exported must be named.
        modules = {
            name.split(".")[1] for name in sys.modules if name.startswith("mlx_tilegemm.")
        } - set(tg.__all__)
        helpers = {"TYPE_CHECKING", "import_module"}
        members = {name for name in dir(tg) if not name.startswith("_")} - modules - helpers
        assert sorted(members) == tg.__all__

    def test_exports_are_what_their_names_say(self):
        modules = {"cuda", "emulator", "errors", "formats", "integrations", "nn"}
        for name in modules:
            assert getattr(tg, name).__name__ == f"mlx_tilegemm.{name}"
        functions = set(tg.__all__) - modules
        assert all(callable(getattr(tg, name)) for name in functions)

    def test_costs_little_and_brings_no_heavy_module(self):
        code = (
            "import time, sys, mlx.core\n"
            "start = time.process_time(); import mlx_tilegemm\n"
            "print(time.process_time() - start)\n"
            "print(*{'jinja2', 'numpy', 'subprocess'} & set(sys.modules))"
        )
        runs = [python(code).stdout.splitlines() for _ in range(5)]
        assert min(float(seconds) for seconds, _ in runs) < 0.100
        assert {heavy for _, heavy in runs} == {""}


def test_gradients_are_refused_instead_of_zero():
    weight = mx.ones((9, 3))

    def call(x):
        with tg.use_backend("emulator"):
            return tg.matmul(x, weight)

    with tg.use_gradients(False):
        with pytest.raises(ValueError, match="Not implemented for CustomKernel"):
            mx.grad(lambda x: call(x).sum())(mx.ones((5, 9)))
        with pytest.raises(ValueError, match="Not implemented for CustomKernel"):
            mx.jvp(call, [mx.ones((5, 9))], [mx.ones((5, 9))])

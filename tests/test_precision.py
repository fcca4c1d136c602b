"""TF32: MLX's switch is followed, and `precision="float32"` never goes where float32 is rounded."""

from __future__ import annotations

import itertools
from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from cases import price_of

import mlx_tilegemm as tg
from mlx_tilegemm.assurance.tuning.calls import mistake, workload
from mlx_tilegemm.cli import demo as demo_module
from mlx_tilegemm.cli import main
from mlx_tilegemm.core import mlx_ops
from mlx_tilegemm.core.caches import forget_prepared
from mlx_tilegemm.core.context import noting_problems
from mlx_tilegemm.core.dtypes import FLOAT32
from mlx_tilegemm.errors import BackendError, ProblemError
from mlx_tilegemm.families import family_of
from mlx_tilegemm.families.attention import fallback as attention_fallback
from mlx_tilegemm.families.attention.spelling import parse as attention_spec
from mlx_tilegemm.families.gemm import fallback as gemm_fallback
from mlx_tilegemm.families.gemm.spelling import parse as gemm_spec
from mlx_tilegemm.families.quantized.spelling import parse as quantized_spec
from mlx_tilegemm.machine import chips

F16, BF16, F32 = mx.float16, mx.bfloat16, mx.float32
ON_ACCELERATORS = [chip for chip in chips.CHIPS if chip.neural_fma_per_cycle]


def spec(*shape, dtype=F32):
    return tg.ArraySpec(shape=shape, dtype=dtype)


LARGE = spec(4096, 4096)
A, B, C = mx.ones((5, 7)), mx.ones((7, 3)), mx.ones((3,))
Q = mx.ones((1, 2, 5, 8))

X = mx.random.normal((5, 64), key=mx.random.key(1))
CODES = mx.quantize(mx.random.normal((32, 64), key=mx.random.key(2)), bits=4, group_size=32)
OF_CODES = {"bits": 4, "group_size": 32}

CALLS = {
    "quantized": lambda **options: tg.quantized_matmul(X, *CODES, **OF_CODES, **options),
    "matmul": lambda **options: tg.matmul(A, B, **options),
    "of a float16": lambda **options: tg.matmul(A.astype(F16), B, **options),
    "of an integer": lambda **options: tg.matmul(A, B.astype(mx.int8), **options),
    "addmm": lambda **options: tg.addmm(C, A, B, **options),
    "attention": lambda **options: tg.attention_chain(Q, Q, Q, **options),
    "attention of float16": lambda **options: tg.attention_chain(*[Q.astype(F16)] * 3, **options),
    "log-sum-exp": lambda **options: tg.attention_chain(Q, Q, Q, return_lse=True, **options)[1],
    "literal chain": lambda **options: tg.attention_chain(Q, Q, Q, softmax=False, **options),
}
WITHOUT_FLOAT32 = {
    "quantized float16": lambda **options: tg.quantized_matmul(
        X.astype(F16), CODES[0], *(x.astype(F16) for x in CODES[1:]), **OF_CODES, **options
    ),
    "float16 x bfloat16": lambda **options: tg.matmul(A.astype(F16), B.astype(BF16), **options),
    "float16": lambda **options: tg.matmul(A.astype(F16), B.astype(F16), **options),
    "integers": lambda **options: tg.matmul(A.astype(mx.int8), B.astype(mx.int8), **options),
    "addend": lambda **options: tg.addmm(C, A.astype(F16), B.astype(F16), **options),
    "no product": lambda **options: tg.addmm(C, A, B, 0.0, **options),
}


@pytest.fixture
def cuda(monkeypatch, nothing_asked):
    """Pretend that MLX runs on CUDA."""
    monkeypatch.delenv("MLX_ENABLE_TF32", raising=False)
    monkeypatch.setattr(mx.metal, "is_available", lambda: False)
    monkeypatch.setattr(mx.cuda, "is_available", lambda: True)
    # Whether NVRTC is there or not: no GPU is.
    monkeypatch.setattr("mlx_tilegemm.cuda.compiler.missing", lambda: "there is no GPU")
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu))


class TestAsking:
    @pytest.mark.parametrize("wrong", ["float16", "tf32", "", 32, mx.float32])
    def test_what_is_unknown_is_named(self, wrong):
        message = r"Expected precision to be None or 'float32', got "
        with pytest.raises(ProblemError, match=r"\[use_precision\] " + message):
            tg.use_precision(wrong)
        for name in ("matmul", "addmm", "attention", "quantized"):
            with pytest.raises(ProblemError, match=message):
                CALLS[name](precision=wrong)

    @pytest.mark.parametrize("name", ["matmul", "addmm", "attention", "quantized"])
    def test_an_op_and_a_block_state_the_same_problem(self, name):
        problems = []
        with tg.use_backend("mlx"), noting_problems(problems.append):
            CALLS[name](precision="float32")
            with tg.use_precision("float32"):
                CALLS[name]()
                with tg.use_precision(None):
                    CALLS[name]()
            CALLS[name]()
        # The last two calls are one and the same, which is prepared once.
        assert [problem.exact for problem in problems] == [True, True, False]
        assert problems[0] == problems[1]
        assert ["precision float32" in str(problem) for problem in problems[1:]] == [True, False]

    @pytest.mark.parametrize("exact", [pytest.param(True, marks=pytest.mark.slow), False])
    def test_derivatives_ask_for_what_the_call_asked_for(self, kernels, exact):
        x, w = mx.random.normal((9, 16)), mx.random.normal((16, 11))
        q = mx.random.normal((1, 2, 9, 16))
        precision = "float32" if exact else None
        problems = []
        with noting_problems(problems.append):
            total = lambda x, w: mx.sum(tg.matmul(x, w, precision=precision))  # noqa: E731
            mx.eval(mx.grad(total, (0, 1))(x, w), mx.jvp(total, [x, w], [x, w]))
            chain = lambda q: mx.sum(tg.attention_chain(q, q, q, precision=precision))  # noqa: E731
            mx.eval(mx.grad(chain)(q))
        kinds = {type(problem).__name__ for problem in problems}
        assert len(kinds) == 4
        weights = lambda x: mx.sum(  # noqa: E731
            tg.quantized_matmul(x, *CODES, **OF_CODES, precision=precision)
        )
        with noting_problems(problems.append):
            mx.eval(mx.grad(weights)(X))
        assert {problem.exact for problem in problems} == {exact}

    def test_explain_and_the_command_take_it(self, capsys):
        explanation = tg.explain("matmul", A, B, precision="float32")
        assert explanation.problem.exact
        shapes = ["1x2x5x8"] * 3
        assert main(["explain", "attention_chain", *shapes, "--precision", "float32"]) == 0
        assert main(["explain", "attention_chain", *shapes, "--precision", "half"]) == 2
        assert "Expected precision" in capsys.readouterr().err


class TestOnAccelerators:
    @pytest.mark.parametrize("chip", ["m5", "m5-max"])
    def test_reduced_products_compete_as_mlx_has_them(self, chip):
        default = tg.explain("matmul", LARGE, LARGE, chip=chip)
        assert default.route == "mlx"
        assert ", in TF32" in str(default.mlx)
        assert "modelled to be faster" in default.reason
        assert any("rounds float32 factors to TF32" in note for note in default.notes)
        exact = tg.explain("matmul", LARGE, LARGE, chip=chip, precision="float32")
        assert exact.route != "mlx"
        assert 'precision="float32" rules out' in exact.reason
        assert exact.mlx.seconds == default.mlx.seconds
        assert not any("TF32" in note for note in exact.notes)

    @pytest.fixture(autouse=True)
    def on_metal(self, nothing_asked):
        with tg.use_backend("auto"):
            yield

    @pytest.mark.parametrize("chip", ON_ACCELERATORS, ids=lambda chip: chip.name)
    def test_exact_products_never_go_where_float32_is_rounded(self, chip):
        seen = set()
        for m, dtypes in itertools.product((1, 64, 4096), itertools.product((F16, F32), repeat=2)):
            a, b = spec(m, 4096, dtype=dtypes[0]), spec(4096, 4096, dtype=dtypes[1])
            for precision in (None, "float32"):
                found = tg.explain("matmul", a, b, chip=chip, precision=precision)
                reduced = price_of(found.problem, chip).reduced
                seen.add((found.route == "mlx", reduced, precision))
        for length, dtype in itertools.product((1, 1024), (F16, F32)):
            q = spec(1, 32, length, 128, dtype=dtype)
            k = spec(1, 8, 1024, 128, dtype=dtype)
            for precision in (None, "float32"):
                found = tg.explain("attention_chain", q, k, k, chip=chip, precision=precision)
                reduced = price_of(found.problem, chip).reduced
                seen.add((found.route == "mlx", reduced, precision))
        assert (True, True, "float32") not in seen
        assert {(True, True, None), (False, True, "float32"), (True, False, "float32")} <= seen

    def test_quantized_products_too(self):
        w, scales = spec(4096, 512, dtype=mx.uint32), spec(4096, 128)
        arrays, options = (spec(512, 4096), w, scales, scales), {"bits": 4, "group_size": 32}
        problems = [
            tg.explain("quantized_matmul", *arrays, **options, chip="m5", precision=precision)
            for precision in (None, "float32")
        ]
        assert [price_of(one.problem, one.chip).reduced for one in problems] == [True, True]
        assert [one.mlx.reason is None for one in problems] == [True, False]
        assert problems[1].route != "mlx"

    def test_16_bits_lose_nothing_in_a_product(self):
        for dtypes in itertools.product((F16, BF16), repeat=2):
            a, b = (spec(4096, 4096, dtype=dtype) for dtype in dtypes)
            problem = tg.explain("matmul", a, b, chip="m5-max").problem
            assert not price_of(problem, chips.get("m5-max")).reduced

    def test_mlx_asked_for_on_such_a_mac_refuses(self, monkeypatch):
        monkeypatch.setattr(mx.metal, "is_available", lambda: True)
        monkeypatch.setattr(mx.cuda, "is_available", lambda: False)
        monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu))
        for name, raises in (("m5", True), ("m4", False)):
            chip = chips.get(name)
            monkeypatch.setattr("mlx_tilegemm.backends.rounding.detect", lambda c=chip: (c, None))
            tg.backends.rounding._gpu_rounds.cache_clear()
            with tg.use_backend("mlx"):
                if raises:
                    with pytest.raises(BackendError, match="multiplies float32 with all its bits"):
                        CALLS["matmul"](precision="float32")
                else:
                    assert mx.all(CALLS["matmul"](precision="float32") == 7).item()


@pytest.mark.usefixtures("cuda")
class TestOnCuda:
    @pytest.mark.parametrize("name", CALLS)
    def test_what_is_to_be_exact_is_refused(self, name):
        mx.eval(CALLS[name]())
        with pytest.raises(BackendError, match=r"MLX_ENABLE_TF32=0 before MLX starts, or pass"):
            CALLS[name](precision="float32")
        with tg.use_precision("float32"), pytest.raises(BackendError, match="round it to TF32"):
            CALLS[name]()

    @pytest.mark.parametrize("name", CALLS)
    def test_a_stream_of_the_cpu_is_exact(self, name):
        expected = CALLS[name](stream=mx.cpu)
        assert mx.array_equal(CALLS[name](precision="float32", stream=mx.cpu), expected)

    @pytest.mark.parametrize("name", CALLS)
    def test_so_is_all_where_the_switch_is_off(self, name, monkeypatch):
        monkeypatch.setenv("MLX_ENABLE_TF32", "0")
        mx.eval(CALLS[name](precision="float32"))

    @pytest.mark.parametrize("name", WITHOUT_FLOAT32)
    def test_so_are_products_without_float32(self, name):
        mx.eval(WITHOUT_FLOAT32[name](precision="float32"))

    def test_layers_ask_by_a_block(self):
        layers = [tg.nn.Linear(7, 3), nn.Linear(7, 3)]
        tg.patch(layers[1])
        for layer in layers:
            mx.eval(layer(A))
            with tg.use_precision("float32"), pytest.raises(BackendError, match="TF32"):
                layer(A)

    def test_derivatives_of_codes_scales_are_refused_too(self):
        def total(scales):
            with tg.use_backend("emulator"), tg.use_kernel("any"):
                return mx.sum(
                    tg.quantized_matmul(
                        X, CODES[0], scales, CODES[2], **OF_CODES, precision="float32"
                    )
                )

        with pytest.raises(BackendError, match="TF32"):
            mx.grad(total)(CODES[1])

    def test_derivatives_are_refused_too(self):
        with pytest.raises(BackendError, match="TF32"):
            mx.grad(lambda a: mx.sum(tg.matmul(a, B, precision="float32")))(A)

    def test_an_old_gpu_has_no_tf32(self, monkeypatch):
        monkeypatch.setattr(mx, "device_info", lambda: {"compute_capability_major": 7})
        mx.eval(CALLS["matmul"](precision="float32"))

    def test_explain_says_so(self, monkeypatch):
        def notes(**options):
            return " ".join(tg.explain("matmul", A, B, **options).notes)

        assert "MLX rounds float32 factors to TF32 on this GPU, as MLX_ENABLE_TF32 says" in notes()
        assert "so that the call raises an error" in notes(precision="float32")
        assert "TF32" not in notes(stream=mx.cpu)
        half = A.astype(F16), B.astype(F16)
        assert "TF32" not in " ".join(tg.explain("matmul", *half).notes)
        monkeypatch.setenv("MLX_ENABLE_TF32", "0")
        tg.backends.rounding._gpu_rounds.cache_clear()
        assert "TF32" not in notes()


def cut(x, bits=13):
    """Return a float32 array with the bits that TF32 has not, or more, set to 0, as an M5 does."""
    if x.dtype != F32:
        return x
    kept = np.array(x).view(np.uint32) & np.uint32(0x100000000 - (1 << bits))
    return mx.array(kept.view(np.float32))


PROBLEMS = [
    gemm_spec("33x40x65:f32"),
    gemm_spec("33x40x65:f16,f32"),
    gemm_spec("1x40x65:f32:nt"),
    attention_spec("1x4x2x33x65x64:f32:causal"),
    attention_spec("1x4x2x33x65x64:f16,bf16,f32"),
    quantized_spec("33x40x128:f32:affine4x64"),
]


class TestBounds:
    @pytest.mark.usefixtures("cuda")
    @pytest.mark.parametrize("problem", PROBLEMS, ids=str)
    def test_they_know_what_mlx_rounds_and_no_more(self, problem):
        work = workload(problem)
        run = family_of(problem).fallback(problem)

        def results(change):
            return run([change(x) for x in work.operands], work.factors, mx.cpu)

        right, rounded = results(lambda x: x), results(cut)
        far = results(lambda x: cut(x, bits=20))
        assert mistake(work, right) is None
        assert mistake(work, rounded) is not None, "a kernel may not round"
        assert mistake(work, rounded, by_mlx=True) is None
        assert mistake(work, far, by_mlx=True) is not None

    @pytest.mark.usefixtures("cuda")
    @pytest.mark.parametrize("switch", ["1", "0"])
    def test_weights_may_be_rounded_to_the_operands_type(self, monkeypatch, switch):
        monkeypatch.setenv("MLX_ENABLE_TF32", switch)
        work = workload(attention_spec("1x4x4x33x65x64:bf16"))
        q, k, v = (x.astype(F32) for x in work.operands)
        weights = mx.softmax(work.factors[0] * q @ k.swapaxes(-1, -2), axis=-1)
        outputs = [(weights.astype(BF16).astype(F32) @ v).astype(BF16)]
        mx.eval(outputs)
        assert mistake(work, outputs) is not None, "a kernel may not"
        assert mistake(work, outputs, by_mlx=True) is None
        far = [(cut(weights, bits=21) @ v).astype(BF16)]
        assert mistake(work, far, by_mlx=True) is not None

    @pytest.mark.parametrize("exact", [False, True])
    def test_quantized_weights_may_be_rounded_to_16_bits(self, exact):
        """MLX's kernels of a GPU decode to the type of x, whatever is asked of float32."""
        work = workload(quantized_spec("33x40x128:f16:affine4x64"))
        x, *quantized = work.operands
        weight = mx.dequantize(*quantized, group_size=64, bits=4).astype(mx.float16)
        outputs = [(x.astype(F32) @ weight.astype(F32).T).astype(mx.float16)]
        mx.eval(outputs)
        asked = replace(work, problem=replace(work.problem, exact=exact))
        assert mistake(asked, outputs) is not None, "a kernel may not"
        assert mistake(asked, outputs, by_mlx=True) is None
        far = [(x.astype(F32) @ cut(weight.astype(F32), bits=18).T).astype(mx.float16)]
        assert mistake(asked, far, by_mlx=True) is not None

    @pytest.mark.usefixtures("cuda")
    def test_exact_calls_are_held_to_all_bits(self, monkeypatch):
        work = workload(gemm_spec("33x40x65:f32"))
        outputs = gemm_fallback.gemm(work.problem)([*map(cut, work.operands)], work.factors, mx.cpu)
        assert mistake(work, outputs, by_mlx=True) is None
        exact = type(work)(
            problem=tg.explain("matmul", spec(33, 65), spec(65, 40), precision="float32").problem,
            operands=work.operands,
            factors=work.factors,
        )
        assert exact.problem.a is FLOAT32
        assert mistake(exact, outputs, by_mlx=True) is not None
        monkeypatch.setenv("MLX_ENABLE_TF32", "0")
        tg.backends.rounding._gpu_rounds.cache_clear()
        assert mistake(work, outputs, by_mlx=True) is not None


class TestDemo:
    @pytest.fixture(autouse=True)
    def rounding(self, monkeypatch):
        """Round float32 operands of MLX's route, as MLX does on M5 and CUDA."""
        forget_prepared()
        for module, name in ((gemm_fallback, "gemm"), (attention_fallback, "attention")):
            plain = getattr(module, name)

            def rounded(problem, plain=plain):
                run = plain(problem)
                return lambda operands, *rest: run([*map(cut, operands)], *rest)

            monkeypatch.setattr(module, name, rounded)
        # Of what is MLX's op as it is, no call is prepared.
        for name in ("matmul", "scaled_dot_product_attention"):
            op = getattr(mlx_ops, name)
            monkeypatch.setattr(mlx_ops, name, lambda *xs, op=op, **rest: op(*map(cut, xs), **rest))
        yield
        forget_prepared()

    @pytest.mark.parametrize("backend", ["auto", "mlx"])
    def test_it_is_right_on_cuda(self, cuda, capsys, backend):
        assert main(["demo", "--backend", backend]) == 0
        printed = capsys.readouterr().out
        assert printed.count("\n  right") == 2
        assert printed.count("of what rounding to TF32 allows") == 2

    def test_and_notices_such_errors_elsewhere(self, capsys):
        assert main(["demo", "--backend", "mlx"]) == 1
        assert capsys.readouterr().out.count("\n  WRONG") == 2

    def test_bounds_are_tight_enough_to_mean_something(self):
        for case in demo_module.cases():
            typical = mx.mean(mx.abs(case.expected)).item()
            assert mx.max(case.rounded_bound).item() < 0.1 * typical

"""The command, called as a function."""

import mlx.core as mx
import pytest

import mlx_tilegemm as tg
from mlx_tilegemm.cli import demo as demo_module
from mlx_tilegemm.cli import main
from mlx_tilegemm.core import caches, mlx_ops

PRODUCT = ["matmul", "100x300", "70x300", "--transpose-b"]


class TestExplain:
    def test_prints_what_explain_says(self, capsys):
        assert main(["explain", *PRODUCT, "--dtypes", "float16,float32", "--chip", "m1"]) == 0
        x = tg.ArraySpec(shape=(100, 300), dtype=mx.float16)
        w = tg.ArraySpec(shape=(70, 300), dtype=mx.float32)
        expected = str(tg.explain("matmul", x, w, transpose_b=True, chip="m1"))
        assert capsys.readouterr().out == expected + "\n"

    def test_every_option_reaches_the_call(self, capsys):
        options = "--mask 16x16:bool --no-softmax --scale 0.5 --out-dtype float16 --kernel mlx"
        shapes = ["1x2x16x64"] * 3
        assert main(["explain", "attention_chain", *shapes, *options.split()]) == 0
        printed = capsys.readouterr().out
        said = "mask bool [16, 16], scale=0.5, softmax=False, out_dtype=float16 -> float16"
        assert said in printed
        assert "MLX's own ops were asked for" in printed
        assert main(["explain", "addmm", "7", "5x9", "9x7", "--alpha", "2", "--beta", "0"]) == 0


class TestRender:
    @pytest.mark.parametrize("chip", ["m1", "m4"])
    def test_prints_the_whole_text(self, capsys, chip):
        assert main(["render", *PRODUCT, "--dtypes", "bfloat16", "--chip", chip]) == 0
        x = tg.ArraySpec(shape=(100, 300), dtype=mx.bfloat16)
        w = tg.ArraySpec(shape=(70, 300), dtype=mx.bfloat16)
        explanation = tg.explain("matmul", x, w, transpose_b=True, chip=chip)
        printed = capsys.readouterr().out
        assert printed == explanation.text + "\n"
        assert f"void custom_kernel_{explanation.source.name}_bfloat16_t_bfloat16_t" in printed

    def test_prints_a_text_even_where_mlx_is_faster(self, capsys):
        product = ["matmul", "2048x2048", "2048x2048", "--dtypes", "float16", "--chip", "m5-max"]
        assert main(["explain", *product]) == 0
        assert "route    mlx" in capsys.readouterr().out
        assert main(["render", *product]) == 0
        assert "[[kernel]]" in capsys.readouterr().out

    def test_large_problems_need_no_memory(self, capsys):
        assert main(["render", "matmul", "1000000x8192", "8192x1000000"]) == 0
        assert "[[kernel]]" in capsys.readouterr().out

    def test_says_when_no_kernel_serves(self, capsys):
        assert main(["render", "attention_chain", *["1x1x70x600"] * 3]) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "no kernel serves this" in captured.err


class TestWrongCalls:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["matmul", "100x300", "70x300"], "inner sizes"),
            (["matmul", "100y300", "70x300"], "sizes like 100x300"),
            ([*PRODUCT, "--dtypes", "half"], "float16 (f16), bfloat16 (bf16), int32"),
            (
                [*PRODUCT, "--dtypes", "bool,i8"],
                "floating point or integer operands, got a of bool",
            ),
            ([*PRODUCT, "--dtypes", "float16,int8,int8"], "dtype for each of 2 arrays"),
            (["matmul", "3000000000x5", "5x7"], "from 0 to 2147483647, got (3000000000,5)"),
            (["attention_chain", *["1x1x5x8"] * 3, "--sinks", "1"], "got ''"),
            (["attention_chain", *["1x1x5x8"] * 3, "--mask", "full"], "got 'full'"),
            ([*PRODUCT, "--mask", "causal"], "unexpected keyword argument 'mask'"),
            ([*PRODUCT, "--kernel", "attention_chain"], "attention"),
        ],
    )
    def test_are_told_in_one_line(self, capsys, arguments, message):
        assert main(["explain", *arguments]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("mlx-tilegemm: [")
        assert message in captured.err

    def test_unknown_words_end_in_usage(self, capsys):
        for arguments in ([], ["bench"], ["explain", *PRODUCT, "--chip", "m0"]):
            with pytest.raises(SystemExit) as end:
                main(arguments)
            assert end.value.code == 2
        assert "usage: mlx-tilegemm" in capsys.readouterr().err


def forget_calls():
    caches.forget_prepared()


@pytest.fixture
def on_mlx():
    with tg.use_backend("mlx"):
        yield


@pytest.mark.parametrize(
    ("options", "backend"),
    [
        ([], "metal" if mx.metal.is_available() else "emulator"),
        (["--backend", "auto"], "metal" if mx.metal.is_available() else "mlx"),
        (["--backend", "mlx"], "mlx"),
    ],
)
def test_the_demo_shows_kernels_unless_others_are_asked_for(monkeypatch, capsys, options, backend):
    monkeypatch.setattr(mx.cuda, "is_available", lambda: False)
    with tg.use_backend("auto"):
        assert main(["demo", *options]) == 0
    assert capsys.readouterr().out.count(f"backend  {backend}: ") == 2


@pytest.mark.usefixtures("on_mlx")
class TestDemo:
    def test_runs_and_checks(self, capsys):
        assert main(["demo"]) == 0
        printed = capsys.readouterr().out
        assert printed.startswith("machine  ")
        assert printed.count("\n  right") == 2
        assert printed.count("backend  mlx") == 2

    @pytest.fixture
    def fresh_calls(self):
        """Prepare calls anew, before and after: they hold on to the route they were made with."""
        forget_calls()
        yield
        forget_calls()

    @pytest.mark.usefixtures("fresh_calls")
    @pytest.mark.parametrize("wrong", ["matmul", "scaled_dot_product_attention"])
    @pytest.mark.parametrize("spoil", [lambda x: x + 1e-3, lambda x: x * mx.nan])
    def test_wrong_results_fail(self, capsys, monkeypatch, wrong, spoil):
        right = getattr(mlx_ops, wrong)
        monkeypatch.setattr(mlx_ops, wrong, lambda *given, **more: spoil(right(*given, **more)))
        assert main(["demo"]) == 1
        printed = capsys.readouterr().out
        assert printed.count("\n  right") == printed.count("\n  WRONG") == 1

    def test_bounds_are_tight_enough_to_mean_something(self):
        for case in demo_module.cases():
            typical = mx.mean(mx.abs(case.expected)).item()
            assert mx.max(case.bound).item() < 0.01 * typical

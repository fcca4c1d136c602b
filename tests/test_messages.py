"""The command line and explanations: one spelling of everything, and errors that name values."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version

import mlx.core as mx
import pytest

import mlx_tilegemm as tg
from mlx_tilegemm.cli import main
from mlx_tilegemm.dispatch import RESOLUTION
from mlx_tilegemm.errors import DTypeError, IllegalKernelError, ProblemError
from mlx_tilegemm.machine.chips import CHIPS, get

PRODUCT = ["matmul", "5x300", "70x300", "--transpose-b"]
A = tg.ArraySpec(shape=(5, 300), dtype=mx.float16)
B = tg.ArraySpec(shape=(300, 70), dtype=mx.float16)


def printed(capsys, *arguments):
    assert main([*arguments]) == 0
    return capsys.readouterr().out


def refused(capsys, *arguments):
    assert main([*arguments]) == 2
    return capsys.readouterr().err


class TestSpelling:
    def test_dtypes_are_long_or_short_everywhere(self, capsys):
        texts = {
            printed(capsys, "explain", *PRODUCT, "--dtypes", dtypes, "--out-dtype", out)
            for dtypes in ("float16,float32", "f16,f32", "F16,Float32")
            for out in ("bfloat16", "bf16")
        }
        assert len(texts) == 1
        texts = {
            printed(capsys, "tune", "--dry-run", "--matmul", f"5x70x300:{dtypes}")
            for dtypes in ("float16,float32", "f16,f32")
        }
        assert len(texts) == 1

    @pytest.mark.parametrize(
        ("short", "long"), [("u64", "uint64"), ("c64", "complex64"), ("bool", "bool")]
    )
    def test_dtypes_that_only_mlx_takes(self, capsys, short, long):
        text = printed(capsys, "explain", *PRODUCT, "--dtypes", f"{short},f32")
        assert f"a {long} [5, 300]" in text

    @pytest.mark.parametrize("name", ["M4-Max", "m4 max", "M4 MAX"])
    def test_chips_are_in_capitals_or_not(self, capsys, name):
        assert get(name).name == "m4-max"
        assert "chip     m4-max\n" in printed(capsys, "explain", *PRODUCT, "--chip", name)

    def test_version(self, capsys):
        with pytest.raises(SystemExit) as end:
            main(["--version"])
        assert end.value.code == 0
        assert capsys.readouterr().out == f"mlx-tilegemm {version('mlx_tilegemm')}\n"
        assert tg.__version__ == version("mlx_tilegemm")
        assert "__version__" in dir(tg)


class TestErrorsNameTheValues:
    def test_dtypes(self, capsys):
        text = refused(capsys, "explain", *PRODUCT, "--dtypes", "half")
        assert "float16 (f16)" in text
        assert text.endswith("bool, got 'half'.\n")

    def test_chips(self, capsys):
        with pytest.raises(SystemExit):
            main(["explain", *PRODUCT, "--chip", "m0"])
        text = capsys.readouterr().err
        assert all(f"'{chip.name}'" in text or chip.name in text for chip in CHIPS)

    def test_kernels(self, capsys):
        assert "gemm_split_k, gemm_scalar" in refused(capsys, "verify", "--kernel", "nope")
        assert "gemv/4x4-8" in refused(capsys, "explain", *PRODUCT, "--kernel", "gemv/9x9")
        assert "gemv/4x4-8" in refused(capsys, "verify", "--kernel", "gemv/9x9")
        with tg.use_kernel("nope"), pytest.raises(IllegalKernelError, match=r"any, mlx, or kernel"):
            tg.explain(tg.matmul, A, B)

    def test_shapes_that_nobody_recorded(self, capsys, tmp_path):
        path = tmp_path / "README.md"
        path.write_text("# Words")
        text = refused(capsys, "tune", "--shapes", str(path), "--dry-run")
        assert "JSON that mlx_tilegemm.record() saved" in text
        assert "README.md, which is no JSON." in text

    def test_ops_of_others(self):
        with pytest.raises(ProblemError, match=r"of mlx_tilegemm, or its name, got mlx\.core\.mat"):
            tg.explain(mx.matmul, A, B)
        with pytest.raises(ProblemError, match="got 'product'"):
            tg.explain("product", A, B)

    def test_shapes_alone(self):
        with pytest.raises(DTypeError, match=r"ArraySpec\(shape=\(5, 300\), dtype=mx.float32\)"):
            tg.explain("matmul", (5, 300), (300, 70))


def test_a_reader_may_stop():
    command = (
        f"{sys.executable} -m mlx_tilegemm render {' '.join(PRODUCT)} | head -1; echo $PIPESTATUS"
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] in ("141", "0")  # 0 where all fitted into the pipe


class Closed:
    def write(self, text):
        raise BrokenPipeError

    def flush(self):
        raise BrokenPipeError

    def fileno(self):
        return self.file.fileno()


def test_a_closed_output_ends_the_command_quietly(monkeypatch, tmp_path, capsys):
    closed = Closed()
    with (tmp_path / "output").open("w") as closed.file:
        monkeypatch.setattr(sys, "stdout", closed)
        assert main(["explain", *PRODUCT]) == 141
    assert capsys.readouterr().err == ""


class TestExplanations:
    def test_modelled_times_have_two_digits(self):
        explanation = tg.explain(tg.matmul, A, B, chip="m4")
        text = str(explanation)
        for one in explanation.candidates:
            if one.seconds is None:
                continue
            (line,) = (x for x in text.splitlines() if f" {one} " in x)
            time = float(line.rpartition(" us")[0].rpartition(" ")[2])
            assert time == float(f"{one.seconds * 1e6:.2g}")
            assert "e+" not in line

    def test_a_tie_is_marked(self):
        w = tg.ArraySpec(shape=(600, 300), dtype=mx.float32)
        explanation = tg.explain(tg.matmul, A, w, transpose_b=True, chip="m4")
        times = {str(one): one.seconds for one in explanation.candidates if one.seconds}
        tied = {x for x, time in times.items() if time <= RESOLUTION * min(times.values())}
        assert {*explanation.tied, str(explanation.plan)} == tied
        assert len(tied) > 1
        lines = str(explanation).splitlines()
        assert {x.split()[1] for x in lines if x.startswith("  = ")} == {*explanation.tied}
        assert f"declared before {len(tied) - 1} that tie with it" in explanation.reason

    def test_without_a_tie_there_is_no_word_of_one(self):
        large = tg.ArraySpec(shape=(1, 4096), dtype=mx.float16)
        weights = tg.ArraySpec(shape=(4096, 4096), dtype=mx.float16)
        explanation = tg.explain(tg.matmul, large, weights, chip="m4", transpose_b=True)
        assert bool(explanation.tied) == ("tie" in explanation.reason)
        assert ("  = " in str(explanation)) == bool(explanation.tied)

    def test_views_are_a_matter_of_untransposed_operands(self):
        transposed = tg.ArraySpec(shape=(70, 300), dtype=mx.float16)
        assert "w.T" in str(tg.explain(tg.matmul, A, B))
        assert "w.T" not in str(tg.explain(tg.matmul, A, transposed, transpose_b=True))

    @pytest.mark.parametrize(
        ("op", "operands"),
        [
            ("matmul", (A, B)),
            ("addmm", (A, A, tg.ArraySpec(shape=(300, 300), dtype=mx.int8))),
            ("attention_chain", [tg.ArraySpec(shape=(1, 2, 16, 64), dtype=mx.float32)] * 3),
        ],
    )
    def test_as_a_dictionary(self, op, operands):
        explanation = tg.explain(op, *operands, chip="m1")
        plain = explanation.to_dict()
        assert json.loads(json.dumps(plain)) == plain
        assert plain["chip"] == "m1"
        assert plain["route"] == explanation.route
        assert plain["reason"] == explanation.reason
        assert plain["plan"] == (str(explanation.plan) if explanation.plan else None)
        assert len(plain["candidates"]) == len(explanation.candidates)
        assert [one["seconds"] for one in plain["candidates"]] == [
            one.seconds for one in explanation.candidates
        ]
        assert [*plain["operands"]] == [*explanation.operands]

    def test_as_json(self, capsys):
        text = printed(capsys, "explain", *PRODUCT, "--chip", "m2", "--json")
        b = tg.ArraySpec(shape=(70, 300), dtype=mx.float32)
        a = tg.ArraySpec(shape=(5, 300), dtype=mx.float32)
        expected = tg.explain("matmul", a, b, transpose_b=True, chip="m2")
        assert json.loads(text) == expected.to_dict()


X, INT = mx.zeros((4, 64)), mx.zeros((4, 4), dtype=mx.int64)
W, SCALES, BIASES = mx.quantize(mx.ones((8, 64)))
WRONG_DTYPES = {
    "codes": lambda ops: ops.quantized_matmul(X, W.astype(mx.int32), SCALES, BIASES),
    "scales": lambda ops: ops.quantized_matmul(X, W, *[SCALES.astype(mx.int32)] * 2),
    "scales of codes": lambda ops: ops.quantized_matmul(X, W, SCALES, mode="mxfp8"),
    "integers": lambda ops: ops.matmul(INT, INT),
    "indices": lambda ops: ops.gather_mm(X[None], X.T[None], rhs_indices=mx.array([0.5])),
    "segments": lambda ops: ops.segmented_mm(X, X.T, mx.array([[0.0, 1.0]])),
    "no array": lambda ops: ops.matmul(X, None),
}


@pytest.mark.parametrize("name", WRONG_DTYPES)
def test_dtypes_are_refused_with_errors_of_the_kind_that_mlx_raises(name):
    with pytest.raises((TypeError, ValueError)) as refused:
        WRONG_DTYPES[name](mx)
    with pytest.raises(refused.type, match=r"^\[\w+\]"):
        WRONG_DTYPES[name](tg)

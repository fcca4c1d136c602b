"""`explain` says what a call would do; here it must agree with what the call does."""

import itertools

import mlx.core as mx
import numpy as np
import pytest

import mlx_tilegemm as tg
from mlx_tilegemm import ArraySpec
from mlx_tilegemm.backends.emulator import EmulatorBackend
from mlx_tilegemm.dispatch import RESOLUTION, microseconds, preferred
from mlx_tilegemm.errors import DTypeError, IllegalKernelError, ProblemError
from mlx_tilegemm.families.attention.problem import AttentionProblem
from mlx_tilegemm.families.gemm.problem import GemmProblem
from mlx_tilegemm.machine.chips import CHIPS, get


def spec(*shape, dtype=mx.float32):
    return ArraySpec(shape=shape, dtype=dtype)


X, W = spec(100, 300, dtype=mx.float16), spec(70, 300)
Q, K = spec(1, 8, 128, 64, dtype=mx.float16), spec(1, 2, 128, 64, dtype=mx.bfloat16)


@pytest.fixture(autouse=True)
def on_emulator():
    with tg.use_backend("emulator"):
        yield


def calls():
    """Yield calls of all kinds: an op, its arrays and its options."""
    half, single = mx.float16, mx.float32
    for m, n, k in ((1, 4096, 4096), (8, 64, 512), (64, 1000, 14336), (2048, 2048, 2048)):
        for a, b in ((half, half), (single, single), (half, single)):
            x, w, c = spec(m, k, dtype=a), spec(n, k, dtype=b), spec(n, dtype=b)
            for precision in (None, "float32"):
                options = {"transpose_b": True, "precision": precision}
                yield tg.matmul, (x, w), options
                yield tg.addmm, (c, x, w), options
        yield tg.matmul, (spec(4, m, k), spec(4, k, n)), {}
    exact = {"precision": "float32"}
    options = ({}, exact, {"mask": "causal"} | exact, {"mask": "causal", "window": 128})
    for (rows, keys), dim in itertools.product(((1, 16384), (5, 700), (1500, 3000)), (64, 256)):
        for q, kv in ((half, half), (half, single)):
            arrays = [spec(1, 16, rows, dim, dtype=q), *[spec(1, 4, keys, dim, dtype=kv)] * 2]
            mask = {"mask": spec(rows, keys, dtype=mx.bool_)}
            for given in (*options, mask, {"return_lse": True}):
                yield tg.attention_chain, arrays, given


CALLS = list(calls())
QUICK = ("m1", "m4-max", "m5-max")
CHIP_CASES = [
    pytest.param(chip, id=chip.name, marks=[] if chip.name in QUICK else pytest.mark.slow)
    for chip in CHIPS
]


class TestFacts:
    def test_a_product(self):
        explanation = tg.explain(tg.matmul, X, W, transpose_b=True, chip="m1")
        assert isinstance(explanation.problem, GemmProblem)
        assert (explanation.problem.m, explanation.problem.n, explanation.problem.k) == (
            100,
            70,
            300,
        )
        assert explanation.problem.out_shape == (100, 70)
        assert explanation.backend == "emulator"
        assert explanation.chip is get("m1")
        assert explanation.route == explanation.plan.kernel
        assert explanation.source.input_names == explanation.plan.stages[0].spec.input_names

    def test_an_addend_and_its_factors(self):
        plain = tg.explain(tg.addmm, spec(70), X, W, transpose_b=True)
        scaled = tg.explain(tg.addmm, spec(70), X, W, transpose_b=True, alpha=0.5)
        assert plain.problem.c_columns
        assert not plain.problem.c_rows
        assert (plain.problem.scaled, scaled.problem.scaled) == (False, True)

    def test_an_attention(self):
        explanation = tg.explain("attention_chain", Q, K, K, mask="causal", return_lse=True)
        assert isinstance(explanation.problem, AttentionProblem)
        assert explanation.problem.return_lse
        assert explanation.route == "attention_chain"
        masked = tg.explain("attention_chain", Q, K, K, mask=spec(128, 128, dtype=mx.bool_))
        assert "mask" in masked.source.input_names

    def test_names_functions_and_arrays_are_alike(self):
        arrays = [mx.zeros(one.shape, dtype=one.dtype) for one in (X, W)]
        by_array = tg.explain("matmul", *arrays, transpose_b=True)
        by_spec = tg.explain(tg.matmul, X, W, transpose_b=True)
        assert by_array == by_spec

    def test_every_candidate_has_a_time_or_a_reason(self):
        for chip in CHIPS:
            explanation = tg.explain(tg.matmul, X, W, transpose_b=True, chip=chip)
            legal = [one for one in explanation.candidates if one.reason is None]
            assert all((one.seconds is None) == (one.reason is not None) for one in legal)
            assert explanation.plan == preferred(legal, explanation.mlx).plan
            assert explanation.mlx.seconds > 0
            assert f"{explanation.mlx} " in str(explanation)
            kernels = {one.kernel for one in explanation.candidates}
            assert {"gemm_simdgroup", "gemm_scalar"} <= kernels

    @pytest.mark.parametrize("chip", CHIPS, ids=lambda chip: chip.name)
    def test_no_chip_is_planned_for_with_what_is_slower_there_than_mlx(self, chip):
        half, single = mx.float16, mx.float32
        left = []
        for m, n, k, a, b in itertools.product(
            (1, 33), (64, 1000), (512, 14336), (half, single), (half, single)
        ):
            one = tg.explain("matmul", spec(m, k, dtype=a), spec(k, n, dtype=b), chip=chip.name)
            left.append(one.plan is None)
            if one.plan is None:
                assert one.route == "mlx"
                assert "MLX's own ops are modelled to be faster" in one.reason
            elif one.decision.mlx_competes:
                (ours,) = [x for x in one.candidates if str(x) == str(one.plan)]
                assert ours.seconds <= RESOLUTION * one.mlx.seconds
        assert any(left)
        assert not all(left)

    @pytest.mark.parametrize("chip", CHIP_CASES)
    def test_what_is_chosen_for_a_chip_is_no_slower_than_mlx_beyond_a_tie(self, chip):
        routes = set()
        for op, arrays, options in CALLS:
            one = tg.explain(op, *arrays, **options, chip=chip)
            assert one.mlx.seconds > 0
            assert one.decision.mlx_competes is (one.mlx.reason is None)
            routes.add(one.route == "mlx")
            side = f"ours {microseconds(one.ours)}" if one.ours else "no kernel of ours"
            line = f"  times    {side} modelled, MLX's {microseconds(one.mlx)} modelled"
            assert line in str(one).splitlines()
            assert one.to_dict()["ours"]["seconds"] == one.ours.seconds
            if one.route == "mlx":
                assert RESOLUTION * one.mlx.seconds < one.ours.seconds
                assert one.mlx.reason is None
            elif one.mlx.reason is None:
                assert str(one.ours) == str(one.plan)
                assert one.ours.seconds <= RESOLUTION * one.mlx.seconds
            else:
                assert options["precision"] == "float32"
                assert chip.neural_fma_per_cycle
        assert routes >= {False}

    @pytest.mark.parametrize(("a", "b"), list(itertools.product((1, 9, 200), repeat=2)))
    def test_the_op_launches_the_kernel_that_was_named(self, a, b):
        launched = []

        class Recorder(EmulatorBackend):
            def compile(self, source):
                def run(*, output_shapes, output_dtypes, **launch):
                    launched.append((source, launch["grid"], launch["threadgroup"]))
                    return [mx.zeros(output_shapes[0], dtype=output_dtypes[0])]

                return run

        x, w = mx.zeros((a, 40), dtype=mx.bfloat16), mx.zeros((40, b))
        plan = tg.explain(tg.matmul, x, w).plan
        source = tg.explain(tg.matmul, x, w).source
        with tg.use_backend(Recorder()):
            tg.matmul(x, w)
        assert launched == [(source, plan.stages[0].launch.grid, plan.stages[0].launch.threadgroup)]


class TestRoutesToMlx:
    def test_by_dtype(self):
        explanation = tg.explain(tg.matmul, spec(9, 9, dtype=mx.complex64), spec(9, 9))
        assert explanation.route == "mlx"
        assert (
            explanation.problem
            is explanation.plan
            is explanation.source
            is explanation.text
            is None
        )
        assert "complex64" in explanation.reason

    def test_by_size(self):
        explanation = tg.explain(tg.attention_chain, *[spec(1, 1, 70, 600)] * 3)
        assert explanation.route == "mlx"
        assert "above 512" in explanation.reason
        assert any(f"{4 * 70 * 70} bytes" in note for note in explanation.notes)

    def test_by_backend(self):
        with tg.use_backend("mlx"):
            explanation = tg.explain(tg.matmul, X, W, transpose_b=True)
        assert (explanation.route, explanation.backend) == ("mlx", "mlx")
        assert "asked for" in explanation.reason
        assert explanation.plan is not None, "what a kernel would do is still told"
        assert any("cast operands" in note for note in explanation.notes)

    def test_for_want_of_a_gpu(self, monkeypatch):
        monkeypatch.setattr(mx.metal, "is_available", lambda: False)
        monkeypatch.setattr(mx.cuda, "is_available", lambda: False)
        with tg.use_backend("auto"):
            here = tg.explain(tg.matmul, X, W, transpose_b=True)
            there = tg.explain(tg.matmul, X, W, transpose_b=True, chip="m1")
            on_a_cpu = tg.explain(tg.matmul, X, W, transpose_b=True, chip="m1", stream=mx.cpu)
        assert (here.route, here.backend) == ("mlx", "mlx")
        assert here.reason == "MLX's own ops serve: no Metal GPU is here"
        assert (there.route, there.backend) == (there.plan.kernel, "metal"), "a chip is a Mac's"
        assert (on_a_cpu.route, on_a_cpu.backend) == ("mlx", "mlx")

    def test_by_stream(self, monkeypatch):
        monkeypatch.setattr(mx.metal, "is_available", lambda: True)
        with tg.use_backend("auto"):
            explanation = tg.explain(tg.matmul, X, W, transpose_b=True, stream=mx.cpu, chip="m4")
        assert explanation.route == "mlx"
        assert "the call's stream is on the CPU" in explanation.reason


class TestNotes:
    def test_copies_of_views(self):
        assert any(
            "transpose_b=True" in note
            for note in tg.explain(
                tg.matmul, X, X.__class__(shape=(300, 70), dtype=mx.float32)
            ).notes
        )

    def test_folded_and_gridded_batches(self):
        folded = tg.explain(tg.matmul, spec(4, 25, 300), W, transpose_b=True)
        assert any("folded into 100 rows" in note for note in folded.notes)
        gridded = tg.explain(tg.matmul, spec(4, 25, 300), spec(4, 300, 70))
        assert any("4 products" in note for note in gridded.notes)

    def test_rows_with_nothing_to_attend_to(self):
        short = spec(1, 2, 64, 64)
        longer = tg.explain(tg.attention_chain, Q, short, short, mask="causal")
        equal = tg.explain(tg.attention_chain, Q, K, K, mask="causal")
        assert any("nothing to attend to" in note for note in longer.notes)
        assert not any("nothing to attend to" in note for note in equal.notes)


class TestText:
    def test_says_it_all(self):
        explanation = tg.explain(tg.matmul, X, W, transpose_b=True, chip="m1")
        text = str(explanation)
        assert "b float32 [70, 300], transpose_b=True -> float32 [100, 70]" in text
        assert "m1" in text
        assert f"* {explanation.plan}" in text
        assert all(str(one) in text for one in explanation.candidates if one.reason is None)
        assert f"{explanation.plan.stages[0].resources.threadgroup_bytes} bytes" in text

    def test_refusals_are_told(self):
        text = str(tg.explain(tg.matmul, spec(9, 9, dtype=mx.int8), spec(9, 9, dtype=mx.int8)))
        reasons = {
            one.reason
            for one in tg.explain(
                tg.matmul, spec(9, 9, dtype=mx.int8), spec(9, 9, dtype=mx.int8)
            ).candidates
            if one.reason
        }
        assert reasons
        assert all(f"refused: {reason}" in text for reason in reasons)

    def test_mlx_is_told_why_it_is_not_taken_too(self):
        square = spec(2048, 2048, dtype=mx.float32)
        explanation = tg.explain(tg.matmul, square, square, chip="m5-max", precision="float32")
        assert explanation.route == "gemm_simdgroup"
        last = str(explanation).splitlines()[-1]
        assert f"{float(f'{explanation.mlx.seconds * 1e6:.2g}'):g} us" in last
        assert f"refused: {explanation.mlx.reason}" in last
        assert explanation.reason.endswith(explanation.mlx.reason)

    @pytest.mark.parametrize(("head_dim", "holds"), [(128, False), (512, True)])
    def test_scores_in_memory_are_told_where_mlx_does_not_fuse(self, head_dim, holds):
        q = spec(1, 8, 2048, head_dim, dtype=mx.float16)
        with tg.use_kernel("mlx"):
            explanation = tg.explain(tg.attention_chain, q, q, q, chip="m4-max")
        assert explanation.route == "mlx"
        assert any("hold all scores" in note for note in explanation.notes) is holds

    def test_calls_without_candidates_are_told_too(self):
        assert "route    mlx" in str(tg.explain(tg.matmul, spec(9, 70, dtype=mx.complex64), W))

    def test_nothing_is_evaluated(self):
        def explained(x):
            assert tg.explain(tg.matmul, x, x).text
            return x

        mx.compile(explained)(mx.zeros((16, 16)))


class TestRefusals:
    @pytest.mark.parametrize("op", ["multiply", mx.matmul, len])
    def test_other_ops(self, op):
        with pytest.raises(ProblemError, match="matmul, addmm, attention_chain"):
            tg.explain(op, X, W)

    def test_what_the_op_refuses(self):
        with pytest.raises(ProblemError, match="inner sizes"):
            tg.explain(tg.matmul, X, W)
        with pytest.raises(DTypeError, match="got list"):
            tg.explain(tg.matmul, X, [1.0])
        with pytest.raises(
            DTypeError, match=r"\[matmul\] Expected arguments among a, b, .*keyword argument 'mask'"
        ):
            tg.explain(tg.matmul, X, W, mask="causal")
        with pytest.raises(DTypeError, match=r"among a, b, .*: missing a required argument: 'b'"):
            tg.explain(tg.matmul, X)

        with pytest.raises(DTypeError, match=r"Expected b to be an mlx\.core\.array, got NoneType"):
            tg.explain(tg.matmul, X, None)
        with pytest.raises(DTypeError, match=r"Expected sinks to be an mlx\.core\.array, got str"):
            tg.explain(tg.attention_chain, Q, K, K, sinks="none")

    @pytest.mark.parametrize("shape", [(-1, 300), (2**31, 300), (2.0, 300), ("2", 300)])
    def test_shapes_that_no_array_has(self, shape):
        with pytest.raises(ProblemError, match=r"\[shape\] Expected sizes from 0 to 2147483647"):
            spec(*shape)

    def test_sizes_may_be_numpys(self):
        sizes = np.array([5, 300, 70])
        one, same = (
            tg.explain("matmul", spec(m, k), spec(k, n)).problem
            for m, k, n in (sizes, sizes.tolist())
        )
        assert one == same

    @pytest.mark.parametrize("chip", ["m0", "", 4])
    def test_unknown_chips(self, chip):
        with pytest.raises(ProblemError, match="m4"):
            tg.explain(tg.matmul, X, W, transpose_b=True, chip=chip)

    def test_forced_kernels(self):
        with tg.use_kernel("gemm_scalar"):
            assert tg.explain(tg.matmul, X, W, transpose_b=True).route == "gemm_scalar"
        with tg.use_kernel("attention_chain"), pytest.raises(IllegalKernelError):
            tg.explain(tg.matmul, X, W, transpose_b=True)

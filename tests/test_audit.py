"""The account of a call names every product, and whoever serves it."""

from __future__ import annotations

import json
import resource
import sys

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

import mlx_tilegemm as tg
from mlx_tilegemm.errors import DTypeError, ProblemError

X = tg.ArraySpec(shape=(2, 5, 32), dtype=mx.float32)


class Mixed(nn.Module):
    """A layer of every kind of product."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiHeadAttention(32, 4)
        self.quantized = nn.Linear(32, 64, bias=False).to_quantized(group_size=32)
        self.convolution = nn.Conv1d(64, 32, 3)
        self.experts = mx.random.normal((4, 32, 16))

    def __call__(self, x):
        x = self.attention(x, x, x, mask="causal")
        x = self.convolution(self.quantized(x))
        rows = x.reshape(-1, 1, 32)
        chosen = mx.zeros((rows.shape[0],), dtype=mx.uint32)
        return mx.gather_mm(rows, self.experts, rhs_indices=chosen)


def rows(found):
    return [(row.primitive, row.path, row.flops) for row in found.rows]


PROJECTIONS = [f"attention.{name}_proj" for name in ("query", "key", "value")]
LINEAR = 2.0 * 10 * 32 * 32
CAUSAL = 2.0 * 2 * 4 * (5 * 6 / 2) * 16
QUANTIZED = 2.0 * 10 * 32 * 64
OTHERS = [
    ("Convolution", "convolution", 2.0 * 2 * 3 * 32 * 3 * 64),
    ("GatherMM", "", 2.0 * 6 * 32 * 16),
]


class TestAudit:
    def test_of_a_patched_model(self):
        model = Mixed()
        tg.patch(model)
        found = tg.audit(model, X)
        assert sorted(rows(found)) == sorted(
            [
                *(("matmul", path, LINEAR) for path in PROJECTIONS),
                ("attention_chain", "attention", CAUSAL),
                ("matmul", "attention.out_proj", LINEAR),
                ("quantized_matmul", "quantized", QUANTIZED),
                *OTHERS,
            ]
        )
        ours = 4 * LINEAR + CAUSAL + QUANTIZED
        assert [row.ours for row in found.rows] == [row.primitive.islower() for row in found.rows]
        assert found.flops == ours + sum(flops for *_, flops in OTHERS)
        assert found.served == ours / found.flops

    @pytest.mark.skipif(mx.metal.is_available(), reason="there it is one primitive")
    def test_of_an_unpatched_model(self):
        found = tg.audit(Mixed(), X)
        assert sorted(rows(found)) == sorted(
            [
                *(("Matmul", path, LINEAR) for path in PROJECTIONS),
                ("Matmul Softmax Matmul", "attention", 2.0 * 2 * 4 * 5 * 5 * 16),
                ("Matmul", "attention.out_proj", LINEAR),
                ("QuantizedMatmul", "quantized", QUANTIZED),
                *OTHERS,
            ]
        )
        assert not any(row.ours for row in found.rows)
        assert found.served == 0
        reasons = {row.path: row.reason for row in found.rows}
        assert reasons["attention.query_proj"] == reasons["attention"] == "its layer is not patched"
        assert reasons["quantized"] == "its layer is not patched"
        assert reasons["convolution"] == "its products are its own: conv1d"

    def test_names_the_kernel_that_explain_names(self):
        layer = tg.nn.Linear(64, 48, bias=False)
        x = mx.zeros((7, 64))
        (row,) = tg.audit(layer, x).rows
        plan = tg.explain(tg.matmul, x, layer.weight, transpose_b=True).plan
        assert (row.served_by, row.path, row.ours) == (str(plan), "", True)
        assert row.shapes == ((7, 64), (48, 64))
        assert row.dtypes == ("float32", "float32")
        assert row.bytes == 4 * (7 * 64 + 48 * 64 + 7 * 48)

    def test_follows_forced_kernels_and_backends(self):
        layer = tg.nn.Linear(64, 48)
        with tg.use_kernel("gemm_scalar"):
            assert tg.audit(layer, mx.zeros((7, 64))).rows[0].served_by.startswith("gemm_scalar/")
        with tg.use_backend("mlx"):
            (row,) = tg.audit(layer, mx.zeros((7, 64))).rows
        assert (row.served_by, row.ours, row.reason) == ("mlx", False, "asked for")

    def test_of_another_chip(self):
        layer = tg.nn.Linear(512, 512, bias=False)
        layer.set_dtype(mx.float16)
        x = tg.ArraySpec(shape=(512, 512), dtype=mx.float16)
        served = set()
        for chip in ("m1", "m5"):
            found = tg.audit(layer, x, chip=chip)
            expected = tg.explain(tg.matmul, x, x, transpose_b=True, chip=chip)
            assert found.chip == chip
            (row,) = found.rows
            assert (row.served_by, row.reason) == (str(expected.plan or "mlx"), expected.reason)
            assert found.served == (expected.plan is not None)
            served.add(row.served_by)
        assert len(served) == 2

    def test_names_layers_whose_weight_is_clipped(self):
        class Clipping(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = nn.Linear(8, 8)

            def __call__(self, x):
                return x @ mx.clip(self.inner.weight, -1.0, 1.0).T

        assert [row.path for row in tg.audit(Clipping(), mx.zeros((3, 8))).rows] == ["inner"]

    def test_counts_each_call(self):
        layer = tg.nn.Linear(8, 8)
        found = tg.audit(lambda x: layer(layer(layer(x))), mx.zeros((3, 8)))
        assert [row.primitive for row in found.rows] == ["addmm"] * 3

    def test_counts_only_what_the_result_needs(self):
        layer = tg.nn.Linear(8, 8)

        def function(x):
            layer(x)
            return x + 1

        assert not tg.audit(function, mx.zeros((3, 8))).rows

    def test_of_what_mlx_has_compiled_before(self):
        function = mx.compile(lambda x, w: x @ w)
        x = mx.zeros((4, 4))
        mx.eval(function(x, x))
        (row,) = tg.audit(function, x, x).rows
        assert (row.primitive, row.flops) == ("Matmul", 128.0)

    @pytest.mark.parametrize("mode", ["affine", "mxfp4", "mxfp8", "nvfp4"])
    def test_of_quantized_embeddings(self, mode):
        class Tied(nn.Module):
            def __init__(self):
                super().__init__()
                self.embedding = nn.Embedding(96, 64).to_quantized(mode=mode)

            def __call__(self, tokens):
                return self.embedding.as_linear(self.embedding(tokens))

        model, tokens = Tied(), mx.array([[1, 5, 7]])
        before = model(tokens)
        for ours in (False, True):
            (row,) = tg.audit(model, tokens).rows
            assert (row.path, row.flops, row.ours) == ("embedding", 2.0 * 3 * 64 * 96, ours)
            tg.patch(model)
        with tg.use_backend("mlx"):
            assert mx.allclose(model(tokens), before, rtol=1e-2, atol=1e-2)

    def test_of_quantized_experts(self):
        weight = mx.quantize(mx.zeros((8, 16, 32)), group_size=32)

        def function(x, indices):
            return mx.gather_qmm(x, *weight, rhs_indices=indices, group_size=32)

        (row,) = tg.audit(function, mx.zeros((2, 1, 1, 32)), mx.zeros((2, 1), dtype=mx.uint32)).rows
        assert (row.primitive, row.flops) == ("GatherQMM", 2.0 * 2 * 16 * 32)
        # Two of eight experts: 4 bits a weight, and a scale and a bias for each 32.
        assert row.bytes == 4 * 2 * 32 + 2 * (16 * 32 // 2 + 2 * 4 * 16) + 2 * 2 * 4 + 4 * 2 * 16

    def test_of_a_custom_kernel(self):
        kernel = mx.fast.metal_kernel(
            name="doubled", input_names=["x"], output_names=["y"], source="y[0] = 2 * x[0];"
        )

        def function(x):
            return kernel(
                inputs=[x],
                output_shapes=[x.shape],
                output_dtypes=[x.dtype],
                grid=(1, 1, 1),
                threadgroup=(1, 1, 1),
            )

        found = tg.audit(function, mx.zeros((16,)))
        (row,) = found.rows
        assert row.primitive == "CustomKernel"
        assert row.served_by.startswith("custom_kernel_doubled")
        assert (row.flops, row.ours, row.bytes) == (None, False, 128.0)
        assert "1 custom kernels not counted" in str(found)

    def test_of_attention_that_stays_with_mlx(self):
        q, v = mx.zeros((1, 2, 3, 0)), mx.zeros((1, 2, 3, 4))
        layer = HeadsOfNothing()
        tg.patch(layer)
        found = tg.audit(layer, q, v)
        assert {row.reason for row in found.rows} == {"it has heads of size 0"}
        assert found.served == 0

    def test_spelled_out_attention_is_one_row(self):
        def function(q, k, v):
            scores = mx.softmax(0.5 * q @ k.swapaxes(-1, -2), axis=-1)
            return scores @ v

        x = mx.zeros((1, 2, 5, 8))
        (row,) = tg.audit(function, x, x, x).rows
        assert row.flops == 2 * (2.0 * 2 * 5 * 5 * 8)
        assert row.shapes == ((1, 2, 5, 8), (1, 2, 8, 5), (1, 2, 5, 8))


class HeadsOfNothing(nn.Module):
    def __call__(self, q, v):
        return mx.fast.scaled_dot_product_attention(q, q, v, scale=1.0)


class Listing(nn.Module):
    """A layer that holds its arrays in a list."""

    def __init__(self):
        super().__init__()
        self.weights = [mx.ones((4, 4)), {"last": mx.ones((4, 4))}]

    def __call__(self, x):
        return x @ self.weights[0] @ self.weights[1]["last"]


class Remembering(nn.Module):
    """A layer whose call changes it."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.last = mx.zeros((1, 4))
        self._hidden = None

    def __call__(self, x, cache=None):
        self.last = x
        self._hidden = [x]
        if cache is not None:
            cache.append(x)
        return {"out": (self.linear(x), [x])}


class TestNothingChanges:
    def test_in_the_model(self):
        model = Remembering()
        before = tree_flatten(model.parameters())
        tg.audit(model, mx.ones((1, 4)))
        after = tree_flatten(model.parameters())
        assert [name for name, _ in before] == [name for name, _ in after]
        assert all(x is y for (_, x), (_, y) in zip(before, after, strict=True))
        assert model._hidden is None
        mx.eval(model.parameters())

    def test_in_lists_of_arrays(self):
        model = Listing()
        first, last = model.weights[0], model.weights[1]["last"]
        found = tg.audit(model, mx.ones((1, 4)))
        assert [row.path for row in found.rows] == ["weights", "weights.1"]
        assert model.weights[0] is first
        assert model.weights[1]["last"] is last

    def test_in_arguments(self):
        cache = Cache()
        tg.audit(Remembering(), mx.ones((1, 4)), cache=cache)
        assert cache.held == []

    def test_even_by_an_error(self):
        model = Remembering()
        weight = model.linear.weight
        with pytest.raises(ProblemError):
            tg.audit(lambda x: model(x)["out"][0].sum().item(), mx.ones((1, 4)))
        with pytest.raises(ValueError, match=r"matmul|addmm"):
            tg.audit(model, mx.ones((1, 5)))
        assert model.linear.weight is weight

    def test_and_nothing_is_evaluated(self):
        """Weights of 100 GB take no memory."""
        layers = [nn.Linear(1 << 15, 1 << 15, bias=False) for _ in range(24)]
        model = nn.Sequential(*layers)
        size = sum(array.nbytes for _, array in tree_flatten(model.parameters()))
        before = peak_bytes()
        unpatched = tg.audit(model, tg.ArraySpec(shape=(64, 1 << 15), dtype=mx.bfloat16))
        tg.patch(model)
        found = tg.audit(model, tg.ArraySpec(shape=(64, 1 << 15), dtype=mx.bfloat16))
        assert size > 100e9
        assert found.flops == unpatched.flops == 24 * 2.0 * 64 * (1 << 30)
        assert (unpatched.served, found.served) == (0, 1)
        assert peak_bytes() - before < 1e9


class Cache:
    def __init__(self):
        self.held = []

    def append(self, x):
        self.held.append(x)


def peak_bytes():
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def test_custom_functions_count_as_what_they_compute():
    twice = mx.custom_function(lambda x: x @ x)
    twice.vjp(lambda primal, cotangent, output: cotangent)
    found = tg.audit(twice, mx.ones((4, 4)))
    assert [row.primitive for row in found.rows] == ["Matmul"]
    assert mx.grad(lambda x: twice(x).sum())(mx.ones((4, 4))).sum().item() == 16.0


def test_a_fully_sharded_layer():
    layer = nn.FullyShardedModule(nn.Linear(1024, 1024, bias=False))
    (row,) = tg.audit(layer, mx.ones((3, 1024))).rows
    assert (row.flops, row.ours) == (2 * 3 * 1024 * 1024, False)
    tg.patch(layer)
    (row,) = tg.audit(layer, mx.ones((3, 1024), dtype=mx.float16)).rows
    assert (row.flops, row.ours) == (2 * 3 * 1024 * 1024, True)


class TestRefusals:
    def test_of_what_cannot_be_called(self):
        with pytest.raises(DTypeError, match="Expected a model to call, got int"):
            tg.audit(3)

    def test_of_calls_that_evaluate(self):
        with pytest.raises(ProblemError, match="evaluates arrays on its way"):
            tg.audit(lambda x: x * x.sum().item(), mx.ones((2,)))

    def test_of_primitives_that_mlx_cannot_trace(self):
        def function(x):
            return mx.segmented_mm(x, x, mx.array([[0, 1]], dtype=mx.uint32))

        with pytest.raises(ProblemError, match="got SegmentedMM"):
            tg.audit(function, mx.ones((2, 2)))

    def test_of_unknown_chips(self):
        with pytest.raises(ProblemError, match="chip"):
            tg.audit(lambda x: x, mx.ones((2,)), chip="z80")


class TestTable:
    def test_groups_equal_rows(self):
        model = nn.Sequential(*[nn.Linear(8, 8) for _ in range(3)])
        text = str(tg.audit(model, mx.zeros((2, 8)))).splitlines()
        assert text[0].startswith("[audit] 768 FLOP in 3 products: 0.0% served by this library")
        assert len(text) == 3
        cells = text[2].split("  ")
        assert [cell.strip() for cell in cells if cell.strip()][:3] == [
            "3",
            "AddMM",
            "layers.0, ...",
        ]

    def test_of_nothing_is_a_line(self):
        assert len(str(tg.audit(lambda x: x, mx.zeros((2, 8)))).splitlines()) == 1

    def test_as_json(self):
        found = tg.audit(tg.nn.Linear(8, 8), mx.zeros((2, 8)))
        read = json.loads(json.dumps(found.to_dict()))
        assert read["served"] == 1
        assert read["rows"][0]["shapes"] == [[2, 8], [8, 8], [8]]

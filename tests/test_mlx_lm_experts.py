"""Experts of mlx-lm's models, and adapters of them, agree with themselves unpatched."""

from __future__ import annotations

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

pytest.importorskip("mlx_lm", reason="the extra `integrations` brings mlx-lm")

from mlx_lm.models.mla import MultiLinear
from mlx_lm.models.switch_layers import SwitchGLU, SwitchLinear, SwitchMLP
from mlx_lm.tuner.lora import LoRASwitchLinear

import mlx_tilegemm as tg
from mlx_tilegemm.integrations import mlx_lm as integration

HIDDEN, WIDTH, EXPERTS, CHOSEN = 64, 96, 6, 2
FEW, MANY = 5, 40
"""Tokens; of the latter mlx-lm sorts the rows."""


def random(seed, *shape, dtype=mx.float32):
    return mx.random.normal(shape, key=mx.random.key(seed)).astype(dtype)


def tokens(count, dtype=mx.float32):
    x = random(1, 1, count, HIDDEN, dtype=dtype)
    return x, mx.random.randint(0, EXPERTS, (1, count, CHOSEN), key=mx.random.key(2))


def gated(kind="float", bias=True):
    mx.random.seed(3)
    layer = SwitchGLU(HIDDEN, WIDTH, EXPERTS, bias=bias)
    if bias:
        for name in ("up_proj", "gate_proj", "down_proj"):
            layer[name].bias = random(4, *layer[name].bias.shape)
    if kind != "float":
        mode = {"group_size": 32, "bits": 4, "mode": kind}
        for name in ("up_proj", "gate_proj", "down_proj"):
            layer[name] = layer[name].to_quantized(**mode)
    layer.eval()
    return layer


def error(got, expected):
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    scale = mx.abs(expected).max()
    return float((mx.abs(got.astype(mx.float32) - expected.astype(mx.float32)) / scale).max())


@pytest.fixture
def called(monkeypatch):
    """Return the ops that routes of experts have called."""
    made = []
    route, gathered = tg.nn.SwitchRoute.__call__, tg.nn.gathered

    def noting(layer, *args, **kwargs):
        if "bias" not in layer:
            made.append("gather_qmm" if "scales" in layer else "gather_mm")
        return route(layer, *args, **kwargs)

    def noting_routed(*args, **kwargs):
        is_quantized = kwargs.get("scales") is not None
        kind = "fp8_mm" if kwargs.get("format") else "qmm" if is_quantized else "mm"
        made.append(f"gather_{kind}")
        return gathered(*args, **kwargs)

    monkeypatch.setattr(tg.nn.SwitchRoute, "__call__", noting)
    monkeypatch.setattr(tg.nn, "gathered", noting_routed)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("count", [FEW, MANY])
@pytest.mark.parametrize("kind", ["float", "affine", "mxfp4"])
def test_gated_experts(kernels, called, kind, count):
    layer = gated(kind)
    x, indices = tokens(count)
    expected = layer(x, indices)
    with integration.patched(layer) as report:
        got = layer(x, indices)
    assert error(got, expected) < 1e-5
    assert called == ["gather_mm" if kind == "float" else "gather_qmm"] * 3
    assert {one.layer for one in report.replaced} >= {"SwitchGLU"}
    assert report.left_alone == ()


@pytest.mark.parametrize("count", [FEW, MANY])
@pytest.mark.parametrize("kind", ["float", "affine"])
def test_gated_experts_by_mlx_ops(called, kind, count):
    with tg.use_backend("mlx"):
        layer = gated(kind)
        x, indices = tokens(count)
        expected = layer(x, indices)
        with integration.patched(layer):
            got = layer(x, indices)
        with integration.patched():
            everywhere = layer(x, indices)
    assert error(got, expected) < 1e-5
    assert error(everywhere, expected) < 1e-5
    assert len(called) == 6


@pytest.mark.parametrize("kind", ["float", "affine", "mxfp4"])
def test_the_report_names_the_op_of_the_weights_that_there_are(called, kind):
    layer = gated(kind)
    x, indices = tokens(FEW)
    with tg.use_backend("mlx"), integration.patched(layer) as report:
        layer(x, indices)
    assert {one.op for one in report.replaced} == {*called}


def test_two_layers_of_experts(called):
    layer = SwitchMLP(HIDDEN, WIDTH, EXPERTS)
    x, indices = tokens(MANY)
    with tg.use_backend("mlx"):
        expected = layer(x, indices)
        with integration.patched(layer):
            assert error(layer(x, indices), expected) < 1e-5
    assert called == ["gather_mm"] * 2


@pytest.mark.parametrize("is_quantized", [False, True])
def test_adapters(called, is_quantized):
    linear = SwitchLinear(HIDDEN, WIDTH, EXPERTS, bias=False)
    linear = linear.to_quantized(32, 4) if is_quantized else linear
    layer = LoRASwitchLinear.from_base(linear, r=4)
    layer.lora_b = random(5, *layer.lora_b.shape)
    x, indices = tokens(FEW)
    x = mx.expand_dims(x, (-2, -3))
    with tg.use_backend("mlx"):
        expected = layer(x, indices)
        gradient = mx.grad(lambda x: (layer(x, indices) ** 2).sum())
        wanted = gradient(x)
        with integration.patched(layer):
            assert error(layer(x, indices), expected) < 1e-5
            assert error(gradient(x), wanted) < 1e-5
    assert called[0] == ("gather_qmm" if is_quantized else "gather_mm")


def of_codes(layer, form="e4m3"):
    """Return experts in codes, and the same experts in the values of these."""
    coded = tg.nn.FP8SwitchLinear.from_linear(layer, form)
    plain = SwitchLinear(coded.input_dims, coded.output_dims, coded.num_experts, "bias" in layer)
    plain.weight = coded.decoded()
    if "bias" in layer:
        plain.bias = layer.bias
    plain.freeze()
    return coded, plain


@pytest.mark.parametrize("count", [FEW, MANY])
@pytest.mark.parametrize("form", ["e4m3", "e5m2", "int8"])
def test_gated_experts_of_codes(called, form, count):
    layer, plain = gated(), gated()
    for name in ("up_proj", "gate_proj", "down_proj"):
        layer[name], plain[name] = of_codes(layer[name], form)
    x, indices = tokens(count)
    expected = plain(x, indices)
    with tg.use_backend("mlx"):
        assert error(layer(x, indices), expected) < 1e-5
        with integration.patched(layer) as report:
            assert error(layer(x, indices), expected) < 1e-5
    assert called == ["gather_fp8_mm"] * 6
    assert [one.layer for one in report.replaced] == ["SwitchGLU"]
    assert {one.reason for one in report.left_alone} == {"computes through this library already"}


def test_experts_of_codes_are_audited():
    layer = gated()
    for name in ("up_proj", "gate_proj", "down_proj"):
        layer[name], _ = of_codes(layer[name])
    x, indices = tokens(MANY)
    found = tg.audit(layer, x, indices, chip="m4-max")
    assert {row.primitive for row in found.rows} == {"gather_fp8_mm"}
    assert found.served == 1
    work = 2 * MANY * CHOSEN * HIDDEN * WIDTH
    assert [row.flops for row in found.rows] == [work] * 3


def test_adapters_of_codes(called):
    layer, plain = of_codes(SwitchLinear(HIDDEN, WIDTH, EXPERTS))
    adapter, other = layer.to_lora(r=4), LoRASwitchLinear.from_base(plain, r=4)
    other.lora_a = adapter.lora_a
    adapter.lora_b = other.lora_b = random(5, *adapter.lora_b.shape)
    x, indices = tokens(FEW)
    x = mx.expand_dims(x, (-2, -3))
    expected = other(x, indices)
    with tg.use_backend("mlx"):
        assert error(adapter(x, indices), expected) < 1e-5
        with integration.patched(adapter):
            assert error(adapter(x, indices), expected) < 1e-5
        coded = adapter.fuse()
        assert error(coded(x, indices), expected) < 5e-2
    assert called[0] == "gather_fp8_mm"
    assert isinstance(adapter.fuse(dequantize=True), SwitchLinear)


def test_mixed_dtypes_are_those_of_mlx_lm(called):
    layer = gated()
    layer.set_dtype(mx.float16)
    x, indices = tokens(FEW, mx.bfloat16)
    with tg.use_backend("mlx"):
        expected = layer(x, indices)
        with integration.patched(layer):
            got = layer(x, indices)
    assert got.dtype == expected.dtype
    assert error(got, expected) < 1e-2


def test_unpatching_restores_classes_and_parameters():
    layer = gated("affine")
    before = [(name, id(array)) for name, array in tree_flatten(layer.parameters())]
    kinds = [type(one) for _, one in layer.named_modules()]
    integration.patch(layer)
    assert [type(one) for _, one in layer.named_modules()] != kinds
    tg.unpatch(layer)
    assert [type(one) for _, one in layer.named_modules()] == kinds
    assert [(name, id(array)) for name, array in tree_flatten(layer.parameters())] == before


@pytest.mark.parametrize("kind", ["float", "affine"])
def test_audit_counts_them(kind):
    layer = gated(kind, bias=False)
    x, indices = tokens(MANY)
    work = 2.0 * MANY * CHOSEN * HIDDEN * WIDTH
    found = tg.audit(layer, x, indices, chip="m4")
    assert {row.primitive for row in found.rows} == {"GatherMM" if kind == "float" else "GatherQMM"}
    assert {row.reason for row in found.rows} != {"its layer is not patched"}
    assert [row.flops for row in found.rows] == [work] * 3
    integration.patch(layer)
    found = tg.audit(layer, x, indices, chip="m4")
    assert [row.flops for row in found.rows] == [work] * 3
    assert {row.path for row in found.rows} == {"up_proj", "gate_proj", "down_proj"}
    assert found.served == 1
    # All experts may be chosen; each operand and result counts once.
    weight = EXPERTS * HIDDEN * WIDTH * (4 if kind == "float" else 4 / 8 + 8 / 32)
    rows = 4 * MANY * (HIDDEN + CHOSEN * WIDTH)
    assert found.rows[0].bytes == weight + rows + 4 * MANY * CHOSEN


@pytest.mark.parametrize("transpose", [True, False])
def test_quantized_projections_of_heads(transpose):
    layer = MultiLinear(64, 32, 4).to_quantized(32, 4)
    x = random(6, 2, 4, 3, 64 if transpose else 32)
    with tg.use_backend("mlx"):
        expected = layer(x, transpose=transpose)
        with integration.patched(layer) as report:
            assert error(layer(x, transpose=transpose), expected) < 1e-5
    assert [one.op for one in report.replaced] == ["quantized_matmul"]

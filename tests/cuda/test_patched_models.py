"""Kernels of mlx-lm's own, as patched models launch them through MLX's CUDA build."""

from __future__ import annotations

import importlib

import mlx.core as mx
import mlx.nn as nn
import pytest
from fake_cuda import FakeCuda

pytest.importorskip("mlx_lm", reason="the extra `integrations` brings mlx-lm")

import mlx_tilegemm as tg
from mlx_tilegemm.backends.base import ASKED, Route
from mlx_tilegemm.backends.cuda import CudaBackend
from mlx_tilegemm.cuda import kernel
from mlx_tilegemm.integrations import mlx_lm as integration
from mlx_tilegemm.nn import FP8SwitchLinear


class Cuda(CudaBackend):
    """The backend of MLX's CUDA build, on any machine."""

    def asked(self, place):
        return Route(backend=self, reason=ASKED)


@pytest.fixture
def launches(monkeypatch):
    """Return the launches of kernels that nobody compiles: that is for machines with NVRTC."""
    monkeypatch.setattr(kernel, "compiled", lambda *_, **__: b"")
    monkeypatch.setattr(kernel, "packer", lambda: None)
    _forget()
    yield FakeCuda(monkeypatch).launches
    _forget()


def _forget():
    kernel._ready.cache_clear()
    kernel._compiled.cache_clear()


def test_a_layer_launches_its_kernel(launches):
    module = importlib.import_module("mlx_lm.models.rwkv7")
    ranks = ("a_low_rank_dim", "v_low_rank_dim", "gate_low_rank_dim", "decay_low_rank_dim")
    arguments = module.ModelArgs(
        model_type="rwkv7",
        vocab_size=8,
        hidden_size=64,
        intermediate_size=64,
        norm_eps=1e-5,
        head_dim=32,
        num_hidden_layers=1,
        **dict.fromkeys(ranks, 8),
    )
    layer = module.Rwkv7TimeMixing(arguments, layer_idx=0)
    own = module._wkv7_kernel
    with tg.use_backend(Cuda()), integration.patched(layer) as report:
        layer(mx.random.normal((1, 3, 64)), None, None)
    assert [one.op for one in report.replaced if one.path == ""] == ["metal_kernel"]
    (launch,) = launches
    assert "wkv7_kernel" in launch["name"]
    assert launch["grid"] == (32, 32, 2)
    assert [one.shape for one in launch["inputs"][:7]] == [*[(1, 3, 2, 32)] * 6, (1, 2, 32, 32)]
    assert module._wkv7_kernel is own


@pytest.mark.parametrize(
    ("form", "kernel", "sorts"),
    [
        ("plain", None, 2),
        ("adapted", None, 2),
        ("mxfp4", None, 2),
        ("fp8", None, 2),
        # MLX's op of affine weights gains nothing from it.
        ("affine", None, 0),
        ("plain", "any", 0),
        ("adapted", "any", 0),
        ("mxfp4", "any", 0),
        ("fp8", "any", 0),
    ],
)
def test_rows_of_experts_are_sorted_once_where_mlx_serves_them(
    launches, monkeypatch, form, kernel, sorts
):
    """And back again, rather than by each of three ops; kernels take them in any order."""
    switch_layers = importlib.import_module("mlx_lm.models.switch_layers")
    lora = importlib.import_module("mlx_lm.tuner.lora")
    model = switch_layers.SwitchGLU(64, 96, 4)
    model.set_dtype(mx.bfloat16)
    if form in ("mxfp4", "affine"):
        nn.quantize(model, group_size=32, bits=4, mode=form)
    made = {"adapted": lora.LoRASwitchLinear.from_base, "fp8": FP8SwitchLinear.from_linear}
    if form in made:
        for name in ("up_proj", "gate_proj", "down_proj"):
            setattr(model, name, made[form](model[name]))
    x, chosen = mx.zeros((1, 256, 64)), mx.zeros((1, 256, 4), mx.uint32)
    seen, argsort = [], mx.argsort
    monkeypatch.setattr(
        mx, "argsort", lambda *rest, **more: seen.append(1) or argsort(*rest, **more)
    )
    with tg.use_backend(Cuda()), tg.use_kernel(kernel), integration.patched(model):
        y = model(x, chosen)
    assert y.shape == (1, 256, 4, 64)
    assert len(seen) == sorts
    assert bool(launches) == (kernel is not None)

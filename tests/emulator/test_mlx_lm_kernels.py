"""The custom kernels of mlx-lm run under all checks and agree with the ops they stand for."""

from __future__ import annotations

import importlib.util

import mlx.core as mx
import numpy as np
import pytest

pytest.importorskip("mlx_lm", reason="the extra `integrations` brings mlx-lm")

import mlx_lm.utils

from mlx_tilegemm.emulator import EmulatedKernel, KernelCheckError, metal_kernel, settings

# All 32 lanes store the zero of a masked step.
ZERO = "y[dv_idx] = static_cast<InT>(0);"
ONE_ZERO = f"if (thread_index_in_simdgroup == 0) {{ {ZERO} }}"
# Threadgroup memory is used again while other simdgroups may still read it, and read behind a
# barrier that does not order it.
SHARE = "if (simd_lane_id == 0) {"
BARRIER = "threadgroup_barrier(mem_flags::mem_threadgroup);"
WEAK_BARRIER = "threadgroup_barrier(mem_flags::mem_none);"


@pytest.fixture
def load(monkeypatch):
    """Return a function that loads a fresh copy of a module, its kernels emulated and repaired."""
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    monkeypatch.setattr(mlx_lm.utils, "can_run_metal", lambda: True)

    def fresh(name, *repairs):
        monkeypatch.setattr(mx.fast, "metal_kernel", _emulated(repairs))
        spec = importlib.util.find_spec(f"mlx_lm.{name}")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        kernels = [value for value in vars(module).values() if isinstance(value, EmulatedKernel)]
        assert kernels
        return module

    return fresh


def _emulated(repairs):
    def make(*args, **kwargs):
        for old, new in repairs:
            kwargs["source"] = kwargs["source"].replace(old, new)
        return metal_kernel(*args, **kwargs)

    return make


@pytest.fixture(params=["forward", "random"])
def order(request):
    with settings(order=request.param, seed=7, misalign=request.param == "random"):
        yield


def draw(seed, *shapes, scale=1.0, dtype=mx.float32):
    keys = mx.random.split(mx.random.key(seed), len(shapes))
    return [
        (scale * mx.random.normal(shape, key=key)).astype(dtype)
        for shape, key in zip(shapes, keys, strict=True)
    ]


def assert_close(got, expected, tolerance=1e-5):
    for one, other in zip(got, expected, strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        np.testing.assert_allclose(
            np.array(one.astype(mx.float32)),
            np.array(other.astype(mx.float32)),
            rtol=tolerance,
            atol=tolerance,
        )


def gated_delta_inputs(size, *, vector=False, batch=2, steps=3):
    q, k, v, g, beta, state = draw(
        0,
        (batch, steps, 2, size),
        (batch, steps, 2, size),
        (batch, steps, 4, 8),
        (batch, steps, 4, *([size] if vector else [])),
        (batch, steps, 4),
        (batch, 4, 8, size),
        scale=0.3,
    )
    return q, k, v, mx.sigmoid(g), mx.sigmoid(beta), state


@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.usefixtures("order")
def test_gated_delta(load, vector, masked):
    module = load("models.gated_delta", (ZERO, ONE_ZERO))
    inputs = gated_delta_inputs(32, vector=vector)
    mask = mx.array([[True, True, True], [True, True, False]]) if masked else None
    y, state = module.gated_delta_kernel(*inputs, mask)
    expected_y, expected_state = module.gated_delta_ops(*inputs, mask)
    if masked:  # the outputs of masked steps mean nothing
        y, expected_y = y * mask[..., None, None], expected_y * mask[..., None, None]
    assert_close((y, state), (expected_y, expected_state))


def test_masked_steps_of_gated_delta_race(load):
    module = load("models.gated_delta")
    mask = mx.array([[True, True, True], [True, True, False]])
    with pytest.raises(KernelCheckError) as caught:
        module.gated_delta_kernel(*gated_delta_inputs(32), mask)
    assert {(str(found.kind), found.source_line) for found in caught.value.findings} == {
        ("race", ZERO)
    }


def test_gated_delta_is_the_same_bit_for_bit_when_packed(load):
    module = load("models.gated_delta")
    inputs = gated_delta_inputs(128, batch=1)
    packed = module.gated_delta_kernel(*inputs)
    for one, other in zip(packed, module.gated_delta_kernel_xtree(*inputs), strict=True):
        assert mx.array_equal(one, other)
    assert_close(packed, module.gated_delta_ops(*inputs))


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16], ids=str)
@pytest.mark.usefixtures("order")
def test_ssm(load, dtype):
    module = load("models.ssm")
    x, b, c, state = draw(1, (2, 1, 4, 8), (2, 1, 2, 64), (2, 1, 2, 64), (2, 4, 8, 64), dtype=dtype)
    a_log, d, dt_bias, dt = draw(2, (4,), (4,), (4,), (2, 1, 4))
    arguments = (x, a_log, b, c, d, dt, dt_bias, state)
    limit = (0.001, 100.0)
    got = module.ssm_update_kernel(*arguments, limit)
    wide = [value.astype(mx.float32) for value in arguments]
    expected = [value.astype(dtype) for value in module.ssm_attn(*wide, limit)]
    assert_close(got, expected, 2e-5 if dtype == mx.float32 else 4e-3)


@pytest.mark.usefixtures("order")
def test_rwkv7(load):
    module = load("models.rwkv7")
    r, w, k, v, a, b = draw(3, *[(2, 3, 2, 32)] * 6, scale=0.3)
    (state,) = draw(4, (2, 2, 32, 32))
    w = mx.sigmoid(w)
    got = module.wkv7_kernel(r, w, k, v, a, b, state)
    steps = []
    for t in range(3):
        y, state = module._wkv7_step_ops(*(u[:, t] for u in (r, w, k, v, a, b)), state)
        steps.append(y.squeeze(-1))
    assert_close(got, (mx.stack(steps, axis=1), state))


@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.usefixtures("order")
def test_bitlinear(load, invert):
    module = load("models.bitlinear_layers")
    layer = module.BitLinear(128, 24, bias=False, invert_weight_scales=invert)
    ternary = mx.random.randint(-1, 2, (4, 6, 128), key=mx.random.key(5))
    shifts = mx.array([0, 2, 4, 6])[:, None, None]
    layer.weight = mx.sum((ternary + 1) << shifts, axis=0).astype(mx.uint8)
    layer.weight_scale = mx.array([0.5])
    (x,) = draw(6, (2, 3, 128))
    expected = x @ ternary.reshape(24, 128).astype(mx.float32).T * (2.0 if invert else 0.5)
    assert_close([layer(x)], [expected])


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=str)
def test_head_norms(load, dtype):
    module = load("kernels.qk_norm")
    (rows,) = draw(7, (2, 3, 2 * (4 + 2) * 40), dtype=dtype)
    got = module.qk_norm(rows, n_heads=4, n_kv_heads=2, head_dim=40, eps=1e-5, query_scale=0.25)
    heads = rows[..., : 6 * 40].reshape(2, 3, 6, 40)
    normed = mx.fast.rms_norm(heads, None, 1e-5)
    expected = (normed[:, :, :4] * 0.25).astype(dtype), normed[:, :, 4:]
    assert_close(got, expected, 1e-5 if dtype == mx.float32 else 1e-2)


def test_gated_norm_of_strided_inputs(load):
    module = load("kernels.rms_norm_sigmoid_gate")
    x, gate = draw(8, (2, 5, 3, 40), (2, 120, 5))
    x, gate = x.swapaxes(1, 2), gate.swapaxes(1, 2)
    normed = mx.fast.rms_norm(x, None, 1e-5).swapaxes(1, 2).reshape(2, 5, 120)
    got = module.rms_norm_sigmoid_gate(x, gate, eps=1e-5)
    assert_close([got], [normed * mx.sigmoid(gate)])


LOSSES = pytest.mark.parametrize("loss", ["kl_div_loss", "js_div_loss"])


@pytest.mark.slow
@LOSSES
def test_distillation_losses(load, loss, monkeypatch):
    module = load("tuner.losses", (SHARE, BARRIER + SHARE), (WEAK_BARRIER, BARRIER))
    q, p, cotangent = draw(9, (2, 4099), (2, 4099), (2,))
    call = getattr(module, loss)
    value, gradient = _value_and_gradient(call, q, p, cotangent)
    monkeypatch.setattr(module, "can_run_metal", lambda: False)
    expected_value, expected_gradient = _value_and_gradient(call, q, p, cotangent)
    assert_close([value], [expected_value], 1e-4)
    assert_close([gradient], [expected_gradient])


@LOSSES
def test_distillation_losses_race_as_they_are(load, loss):
    module = load("tuner.losses")
    with pytest.raises(KernelCheckError) as caught:
        getattr(module, loss)(*draw(9, (1, 4099), (1, 4099)))
    found = {(str(finding.kind), finding.buffer) for finding in caught.value.findings}
    assert found == {("race", "shared")}


def _value_and_gradient(loss, q, p, cotangent):
    value = loss(q, p)
    return value, mx.grad(lambda x: (loss(x, p) * cotangent).sum())(q)

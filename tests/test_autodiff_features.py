"""Gradients of windows, sinks, positional parts and large heads, by kernels."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import oracle
import pytest
import strategies

import mlx_tilegemm as tg

PASS = [
    "tilegemm_attention_chain",
    "tilegemm_attention_backward_query",
    "tilegemm_attention_backward_key_value",
]
NAMES = ("q", "k", "v", "q_pe", "k_pe", "sinks")


def drawn(*, lengths=(9, 21), head=8, value=5, pe=0, pe_heads=1, sinks=False, dtype=mx.float32):
    """Return the operands by name, of four heads on two."""
    (q_len, kv_len), rng = lengths, np.random.default_rng(1)
    shapes = {"q": (2, 4, q_len, head), "k": (2, 2, kv_len, head), "v": (2, 2, kv_len, value)}
    if pe:
        shapes |= {"q_pe": (2, 4, q_len, pe), "k_pe": (2, pe_heads, kv_len, pe)}
    if sinks:
        shapes["sinks"] = (4,)
    return {name: strategies.random_array(rng, shape, dtype) for name, shape in shapes.items()}


def attend(arrays, **options):
    """Return the result and, with the softmax, the log-sum-exp."""
    named = {name: arrays[name] for name in NAMES[3:] if name in arrays}
    lse = options.get("softmax", True)
    found = tg.attention_chain(
        *(arrays[name] for name in "qkv"), **named, **options, return_lse=lse
    )
    return list(found) if lse else [found]


def visible_keys(rows, columns, mask, window):
    distance = np.arange(rows)[:, None] + columns - rows - np.arange(columns)
    keep = distance >= 0 if mask == "causal" else np.full(distance.shape, True)
    return keep & (distance < window) if window else keep


def formula(arrays, xp, *, mask=None, window=None, softmax=True):
    """Return what `attend` should, by plain ops of NumPy or MLX."""
    q, k, v = (arrays[name] for name in "qkv")

    def per_head(x):
        return xp.repeat(x, q.shape[1] // x.shape[1], axis=1)

    scores = q @ per_head(k).swapaxes(-1, -2)
    depth = q.shape[-1]
    if "q_pe" in arrays:
        scores = scores + arrays["q_pe"] @ per_head(arrays["k_pe"]).swapaxes(-1, -2)
        depth += arrays["q_pe"].shape[-1]
    keep = xp.array(visible_keys(*scores.shape[-2:], mask, window))
    if not softmax:
        return [xp.where(keep, scores, 0.0) @ per_head(v)]
    scores = xp.where(keep, scores * depth**-0.5, -1e30)
    if "sinks" in arrays:
        sinks = xp.broadcast_to(arrays["sinks"][None, :, None, None], (*scores.shape[:3], 1))
        scores = xp.concatenate([scores, sinks], axis=-1)
    highest = scores.max(axis=-1, keepdims=True)
    powers = xp.exp(scores - highest)
    total = powers.sum(axis=-1, keepdims=True)
    weights = (powers / total)[..., : k.shape[2]]
    return [weights @ per_head(v), (highest + xp.log(total))[..., 0]]


def loss(outputs, xp):
    return sum(xp.sin(x).sum() for x in outputs)


def passed(lazy):
    """Return the kernels that ran, and forget them."""
    names = [name.split("_softmax")[0].split("_literal")[0] for name, _ in lazy.launches]
    lazy.launches.clear()
    return names


def gradients(arrays, options):
    with tg.use_kernel("attention_chain"):
        return mx.grad(lambda x: loss(attend(x, **options), mx))(arrays)


CASES = {
    "window-sinks": ({"sinks": True}, {"mask": "causal", "window": 4}),
    "window-literal": ({}, {"mask": "causal", "window": 4, "softmax": False}),
    "shared-pe-sinks": ({"pe": 3, "sinks": True}, {"mask": "causal"}),
    "pe-window": ({"pe": 4, "pe_heads": 2}, {"mask": "causal", "window": 6}),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", list(CASES))
def test_agree_with_mlx_and_are_slopes(case, lazy):
    """Against MLX's autodiff of the formula, and finite differences of it in float64."""
    shape, options = CASES[case]
    arrays = drawn(**shape)
    found = gradients(arrays, options)
    mx.eval(found)
    assert passed(lazy) == PASS
    expected = mx.grad(lambda x: loss(formula(x, mx, **options), mx))(arrays)
    rng = np.random.default_rng(7)
    wide = {name: oracle.to_numpy(x) for name, x in arrays.items()}
    for name, gradient in found.items():
        scale = float(mx.abs(expected[name]).max())
        np.testing.assert_allclose(
            np.array(gradient), np.array(expected[name]), rtol=0, atol=3e-5 * scale, err_msg=name
        )
        direction = 1e-5 * rng.standard_normal(wide[name].shape)
        ends = [
            loss(formula(wide | {name: wide[name] + sign * direction}, np, **options), np)
            for sign in (1, -1)
        ]
        terms = oracle.to_numpy(gradient) * direction
        assert abs(terms.sum() - (ends[0] - ends[1]) / 2) <= 1e-4 * np.abs(terms).sum(), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ({"head": 128, "value": 128, "pe": 64}, {"mask": "causal"}),
        ({"head": 256, "value": 256, "sinks": True}, {"mask": "causal", "window": 11}),
    ],
    ids=["mla", "256"],
)
def test_large_heads(shape, options, lazy):
    arrays = drawn(lengths=(17, 33), dtype=mx.float16, **shape)
    found = gradients(arrays, options)
    mx.eval(found)
    assert passed(lazy) == PASS
    wide = {name: x.astype(mx.float32) for name, x in arrays.items()}
    expected = mx.grad(lambda x: loss(formula(x, mx, **options), mx))(wide)
    for name, gradient in found.items():
        assert gradient.dtype == mx.float16
        difference = mx.abs(gradient.astype(mx.float32) - expected[name])
        # The cotangents and the results that the kernels read are rounded to float16.
        assert difference.max() <= 4e-3 * mx.abs(expected[name]).max(), name


@pytest.mark.slow
def test_a_row_of_nothing_but_a_sink_has_no_gradient_but_the_sink_s(lazy):
    arrays = drawn(lengths=(9, 3), sinks=True)
    found = gradients(arrays, {"mask": "causal", "window": 2})
    assert np.all(np.array(found["q"])[:, :, :6] == 0)
    for gradient in found.values():
        assert np.isfinite(np.array(gradient)).all()
    expected = mx.grad(lambda x: loss(formula(x, mx, mask="causal", window=2), mx))(arrays)
    np.testing.assert_allclose(np.array(found["sinks"]), np.array(expected["sinks"]), rtol=1e-4)


@pytest.mark.slow
def test_no_scores_are_stored_and_explain_says_how(lazy):
    arrays = drawn(lengths=(70, 90), pe=4, sinks=True, dtype=mx.float16)
    gradients(arrays, {"mask": "causal"})
    for _, launch in lazy.launches:
        shapes = [x.shape for x in launch["inputs"]] + list(launch["output_shapes"])
        assert max(np.prod(shape) for shape in shapes) < 2 * 4 * 70 * 90
    q, k, v, *pe = (arrays[name] for name in NAMES[:5])
    text = str(tg.explain(tg.attention_chain, q, k, v, q_pe=pe[0], k_pe=pe[1]))
    assert "gradients of q, k and v: attention_backward_query/" in text
    assert "for the gradients, q_pe and k_pe are copied next to q and k" in text


@pytest.mark.slow
def test_sinks_and_positional_parts_map_into_the_batch(lazy):
    arrays = drawn(pe=4, sinks=True)
    sinks = arrays.pop("sinks")
    stacked = {name: mx.stack([x, 0.5 * x]) for name, x in arrays.items()}

    def gradient(x):
        return gradients(x | {"sinks": sinks}, {"mask": "causal", "window": 5})

    got = mx.vmap(gradient)(stacked)
    # The traced call is replaced by one of a larger batch, with q_pe and k_pe in q and k.
    assert list(lazy.launches[-1][1]["output_shapes"]) == [(4, 2, 21, 12), (4, 2, 21, 5)]
    assert passed(lazy) == 2 * PASS
    assert got.pop("sinks").shape == (2, 4)
    assert {name: x.shape for name, x in got.items()} == {n: x.shape for n, x in stacked.items()}

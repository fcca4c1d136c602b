"""Windows, sinks and positional parts of attention: what is asked, and MLX's answer."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import oracle
import pytest
import strategies
from hypothesis import given
from hypothesis import strategies as st

import mlx_tilegemm as tg
from mlx_tilegemm import dtypes
from mlx_tilegemm.arguments import ArraySpec
from mlx_tilegemm.errors import DTypeError, ProblemError
from mlx_tilegemm.kernels.mlx_sdpa import serves_attention

Q = mx.zeros((2, 4, 5, 8))
K = mx.zeros((2, 2, 7, 8))
SINKS = mx.zeros((4,))
Q_PE = mx.zeros((2, 4, 5, 3))
K_PE = mx.zeros((2, 1, 7, 3))


class TestWhatIsAsked:
    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"window": 3}, ProblemError, r"mask='causal' with a window, got mask none"),
            ({"window": 3, "mask": mx.zeros((5, 7))}, ProblemError, r"got mask additive"),
            ({"window": 0, "mask": "causal"}, ProblemError, r"a window of at least 1, got 0"),
            ({"window": 2.0, "mask": "causal"}, DTypeError, r"None or a whole number, got float"),
            ({"sinks": SINKS[:3]}, ProblemError, r"sinks of shape \(4\), .* got \(3\)"),
            ({"sinks": SINKS[None]}, ProblemError, r"sinks of shape \(4\), .* got \(1,4\)"),
            ({"sinks": SINKS.astype(mx.int8)}, DTypeError, r"sinks of float32.* got int8"),
            ({"sinks": SINKS, "softmax": False}, ProblemError, r"softmax=True with sinks"),
            ({"sinks": [0.0] * 4}, DTypeError, r"sinks to be an mlx.core.array, got list"),
            ({"q_pe": Q_PE}, ProblemError, r"both q_pe and k_pe, or neither, got no k_pe"),
            ({"k_pe": K_PE}, ProblemError, r"both q_pe and k_pe, or neither, got no q_pe"),
            ({"q_pe": Q_PE[:, :2], "k_pe": K_PE}, ProblemError, r"q_pe of q's shape .*\(2,2,5,3\)"),
            ({"q_pe": Q_PE, "k_pe": K_PE[:1]}, ProblemError, r"k_pe of k's batch size .*\(1,1,7"),
            ({"q_pe": Q_PE, "k_pe": K_PE[..., :2]}, ProblemError, r"q_pe's last axis"),
            ({"q_pe": Q_PE, "k_pe": mx.zeros((2, 4, 7, 3))}, ProblemError, r"of one head or k's"),
            ({"q_pe": Q_PE.astype(mx.int8), "k_pe": K_PE}, DTypeError, r"q_pe of .* got int8"),
        ],
    )
    def test_refusals(self, options, error, message):
        with pytest.raises(error, match=rf"\[attention_chain\] Expected .*{message}"):
            tg.attention_chain(Q, K, K, **options)

    def test_a_window_that_hides_nothing_is_none(self):
        wide = tg.explain(tg.attention_chain, Q, K, K, mask="causal", window=7)
        assert wide.problem.window is None
        assert tg.explain(tg.attention_chain, Q, K, K, mask="causal", window=6).problem.window == 6

    def test_positional_parts_take_part_in_promotion_and_sinks_do_not(self):
        half, sinks = Q.astype(mx.float16), SINKS
        keys = K.astype(mx.float16)
        with_sinks = tg.attention_chain(half, keys, keys, sinks=sinks)
        assert with_sinks.dtype == mx.float16
        positional = {"q_pe": Q_PE.astype(mx.float16), "k_pe": K_PE}
        assert tg.attention_chain(half, keys, keys, **positional).dtype == mx.float32

    def test_explain_names_everything(self):
        options = {"q_pe": Q_PE, "k_pe": K_PE, "sinks": SINKS, "mask": "causal", "window": 3}
        explanation = tg.explain(tg.attention_chain, Q, K, K, **options)
        assert list(explanation.operands) == ["q", "k", "v", "q_pe", "k_pe", "sinks"]
        assert "window 3, sinks float32, pe_dim 3 float32 x float32 on 1" in str(
            explanation.problem
        )

    @pytest.mark.parametrize(
        ("options", "served"),
        [
            ({}, True),
            ({"sinks": ArraySpec(shape=(4,), dtype=mx.float16)}, True),
            ({"sinks": ArraySpec(shape=(4,), dtype=mx.float32)}, False),
            ({"mask": "causal", "window": 9}, False),
            ({"q_pe": (16,), "k_pe": (16,)}, False),
        ],
    )
    def test_what_mlx_fused_attention_serves_exactly(self, options, served):
        q = ArraySpec(shape=(1, 4, 32, 64), dtype=mx.float16)
        for name in ("q_pe", "k_pe"):
            if name in options:
                options[name] = ArraySpec(shape=(1, 4, 32, 16), dtype=mx.float16)
        problem = tg.explain(tg.attention_chain, q, q, q, **options).problem
        assert serves_attention(problem) is served


def operands(rng, *, lengths=(9, 21), sizes=(8, 5, 0), heads=(4, 2, 1), types=None, sinks=False):
    """Return q, k, v and the options that are arrays."""
    (q_len, kv_len), (head, value, pe), (hq, hkv, hp) = lengths, sizes, heads
    types = types or (mx.float32,) * 6
    shapes = [(2, hq, q_len, head), (2, hkv, kv_len, head), (2, hkv, kv_len, value)]
    shapes += [(2, hq, q_len, pe), (2, hp, kv_len, pe), (hq,)]
    arrays = [strategies.random_array(rng, *pair) for pair in zip(shapes, types, strict=True)]
    extras = {"q_pe": arrays[3], "k_pe": arrays[4]} if pe else {}
    return arrays[:3], extras | ({"sinks": arrays[5]} if sinks else {})


def check(arrays, **options):
    """Compare a call with float64."""
    softmax = options.get("softmax", True)
    depth = arrays[0].shape[-1] + (options["q_pe"].shape[-1] if "q_pe" in options else 0)
    scale = depth**-0.5 if softmax else 1.0
    value, bound, lse = oracle.attention(*arrays, scale=scale, **options)
    got = tg.attention_chain(*arrays, **options)
    out = dtypes.from_mlx(got.dtype)
    oracle.assert_close(got, value, bound + oracle.rounding(value, out))
    if softmax:
        again, got_lse = tg.attention_chain(*arrays, **options, return_lse=True)
        assert mx.array_equal(again, got)
        oracle.assert_close(got_lse, *lse, "log-sum-exp")
    return got


@st.composite
def features(draw):
    """Draw operands and options with any of the features."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    softmax = draw(st.booleans())
    arrays, options = operands(
        rng,
        lengths=(
            draw(st.sampled_from((1, 7, 8, 9, 33))),
            draw(st.sampled_from((1, 8, 31, 33, 70))),
        ),
        sizes=(draw(st.sampled_from((7, 8))), 9, draw(st.sampled_from((0, 3, 16)))),
        heads=draw(st.sampled_from(((4, 2, 1), (4, 2, 2), (3, 1, 1)))),
        types=[draw(st.sampled_from(strategies.FLOATS)) for _ in range(6)],
        sinks=softmax and draw(st.booleans()),
    )
    options["softmax"] = softmax
    if draw(st.booleans()):
        options |= {"mask": "causal", "window": draw(st.sampled_from((None, 1, 5, 8, 40)))}
    return arrays, options


class TestByMLX:
    @pytest.fixture(autouse=True)
    def by_mlx(self):
        with tg.use_backend("mlx"):
            yield

    @given(drawn=features())
    def test_agrees_with_float64(self, drawn):
        arrays, options = drawn
        check(arrays, **options)

    def test_agrees_with_mlx_sinks(self):
        (q, k, v), options = operands(np.random.default_rng(3), sinks=True)
        got = tg.attention_chain(q, k, v, **options)
        expected = mx.fast.scaled_dot_product_attention(q, k, v, scale=8**-0.5, **options)
        np.testing.assert_allclose(np.array(got), np.array(expected), atol=2e-6)

    def test_a_window_is_that_of_mlx_lm(self):
        (q, k, v), _ = operands(np.random.default_rng(4), lengths=(9, 21))
        # mlx-lm's create_causal_mask(9, offset=12, window_size=5)
        right, left = mx.arange(21)[None], mx.arange(12, 21)[:, None]
        mask = (left >= right) & (left < right + 5)
        got = tg.attention_chain(q, k, v, mask="causal", window=5)
        assert mx.array_equal(got, tg.attention_chain(q, k, v, mask=mask))

    def test_rows_that_see_nothing_but_a_sink(self):
        arrays, options = operands(np.random.default_rng(5), lengths=(9, 3), sinks=True)
        got = check(arrays, mask="causal", window=2, **options)
        assert np.all(np.array(got)[:, :, :6] == 0)
        _, lse = tg.attention_chain(*arrays, mask="causal", window=2, return_lse=True, **options)
        sinks = np.broadcast_to(np.array(options["sinks"])[None, :, None], (2, 4, 6))
        np.testing.assert_allclose(np.array(lse)[:, :, :6], sinks, rtol=1e-6)

    def test_sinks_without_keys(self):
        (q, k, v), options = operands(np.random.default_rng(6), lengths=(3, 0), sinks=True)
        out, lse = tg.attention_chain(q, k, v, return_lse=True, **options)
        assert np.all(np.array(out) == 0)
        assert mx.array_equal(lse, mx.broadcast_to(options["sinks"][None, :, None], (2, 4, 3)))

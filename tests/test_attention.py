"""Chained attention against float64 and against MLX's own attention."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import numpy as np
import oracle
import pytest
import strategies
from hypothesis import given
from hypothesis import strategies as st

import mlx_tilegemm as tg
from mlx_tilegemm.core import dtypes
from mlx_tilegemm.families.attention.kernels import attention_chain

pytestmark = pytest.mark.usefixtures("kernels")

CONFIGS = [str(config) for config in attention_chain.CONFIGS]
MASKS = ("none", "causal", "boolean", "additive")
HEAD_DIMS = (1, 7, 8, 9, 16, 33, 64)


@dataclass(frozen=True)
class Case:
    """One attention to check."""

    batch: int
    num_kv_heads: int
    group: int
    q_len: int
    kv_len: int
    head_dim: int
    value_dim: int
    dtypes: tuple[mx.Dtype, mx.Dtype, mx.Dtype]
    mask: str
    softmax: bool
    seed: int

    def operands(self):
        rng = np.random.default_rng(self.seed)
        heads = self.num_kv_heads * self.group
        shapes = (
            (self.batch, heads, self.q_len, self.head_dim),
            (self.batch, self.num_kv_heads, self.kv_len, self.head_dim),
            (self.batch, self.num_kv_heads, self.kv_len, self.value_dim),
        )
        return tuple(
            strategies.random_array(rng, shape, dtype)
            for shape, dtype in zip(shapes, self.dtypes, strict=True)
        )

    def mask_array(self):
        rng = np.random.default_rng(self.seed + 1)
        full = (self.batch, self.num_kv_heads * self.group, self.q_len, self.kv_len)
        shape = tuple(size if rng.random() < 0.6 else 1 for size in full)
        if self.mask == "boolean":
            return mx.array(rng.random(shape) < 0.6)
        if self.mask == "additive":
            return mx.array(rng.standard_normal(shape).astype(np.float32)).astype(mx.float16)
        return "causal" if self.mask == "causal" else None


@st.composite
def cases(draw) -> Case:
    """Draw attention of any mask, dtypes, head grouping and off-tile lengths."""
    return Case(
        batch=draw(st.sampled_from((1, 2))),
        num_kv_heads=draw(st.sampled_from((1, 2))),
        group=draw(st.sampled_from((1, 3))),
        q_len=draw(st.sampled_from((1, 7, 8, 9, 17, 33, 65))),
        kv_len=draw(st.sampled_from((1, 8, 15, 31, 32, 33, 70))),
        head_dim=draw(st.sampled_from(HEAD_DIMS)),
        value_dim=draw(st.sampled_from(HEAD_DIMS)),
        dtypes=tuple(draw(st.sampled_from(strategies.FLOATS)) for _ in range(3)),
        mask=draw(st.sampled_from(MASKS)),
        softmax=draw(st.booleans()),
        seed=draw(st.integers(0, 2**16)),
    )


def check(q, k, v, *, kernel="attention_chain", softmax=True, mask=None, scale=None, **kwargs):
    """Run attention, check numbers, log-sum-exp, dtype and route."""
    options = {"softmax": softmax, "mask": mask, "scale": scale, **kwargs}
    with tg.use_kernel(kernel):
        route = tg.explain(tg.attention_chain, q, k, v, **options).route
        got = tg.attention_chain(q, k, v, **options)
        lse = None
        if softmax:
            again, lse = tg.attention_chain(q, k, v, **options, return_lse=True)
            if route != "mlx":  # which has another op for each
                np.testing.assert_array_equal(oracle.to_numpy(again), oracle.to_numpy(got))
    assert route == kernel.split("/")[0]
    used = (q.shape[-1] ** -0.5 if softmax else 1.0) if scale is None else scale
    value, bound, expected_lse = oracle.attention(q, k, v, scale=used, softmax=softmax, mask=mask)
    out = dtypes.from_mlx(got.dtype)
    label = f"{q.shape} {k.shape} {v.shape} {q.dtype} {k.dtype} {v.dtype} {softmax} {mask}"
    oracle.assert_close(got, value, bound + oracle.rounding(value, out), label)
    if lse is not None:
        oracle.assert_close(again, value, bound + oracle.rounding(value, out), label)
        assert lse.dtype == mx.float32
        oracle.assert_close(lse, *expected_lse, "log-sum-exp " + label)
    return got


def operands(*shapes, dtype=mx.float16, seed=0):
    rng = np.random.default_rng(seed)
    return tuple(strategies.random_array(rng, shape, dtype) for shape in shapes)


@pytest.mark.slow
@given(case=cases())
def test_the_dispatchers_choice_agrees_with_float64(case):
    q, k, v = case.operands()
    check(q, k, v, softmax=case.softmax, mask=case.mask_array())


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS)
@given(case=cases())
def test_every_configuration(config, case):
    q, k, v = case.operands()
    kernel = f"attention_chain/{config}"
    staged = (q, k, v) if "reread" in config else (k, v)
    if "staged" in config and min(x.size for x in staged) < 8:
        kernel = "attention_chain"
    check(q, k, v, kernel=kernel, softmax=case.softmax, mask=case.mask_array())


@pytest.mark.slow
@pytest.mark.parametrize("mask", [None, "causal"])
@pytest.mark.parametrize("head_dim", [64, 80, 128])
def test_against_mlx_attention(head_dim, mask):
    q, k, v = operands((1, 4, 40, head_dim), (1, 2, 50, head_dim), (1, 2, 50, head_dim))
    got = check(q, k, v, mask=mask)
    reference = mx.fast.scaled_dot_product_attention(q, k, v, scale=head_dim**-0.5, mask=mask)
    assert got.dtype == reference.dtype
    value, bound, _ = oracle.attention(q, k, v, scale=head_dim**-0.5, mask=mask)
    # MLX rounds its scores to float16 on the way, so its own share of the error is larger.
    share = np.abs(value) + np.abs(oracle.to_numpy(reference))
    allowed = bound + 2.0**-8 * (share + 1.0)
    oracle.assert_close(got, oracle.to_numpy(reference), allowed)


def test_scores_are_never_rounded_between_the_products():
    q, k, v = operands((1, 1, 32, 64), (1, 1, 32, 64), (1, 1, 32, 64))
    got = check(q, k, v, softmax=False, out_dtype=mx.float32)
    value, _, _ = oracle.attention(q, k, v, scale=1.0, softmax=False)
    error = np.linalg.norm(oracle.to_numpy(got) - value) / np.linalg.norm(value)
    # Scores rounded to float16 would leave 2e-4, to bfloat16 2e-3.
    assert error < 1e-6


@pytest.mark.parametrize("softmax", [True, False])
def test_causal_rows_with_nothing_to_attend_to_are_zero(softmax):
    q, k, v = operands((1, 1, 20, 16), (1, 1, 5, 16), (1, 1, 5, 8))
    got = check(q, k, v, mask="causal", softmax=softmax)
    np.testing.assert_array_equal(np.array(got)[0, 0, :15], 0.0)
    if softmax:
        _, lse = tg.attention_chain(q, k, v, mask="causal", return_lse=True)
        assert np.all(np.array(lse)[0, 0, :15] == -np.inf)


@pytest.mark.parametrize("mask_kind", ["boolean", "additive"])
def test_rows_masked_everywhere_are_zero(mask_kind):
    q, k, v = operands((2, 2, 9, 8), (2, 2, 33, 8), (2, 2, 33, 8))
    keep = np.ones((2, 2, 9, 33), dtype=bool)
    keep[0, 1, 3] = False
    keep[:, :, 8] = False
    mask = mx.array(keep) if mask_kind == "boolean" else mx.where(mx.array(keep), 0.0, -mx.inf)
    got = np.array(check(q, k, v, mask=mask))
    assert np.all(got[0, 1, 3] == 0)
    assert np.all(got[:, :, 8] == 0)


@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1, 1), (33,), (9, 33), (9, 1), (2, 1, 1, 33), (4, 1, 33), (2, 4, 9, 33)],
    ids=str,
)
@pytest.mark.parametrize("mask_kind", ["boolean", pytest.param("additive", marks=pytest.mark.slow)])
def test_masks_broadcast(mask_kind, shape):
    q, k, v = operands((2, 4, 9, 16), (2, 2, 33, 16), (2, 2, 33, 16))
    rng = np.random.default_rng(5)
    values = rng.standard_normal(shape).astype(np.float32)
    mask = mx.array(values > -0.3) if mask_kind == "boolean" else mx.array(values)
    check(q, k, v, mask=mask)
    check(q, k, v, mask=mask, softmax=False)


@pytest.mark.parametrize("scale", [0.0, -0.7, 3.0, 1e-3])
def test_any_scale(scale):
    q, k, v = operands((1, 2, 9, 8), (1, 2, 9, 8), (1, 2, 9, 8), dtype=mx.float32)
    check(q, k, v, scale=scale)
    check(q, k, v, scale=scale, softmax=False)


def test_large_scores_do_not_overflow():
    q, k, v = operands((1, 1, 9, 8), (1, 1, 40, 8), (1, 1, 40, 8), dtype=mx.float32)
    check(q * 100, k * 100, v)


def test_nan_reaches_its_own_row_and_no_other():
    q, k, v = operands((1, 1, 9, 8), (1, 1, 9, 8), (1, 1, 9, 8), dtype=mx.float32)
    q[0, 0, 4, 2] = mx.nan
    with tg.use_kernel("attention_chain"):
        got = np.array(tg.attention_chain(q, k, v))[0, 0]
    assert np.isnan(got[4]).all()
    assert np.isfinite(np.delete(got, 4, axis=0)).all()


@pytest.mark.parametrize(
    ("q", "k", "v"),
    [
        ((1, 1, 1, 1), (1, 1, 1, 1), (1, 1, 1, 1)),
        ((1, 1, 2, 3), (1, 1, 2, 3), (1, 1, 2, 3)),
        ((1, 2, 1, 2), (1, 1, 3, 2), (1, 1, 3, 1)),
    ],
    ids=str,
)
def test_tiny_operands(q, k, v):
    check(*operands(q, k, v))


@pytest.mark.parametrize("head_dim", [513, 600])
def test_larger_heads_go_to_mlx_and_explain_says_so(head_dim):
    q, k, v = operands((1, 1, 70, head_dim), (1, 1, 9, head_dim), (1, 1, 9, 8))
    explanation = tg.explain(tg.attention_chain, q, k, v)
    assert explanation.route == "mlx"
    assert f"head_dim {head_dim}" in str(explanation)
    check(q, k, v, kernel="mlx")


def test_largest_heads_fit():
    q, k, v = operands((1, 2, 33, 128), (1, 1, 70, 128), (1, 1, 70, 128), dtype=mx.float32)
    check(q, k, v)


def test_results_repeat_bit_for_bit():
    q, k, v = operands((1, 2, 33, 32), (1, 2, 70, 32), (1, 2, 70, 32))
    results = [np.array(tg.attention_chain(q, k, v, mask="causal")) for _ in range(12)]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])

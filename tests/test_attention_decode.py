"""Attention of few rows over many keys, in splits or not, against float64."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import oracle
import pytest
import strategies
from agx.markdown import UNDER
from hypothesis import given, settings
from hypothesis import strategies as st

import mlx_tilegemm as tg
from mlx_tilegemm import dispatch
from mlx_tilegemm.assurance.canary.instance import smallest_instance
from mlx_tilegemm.core import dtypes
from mlx_tilegemm.core.dtypes import BFLOAT16, FLOAT16, FLOAT32
from mlx_tilegemm.dispatch import choose
from mlx_tilegemm.errors import IllegalKernelError
from mlx_tilegemm.families.attention.kernels import attention_decode
from mlx_tilegemm.families.attention.problem import AttentionProblem, MaskKind, attention_problem
from mlx_tilegemm.families.attention.spelling import parse as parse_attention
from mlx_tilegemm.machine import chips

emulated = pytest.mark.usefixtures("kernels")

HALF = (mx.float16, mx.float16, mx.float16)
MIXED = (mx.float32, mx.bfloat16, mx.float16)
ALL_ROWS = ("32-1x4x1", "32-2x2x1", "32-4x1x1")
KV_LENS = (1, 7, 9, 31, 33, 64, 65, 127, 129, 270, 385)


def arrays(shapes, kinds, seed=0):
    rng = np.random.default_rng(seed)
    return [strategies.random_array(rng, *one) for one in zip(shapes, kinds, strict=True)]


def operands(batch, heads, lengths, dims, kinds=HALF, seed=0):
    """Return q, k and v: ``heads`` of both, ``lengths`` of both, and D and Dv."""
    (num_heads, kv_heads), (q_len, kv_len), (head_dim, value_dim) = heads, lengths, dims
    shapes = (
        (batch, num_heads, q_len, head_dim),
        (batch, kv_heads, kv_len, head_dim),
        (batch, kv_heads, kv_len, value_dim),
    )
    return arrays(shapes, kinds, seed)


def check(q, k, v, *, config=None, softmax=True, out_dtype=None, **options):
    """Run attention, check numbers, log-sum-exp and route."""
    kernel = "attention_decode" + (f"/{config}" if config else "")
    calls = {"softmax": softmax, "out_dtype": out_dtype, **options}
    with tg.use_kernel(kernel):
        assert tg.explain(tg.attention_chain, q, k, v, **calls).route == "attention_decode"
        got = tg.attention_chain(q, k, v, **calls)
        lse = None
        if softmax:
            again, lse = tg.attention_chain(q, k, v, **calls, return_lse=True)
            np.testing.assert_array_equal(oracle.to_numpy(again), oracle.to_numpy(got))
    depth = q.shape[-1] + (options["q_pe"].shape[-1] if "q_pe" in options else 0)
    scale = depth**-0.5 if softmax else 1.0
    value, bound, expected = oracle.attention(q, k, v, scale=scale, softmax=softmax, **options)
    label = f"{q.shape} {k.shape} {v.shape} {q.dtype} {k.dtype} {v.dtype} {config} {calls}"
    rounding = oracle.rounding(value, dtypes.from_mlx(got.dtype))
    oracle.assert_close(got, value, bound + rounding, label)
    if lse is not None:
        oracle.assert_close(lse, *expected, "log-sum-exp " + label)
    return got


def problem(heads=(32, 8), kv_len=4096, *, q_len=1, dims=(128, 128), kind=FLOAT16, **options):
    """State a decoding step."""
    shapes = ((1, heads[0], q_len), (1, heads[1], kv_len), (1, heads[1], kv_len))
    full = zip(shapes, (dims[0], dims[0], dims[1]), strict=True)
    names = ("q_shape", "k_shape", "v_shape")
    named = {name: (*shape, size) for name, (shape, size) in zip(names, full, strict=True)}
    fields = {"q": kind, "k": kind, "v": kind, "mask_kind": MaskKind.NONE, **options}
    return attention_problem("test", softmax=True, **named, **fields)


@st.composite
def runs(draw):
    """Draw what is run-time: batch, heads, lengths, and a seed."""
    group = draw(st.sampled_from((1, 3, 4)))
    kv_heads = draw(st.sampled_from((1, 2)))
    return (
        draw(st.sampled_from((1, 2))),
        (group * kv_heads, kv_heads),
        (draw(st.sampled_from((1, 2, 5, 8))), draw(st.sampled_from(KV_LENS))),
        draw(st.integers(0, 2**16)),
    )


def fitting(config, run, dims, kinds):
    """Return the operands of a run, and the configuration if it may serve that many keys."""
    batch, heads, lengths, seed = run
    q, k, v = operands(batch, heads, lengths, dims, kinds, seed)
    asked = problem(heads, lengths[1], q_len=lengths[0], dims=dims)
    legal = {str(one) for one in attention_decode.candidates(asked, chips.DEFAULT)}
    return q, k, v, config if config in legal else None


@pytest.mark.slow
@emulated
@pytest.mark.parametrize("splits", [pytest.param("split1", marks=pytest.mark.slow), "split2"])
@pytest.mark.parametrize("groups", ALL_ROWS)
@settings(max_examples=12)
@given(run=runs(), causal=st.sampled_from((None, "causal")))
def test_rows_and_keys_are_shared_out(groups, splits, run, causal):
    q, k, v, config = fitting(f"{groups}-{splits}", run, (32, 16), HALF)
    check(q, k, v, config=config, mask=causal)


@emulated
@pytest.mark.slow
@pytest.mark.parametrize(
    "dims", [(1, 7), (17, 9), (64, 40), (80, 128), (192, 128), (256, 250), (512, 512)], ids=str
)
@settings(max_examples=8)
@given(run=runs())
def test_head_sizes(dims, run):
    batch, heads, lengths, seed = run
    q, k, v = operands(batch, heads, lengths, dims, MIXED, seed)
    if min(k.size, v.size) >= 8:
        check(q, k, v)


@emulated
@pytest.mark.slow
@pytest.mark.parametrize("split", [1, 4])
@pytest.mark.parametrize("kinds", list(zip(strategies.FLOATS, MIXED, HALF[:1] * 3, strict=True)))
def test_dtypes(kinds, split):
    for kind in (kinds, kinds[::-1]):
        q, k, v = operands(1, (4, 2), (3, 600), (64, 24), kind)
        got = check(q, k, v, config=f"32-1x4x1-split{split}")
        assert got.dtype == (q[..., :1] @ mx.swapaxes(k, 2, 3)[:, :1, :1] @ v[:, :1]).dtype


@pytest.mark.slow
@emulated
@pytest.mark.parametrize("splits", [pytest.param("split1", marks=pytest.mark.slow), "split2"])
@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize("kind", ["boolean", "additive"])
def test_masks_broadcast(kind, softmax, splits):
    q, k, v = operands(2, (4, 2), (3, 150), (32, 16))
    rng = np.random.default_rng(5)
    for shape in ((1, 1, 1, 1), (150,), (3, 1), (2, 1, 1, 150), (4, 1, 150), (2, 4, 3, 150)):
        values = rng.standard_normal(shape).astype(np.float32)
        mask = mx.array(values > -0.3) if kind == "boolean" else mx.array(values)
        check(q, k, v, config=f"32-1x4x1-{splits}", softmax=softmax, mask=mask)


@emulated
@pytest.mark.parametrize("splits", [pytest.param("split1", marks=pytest.mark.slow), "split2"])
def test_rows_with_nothing_to_attend_to_are_zero(splits):
    q, k, v = operands(2, (4, 2), (3, 150), (32, 16))
    keep = np.ones((2, 4, 3, 150), dtype=bool)
    keep[0, 1, 2] = False
    keep[:, :, 1, 20:] = False
    got = check(q, k, v, config=f"32-1x4x1-{splits}", mask=mx.array(keep))
    assert np.all(np.array(got)[0, 1, 2] == 0)


@emulated
@pytest.mark.parametrize("mask", [None, "causal"])
@pytest.mark.parametrize(
    ("config", "dims"), [("16-1x1x8-split1", (64, 64)), ("8-1x2x2-split1", (80, 80))], ids=str
)
def test_simdgroups_without_keys_meet_those_that_have_some(config, dims, mask):
    for kv_len in (5, 8, 17, 24, 33):
        q, k, v = operands(1, (4, 2), (2, kv_len), dims)
        check(q, k, v, config=config, mask=mask)


@emulated
def test_rows_before_the_first_key_are_zero():
    q, k, v = operands(1, (2, 1), (8, 5), (32, 16))
    got = np.array(check(q, k, v, config="32-1x4x1-split1", mask="causal"))
    np.testing.assert_array_equal(got[:, :, :3], 0)


@emulated
@pytest.mark.parametrize("splits", [pytest.param("split1", marks=pytest.mark.slow), "split2"])
@pytest.mark.slow
def test_windows(splits):
    for kv_len, window in ((300, 1), (300, 129), (300, 200), (300, 299), (200, 190)):
        q, k, v = operands(1, (4, 2), (5, kv_len), (32, 16))
        forced = f"32-1x4x1-{splits}" if window > 128 else None
        check(q, k, v, config=forced, mask="causal", window=window)


@emulated
def test_keys_outside_the_window_are_not_read():
    q, k, v = operands(1, (2, 1), (2, 600), (32, 16))
    asked = problem((2, 1), 600, q_len=2, dims=(32, 16), mask_kind=MaskKind.CAUSAL, window=100)
    config = next(iter(attention_decode.candidates(asked, chips.DEFAULT)))
    stage = attention_decode.plan(asked, config).stages[0]
    assert stage.launch.sizes["first_key"] == 600 - 2 - 100 + 1
    # What is not a number would reach every row that reads it, even with a weight of zero.
    v[:, :, :499] = mx.nan
    got = check_finite(q, k, v, mask="causal", window=100)
    np.testing.assert_array_equal(
        got, check_finite(q, k, mx.nan_to_num(v), mask="causal", window=100)
    )


def check_finite(q, k, v, **options):
    """Return a result that has to be free of NaN."""
    with tg.use_kernel("attention_decode"):
        got = np.array(tg.attention_chain(q, k, v, **options))
    assert np.isfinite(got).all()
    return got


@emulated
@pytest.mark.parametrize("splits", [pytest.param("split1", marks=pytest.mark.slow), "split2"])
def test_sinks(splits):
    config = f"32-1x4x1-{splits}"
    q, k, v = operands(2, (6, 2), (3, 150), (32, 16))
    for values in ([1, -2, 0.5, 40, -60, 3], [-np.inf] * 6):
        check(q, k, v, config=config, sinks=mx.array(values, dtype=mx.float16))
    nothing = check(q, k, v, config=config, sinks=mx.ones(6), mask=mx.zeros((150,), dtype=mx.bool_))
    np.testing.assert_array_equal(np.array(nothing), 0)


@pytest.mark.slow
@emulated
@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize("pe_heads", [1, 2])
def test_positional_parts(pe_heads, softmax):
    q, k, v = operands(2, (6, 2), (3, 150), (32, 16))
    q_pe, k_pe = arrays(((2, 6, 3, 24), (2, pe_heads, 150, 24)), (mx.bfloat16, mx.float32), 3)
    for splits in ("split1", "split2"):
        check(q, k, v, config=f"32-1x4x1-{splits}", softmax=softmax, q_pe=q_pe, k_pe=k_pe)


@emulated
@pytest.mark.slow
def test_absorbed_latent_attention():
    q, k, _ = operands(1, (16, 1), (2, 150), (512, 1))
    q_pe, k_pe = arrays(((1, 16, 2, 64), (1, 1, 150, 64)), (mx.float16, mx.float16), 3)
    for config in ("8-1x1x4-split1", "8-1x1x4-split4"):
        check(q, k, k, config=config, q_pe=q_pe, k_pe=k_pe, mask="causal")


@emulated
def test_all_features_at_once():
    q, k, v = operands(2, (6, 2), (3, 400), (32, 16), MIXED)
    q_pe, k_pe = arrays(((2, 6, 3, 9), (2, 1, 400, 9)), (mx.bfloat16, mx.float16), 3)
    check(
        q,
        k,
        v,
        config="32-1x4x1-split2",
        q_pe=q_pe,
        k_pe=k_pe,
        mask="causal",
        window=277,
        sinks=mx.array([0.5, -1, 2, 0, 1, -3]),
        out_dtype=mx.bfloat16,
    )


@emulated
def test_large_scores_do_not_overflow():
    q, k, v = operands(1, (2, 1), (1, 300), (32, 16), (mx.float32,) * 3)
    check(q * 100, k * 100, v, config="32-1x4x1-split2")


@emulated
def test_results_repeat_bit_for_bit():
    q, k, v = operands(1, (4, 2), (1, 600), (32, 16))
    with tg.use_kernel("attention_decode/32-1x4x1-split4"):
        results = [np.array(tg.attention_chain(q, k, v)) for _ in range(8)]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


class TestChoice:
    """Which kernel decoding gets; modelled, and the same on every machine."""

    @pytest.mark.parametrize("chip", chips.CHIPS, ids=lambda chip: chip.name)
    @pytest.mark.parametrize(
        "asked",
        [
            problem(),
            problem(kv_len=65536),
            problem(q_len=4, mask_kind=MaskKind.CAUSAL),
            problem((64, 8), 8192, dims=(64, 64)),
            problem((16, 16), 4096, dims=(192, 128)),
            problem((8, 4), 8192, dims=(256, 256)),
            replace(problem(), q=FLOAT32, k=BFLOAT16, out=FLOAT32),
        ],
        ids=str,
    )
    def test_decoding_is_served_here(self, asked, chip):
        assert choose(asked, chip, mlx_competes=True).route == "attention_decode"

    def test_prompts_are_not(self):
        asked = problem(q_len=512)
        assert choose(asked, chips.DEFAULT).route == "attention_chain"

    @pytest.mark.slow
    @pytest.mark.parametrize("chip", chips.CHIPS, ids=lambda chip: chip.name)
    def test_a_growing_cache_needs_few_texts(self, chip):
        texts = set()
        for kv_len in [*range(1, 600), *range(600, 20000, 97)]:
            plan = choose(problem(kv_len=kv_len), chip).plan
            texts |= {stage.spec for stage in plan.stages}
        # Two tiles, each for all keys or a share of them, and the text that joins shares.
        assert len(texts) <= 5

    @pytest.mark.parametrize("window", [None, 100])
    def test_lengths_that_share_a_choice_get_plans_of_their_own(self, window):
        mask = MaskKind.CAUSAL if window else MaskKind.NONE
        for kv_len in [*range(101, 300), *range(2000, 2100, 7)]:
            asked = problem(kv_len=kv_len, mask_kind=mask, window=window)
            decision = choose(asked, chips.DEFAULT)
            assert decision.plan.stages[0].launch.sizes["kv_len"] == kv_len
            assert decision.plan in [one.plan for one in decision.candidates]
            for one in decision.candidates:
                if one.recipe is None:
                    continue
                refused = one.recipe.kernel.reject(asked, one.recipe.config, chips.DEFAULT)
                assert refused is None

    def test_a_token_more_is_not_priced_anew(self, monkeypatch):
        priced = []

        def counted(*args):
            priced.append(args)
            return attention_decode.cost(*args)

        kernel = replace(attention_decode.KERNEL, cost=counted)
        monkeypatch.setattr(dispatch, "kernels_of", lambda problem_type: (kernel,))
        for kv_len in range(33001, 33201):
            choose(problem((2, 2), kv_len), chips.DEFAULT)
        assert 0 < len(priced) < 20

    @pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16, FLOAT32], ids=str)
    def test_one_tile_leaves_all_threads_even_where_its_estimate_is_too_low(self, dtype):
        chip = chips.get("m1")
        most, _ = chip.occupancy[0]
        asked = problem(dims=(64, 64), kind=dtype)
        *_, last = attention_decode.candidates(asked, chip)
        (stage, *_) = attention_decode.plan(asked, last).stages
        assert stage.resources.registers + UNDER <= most

    def test_refusals_name_the_problem_that_was_asked_for(self):
        with pytest.raises(IllegalKernelError, match="kv_len 1001"):
            choose(problem((1, 1), 1001, dims=(600, 600)), chips.DEFAULT, "attention_chain")

    def test_every_legal_plan_covers_each_key_once(self):
        for kv_len in (1, 129, 1000, 8191):
            for config in attention_decode.candidates(problem(kv_len=kv_len), chips.DEFAULT):
                if attention_decode.reject(problem(kv_len=kv_len), config, chips.DEFAULT):
                    continue
                launch = attention_decode.plan(problem(kv_len=kv_len), config).stages[0].launch
                splits, keys = launch.grid[1], launch.sizes["keys_per_split"]
                assert (splits - 1) * keys < kv_len <= splits * keys
                assert keys % config.tile.round_keys == 0

    def test_what_may_not_be_served(self):
        def reason(asked: AttentionProblem) -> str | None:
            config = next(iter(attention_decode.candidates(problem(), chips.DEFAULT)))
            return attention_decode.reject(asked, config, chips.DEFAULT)

        assert "65 queries" in reason(problem(q_len=65))
        tiny = reason(problem((1, 1), 7, dims=(2, 1)))
        assert tiny.startswith("v has 7 elements")
        assert "constant address space" in tiny
        assert "no keys" in reason(replace(problem(), kv_len=0))

    @pytest.mark.parametrize("window", [None, 4096])
    def test_long_caches_have_a_small_instance_to_try(self, window):
        chip = chips.get("m4-max")
        mask = MaskKind.CAUSAL if window else MaskKind.NONE
        asked = problem(kv_len=1 << 20, window=window, mask_kind=mask)
        plan = choose(asked, chip).plan
        assert (plan.kernel, len(plan.stages)) == ("attention_decode", 2)
        assert smallest_instance(asked, plan, chip).problem.kv_len <= 300


@pytest.mark.parametrize("name", ["m1", "m4-max", "m3-ultra"])
def test_splits_that_are_not_considered_would_not_be_chosen(name):
    chip, skipped = chips.get(name), 0
    for spelled in ("1x8x1x1x6000x128:f16", "1x32x8x4x200000x128:f16", "2x2x1x1x3000x64:f32"):
        problem = parse_attention(spelled)
        found = list(attention_decode.candidates(problem, chip))
        fastest = min(attention_decode.cost(problem, one, chip) for one in found)
        for tile in dict.fromkeys(one.tile for one in found):
            considered = {one.splits for one in found if one.tile == tile}
            for splits in {2**i for i in range(8) if 2**i < max(considered)} - considered:
                config = attention_decode.Config(tile, splits)
                skipped += 1
                assert attention_decode.reject(problem, config, chip) is None
                assert attention_decode.cost(problem, config, chip) > dispatch.RESOLUTION * fastest
    assert skipped > 3

"""Windows, sinks and positional parts of attention: what is asked, and MLX's answer."""

from __future__ import annotations

import re
from dataclasses import replace

import mlx.core as mx
import numpy as np
import oracle
import pytest
import strategies
from hypothesis import given
from hypothesis import strategies as st

import mlx_tilegemm as tg
from mlx_tilegemm import backends, emulator
from mlx_tilegemm.backends.launch import kernel_run
from mlx_tilegemm.core import dtypes
from mlx_tilegemm.core.arguments import ArraySpec
from mlx_tilegemm.core.plan import Sizes
from mlx_tilegemm.errors import DTypeError, KernelCheckError, ProblemError
from mlx_tilegemm.families.attention.kernels import attention_chain
from mlx_tilegemm.families.attention.price import serves_attention
from mlx_tilegemm.families.attention.problem import MaskKind, attention_problem
from mlx_tilegemm.families.attention.spec import MASK_SIZES, ROW_SIZES
from mlx_tilegemm.families.attention.work import AttentionTile, attention_work
from mlx_tilegemm.machine import chips

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
            ({"sinks": SINKS * 1j}, DTypeError, r"sinks of float32.* got complex64"),
            ({"sinks": SINKS, "softmax": False}, ProblemError, r"softmax=True with sinks"),
            ({"sinks": [0.0] * 4}, DTypeError, r"sinks to be an mlx.core.array, got list"),
            ({"q_pe": Q_PE}, ProblemError, r"both q_pe and k_pe, or neither, got no k_pe"),
            ({"k_pe": K_PE}, ProblemError, r"both q_pe and k_pe, or neither, got no q_pe"),
            ({"q_pe": Q_PE[:, :2], "k_pe": K_PE}, ProblemError, r"q_pe of q's shape .*\(2,2,5,3\)"),
            ({"q_pe": Q_PE, "k_pe": K_PE[:1]}, ProblemError, r"k_pe of k's batch size .*\(1,1,7"),
            ({"q_pe": Q_PE, "k_pe": K_PE[..., :2]}, ProblemError, r"q_pe's last axis"),
            ({"q_pe": Q_PE, "k_pe": mx.zeros((2, 4, 7, 3))}, ProblemError, r"of one head or k's"),
            ({"q_pe": Q_PE * 1j, "k_pe": K_PE}, DTypeError, r"q_pe of .* got complex64"),
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
            ({"sinks": ArraySpec(shape=(4,), dtype=mx.float32)}, True),
            ({"mask": "causal", "window": 9}, True),
            ({"mask": ArraySpec(shape=(32, 32), dtype=mx.bool_)}, True),
            ({"out_dtype": mx.float32}, True),
            ({"q_pe": (16,), "k_pe": (16,)}, False),
            ({"softmax": False}, False),
            ({"return_lse": True}, False),
        ],
    )
    def test_what_mlx_fused_attention_serves(self, options, served):
        q = ArraySpec(shape=(1, 4, 32, 64), dtype=mx.float16)
        for name in ("q_pe", "k_pe"):
            if name in options:
                shape = (1, 4, 32, *options[name])
                options = options | {name: ArraySpec(shape=shape, dtype=mx.float16)}
        problem = tg.explain(tg.attention_chain, q, q, q, **options).problem
        assert serves_attention(problem, chips.DEFAULT) is served


def operands(rng, *, lengths=(9, 21), sizes=(8, 5, 0), heads=(4, 2, 1), types=None, sinks=False):
    """Return q, k, v and the options that are arrays."""
    (q_len, kv_len), (head, value, pe), (hq, hkv, hp) = lengths, sizes, heads
    types = types or (mx.float32,) * 6
    shapes = [(2, hq, q_len, head), (2, hkv, kv_len, head), (2, hkv, kv_len, value)]
    shapes += [(2, hq, q_len, pe), (2, hp, kv_len, pe), (hq,)]
    arrays = [strategies.random_array(rng, *pair) for pair in zip(shapes, types, strict=True)]
    extras = {"q_pe": arrays[3], "k_pe": arrays[4]} if pe else {}
    return arrays[:3], extras | ({"sinks": arrays[5]} if sinks else {})


def check(arrays, kernel=None, **options):
    """Compare a call with float64, and its route with the kernel that is asked for."""
    if kernel:
        with tg.use_kernel(kernel):
            assert tg.explain(tg.attention_chain, *arrays, **options).route == kernel.split("/")[0]
            return check(arrays, **options)
    softmax = options.get("softmax", True)
    depth = arrays[0].shape[-1] + (options["q_pe"].shape[-1] if "q_pe" in options else 0)
    scale = depth**-0.5 if softmax else 1.0
    value, bound, lse = oracle.attention(*arrays, scale=scale, **options)
    got = tg.attention_chain(*arrays, **options)
    out = dtypes.from_mlx(got.dtype)
    oracle.assert_close(got, value, bound + oracle.rounding(value, out))
    if softmax:
        again, got_lse = tg.attention_chain(*arrays, **options, return_lse=True)
        oracle.assert_close(again, value, bound + oracle.rounding(value, out))
        if tg.explain(tg.attention_chain, *arrays, **options).route != "mlx":
            assert mx.array_equal(again, got), "MLX has another op for each"
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


KERNEL = "attention_chain"
LENGTHS = ((1, 33), (9, 31), (17, 70), (33, 9))


@pytest.mark.usefixtures("kernels")
class TestByTheKernel:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("config", "feature"),
        [
            ("8x32-direct", {"sinks": True}),
            ("32x16-staged", {"pe": 3}),
            ("16x32-direct", {"pe": 12, "window": 6, "sinks": True}),
            ("32x32-staged", {"pe": 8, "window": 8, "types": mx.bfloat16}),
            ("32x16-direct", {"pe": 9, "window": 6, "softmax": False}),
            ("16x32-staged", {"pe": 16, "mask": mx.float16, "sinks": True, "types": mx.float16}),
        ],
        ids=str,
    )
    def test_features(self, config, feature):
        rng = np.random.default_rng(7)
        options = {"softmax": feature.get("softmax", True)}
        if "window" in feature:
            options |= {"mask": "causal", "window": feature["window"]}
        types = (feature.get("types", mx.float32),) * 3 + (mx.float16, mx.bfloat16, mx.float32)
        for lengths, hp in zip(LENGTHS, (1, 2, 1, 2), strict=True):
            arrays, extras = operands(
                rng,
                lengths=lengths,
                sizes=(24, 17, feature.get("pe", 0)),
                heads=(4, 2, hp),
                types=types,
                sinks=feature.get("sinks", False),
            )
            if "mask" in feature:
                extras["mask"] = strategies.random_array(rng, lengths, feature["mask"])
            check(arrays, f"{KERNEL}/{config}", **options, **extras)

    def test_keys_far_before_the_window_are_not_read(self):
        arrays, _ = operands(np.random.default_rng(8), lengths=(9, 100), sizes=(8, 8, 0))
        clean = check(arrays, f"{KERNEL}/8x32-direct", mask="causal", window=10)
        for array in arrays[1:]:
            array[:, :, :64] = mx.nan
        with tg.use_kernel(f"{KERNEL}/8x32-direct"):
            got = tg.attention_chain(*arrays, mask="causal", window=10)
        assert mx.array_equal(got[:, :, -8:], clean[:, :, -8:])

    def test_sinks_of_infinity_are_as_none(self):
        arrays, _ = operands(np.random.default_rng(9), lengths=(9, 5))
        none = mx.full((4,), -mx.inf)
        with_sinks = check(arrays, KERNEL, mask="causal", sinks=none)
        assert mx.array_equal(with_sinks, tg.attention_chain(*arrays, mask="causal"))


LARGE = {
    # D, Dv, Dp: the options, and how many of the configurations are legal.
    (150, 190, 5): {"mask": "causal", "window": 20, "sinks": True},
    (512, 512, 64): {},
}


def grouped_configs():
    for sizes, options in LARGE.items():
        problem = attention_problem(
            "test",
            q_shape=(2, 4, 9, sizes[0]),
            k_shape=(2, 2, 70, sizes[0]),
            v_shape=(2, 2, 70, sizes[1]),
            q_pe_shape=(2, 4, 9, sizes[2]),
            k_pe_shape=(2, 1, 70, sizes[2]),
            **dict.fromkeys(("q", "k", "v", "q_pe", "k_pe"), dtypes.FLOAT16),
            softmax=True,
            mask_kind=MaskKind.NONE,
        )
        chip = tg.explain(tg.attention_chain, Q, K, K).chip
        for config in attention_chain.candidates(problem, chip):
            if attention_chain.reject(problem, config, chip) is None:
                yield pytest.param(sizes, options, str(config), id=f"{sizes}-{config}")


@pytest.mark.usefixtures("kernels")
class TestLargeHeads:
    @pytest.mark.slow
    @pytest.mark.parametrize(("sizes", "options", "config"), [*grouped_configs()])
    def test_every_configuration(self, sizes, options, config):
        rng = np.random.default_rng(10)
        for lengths in ((19, 70), (33, 37)):
            arrays, extras = operands(
                rng,
                lengths=lengths,
                sizes=sizes,
                types=(mx.float16,) * 5 + (mx.float32,),
                sinks="sinks" in options,
            )
            check(arrays, f"{KERNEL}/{config}", **{**options, **extras})

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("sizes", "heads", "options"),
        [
            ((256, 256, 0), (4, 2, 1), {"mask": "causal"}),
            ((192, 128, 0), (2, 2, 1), {"mask": "causal"}),
            ((128, 128, 64), (2, 2, 1), {"mask": "causal"}),
            ((130, 255, 0), (2, 1, 1), {"softmax": False}),
            ((9, 250, 0), (2, 1, 1), {}),
        ],
        ids=str,
    )
    def test_the_dispatcher_serves_what_models_have(self, sizes, heads, options):
        rng = np.random.default_rng(11)
        for lengths in ((9, 17), (65, 33)):
            types = (mx.bfloat16, mx.float16, mx.float16, *(mx.float16,) * 3)
            arrays, extras = operands(rng, lengths=lengths, sizes=sizes, heads=heads, types=types)
            check(arrays, KERNEL, **options, **extras)

    def test_one_array_may_be_keys_and_values(self):
        rng = np.random.default_rng(12)
        (q, latent, _), extras = operands(rng, sizes=(512, 1, 64), heads=(4, 1, 1))
        check((q, latent, latent), KERNEL, mask="causal", **extras)

    def test_results_repeat_bit_for_bit(self):
        arrays, _ = operands(np.random.default_rng(13), lengths=(19, 70), sizes=(256, 256, 0))
        results = [tg.attention_chain(*arrays, mask="causal") for _ in range(8)]
        assert all(mx.array_equal(results[0], one) for one in results[1:])


class TestLongContexts:
    """Kernels are told of more than 2^31 elements and given few; what they miss is reported."""

    @staticmethod
    def first_missed(config, problem, **launch):
        """Return the first element that is missed of each operand and output."""
        found = attention_chain.plan(problem, attention_chain.CONFIGS[config])
        stage = found.stages[0]
        stage = replace(stage, launch=replace(stage.launch, **launch))
        with tg.use_backend("emulator"):
            backend = backends.resolve().backend
            run = kernel_run(problem, replace(found, stages=(stage,)), backend)
            few = [mx.zeros((5000,), dtype=mx.float16)] * len(problem.operand_names)
            with pytest.raises(KernelCheckError) as caught:
                run(few, (1.0,), None)
        missed = re.findall(r"at element (-?\d+) of '(\w+)'", str(caught.value))
        return {name: min(int(at) for at, of in missed if of == name) for _, name in missed}

    @pytest.mark.parametrize("config", [0, 4], ids=["staged", "direct"])
    def test_keys(self, config):
        length = 2**26 + 7
        shapes = {"q": (1, 1, 9, 64), "q_pe": (1, 1, 9, 40), "k_pe": (1, 1, length, 40)}
        shapes |= {"k": (1, 1, length, 64), "v": (1, 1, length, 72)}
        problem = attention_problem(
            "test",
            **{f"{name}_shape": shape for name, shape in shapes.items()},
            **dict.fromkeys(shapes, dtypes.FLOAT16),
            softmax=True,
            mask_kind=MaskKind.CAUSAL,
            window=20,
        )
        missed = self.first_missed(config, problem)
        first = (length - 9 - 20 + 1) // 32 * 32
        assert first * 40 > 2**31
        assert missed["k"] == first * 64
        assert missed["k_pe"] == first * 40
        assert missed["v"] // 72 // 32 == first // 32

    def test_rows(self):
        heads, q_len, kv_len = 2**22, 9, 64
        problem = attention_problem(
            "test",
            q_shape=(1, 1, q_len, 64),
            k_shape=(1, 1, kv_len, 64),
            v_shape=(1, 1, kv_len, 72),
            **dict.fromkeys(("q", "k", "v"), dtypes.FLOAT16),
            softmax=True,
            mask_kind=MaskKind.ADDITIVE,
            mask_shape=(1, 1, q_len, kv_len),
            mask=dtypes.FLOAT16,
            return_lse=True,
        )
        # The second batch row, where so many heads share one k and v.
        values = (q_len, kv_len, heads, heads, heads, 1, q_len, kv_len)
        sizes = Sizes((*ROW_SIZES, *MASK_SIZES), values)
        missed = self.first_missed(4, problem, grid=(128, 1, 2), sizes=sizes)
        assert heads * q_len * kv_len > 2**31
        # The order of the lanes decides which element of a matrix is asked for first.
        assert missed["q"] // (q_len * 64) == heads
        assert missed["mask"] // (q_len * kv_len) == heads
        assert missed["out"] // (q_len * 72) == heads


GRADIENTS = {
    "sinks": {"sinks": True},
    "window and sinks": {"mask": "causal", "window": 5, "sinks": True},
    "positional": {"pe": 3, "sinks": True},
    "literal": {"pe": 3, "softmax": False, "mask": "causal", "window": 9},
}


class TestTransforms:
    @staticmethod
    def called(feature, lengths=(9, 21)):
        """Return operands and a function of them that depends on everything a call returns."""
        rng = np.random.default_rng(14)
        sizes, sinks = (8, 5, feature.get("pe", 0)), feature.get("sinks", False)
        arrays, extras = operands(rng, lengths=lengths, sizes=sizes, sinks=sinks)
        options = {name: feature[name] for name in ("mask", "window") if name in feature}
        softmax = feature.get("softmax", True)
        names = list(extras)

        def loss(q, k, v, *given):
            keywords = dict(zip(names, given, strict=True)) | options
            if not softmax:
                return tg.attention_chain(q, k, v, softmax=False, **keywords).square().sum()
            out, lse = tg.attention_chain(q, k, v, return_lse=True, **keywords)
            return out.square().sum() + mx.where(mx.isfinite(lse), lse, 0.0).sin().sum()

        return [*arrays, *extras.values()], loss

    @pytest.mark.slow
    @pytest.mark.parametrize("name", GRADIENTS)
    @pytest.mark.parametrize("lengths", [(9, 21), (9, 4)], ids=str)
    def test_gradients_are_those_of_plain_ops(self, kernels, name, lengths):
        arrays, loss = self.called(GRADIENTS[name], lengths)
        gradient = mx.grad(loss, argnums=list(range(len(arrays))))
        got = gradient(*arrays)
        with tg.use_backend("mlx"):
            expected = gradient(*arrays)
        for one, other in zip(got, expected, strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_allclose(np.array(one), np.array(other), rtol=2e-4, atol=2e-5)

    @pytest.mark.slow
    @pytest.mark.parametrize("mapped", [(0, None, None, None), (0, 0, 0, 0)], ids=str)
    def test_batching_with_sinks(self, lazy, mapped):
        rng = np.random.default_rng(15)
        arrays, extras = operands(rng, sinks=True)
        one = [*arrays, extras["sinks"]]
        many = [
            mx.stack([x, x[::-1], 2 * x]) if axis == 0 else x
            for x, axis in zip(one, mapped, strict=True)
        ]

        def loss(q, k, v, sinks):
            return tg.attention_chain(q, k, v, sinks=sinks, mask="causal", window=5).square().sum()

        gradient = mx.grad(loss, argnums=(0, 3))
        got = mx.vmap(gradient, in_axes=mapped)(*many)
        with tg.use_backend("mlx"):
            expected = mx.vmap(gradient, in_axes=mapped)(*many)
        for mine, other in zip(got, expected, strict=True):
            np.testing.assert_allclose(np.array(mine), np.array(other), rtol=2e-4, atol=2e-5)


class TestTheModel:
    """What the model counts is what the emulator counts."""

    @staticmethod
    def counted(config, *, sizes, lengths, window=None):
        """Return what a launch did, and what the model says a threadgroup of it does."""
        rng = np.random.default_rng(16)
        types = (mx.float16,) * 6
        arrays, extras = operands(rng, sizes=sizes, lengths=lengths, types=types)
        if window:
            extras |= {"mask": "causal", "window": window}
        with tg.use_backend("emulator"), tg.use_kernel(f"{KERNEL}/{config}"):
            explanation = tg.explain(tg.attention_chain, *arrays, **extras)
            with tg.use_gradients(False), emulator.count() as launches:
                mx.eval(tg.attention_chain(*arrays, **extras))
        found = next(
            one
            for one in attention_chain.candidates(explanation.problem, explanation.chip)
            if str(one) == config
        )
        tile = AttentionTile(
            simdgroups=found.simdgroups,
            block_kv=found.block_kv,
            staged=found.staged,
            registers=0,
            threadgroup_memory=0,
            head_groups=found.head_groups,
        )
        work = attention_work(explanation.problem, tile, explanation.chip)
        return launches[0], work, explanation.chip

    @pytest.mark.parametrize("config", ["16x16-staged-heads2", "16x16-direct-heads2"])
    def test_rows_that_simdgroups_share(self, config):
        launched, work, chip = self.counted(config, sizes=(160, 128, 32), lengths=(32, 64))
        products = work.tiles * work.issue_cycles / chip.mma_cycles
        assert launched.multiply_accumulates == products
        passed = launched.threadgroup_loaded + launched.threadgroup_stored
        assert passed == work.tiles * work.threadgroup_bytes
        streamed = sum(launched.loaded[name] for name in ("k", "v", "k_pe"))
        per_tile = work.cache_bytes if "staged" in config else work.fragment_bytes
        assert streamed == work.tiles * per_tile

    def test_keys_that_a_window_leaves(self):
        sizes, lengths = (24, 16, 0), (64, 320)
        launched, work, chip = self.counted("16x32-direct", sizes=sizes, lengths=lengths, window=40)
        everything, *_ = self.counted("16x32-direct", sizes=sizes, lengths=lengths, window=319)
        products = work.tiles * work.issue_cycles / chip.mma_cycles
        assert launched.multiply_accumulates == pytest.approx(products, rel=0.2)
        assert launched.multiply_accumulates < everything.multiply_accumulates / 3

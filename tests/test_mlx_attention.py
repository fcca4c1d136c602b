"""The route by MLX's own ops calls MLX's own attention wherever that has what is asked for."""

from __future__ import annotations

from unittest import mock

import mlx.core as mx
import numpy as np
import oracle
import pytest
import strategies

import mlx_tilegemm as tg
from mlx_tilegemm.call import prepare
from mlx_tilegemm.core import mlx_ops
from mlx_tilegemm.core.caches import forget_prepared
from mlx_tilegemm.core.dtypes import from_mlx
from mlx_tilegemm.errors import ProblemError
from mlx_tilegemm.families.attention import fused
from mlx_tilegemm.families.attention import ops as attention_ops

F32, F16, BF16 = mx.float32, mx.float16, mx.bfloat16


@pytest.fixture(autouse=True)
def on_mlx():
    with tg.use_backend("mlx"):
        yield


@pytest.fixture
def fast(monkeypatch):
    """Return the calls of MLX's own attention, which are made."""
    spy = mock.Mock(wraps=mx.fast.scaled_dot_product_attention)
    monkeypatch.setattr(mlx_ops, "scaled_dot_product_attention", spy)
    return spy


@pytest.fixture
def on_gpu(monkeypatch):
    """Pretend to be on a GPU for which MLX has fused kernels of every size."""
    asked = []
    monkeypatch.setattr(fused, "is_on_gpu", lambda stream: True)
    for name in ("_has_node", "_remembered"):
        monkeypatch.setattr(fused, name, lambda *given, name=name: asked.append(name) or True)
    return asked


def operands(types=(F32, F32, F32), *, q_len=9, kv_len=21, pe=0, pe_heads=2):
    rng = np.random.default_rng(q_len + kv_len)
    shapes = [(2, 4, q_len, 8), (2, 2, kv_len, 8), (2, 2, kv_len, 5)]
    arrays = [strategies.random_array(rng, *pair) for pair in zip(shapes, types, strict=True)]
    if not pe:
        return arrays, {}
    parts = ((2, 4, q_len, pe), (2, pe_heads, kv_len, pe))
    q_pe, k_pe = (strategies.random_array(rng, shape, F32) for shape in parts)
    return arrays, {"q_pe": q_pe, "k_pe": k_pe}


def check(arrays, options, slack=0.0):
    got = tg.attention_chain(*arrays, **options)
    depth = 8 + (options["q_pe"].shape[-1] if "q_pe" in options else 0)
    given = {"scale": depth**-0.5, **options}
    given = {name: x for name, x in given.items() if name not in ("out_dtype", "precision")}
    value, bound, _ = oracle.attention(*arrays, **given)
    rounding = oracle.rounding(value, from_mlx(got.dtype))
    oracle.assert_close(got, value, bound + rounding + slack)
    return got


MASK = mx.array(np.random.default_rng(3).random((9, 21)) < 0.6)
MASK[0] = False
ADDED = mx.where(MASK, 0.5, -mx.inf)
SERVED = {
    "plain": {},
    "causal": {"mask": "causal"},
    "window": {"mask": "causal", "window": 4},
    "bool mask": {"mask": MASK},
    "mask of heads": {"mask": mx.stack([MASK] * 4)},
    "mask of keys": {"mask": MASK[1:2]},
    "mask of rows": {"mask": MASK[:, 3:4]},
    "additive mask": {"mask": ADDED},
    "bfloat16 mask": {"mask": ADDED.astype(BF16)},
    "sinks": {"sinks": mx.array([0.5, -1.0, 2.0, 0.0])},
    "sinks and mask": {"mask": MASK, "sinks": mx.array([0.5, -1.0, 2.0, 0.0])},
    "out": {"out_dtype": F16},
}


@pytest.mark.parametrize("types", [(F32, F32, F32), (F16, F16, F16), (F16, BF16, F32)], ids=str)
@pytest.mark.parametrize("name", SERVED)
def test_it_is_called_once_in_float32_on_a_cpu(fast, name, types):
    arrays, _ = operands(types)
    check(arrays, SERVED[name])
    (call,) = fast.call_args_list
    # MLX itself promotes operands of several dtypes.
    assert mx.result_type(*call.args) == F32


@pytest.mark.parametrize("pe_heads", [1, 2])
@pytest.mark.parametrize("mask", [None, "causal"])
def test_positional_parts_are_one_product(fast, pe_heads, mask):
    arrays, options = operands(pe=3, pe_heads=pe_heads)
    check(arrays, options | {"mask": mask})
    assert [x.shape[-1] for x in fast.call_args.args] == [11, 11, 5]


@pytest.mark.parametrize("options", [{}, {"window": 2}], ids=str)
def test_rows_before_the_first_key_are_zero(fast, options):
    arrays, _ = operands(q_len=21, kv_len=9)
    got = check(arrays, {"mask": "causal", **options})
    assert fast.called
    assert not mx.any(got[:, :, :12]).item()


@pytest.mark.parametrize("types", [(F32, F32, F32), (F16, BF16, F32)], ids=str)
@pytest.mark.parametrize("more", [{}, {"window": 7}, {"sinks": mx.array([0.5, -1.0, 2.0, 0.0])}])
@pytest.mark.parametrize("lengths", [(64, 64), (65, 64), (99, 70), (600, 600), (70, 300)])
def test_a_cpu_computes_what_a_causal_mask_leaves_in_parts(fast, lengths, more, types):
    arrays, _ = operands(types, q_len=lengths[0], kv_len=lengths[1])
    check(arrays, {"mask": "causal", **more})
    pairs = sum(call.args[0].shape[2] * call.args[1].shape[2] for call in fast.call_args_list)
    assert 1 < len(fast.call_args_list) <= fused.MOST_PARTS
    assert pairs < lengths[0] * lengths[1]


@pytest.mark.parametrize("lengths", [(1, 300), (63, 63), (99, 63)])
def test_few_rows_are_not_worth_parts(fast, lengths):
    arrays, _ = operands(q_len=lengths[0], kv_len=lengths[1])
    check(arrays, {"mask": "causal"})
    assert fast.call_count == 1


def test_parts_of_a_causal_mask_have_their_gradients():
    arrays, _ = operands(q_len=70, kv_len=75)

    def loss(**more):
        def function(*x):
            out = tg.attention_chain(*x, mask="causal", **more)
            return mx.sum(mx.sin(out[0] if more else out))

        return mx.grad(function, argnums=(0, 1, 2))(*arrays)

    for found, wanted in zip(loss(), loss(return_lse=True), strict=True):
        np.testing.assert_allclose(np.array(found), np.array(wanted), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mask", [None, "causal"])
def test_a_gpu_is_given_the_whole_at_once(fast, on_gpu, mask):
    arrays, _ = operands(q_len=70, kv_len=75)
    check(arrays, {"mask": mask})
    assert fast.call_count == 1


@pytest.mark.parametrize(
    ("options", "lengths"),
    [
        ({"return_lse": True}, (9, 21)),
        ({"softmax": False}, (9, 21)),
        ({}, (9, 0)),
        ({}, (0, 21)),
    ],
    ids=str,
)
def test_what_it_does_not_have_is_written_out(fast, options, lengths):
    arrays, _ = operands(q_len=lengths[0], kv_len=lengths[1])
    out = tg.attention_chain(*arrays, **options)
    mx.eval(out)
    assert not fast.called


@pytest.mark.parametrize("name", [*SERVED, "positions"])
@pytest.mark.parametrize("make", [mx.grad, lambda f, _: mx.grad(lambda *x: mx.sum(mx.grad(f)(*x)))])
def test_gradients_are_those_of_the_written_out_formula(name, make):
    if name == "positions":
        arrays, options = operands(pe=3)
    else:
        arrays, options = operands()[0], SERVED[name]
    options = {key: value for key, value in options.items() if key != "out_dtype"}

    def loss(**more):
        def function(*x):
            out = tg.attention_chain(*x, **options, **more)
            return mx.sum(mx.sin(out[0] if more else out))

        return function

    found = make(loss(), (0, 1, 2))(*arrays)
    expected = make(loss(return_lse=True), (0, 1, 2))(*arrays)
    for x, y in zip(found, expected, strict=True):
        size = mx.max(mx.abs(y)).item()
        assert mx.max(mx.abs(x - y)).item() <= 2e-5 * size, "zeros, NaN or another gradient"


class TestOnAGpu:
    @pytest.mark.parametrize("dtype", [F16, BF16])
    @pytest.mark.parametrize("mask", [None, "causal", MASK], ids=["none", "causal", "bool"])
    def test_operands_of_one_type_are_not_cast_where_a_kernel_is_fused(
        self, fast, on_gpu, dtype, mask
    ):
        arrays, _ = operands((dtype,) * 3)
        # MLX's op on this CPU rounds the scores, too.
        check(arrays, {"mask": mask}, slack=0.05 if dtype == BF16 else 0.01)
        assert {x.dtype for x in fast.call_args.args} == {dtype}
        assert on_gpu

    @pytest.mark.parametrize(
        ("types", "options"),
        [
            ((F16, F16, BF16), {}),
            ((F16, F16, F32), {}),
            ((F16,) * 3, {"out_dtype": F32}),
            ((F16,) * 3, {"mask": ADDED}),
            ((BF16,) * 3, {"mask": ADDED.astype(F16)}),
            ((F16,) * 3, {"sinks": mx.zeros((4,))}),
            ((F16,) * 3, {"precision": "float32"}),
        ],
        ids=str,
    )
    def test_what_does_not_fit_a_type_is_multiplied_in_float32(self, fast, on_gpu, types, options):
        arrays, _ = operands(types)
        check(arrays, options)
        assert mx.result_type(*fast.call_args.args) == F32

    def test_mlx_is_asked_again_in_every_trace(self, on_gpu):
        # Sizes of its own: a call that was prepared remembers the answer.
        arrays, _ = operands((F16,) * 3, q_len=11, kv_len=23)
        tg.attention_chain(*arrays)
        for _ in range(2):
            mx.grad(lambda q: mx.sum(tg.attention_chain(q, *arrays[1:])))(arrays[0])
        assert on_gpu == ["_remembered", "_has_node", "_has_node"]

    @pytest.fixture
    def prepared(self, monkeypatch, on_gpu):
        """Return the problems that calls are prepared for."""
        made = []
        tell = prepare.prepare_told

        def noting(op, problem, *args, **kwargs):
            made.append(problem)
            return tell(op, problem, *args, **kwargs)

        monkeypatch.setattr(attention_ops, "is_on_gpu", lambda stream: True)
        monkeypatch.setattr(prepare, "prepare_told", noting)
        forget_prepared()
        yield made
        forget_prepared()

    @pytest.mark.parametrize("mask", [None, "causal"])
    @pytest.mark.parametrize("scale", [None, 0.3])
    def test_lengths_of_a_cache_that_are_alike_are_prepared_once(self, fast, prepared, mask, scale):
        for kv_len in (1001, 1002, 1024, 1001, 1025):
            arrays, _ = operands(q_len=2, kv_len=kv_len)
            check(arrays, {"mask": mask} if scale is None else {"mask": mask, "scale": scale})
            assert fast.call_args.args[1].shape[2] == kv_len
        assert [one.kv_len for one in prepared] == [1024, 1088]

    @pytest.mark.parametrize(
        "options",
        [
            {"window": 7, "mask": "causal"},
            {"return_lse": True},
            {"out_dtype": F32},
            {"softmax": False},
        ],
        ids=str,
    )
    def test_what_is_more_than_a_length_is_prepared_for_itself(self, prepared, options):
        for kv_len in (1001, 1002):
            arrays, _ = operands((F16,) * 3, q_len=2, kv_len=kv_len)
            tg.attention_chain(*arrays, **options)
        assert [one.kv_len for one in prepared] == [1001, 1002]

    def test_a_recording_hears_of_each_length(self, prepared):
        with tg.record() as shapes:
            for kv_len in (1001, 1002):
                tg.attention_chain(*operands(q_len=2, kv_len=kv_len)[0])
        assert [one.kv_len for one in shapes.problems] == [1001, 1002]

    def test_gradients_are_those_of_the_length(self, prepared):
        arrays, _ = operands(q_len=2, kv_len=1001)
        tg.attention_chain(*arrays)
        found = mx.grad(lambda q: mx.sum(tg.attention_chain(q, *arrays[1:]) ** 2))(arrays[0])
        with tg.use_kernel("mlx"):
            wanted = mx.grad(lambda q: mx.sum(tg.attention_chain(q, *arrays[1:]) ** 2))(arrays[0])
        assert mx.allclose(found, wanted, rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("shapeless", [False, True])
    def test_compiled_by_mlx(self, prepared, shapeless):
        chain = mx.compile(lambda *x: tg.attention_chain(*x), shapeless=shapeless)
        for kv_len in (1001, 1003, 1001):
            arrays, _ = operands(q_len=2, kv_len=kv_len)
            # Kept before, or not.
            for _ in range(2):
                wanted = check(arrays, {})
                assert mx.allclose(chain(*arrays), wanted, rtol=1e-5, atol=1e-6)

    def test_a_window_of_nothing_is_refused(self, prepared):
        arrays, _ = operands(q_len=2, kv_len=1001)
        with pytest.raises(ProblemError, match="window"):
            tg.attention_chain(*arrays, mask="causal", window=0)

    def test_a_stream_is_heard(self, prepared):
        for kv_len in (1001, 1002):
            tg.attention_chain(*operands(q_len=2, kv_len=kv_len)[0], stream=mx.cpu)
        assert [one.kv_len for one in prepared] == [1001, 1002]

    def test_a_wrong_shape_is_told_with_its_own_length(self, prepared):
        (q, k, v), _ = operands(q_len=2, kv_len=1001)
        with pytest.raises(ProblemError, match=r"1001"):
            tg.attention_chain(q[:, :3], k, v)

    def test_mlx_tells_by_its_graph(self, monkeypatch):
        def drawn(graph, **outputs):
            graph.write('{ 1 [label ="ScaledDotProductAttention"] }')

        monkeypatch.setattr(fused, "is_on_gpu", lambda stream: True)
        arrays, _ = operands((F16,) * 3)
        problem = tg.explain(tg.attention_chain, *arrays).problem
        fused._remembered.cache_clear()
        assert fused.compute_type(problem).mlx == F32, "a CPU has no such node"
        monkeypatch.setattr(mx, "export_to_dot", drawn)
        fused._remembered.cache_clear()
        assert fused.compute_type(problem).mlx == F16
        fused._remembered.cache_clear()

    def test_no_row_is_hidden_from_its_kernels(self, fast, on_gpu):
        arrays, _ = operands()
        check(arrays, {"mask": MASK})
        assert mx.all(mx.any(fast.call_args.kwargs["mask"], axis=-1))

    @pytest.mark.parametrize("dtype", [F32, BF16])
    def test_masks_do_not_overflow_in_units_of_log2(self, dtype):
        lowest = mx.finfo(dtype).min
        rows = [[lowest] * 3, [-3e38, -2.7e38, -3e38], [lowest, 0.0, 2.0], [-mx.inf] * 3]
        rows += [[-mx.inf, lowest, -mx.inf], [-2e4, -1e4, 0.0]]
        mask = mx.array(rows).astype(dtype)
        made, empty = fused._additive(mask, on_gpu=True)
        assert empty[:, 0].tolist() == [False, False, False, True, False, False]
        assert mx.all(mx.isfinite(1.442695 * made.astype(F32)))
        found = mx.softmax(made.astype(F32), axis=-1)
        expected = mx.softmax(mask.astype(F32), axis=-1)
        assert mx.allclose(mx.where(empty, 0, found), mx.where(empty, 0, expected))

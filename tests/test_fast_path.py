"""Fast path of ops: what is like an earlier call is served by its call, and nothing else is."""

from __future__ import annotations

import inspect
import threading

import mlx.core as mx
import numpy as np
import pytest
from lazy_kernels import LazyKernels

import mlx_tilegemm as tg
from mlx_tilegemm import backends, formats, ops
from mlx_tilegemm.core import fast_path
from mlx_tilegemm.core.caches import forget_prepared
from mlx_tilegemm.core.context import noting_problems, using
from mlx_tilegemm.errors import BackendError, DTypeError, ProblemError

NAMES = sorted(name for name in vars(ops) if callable(getattr(ops, name)) and name in tg.__all__)

X = mx.random.normal((8, 64), key=mx.random.key(0))
W = mx.random.normal((32, 64), key=mx.random.key(1))
CODED = mx.quantize(W, bits=4)
EXPERTS = mx.quantize(mx.random.normal((4, 32, 64), key=mx.random.key(2)), bits=4)
CHOSEN = mx.array([[0, 3], [1, 2], [2, 2]])
ROWS = mx.random.normal((3, 1, 1, 64), key=mx.random.key(3))
Q = mx.random.normal((1, 2, 5, 16), key=mx.random.key(4))
GATES = mx.full((1, 5, 2), 0.5)
TOKENS = mx.random.normal((1, 5, 2, 16), key=mx.random.key(5))

CALLS = {
    "matmul": (tg.matmul, (X, W), {"transpose_b": True}),
    "addmm": (tg.addmm, (mx.ones((32,)), X, W), {"transpose_b": True}),
    "quantized_matmul": (tg.quantized_matmul, (X, *CODED), {"bits": 4}),
    "attention_chain": (tg.attention_chain, (Q, Q, Q), {"mask": "causal"}),
    "gather_mm": (
        tg.gather_mm,
        (ROWS, mx.random.normal((4, 64, 32))),
        {"rhs_indices": CHOSEN},
    ),
    "gather_qmm": (tg.gather_qmm, (ROWS, *EXPERTS), {"rhs_indices": CHOSEN, "bits": 4}),
    "gather_fp8_mm": (
        tg.gather_fp8_mm,
        (ROWS, formats.encode(mx.random.normal((4, 32, 64)), "e4m3")),
        {"rhs_indices": CHOSEN},
    ),
    "grouped_matmul": (
        tg.grouped_matmul,
        (X, mx.random.normal((2, 64, 32)), mx.array([3, 8])),
        {},
    ),
    "segmented_mm": (tg.segmented_mm, (X, W.T, mx.array([[0, 10], [10, 64]])), {}),
    "gated_delta_update": (
        tg.gated_delta_update,
        (TOKENS, TOKENS, TOKENS, GATES, GATES),
        {"normalize": True},
    ),
    "fp8_scaled_matmul": (
        tg.fp8_scaled_matmul,
        (X, formats.encode(W, "e4m3")),
        {"transpose_b": True},
    ),
}


@pytest.fixture(autouse=True, params=["mlx", "emulator"])
def backend(request):
    with tg.use_backend(request.param):
        yield request.param


@pytest.fixture(autouse=True)
def no_calls():
    fast_path.forget()


def kept() -> int:
    return sum(len(getattr(tg, name).__globals__["calls"]) for name in NAMES)


def as_tuple(result):
    return tuple(result) if isinstance(result, (list, tuple)) else (result,)


def assert_equal(found, expected):
    for one, other in zip(as_tuple(found), as_tuple(expected), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(
            np.array(one.astype(mx.float32)), np.array(other.astype(mx.float32))
        )


def test_every_op_has_one():
    assert {*CALLS} == {*NAMES}
    for name in NAMES:
        assert "calls" in getattr(tg, name).__globals__


@pytest.mark.parametrize("name", CALLS)
def test_a_call_is_kept_and_serves_the_next(name):
    op, arrays, options = CALLS[name]
    first = op(*arrays, **options)
    assert kept() == 1
    text = op.__globals__["op"]
    op.__globals__["op"] = None
    try:
        assert_equal(op(*arrays, **options), first)
    finally:
        op.__globals__["op"] = text


@pytest.mark.parametrize("name", CALLS)
def test_signatures_and_texts_are_those_of_the_op(name):
    op = CALLS[name][0]
    text = inspect.unwrap(op)
    assert op is not text
    ours, theirs = inspect.signature(op), inspect.signature(text)
    assert ours.parameters == theirs.parameters
    assert theirs.return_annotation == f"Served[{ours.return_annotation}]"
    assert (op.__name__, op.__qualname__, op.__module__) == (name, name, text.__module__)
    assert op.__doc__ == text.__doc__


class TestKindsOfArguments:
    def test_a_flag_that_is_a_number(self):
        expected = tg.matmul(X, W, transpose_b=True)
        assert_equal(tg.matmul(X, W, transpose_b=1), expected)
        assert_equal(tg.matmul(X, W, transpose_b=np.True_), expected)
        with pytest.raises(DTypeError, match="transpose_b"):
            tg.matmul(X, W, transpose_b=1.0)

    def test_a_number_that_is_a_bool_or_a_float(self):
        x, (w, scales, biases) = X, mx.quantize(W, bits=8)
        tg.quantized_matmul(x, w, scales, biases, bits=8)
        with pytest.raises(DTypeError, match="bits"):
            tg.quantized_matmul(x, w, scales, biases, bits=8.0)
        ones = mx.quantize(W, bits=1)
        tg.quantized_matmul(x, *ones, bits=1)
        with pytest.raises(DTypeError, match="bits"):
            tg.quantized_matmul(x, *ones, bits=True)

    def test_a_string_of_another_class(self):
        class Mode(str):
            pass

        tg.quantized_matmul(X, *CODED, bits=4)
        with pytest.raises(DTypeError, match="mode"):
            tg.quantized_matmul(X, *CODED, bits=4, mode=Mode("affine"))

    def test_a_block_of_floats(self):
        codes = formats.encode(mx.random.normal((128, 128)), "e4m3")
        x, scales = mx.ones((2, 128)), mx.ones((1, 1))
        tg.fp8_scaled_matmul(x, codes, None, scales, block=(128, 128), transpose_b=True)
        with pytest.raises(DTypeError, match="block"):
            tg.fp8_scaled_matmul(x, codes, None, scales, block=(128.0, 128), transpose_b=True)

    def test_what_is_no_array_but_states_a_shape(self):
        tg.matmul(X, W, transpose_b=True)
        for other in (np.array(W), tg.ArraySpec(shape=W.shape, dtype=W.dtype)):
            with pytest.raises(DTypeError, match=r"Expected b to be an mlx\.core\.array"):
                tg.matmul(X, other, transpose_b=True)

    def test_an_object_with_an_array(self):
        class Holder:
            shape, dtype = W.shape, W.dtype

            def __mlx_array__(self):
                return W

        expected = tg.matmul(X, W, transpose_b=True)
        assert_equal(tg.matmul(X, Holder(), transpose_b=True), expected)

    def test_factors(self):
        c = mx.ones((32,))
        plain = np.array(tg.addmm(c, X, W, transpose_b=True))
        for alpha, beta in ((2, 1.0), (2.0, 1.0), (mx.array(2.0), 1.0), (1.0, 0.0), (0.0, 1.0)):
            found = np.array(tg.addmm(c, X, W, alpha, beta, transpose_b=True))
            product = plain - 1.0
            expected = float(alpha) * product + beta
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)

    def test_a_factor_of_zero_keeps_its_sign(self):
        one = mx.ones((1, 1, 1, 16))
        for scale in (0.0, -0.0):
            tg.attention_chain(one, one, one, scale=scale, softmax=False)
            tg.addmm(X, X, mx.ones((64, 64)), scale, 1.0)
        assert kept() == 0

    def test_another_mask_or_scale(self):
        free, causal = tg.attention_chain(Q, Q, Q), tg.attention_chain(Q, Q, Q, mask="causal")
        assert not mx.allclose(free, causal)
        scaled = tg.attention_chain(Q, Q, Q, scale=2.0)
        assert not mx.allclose(free, scaled)
        everything = mx.ones((5, 5), dtype=mx.bool_)
        nothing_added = mx.zeros((5, 5))
        for mask in (everything, nothing_added):
            np.testing.assert_allclose(
                np.array(tg.attention_chain(Q, Q, Q, mask=mask)), np.array(free), atol=1e-5
            )
        lower = mx.array(np.tril(np.ones((5, 5), dtype=bool)))
        for _ in range(2):
            np.testing.assert_allclose(
                np.array(tg.attention_chain(Q, Q, Q, mask=lower)), np.array(causal), atol=1e-5
            )
        with pytest.raises(ProblemError, match="mask"):
            tg.attention_chain(Q, Q, Q, mask="lower")

    def test_another_out_dtype_and_stream(self):
        assert tg.matmul(X, W, transpose_b=True).dtype == mx.float32
        half = tg.matmul(X, W, transpose_b=True, out_dtype=mx.float16)
        assert half.dtype == mx.float16
        assert tg.matmul(X, W, transpose_b=True).dtype == mx.float32
        before = kept()
        on_cpu = tg.matmul(X, W, transpose_b=True, out_dtype=mx.float16, stream=mx.cpu)
        assert_equal(on_cpu, half)
        assert kept() == before
        with pytest.raises(DTypeError, match="stream"):
            tg.matmul(X, W, transpose_b=True, stream=0)

    def test_options_that_are_seldom_passed_are_told_apart(self):
        for _ in range(2):
            assert tg.matmul(X, W, transpose_b=True, out_dtype=mx.float16).dtype == mx.float16
            assert tg.matmul(X, W, transpose_b=True, out_dtype=mx.bfloat16).dtype == mx.bfloat16
            assert tg.matmul(X, W, transpose_b=True, batch_invariant=True).dtype == mx.float32
        with pytest.raises(DTypeError, match="out_dtype"):
            tg.matmul(X, W, transpose_b=True, out_dtype="float16")

    def test_shapes_and_dtypes_are_told_apart(self):
        w, half = np.array(W), W.astype(mx.float16)
        for _ in range(2):
            for rows in (8, 3):
                y = tg.addmm(mx.zeros((32,)), X[:rows], W, transpose_b=True)
                np.testing.assert_allclose(np.array(y), np.array(X[:rows]) @ w.T, atol=1e-4)
            assert tg.matmul(X.astype(mx.float16), half, transpose_b=True).dtype == mx.float16
            assert tg.matmul(X, half, transpose_b=True).dtype == mx.float32

    def test_integers_are_cast_at_each_call(self):
        x = mx.arange(8 * 64, dtype=mx.int32).reshape(8, 64) % 7
        expected = tg.quantized_matmul(x.astype(mx.float32), *CODED, bits=4)
        for _ in range(2):
            assert_equal(tg.quantized_matmul(x, *CODED, bits=4), expected)

    def test_arrays_in_the_order_of_the_key_but_not_of_the_call(self):
        a, b = mx.ones((4, 4)), mx.arange(16.0).reshape(4, 4)
        c = mx.full((4, 4), 100.0)
        for one, two in ((a, b), (b, a), (a, b)):
            np.testing.assert_allclose(
                np.array(tg.addmm(c, one, two)), 100 + np.array(one) @ np.array(two)
            )

    def test_optional_arrays_that_are_left_out(self):
        state = mx.full((1, 2, 16, 16), 0.25)
        arguments = (TOKENS, TOKENS, TOKENS, GATES, GATES)
        lengths, mask = mx.array([3]), mx.array([[True, True, True, False, False]])
        for _ in range(2):
            without = tg.gated_delta_update(*arguments)
            with_state = tg.gated_delta_update(*arguments, state)
            of_three = tg.gated_delta_update(*arguments, state, lengths=lengths)
            masked = tg.gated_delta_update(*arguments, state, mask)
            wide = tg.gated_delta_update(*arguments, state.astype(mx.float16))
            assert not mx.allclose(without[0], with_state[0])
            assert not mx.allclose(of_three[1], with_state[1])
            assert_equal(of_three[1], masked[1])
            assert_equal(wide[0], with_state[0])

    @pytest.mark.parametrize("backend", ["emulator"], indirect=True)
    def test_kernels_get_a_state_of_their_dtype_at_each_call(self, backend):
        lazy = LazyKernels(backends.backend_named(backend))
        state = mx.zeros((1, 2, 16, 16), dtype=mx.float16)
        with tg.use_backend(lazy), tg.use_kernel("any"):
            for _ in range(2):
                tg.gated_delta_update(TOKENS, TOKENS, TOKENS, GATES, GATES, state)
        given = [{x.dtype for x in launch["inputs"]} for _, launch in lazy.launches]
        assert given
        assert all(mx.float16 not in dtypes for dtypes in given)

    def test_a_mistake_is_told_after_a_hit_as_before(self):
        messages = []
        for _ in range(2):
            with pytest.raises(ProblemError) as caught:
                tg.matmul(X, W)
            messages.append(str(caught.value))
            tg.matmul(X, W, transpose_b=True)
        assert messages[0] == messages[1]
        assert messages[0].startswith("[matmul] Expected")


class TestSettings:
    def test_blocks_have_calls_of_their_own(self, backend):
        tg.matmul(X, W, transpose_b=True)
        for block in (
            tg.use_kernel("any"),
            tg.use_gradients(False),
            tg.use_precision("float32"),
            tg.use_backend("mlx" if backend == "emulator" else "emulator"),
        ):
            before = kept()
            with block:
                tg.matmul(X, W, transpose_b=True)
            assert kept() == before + 1
        if backend == "mlx":
            with tg.use_kernel("gemm_scalar"), pytest.raises(BackendError, match="gemm_scalar"):
                tg.matmul(X, W, transpose_b=True)

    def test_each_recorder_is_told(self):
        tg.matmul(X, W, transpose_b=True)
        for _ in range(2):
            seen = []
            with noting_problems(seen.append):
                tg.matmul(X, W, transpose_b=True)
            assert len(seen) == 1

    def test_a_stand_in_stands_in(self):
        tg.quantized_matmul(X, *CODED, bits=4)
        marked = mx.full((8, 32), 7.0)

        def stand_in(op, problem, backend, *, force, gradients):
            return lambda operands, factors, stream: [marked]

        with using(stand_in=stand_in):
            assert_equal(tg.quantized_matmul(X, *CODED, bits=4), marked)
        assert not mx.allclose(tg.quantized_matmul(X, *CODED, bits=4), marked)

    def test_another_default_device(self, monkeypatch):
        tg.matmul(X, W, transpose_b=True)
        before = kept()
        other = mx.Device(mx.cpu if mx.default_device().type is mx.gpu else mx.gpu)
        monkeypatch.setattr(mx, "default_device", lambda: other)
        tg.matmul(X, W, transpose_b=True)
        assert kept() == before + 1

    def test_forgetting_prepared_calls_forgets_these(self):
        tg.matmul(X, W, transpose_b=True)
        assert kept()
        forget_prepared()
        assert not kept()

    def test_no_more_are_kept_than_prepared_calls(self, monkeypatch):
        monkeypatch.setattr(fast_path, "SIZE", 3)
        for rows in range(1, 8):
            tg.matmul(mx.ones((rows, 64)), W, transpose_b=True)
            assert kept() <= 3


class TestTransforms:
    """Calls that were kept outside of MLX's transforms serve inside of them, and the reverse."""

    @pytest.fixture(params=[False, True], ids=["kept", "followed-first"])
    def first(self, request):
        return request.param

    @pytest.mark.parametrize(
        "name", ["matmul", "addmm", "quantized_matmul", "attention_chain", "fp8_scaled_matmul"]
    )
    def test_gradients(self, name, first):
        op, arrays, options = CALLS[name]
        place = 1 if name == "addmm" else 0

        def loss(x):
            given = [*arrays]
            given[place] = x
            return mx.sum(op(*given, **options) ** 2)

        x = arrays[place]
        if not first:
            value = loss(x)
        found_value, gradient = mx.value_and_grad(loss)(x)
        value = loss(x)
        np.testing.assert_allclose(np.array(found_value), np.array(value), rtol=1e-5)
        step = 1e-2 * gradient / mx.linalg.norm(gradient)
        rise = (loss(x + step) - loss(x - step)).item() / 2
        assert rise == pytest.approx(1e-2 * mx.linalg.norm(gradient).item(), rel=0.05)

    def test_gradients_of_several_results(self):
        def loss(v):
            return sum(mx.sum(one) for one in tg.gated_delta_update(TOKENS, TOKENS, v, *gates))

        gates = (GATES, GATES)
        value = loss(TOKENS)
        found, gradient = mx.value_and_grad(loss)(TOKENS)
        np.testing.assert_allclose(found.item(), value.item(), rtol=1e-5)
        # The loss is linear in v.
        np.testing.assert_allclose(mx.sum(gradient * TOKENS).item(), value.item(), rtol=1e-4)

    @pytest.mark.parametrize("backend", ["emulator"], indirect=True)
    def test_kernels_of_chosen_matrices_that_are_followed(self, backend):
        lazy = LazyKernels(backends.backend_named(backend))
        weight = mx.random.normal((4, 32, 64), key=mx.random.key(6))

        def loss(x):
            return mx.sum(tg.gather_mm(x, weight, rhs_indices=CHOSEN, transpose_b=True))

        with tg.use_backend(lazy), tg.use_kernel("any"):
            value = loss(ROWS)
            assert lazy.launches
            gradient = mx.grad(loss)(ROWS)
        assert np.isfinite(value.item())
        expected = mx.sum(mx.take(mx.sum(weight, axis=1), CHOSEN, axis=0), axis=1)
        np.testing.assert_allclose(
            np.array(gradient).reshape(3, 64), np.array(expected), rtol=1e-4, atol=1e-4
        )

    @pytest.mark.parametrize("name", ["matmul", "quantized_matmul", "gather_qmm"])
    def test_batches_and_compilations(self, name, first, backend):
        op, arrays, options = CALLS[name]
        x, *others = arrays

        def call(x):
            return op(x, *others, **options)

        expected = call(x) if not first else None
        compiled = mx.compile(call)(x) if backend == "mlx" else None
        stacked = mx.stack([x, 2 * x])
        batched = tg.vmap(call)(stacked) if name != "gather_qmm" else None
        expected = call(x) if expected is None else expected
        if compiled is not None:
            np.testing.assert_allclose(np.array(compiled), np.array(expected), rtol=1e-5, atol=1e-5)
        if batched is not None:
            np.testing.assert_allclose(
                np.array(batched[1]), 2 * np.array(expected), rtol=1e-4, atol=1e-4
            )

    @pytest.mark.parametrize("backend", ["mlx"], indirect=True)
    def test_any_size(self):
        c = mx.ones((32,))
        tg.addmm(c, X, W, transpose_b=True)
        tg.attention_chain(Q, Q, Q, mask="causal")
        for call, given in (
            (lambda x: tg.addmm(c, x, W, transpose_b=True), (X, X[:3])),
            (lambda q: tg.attention_chain(q, q, q, mask="causal"), (Q, Q[:, :, :3])),
        ):
            compiled = mx.compile(call, shapeless=True)
            for x in given:
                np.testing.assert_allclose(
                    np.array(compiled(x)), np.array(call(x)), rtol=1e-4, atol=1e-5
                )

    @pytest.mark.parametrize("backend", ["mlx"], indirect=True)
    @pytest.mark.parametrize("kind", [mx.cpu, mx.gpu], ids=["cpu", "gpu"])
    def test_counted_matrices_of_any_size_are_refused(self, monkeypatch, kind):
        device = mx.Device(kind)
        monkeypatch.setattr(mx, "default_device", lambda: device)
        tg.gather_qmm(ROWS, *EXPERTS, rhs_indices=CHOSEN, bits=4)
        with pytest.raises(BackendError, match="not indexed"):
            mx.compile(
                lambda x: tg.gather_qmm(x, *EXPERTS, rhs_indices=CHOSEN, bits=4), shapeless=True
            )(ROWS)


def test_threads_share_calls(backend):
    expected = tg.matmul(X, W, transpose_b=True)
    mx.eval(expected)
    found: list[mx.array] = []

    def run():
        with tg.use_backend(backend):
            found.append(tg.matmul(X, W, transpose_b=True))
        mx.eval(found)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert kept() == 1
    assert_equal(found[0], expected)


def test_an_annotation_that_is_not_known():
    with pytest.raises(KeyError, match="complex"):

        @fast_path.with_fast_path()
        def op(x: complex) -> fast_path.Served[complex]:
            return None, x

"""The public ops: what they accept and refuse, what they return, and what they hand a backend.

Values are checked on MLX's own ops here; the kernels' values have tests of their own.
"""

import inspect
import itertools
import subprocess
import sys
import threading
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

import mlx_tilegemm as tg
from mlx_tilegemm.backends import Backend, Route, backend_named
from mlx_tilegemm.backends.metal import MetalBackend
from mlx_tilegemm.core.context import current_settings
from mlx_tilegemm.errors import BackendError, DTypeError, IllegalKernelError, ProblemError

FLOATS = (mx.float32, mx.float16, mx.bfloat16)
INTEGERS = (mx.int8, mx.uint8, mx.int16, mx.int32)
ROUNDOFF = {mx.float32: 2.0**-24, mx.float16: 2.0**-11, mx.bfloat16: 2.0**-8}


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture
def on_mlx():
    with tg.use_backend("mlx"):
        yield


def floats(rng, shape, dtype):
    return mx.array(rng.standard_normal(shape).astype(np.float32)).astype(dtype)


def integers(rng, shape, dtype):
    values = rng.integers(-(2**31), 2**31, size=shape, dtype=np.int64)
    return mx.array(values).astype(dtype)


def exact(array):
    if array.dtype in FLOATS:
        return np.array(array.astype(mx.float32)).astype(np.float64)
    return np.array(array).astype(np.int64)


def assert_rounded_once(actual, expected, magnitude, terms):
    """Every element is the exact sum but for float32 sums and one rounding to the result type."""
    sums = terms * ROUNDOFF[mx.float32] * magnitude
    allowed = 1.01 * sums + ROUNDOFF[actual.dtype] * (np.abs(expected) + sums) + 1e-30
    assert np.all(np.abs(exact(actual) - expected) <= allowed)


@pytest.mark.usefixtures("on_mlx")
class TestMatmulByMlx:
    @pytest.mark.parametrize(
        ("a", "b", "out"), list(itertools.product(FLOATS, FLOATS, (None, *FLOATS)))
    )
    def test_floats_of_any_dtypes(self, rng, a, b, out):
        x, w = floats(rng, (3, 5, 130), a), floats(rng, (7, 130), b)
        y = tg.matmul(x, w, transpose_b=True, out_dtype=out)
        promoted = (mx.zeros((), dtype=a) + mx.zeros((), dtype=b)).dtype
        assert y.dtype == (out or promoted)
        expected = exact(x) @ exact(w).T
        assert_rounded_once(y, expected, np.abs(exact(x)) @ np.abs(exact(w)).T, 130)

    def test_a_wider_result_is_not_rounded_first(self):
        x = mx.full((2, 4), 300.0, dtype=mx.float16)
        assert mx.all(tg.matmul(x, x, transpose_b=True) == mx.inf).item()
        wide = tg.matmul(x, x, transpose_b=True, out_dtype=mx.float32)
        assert wide.tolist() == [[360000.0] * 2] * 2

    @pytest.mark.parametrize(("a", "b"), list(itertools.product(INTEGERS, INTEGERS)))
    def test_integers_are_exact_modulo_2_to_the_32(self, rng, a, b):
        x, w = integers(rng, (2, 5, 700), a), integers(rng, (700, 9), b)
        y = tg.matmul(x, w)
        assert y.dtype == mx.int32
        assert np.array_equal(np.array(y), (exact(x) @ exact(w)).astype(np.int32))

    def test_integers_beyond_one_exact_float64_sum(self, rng):
        x, w = integers(rng, (2**20 + 37,), mx.int32), integers(rng, (2**20 + 37, 2), mx.int32)
        assert np.array_equal(np.array(tg.matmul(x, w)), (exact(x) @ exact(w)).astype(np.int32))

    @pytest.mark.parametrize("dtype", [mx.float16, mx.int8])
    @pytest.mark.parametrize(
        ("a", "b"),
        [
            ((5,), (5,)),
            ((5,), (5, 3)),
            ((4, 5), (5,)),
            ((2, 1, 4, 5), (3, 5, 6)),
            ((2, 4, 0), (0, 3)),
            ((0, 4, 5), (5, 3)),
            ((4, 5), (5, 0)),
        ],
    )
    def test_shapes_are_those_of_mlx(self, rng, a, b, dtype):
        make = floats if dtype in FLOATS else integers
        x, y = make(rng, a, dtype), make(rng, b, dtype)
        expected = np.matmul(exact(x), exact(y))
        actual = tg.matmul(x, y)
        assert actual.shape == expected.shape == mx.matmul(mx.zeros(a), mx.zeros(b)).shape
        if dtype is mx.int8:
            assert np.array_equal(np.array(actual), expected)
        else:
            assert_rounded_once(actual, expected, np.matmul(np.abs(exact(x)), np.abs(exact(y))), 5)

    @pytest.mark.parametrize("dtypes", [(mx.complex64, mx.complex64), (mx.float64, mx.float32)])
    def test_wide_types_are_mlx_own(self, rng, dtypes):
        with mx.stream(mx.cpu):
            x, w = (floats(rng, (4, 5), mx.float32).astype(dtype) for dtype in dtypes)
            c = floats(rng, (4,), mx.float32)
            y = tg.addmm(c, x, w, transpose_b=True, alpha=2.0, beta=-1.0)
            assert y.dtype == dtypes[0]
            assert mx.array_equal(y, mx.addmm(c, x, w.T, alpha=2.0, beta=-1.0))

    def test_works_under_compile_and_grad(self, rng):
        x, w = floats(rng, (4, 5), mx.float16), floats(rng, (5, 3), mx.float32)
        plain = tg.matmul(x, w)
        assert mx.array_equal(mx.compile(lambda x, w: tg.matmul(x, w))(x, w), plain)
        gradient = mx.grad(lambda x: tg.matmul(x, w).sum())(x)
        assert gradient.dtype == mx.float16
        assert mx.allclose(gradient, mx.broadcast_to(w.sum(axis=1), x.shape), atol=1e-2)


@pytest.mark.usefixtures("on_mlx")
class TestAddmmByMlx:
    @pytest.mark.parametrize("shape", [(), (1,), (6,), (5, 1), (5, 6), (3, 1, 6), (3, 5, 6)])
    @pytest.mark.parametrize("out", [None, mx.float16])
    def test_addends_broadcast(self, rng, shape, out):
        x, w = floats(rng, (3, 5, 40), mx.float16), floats(rng, (6, 40), mx.bfloat16)
        c = floats(rng, shape, mx.float16)
        y = tg.addmm(c, x, w, alpha=-0.5, beta=2.0, transpose_b=True, out_dtype=out)
        assert y.dtype == (out or mx.float32)
        product = exact(x) @ exact(w).T
        magnitude = np.abs(exact(x)) @ np.abs(exact(w)).T + 2 * np.abs(exact(c))
        assert_rounded_once(y, -0.5 * product + 2 * exact(c), magnitude, 43)

    @pytest.mark.parametrize(
        ("a", "b", "c"), list(itertools.product((mx.float16, mx.bfloat16), FLOATS, FLOATS))
    )
    def test_floats_of_any_dtypes_are_rounded_once(self, rng, a, b, c):
        x, w, addend = floats(rng, (9, 130), a), floats(rng, (130, 6), b), floats(rng, (6,), c)
        y = tg.addmm(addend, x, w, alpha=0.3, beta=-3.7)
        assert y.dtype == mx.addmm(addend, x, w).dtype
        alpha, beta = np.float32(0.3).astype(float), np.float32(-3.7).astype(float)
        expected = alpha * (exact(x) @ exact(w)) + beta * exact(addend)
        magnitude = alpha * np.abs(exact(x)) @ np.abs(exact(w)) - beta * np.abs(exact(addend))
        assert_rounded_once(y, expected, magnitude, 133)

    def test_integer_factors_wrap_as_the_sums_do(self, rng):
        x, w = integers(rng, (5, 40), mx.int32), integers(rng, (40, 6), mx.int16)
        c = integers(rng, (5, 1), mx.int8)
        y = tg.addmm(c, x, w, alpha=-(2**31), beta=2.0)
        expected = -(2**31) * (exact(x) @ exact(w)) + 2 * exact(c)
        assert np.array_equal(np.array(y), expected.astype(np.int32))

    @pytest.mark.parametrize("dtype", [mx.float32, mx.int16])
    @pytest.mark.parametrize(
        ("a", "b", "c"),
        [
            ((40,), (40,), ()),
            ((40,), (40, 6), (6,)),
            ((40,), (3, 40, 6), (3, 1)),
            ((5, 40), (40,), (5,)),
            ((2, 5, 40), (40,), (5,)),
            ((2, 5, 40), (40,), (2, 1)),
            ((2, 5, 40), (40,), (2, 5)),
        ],
    )
    def test_products_with_vectors_take_every_addend(self, rng, a, b, c, dtype):
        make = floats if dtype in FLOATS else integers
        x, w, addend = make(rng, a, dtype), make(rng, b, dtype), make(rng, c, dtype)
        y = tg.addmm(addend, x, w, alpha=3, beta=-2)
        expected = 3 * np.matmul(exact(x), exact(w)) - 2 * exact(addend)
        assert y.shape == expected.shape
        if dtype in INTEGERS:
            assert np.array_equal(np.array(y), expected.astype(np.int32))
        else:
            assert np.allclose(exact(y), expected, rtol=1e-5, atol=1e-4)


def attention_reference(q, k, v, scale, softmax, mask):
    """Return the result and the log-sum-exp in float64; `mask` is None, bool or additive."""
    shared = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, shared, axis=1), np.repeat(v, shared, axis=1)
    scores = scale * q @ k.swapaxes(-1, -2)
    if mask is not None and mask.dtype == bool:
        scores = np.where(mask, scores, -np.inf if softmax else 0.0)
    elif mask is not None:
        scores = scores + mask
    if not softmax:
        with np.errstate(invalid="ignore"):
            return scores @ v, None
    highest = np.max(scores, axis=-1, keepdims=True, initial=-np.inf)
    highest = np.where(np.isinf(highest), 0.0, highest)
    weights = np.exp(scores - highest)
    total = weights.sum(axis=-1, keepdims=True)
    with np.errstate(divide="ignore"):
        lse = (highest + np.log(total))[..., 0]
    return weights @ v / np.where(total == 0, 1.0, total), lse


@pytest.mark.usefixtures("on_mlx")
class TestAttentionByMlx:
    @pytest.mark.parametrize("softmax", [True, False])
    @pytest.mark.parametrize("mask", [None, "causal", "boolean", "additive", "infinite"])
    @pytest.mark.parametrize(("q_len", "kv_len"), [(7, 11), (9, 4), (1, 5), (3, 0), (0, 3)])
    def test_against_float64(self, rng, softmax, mask, q_len, kv_len):
        q = floats(rng, (2, 4, q_len, 24), mx.float16)
        k = floats(rng, (2, 2, kv_len, 24), mx.bfloat16)
        v = floats(rng, (2, 2, kv_len, 5), mx.float32)
        given, plain = self.masks(rng, mask, q_len, kv_len)
        options = {"scale": 0.3, "softmax": softmax, "mask": given, "return_lse": softmax}
        results = tg.attention_chain(q, k, v, **options)
        out, lse = results if softmax else (results, None)
        expected, expected_lse = attention_reference(
            exact(q), exact(k), exact(v), 0.3, softmax, plain
        )
        assert out.shape == (2, 4, q_len, 5)
        assert out.dtype == mx.float32
        assert np.allclose(exact(out), expected, rtol=2e-5, atol=2e-5, equal_nan=True)
        if softmax:
            assert lse.shape == (2, 4, q_len)
            assert lse.dtype == mx.float32
            assert np.allclose(exact(lse), expected_lse, rtol=1e-5, atol=1e-5)

    @staticmethod
    def masks(rng, mask, q_len, kv_len):
        if mask == "causal":
            rows = np.arange(q_len)[:, None] + kv_len - q_len
            return mask, rows >= np.arange(kv_len)
        if mask == "boolean":
            plain = rng.random((2, 1, q_len, kv_len)) < 0.4
            plain[0, :, :2] = False
            return mx.array(plain), plain
        if mask == "additive":
            given = floats(rng, (4, 1, kv_len), mx.float16)
            return given, exact(given)
        if mask == "infinite":
            plain = np.where(rng.random((q_len, kv_len)) < 0.6, -np.inf, 0.5)
            return mx.array(plain.astype(np.float32)), plain
        return None, None

    def test_empty_rows_are_zero_whatever_the_values(self):
        x = mx.ones((1, 1, 2, 4))
        nothing = mx.zeros((2, 2), dtype=mx.bool_)
        out, lse = tg.attention_chain(x, x, x * mx.inf, mask=nothing, return_lse=True)
        assert mx.all(out == 0).item()
        assert mx.all(lse == -mx.inf).item()

    @pytest.mark.parametrize(("softmax", "scale"), [(True, 64**-0.5), (False, 1.0)])
    def test_default_scale(self, rng, softmax, scale):
        q, k, v = (floats(rng, (1, 1, 6, 64), mx.float32) for _ in range(3))
        default = tg.attention_chain(q, k, v, softmax=softmax)
        assert mx.array_equal(default, tg.attention_chain(q, k, v, softmax=softmax, scale=scale))

    def test_out_dtype(self, rng):
        q, k, v = (floats(rng, (1, 1, 6, 8), mx.float32) for _ in range(3))
        out, lse = tg.attention_chain(q, k, v, out_dtype=mx.bfloat16, return_lse=True)
        assert out.dtype == mx.bfloat16
        assert lse.dtype == mx.float32

    def test_mlx_agrees_where_it_has_the_op(self, rng):
        q = floats(rng, (2, 4, 6, 8), mx.float32)
        k, v = (floats(rng, (2, 2, 9, 8), mx.float32) for _ in range(2))
        expected = mx.fast.scaled_dot_product_attention(q, k, v, scale=0.2, mask="causal")
        actual = tg.attention_chain(q, k, v, scale=0.2, mask="causal")
        assert mx.allclose(actual, expected, rtol=1e-5, atol=1e-6)


M23, M34 = mx.zeros((2, 3)), mx.zeros((3, 4))
HALF, INT = mx.zeros((3, 4), dtype=mx.float16), mx.zeros((3, 4), dtype=mx.int8)
QKV = mx.zeros((1, 2, 4, 8))


class TestRefusals:
    @pytest.mark.parametrize(
        ("call", "error", "message"),
        [
            (
                lambda: tg.matmul([1.0], M34),
                DTypeError,
                r"\[matmul\] Expected a to be an mlx.*list",
            ),
            (lambda: tg.matmul(M23, np.zeros((3, 4))), DTypeError, r"b to be .* got numpy.ndarray"),
            (lambda: tg.matmul(M23, 1.0), DTypeError, r"b to be an mlx.core.array, got float"),
            (lambda: tg.addmm(None, M23, M34), DTypeError, r"\[addmm\] Expected c to be"),
            (lambda: tg.matmul(M23, M23), ProblemError, r"\[matmul\] Expected the inner sizes"),
            (lambda: tg.matmul(M23, mx.array(1.0)), ProblemError, r"Got 0 dimension input"),
            (
                lambda: tg.matmul(mx.zeros((2, 5, 3)), mx.zeros((3, 3, 4))),
                ProblemError,
                r"batch axes that broadcast",
            ),
            (lambda: tg.matmul(INT.T, INT == 0), DTypeError, r"got b of bool; cast it first"),
            (
                lambda: tg.matmul(INT.T, INT.astype(mx.uint32)),
                DTypeError,
                r"b of float32.*got uint32",
            ),
            (lambda: tg.matmul(M23, M34, out_dtype=mx.int8), DTypeError, r"out_dtype float32, fl"),
            (lambda: tg.matmul(M23, M34, out_dtype=mx.int64), DTypeError, r"out_dtype to be None"),
            (lambda: tg.matmul(M23, M34, out_dtype="half"), DTypeError, r"got 'half'"),
            (lambda: tg.matmul(INT, INT.T, out_dtype=mx.float32), DTypeError, r"out_dtype int32"),
            (
                lambda: tg.matmul(M23 * 1j, M34, out_dtype=mx.float32),
                DTypeError,
                r"out_dtype None for complex64",
            ),
            (lambda: tg.addmm(mx.zeros((5,)), M23, M34), ProblemError, r"c to broadcast to"),
            (lambda: tg.addmm(M34, M23, M34, alpha="1"), DTypeError, r"alpha to be a real number"),
            (lambda: tg.addmm(M34, M23, M34, beta=True), DTypeError, r"beta .* got bool"),
            (lambda: tg.addmm(M34, M23, M34, alpha=1j), DTypeError, r"alpha .* got complex"),
            (
                lambda: tg.addmm(INT[0], INT.T, INT, alpha=0.5),
                DTypeError,
                r"alpha to be a whole number for integer operands, got 0.5",
            ),
            (lambda: tg.addmm(INT[0], INT.T, INT, beta=mx.inf), DTypeError, r"beta to be a whole"),
            (lambda: tg.addmm(INT[0], INT.T, INT, beta=2**31), ProblemError, r"beta to fit int32"),
            (lambda: tg.matmul(M23, M34, stream="gpu"), DTypeError, r"stream to be a stream"),
        ],
    )
    def test_products(self, call, error, message):
        with pytest.raises(error, match=message):
            call()

    @pytest.mark.parametrize(
        ("operands", "options", "error", "message"),
        [
            ((QKV, QKV, None), {}, DTypeError, r"\[attention_chain\] Expected v to be an mlx"),
            ((QKV[0], QKV, QKV), {}, ProblemError, r"q of rank 4"),
            ((QKV, QKV[..., :4], QKV), {}, ProblemError, r"one head_dim"),
            ((QKV, QKV[:, :, :2], QKV), {}, ProblemError, r"k and v of as many"),
            ((QKV[:, :1], QKV, QKV), {}, ProblemError, r"multiple of the number of k and v heads"),
            ((mx.zeros((2, 2, 4, 8)), QKV, QKV), {}, ProblemError, r"one batch size"),
            ((QKV.astype(mx.int8),) * 3, {}, DTypeError, r"q of float32.*got int8"),
            ((QKV, QKV.astype(mx.complex64), QKV), {}, DTypeError, r"k of .* got complex64"),
            (
                (QKV, QKV, QKV),
                {"mask": "full"},
                ProblemError,
                r"None, 'causal' or an array.*'full'",
            ),
            ((QKV, QKV, QKV), {"mask": 3}, DTypeError, r"mask to be an mlx.core.array, got int"),
            ((QKV, QKV, QKV), {"mask": INT * 1j}, DTypeError, r"mask of bool .* got complex64"),
            ((QKV, QKV, QKV), {"mask": M23}, ProblemError, r"mask that broadcasts to the scores"),
            ((QKV, QKV, QKV), {"scale": True}, DTypeError, r"scale to be a real number, got bool"),
            ((QKV, QKV, QKV), {"scale": "1"}, DTypeError, r"scale to be a real number, got str"),
            (
                (QKV, QKV, QKV),
                {"softmax": False, "return_lse": True},
                ProblemError,
                r"no log-sum-exp",
            ),
            ((QKV, QKV, QKV), {"out_dtype": mx.int32}, DTypeError, r"out_dtype float32"),
        ],
    )
    def test_attentions(self, operands, options, error, message):
        with pytest.raises(error, match=message):
            tg.attention_chain(*operands, **options)

    def test_errors_are_also_python_own(self):
        with pytest.raises(ValueError, match="inner sizes"):
            tg.matmul(M23, M23)
        with pytest.raises(TypeError, match="cast it first"):
            tg.matmul(INT.T, INT == 0)

    def test_a_refusal_is_not_remembered_as_a_call(self):
        for _ in range(2):
            with pytest.raises(ProblemError):
                tg.matmul(M23, M23)


@pytest.mark.usefixtures("on_mlx")
def test_objects_that_give_an_array_are_taken():
    class Parameter:
        def __mlx_array__(self):
            return M34 + 1

    assert tg.matmul(M23 + 1, Parameter()).tolist() == [[3.0] * 4] * 2
    with pytest.raises(DTypeError, match=r"got .*Fake"):
        tg.matmul(M23, type("Fake", (), {"__mlx_array__": lambda self: 3})())


class RecordingBackend(Backend):
    """Keeps what ops hand to a backend, and returns zeros."""

    name = "recording"
    capabilities = replace(backend_named("emulator").capabilities, lazy=True)

    def __init__(self):
        self.sources = []
        self.launches = []

    def compile(self, source):
        self.sources.append(source)

        def launch(*, inputs, output_shapes, output_dtypes, grid, threadgroup, stream=None):
            self.launches.append(
                {"source": source, "inputs": inputs, "grid": grid, "threadgroup": threadgroup}
                | {"stream": stream}
            )
            return [mx.zeros(s, dtype=d) for s, d in zip(output_shapes, output_dtypes, strict=True)]

        return launch


@pytest.fixture
def recording():
    backend = RecordingBackend()
    # With gradients, MLX hands on equal arrays of its own.
    with tg.use_backend(backend), tg.use_gradients(False):
        yield backend


def inputs_by_name(launch):
    names = launch["source"].input_names
    assert len(names) == len(launch["inputs"])
    return dict(zip(names, launch["inputs"], strict=True))


class TestWhatABackendGets:
    def test_operands_come_as_they_are(self, recording):
        x, w = mx.zeros((33, 65), dtype=mx.float16), mx.zeros((19, 65))
        y = tg.matmul(x, w, transpose_b=True, stream=mx.cpu)
        (launch,) = recording.launches
        inputs = inputs_by_name(launch)
        assert inputs["a"] is x
        assert inputs["b"] is w
        plan = tg.explain("matmul", x, w, transpose_b=True).plan
        assert inputs["sizes"].tolist() == list(plan.stages[0].launch.sizes.values)
        assert inputs["sizes"].dtype == mx.int32
        assert (launch["grid"], launch["threadgroup"]) == (
            plan.stages[0].launch.grid,
            plan.stages[0].launch.threadgroup,
        )
        assert launch["stream"] == mx.cpu
        assert (y.shape, y.dtype) == ((33, 19), mx.float32)

    @pytest.mark.parametrize(
        ("alpha", "beta", "expected"),
        [(1.0, 3, {"beta": 3.0}), (0.5, 1, {"alpha": 0.5, "beta": 1})],
    )
    def test_factors_come_in_the_order_of_the_plan(self, recording, alpha, beta, expected):
        c, x, w = mx.zeros((19,)), mx.zeros((33, 65)), mx.zeros((65, 19))
        tg.addmm(c, x, w, alpha=alpha, beta=beta)
        inputs = inputs_by_name(recording.launches[0])
        factors = tg.explain("addmm", c, x, w, alpha=alpha, beta=beta).plan.factors
        given = dict(zip(factors, inputs["factors"].tolist(), strict=True))
        assert inputs["factors"].dtype == mx.float32
        assert expected.items() <= given.items()
        assert inputs["c"] is c

    def test_integer_factors_are_int32(self, recording):
        c, x = mx.zeros((19,), dtype=mx.int32), mx.zeros((33, 65), dtype=mx.int8)
        w = mx.zeros((65, 19), dtype=mx.uint8)
        y = tg.addmm(c, x, w, alpha=2**24 + 1, beta=-1.0)
        factors = inputs_by_name(recording.launches[0])["factors"]
        assert factors.dtype == y.dtype == mx.int32
        assert factors.tolist() == [2**24 + 1, -1]

    def test_arrays_without_axes_become_vectors(self, recording):
        x, w = mx.zeros((33, 65)), mx.zeros((65, 19))
        tg.addmm(mx.array(1.0), x, w)
        assert inputs_by_name(recording.launches[0])["c"].shape == (1,)
        q = mx.zeros((1, 2, 40, 64))
        tg.attention_chain(q, q, q, mask=mx.array(True))
        assert inputs_by_name(recording.launches[1])["mask"].shape == (1,)

    def test_attention(self, recording):
        q = mx.zeros((1, 4, 40, 64), dtype=mx.float16)
        k, v = mx.zeros((1, 2, 50, 64)), mx.zeros((1, 2, 50, 32), dtype=mx.bfloat16)
        mask = mx.zeros((40, 50))
        out, lse = tg.attention_chain(q, k, v, mask=mask, scale=0.25, return_lse=True)
        inputs = inputs_by_name(recording.launches[0])
        assert [inputs[name] for name in ("q", "k", "v", "mask")] == [q, k, v, mask]
        assert inputs["factors"].tolist() == [0.25]
        assert (out.shape, lse.shape) == ((1, 4, 40, 32), (1, 4, 40))
        assert (out.dtype, lse.dtype) == (mx.float32, mx.float32)

    def test_a_call_is_prepared_once(self, recording):
        x, w = mx.zeros((33, 65)), mx.zeros((65, 19))
        for _ in range(3):
            tg.matmul(x, w)
        assert len(recording.launches) == 3
        assert len(recording.sources) == 1
        first, second = (recording.launches[i]["inputs"] for i in (0, 1))
        assert first[-1] is second[-1], "the sizes are built once"

    def test_what_no_kernel_serves_stays_with_mlx(self, recording):
        assert tg.matmul(mx.ones((3, 0)), mx.ones((0, 4))).tolist() == [[0.0] * 4] * 3
        assert tg.matmul(mx.ones((9, 9), dtype=mx.complex64), mx.ones((9, 9))).dtype == mx.complex64
        wide = mx.ones((1, 1, 70, 600))
        assert tg.attention_chain(wide, wide, wide).shape == (1, 1, 70, 600)
        assert recording.launches == []

    @pytest.mark.parametrize("kernel", ["gemm_scalar", "gemm_simdgroup"])
    def test_forced_kernels_serve(self, recording, kernel):
        with tg.use_kernel(kernel):
            tg.matmul(mx.zeros((33, 65)), mx.zeros((65, 19)))
        assert kernel in recording.sources[0].name


@pytest.mark.usefixtures("kernels")
class TestOnAKernelBackend:
    """What an op prepares around a kernel, end to end; kernels' numbers have their own tests."""

    def test_an_addend_without_axes_and_both_factors(self, rng):
        x, w = floats(rng, (9, 40), mx.float16), floats(rng, (6, 40), mx.bfloat16)
        y = tg.addmm(mx.array(2.5), x, w, alpha=-0.5, beta=3, transpose_b=True)
        expected = -0.5 * exact(x) @ exact(w).T + 7.5
        assert_rounded_once(y, expected, np.abs(exact(x)) @ np.abs(exact(w)).T + 7.5, 43)

    def test_integer_factors(self, rng):
        x, w = integers(rng, (5, 40), mx.int32), integers(rng, (6, 40), mx.int16)
        c = integers(rng, (5, 1), mx.int8)
        y = tg.addmm(c, x, w, alpha=-7, beta=2.0, transpose_b=True)
        expected = -7 * (exact(x) @ exact(w).T) + 2 * exact(c)
        assert np.array_equal(np.array(y), expected.astype(np.int32))

    def test_a_mask_without_axes_a_scale_and_both_outputs(self, rng):
        q = floats(rng, (1, 4, 9, 20), mx.float16)
        k, v = (floats(rng, (1, 2, 11, 20), mx.float32) for _ in range(2))
        for keep in (True, False):
            out, lse = tg.attention_chain(q, k, v, scale=0.3, mask=mx.array(keep), return_lse=True)
            mask = np.full((9, 11), keep)
            expected = attention_reference(exact(q), exact(k), exact(v), 0.3, True, mask)
            assert np.allclose(exact(out), expected[0], rtol=1e-5, atol=1e-5)
            assert np.allclose(exact(lse), expected[1], rtol=1e-5, atol=1e-5)


class TestUseKernel:
    def test_an_illegal_kernel_raises_with_the_reason(self):
        with tg.use_kernel("gemm_simdgroup"), pytest.raises(IllegalKernelError, match="int"):
            tg.matmul(INT.T, INT)

    def test_an_unknown_kernel_raises(self):
        with tg.use_kernel("gemm_magic"), pytest.raises(IllegalKernelError, match="gemm_magic"):
            tg.matmul(M23, M34)

    def test_wide_types_take_no_kernel(self):
        with tg.use_kernel("gemm_scalar"), pytest.raises(IllegalKernelError, match="complex64"):
            tg.matmul(M23 * 1j, M34)

    @pytest.mark.usefixtures("on_mlx")
    def test_the_mlx_backend_runs_no_kernel(self):
        with tg.use_kernel("gemm_scalar"), pytest.raises(BackendError, match="'gemm_scalar'"):
            tg.matmul(M23, M34)

    def test_mlx_can_be_forced(self, recording):
        with tg.use_kernel("mlx"):
            tg.matmul(mx.zeros((33, 65)), mx.zeros((65, 19)))
        assert recording.launches == []

    def test_blocks_nest_and_end(self):
        with tg.use_kernel("gemm_scalar"):
            with tg.use_kernel(None):
                assert current_settings().kernel is None
            assert current_settings().kernel == "gemm_scalar"
        assert current_settings().kernel is None

    def test_a_block_is_of_its_thread(self):
        seen = []
        with tg.use_kernel("gemm_scalar"):
            thread = threading.Thread(target=lambda: seen.append(current_settings().kernel))
            thread.start()
            thread.join()
        assert seen == [None]


def test_threads_may_share_everything():
    x, w = mx.ones((5, 7), dtype=mx.float16), mx.ones((7, 3))
    mx.eval(x, w)  # an array that is still to be computed belongs to its thread
    results = []

    def work():
        with tg.use_backend("mlx"):
            results.extend(tg.matmul(x, w).tolist() for _ in range(50))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [[[7.0] * 3] * 5] * 200


class TracedMetal(MetalBackend):
    """Metal where there is none: calls are traced, not run."""

    def asked(self, place):
        return Route(backend=self, reason="a test")


def test_metal_calls_are_lazy_graph_nodes():
    events = []
    x, w = mx.zeros((33, 65), dtype=mx.float16), mx.zeros((65, 19))
    with tg.use_backend(TracedMetal()), tg.use_gradients(False):
        mx.export_function(events.append, lambda x, w: tg.matmul(x, w), x, w)
    kernels = [event for event in events if event.get("name") == "CustomKernel"]
    assert len(kernels) == 1
    shapes_and_dtypes = [output[1:] for output in kernels[0]["outputs"]]
    assert shapes_and_dtypes == [((33, 19), mx.float32)]


MLX_OPS = {
    **{name: getattr(mx, name) for name in ("matmul", "addmm", "quantized_matmul", "gather_mm")},
    **{name: getattr(mx, name) for name in ("gather_qmm", "segmented_mm")},
    "gated_delta_update": mx.fast.gated_delta_update,
}


def parameters_of_mlx(name):
    """Return a function of the parameters that MLX's namesake has, by its documentation."""
    line = next(one for one in MLX_OPS[name].__doc__.splitlines() if one.startswith(f"{name}("))
    inside = line[len(name) + 1 : line.rindex(")")]
    names = [one.partition(":")[0].strip() for one in inside.split(",")]
    spelled = ", ".join(one if one in "/*" else f"{one}=None" for one in names)
    return inspect.signature(eval(f"lambda {spelled}: None")).parameters


@pytest.mark.parametrize("name", MLX_OPS)
def test_arguments_are_spelled_as_those_of_the_namesake_in_mlx(name):
    ours = inspect.signature(getattr(tg, name)).parameters
    theirs = parameters_of_mlx(name)
    assert "stream" in theirs
    by_place = [one for one, kind in theirs.items() if kind.kind is not kind.KEYWORD_ONLY]
    assert list(ours)[: len(by_place)] == by_place
    assert {one: ours[one].kind for one in theirs} == {one: theirs[one].kind for one in theirs}


IN_THE_PLACE_OF_MLX = """
import mlx.core as mx
import mlx_tilegemm as tg

x, w = mx.random.normal((5, 64)), mx.random.normal((32, 64))
codes = mx.quantize(w)
several = [part[None] for part in codes]
gates = mx.ones((1, 5, 1))
calls = {
    "matmul": lambda: mx.matmul(x, w.T),
    "addmm": lambda: mx.addmm(w[:, 0], x, w.T),
    "quantized_matmul": lambda: mx.quantized_matmul(x, *codes),
    "gather_mm": lambda: mx.gather_mm(x, w.T[None], rhs_indices=mx.array([0])),
    "gather_qmm": lambda: mx.gather_qmm(x, *several, rhs_indices=mx.array([0])),
    "segmented_mm": lambda: mx.segmented_mm(x, w.T, mx.array([[0, 3], [3, 64]])),
    "attention_chain": lambda: mx.fast.scaled_dot_product_attention(*[x[None, None]] * 3, scale=1),
    "gated_delta_update": lambda: mx.fast.gated_delta_update(
        *[0.1 * x[None, :, None]] * 3, gates, gates, mx.zeros((1, 1, 64, 64))
    )[0],
}
expected = {name: call() for name, call in calls.items()}
mx.fast.scaled_dot_product_attention = tg.attention_chain
mx.fast.gated_delta_update = tg.gated_delta_update
for name in expected:
    if hasattr(mx, name):
        setattr(mx, name, getattr(tg, name))
with tg.use_backend("mlx"):
    for name, call in calls.items():
        assert mx.allclose(call(), expected[name], rtol=1e-4, atol=1e-4), name
"""


def test_ops_may_be_put_in_the_place_of_mlx_s():
    subprocess.run([sys.executable, "-c", IN_THE_PLACE_OF_MLX], check=True, timeout=100)

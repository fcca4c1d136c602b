"""Factors of zero, factors that are arrays, and every pair of dtypes, on both backends here."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

import mlx_tilegemm as tg
from mlx_tilegemm.errors import DTypeError, IllegalKernelError, ProblemError

NAN = float("nan")
A = mx.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
B = mx.array([[1.0, -1.0], [2.0, 0.5], [0.0, 3.0]])
C = mx.array([10.0, 20.0])


@pytest.fixture(params=["emulator", "mlx"])
def backend(request):
    with tg.use_backend(request.param):
        yield request.param


@pytest.mark.usefixtures("backend")
class TestZeroFactors:
    """As in BLAS: what is multiplied by 0 is not looked at."""

    @pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
    @pytest.mark.parametrize("alpha", [1.0, 2.0])
    def test_beta_hides_the_addend(self, alpha, dtype):
        a, b, c = (x.astype(dtype) for x in (A, B, C * NAN))
        found = tg.addmm(c, a, b, alpha=alpha, beta=0.0)
        assert found.dtype == dtype
        assert mx.array_equal(found, (alpha * (A @ B)).astype(dtype))

    @pytest.mark.parametrize("beta", [0.0, 2.0])
    def test_alpha_hides_the_product(self, beta):
        found = tg.addmm(C, A * NAN, B.astype(mx.float16), alpha=0.0, beta=beta)
        assert found.dtype == mx.float32
        assert mx.array_equal(found, mx.broadcast_to(beta * C, (2, 2)))

    def test_both(self):
        assert mx.array_equal(tg.addmm(C * NAN, A * NAN, B, 0, 0), mx.zeros((2, 2)))

    @pytest.mark.parametrize(("alpha", "beta"), [(0, 3), (3, 0), (0, 0)])
    def test_integers(self, alpha, beta):
        a, b, c = (x.astype(mx.int16) for x in (A, 2 * B, C))
        expected = alpha * np.array(a, int) @ np.array(b, int) + beta * np.array(c, int)
        found = tg.addmm(c, a, b, alpha, beta)
        assert found.dtype == mx.int32
        assert found.tolist() == expected.tolist()

    def test_the_addend_still_has_a_dtype_and_a_shape(self):
        a, b = A.astype(mx.float16), B.astype(mx.float16)
        assert tg.addmm(C, a, b, beta=0.0).dtype == mx.float32
        assert tg.addmm(C, a, b, alpha=0.0, out_dtype=mx.bfloat16).dtype == mx.bfloat16
        for factors in ((1.0, 0.0), (0.0, 1.0)):
            with pytest.raises(ProblemError, match="c to broadcast"):
                tg.addmm(mx.zeros((3,)), A, B, *factors)

    @pytest.mark.parametrize(("alpha", "beta"), [(0.0, 3.0), (3.0, 0.0), (1.0, 0.0)])
    def test_derivatives(self, alpha, beta):
        def ours(c, a, b):
            return mx.sum(mx.square(tg.addmm(c, a, b, alpha, beta)))

        def plain(c, a, b):
            return mx.sum(mx.square(alpha * (a @ b) + beta * c))

        found, expected = (mx.grad(f, (0, 1, 2))(C, A, B) for f in (ours, plain))
        assert all(map(mx.allclose, found, expected))
        tangents = [[C, A, B]] * 2
        found, expected = (mx.jvp(f, *tangents)[1][0] for f in (ours, plain))
        assert mx.allclose(found, expected)


@pytest.mark.usefixtures("backend")
class TestFactorsAsMlxTakesThem:
    def test_by_position(self):
        assert mx.array_equal(tg.addmm(C, A, B, 2.0, 3.0), mx.addmm(C, A, B, 2.0, 3.0))

    @pytest.mark.parametrize(
        "two",
        [2, np.float32(2), np.int64(2), np.array(2.0), mx.array(2.0), mx.array(2), mx.array([2.0])],
        ids=repr,
    )
    def test_kinds_of_numbers(self, two):
        assert mx.array_equal(tg.addmm(C, A, B, two, two), mx.addmm(C, A, B, 2.0, 2.0))

    def test_arrays_have_derivatives(self):
        def ours(alpha, beta):
            return mx.sum(mx.square(tg.addmm(C, A, B, alpha, beta)))

        def plain(alpha, beta):
            return mx.sum(mx.square(alpha * (A @ B) + beta * C))

        factors = [mx.array(0.5), mx.array(-2.0)]
        found, expected = (mx.grad(f, (0, 1))(*factors) for f in (ours, plain))
        assert all(map(mx.allclose, found, expected))

    def test_arrays_keep_the_dtype_of_the_result(self):
        a, b, c = (x.astype(mx.float16) for x in (A, B, C))
        seen = []

        def ours(alpha):
            seen.append(tg.addmm(c, a, b, alpha))
            return mx.sum(seen[-1])

        mx.grad(ours)(mx.array(2.0))
        assert seen[0].dtype == mx.float16


DTYPES = (
    *(mx.bool_, mx.int8, mx.int16, mx.int32, mx.int64, mx.uint8, mx.uint16, mx.uint32, mx.uint64),
    *(mx.float16, mx.bfloat16, mx.float32, mx.float64, mx.complex64),
)
EXACT_INTEGERS = {mx.int8, mx.int16, mx.int32, mx.uint8}


def cast(x, dtype):
    with mx.stream(mx.cpu):
        return mx.array(x).astype(dtype)


def by_mlx(function, *operands):
    try:
        value = function(*operands)
        mx.eval(value)
    except ValueError:
        return None
    return value


@pytest.mark.parametrize("x", DTYPES, ids=str)
def test_every_pair_that_mlx_multiplies(x):
    left, right = np.arange(6).reshape(2, 3) % 2, np.arange(12).reshape(3, 4) % 2
    with tg.use_backend("mlx"), mx.stream(mx.cpu):
        for y in DTYPES:
            a, b, c = cast(left, x), cast(right, y), cast(right[0], y)
            expected = by_mlx(mx.matmul, a, b)
            if expected is None and {x, y} <= EXACT_INTEGERS:
                assert tg.matmul(a, b).tolist() == (left @ right).tolist()
            elif expected is None:
                with pytest.raises(DTypeError):
                    tg.matmul(a, b)
            else:
                found = tg.matmul(a, b)
                assert found.dtype == expected.dtype
                assert mx.array_equal(found, expected)
            # Biases of any dtype beside operands of one.
            expected = by_mlx(mx.addmm, c, a, cast(right, x))
            if expected is not None:
                found = tg.addmm(c, a, cast(right, x), 0.5, 2.0)
                assert found.dtype == expected.dtype
                assert mx.allclose(found, mx.addmm(c, a, cast(right, x), 0.5, 2.0))


def test_promoted_operands_take_transposes_and_a_result_dtype():
    a, b = A.astype(mx.float16), cast(2 * B, mx.int8)
    found = tg.matmul(a, b.T, transpose_b=True, out_dtype=mx.float32)
    assert found.dtype == mx.float32
    assert mx.array_equal(found, A @ (2 * B))
    found = tg.addmm(C, a, b, 2.0, 0.0)
    assert mx.array_equal(found, 2.0 * (A @ (2 * B)))


def test_explain_names_the_promotion():
    a = tg.ArraySpec(shape=(2, 3), dtype=mx.float16)
    b = tg.ArraySpec(shape=(3, 4), dtype=mx.int8)
    found = tg.explain(tg.matmul, a, b)
    assert found.route == "mlx"
    assert "MLX promotes float16 and int8 to float16" in str(found)
    c = tg.ArraySpec(shape=(4,), dtype=mx.bool_)
    found = tg.explain(tg.addmm, c, a, b)
    assert "MLX promotes float16, int8 and bool to float16" in found.reason


def test_explain_knows_factors_of_zero():
    a = tg.ArraySpec(shape=(20, 30), dtype=mx.float16)
    b = tg.ArraySpec(shape=(30, 40), dtype=mx.float16)
    c = tg.ArraySpec(shape=(40,), dtype=mx.float32)
    assert "alpha is 0" in tg.explain(tg.addmm, c, a, b, 0.0).reason
    without = tg.explain(tg.addmm, c, a, b, 1.0, 0.0)
    assert without.problem.c is None
    assert str(without.problem.out) == "float32"
    assert "b [[buffer" in without.text
    assert "c [[buffer" not in without.text


def test_a_forced_kernel_says_what_it_does_not_take():
    promoted = pytest.raises(IllegalKernelError, match="MLX promotes float32 and int8 to float32")
    with tg.use_kernel("gemm_scalar"), tg.use_backend("emulator"), promoted:
        tg.matmul(A, cast(B, mx.int8))

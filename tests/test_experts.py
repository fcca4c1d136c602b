"""Products with chosen matrices: values, dtypes, refusals, and the choice of who serves them.

Values are held to products of their own: each row with its matrix, one by one, in float64.
"""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product as iterated
from math import prod

import cases
import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lazy_kernels import LazyKernels
from oracle import assert_close

import mlx_tilegemm as tg
from mlx_tilegemm import formats
from mlx_tilegemm.backends import backend_named
from mlx_tilegemm.backends.launch import kernel_run
from mlx_tilegemm.core import mlx_ops
from mlx_tilegemm.core.arguments import ArraySpec
from mlx_tilegemm.core.caches import forget_prepared
from mlx_tilegemm.core.family import Data
from mlx_tilegemm.core.plain import from_plain, to_plain
from mlx_tilegemm.core.reference import hold
from mlx_tilegemm.dispatch import choose
from mlx_tilegemm.families import family_of, kernel_named, problem_types
from mlx_tilegemm.families.experts import ops as experts
from mlx_tilegemm.families.experts.kernels.segmented_gemm import variant as segmented_variant
from mlx_tilegemm.families.experts.reference import draw_operands
from mlx_tilegemm.families.experts.spec import most_blocks, variant
from mlx_tilegemm.families.experts.spelling import parse
from mlx_tilegemm.machine import chips

FLOATS = (mx.float32, mx.float16, mx.bfloat16)
M4 = chips.get("m4")
N, K = 37, 72
"""Off every tile, and one size for many tests: they share kernels."""


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


KERNELS = ("expert_gemv/4x1-4", "expert_gemv/1x1-4", "expert_gemm/16x64-1x4")


def random_array(seed, shape, dtype=mx.float32):
    values = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return mx.array(values).astype(dtype)


def as_floats(array: mx.array) -> np.ndarray:
    return np.array(array.astype(mx.float32)).astype(np.float64)


def held(got, value, size, k, out, roundings=4):
    """Assert what float32 sums of ``k`` products, whose magnitudes add up to ``size``, may be."""
    bound = (k + roundings) * 2.0**-24 * size
    unit = {mx.float32: 2.0**-24, mx.float16: 2.0**-11, mx.bfloat16: 2.0**-8}[out]
    step = 2.0**-24 if out == mx.float16 else 2.0**-126
    assert got.dtype == out
    assert_close(got, value, bound + unit * (np.abs(value) + bound) + step)


def close(got, a, matrices, lhs, rhs, out, *, factors=None, roundings=4):
    """Assert products of some matrices of ``a`` with some of ``matrices``, each ``[k, n]``."""
    lhs, rhs = (np.asarray(one) for one in (lhs, rhs))
    lhs, rhs = np.broadcast_arrays(lhs, rhs)
    rows = as_floats(a).reshape(-1, *a.shape[-2:])
    value = np.zeros((lhs.size, rows.shape[1], matrices.shape[-1]))
    size = np.zeros_like(value)
    for p, (i, j) in enumerate(zip(lhs.ravel(), rhs.ravel(), strict=True)):
        factor = 1.0 if factors is None else factors[j]
        value[p] = rows[i] @ matrices[j] * factor
        size[p] = np.abs(rows[i]) @ np.abs(matrices[j]) * abs(factor)
    shape = (*lhs.shape, *value.shape[1:])
    held(got, value.reshape(shape), size.reshape(shape), matrices.shape[1], out, roundings)


PATTERNS = {
    "unsorted, one twice": [4, 0, 2, 2, 0, 4, 1],
    "one expert gets all": [3] * 19,
    "a row more than a block": [1] * 17 + [0],
    "one product": [2],
    "each once, backwards": [4, 3, 2, 1, 0],
    "many": [(7 * i * i + i) % 5 for i in range(61)],
}


@pytest.mark.parametrize("transpose", [True, slow(False)], ids=["nt", "nn"])
@pytest.mark.parametrize("kernel", KERNELS)
class TestPlainWeights:
    """Each kernel with the rows of every pattern, by the same texts."""

    def test_every_pattern(self, kernels, forced, kernel, transpose):
        # So many that a few rows of each are left to the kernel for few.
        b = random_array(0, (40, N, K) if transpose else (40, K, N), mx.bfloat16)
        matrices = as_floats(b.swapaxes(-1, -2) if transpose else b)
        for seed, pattern in enumerate(PATTERNS.values()):
            a = random_array(seed, (len(pattern), 1, K), mx.float16)
            with forced(kernel):
                got = tg.gather_mm(a, b, rhs_indices=mx.array(pattern), transpose_b=transpose)
            close(got, a, matrices, np.arange(len(pattern)), pattern, mx.float32)

    def test_matrices_of_several_rows_and_both_indices(self, kernels, forced, kernel, transpose):
        b = random_array(0, (40, N, K) if transpose else (40, K, N), mx.bfloat16)
        matrices = as_floats(b.swapaxes(-1, -2) if transpose else b)
        a = random_array(1, (2, 3, 5, K), mx.float16)
        lhs, rhs = np.array([[5], [0], [3]]), np.array([39, 0, 33, 33])
        with forced(kernel):
            got = tg.gather_mm(a, b, mx.array(lhs), mx.array(rhs), transpose_b=transpose)
        assert got.shape == (3, 4, 5, N)
        close(got, a, matrices, lhs, rhs, mx.float32)


STAGED = ("expert_gemv/1x4-4-staged", "expert_gemv/4x4-4-staged")


@pytest.mark.parametrize("kernel", STAGED)
class TestStagedRows:
    """Several steps of k, the last one short, and simdgroups with columns past the last one."""

    @pytest.mark.parametrize("depth", [300, slow(303), slow(256)])
    def test_plain_weights(self, kernels, forced, kernel, depth):
        b = random_array(0, (40, N, depth), mx.bfloat16)
        for seed, pattern in enumerate(PATTERNS.values()):
            a = random_array(seed, (len(pattern), 1, depth), mx.float16)
            with forced(kernel):
                got = tg.gather_mm(a, b, rhs_indices=mx.array(pattern), transpose_b=True)
            matrices = as_floats(b.swapaxes(-1, -2))
            close(got, a, matrices, np.arange(len(pattern)), pattern, mx.float32)

    def test_codes(self, kernels, forced, kernel):
        # Four rows beside several steps of codes are more than a thread's registers hold.
        depth = 300 if kernel == STAGED[-1] else 600
        codes, scales, block, values = coded(2, 40, N, depth, "e4m3", "block")
        chosen = [39, 0, 0, 33, 33, 33, 33, 33, 1]
        x = random_array(2, (len(chosen), 1, depth), mx.bfloat16)
        with forced(kernel):
            got = tg.gather_fp8_mm(
                x,
                codes,
                scales,
                rhs_indices=mx.array(chosen),
                format="e4m3",
                block=block,
                out_dtype=mx.float32,
            )
        matrices = values.swapaxes(-1, -2)
        close(got, x, matrices, np.arange(len(chosen)), chosen, mx.float32, roundings=7)

    @pytest.mark.slow
    def test_quantized_weights(self, kernels, forced, kernel):
        # Runs of 32 beside four columns are more than a thread's registers hold.
        for weight in (("affine", 4, 64), *WEIGHTS[-3:]):
            quantized_case(weight, True, kernel, forced)


def test_blocks_are_as_many_as_can_have_rows():
    """Of every way in which a few products may fall to the experts."""
    for products, number, m, rows in iterated((1, 4, 6), (1, 2), (1, 2, 3, 5), (1, 2, 4, 16)):
        problem = variant(products, 8, 8, experts=number, m=m)
        found = [
            sum(-(-chosen.count(one) * m // rows) for one in set(chosen))
            for chosen in iterated(*[range(number + 1)] * products)
        ]
        assert max(found) <= most_blocks(problem, rows)
        assert m > 1 or max(found) == most_blocks(problem, rows)


GROUPS = {
    "empty ones": [0, 3, 3, 9, 9],
    "the first has all": [9, 9, 9, 9, 9],
    "the last has all": [0, 0, 0, 0, 9],
    "rows past the last": [2, 2, 4, 5, 7],
}


@pytest.mark.parametrize("kernel", ["expert_gemv/4x1-4", STAGED[1], slow("expert_gemm/16x64-1x4")])
def test_groups_of_rows(kernels, forced, kernel):
    b, bias = random_array(0, (5, N, K), mx.bfloat16), random_array(1, (5, N), mx.float16)
    for offsets in GROUPS.values():
        a = random_array(2, (9, K), mx.float16)
        with forced(kernel):
            got = tg.grouped_matmul(a, b, mx.array(offsets), transpose_b=True, bias=bias)
        starts = [0, *offsets[:-1]]
        value, size = np.zeros((9, N)), np.zeros((9, N))
        for g, (start, end) in enumerate(zip(starts, offsets, strict=True)):
            left, right, row = as_floats(a)[start:end], as_floats(b)[g].T, as_floats(bias)[g]
            value[start:end] = left @ right + row
            size[start:end] = np.abs(left) @ np.abs(right) + np.abs(row)
        held(got, value, size, K, mx.float32)


SEGMENTS = {
    "of no length": [[0, 0], [3, 3], [K, K]],
    "all, backwards, and shared": [[0, K], [9, 3], [5, 40], [33, 50]],
    "thirds": [[0, 24], [24, 48], [48, 72]],
}


def test_segments(kernels):
    a, b = random_array(0, (33, K), mx.float16), random_array(1, (K, N), mx.bfloat16)
    for segments in SEGMENTS.values():
        got = tg.segmented_mm(a, b, mx.array(segments))
        check_segments(got, a, b, segments)
    got = tg.segmented_mm(a, b, mx.array(segments)[None, :, None])
    assert got.shape == (1, 3, 1, 33, N)


def check_segments(got, a, b, segments):
    left, right = as_floats(a), as_floats(b)
    value, size = (
        np.array([x[:, i : max(i, j)] @ y[i : max(i, j)] for i, j in segments])
        for x, y in ((left, right), (np.abs(left), np.abs(right)))
    )
    held(got, value, size, K, mx.result_type(a, b))


@pytest.fixture(params=["kernels", "mlx"])
def either(request):
    """Run the block's ops on this project's kernels, or on MLX's own ops."""
    if request.param == "kernels":
        # Its block ends after this one's, so that no other may be around it.
        request.getfixturevalue("kernels")
        yield
    else:
        with tg.use_backend("mlx"):
            yield


A = random_array(0, (6, 1, 1, K), mx.float16)
B = random_array(1, (5, N, K), mx.bfloat16)
CHOSEN = mx.array([[4, 0], [1, 1], [0, 4], [2, 4], [0, 0], [4, 1]])


class TestBothRoutes:
    def test_rows_that_choose_several(self, either):
        got = tg.gather_mm(A, B, rhs_indices=CHOSEN, transpose_b=True)
        assert got.shape == (6, 2, 1, N)
        matrices = as_floats(B.swapaxes(-1, -2))
        close(got, A, matrices, np.arange(6)[:, None], CHOSEN, mx.float32)

    def test_so_many_that_models_sort_them(self, either):
        chosen = np.random.default_rng(0).integers(0, 5, (40, 2))
        a = random_array(2, (40, 1, 1, K), mx.float16)
        got = tg.gather_mm(a, B, rhs_indices=mx.array(chosen), transpose_b=True)
        close(got, a, as_floats(B.swapaxes(-1, -2)), np.arange(40)[:, None], chosen, mx.float32)

    @pytest.mark.parametrize("dtype", [mx.uint8, mx.uint32, mx.int16, mx.int64])
    def test_indices_of_any_integers(self, either, dtype):
        got = tg.gather_mm(A, B, rhs_indices=CHOSEN.astype(dtype), transpose_b=True)
        wanted = tg.gather_mm(A, B, rhs_indices=CHOSEN, transpose_b=True)
        assert mx.array_equal(got, wanted)

    def test_without_indices_batches_are_multiplied(self, either):
        a = random_array(3, (3, 1, 4, K), mx.float16)
        got = tg.gather_mm(a, B[:2], transpose_b=True)
        lhs, rhs = np.arange(3)[:, None], np.arange(2)
        close(got, a, as_floats(B[:2].swapaxes(-1, -2)), lhs, rhs, mx.float32)

    @pytest.mark.slow
    def test_vectors(self, either):
        a, b = A[0, 0, 0], random_array(4, (5, K, 3))
        got = tg.gather_mm(a, b, rhs_indices=mx.array([4, 1]))
        assert got.shape == (2, 3)
        column = random_array(5, (K,), mx.float16)
        assert tg.gather_mm(A[:, 0], column, rhs_indices=mx.array([0] * 6)).shape == (6, 1)
        assert tg.gather_mm(a, column).shape == ()

    @pytest.mark.slow
    @pytest.mark.parametrize("out", [None, mx.float16])
    @pytest.mark.parametrize("pair", [(mx.float32, mx.float16), (mx.bfloat16, mx.bfloat16)])
    def test_result_dtypes_are_those_of_mlx(self, either, pair, out):
        a, b = A.astype(pair[0]), B.astype(pair[1])
        got = tg.gather_mm(a, b, rhs_indices=CHOSEN, transpose_b=True, out_dtype=out)
        wanted = mx.gather_mm(a, b.swapaxes(-1, -2), rhs_indices=CHOSEN).dtype
        assert got.dtype == (wanted if out is None else out)

    @pytest.mark.slow
    def test_integers_are_cast_as_mlx_casts_them(self, either):
        a = mx.arange(6 * K).reshape(6, 1, 1, K) % 7
        got = tg.gather_mm(a, B, rhs_indices=CHOSEN, transpose_b=True)
        wanted = tg.gather_mm(a.astype(mx.bfloat16), B, rhs_indices=CHOSEN, transpose_b=True)
        assert got.dtype == mx.bfloat16
        assert mx.array_equal(got, wanted)

    @pytest.mark.parametrize("shape", [(0, 1, 1, K), (6, 1, 0, K), (6, 1, 1, 0)])
    def test_nothing_to_multiply(self, either, shape):
        chosen = CHOSEN[: shape[0]]
        b = mx.zeros((5, N, shape[-1]))
        got = tg.gather_mm(mx.zeros(shape), b, rhs_indices=chosen, transpose_b=True)
        assert got.shape == (shape[0], 2, shape[2], N)
        assert not as_floats(got).any()

    def test_groups(self, either):
        offsets = mx.array([2, 2, 5, 5, 6])
        got = tg.grouped_matmul(A[:, 0, 0], B, offsets, transpose_b=True)
        rhs = [0, 0, 2, 2, 2, 4]
        close(got[:, None], A, as_floats(B.swapaxes(-1, -2)), np.arange(6), rhs, mx.float32)

    def test_segments(self, either):
        a, b = random_array(0, (33, K), mx.float16), random_array(1, (K, N), mx.bfloat16)
        check_segments(tg.segmented_mm(a, b, mx.array([[0, 70]])), a, b, [[0, 70]])


@pytest.mark.parametrize("seed", [0, 1])
def test_what_is_promised_to_be_sorted_is_drawn_so(seed):
    x, w = (ArraySpec(shape=shape, dtype=mx.float16) for shape in ((40, 1, 8), (5, 8, 16)))
    indices = ArraySpec(shape=(40,), dtype=mx.uint32)
    found = tg.explain("gather_mm", x, w, rhs_indices=indices, sorted_indices=True)
    (*_, drawn) = draw_operands(found.problem, Data(seed=seed))
    values = np.array(drawn)
    assert (np.diff(values) >= 0).all()
    assert len({*values.tolist()}) > 1
    any_order = replace(found.problem, sorted=False)
    assert (np.diff(np.array(draw_operands(any_order, Data(seed=seed))[-1])) < 0).any()


def test_segments_past_the_end_stay_inside_on_mlx_too():
    """Its own op ends the process on a CPU, and inside a compilation no values are known."""
    a, b = random_array(0, (33, K), mx.float16), random_array(1, (K, N), mx.bfloat16)
    segments = mx.array([[-5, K + 9], [3, 2**31 - 1]])
    with tg.use_backend("mlx"):
        got = mx.compile(lambda a, b, segments: tg.segmented_mm(a, b, segments))(a, b, segments)
    check_segments(got, a, b, [[0, K], [3, K]])


class TestKernels:
    @pytest.mark.parametrize("kernel", [*KERNELS, *STAGED])
    def test_rows_without_a_matrix_are_zero(self, kernel):
        """Where indices cannot be checked, what they say is not trusted."""
        problem = variant(6, N, K, experts=5, fanout=0, bias=None)
        operands = cases.operands(problem, cases.Data())
        lhs, rhs = mx.array([0, 7, -1, 2, 3, 4]), mx.array([0, 1, 2, 5, -1, 2**31 - 1])
        (got,) = self.run(kernel, problem, [*operands[:2], lhs, rhs])
        assert np.array_equal(as_floats(got).any(axis=(1, 2)), [True, *[False] * 5])

    def test_offsets_past_the_rows_stay_inside(self):
        problem = variant(6, N, K, experts=5, grouped=True)
        operands = cases.operands(problem, cases.Data())
        (got,) = self.run(KERNELS[2], problem, [*operands[:2], mx.array([-3, 4, 4, 90, 95])])
        assert got.shape == (6, 1, N)

    def test_segments_past_the_end_stay_inside(self):
        problem = segmented_variant(33, N, K, segments=2)
        operands = cases.operands(problem, cases.Data())
        pair = mx.array([[-5, K + 9], [0, K]])
        (got,) = self.run("segmented_gemm", problem, [*operands[:2], pair])
        assert mx.array_equal(got[0], got[1])

    def test_a_row_alone_and_among_others_is_the_same(self, kernels, forced):
        b, chosen = B, mx.array([3] * 21)
        a = random_array(7, (21, 1, K), mx.float16)
        with forced(KERNELS[2]):
            whole = tg.gather_mm(a, b, rhs_indices=chosen, transpose_b=True)
            alone = tg.gather_mm(a[20:], b, rhs_indices=chosen[:1], transpose_b=True)
        assert mx.array_equal(whole[20:], alone)

    @staticmethod
    def run(name, problem, operands):
        kernel_name, _, config_name = name.partition("/")
        kernel = kernel_named(kernel_name)
        configs = kernel.candidates(problem, M4)
        config = next(one for one in configs if not config_name or str(one) == config_name)
        assert kernel.reject(problem, config, M4) is None
        plan = kernel.plan(problem, config)
        return kernel_run(problem, plan, backend_named("emulator"))(operands, (), None)


WEIGHTS = [
    *(("affine", bits, group) for bits in (1, 2, 3, 4, 5, 6, 8) for group in (32, 64, 128)),
    ("mxfp4", 4, 32),
    ("mxfp8", 8, 32),
    ("nvfp4", 4, 16),
]
EVERY_CODE = [*(("affine", bits, 32 << bits % 3) for bits in (1, 2, 3, 5, 6, 8)), *WEIGHTS[-3:]]
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def own_values(w, scales, biases, mode, bits, group):
    """Return a weight in float64, decoded row by row from its stream of bits."""
    words, mask = np.array(w), (1 << bits) - 1
    rows = []
    for row in words.reshape(-1, words.shape[-1]):
        stream = int.from_bytes(row.astype("<u4").tobytes(), "little")
        rows.append([stream >> (bits * i) & mask for i in range(row.size * 32 // bits)])
    codes = np.array(rows).reshape(*words.shape[:-1], -1, group)
    if mode == "affine":
        factor, added = (as_floats(one)[..., None] for one in (scales, biases))
        return (codes * factor + added).reshape(*words.shape[:-1], -1)
    code = np.array(scales).astype(np.int64)
    factor = as_floats(formats.decode(scales, "e4m3")) if mode == "nvfp4" else 2.0 ** (code - 127.0)
    table = E2M1 if mode.endswith("fp4") else as_floats(formats.decode(all_codes(), "e4m3"))
    return (table[codes] * factor[..., None]).reshape(*words.shape[:-1], -1)


def all_codes():
    return mx.arange(256).astype(mx.uint8)


def made(seed, shape, mode, bits, group, dtypes=(mx.float32, mx.float32)):
    """Return a weight with random codes and scales of both signs, none of them NaN."""
    random = np.random.default_rng(seed)
    if mode == "mxfp8":
        codes = random.integers(0, 127, shape) + 128 * random.integers(0, 2, shape)
        w = mx.array(codes.astype(np.uint8)).view(mx.uint32)
    else:
        words = (*shape[:-1], shape[-1] * bits // 32)
        w = mx.array(random.integers(0, 1 << 32, words, dtype=np.uint32))
    groups = (*shape[:-1], shape[-1] // group)
    if mode == "affine":
        scales, biases = (
            mx.array(0.2 * random.standard_normal(groups).astype(np.float32)).astype(dtype)
            for dtype in dtypes
        )
        return w, scales, biases
    if mode == "nvfp4":
        codes = random.integers(0, 0x50, groups) + 128 * random.integers(0, 2, groups)
        return w, mx.array(codes.astype(np.uint8)), None
    return w, mx.array(random.integers(120, 130, groups).astype(np.uint8)), None


def quantized_case(weight, transpose, kernel, forced, experts=4, chosen=(3, 0, 0, 3, 1, 3, 3)):
    mode, bits, group = weight
    n, k = (19, 2 * group) if transpose else (2 * group, 27)
    shape = (experts, *((n, k) if transpose else (k, n)))
    w, scales, biases = made(bits, shape, *weight, (mx.float16, mx.bfloat16))
    values = own_values(w, scales, biases, *weight)
    x = random_array(bits, (len(chosen), 1, k), mx.float16)
    with forced(kernel):
        got = tg.gather_qmm(
            x,
            w,
            scales,
            biases,
            None,
            mx.array(chosen),
            transpose,
            group,
            bits,
            mode,
            out_dtype=mx.bfloat16,
        )
    matrices = values.swapaxes(-1, -2) if transpose else values
    close(got, x, matrices, np.arange(len(chosen)), chosen, mx.bfloat16, roundings=7)


class TestQuantizedWeights:
    @pytest.mark.parametrize("kernel", [KERNELS[0], slow(KERNELS[2])])
    @pytest.mark.parametrize("weight", [("affine", 4, 64), slow(("nvfp4", 4, 16))], ids=str)
    def test_some(self, kernels, forced, weight, kernel):
        quantized_case(weight, True, kernel, forced)

    @pytest.mark.slow
    @pytest.mark.parametrize("transpose", [True, False], ids=["nt", "nn"])
    @pytest.mark.parametrize(
        "weight",
        [*(("affine", b, 32 << b % 3) for b in (1, 2, 3, 5, 6, 8)), *WEIGHTS[-3:]],
        ids=str,
    )
    def test_every_code(self, kernels, forced, weight, transpose):
        # Two rows beside runs of 32 columns are more than a thread's registers hold.
        rows = 2 if transpose or weight[1] % 2 == 0 else 1
        few = f"expert_gemv/{rows}x1-4"
        quantized_case(weight, transpose, few, forced)
        quantized_case(weight, transpose, "expert_gemm/8x64-1x4", forced)

    def test_a_scale_for_each_matrix(self, either):
        w, scales, _ = made(0, (4, 19, 64), "nvfp4", 4, 16)
        matrices = own_values(w, scales, None, "nvfp4", 4, 16).swapaxes(-1, -2)
        x, chosen = random_array(1, (3, 1, 1, 64), mx.float16), mx.array([[3, 0], [1, 3], [0, 1]])
        factors = np.array([2688.0, 1.0, 100.0, 4000.0], dtype=np.float32)
        got = tg.gather_qmm(
            x,
            w,
            scales,
            rhs_indices=chosen,
            mode="nvfp4",
            global_scale=mx.array(factors),
            out_dtype=mx.float32,
        )
        lhs = np.arange(3)[:, None]
        close(got, x, matrices, lhs, chosen, mx.float32, factors=factors / 2688, roundings=10)

    @pytest.mark.slow
    @pytest.mark.parametrize("x_dtype", FLOATS)
    def test_result_dtypes_are_those_of_mlx(self, either, x_dtype):
        w, scales, biases = made(0, (4, 19, 64), "affine", 4, 64, (mx.float16, mx.float16))
        x, chosen = random_array(1, (3, 1, 64), x_dtype), mx.array([3, 0, 1])
        got = tg.gather_qmm(x, w, scales, biases, rhs_indices=chosen)
        assert got.dtype == mx.gather_qmm(x, w, scales, biases, rhs_indices=chosen).dtype


SCALES = {
    "block": ((16, 24), lambda e, n, k: (e, -(-n // 16), -(-k // 24)), mx.float32),
    "row": (None, lambda e, n, k: (e, n, 1), mx.bfloat16),
    "matrix": (None, lambda e, n, k: (e, 1, 1), mx.float16),
    "powers": (None, lambda e, n, k: (e, n, -(-k // 32)), mx.uint8),
    "none": (None, None, None),
}
"""Blocks, shape and dtype of the scales of ``[n, k]`` codes."""


def coded(seed, experts, n, k, form, kind):
    """Return random codes ``[experts, n, k]``, their scales, blocks, and values in float64."""
    random = np.random.default_rng(seed)
    block, shape, dtype = SCALES[kind]
    if form == "int8":
        codes = mx.array(random.integers(-128, 128, (experts, n, k)).astype(np.int8))
        values = as_floats(codes)
    else:
        normal = random.standard_normal((experts, n, k)).astype(np.float32)
        codes = formats.encode(mx.array(normal), form)
        values = as_floats(formats.decode(codes, form))
    if shape is None:
        return codes, None, block, values
    if dtype == mx.uint8:
        scales = mx.array(random.integers(125, 130, shape(experts, n, k)).astype(np.uint8))
        factors = as_floats(formats.decode(scales, "e8m0"))
    else:
        drawn = random.choice([-1.5, 0.25, 0.7, 3.0], shape(experts, n, k))
        scales = mx.array(drawn.astype(np.float32)).astype(dtype)
        factors = as_floats(scales)
    height, width = block or {"row": (1, k), "matrix": (n, k), "powers": (1, 32)}[kind]
    grown = np.repeat(np.repeat(factors, height, axis=1), width, axis=2)[:, :n, :k]
    return codes, scales, block, values * grown


def laid(array, transpose):
    return array if transpose or array is None else mx.contiguous(array.swapaxes(-1, -2))


def coded_case(form, kind, transpose, x_dtype=mx.float16, out=mx.bfloat16, seed=0):
    codes, scales, block, values = coded(seed, 40, N, K, form, kind)
    for chosen in ([39, 0, 0, 33, 33, 33, 1], [5] * 19):
        x = random_array(seed, (len(chosen), 1, K), x_dtype)
        got = tg.gather_fp8_mm(
            x,
            laid(codes, transpose),
            laid(scales, transpose),
            rhs_indices=mx.array(chosen),
            format=form,
            block=block,
            transpose=transpose,
            out_dtype=out,
        )
        matrices = values.swapaxes(-1, -2)
        close(got, x, matrices, np.arange(len(chosen)), chosen, out, roundings=7)


class TestCodes:
    @pytest.mark.parametrize("transpose", [True, slow(False)], ids=["nt", "nn"])
    @pytest.mark.parametrize("kernel", [KERNELS[0], slow(KERNELS[1]), KERNELS[2]])
    def test_blocks(self, kernels, forced, kernel, transpose):
        # Four rows of columns that end within a run, each to be found its scale, spill registers.
        spills = kernel == KERNELS[0] and not transpose
        with forced("expert_gemv/2x1-4" if spills else kernel):
            coded_case("e4m3", "block", transpose)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("form", "kind", "transpose"),
        [
            ("e5m2", "powers", True),
            ("e4m3", "row", False),
            ("int8", "matrix", True),
            ("e5m2", "none", False),
        ],
    )
    def test_every_kind(self, kernels, forced, form, kind, transpose):
        for kernel in (KERNELS[0], KERNELS[2]):
            with forced(kernel):
                coded_case(form, kind, transpose)

    @pytest.mark.parametrize("transpose", [True, False], ids=["nt", "nn"])
    @pytest.mark.parametrize("kind", SCALES)
    @pytest.mark.parametrize("form", ["e4m3", "e5m2", "int8"])
    def test_by_mlx_s_ops(self, form, kind, transpose):
        with tg.use_backend("mlx"):
            coded_case(form, kind, transpose, mx.bfloat16, mx.float32)

    @pytest.mark.slow
    def test_every_code(self, kernels, forced):
        codes = mx.pad(all_codes()[None, :, None], ((0, 0), (0, 0), (0, 15)))
        for form in ("e4m3", "e5m2"):
            with forced(KERNELS[2]):
                got = tg.gather_fp8_mm(mx.eye(16)[:1, None], codes, format=form)
            np.testing.assert_array_equal(
                np.array(got)[0, 0], np.array(formats.decode(all_codes(), form))
            )

    def test_result_dtype_is_that_of_x(self, either):
        codes, scales, block, _ = coded(0, 40, N, K, "e4m3", "block")
        x = random_array(0, (3, 1, K), mx.float16)
        got = tg.gather_fp8_mm(x, codes, scales, rhs_indices=I3, block=block)
        assert got.dtype == mx.float16

    def test_codes_that_no_kernel_serves_are_priced_with_their_copy(self):
        problem = parse("64x8x128x768x2048:bf16,f32:e4m3-128x128")
        copied = cases.price_of(problem, M4).copied_bytes
        assert copied >= (1 + 3 * 4) * problem.elements("w")
        few = parse("1x8x128x768x2048:bf16,f32:e4m3-128x128")
        assert cases.price_of(few, M4).copied_bytes < copied / 15

    def test_the_command_line(self):
        problem = parse("8x2x4x64x96:bf16,f32:e4m3-128x128-nn")
        assert str(problem.scaling) == "float32 each 128x128"
        assert problem.operands[2].shape == (4, 1, 1)
        assert not problem.transpose
        assert parse("8x2x4x64x96:bf16,f32:e5m2").scaling is None
        assert parse("8x2x4x64x96:bf16,f32:int8-row").operands[2].shape == (4, 64, 1)
        assert parse("8x2x4x64x96:bf16:e4m3-32").operands[2].shape == (4, 64, 3)
        for wrong in ("e4m3-0x128", "e4m3-column", "e4m3-row-row", "e6m1"):
            with pytest.raises(tg.errors.ProblemError, match="--experts"):
                parse(f"8x2x4x64x96:f16:{wrong}")
        plain = to_plain(problem, problem_types())
        assert from_plain(plain, problem_types()) == problem

    @pytest.mark.parametrize(
        ("text", "kernel"),
        [
            ("1x8x128x768x2048:bf16,f32:e4m3-128x128", "expert_gemv"),
            ("8x8x128x768x2048:bf16,f32:e4m3-128x128", "expert_gemv"),
            ("512x8x128x768x2048:bf16,f32:e4m3-128x128", "expert_gemm"),
        ],
    )
    def test_few_rows_are_the_gemvs_and_many_the_gemms(self, text, kernel):
        assert choose(parse(text), M4).plan.kernel == kernel


@pytest.mark.slow
@given(data=st.data())
def test_any_products_of_codes(data, kernels):
    draw = data.draw
    form, kind = draw(st.sampled_from(("e4m3", "e5m2", "int8"))), draw(st.sampled_from([*SCALES]))
    x_dtype, out = (draw(st.sampled_from(FLOATS)) for _ in range(2))
    coded_case(form, kind, draw(st.booleans()), x_dtype, out, draw(st.integers(0, 9)))


@pytest.mark.slow
@given(data=st.data())
def test_any_plain_products(data, kernels):
    draw = data.draw
    a_dtype, b_dtype, out = (draw(st.sampled_from(FLOATS)) for _ in range(3))
    transpose = draw(st.booleans())
    n, k = (draw(st.sampled_from((1, 8, 31, 33, 65))) for _ in range(2))
    b_shape = (n, k) if transpose else (k, n)
    experts = draw(st.sampled_from((1, 3, 8, 33)))
    b = random_array(draw(st.integers(0, 99)), (experts, *b_shape), b_dtype)
    matrices = as_floats(b.swapaxes(-1, -2) if transpose else b)
    for _ in range(draw(st.integers(1, 3))):
        batch = draw(st.sampled_from(((1,), (3,), (2, 3), (17,))))
        a = random_array(3, (*batch, draw(st.sampled_from((1, 2, 5))), k), a_dtype)
        shape = draw(st.sampled_from(((1,), (4,), (3, 2), (2, 1, 3), (70,))))
        random = np.random.default_rng(draw(st.integers(0, 99)))
        lhs, rhs = random.integers(0, prod(batch), shape), random.integers(0, experts, shape[-1:])
        got = tg.gather_mm(a, b, mx.array(lhs), mx.array(rhs), transpose_b=transpose, out_dtype=out)
        close(got, a, matrices, lhs, rhs, out)


@pytest.mark.slow
@given(data=st.data())
def test_any_quantized_products(data, kernels):
    draw = data.draw
    mode, bits, group = weight = draw(st.sampled_from(WEIGHTS))
    x_dtype, scales_dtype, biases_dtype, out = (draw(st.sampled_from(FLOATS)) for _ in range(4))
    transpose = draw(st.booleans())
    whole, other = group * draw(st.integers(1, 2)), draw(st.sampled_from((1, 7, 31, 33)))
    n, k = (other, whole) if transpose else (whole, other)
    experts = draw(st.sampled_from((1, 4, 33)))
    shape = (experts, *((n, k) if transpose else (k, n)))
    w, scales, biases = made(draw(st.integers(0, 99)), shape, *weight, (scales_dtype, biases_dtype))
    values = own_values(w, scales, biases, *weight)
    matrices = values.swapaxes(-1, -2) if transpose else values
    for tokens, chosen in draw(st.lists(st.sampled_from(((1, 4), (9, 2), (40, 3))), max_size=2)):
        random = np.random.default_rng(draw(st.integers(0, 99)))
        indices = random.integers(0, experts, (tokens, chosen))
        x = random_array(4, (tokens, 1, 1, k), x_dtype)
        got = tg.gather_qmm(
            x,
            w,
            scales,
            biases,
            None,
            mx.array(indices),
            transpose,
            group,
            bits,
            mode,
            out_dtype=out,
        )
        lhs = np.arange(tokens)[:, None]
        close(got, x, matrices, lhs, indices, out, roundings=7)


QUANTIZED = made(0, (4, 19, 64), "affine", 4, 64)
CODES = mx.zeros((4, 19, 64), dtype=mx.uint8)
X = mx.zeros((3, 1, 64))
I3 = mx.array([0, 1, 2])

REFUSED = [
    (
        lambda: tg.gather_mm(A, B, rhs_indices=CHOSEN),
        "Last dimension of first input with shape (6,1,1,72) must match second to last dimension "
        "of second input with shape (5,37,72).",
    ),
    (
        lambda: tg.gather_mm(A, B, mx.array([0, 1, 2]), mx.array([0, 1]), transpose_b=True),
        "[broadcast_shapes] Shapes (3) and (2) cannot be broadcast.",
    ),
    (
        lambda: tg.gather_mm(A, B, rhs_indices=CHOSEN + 1, transpose_b=True),
        "[gather_mm] Expected rhs_indices from 0 to 4, got 5.",
    ),
    (
        lambda: tg.gather_mm(A, B, mx.array([[-1]]), CHOSEN, transpose_b=True),
        "[gather_mm] Expected lhs_indices from 0 to 5, got -1.",
    ),
    (
        lambda: tg.gather_mm(A, B[:0], rhs_indices=CHOSEN, transpose_b=True),
        "[gather_mm] Expected rhs_indices of a matrix, got a batch of none.",
    ),
    (
        lambda: tg.grouped_matmul(A[:, 0, 0], B, mx.array([1, 2, 3]), transpose_b=True),
        "[grouped_matmul] Expected an offset for each of 5 groups, got offsets of shape (3).",
    ),
    (
        lambda: tg.grouped_matmul(A[:, 0, 0], B, mx.array([0, 4, 3, 5, 6]), transpose_b=True),
        "[grouped_matmul] Expected offsets that never fall, from 0 to 6 rows, got [0, 4, 3, 5, 6].",
    ),
    (
        lambda: tg.grouped_matmul(
            A[:, 0, 0], B, mx.array([1, 2, 3, 4, 5]), transpose_b=True, bias=mx.zeros((N,))
        ),
        "[grouped_matmul] Expected bias of a row for each matrix, (5,37), got (37).",
    ),
    (
        lambda: tg.segmented_mm(mx.zeros((4, 6)), mx.zeros((7, 5)), mx.array([[0, 1]])),
        "Last dimension of first input with shape (4,6) must match second to last dimension of "
        "second input with shape (7,5).",
    ),
    (
        lambda: tg.segmented_mm(mx.zeros((4, 6)), mx.zeros((6, 5)), mx.array([[0, 7]])),
        "[segmented_mm] Expected segments from 0 to 6, the contracted axis's length, got 7.",
    ),
    (
        lambda: tg.segmented_mm(mx.zeros((4, 6)), mx.zeros((6, 5)), mx.array([[0, 1, 2]])),
        "[segmented_mm] The segments should have shape (..., 2) but (1,3) was provided.",
    ),
    (
        lambda: tg.segmented_mm(mx.zeros((1, 4, 6)), mx.zeros((6, 5)), mx.array([[0, 1]])),
        "[segmented_mm] Batched matmul not supported",
    ),
    (
        lambda: tg.gather_qmm(X[0, 0], *QUANTIZED, rhs_indices=I3),
        "[gather_qmm] Input must have at least two dimensions but got input with shape (64).",
    ),
    (
        lambda: tg.gather_qmm(X, QUANTIZED[0], QUANTIZED[1][:, :7], QUANTIZED[2], rhs_indices=I3),
        "[gather_qmm] Expected scales for every row of the weight, (4,19,1), got (4,7,1).",
    ),
    (
        lambda: tg.gather_qmm(X, *QUANTIZED, rhs_indices=I3, global_scale=mx.zeros((4,))),
        "[gather_qmm] Global scale is only supported for 'nvfp4' quantization mode.",
    ),
    (
        lambda: tg.gather_fp8_mm(X, CODES, format="e3m4"),
        "[gather_fp8_mm] Expected format to name the format of the codes, one of e4m3, e5m2, int8, "
        "got 'e3m4'.",
    ),
    (
        lambda: tg.gather_fp8_mm(X, CODES, mx.ones((19, 1)), rhs_indices=I3),
        "[gather_fp8_mm] Expected scales for each matrix of the weight, of shape (4,1,1) or more, "
        "got (19,1).",
    ),
    (
        lambda: tg.gather_fp8_mm(X, CODES, mx.ones((4, 2, 3)), rhs_indices=I3, block=(16, 16)),
        "[gather_fp8_mm] Expected scales of an operand of shape (4,19,64) to be one scale or "
        "(4,1,1) or (4,19,1) or (4,2,4); blocks are named, as by block=(128, 128), got (4,2,3).",
    ),
    (
        lambda: tg.gather_fp8_mm(X, CODES, rhs_indices=I3 + 2),
        "[gather_fp8_mm] Expected rhs_indices from 0 to 3, got 4.",
    ),
    (
        lambda: tg.gather_fp8_mm(X[..., :60], CODES, rhs_indices=I3),
        "Last dimension of first input with shape (3,1,60) must match second to last dimension of "
        "second input with shape (4,64,19).",
    ),
    (
        lambda: tg.gather_fp8_mm(X[0, 0], CODES, rhs_indices=I3),
        "[gather_fp8_mm] Expected x of at least two dimensions, got (64).",
    ),
]
DTYPES_REFUSED = [
    (
        lambda: tg.gather_mm(A, B, rhs_indices=CHOSEN * 1.0, transpose_b=True),
        "[gather_mm] Got indices with invalid dtype. Indices must be integral.",
    ),
    (
        lambda: tg.gather_mm(mx.zeros((1, K), mx.int32), mx.zeros((1, K, 3), mx.int32)),
        "[gather_mm] Only real floating point types are supported but int32 and int32 were "
        "provided which results in int32, which is not a real floating point type.",
    ),
    (
        lambda: tg.segmented_mm(mx.zeros((4, 6)), mx.zeros((6, 5)), mx.zeros((1, 2))),
        "[segmented_mm] Got segments with invalid dtype. Segments must be integral.",
    ),
    (
        lambda: tg.gather_mm(A, B, rhs_indices=CHOSEN, transpose_b="yes"),
        "[gather_mm] Expected transpose_b to be a bool, got str.",
    ),
    (
        lambda: tg.gather_mm(A, [1.0]),
        "[gather_mm] Expected b to be an mlx.core.array, got list; mx.array(b) makes one.",
    ),
    (
        lambda: tg.gather_qmm(X, *QUANTIZED, rhs_indices=I3, mode=4),
        "[gather_qmm] Expected mode to be a string, got int.",
    ),
    (
        lambda: tg.gather_fp8_mm(X, CODES.astype(mx.float16), rhs_indices=I3),
        "[gather_fp8_mm] Expected w to be codes of uint8 or int8, got float16.",
    ),
    (
        lambda: tg.gather_fp8_mm(X, CODES, format="int8", rhs_indices=I3),
        "[gather_fp8_mm] Expected w of int8 for format 'int8', got uint8.",
    ),
    (
        lambda: tg.gather_fp8_mm(X, CODES, mx.ones((4, 1, 1), mx.int32), rhs_indices=I3),
        "[gather_fp8_mm] Expected scales of float32, float16 or bfloat16, or e8m0 codes of uint8, "
        "got int32.",
    ),
    (
        lambda: tg.gather_fp8_mm(X, CODES, block=128, rhs_indices=I3),
        "[gather_fp8_mm] Expected block to be None or two sizes, got int.",
    ),
    (
        lambda: tg.gather_fp8_mm(CODES[:3, :1], CODES, rhs_indices=I3),
        "[gather_fp8_mm] Expected x of float32, float16 or bfloat16, got uint8.",
    ),
]


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED])
def test_shapes_and_values_that_are_refused(either, call, message):
    with pytest.raises(tg.errors.ProblemError, match=re.escape(message)):
        call()


@pytest.mark.parametrize(
    ("call", "message"), DTYPES_REFUSED, ids=[message[:40] for _, message in DTYPES_REFUSED]
)
def test_dtypes_that_are_refused(kernels, call, message):
    with pytest.raises(tg.errors.DTypeError, match=re.escape(message)):
        call()


def test_values_are_asked_for_on_a_cpu_alone(monkeypatch):
    """Of a GPU's arrays none is evaluated, and of what is followed there are none."""
    wrong = mx.array([5, 0])

    def product(a):
        return tg.gather_mm(a, B, rhs_indices=wrong, transpose_b=True)

    with tg.use_backend("mlx"):
        with pytest.raises(tg.errors.ProblemError, match="from 0 to 4, got 5"):
            product(A[:2, 0])
        assert mx.compile(product)(A[:2, 0]).shape == (2, 1, N)
        monkeypatch.setattr(experts, "is_on_cpu", lambda stream: stream is not None)
        monkeypatch.setattr(experts, "check_values", lambda *_: pytest.fail("it is asked for"))
        assert product(A[:2, 0]).shape == (2, 1, N)
        assert tg.gather_mm(A[:2, 0], B, rhs_indices=wrong, transpose_b=True, stream=mx.cpu).shape


class TestMlxsOwnOp:
    """On a GPU MLX's op is called with the arrays as they are, where it computes what is asked."""

    @pytest.fixture
    def called(self, monkeypatch):
        """Calls of MLX's op, for which the CPU stands in for a GPU."""
        found = []

        def noting(name, op):
            def call(*arrays, **options):
                found.append((name, arrays))
                return op(*arrays, **options)

            monkeypatch.setattr(mlx_ops, name, call)

        for name in ("gather_mm", "gather_qmm"):
            noting(name, getattr(mlx_ops, name))
        monkeypatch.setattr(experts, "is_on_gpu", lambda stream: stream is None)
        monkeypatch.setattr(experts, "check_values", lambda *_: None)
        return found

    def test_plain_matrices(self, called):
        chosen = mx.array([[3, 1], [0, 4]])
        x = mx.random.normal((2, 1, 1, K))
        w = mx.random.normal((5, N, K))
        with tg.use_backend("mlx"):
            y = tg.gather_mm(x, w, rhs_indices=chosen, transpose_b=True)
            (name, arrays), *others = called
            assert not others
            assert name == "gather_mm"
            assert arrays[0] is x
            assert arrays[2] is None
            assert arrays[3] is chosen
            general = tg.gather_mm(x, w, rhs_indices=chosen, transpose_b=True, stream=mx.cpu)
        assert y.shape == (2, 2, 1, N)
        assert np.allclose(np.array(y), np.array(general), atol=1e-5)

    def test_quantized_matrices(self, called):
        chosen = mx.array([[3, 1], [0, 4]])
        x = mx.random.normal((2, 1, 1, 64))
        w = mx.quantize(mx.random.normal((5, 32, 64)))
        with tg.use_backend("mlx"):
            y = tg.gather_qmm(x, *w, rhs_indices=chosen)
            (name, arrays), *others = called
            assert not others
            assert name == "gather_qmm"
            assert [arrays[i] is one for i, one in ((0, x), (3, w[2]), (5, chosen))] == [True] * 3
            general = tg.gather_qmm(x, *w, rhs_indices=chosen, stream=mx.cpu)
        assert y.shape == (2, 2, 1, 32)
        assert np.allclose(np.array(y), np.array(general), atol=1e-5)

    @pytest.mark.parametrize("what", ["out_dtype", "vector", "sorted"])
    def test_where_there_is_more_to_do(self, called, what):
        """A result of another type is cast, a vector has no matrix, and many rows are sorted."""
        rows = 2048 if what == "sorted" else 2
        chosen = mx.zeros((rows, 1), dtype=mx.int32) + mx.arange(rows)[:, None] % 5
        x, w = mx.random.normal((rows, 1, 1, K)), mx.random.normal((5, N, K))
        if what == "vector":
            x, chosen = x[0, 0, 0], chosen[:1, 0]
        out = mx.float16 if what == "out_dtype" else None
        with tg.use_backend("mlx"):
            tg.gather_mm(x, w, rhs_indices=chosen, transpose_b=True, out_dtype=out)
        assert not any(one is x for _, arrays in called for one in arrays)

    @pytest.mark.parametrize(("cuda", "sorted_"), [(False, True), (True, False)])
    def test_fewer_rows_are_sorted_on_metal(self, called, monkeypatch, cuda, sorted_):
        monkeypatch.setattr(mx.cuda, "is_available", lambda: cuda)
        chosen = mx.arange(80)[:, None] % 5
        x, w = mx.random.normal((80, 1, 1, K)), mx.random.normal((5, N, K))
        with tg.use_backend("mlx"):
            forget_prepared()
            tg.gather_mm(x, w, rhs_indices=chosen, transpose_b=True)
            forget_prepared()
        assert called[0][1][0] is not x if sorted_ else called[0][1][0] is x

    @pytest.mark.parametrize(("mode", "sorted_"), [("affine", False), ("mxfp4", True)])
    def test_rows_are_not_sorted_on_cuda_for_affine_weights(
        self, called, monkeypatch, mode, sorted_
    ):
        monkeypatch.setattr(mx.cuda, "is_available", lambda: True)
        chosen = mx.arange(1100)[:, None] % 5
        x, w = mx.zeros((1100, 1, 1, 64)), mx.quantize(mx.zeros((5, 32, 64)), mode=mode)
        with tg.use_backend("mlx"):
            forget_prepared()
            tg.gather_qmm(x, *w, rhs_indices=chosen, mode=mode)
            forget_prepared()
        assert called[0][1][0] is not x if sorted_ else called[0][1][0] is x


def test_indices_of_kernels_need_not_be_flat():
    """Where nothing is being followed: a node of the graph costs as much as a call."""
    chosen = mx.array([[3, 1], [0, 4]], dtype=mx.int32)
    x, backend = random_array(1, (2, 1, 1, K)), LazyKernels(backend_named("emulator"))
    with tg.use_backend(backend), tg.use_kernel("expert_gemv"):
        y = tg.gather_mm(x, B, rhs_indices=chosen, transpose_b=True)
        mx.compile(lambda x: tg.gather_mm(x, B, rhs_indices=chosen, transpose_b=True))(x)
    taken = [[one.shape for one in launch["inputs"]] for _, launch in backend.launches]
    assert [(2, 2) in shapes for shapes in taken] == [True, False]
    with tg.use_backend("mlx"):
        wanted = tg.gather_mm(x, B, rhs_indices=chosen, transpose_b=True)
    assert np.allclose(as_floats(y), as_floats(wanted), atol=1e-4)


def test_sizes_that_change_are_refused():
    function = mx.compile(lambda a: tg.gather_mm(a, B[0].T), shapeless=True)
    with pytest.raises(tg.errors.BackendError, match="sizes that stay"):
        function(A[0, 0])
    codes, both = mx.zeros((5, N, K), dtype=mx.uint8), mx.array([0, 1])
    function = mx.compile(lambda a: tg.gather_fp8_mm(a, codes, None, both, both), shapeless=True)
    with pytest.raises(tg.errors.BackendError, match="MLX has no op that multiplies these codes"):
        function(A[:, 0])


class TestChoice:
    @pytest.mark.parametrize(
        ("text", "kernel"),
        [
            ("1x8x128x768x2048:bf16", "expert_gemv"),
            ("4x8x128x768x2048:bf16,f16", "expert_gemv"),
            ("8x8x128x768x2048:bf16,f16", "expert_gemm"),
            ("8x8x128x768x2048:bf16,f16:affine4x64", "expert_gemv"),
            ("512x8x128x768x2048:bf16,f16", "expert_gemm"),
            ("512x8x128x768x2048:bf16,f16:affine4x64", "expert_gemm"),
            ("1x8x128x768x2048:bf16,f16:affine4x64", "expert_gemv"),
        ],
    )
    def test_few_rows_are_the_gemvs_and_many_the_gemms(self, text, kernel):
        assert choose(parse(text), M4).plan.kernel == kernel

    @pytest.mark.parametrize("chip", ["m1-max", "m4-max", "m5-max"])
    @pytest.mark.parametrize("weight", ["bf16,f32:e4m3-128x128", "bf16:affine4x64"])
    def test_rows_are_staged_where_mlx_sorts(self, weight, chip):
        """Else each simdgroup would ask for its rows: fp8 at 8 tokens more than MLX of copies."""
        staged = {}
        for tokens in (1, 8):
            problem = parse(f"{tokens}x8x128x384x1024:{weight}")
            staged[tokens] = str(choose(problem, chips.get(chip)).plan.config)
        assert staged == {1: "1x4-4", 8: "1x4-4-staged"}

    @pytest.mark.parametrize("tokens", [8, 64])
    def test_plain_tiles_are_wide(self, tokens):
        """Else they would ask for rows, and for where experts' rows end, more often than MLX."""
        problem = parse(f"{tokens}x8x128x384x1024:bf16")
        assert str(choose(problem, chips.get("m1-max")).plan.config) == "16x128-1x4"

    def test_the_weight_is_cast_by_mlx_alone(self):
        problem = parse("64x8x128x768x2048:bf16,f16")
        price = cases.price_of(problem, M4)
        assert price.copied_bytes > problem.nbytes("w")
        same = replace(problem, w=problem.x, out=problem.x)
        assert cases.price_of(same, M4).copied_bytes == 0

    def test_explain(self):
        text = str(tg.explain(tg.gather_mm, A, B, rhs_indices=CHOSEN, transpose_b=True, chip="m4"))
        assert "about 5 of 5 experts are read" in text

    def test_the_command_line(self):
        problem = parse("8x2x4x33x64:bf16,f16:affine4x64-nn".replace("33x64", "64x33"))
        assert (problem.products, problem.experts, problem.n, problem.k) == (16, 4, 64, 33)
        assert parse("8x2x4x33x64:f16:grouped").grouped
        for wrong in ("8x2x4x33", "8x2x4x33x64:f16:affine", "8x2x4x33x65:f16:mxfp4"):
            with pytest.raises(tg.errors.ProblemError, match="--experts"):
                parse(wrong)

    def test_problems_go_to_files_and_back(self):
        for problem in (parse("8x2x4x33x64:f16:mxfp4"), segmented_variant(3, 4, 5)):
            plain = to_plain(problem, problem_types())
            assert from_plain(plain, problem_types()) == problem


@pytest.mark.parametrize(
    "problem",
    [
        variant(300, N, K, fanout=3),
        variant(300, N, K, fanout=0, m=2),
        variant(300, N, K, grouped=True, bias=parse("1x1x1x1x1:f16").x),
        segmented_variant(300, N, K),
    ],
    ids=str,
)
def test_a_part_of_a_call_is_held_to_what_the_whole_is(problem):
    family = family_of(problem)
    operands = cases.operands(problem, cases.Data())
    outputs = family.fallback(problem)(operands, (), None)
    whole = family.reference(problem, operands, ())
    assert hold(problem, outputs, whole)[1] == []
    part = family.part(problem, operands, outputs, 40)
    assert part.outputs[0].size < outputs[0].size
    wanted = family.reference(part.problem, part.operands, ())
    assert hold(part.problem, part.outputs, wanted)[1] == []

"""The GEMM kernels against float64 and against `mx.matmul`."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import oracle
import pytest
import strategies
from hypothesis import given
from hypothesis import strategies as st

import mlx_tilegemm as tg
from mlx_tilegemm.core import dtypes
from mlx_tilegemm.errors import IllegalKernelError
from mlx_tilegemm.families.gemm.kernels import gemm_scalar, gemm_simdgroup, gemm_split_k, gemv
from mlx_tilegemm.machine import chips

pytestmark = pytest.mark.usefixtures("kernels")

SIMDGROUP_CONFIGS = [str(config) for config in gemm_simdgroup.candidates(None, chips.DEFAULT)]
SCALAR_CONFIGS = [str(config) for config in gemm_scalar.CONFIGS]
FLOAT_PAIRS = [(a, b) for a in strategies.FLOATS for b in strategies.FLOATS]
INTEGER_PAIRS = [(a, b) for a in strategies.INTEGERS for b in strategies.INTEGERS]
LAYOUTS = [(False, False), (False, True), (True, False), (True, True)]


def check(a, b, *, kernel=None, transpose_a=False, transpose_b=False, **kwargs):
    """Run a product, check its numbers, its dtype and its route, and return it."""
    options = {"transpose_a": transpose_a, "transpose_b": transpose_b}
    with tg.use_kernel(kernel):
        got = tg.matmul(a, b, **options, **kwargs)
        route = tg.explain(tg.matmul, a, b, **options, **kwargs).route
    if kernel:
        assert route == kernel.split("/")[0]
    value, magnitude = oracle.gemm(a, b, **options)
    out = dtypes.from_mlx(got.dtype)
    k = a.shape[-2] if transpose_a and a.ndim > 1 else a.shape[-1]
    bound = oracle.gemm_bound(value, magnitude, k, out)
    oracle.assert_close(got, value, bound, f"{route} {a.shape} {b.shape} {a.dtype} {b.dtype}")
    return got


def arrays(a_shape, b_shape, a_dtype=mx.float16, b_dtype=mx.float32, seed=0):
    rng = np.random.default_rng(seed)
    return (
        strategies.random_array(rng, a_shape, a_dtype),
        strategies.random_array(rng, b_shape, b_dtype),
    )


@given(case=strategies.gemm_cases())
def test_the_dispatchers_choice_agrees_with_float64_and_mlx(case):
    a, b = case.operands()
    got = check(a, b, transpose_a=case.transpose_a, transpose_b=case.transpose_b)
    left = mx.swapaxes(a, -1, -2) if case.transpose_a else a
    right = mx.swapaxes(b, -1, -2) if case.transpose_b else b
    reference = mx.matmul(left, right)
    assert got.shape == reference.shape
    assert got.dtype == reference.dtype
    value, magnitude = oracle.gemm(a, b, transpose_a=case.transpose_a, transpose_b=case.transpose_b)
    bound = oracle.gemm_bound(value, magnitude, case.k, dtypes.from_mlx(got.dtype))
    oracle.assert_close(got, oracle.to_numpy(reference), 2 * bound, "against mx.matmul")


@pytest.mark.slow
@pytest.mark.parametrize("config", SIMDGROUP_CONFIGS)
@given(case=strategies.gemm_cases())
def test_every_simdgroup_configuration(config, case):
    a, b = case.operands()
    kernel = f"gemm_simdgroup/{config}"
    if min(a.size, b.size) < 8:
        kernel = "gemm_scalar"
    check(a, b, kernel=kernel, transpose_a=case.transpose_a, transpose_b=case.transpose_b)


@given(case=strategies.gemm_cases(rows=(1, 2, 3, 5, 8, 11, 16)))
@pytest.mark.slow
def test_gemv_serves_few_rows(case):
    a, b = case.operands()
    kernel = "gemv" if min(a.size, b.size) >= 8 and rows(a, b, case) <= 16 else None
    check(a, b, kernel=kernel, transpose_a=case.transpose_a, transpose_b=case.transpose_b)


def rows(a, b, case):
    options = {"transpose_a": case.transpose_a, "transpose_b": case.transpose_b}
    return tg.explain(tg.matmul, a, b, **options).problem.m


SPILLING = {(True, False): (16,), (True, True): (4, 16)}
"""Rows of which a transposed ``a`` would want more registers than there are, by layout."""


@pytest.mark.parametrize("config", [str(config) for config in gemv.CONFIGS])
@pytest.mark.parametrize("layout", LAYOUTS, ids=["nn", "nt", "tn", "tt"])
def test_every_gemv_configuration(config, layout):
    m = int(config.split("x")[0])
    shapes = ((m, 300), (300, 70))
    a_shape, b_shape = (
        shape[::-1] if t else shape for shape, t in zip(shapes, layout, strict=True)
    )
    a, b = arrays(a_shape, b_shape, mx.float32, mx.bfloat16)
    options = {"kernel": f"gemv/{config}", "transpose_a": layout[0], "transpose_b": layout[1]}
    if m in SPILLING.get(tuple(layout), ()):
        with pytest.raises(IllegalKernelError, match="registers a thread reach the limit"):
            check(a, b, **options)
    else:
        check(a, b, **options)


@pytest.mark.parametrize("splits", [one.splits for one in gemm_split_k.CONFIGS])
@pytest.mark.parametrize("k", [4051, pytest.param(4096, marks=pytest.mark.slow)])
def test_split_k_adds_shares_up(splits, k):
    a, b = arrays((9, k), (37, k), mx.float16, mx.bfloat16)
    kernel = f"gemm_split_k/{gemm_split_k.SHARE}-split{splits}"
    check(a, b, kernel=kernel, transpose_b=True)


@pytest.mark.parametrize("layout", LAYOUTS, ids=["nn", "nt", "tn", "tt"])
def test_split_k_in_every_layout_with_an_addend(layout):
    shapes = ((33, 555), (555, 41))
    a_shape, b_shape = (
        shape[::-1] if t else shape for shape, t in zip(shapes, layout, strict=True)
    )
    a, b = arrays(a_shape, b_shape)
    c = strategies.random_array(np.random.default_rng(2), (33, 1), mx.bfloat16)
    options = {"transpose_a": layout[0], "transpose_b": layout[1]}
    with tg.use_kernel("gemm_split_k"):
        got = tg.addmm(c, a, b, alpha=0.5, beta=-2.0, **options)
    value, magnitude = oracle.gemm(a, b, c=c, alpha=0.5, beta=-2.0, **options)
    oracle.assert_close(got, value, oracle.gemm_bound(value, magnitude, 555, dtypes.FLOAT32))


@pytest.mark.slow
@pytest.mark.parametrize(("n", "k"), [(40, 300), (33, 4096), (70, 5), (2, 2)])
@pytest.mark.parametrize("pair", [(mx.float16, mx.float32), (mx.int8, mx.int16)], ids=str)
def test_batch_invariant_rows_do_not_depend_on_their_number(n, k, pair):
    a, b = arrays((130, k), (n, k), *pair)
    whole = np.array(tg.matmul(a, b, transpose_b=True, batch_invariant=True))
    for count in (1, 2, 7, 16, 33, 64):
        part = np.array(tg.matmul(a[:count], b, transpose_b=True, batch_invariant=True))
        np.testing.assert_array_equal(part, whole[:count])
    split = tg.explain(tg.matmul, a[:1], b, transpose_b=True, batch_invariant=True)
    assert split.route in ("gemm_simdgroup", "gemm_scalar")


@pytest.mark.slow
@pytest.mark.parametrize("config", SCALAR_CONFIGS)
@given(case=strategies.gemm_cases())
def test_every_scalar_configuration(config, case):
    a, b = case.operands()
    check(
        a,
        b,
        kernel=f"gemm_scalar/{config}",
        transpose_a=case.transpose_a,
        transpose_b=case.transpose_b,
    )


@pytest.mark.parametrize("pair", FLOAT_PAIRS, ids=lambda pair: f"{pair[0]}-{pair[1]}")
@pytest.mark.parametrize("kernel", ["gemm_simdgroup", "gemm_scalar"])
def test_every_dtype_pair(pair, kernel):
    a, b = arrays((33, 40), (40, 17), *pair)
    got = check(a, b, kernel=kernel)
    assert got.dtype == mx.matmul(a, b).dtype


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS, ids=["nn", "nt", "tn", "tt"])
@pytest.mark.parametrize("config", [name for name in SIMDGROUP_CONFIGS if name.startswith("64")])
def test_aligned_sizes_need_no_guards(config, layout):
    transpose_a, transpose_b = layout
    a, b = arrays((64, 64), (64, 128) if not transpose_b else (128, 64), mx.bfloat16, mx.float16)
    kernel = f"gemm_simdgroup/{config}"
    options = {"transpose_a": transpose_a, "transpose_b": transpose_b}
    check(a, b, kernel=kernel, **options)
    with tg.use_kernel(kernel):
        source = tg.explain(tg.matmul, a, b, **options).source
    assert "GUARD_M = false" in source.header
    assert "GUARD_N = false" in source.header


@pytest.mark.parametrize("out", strategies.FLOATS, ids=str)
@pytest.mark.parametrize("kernel", ["gemm_simdgroup", "gemm_scalar"])
def test_out_dtype_rounds_the_float32_sum_once(out, kernel):
    a, b = arrays((19, 70), (70, 21), mx.float16, mx.bfloat16)
    assert check(a, b, kernel=kernel, out_dtype=out).dtype == out


@given(case=strategies.gemm_cases(dtypes=strategies.INTEGERS))
@pytest.mark.slow
def test_integers_are_exact_modulo_two_to_the_32(case):
    a, b = case.operands()
    got = tg.matmul(a, b, transpose_a=case.transpose_a, transpose_b=case.transpose_b)
    left = np.array(a).astype(np.int32)
    right = np.array(b).astype(np.int32)
    left = np.swapaxes(left, -1, -2) if case.transpose_a else left
    right = np.swapaxes(right, -1, -2) if case.transpose_b else right
    assert got.dtype == mx.int32
    np.testing.assert_array_equal(np.array(got), left @ right)


@pytest.mark.slow
@pytest.mark.parametrize("pair", INTEGER_PAIRS, ids=lambda pair: f"{pair[0]}-{pair[1]}")
def test_every_integer_pair(pair):
    a, b = arrays((9, 33), (33, 10), *pair)
    np.testing.assert_array_equal(
        np.array(tg.matmul(a, b)), np.array(a).astype(np.int32) @ np.array(b).astype(np.int32)
    )


SPECIAL_VALUES = [0.0, -0.0, 1.0, -1.0, 3.0e4, -6.5e4, np.inf, -np.inf, np.nan, 6e-8, 1e-40, 1e-3]


@given(
    seed=st.integers(0, 2**16),
    kernel=st.sampled_from(["gemm_simdgroup", "gemm_scalar"]),
    pair=st.sampled_from(FLOAT_PAIRS),
)
def test_special_values_come_out_as_in_float64(seed, kernel, pair):
    rng = np.random.default_rng(seed)
    a = mx.array(rng.choice(SPECIAL_VALUES, size=(9, 8)).astype(np.float32)).astype(pair[0])
    b = mx.array(rng.choice(SPECIAL_VALUES, size=(8, 9)).astype(np.float32)).astype(pair[1])
    check(a, b, kernel=kernel)


def test_products_beyond_float16_accumulate_in_float32():
    a = mx.full((8, 16), 300.0, dtype=mx.float16)
    b = mx.full((16, 8), 300.0, dtype=mx.float16)
    got = check(a, b, kernel="gemm_simdgroup", out_dtype=mx.float32)
    assert got[0, 0].item() == 16 * 300.0 * 300.0


@pytest.mark.parametrize("kernel", ["gemm_simdgroup", "gemm_scalar"])
@pytest.mark.parametrize("c_shape", [(21,), (1, 21), (19, 1), (19, 21), (1,), ()], ids=str)
def test_addmm_adds_a_broadcast_addend(kernel, c_shape):
    a, b = arrays((19, 33), (33, 21))
    c = strategies.random_array(np.random.default_rng(7), c_shape, mx.bfloat16)
    with tg.use_kernel(kernel):
        got = tg.addmm(c, a, b, alpha=-1.5, beta=0.25)
    value, magnitude = oracle.gemm(a, b, c=c, alpha=-1.5, beta=0.25)
    oracle.assert_close(got, value, oracle.gemm_bound(value, magnitude, 33, dtypes.FLOAT32))
    reference = mx.addmm(c, a, b, alpha=-1.5, beta=0.25)
    assert got.dtype == reference.dtype
    assert got.shape == reference.shape


@pytest.mark.slow
@pytest.mark.parametrize(
    ("a_shape", "b_shape", "c_shape"),
    [
        ((3, 5, 16), (16, 9), (9,)),
        ((3, 5, 16), (16, 9), (3, 1, 9)),
        ((3, 5, 16), (16, 9), (5, 9)),
        ((3, 5, 16), (16, 9), (3, 5, 1)),
        ((3, 1, 16), (16, 9), (3, 1, 9)),
        ((2, 1, 5, 16), (3, 16, 9), (2, 1, 5, 9)),
        ((2, 1, 5, 16), (3, 16, 9), (3, 1, 1)),
        ((16,), (4, 16, 9), (4, 9)),
        ((4, 5, 16), (16,), (4, 5)),
    ],
    ids=str,
)
def test_addmm_in_batches(a_shape, b_shape, c_shape):
    a, b = arrays(a_shape, b_shape)
    c = strategies.random_array(np.random.default_rng(1), c_shape, mx.float16)
    got = tg.addmm(c, a, b, beta=2.0)
    value, magnitude = oracle.gemm(a, b, c=c, beta=2.0)
    oracle.assert_close(got, value, oracle.gemm_bound(value, magnitude, 16, dtypes.FLOAT32))


@pytest.mark.parametrize(
    ("a_shape", "b_shape"),
    [
        ((5,), (5,)),
        ((5,), (5, 3)),
        ((4, 5), (5,)),
        ((2, 4, 5), (5,)),
        ((5,), (2, 5, 3)),
        ((2, 3, 4, 5), (3, 5, 6)),
        ((7, 1, 4, 5), (1, 6, 5, 3)),
        ((2, 1, 3, 1, 4, 5), (4, 1, 2, 5, 3)),
    ],
    ids=str,
)
def test_shapes_follow_mx_matmul(a_shape, b_shape):
    a, b = arrays(a_shape, b_shape)
    assert check(a, b).shape == mx.matmul(a, b).shape


@pytest.mark.parametrize(
    ("a_shape", "b_shape"),
    [((0, 5), (5, 3)), ((4, 5), (5, 0)), ((4, 0), (0, 3)), ((0, 4, 5), (5, 3)), ((0,), (0,))],
    ids=str,
)
def test_empty_operands_follow_mx_matmul(a_shape, b_shape):
    a, b = mx.zeros(a_shape, dtype=mx.float16), mx.zeros(b_shape)
    got, reference = tg.matmul(a, b), mx.matmul(a, b)
    assert got.shape == reference.shape
    assert got.dtype == reference.dtype
    np.testing.assert_array_equal(np.array(got), np.array(reference))


@pytest.mark.parametrize(
    "sizes", [(1, 1, 1), (1, 2, 3), (2, 1, 7), (7, 1, 1), (1, 7, 1), (2, 3, 2)], ids=str
)
def test_tiny_operands_are_served_by_the_scalar_kernel(sizes):
    m, n, k = sizes
    a, b = arrays((m, k), (k, n))
    check(a, b, kernel="gemm_scalar")
    assert tg.explain(tg.matmul, a, b).route == "gemm_scalar"


def test_views_that_begin_at_any_element():
    base_a = strategies.random_array(np.random.default_rng(3), (41 * 24 + 5,), mx.float16)
    base_b = strategies.random_array(np.random.default_rng(4), (24 * 40 + 5,), mx.bfloat16)
    for offset in (1, 3, 5):
        a = base_a[offset : offset + 41 * 24].reshape(41, 24)
        b = base_b[offset : offset + 24 * 40].reshape(24, 40)
        check(a, b, kernel="gemm_simdgroup")


def test_operands_that_are_views():
    a, b = arrays((40, 33), (50, 40))
    check(a.T, mx.swapaxes(b, 0, 1)[:, ::2], kernel="gemm_simdgroup")
    check(mx.broadcast_to(a[:1], (9, 33)), a.T, kernel="gemm_simdgroup")


@pytest.mark.parametrize("kernel", ["gemm_simdgroup/64x64x16-2x2-staged", "gemm_scalar"])
def test_results_repeat_bit_for_bit(kernel):
    a, b = arrays((65, 100), (100, 70))
    with tg.use_kernel(kernel):
        results = [np.array(tg.matmul(a, b)) for _ in range(12)]
    for result in results[1:]:
        np.testing.assert_array_equal(result.view(np.uint32), results[0].view(np.uint32))


def test_more_threadgroups_than_one_in_every_direction():
    a, b = arrays((2, 200, 40), (2, 40, 150))
    check(a, b, kernel="gemm_simdgroup/32x32x16-2x2-staged")

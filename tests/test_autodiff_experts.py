"""Derivatives and batching of products with chosen matrices, against those of taken ones."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

import mlx_tilegemm as tg
from mlx_tilegemm.backends import backend_named
from mlx_tilegemm.core.arguments import ArraySpec
from mlx_tilegemm.families import family_of, ops

N, K = 24, 64
CHOSEN = mx.array([[4, 0], [1, 1], [0, 4], [2, 4], [0, 0], [4, 1]])
OFFSETS = mx.array([2, 2, 5, 9, 9])
SEGMENTS = mx.array([[0, 20], [20, 20], [10, 63]])


def random(seed, *shape):
    return mx.random.normal(shape, key=mx.random.key(seed))


X, W, BIAS = random(0, 6, 1, 1, K), random(1, 5, N, K), random(2, 5, N)
ROWS, A, B = random(3, 9, K), random(4, 33, K), random(5, K, N)
CODES, SCALES, BIASES = mx.quantize(W, 64, 4)
BYTES, BLOCKS = tg.formats.encode(W, "e4m3"), 1 + mx.abs(random(6, 5, 2, 3))


def close(got, expected, share=1e-5):
    assert got.shape == expected.shape
    scale = float(mx.abs(expected).max())
    np.testing.assert_allclose(np.array(got), np.array(expected), rtol=0, atol=share * scale + 1e-6)


def taken(x, w, lhs, rhs):
    """Multiply matrices that are taken one by one, which MLX can differentiate in every way."""
    lhs, rhs = mx.broadcast_arrays(lhs, rhs)
    x, w = (mx.reshape(one, (-1, *one.shape[-2:])) for one in (x, w))
    return mx.take(x, lhs, axis=0) @ mx.take(w, rhs, axis=0)


def own_rows(x, w):
    return taken(x, w.swapaxes(-1, -2), mx.arange(6)[:, None], CHOSEN)


def groups(x, w, bias):
    groups = mx.array([0, 0, 2, 2, 2, 3, 3, 3, 3])
    product = taken(x[:, None], w.swapaxes(-1, -2), mx.arange(9), groups)
    return product[:, 0] + mx.take(bias, groups, axis=0)


def segments(a, b):
    return mx.stack([a[:, i:j] @ b[i:j] for i, j in SEGMENTS.tolist()])


def decoded(x, scales, biases):
    w = mx.dequantize(CODES, scales, biases, 64, 4, dtype=mx.float32)
    return own_rows(x, w)


def of_codes(x, scales):
    grown = mx.repeat(mx.repeat(scales, 16, axis=1), 24, axis=2)[:, :N, :K]
    return own_rows(x, tg.formats.decode(BYTES, "e4m3") * grown)


LEFT, RIGHT = mx.array([[5], [0], [5]]), mx.array([4, 1, 1])
MATRICES = random(6, 2, 3, 2, N)
CALLS = {
    "each row with several": (
        lambda x, w: tg.gather_mm(x, w, rhs_indices=CHOSEN, transpose_b=True),
        own_rows,
        (X, W),
    ),
    "both indices": (
        lambda x, w: tg.gather_mm(x, w, LEFT, RIGHT),
        lambda x, w: taken(x, w, LEFT, RIGHT),
        (MATRICES, W),
    ),
    "groups": (
        lambda x, w, bias: tg.grouped_matmul(x, w, OFFSETS, transpose_b=True, bias=bias),
        groups,
        (ROWS, W, BIAS),
    ),
    "segments": (lambda a, b: tg.segmented_mm(a, b, SEGMENTS), segments, (A, B)),
    "affine": (
        lambda x, s, b: tg.gather_qmm(x, CODES, s, b, rhs_indices=CHOSEN),
        decoded,
        (X, SCALES, BIASES),
    ),
    "codes": (
        lambda x, s: tg.gather_fp8_mm(x, BYTES, s, rhs_indices=CHOSEN, block=(16, 24)),
        of_codes,
        (X, BLOCKS),
    ),
}


def weighed(function):
    """Return a sum of results in which each has a weight of its own."""

    def total(*operands):
        y = function(*operands)
        return (y * mx.reshape(1 + mx.arange(y.size) % 7, y.shape)).sum()

    return total


def check_gradients(name):
    ours, theirs, operands = CALLS[name]
    which = tuple(range(len(operands)))
    got = mx.grad(weighed(ours), which)(*operands)
    for one, wanted in zip(got, mx.grad(weighed(theirs), which)(*operands), strict=True):
        close(one, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_gradients(kernels, name):
    check_gradients(name)


@pytest.mark.parametrize("name", CALLS)
def test_gradients_by_mlx(name):
    with tg.use_backend("mlx"):
        check_gradients(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_tangents(kernels, name):
    ours, theirs, operands = CALLS[name]
    tangents = [random(seed, *one.shape) for seed, one in enumerate(operands, 9)]
    (got,), (wanted,) = (mx.jvp(one, operands, tangents)[1] for one in (ours, theirs))
    close(got, wanted)


@pytest.mark.slow
def test_gradients_of_gradients(kernels):
    ours, theirs, operands = CALLS["each row with several"]

    def curvature(function):
        inner = mx.grad(lambda *z: (weighed(function)(*z)) ** 2, (0, 1))
        return mx.grad(lambda *z: sum((one**2).sum() for one in inner(*z)), (0, 1))(*operands)

    for one, wanted in zip(curvature(ours), curvature(theirs), strict=True):
        close(one, wanted)


@pytest.mark.slow
def test_checkpoint(kernels):
    ours, _, operands = CALLS["affine"]
    plain = mx.grad(weighed(ours))(*operands)
    assert mx.array_equal(mx.grad(mx.checkpoint(weighed(ours)))(*operands), plain)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["both indices", "affine"])
def test_under_compile(name):
    ours, _, operands = CALLS[name]
    gradient = mx.grad(weighed(ours))
    with tg.use_backend("mlx"):
        close(mx.compile(gradient)(*operands), gradient(*operands))


@pytest.mark.slow
def test_under_compile_on_kernels(lazy):
    """What is traced is launched with the shapes and dtypes that the call has outside."""
    for ours, _, operands in CALLS.values():
        gradient = mx.grad(weighed(ours))
        lazy.launches.clear()
        gradient(*operands)
        outside = [(name, one["output_shapes"]) for name, one in lazy.launches]
        lazy.launches.clear()
        assert mx.compile(gradient)(*operands).shape == operands[0].shape
        assert [(name, one["output_shapes"]) for name, one in lazy.launches] == outside


def test_rows_without_a_matrix_have_no_gradient():
    """Indices that kernels do not trust: neither do their gradients."""
    problem = state("gather_mm", {"a": X[:3, 0], "b": W, "rhs_indices": CHOSEN[:3, 0]}, True)
    rule = family_of(problem).rule(problem, None)
    given = [X[:3, 0], W, mx.array([4, 5, -1])]
    with tg.use_backend("mlx"):
        _, w, _ = rule.vjp(given, (), None, [mx.ones((3, 1, N))], [])
    close(w[4], mx.broadcast_to(X[0, 0], (N, K)))
    assert not mx.any(w[:4]).item()


def state(op, arrays, transpose):
    specs = {name: ArraySpec(shape=one.shape, dtype=one.dtype) for name, one in arrays.items()}
    options = {"transpose_b": transpose, "sorted_indices": False, "out_dtype": None}
    return ops()[op].request(op, specs, options)


MAPPED = {
    "x": (0, None, None),
    "x, its last axis": (2, None, None),
    "the weight": (None, 0, None),
    "indices": (None, None, 0),
    "everything": (1, 0, 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MAPPED)
def test_batching_rule(kernels, name):
    """The rule, on values: MLX asks for it only while it traces, when there are none."""
    axes = MAPPED[name]
    single = (X[:, 0], W, CHOSEN[:, 0])
    several = [
        one if axis is None else mx.stack([one, one[::-1]], axis)
        for one, axis in zip(single, axes, strict=True)
    ]
    problem = state("gather_mm", dict(zip(("a", "b", "rhs_indices"), single, strict=True)), True)
    rule = family_of(problem).rule(problem, backend_named("emulator"))
    (got,) = rule.vmap(several, (), None, axes)
    for i in range(2):
        x, w, rhs = (
            one if axis is None else mx.take(one, i, axis)
            for one, axis in zip(several, axes, strict=True)
        )
        close(got[i], taken(x, w.swapaxes(-1, -2), mx.arange(6), rhs))


@pytest.mark.slow
@pytest.mark.parametrize("axes", [(0, None, None, None), (None, 0, 1, None), (0, 0, 0, 0)])
def test_batching_rule_of_codes(kernels, axes):
    single = {"x": X[:, 0], "w": BYTES, "scales": BLOCKS, "rhs_indices": CHOSEN[:, 0]}
    specs = {name: ArraySpec(shape=one.shape, dtype=one.dtype) for name, one in single.items()}
    options = {"format": "e4m3", "block": (16, 24), "transpose": True}
    options |= {"sorted_indices": False, "out_dtype": None}
    problem = ops()["gather_fp8_mm"].request("gather_fp8_mm", specs, options)
    several = [
        one if axis is None else mx.stack([one, one[::-1]], axis)
        for one, axis in zip(single.values(), axes, strict=True)
    ]
    (got,) = (
        family_of(problem).rule(problem, backend_named("emulator")).vmap(several, (), None, axes)
    )
    for i in range(2):
        x, w, scales, chosen = (
            one if axis is None else mx.take(one, i, axis)
            for one, axis in zip(several, axes, strict=True)
        )
        wanted = tg.gather_fp8_mm(x, w, scales, rhs_indices=chosen, block=(16, 24))
        close(got[i], wanted)


@pytest.mark.slow
def test_batching_rules_of_groups_and_segments(kernels):
    problem = state("grouped_matmul", {"a": ROWS, "b": W, "offsets": OFFSETS}, True)
    rule = family_of(problem).rule(problem, backend_named("emulator"))
    offsets = mx.stack([OFFSETS, mx.array([0, 1, 1, 9, 9])])
    (got,) = rule.vmap([ROWS, W, offsets], (), None, (None, None, 0))
    for i in range(2):
        close(got[i], tg.grouped_matmul(ROWS, W, offsets[i], transpose_b=True))
    problem = state("segmented_mm", {"a": A, "b": B, "segments": SEGMENTS}, False)
    rule = family_of(problem).rule(problem, backend_named("emulator"))
    (got,) = rule.vmap([mx.stack([A, 2 * A]), B, SEGMENTS], (), None, (0, None, None))
    close(got[1], 2 * segments(A, B))


@pytest.mark.slow
def test_tensor_scales_have_a_gradient(kernels):
    codes, scales = mx.quantize(W, mode="nvfp4")
    values = mx.dequantize(codes, scales, mode="nvfp4", dtype=mx.float32)
    tensor = mx.array([1e3, 2e3, 3e3, 500.0, 800.0])

    def ours(x, tensor):
        return tg.gather_qmm(
            x, codes, scales, rhs_indices=CHOSEN, mode="nvfp4", global_scale=tensor
        )

    def theirs(x, tensor):
        return own_rows(x, values * (tensor / 2688)[:, None, None])

    got = mx.grad(weighed(ours), (0, 1))(X, tensor)
    for one, wanted in zip(got, mx.grad(weighed(theirs), (0, 1))(X, tensor), strict=True):
        close(one, wanted)


INTEGERS = {
    "indices": (lambda i: tg.gather_mm(X, W, rhs_indices=i, transpose_b=True), CHOSEN),
    "large indices": (
        lambda i: tg.gather_mm(X, W, rhs_indices=i, transpose_b=True),
        CHOSEN.astype(mx.uint32),
    ),
    "experts of codes": (
        lambda w: tg.gather_qmm(X, w, SCALES, BIASES, rhs_indices=CHOSEN),
        CODES,
    ),
    "codes": (lambda w: tg.quantized_matmul(X[0], w, SCALES[0], BIASES[0]), CODES[0]),
    "offsets": (lambda offsets: tg.grouped_matmul(ROWS, W, offsets, transpose_b=True), OFFSETS),
}


@pytest.mark.parametrize("name", INTEGERS)
def test_gradients_of_integers_are_refused_and_not_zero(kernels, name):
    call, operand = INTEGERS[name]
    with pytest.raises((ValueError, RuntimeError), match=r"no gradient w|stop_gradient"):
        mx.grad(lambda x: call(x).sum())(operand)
    stopped = mx.grad(lambda x: x.astype(mx.float32).sum() * call(mx.stop_gradient(x)).sum())
    assert stopped(operand).shape == operand.shape

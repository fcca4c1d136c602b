"""``mx.compile(shapeless=True)``: other sizes than those it traced with, or a clear error."""

from __future__ import annotations

import subprocess
import sys

import mlx.core as mx
import pytest

import mlx_tilegemm as tg
from mlx_tilegemm.core import tracing
from mlx_tilegemm.core.tracing import is_shapeless
from mlx_tilegemm.errors import BackendError


def drawn(*shapes):
    keys = mx.random.split(mx.random.key(len(shapes)), len(shapes))
    return [mx.random.normal(shape, key=key) for shape, key in zip(shapes, keys, strict=True)]


def check(function, plain, *sizes):
    """Trace with the first sizes, and compare on all of them."""
    compiled = mx.compile(function, shapeless=True)
    for shapes in sizes:
        operands = drawn(*shapes)
        found, expected = compiled(*operands), plain(*operands)
        assert found.shape == expected.shape
        assert mx.allclose(found, expected, rtol=1e-4, atol=1e-5)


PRODUCTS = [
    [((3, 4), (4, 5)), ((6, 4), (4, 7))],
    [((1, 3, 4), (4, 5)), ((2, 6, 4), (4, 5))],
    [((2, 3, 4), (1, 4, 5)), ((3, 6, 4), (1, 4, 5))],
    [((3, 4), (4,)), ((6, 4), (4,))],
]

GROUPS = {"affine": 32, "nvfp4": 16}


@pytest.fixture(params=["mlx", "lazy"])
def anywhere(request):
    """Both routes that may be traced; kernels leave such calls to MLX's own ops."""
    if request.param == "lazy":
        request.getfixturevalue("lazy")
        with tg.use_kernel(None):
            yield
    else:
        with tg.use_backend("mlx"):
            yield


@pytest.mark.usefixtures("anywhere")
class TestOps:
    @pytest.mark.parametrize("sizes", PRODUCTS, ids=str)
    def test_products(self, sizes):
        check(tg.matmul, mx.matmul, *sizes)

    @pytest.mark.parametrize("factors", [(1.0, 1.0), (0.5, -2.0), (2.0, 0.0)], ids=str)
    @pytest.mark.parametrize("sizes", PRODUCTS, ids=str)
    @pytest.mark.parametrize("addend", ["columns", "full", "one"])
    def test_sums(self, addend, sizes, factors):
        alpha, beta = factors

        def shape_of(a, b):
            full = (*a[:-1], *b[-1:]) if len(b) > 1 else a[:-1]
            return {"columns": full[-1:], "full": full, "one": (1,)}[addend]

        check(
            lambda c, a, b: tg.addmm(c, a, b, alpha, beta),
            lambda c, a, b: alpha * (a @ b) + beta * c,
            *((shape_of(*shapes), *shapes) for shapes in sizes),
        )

    @pytest.mark.parametrize("kv_heads", [1, 2, 4])
    @pytest.mark.parametrize("options", [{}, {"mask": "causal"}, {"softmax": False}], ids=str)
    def test_attentions(self, options, kv_heads):
        def ours(q, k, v):
            return tg.attention_chain(q, k, v, scale=0.5, **options)

        def plain(q, k, v):
            k, v = (mx.repeat(x, 4 // kv_heads, axis=1) for x in (k, v))
            scores = 0.5 * q @ mx.swapaxes(k, -1, -2)
            rows, columns = scores.shape[-2:]
            if options.get("mask"):
                scores = mx.where(mx.tri(rows, columns, columns - rows) > 0, scores, -mx.inf)
            return (mx.softmax(scores, axis=-1) if options.get("softmax", True) else scores) @ v

        sizes = [
            ((batch, 4, rows, 8), *[(batch, kv_heads, keys, 8)] * 2)
            for batch, rows, keys in ((1, 3, 3), (1, 5, 7), (2, 1, 9))
        ]
        check(ours, plain, *sizes)

    @pytest.mark.parametrize("mode", [None, "affine", "nvfp4"])
    @pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=str)
    def test_chosen_matrices(self, mode, dtype):
        (w,) = drawn((3, 8, 32))
        sources, experts = mx.array([1, 0, 1, 1]), mx.array([2, 0, 0, 1])
        weight = (w,) if mode is None else mx.quantize(w, mode=mode, group_size=GROUPS[mode])
        options = {} if mode is None else {"mode": mode, "group_size": GROUPS[mode]}
        whole = w if mode is None else mx.dequantize(*weight, **options).astype(mx.float32)
        mx.eval(weight)

        def ours(x):
            x = x.astype(dtype)
            if mode is None:
                return tg.gather_mm(x, w, sources, experts, transpose_b=True, out_dtype=mx.float32)
            indices = {"lhs_indices": sources, "rhs_indices": experts}
            return tg.gather_qmm(x, *weight, **indices, **options, out_dtype=mx.float32)

        def plain(x):
            x = x.astype(dtype).astype(mx.float32)
            return x[sources] @ mx.swapaxes(whole[experts], -1, -2)

        check(ours, plain, [(2, 5, 32)], [(2, 7, 32)])

    def test_matrices_of_all_rows_are_counted(self):
        def ours(x):
            return tg.gather_mm(x, x, rhs_indices=mx.array([0]))

        with pytest.raises(BackendError, match="what is not indexed is counted"):
            check(ours, ours, [(1, 4, 4)])

    def test_gradients(self):
        def loss(function):
            return mx.grad(lambda q, k, v: mx.sum(mx.square(function(q, k, v))))

        check(
            loss(lambda q, k, v: tg.attention_chain(q, k, v, scale=0.5)),
            loss(lambda q, k, v: mx.softmax(0.5 * q @ mx.swapaxes(k, -1, -2), axis=-1) @ v),
            [(1, 2, 3, 4)] * 3,
            [(1, 2, 5, 4)] * 3,
        )

    def test_a_window_that_hides_nothing_yet(self):
        def ours(q, k, v):
            return tg.attention_chain(q, k, v, mask="causal", window=5)

        with pytest.raises(BackendError, match="Expected a window shorter than the keys"):
            check(ours, ours, [(1, 1, 3, 4)] * 3)
        check(ours, ours, [(1, 1, 7, 4)] * 3, [(1, 1, 9, 4)] * 3)

    def test_no_keys_yet(self):
        with pytest.raises(BackendError, match="Expected at least one key"):
            check(tg.attention_chain, None, [(1, 1, 3, 4), (1, 1, 0, 4), (1, 1, 0, 4)])

    def test_no_product(self):
        with pytest.raises(BackendError, match="Expected alpha other than 0"):
            check(lambda c, a, b: tg.addmm(c, a, b, 0.0), None, [(3,), (2, 3), (3, 3)])


def test_a_forced_kernel_refuses(lazy):
    with (
        tg.use_kernel("gemm_scalar"),
        pytest.raises(BackendError, match=r"\[matmul\] Expected sizes that stay, got"),
    ):
        check(tg.matmul, mx.matmul, *PRODUCTS[0])


def test_the_emulator_refuses():
    with tg.use_backend("emulator"), pytest.raises(BackendError, match="arrays with values"):
        check(tg.matmul, mx.matmul, *PRODUCTS[0])


@pytest.fixture(params=[True, False])
def probed(request, monkeypatch):
    """Whether MLX works as the probes have it; else graphs are looked at."""
    if not request.param:
        wrong = tracing.Probes(lambda: False, lambda: False)
        monkeypatch.setattr(tracing, "_make_probes", lambda: wrong)
    tracing._probes.cache_clear()
    yield (tracing._probes().shapeless is not tracing._stops_gradients) == request.param
    tracing._probes.cache_clear()


@pytest.mark.parametrize("shapeless", [True, False])
def test_only_there(shapeless, probed):
    assert probed
    seen = []

    def noting(x):
        seen.append(is_shapeless())
        return x

    def graded(x):
        return mx.grad(lambda y: mx.sum(noting(y)))(mx.vmap(noting)(noting(x)))

    mx.compile(graded, shapeless=shapeless)(mx.zeros((3,)))
    assert seen == [shapeless] * 3
    graded(mx.zeros((3,)))
    noting(None)
    assert seen[3:] == [False] * 4


@pytest.mark.slow
def test_a_process_may_end_before_anything_is_evaluated():
    program = (
        "import mlx.core as mx\n"
        "from mlx_tilegemm.core.tracing import is_traced\n"
        "is_traced()\n"
        "function = mx.compile(lambda x: mx.exp(x) + 1)\n"
        "print(function(mx.ones((3, 5))).shape)\n"
    )
    for _ in range(24):  # it is a race
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)

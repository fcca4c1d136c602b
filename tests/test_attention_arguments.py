"""What MLX's attention takes, ours takes; and what neither takes has an error of its own."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

import mlx_tilegemm as tg
from mlx_tilegemm.errors import DTypeError, ProblemError

KEYS = mx.random.split(mx.random.key(5), 3)
Q = mx.random.normal((1, 4, 3, 8), key=KEYS[0])
K = mx.random.normal((1, 2, 5, 8), key=KEYS[1])
V = mx.random.normal((1, 2, 5, 8), key=KEYS[2])


@pytest.fixture(params=["emulator", "mlx"], autouse=True)
def backend(request):
    with tg.use_backend(request.param):
        yield request.param


def check(q, k, v, *, scale, **options):
    plain = {name: value for name, value in options.items() if value is not None}
    number = float(scale.item()) if isinstance(scale, mx.array) else scale
    expected = mx.fast.scaled_dot_product_attention(q, k, v, scale=number, **plain)
    found = tg.attention_chain(q=q, k=k, v=v, scale=scale, **options)
    assert found.dtype == expected.dtype
    tolerance = 1e-5 if expected.dtype == mx.float32 else 1e-2
    assert mx.allclose(found, expected, rtol=tolerance, atol=tolerance)


SCALES = [
    *(mx.array(0.5), mx.array([0.5]), mx.array(0.5, mx.bfloat16), mx.array(2)),
    *(1, np.float16(0.5), np.float64(0.5), np.int64(2), np.array(0.5)),
]


@pytest.mark.parametrize("scale", SCALES, ids=repr)
def test_scales(scale):
    check(Q, K, V, scale=scale)


@pytest.mark.parametrize("dtype", [mx.int8, mx.int32, mx.int64, mx.uint8, mx.uint64], ids=str)
@pytest.mark.parametrize("shape", [(5,), (3, 5), (1, 4, 3, 1)], ids=str)
def test_integer_masks_are_added(shape, dtype):
    mask = (mx.arange(int(np.prod(shape))) % 4).reshape(shape).astype(dtype)
    check(Q, K, V, scale=0.5, mask=mask)


@pytest.mark.parametrize("value", [True, 2.0, -3], ids=repr)
def test_masks_of_one_number(value):
    check(Q, K, V, scale=0.5, mask=mx.array(value))


def test_a_mask_of_one_number_that_hides_everything():
    for mask in (mx.array(False), mx.array(-mx.inf)):
        assert not mx.any(tg.attention_chain(Q, K, V, mask=mask))


@pytest.mark.parametrize("names", ["q", "k", "v", "kv", "qv"])
@pytest.mark.parametrize("dtype", [mx.int32, mx.bool_, mx.uint8], ids=str)
def test_integers_beside_floats_are_promoted(names, dtype):
    arrays = {"q": mx.abs(Q), "k": mx.abs(K), "v": mx.abs(V)}
    check(*((3 * x).astype(dtype) if n in names else x for n, x in arrays.items()), scale=0.5)
    half = [x.astype(mx.float16) for x in arrays.values()]
    check(
        *(x.astype(dtype) if n in names else x for n, x in zip("qkv", half, strict=True)), scale=0.5
    )


def test_integer_sinks():
    check(Q, K, V, scale=0.5, sinks=mx.array([0, 1, 2, 3]))


@pytest.mark.parametrize("mask", [None, "causal", mx.arange(5)], ids=["none", "causal", "added"])
def test_heads_of_no_elements(mask):
    check(Q[..., :0], K[..., :0], V, scale=1.0, mask=mask)
    assert tg.attention_chain(Q[..., :0], K[..., :0], V).shape == (1, 4, 3, 8)


@pytest.mark.slow
def test_heads_of_no_elements_have_gradients():
    gradients = mx.grad(lambda q, k, v: mx.sum(tg.attention_chain(q, k, v)), (0, 1, 2))(
        Q[..., :0], K[..., :0], V
    )
    assert [x.shape for x in gradients[:2]] == [(1, 4, 3, 0), (1, 2, 5, 0)]
    assert mx.allclose(gradients[2], mx.full(V.shape, 2 * 3 / 5))


def test_a_traced_scale_has_a_derivative():
    def ours(scale, q):
        return mx.sum(mx.square(tg.attention_chain(q, K, V, scale=scale)))

    def plain(scale, q):
        attention = mx.fast.scaled_dot_product_attention(scale * q, K, V, scale=1.0)
        return mx.sum(mx.square(attention))

    found, expected = (mx.grad(f, (0, 1))(mx.array(0.5), Q) for f in (ours, plain))
    assert all(
        mx.allclose(x, y, rtol=1e-4, atol=1e-5) for x, y in zip(found, expected, strict=True)
    )


@pytest.mark.slow
def test_a_traced_scale_leaves_the_result_its_dtype():
    seen = []
    q, k, v = (x.astype(mx.float16) for x in (Q, K, V))
    pe = q[..., :4], k[..., :4]

    def ours(scale):
        seen.append(tg.attention_chain(q, k, v, q_pe=pe[0], k_pe=pe[1], scale=scale))
        return mx.sum(seen[0])

    mx.grad(ours)(mx.array(0.25))
    assert seen[0].dtype == mx.float16
    whole = [mx.concatenate(both, axis=-1) for both in zip((q, k), pe, strict=True)]
    expected = mx.fast.scaled_dot_product_attention(*whole, v, scale=0.25)
    assert mx.allclose(seen[0], expected, rtol=1e-2, atol=1e-2)


A, B, C = mx.ones((2, 3)), mx.ones((3, 4)), mx.ones((4,))
ODD = {
    "a huge alpha": lambda: tg.addmm(C, A, B, alpha=10**400),
    "a huge beta": lambda: tg.addmm(C, A, B, beta=-(10**400)),
    "a huge scale": lambda: tg.attention_chain(Q, K, V, scale=10**400),
    "a huge alpha of integers": lambda: tg.addmm(*3 * [mx.ones((2, 2), mx.int8)], alpha=2**70),
    "a list as a flag": lambda: tg.matmul(A, B, transpose_b=[0]),
    "a string as a flag": lambda: tg.matmul(A, B, transpose_a="no"),
    "an array as a flag": lambda: tg.matmul(A, B, transpose_a=np.zeros(2)),
    "None as a flag": lambda: tg.addmm(C, A, B, transpose_b=None),
    "two as a flag": lambda: tg.addmm(C, A, B, batch_invariant=2),
    "a list as batch_invariant": lambda: tg.matmul(A, B, batch_invariant=[]),
    "a list as out_dtype": lambda: tg.matmul(A, B, out_dtype=[mx.float32]),
    "a type as out_dtype": lambda: tg.addmm(C, A, B, out_dtype=np.float32),
    "a dictionary as out_dtype": lambda: tg.attention_chain(Q, K, V, out_dtype={}),
    "a list as softmax": lambda: tg.attention_chain(Q, K, V, softmax=[]),
    "a list as return_lse": lambda: tg.attention_chain(Q, K, V, return_lse=[1]),
    "a list as window": lambda: tg.attention_chain(Q, K, V, mask="causal", window=[2]),
    "a float as window": lambda: tg.attention_chain(Q, K, V, mask="causal", window=2.0),
    "a bool as window": lambda: tg.attention_chain(Q, K, V, mask="causal", window=True),
    "a list as mask": lambda: tg.attention_chain(Q, K, V, mask=[1.0]),
    "bytes as mask": lambda: tg.attention_chain(Q, K, V, mask=b"causal"),
    "a list as sinks": lambda: tg.attention_chain(Q, K, V, sinks=[1.0]),
    "a complex scale": lambda: tg.attention_chain(Q, K, V, scale=mx.array(1j)),
    "two scales": lambda: tg.attention_chain(Q, K, V, scale=mx.ones((2,))),
    "a NumPy array as scale": lambda: tg.attention_chain(Q, K, V, scale=np.ones(1)),
    "a list as scale": lambda: tg.attention_chain(Q, K, V, scale=[1.0]),
    "two alphas": lambda: tg.addmm(C, A, B, mx.ones((2,))),
    "None as alpha": lambda: tg.addmm(C, A, B, None),
    "a scalar as c": lambda: tg.addmm(1.0, A, B),
    "NaN of integers": lambda: tg.addmm(*3 * [mx.ones((2, 2), mx.int8)], float("nan")),
    "a number as stream": lambda: tg.matmul(A, B, stream=0),
    "a list as stream": lambda: tg.attention_chain(Q, K, V, stream=[]),
    "a number as kernel": lambda: tg.use_kernel(3),
    "a list as kernel": lambda: tg.use_kernel(["gemm_scalar"]),
    "an array as gradients": lambda: tg.use_gradients(np.zeros(2)),
    "a string as gradients": lambda: tg.use_gradients("off"),
    "a number as backend": lambda: tg.use_backend(0),
    "a list as backend": lambda: tg.use_backend(["mlx"]),
    "an array as backend": lambda: tg.use_backend(np.array(["mlx", "auto"])),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_arguments_have_errors_of_their_own(name):
    with pytest.raises((DTypeError, ProblemError), match=r"^\[\w+\] Expected .*, got "):
        ODD[name]()


@pytest.mark.parametrize("flag", [1, 0, np.True_, np.bool_(False), np.int64(1)], ids=repr)
def test_flags_of_other_kinds(flag):
    b = B.T if flag else B
    assert mx.array_equal(tg.matmul(A, b, transpose_b=flag), A @ B)

"""Transforms of chained attention: gradients, tangents, batching."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import oracle
import pytest
import strategies
from cases import Data
from cases import operands as draw
from fake_metal import ON_A_GPU, fake_metal
from hypothesis import given, settings
from hypothesis import strategies as st
from test_attention import cases

import mlx_tilegemm as tg
from mlx_tilegemm import backends, dispatch
from mlx_tilegemm.backends.emulator import EmulatorBackend
from mlx_tilegemm.backends.launch import kernel_run
from mlx_tilegemm.core import dtypes
from mlx_tilegemm.families import family_of
from mlx_tilegemm.families.attention import gradient_reference
from mlx_tilegemm.families.attention.backward_spec import CONFIGS, GROUPED_CONFIGS
from mlx_tilegemm.families.attention.kernels import (
    attention_backward_key_value,
    attention_backward_query,
)
from mlx_tilegemm.families.attention.problem import (
    KeyValueGradientProblem,
    MaskKind,
    QueryGradientProblem,
    attention_problem,
)
from mlx_tilegemm.machine import chips

pytestmark = pytest.mark.usefixtures("kernels")

KERNELS = {
    "query": (attention_backward_query, QueryGradientProblem),
    "key_value": (attention_backward_key_value, KeyValueGradientProblem),
}


def forward64(q, k, v, *, mask=None, scale=1.0, softmax=True):
    """Return the result and the log-sum-exp in float64, with everything between them."""
    group = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
    scores = scale * (q @ k.swapaxes(-1, -2))
    visible = np.ones(scores.shape, dtype=bool)
    if isinstance(mask, str):
        rows, columns = scores.shape[-2:]
        visible &= np.arange(columns) <= np.arange(rows)[:, None] + columns - rows
    elif mask is not None and mask.dtype == bool:
        visible &= mask
    elif mask is not None:
        scores = scores + mask
    if not softmax:
        weights = np.where(visible, scores, 0.0)
        return weights @ v, None, weights, visible, (k, v)
    scores = np.where(visible, scores, -np.inf)
    highest = scores.max(axis=-1, keepdims=True)
    weights = np.exp(scores - np.where(np.isfinite(highest), highest, 0.0))
    total = weights.sum(axis=-1, keepdims=True)
    weights = weights / np.where(total == 0, 1.0, total)
    with np.errstate(divide="ignore"):
        lse = np.where(np.isfinite(highest), highest, 0.0) + np.log(total)
    return weights @ v, lse[..., 0], weights, visible, (k, v)


def gradients64(q, k, v, grad, lse_grad=None, *, mask=None, scale=1.0, softmax=True):
    """Return the gradients of q, k, v and the mask, each with the magnitude of its terms."""
    options = {"mask": mask, "scale": scale, "softmax": softmax}
    result, _, weights, visible, (keys, values) = forward64(q, k, v, **options)
    slopes = grad @ values.swapaxes(-1, -2)
    size = np.abs(grad) @ np.abs(values).swapaxes(-1, -2)
    if softmax:
        delta = (grad * result).sum(axis=-1, keepdims=True)
        size = size + np.abs(grad * result).sum(axis=-1, keepdims=True)
        if lse_grad is not None:
            delta = delta - lse_grad[..., None]
            size = size + np.abs(lse_grad[..., None])
        slopes, size = weights * (slopes - delta), weights * size
    else:
        slopes, size = np.where(visible, slopes, 0.0), np.where(visible, size, 0.0)

    def shared(x):
        return x.reshape(*k.shape[:2], -1, *x.shape[2:]).sum(axis=2)

    def terms(slopes, weights, scale, q, keys, grad):
        turned = slopes.swapaxes(-1, -2), weights.swapaxes(-1, -2)
        return scale * (slopes @ keys), shared(scale * (turned[0] @ q)), shared(turned[1] @ grad)

    value = (*terms(slopes, weights, scale, q, keys, grad), slopes)
    sizes = terms(size, *map(np.abs, (weights, scale, q, keys, grad)))
    return list(zip(value, (*sizes, size), strict=True))


def summed(value, shape):
    """Sum over the axes along which ``shape`` was broadcast."""
    padded = (1,) * (value.ndim - len(shape)) + tuple(shape)
    axes = tuple(i for i, (x, y) in enumerate(zip(value.shape, padded, strict=True)) if x != y)
    return value.sum(axis=axes, keepdims=True).reshape(shape)


def numpy_mask(mask):
    if mask is None or isinstance(mask, str):
        return mask
    return np.array(mask) if mask.dtype == mx.bool_ else oracle.to_numpy(mask)


def check(q, k, v, *, mask=None, softmax=True, scale=None, with_lse=False, seed=0):
    """Check gradients of q, k, v and an additive mask against float64."""
    options = {"mask": mask, "softmax": softmax, "scale": scale}
    rng = np.random.default_rng(seed)
    additive = isinstance(mask, mx.array) and mask.dtype != mx.bool_

    def call(q, k, v, *given):
        own = options | ({"mask": given[0]} if given else {})
        out = tg.attention_chain(q, k, v, **own, return_lse=with_lse)
        return list(out) if with_lse else [out]

    operands = [q, k, v, *([mask] if additive else [])]
    outputs = call(*operands)
    grads = [strategies.random_array(rng, x.shape, x.dtype) for x in outputs]
    if with_lse:
        # Where the log-sum-exp is -inf it has no slope.
        grads[1] = mx.where(mx.isinf(outputs[1]), 0.0, grads[1])
    _, got = mx.vjp(call, operands, grads)
    used = (q.shape[-1] ** -0.5 if softmax else 1.0) if scale is None else scale
    wide = [oracle.to_numpy(x) for x in (q, k, v)]
    expected = gradients64(
        *wide,
        *(oracle.to_numpy(x) for x in grads),
        mask=numpy_mask(mask),
        scale=used,
        softmax=softmax,
    )
    # The scores are off by the first term, an exponential of them by as much relatively; the
    # result that delta is made of was rounded to its type.
    out = dtypes.from_mlx(outputs[0].dtype)
    score_size = np.abs(used) * (
        np.abs(wide[0]) @ np.repeat(np.abs(wide[1]), q.shape[1] // k.shape[1], 1).swapaxes(-1, -2)
    )
    terms = q.shape[-1] + v.shape[-1] + k.shape[2] + q.shape[2] * q.shape[1] // k.shape[1] + 64
    share = 2 * (
        out.unit_roundoff + terms * dtypes.FLOAT32.unit_roundoff * (4 + score_size.max(initial=0.0))
    )
    for name, x, g, (value, size) in zip("qkvm", operands, got, expected, strict=False):
        label = f"d{name} {q.shape} {k.shape} {v.shape} {q.dtype} {k.dtype} {v.dtype} {options}"
        assert g.dtype == x.dtype, label
        if name == "m":
            value, size = summed(value, x.shape), summed(size, x.shape)
        bound = share * size + oracle.rounding(value, dtypes.from_mlx(x.dtype))
        oracle.assert_close(g, value, bound, label)
    return got


def operands(*shapes, dtype=mx.float32, seed=0):
    rng = np.random.default_rng(seed)
    return [strategies.random_array(rng, shape, dtype) for shape in shapes]


@pytest.mark.slow
@given(case=cases(), with_lse=st.booleans())
def test_gradients_agree_with_float64(case, with_lse):
    q, k, v = case.operands()
    with_lse = with_lse and case.softmax
    check(q, k, v, mask=case.mask_array(), softmax=case.softmax, with_lse=with_lse, seed=case.seed)


MIXED = (mx.float16, mx.bfloat16, mx.float32)


def plain(q, k, v, mask=None, *, softmax=True):
    """Return attention by MLX's own ops in float32, written as the formula is."""
    q, k, v = (x.astype(mx.float32) for x in (q, k, v))
    group = q.shape[1] // k.shape[1]
    k, v = mx.repeat(k, group, axis=1), mx.repeat(v, group, axis=1)
    scores = (q.shape[-1] ** -0.5 if softmax else 1.0) * (q @ k.swapaxes(-1, -2))
    if isinstance(mask, str):
        rows, columns = scores.shape[-2:]
        mask = mx.arange(columns) <= mx.arange(rows)[:, None] + columns - rows
    if mask is not None and mask.dtype == mx.bool_:
        scores = mx.where(mask, scores, -1e30 if softmax else 0.0)
    elif mask is not None:
        scores = scores + mask.astype(mx.float32)
    return (mx.softmax(scores, axis=-1) if softmax else scores) @ v


def a_mask(kind, shape, seed=3):
    rng = np.random.default_rng(seed)
    if kind == "boolean":
        keep = rng.random(shape) < 0.6
        keep[..., 0] = True
        return mx.array(keep)
    if kind == "additive":
        return mx.array(rng.standard_normal(shape).astype(np.float32))
    return "causal" if kind == "causal" else None


@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize("kind", ["none", "causal", "boolean", "additive"])
class TestAgainstMlx:
    """MLX's autodiff of the formula."""

    def setup(self, kind):
        q, k, v = operands((2, 4, 9, 16), (2, 2, 13, 16), (2, 2, 13, 11))
        return q, k, v, a_mask(kind, (4, 1, 13) if kind == "additive" else (2, 1, 9, 13))

    @pytest.mark.slow
    def test_gradients_and_tangents(self, kind, softmax):
        q, k, v, mask = self.setup(kind)
        arrays = [q, k, v, mask] if kind == "additive" else [q, k, v]

        def through(op):
            return lambda q, k, v, m=mask: op(q, k, v, mask=m, softmax=softmax)

        (grad,) = operands((2, 4, 9, 11), seed=5)
        tangents = operands(*(x.shape for x in arrays), seed=6)
        for transform, given_arrays in ((mx.vjp, [grad]), (mx.jvp, tangents)):
            _, got = transform(through(tg.attention_chain), arrays, given_arrays)
            _, expected = transform(through(plain), arrays, given_arrays)
            for x, y in zip(got, expected, strict=True):
                scale = float(mx.abs(y).max())
                np.testing.assert_allclose(np.array(x), np.array(y), rtol=0, atol=3e-5 * scale)

    @pytest.mark.slow
    def test_second_derivatives(self, kind, softmax):
        q, k, v, mask = self.setup(kind)

        def curvature(op):
            def loss(q, k):
                return (op(q, k, v, mask=mask, softmax=softmax) ** 3).sum()

            def size(q, k):
                return (mx.grad(loss, argnums=1)(q, k) ** 2).sum()

            return mx.grad(size, argnums=(0, 1))(q, k)

        for x, y in zip(curvature(tg.attention_chain), curvature(plain), strict=True):
            scale = float(mx.abs(y).max())
            np.testing.assert_allclose(np.array(x), np.array(y), rtol=0, atol=2e-4 * scale)


@pytest.mark.slow
@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize("kind", ["none", "causal", "boolean", "additive"])
def test_gradients_are_slopes(kind, softmax):
    """Against finite differences of the formula in float64: no derivative is worked out."""
    q, k, v = operands((1, 4, 7, 8), (1, 2, 9, 8), (1, 2, 9, 5))
    mask = a_mask(kind, (1, 1, 7, 9))

    def loss(q, k, v):
        if not softmax:
            return mx.sin(tg.attention_chain(q, k, v, mask=mask, softmax=False)).sum()
        out, lse = tg.attention_chain(q, k, v, mask=mask, return_lse=True)
        return mx.sin(out).sum() + mx.cos(lse).sum()

    def loss64(arrays):
        options = {"mask": numpy_mask(mask), "softmax": softmax}
        options["scale"] = q.shape[-1] ** -0.5 if softmax else 1.0
        out, lse, *_ = forward64(*arrays, **options)
        return np.sin(out).sum() + (np.cos(lse).sum() if softmax else 0.0)

    found = mx.grad(loss, argnums=(0, 1, 2))(q, k, v)
    rng = np.random.default_rng(7)
    arrays = [oracle.to_numpy(x) for x in (q, k, v)]
    for i, gradient in enumerate(found):
        direction, step = rng.standard_normal(arrays[i].shape), 1e-5
        ends = []
        for sign in (1, -1):
            moved = list(arrays)
            moved[i] = moved[i] + sign * step * direction
            ends.append(loss64(moved))
        slope = (ends[0] - ends[1]) / (2 * step)
        terms = oracle.to_numpy(gradient) * direction
        assert abs(terms.sum() - slope) <= 1e-4 * np.abs(terms).sum(), (i, terms.sum(), slope)


def problem_of(case, kind):
    """State the gradient of a drawn attention."""
    mask = case.mask_array()
    named = mask is None or isinstance(mask, str)
    specs = {
        name: tg.ArraySpec(shape=x.shape, dtype=x.dtype)
        for name, x in zip("qkv", case.operands(), strict=True)
    }
    given_mask = mask if named else tg.ArraySpec(shape=mask.shape, dtype=mask.dtype)
    problem = tg.explain(
        "attention_chain", *specs.values(), mask=given_mask, softmax=case.softmax
    ).problem
    return KERNELS[kind][1](attention=replace(problem, return_lse=case.softmax))


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("kind", ["query", "key_value"])
@settings(max_examples=5)
@given(case=cases())
def test_every_configuration(kind, config, case):
    module, problem = KERNELS[kind][0], problem_of(case, kind)
    if module.reject(problem, config, chips.DEFAULT) is not None:
        config = CONFIGS[-1]
    check_plan(module.plan(problem, config), problem, case.seed)


def check_plan(plan, problem, seed=0, scale=0.3):
    """Run one kernel of the backward pass and compare it with float64."""
    attention, random = problem.attention, np.random.default_rng(seed)
    drawn = dict(zip(attention.operand_names, draw(attention, Data(seed=seed)), strict=True))
    arrays = gradient_reference.complete(attention, drawn, scale, random)
    given = [arrays[name] for name in problem.operand_names]
    outputs = kernel_run(problem, plan, backends.resolve().backend)(given, (scale,), None)
    expected = family_of(problem).reference(problem, given, (scale,))
    for output, one in zip(outputs, expected, strict=True):
        oracle.assert_close(output, one.value, one.bound, f"{problem} {plan}")


def stated(lengths, head_dim, value_dim, **options):
    """State an attention of four heads on two, of mixed types."""
    q_len, kv_len = lengths
    options = {"softmax": True, "mask_kind": MaskKind.NONE} | options
    if options["mask_kind"] is MaskKind.BOOLEAN:
        options |= {"mask": dtypes.BOOL, "mask_shape": (2, 1, q_len, kv_len)}
    problem = attention_problem(
        "test",
        q_shape=(2, 4, q_len, head_dim),
        k_shape=(2, 2, kv_len, head_dim),
        v_shape=(2, 2, kv_len, value_dim),
        q=dtypes.FLOAT16,
        k=dtypes.BFLOAT16,
        v=dtypes.FLOAT16,
        **options,
    )
    return replace(problem, return_lse=problem.softmax)


@pytest.mark.slow
@pytest.mark.parametrize("config", GROUPED_CONFIGS, ids=str)
@pytest.mark.parametrize("kind", ["query", "key_value"])
def test_head_groups(kind, config):
    """Slices of whole fragments and others, masks and windows, the softmax and none."""
    module, of = KERNELS[kind]
    staged = {2: (80, 48), 4: (128, 96), 8: (192, 128)}
    direct = {2: (66, 12), 4: (108, 84), 8: (184, 88)}
    sizes = (staged if config.staged else direct)[config.head_groups]
    options = {"softmax": config.staged or config.cached}
    for lengths in ((1, 9), (17, 33), (33, 17)):
        if config.cached:
            options |= {"mask_kind": MaskKind.CAUSAL, "window": min(7, lengths[1] - 1)}
        else:
            options |= {"mask_kind": MaskKind.BOOLEAN}
        problem = of(attention=stated(lengths, *sizes, **options))
        assert module.reject(problem, config, chips.DEFAULT) is None
        check_plan(module.plan(problem, config), problem)


@pytest.mark.parametrize(
    "config", [CONFIGS[0], pytest.param(CONFIGS[-1], marks=pytest.mark.slow)], ids=str
)
@pytest.mark.parametrize("kind", ["query", "key_value"])
def test_windows(kind, config):
    """Blocks outside the window are left out at both ends, whatever the lengths."""
    module, of = KERNELS[kind]
    causal = {"mask_kind": MaskKind.CAUSAL}
    for lengths in ((1, 70), (65, 70), (70, 65), (40, 100)):
        for window in (1, 8, 33):
            problem = of(attention=stated(lengths, 16, 9, **causal, window=window))
            check_plan(module.plan(problem, config), problem)


def test_a_windowed_plan_costs_less_and_needs_no_new_text_for_another_width():
    chip = chips.DEFAULT
    for module, of in KERNELS.values():
        wide, narrow, other = (
            of(attention=stated((4096, 4096), 64, 64, mask_kind=MaskKind.CAUSAL, window=window))
            for window in (None, 256, 300)
        )
        costs = [module.cost(problem, CONFIGS[0], chip) for problem in (wide, narrow)]
        assert costs[1] < costs[0] / 2
        specs = [module.plan(x, CONFIGS[0]).stages[0].spec for x in (wide, narrow, other)]
        assert specs[1] == specs[2] != specs[0]


@pytest.mark.parametrize("sizes", [(256, 256), (192, 128), (130, 132), (576, 512)], ids=str)
def test_heads_above_128_have_kernels_for_their_gradients(sizes):
    for module, of in KERNELS.values():
        problem = of(attention=stated((64, 64), *sizes))
        for chip in chips.CHIPS:
            plan = dispatch.choose(problem, chip).plan
            assert plan is not None
            assert plan.kernel == module.NAME
            resources = plan.stages[0].resources
            assert resources.threadgroup_bytes <= 32768
            assert resources.registers < 128


@pytest.mark.parametrize(
    ("sizes", "reason"), [((171, 171), "no 2 equal slices"), ((1024, 1024), "registers")], ids=str
)
def test_heads_that_go_to_mlx_are_refused_with_a_reason(sizes, reason):
    problem = KeyValueGradientProblem(attention=stated((64, 64), *sizes))
    assert dispatch.choose(problem, chips.DEFAULT).plan is None
    found = [
        attention_backward_key_value.reject(problem, config, chips.DEFAULT)
        for config in (*CONFIGS, *GROUPED_CONFIGS)
    ]
    assert None not in found
    assert any(reason in one for one in found)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["kernels", "mlx"])
@pytest.mark.parametrize(
    ("kind", "softmax"),
    # A literal chain adds its mask and hides nothing by that.
    [("additive", True), *((kind, s) for kind in ("causal", "boolean") for s in (True, False))],
)
def test_rows_with_nothing_to_attend_to_have_no_gradient(kind, softmax, backend):
    q, k, v = operands((1, 2, 12, 8), (1, 1, 5, 8), (1, 1, 5, 8))
    keep = np.ones((12, 5), dtype=bool)
    keep[:7] = False
    masks = {"causal": "causal", "boolean": mx.array(keep)}
    mask = masks.get(kind, mx.where(mx.array(keep), 0.0, -mx.inf))

    def loss(q, k, v):
        return (tg.attention_chain(q, k, v, mask=mask, softmax=softmax) ** 2).sum()

    if backend == "mlx":
        with tg.use_backend("mlx"):
            found = mx.grad(loss, argnums=(0, 1, 2))(q, k, v)
    else:
        check(q, k, v, mask=mask, softmax=softmax, with_lse=softmax)
        found = mx.grad(loss, argnums=(0, 1, 2))(q, k, v)
    for gradient in found:
        assert np.isfinite(np.array(gradient)).all()
    np.testing.assert_array_equal(np.array(found[0])[:, :, :7], 0.0)
    assert np.abs(np.array(found[0])[:, :, 7:]).max() > 0


@pytest.mark.slow
@pytest.mark.parametrize("head_dims", [(128, 128), (80, 80), (128, 40)], ids=str)
@pytest.mark.parametrize("softmax", [True, False])
def test_large_heads(head_dims, softmax):
    head_dim, value_dim = head_dims
    q, k, v = operands(
        (1, 2, 33, head_dim), (1, 1, 41, head_dim), (1, 1, 41, value_dim), dtype=mx.float16
    )
    check(q, k, v, mask="causal", softmax=softmax, scale=head_dim**-0.5)


@pytest.mark.slow
def test_heads_up_to_128_have_kernels_for_their_gradients():
    """Odd ones too, which no head groups share, because they have no equal slices."""
    for head_dim in range(1, 129):
        q = tg.ArraySpec(shape=(1, 2, 64, head_dim), dtype=mx.float32)
        problem = tg.explain("attention_chain", q, q, q).problem
        for _, kind in KERNELS.values():
            for chip in chips.CHIPS:
                decision = dispatch.choose(kind(attention=problem), chip)
                assert decision.plan is not None, (head_dim, decision.reason)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("q", "k", "v"),
    [
        ((1, 1, 1, 1), (1, 1, 1, 1), (1, 1, 1, 1)),
        ((1, 1, 2, 3), (1, 1, 2, 3), (1, 1, 2, 3)),
        ((1, 2, 1, 2), (1, 1, 3, 2), (1, 1, 3, 1)),
    ],
    ids=str,
)
@pytest.mark.parametrize("mask", [None, mx.array(0.5), mx.array(True)], ids=["none", "add", "keep"])
def test_tiny_operands(q, k, v, mask):
    check(*operands(q, k, v, dtype=mx.float16), mask=mask)


@pytest.mark.slow
def test_gradients_repeat_bit_for_bit():
    q, k, v = operands((1, 6, 33, 32), (1, 2, 40, 32), (1, 2, 40, 16), dtype=mx.float16)

    def loss(q, k, v):
        return tg.attention_chain(q, k, v, mask="causal").astype(mx.float32).sum()

    first, *others = ([np.array(x) for x in mx.grad(loss, (0, 1, 2))(q, k, v)] for _ in range(4))
    for other in others:
        for x, y in zip(first, other, strict=True):
            np.testing.assert_array_equal(x, y)


class TestGraph:
    """What a traced call consists of, as it would on Metal."""

    def test_a_backward_pass_is_two_kernels_and_stores_no_scores(self, lazy):
        q, k, v = operands((1, 4, 70, 16), (1, 2, 90, 16), (1, 2, 90, 24), dtype=mx.float16)
        grad = mx.ones((1, 4, 70, 24), dtype=mx.float16)
        _, gradient = mx.vjp(lambda *x: tg.attention_chain(*x, mask="causal"), [q, k, v], [grad])
        names = [name.split("_softmax")[0] for name, _ in lazy.launches]
        assert names == [
            "tilegemm_attention_chain",
            "tilegemm_attention_backward_query",
            "tilegemm_attention_backward_key_value",
        ]
        for _, launch in lazy.launches:
            arrays = [x.shape for x in launch["inputs"]] + list(launch["output_shapes"])
            assert max(np.prod(shape) for shape in arrays) < 4 * 70 * 90
        inputs = {x.shape for _, launch in lazy.launches[1:] for x in launch["inputs"][:4]}
        assert inputs == {q.shape, k.shape, v.shape, grad.shape}
        assert [x.dtype for x in gradient] == [mx.float16] * 3

    def test_without_gradients_nothing_but_the_result_is_written(self, lazy):
        q, k, v = operands((1, 2, 9, 16), (1, 2, 9, 16), (1, 2, 9, 16))
        with tg.use_gradients(False):
            tg.attention_chain(q, k, v)
        tg.attention_chain(q, k, v)
        assert [len(launch["output_shapes"]) for _, launch in lazy.launches] == [1, 2]

    def test_compiled_training_is_traced(self, lazy):
        q, k, v = operands((1, 2, 9, 16), (1, 2, 9, 16), (1, 2, 9, 8), dtype=mx.bfloat16)

        def loss(q, k, v):
            return tg.attention_chain(q, k, v).sum()

        step = mx.compile(mx.grad(loss, argnums=(0, 1, 2)))
        for _ in range(2):
            for x, gradient in zip((q, k, v), step(q, k, v), strict=True):
                assert (gradient.shape, gradient.dtype) == (x.shape, x.dtype)
        assert len(lazy.launches) == 3

    @pytest.mark.slow
    def test_checkpointing_runs_the_forward_kernel_again(self, lazy):
        q, k, v = operands((1, 2, 9, 16), (1, 2, 9, 16), (1, 2, 9, 8))

        def attend(q, k, v):
            return tg.attention_chain(q, k, v)

        def loss(op):
            return lambda q: (op(q, k, v) ** 2).sum()

        got = mx.grad(loss(mx.checkpoint(attend)))(q)
        assert len(lazy.launches) == 4
        expected = mx.grad(loss(attend))(q)
        np.testing.assert_array_equal(np.array(got), np.array(expected))


def block(attend, multiply):
    """Return the loss of a transformer's attention block, two k and v heads for four of q."""

    def loss(weights, x):
        def heads(name, count):
            projected = multiply(x, weights[name])
            return projected.reshape(2, 7, count, 8).swapaxes(1, 2)

        out = attend(heads("q", 4), heads("k", 2), heads("v", 2), mask="causal")
        return (multiply(out.swapaxes(1, 2).reshape(2, 7, 32), weights["out"]) ** 2).mean()

    return loss


@pytest.mark.slow
@pytest.mark.parametrize("wrap", [lambda f: f, mx.checkpoint], ids=["plain", "checkpoint"])
def test_a_block_of_a_model_trains(wrap):
    rng = np.random.default_rng(2)
    shapes = {"q": (32, 16), "k": (16, 16), "v": (16, 16), "out": (16, 32)}
    kinds = dict(zip(shapes, (mx.float16, mx.bfloat16, mx.float16, mx.float32), strict=True))
    weights = {
        name: 0.3 * strategies.random_array(rng, shape, kinds[name])
        for name, shape in shapes.items()
    }
    (x,) = operands((2, 7, 16))

    def plain_multiply(x, w):
        return x @ w.astype(mx.float32).T

    ours = block(tg.attention_chain, lambda x, w: tg.matmul(x, w, transpose_b=True))
    value, got = mx.value_and_grad(wrap(ours))(weights, x)
    plain_value, expected = mx.value_and_grad(block(plain, plain_multiply))(weights, x)
    np.testing.assert_allclose(value.item(), plain_value.item(), rtol=1e-5)
    for name, kind in kinds.items():
        assert got[name].dtype == kind
        scale = np.abs(oracle.to_numpy(expected[name])).max()
        unit = dtypes.from_mlx(kind).unit_roundoff + 2.0**-16
        difference = np.abs(oracle.to_numpy(got[name]) - oracle.to_numpy(expected[name]))
        assert difference.max() <= 2 * unit * scale, name


class Recorded(EmulatorBackend):
    """The emulator as a GPU, with a change to one output of one kernel."""

    capabilities = ON_A_GPU

    def __init__(self, kernel="", output=0, change=lambda x: x):
        self.kernel, self.output, self.change = kernel, output, change
        self.launched = []

    def compile(self, source):
        launch = super().compile(source)

        def execute(**arguments):
            self.launched.append(source.name.split("_softmax")[0].removeprefix("tilegemm_"))
            outputs = launch(**arguments)
            if self.kernel and self.kernel in source.name:
                outputs[self.output] = self.change(outputs[self.output])
            return outputs

        return execute


class TestTrial:
    """On a GPU the kernels of the backward pass prove themselves too before they serve."""

    def gradient(self):
        q, k, v = operands((1, 4, 70, 16), (1, 2, 70, 16), (1, 2, 70, 8))
        with tg.use_kernel("attention_chain"):
            gradient = mx.grad(lambda q: tg.attention_chain(q, k, v, mask="causal").sum())(q)
        expected = mx.grad(lambda q: plain(q, k, v, "causal").sum())(q)
        np.testing.assert_allclose(np.array(gradient), np.array(expected), rtol=0, atol=1e-4)

    @pytest.mark.slow
    def test_serves_after_it_passed(self, tmp_path):
        with fake_metal(tmp_path / "record.json", backend=Recorded()) as metal:
            self.gradient()
            first = list(metal.launched)
            self.gradient()
            served = ["attention_chain", "attention_backward_query", "attention_backward_key_value"]
            assert metal.launched[len(first) :] == served
            assert sorted(first) == sorted(2 * served), "each was tried, then served"

    @pytest.mark.slow
    @pytest.mark.parametrize(("kernel", "output"), [("query", 0), ("query", 1), ("key_value", 1)])
    def test_wrong_kernels_are_disabled(self, tmp_path, kernel, output):
        backend = Recorded(f"backward_{kernel}", output, lambda x: x * 1.001)
        with fake_metal(tmp_path / "record.json", backend=backend) as metal:
            with pytest.warns(RuntimeWarning, match="attention_backward"):
                self.gradient()
            metal.launched.clear()
            self.gradient()
            assert metal.launched == ["attention_chain"]


MASKS = {
    "none": (None, None),
    "causal": ("causal", None),
    "shared": ((9, 13), None),
    "mapped": ((3, 9, 13), 0),
    "mapped batch": ((2, 1, 9, 3, 13), 3),
    "shared batch": ((2, 1, 9, 13), None),
}


@pytest.mark.parametrize("which", list(MASKS))
@pytest.mark.parametrize("axes", [(0, 0, 0), (1, None, 2), (None, 0, None)], ids=str)
class TestVmap:
    def arrays(self, axes, which):
        shapes = [(2, 4, 9, 16), (2, 2, 13, 16), (2, 2, 13, 11)]
        mapped = [
            shape if axis is None else (*shape[:axis], 3, *shape[axis:])
            for shape, axis in zip(shapes, axes, strict=True)
        ]
        shape, axis = MASKS[which]
        mask = a_mask("boolean", shape) if isinstance(shape, tuple) else shape
        return operands(*mapped), mask, axis

    def through(self, op, mask, axes, mask_axis):
        if mask_axis is None:
            return lambda q, k, v: mx.vmap(lambda *x: op(*x, mask=mask), in_axes=axes)(q, k, v)
        mapped = mx.vmap(lambda q, k, v, m: op(q, k, v, mask=m), in_axes=(*axes, mask_axis))
        return lambda q, k, v: mapped(q, k, v, mask)

    def test_attention(self, lazy, axes, which):
        arrays, mask, mask_axis = self.arrays(axes, which)
        got = self.through(tg.attention_chain, mask, axes, mask_axis)(*arrays)
        expected = self.through(plain, mask, axes, mask_axis)(*arrays)
        np.testing.assert_allclose(np.array(got), np.array(expected), rtol=1e-4, atol=1e-5)

    @pytest.mark.slow
    def test_batches_of_gradients(self, lazy, axes, which):
        arrays, mask, mask_axis = self.arrays(axes, which)

        def gradient(op):
            return lambda q, k, v, mask: mx.grad(lambda q: (op(q, k, v, mask=mask) ** 2).sum())(q)

        got, expected = (
            self.through(gradient(op), mask, axes, mask_axis)(*arrays)
            for op in (tg.attention_chain, plain)
        )
        np.testing.assert_allclose(np.array(got), np.array(expected), rtol=1e-3, atol=1e-4)


class TestExplain:
    def test_names_the_kernels_of_the_gradients(self):
        q = tg.ArraySpec(shape=(1, 2, 64, 64), dtype=mx.float16)
        text = str(tg.explain("attention_chain", q, q, q))
        assert "gradients of q, k and v: attention_backward_query/" in text
        assert "attention_backward_key_value/" in text

    def test_shows_the_text_that_runs(self, lazy):
        q, k, v = operands((1, 2, 9, 16), (1, 2, 9, 16), (1, 2, 9, 8))
        for enabled in (True, False):
            with tg.use_gradients(enabled):
                explanation = tg.explain("attention_chain", q, k, v)
                tg.attention_chain(q, k, v)
            assert lazy.launches[-1][0] == explanation.source.name
            assert ("lse" in explanation.source.output_names) is enabled
            assert ("gradients" in str(explanation.notes)) is enabled

    def test_says_where_the_gradient_of_a_mask_goes(self):
        q = tg.ArraySpec(shape=(1, 2, 64, 64), dtype=mx.float16)
        mask = tg.ArraySpec(shape=(64, 64), dtype=mx.float16)
        assert "gradient of the mask" in str(tg.explain("attention_chain", q, q, q, mask=mask))


def test_masks_of_gradient_problems():
    """A literal chain's gradient of q does not depend on what is added to its scores."""
    q = tg.ArraySpec(shape=(1, 2, 9, 16), dtype=mx.float32)
    mask = tg.ArraySpec(shape=(9, 9), dtype=mx.float32)
    problem = tg.explain("attention_chain", q, q, q, mask=mask, softmax=False).problem
    assert problem.mask_kind is MaskKind.ADDITIVE
    plan = dispatch.choose(QueryGradientProblem(attention=problem), chips.DEFAULT).plan
    assert plan.stages[0].spec.input_names == ("k", "v", "grad", "factors", "sizes")


@pytest.mark.parametrize("softmax", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_a_narrow_block_for_heads_without_equal_slices(softmax):
    q, k, v = operands((1, 2, 19, 105), (1, 1, 41, 105), (1, 1, 41, 105), dtype=mx.float16)
    problem = tg.explain("attention_chain", q, k, v, mask="causal").problem
    for chip in chips.CHIPS:
        decision = dispatch.choose(KeyValueGradientProblem(attention=problem), chip)
        legal = [str(one) for one in decision.candidates if one.reason is None]
        assert legal == [f"attention_backward_key_value/{attention_backward_key_value.NARROW}"]
    check(q, k, v, mask="causal", softmax=softmax, scale=105**-0.5)

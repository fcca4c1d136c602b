"""Derivatives of gated delta updates: exact, reproducible, composable, and small in memory."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mlx_tilegemm as tg
from mlx_tilegemm.backends import Backend, backend_named
from mlx_tilegemm.backends.launch import kernel_run
from mlx_tilegemm.core.caches import forget_prepared
from mlx_tilegemm.core.context import current_settings, noting_problems
from mlx_tilegemm.core.dtypes import BFLOAT16, FLOAT16, FLOATS
from mlx_tilegemm.core.family import Data
from mlx_tilegemm.core.reference import hold
from mlx_tilegemm.core.render import render
from mlx_tilegemm.dispatch import choose
from mlx_tilegemm.errors import BackendError
from mlx_tilegemm.families import family_of
from mlx_tilegemm.families.gated_delta import fused_backward, gradient_reference
from mlx_tilegemm.families.gated_delta import gradients as gradients_module
from mlx_tilegemm.families.gated_delta.kernels import KERNELS
from mlx_tilegemm.families.gated_delta.kernels.delta_backward import sliced, slices_of
from mlx_tilegemm.families.gated_delta.problem import CHUNK, DeltaGradientProblem
from mlx_tilegemm.families.gated_delta.spec import variant
from mlx_tilegemm.machine import chips

M4 = chips.get("m4")
SCALE = 0.75


def drawn(problem, seed=0):
    return family_of(problem).draw(problem, Data(seed=seed))


def update(problem, mask=None):
    """Return the op as a function of a problem's operands but the mask."""

    def call(*operands):
        names = problem.operand_names[: len(operands)]
        return tg.gated_delta_update(
            **dict(zip(names, operands, strict=True)),
            mask=mask,
            scale=SCALE,
            log_decay=problem.log_decay,
            normalize=problem.normalize,
            every=problem.every or None,
            out_dtype=problem.y.mlx,
        )

    return call


def parted(problem, seed=0):
    """Return operands that have gradients, the mask, and gradients of the results."""
    operands = drawn(problem, seed)
    count = len(operands) - problem.mask
    random = np.random.default_rng(seed)
    slopes = [
        mx.array(random.standard_normal(one.shape).astype(np.float32)).astype(one.dtype.mlx)
        for one in problem.results
    ]
    return operands[:count], (operands[count:] or [None])[0], slopes


def gradients(problem, operands, mask, slopes):
    return mx.vjp(update(problem, mask), operands, slopes)[1]


def close(got, wanted, tolerance):
    for a, b in zip(got, wanted, strict=True):
        assert a.dtype == b.dtype
        a, b = (np.array(x.astype(mx.float32)) for x in (a, b))
        assert np.abs(a - b).max() <= tolerance * max(np.abs(b).max(), 1e-3)


def gradient_problem(**changes):
    return DeltaGradientProblem(update=variant(state=True, every=CHUNK, **changes))


@pytest.mark.slow
@pytest.mark.parametrize("length", [1, 7, 8, 9, 16, 19])
def test_the_kernel_is_within_the_bound(length):
    problem = gradient_problem(length=length)
    outputs, wanted = within_the_bound(problem)
    for output, one in zip(outputs, wanted, strict=True):
        assert np.abs(np.array(output) - one.value).max() <= 1e-6 * np.abs(one.value).max()


def within_the_bound(problem):
    """Run the chosen kernel, hold it to its reference, and return both results."""
    operands = drawn(problem, problem.update.length)
    plan = choose(problem, M4).plan
    run = kernel_run(problem, plan, backend_named("emulator"))
    outputs = run(operands, (SCALE,), None)
    wanted = family_of(problem).reference(problem, operands, (SCALE,))
    assert not hold(problem, outputs, wanted)[1]
    return outputs, wanted


@pytest.mark.parametrize("vector", [False, True])
def test_the_reference_is_the_slope(vector):
    """In float64 against finite differences, with two decays of 0 in one chunk."""
    problem = replace(variant(vector_gate=vector, state=True, mask=True, length=11), y=FLOATS[0])
    operands, mask, slopes = parted(problem, 4)
    arrays = [np.array(x).astype(np.float64) for x in operands]
    arrays[3][:, 2:4] = 0
    weights = [np.array(x).astype(np.float64) for x in slopes]
    found = reference_gradients(problem, arrays, mask, slopes)
    random = np.random.default_rng(1)
    for place, wanted in enumerate(found):
        direction = random.standard_normal(arrays[place].shape)
        values = []
        for sign in (1, -1):
            moved = [*arrays]
            moved[place] = arrays[place] + sign * 1e-6 * direction
            outputs = recurrence(problem, moved, np.array(mask))
            values.append(sum((x * w).sum() for x, w in zip(outputs, weights, strict=True)))
        slope = (values[0] - values[1]) / 2e-6
        assert slope == pytest.approx((wanted * direction).sum(), rel=1e-6, abs=1e-6)


def recurrence(problem, arrays, mask):
    """Return y and the last state in float64."""
    q, k, v, gamma, beta, state = arrays
    q, k = (np.repeat(x, problem.group, axis=2) for x in (q, k))
    gamma = gamma if problem.vector_gate else gamma[..., None]
    rows = []
    for t in range(v.shape[1]):
        after = state * gamma[:, t, :, None]
        new = beta[:, t, :, None] * (v[:, t] - np.einsum("bhvk,bhk->bhv", after, k[:, t]))
        after = after + new[..., None] * k[:, t, :, None]
        kept = mask[:, t, None, None]
        state = np.where(kept[..., None], after, state)
        rows.append(np.where(kept, SCALE * np.einsum("bhvk,bhk->bhv", after, q[:, t]), 0))
    return np.stack(rows, axis=1), state


def reference_gradients(problem, arrays, mask, slopes):
    """Return the gradients of the family's reference, from exact states in float64."""
    saved = replace(problem, every=CHUNK)
    states = [
        recurrence(
            problem,
            [*(x[:, : CHUNK * (i + 1)] for x in arrays[:5]), arrays[5]],
            np.array(mask)[:, : CHUNK * (i + 1)],
        )[1]
        for i in range(saved.saved)
    ]
    given = dict(zip(problem.operand_names, [*arrays, np.array(mask)], strict=True))
    given |= {"states": np.stack(states, axis=1)}
    wide = [np.array(x).astype(np.float64) for x in slopes]
    given |= {"grad": wide[0], "state_grad": wide[1]}
    rows, slope = gradient_reference._backward(saved, given, SCALE)
    q, k, v, gamma, beta = (np.stack([row[place][0] for row in rows], axis=1) for place in range(5))
    heads = (*q.shape[:2], problem.key_heads, problem.group, problem.key_dim)
    q, k = (x.reshape(heads).sum(axis=3) for x in (q, k))
    return [q, k, v, gamma.reshape(arrays[3].shape), beta, slope.value]


@pytest.mark.slow
@settings(max_examples=6)
@given(
    length=st.sampled_from((1, 8, 9, 17, 63, 65)),
    dims=st.sampled_from(((32, 60), (64, 64), (60, 32), (100, 96), (96, 192))),
    dtypes=st.lists(st.sampled_from(FLOATS), min_size=6, max_size=6),
    flags=st.lists(st.booleans(), min_size=5, max_size=5),
)
def test_gradients_are_mlxs(length, dims, dtypes, flags):
    names = ("q", "k", "v", "gamma", "beta", "y")
    options = ("vector_gate", "log_decay", "normalize", "state", "mask")
    problem = variant(
        length=length,
        key_dim=dims[0],
        value_dim=dims[1],
        **dict(zip(names, dtypes, strict=True)),
        **dict(zip(options, flags, strict=True)),
    )
    case = parted(problem, length)
    with tg.use_backend("mlx"):
        wanted = gradients(problem, *case)
    narrow = any(one in (FLOAT16, BFLOAT16) for one in dtypes)
    close(gradients(problem, *case), wanted, 1e-2 if narrow else 3e-6)


@pytest.mark.parametrize("vector", [False, True])
def test_no_sum_waits_for_whoever_comes_first(vector):
    problem = gradient_problem(vector_gate=vector)
    served = [one for one in choose(problem, M4).candidates if one.plan is not None]
    texts = [render(stage.spec) for one in served for stage in one.plan.stages]
    assert texts
    assert not any("atomic" in text.header + text.body for text in texts)


@pytest.mark.slow
@pytest.mark.parametrize("length", [9, 19])
def test_spans_are_joined(monkeypatch, length):
    """A span of one chunk is as good as one of many, and the same bits come out twice."""
    problem = variant(length=length, state=True)
    case = parted(problem, 2)
    whole = gradients(problem, *case)
    assert all(map(mx.array_equal, whole, gradients(problem, *case)))
    monkeypatch.setattr(fused_backward, "SPAN", CHUNK)
    forget_prepared()
    close(gradients(problem, *case), whole, 2e-6)
    forget_prepared()


@pytest.mark.slow
def test_a_decay_of_zero_has_its_own_gradient():
    problem = variant(length=9, state=True)
    (q, k, v, gamma, *rest), mask, slopes = parted(problem, 3)
    gamma[:, 2:5] = 0
    operands = [q, k, v, gamma, *rest]
    with tg.use_backend("mlx"):
        wanted = gradients(problem, operands, mask, slopes)
    got = gradients(problem, operands, mask, slopes)
    close(got, wanted, 2e-6)
    assert mx.all(mx.any(got[3][:, 2:5] != 0, axis=-1))


def test_the_kernels_serve_a_backward_pass():
    noted = []
    problem = variant(length=19)
    with noting_problems(noted.append):
        gradients(problem, *parted(problem))
    assert any(isinstance(one, DeltaGradientProblem) for one in noted)


@pytest.mark.slow
def test_training_memory_is_small():
    """Bytes that MLX has at once in a backward pass, for 4096 tokens and 32 heads of 128."""
    assert 128 * 128 * 4 / fused_backward.SPAN <= 1.1 * 1024
    heads = {"key_heads": 16, "value_heads": 32, "key_dim": 128, "value_dim": 128}
    dtypes = dict.fromkeys(("q", "k", "v", "y"), BFLOAT16)
    problem = variant(batch=1, length=4096, **heads, **dtypes)
    backend = Unwritten(backend_named("emulator"))
    run = gradients_module._backward_run(problem, backend, current_settings())
    results = problem.results
    arrays = [mx.zeros(one.shape, one.dtype.mlx) for one in (*problem.operands, *results)]
    mx.eval(arrays)
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    found = run(arrays, (SCALE,), None)
    mx.eval(found)
    kept = sum(x.nbytes for x in found)
    assert "delta_backward" in backend.kernels
    assert 50e6 <= mx.get_peak_memory() - before - kept <= 150e6


class Unwritten(Backend):
    """A backend whose kernels ask for what they read, and leave arrays of the right sizes."""

    def __init__(self, backend):
        self.name = backend.name
        self.capabilities = replace(backend.capabilities, lazy=True)
        self.kernels = set()

    def compile(self, source):
        def execute(*, inputs, output_shapes, output_dtypes, **launch):
            self.kernels |= {one for one in KERNELS if one in source.name}
            first = [x[(0,) * x.ndim].astype(mx.float32) for x in inputs if x.size]
            shaped = zip(output_shapes, output_dtypes, strict=True)
            outputs = [mx.contiguous(mx.broadcast_to(sum(first).astype(b), a)) for a, b in shaped]
            return mx.depends(outputs, outputs)

        return execute


def test_tangents_and_checkpoints():
    problem = variant(length=9, state=True)
    operands, _, slopes = parted(problem, 5)
    call = update(problem)
    with tg.use_backend("mlx"):
        wanted = mx.jvp(call, operands, operands)[1]
    close(mx.jvp(call, operands, operands)[1], wanted, 1e-6)

    def loss(*arrays):
        y, state = call(*arrays)
        return (y * slopes[0]).sum() + (state * slopes[1]).sum()

    plain = gradients(problem, operands, None, slopes)
    close(mx.grad(mx.checkpoint(loss), argnums=range(6))(*operands), plain, 1e-6)


def test_a_mapped_axis_is_more_batch():
    """Of an update and of its gradients; the state and one gradient are the same for all."""
    problem = variant(length=9, state=True)
    operands, _, slopes = parted(problem, 5)
    rule = family_of(problem).rule(problem, backend_named("emulator"))
    pairs = [mx.stack([x, 0.5 * x], axis=1) for x in operands[:5]]
    mapped = rule.vmap([*pairs, operands[5]], (SCALE,), None, (1,) * 5 + (None,))
    run = gradients_module._backward_run(problem, backend_named("emulator"), current_settings())
    for i in range(2):
        single = update(problem)(*(x[:, i] for x in pairs), operands[5])
        close([x[i] for x in mapped], single, 1e-6)
    backward_rule = gradients_module._BackwardRule(
        problem=problem, backend=backend_named("emulator"), formula=run
    )
    steep = mx.stack([slopes[0], 2 * slopes[0]])
    axes = (None,) * 6 + (0, None)
    mapped = backward_rule.vmap([*operands, steep, slopes[1]], (SCALE,), None, axes)
    for i in range(2):
        close(
            [x[i] for x in mapped], gradients(problem, operands, None, [steep[i], slopes[1]]), 1e-6
        )


def test_under_compile_on_kernels(lazy):
    problem = variant(length=9, state=True)
    operands, *_ = parted(problem, 5)

    def loss(*arrays):
        y, state = update(problem)(*arrays)
        return y.sum() + state.sum()

    mx.eval(mx.grad(loss)(*operands))
    outside = [name for name, _ in lazy.launches]
    lazy.launches.clear()
    mx.compile(mx.grad(loss))(*operands)
    assert [name for name, _ in lazy.launches] == outside
    # An update, one that also leaves states, and the gradients.
    assert len({*outside}) == 3
    with pytest.raises(BackendError, match="shapeless"):
        mx.compile(update(problem), shapeless=True)(*operands)


@pytest.mark.slow
def test_second_derivatives():
    problem = variant(length=5, state=True, key_heads=1, value_heads=1, batch=1)
    operands, _, slopes = parted(problem, 6)

    def curvature(k):
        def loss(q, key):
            return (update(problem)(q, key, *operands[2:])[0] * slopes[0]).sum()

        return (mx.grad(loss)(operands[0], k) ** 2).sum()

    got = mx.grad(curvature)(operands[1])
    with tg.use_backend("mlx"):
        wanted = mx.grad(curvature)(operands[1])
    close([got], [wanted], 1e-5)


@pytest.mark.slow
def test_a_scale_that_is_followed_has_a_gradient():
    problem = variant(length=5)
    operands, *_ = parted(problem, 7)

    def total(scale, q):
        return tg.gated_delta_update(q, *operands[1:], scale=scale, normalize=True)[0].sum()

    value, (slope, _) = mx.value_and_grad(total, argnums=(0, 1))(mx.array(2.0), operands[0])
    assert float(slope) == pytest.approx(float(value) / 2, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("length", "every", "flags"),
    [
        (19, 8, {"state": True}),
        (16, 8, {"mask": True}),
        (7, 3, {"state": True, "mask": True, "normalize": True, "log_decay": True}),
        (5, 8, {}),
    ],
)
def test_gradients_of_states_in_between(length, every, flags):
    """Back from each state that was returned to the one before it, on kernels."""
    problem = variant(length=length, every=every, **flags)
    case = parted(problem, 8)
    with tg.use_backend("mlx"):
        wanted = gradients(problem, *case)
    noted = []
    with noting_problems(noted.append):
        got = gradients(problem, *case)
    close(got, wanted, 2e-6)
    served = {one.update.length for one in noted if isinstance(one, DeltaGradientProblem)}
    assert served == {min(every, length), length % every} - {0}


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["emulator", "mlx"])
@pytest.mark.parametrize("prepared", [False, True])
def test_gradients_are_the_same_whatever_masked_tokens_hold(backend, prepared):
    problem = variant(length=9, state=True, mask=True, normalize=prepared, log_decay=prepared)
    operands, mask, slopes = parted(problem, 8)
    assert not mx.all(mask)
    dirty = [mx.where(mx.expand_dims(mask, [*range(2, x.ndim)]), x, mx.nan) for x in operands[:5]]
    with tg.use_backend(backend):
        wanted = gradients(problem, operands, mask, slopes)
        close(gradients(problem, [*dirty, operands[5]], mask, slopes), wanted, 1e-6)


@pytest.mark.slow
def test_each_gradient_alone_is_one_of_all():
    problem = variant(length=16, mask=True)
    operands, mask, slopes = parted(problem, 8)

    def loss(*arrays):
        y, state = update(problem, mask)(*arrays)
        return (y * slopes[0]).sum() + (state * slopes[1]).sum()

    wanted = gradients(problem, operands, mask, slopes)
    for i in range(5):
        close([mx.grad(loss, argnums=i)(*operands)], [wanted[i]], 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("key_dim", "value_dim"), [(192, 128), (128, 256)])
def test_heads_of_unequal_dims_have_gradients_on_kernels(key_dim, value_dim):
    dims = {"key_heads": 1, "value_heads": 1, "key_dim": key_dim, "value_dim": value_dim}
    within_the_bound(gradient_problem(batch=1, length=9, **dims))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key_dim", "value_dim", "vector", "slices"),
    [(256, 256, False, 2), (192, 192, True, 2), (256, 251, True, 6)],
)
def test_heads_of_many_values_have_gradients_in_slices(key_dim, value_dim, vector, slices):
    """Of more values than threadgroup memory has room for; zeros fill up the last slice."""
    dims = {"key_heads": 1, "value_heads": 2, "key_dim": key_dim, "value_dim": value_dim}
    problem = variant(batch=1, length=9, vector_gate=vector, state=True, mask=True, **dims)
    operands, mask, slopes = parted(problem, 3)
    arrays = [np.array(x).astype(np.float64) for x in operands]
    noted = []
    with noting_problems(noted.append):
        got = gradients(problem, operands, mask, slopes)
    for found, exact in zip(got, reference_gradients(problem, arrays, mask, slopes), strict=True):
        assert np.abs(np.array(found) - exact).max() <= 1e-6 * np.abs(exact).max()
    served = [one.update for one in noted if isinstance(one, DeltaGradientProblem)]
    assert {(one.value_heads, one.value_dim) for one in served} == {
        (2 * slices, -(-value_dim // slices))
    }
    assert all(map(mx.array_equal, got, gradients(problem, operands, mask, slopes)))


@pytest.mark.parametrize("dim", [32, 64, 96, 128, 192, 256])
@pytest.mark.parametrize("vector", [False, True])
def test_heads_of_up_to_256_have_gradients_on_kernels(dim, vector):
    for value_dim in (32, 60, 96, 128, 200, 251, 256):
        update = variant(key_dim=dim, value_dim=value_dim, vector_gate=vector, state=True, every=8)
        problem = DeltaGradientProblem(update=sliced(update, slices_of(update)))
        assert choose(problem, M4).plan is not None

"""Gated delta updates: values, states, masks, refusals, transforms, and the choice of who serves.

Values are held to the family's float64 recurrence with its bound; that recurrence is held to one
that is written out here, loop by loop.
"""

from __future__ import annotations

import io
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mlx_tilegemm as tg
from mlx_tilegemm.core import mlx_ops
from mlx_tilegemm.core.dtypes import BFLOAT16, FLOAT16, FLOAT32, FLOATS
from mlx_tilegemm.core.family import Data
from mlx_tilegemm.core.plain import from_plain, to_plain
from mlx_tilegemm.core.reference import hold
from mlx_tilegemm.dispatch import choose
from mlx_tilegemm.errors import DTypeError, IllegalKernelError, ProblemError
from mlx_tilegemm.families import family_of, problem_types
from mlx_tilegemm.families.gated_delta import fallback
from mlx_tilegemm.families.gated_delta.kernels import KERNELS
from mlx_tilegemm.families.gated_delta.price import mlx_lm_kernel
from mlx_tilegemm.families.gated_delta.spec import variant
from mlx_tilegemm.families.gated_delta.spelling import parse
from mlx_tilegemm.machine import chips

SCALE = 0.75
FORWARD = KERNELS[:3]
M4 = chips.get("m4")
RANDOM = np.random.default_rng(5)


def call(problem, operands, **options):
    """Ask the op for a problem."""
    given = dict(zip(problem.operand_names, operands, strict=True))
    return tg.gated_delta_update(
        **given,
        **{
            "scale": SCALE,
            "log_decay": problem.log_decay,
            "normalize": problem.normalize,
            "every": problem.every or None,
            "out_dtype": problem.y.mlx,
            **options,
        },
    )


def held(problem, operands, outputs, scale=SCALE):
    expected = family_of(problem).reference(problem, operands, (scale,))
    _, reasons = hold(problem, outputs, expected)
    assert not reasons, (problem, reasons)


def drawn(problem, seed=0):
    return family_of(problem).draw(problem, Data(seed=seed))


def kernels_of(problem):
    """Return the kernels that may serve a problem."""
    found = {one.kernel for one in choose(problem, M4).candidates if one.reason is None}
    return [name for name in FORWARD if name in found]


def loops(q, k, v, gamma, beta, state, mask, scale):
    """Return y and the state by the rule as it is written, in float64."""
    batch, length, heads, _ = v.shape
    group = heads // q.shape[2]
    y, state = np.zeros(v.shape), state.copy()
    for b in range(batch):
        for t in range(length):
            for h in range(heads):
                if not mask[b, t]:
                    continue
                key, query, s = k[b, t, h // group], q[b, t, h // group], state[b, h]
                s = s * gamma[b, t, h]
                s = s + beta[b, t, h] * np.outer(v[b, t, h] - s @ key, key)
                y[b, t, h], state[b, h] = scale * s @ query, s
    return y, state


@pytest.mark.parametrize("vector", [False, True])
def test_the_reference_is_the_rule(vector):
    problem = variant(vector_gate=vector, state=True, mask=True, length=11, every=4)
    operands = drawn(problem)
    arrays = [np.array(x).astype(np.float64) for x in operands[:-1]]
    y, state = loops(*arrays, np.array(operands[-1]), SCALE)
    found = family_of(problem).reference(problem, operands, (SCALE,))
    np.testing.assert_allclose(found[0].value, y, atol=1e-12)
    np.testing.assert_allclose(found[1].value, state, atol=1e-12)
    assert found[2].value.shape == problem.states_shape
    for one, value in zip(found, (y, state), strict=False):
        # Of float32, and not of much more.
        assert 0 < np.max(one.bound) < 1e-3 * np.abs(value).max()


@pytest.mark.parametrize("kernel", FORWARD)
@pytest.mark.parametrize("length", [1, 7, 8, 9, 15, 16, 17, 19])
def test_lengths(kernel, length):
    problem = variant(length=length)
    operands = drawn(problem, length)
    with tg.use_kernel(kernel):
        held(problem, operands, call(problem, operands))


LONG = st.sampled_from((0, 1, 7, 8, 9, 15, 16, 17, 63, 64, 65, 129))
DIMS = (32, 60, 64, 96, 100, 128, 192)


@pytest.mark.slow
@settings(max_examples=8)
@given(
    length=LONG,
    heads=st.sampled_from(((1, 1), (2, 4), (1, 3), (3, 3))),
    key_dim=st.sampled_from(DIMS),
    value_dim=st.sampled_from(DIMS),
    dtypes=st.lists(st.sampled_from(FLOATS), min_size=6, max_size=6),
    flags=st.lists(st.booleans(), min_size=5, max_size=5),
)
def test_everything_that_a_caller_may_choose(length, heads, key_dim, value_dim, dtypes, flags):
    names = ("q", "k", "v", "gamma", "beta", "y")
    options = ("vector_gate", "log_decay", "normalize", "state", "mask")
    problem = variant(
        batch=1 + flags[0],
        length=length,
        key_heads=heads[0],
        value_heads=heads[1],
        key_dim=key_dim,
        value_dim=value_dim,
        **dict(zip(names, dtypes, strict=True)),
        **dict(zip(options, flags, strict=True)),
    )
    operands = drawn(problem, length)
    for kernel in kernels_of(problem) or ["any"]:
        with tg.use_kernel(kernel):
            held(problem, operands, call(problem, operands))


# Of the tests of MLX, flash-linear-attention and FlashKDA, and of models: B, T, Hk, Hv, Dk, Dv. Of
# MLX's largest two the batch, and the heads, are an eighth.
PUBLISHED = {
    "mlx decoding": (1, 1, 32, 32, 128, 128),
    "mlx": (1, 33, 32, 32, 128, 128),
    "mlx of 128 sequences": (16, 16, 32, 32, 128, 128),
    "mlx of a long prompt": (2, 1111, 4, 4, 128, 128),
    "mlx of two heads a key": (1, 33, 16, 32, 128, 128),
    "mlx of three heads a key": (1, 33, 16, 48, 128, 128),
    "mlx of four heads a key": (1, 33, 8, 32, 128, 128),
    "mlx of 24 keys": (1, 33, 24, 48, 128, 128),
    "fla recurrent": (1, 63, 1, 1, 64, 64),
    "fla recurrent of 60": (2, 500, 4, 4, 60, 60),
    "fla recurrent, scaled": (2, 1000, 2, 8, 128, 128),
    "fla recurrent of a long prompt": (4, 2048, 4, 4, 64, 64),
    "fla chunk": (2, 75, 4, 4, 64, 64),
    "fla chunk of 60": (2, 500, 3, 3, 60, 60),
    "fla chunk of 100": (3, 1024, 4, 4, 100, 100),
    "fla chunk, normalised": (2, 512, 2, 8, 64, 64),
    "fla chunk, masked": (4, 1024, 4, 4, 128, 128),
    "OLMo-Hybrid": (1, 33, 2, 2, 96, 192),
    "OLMo-Hybrid of 8 heads": (1, 17, 8, 8, 128, 256),
    "FlashKDA of 16": (1, 16, 4, 4, 128, 128),
    "FlashKDA of 17": (1, 17, 1, 1, 128, 128),
    "FlashKDA of 256": (1, 256, 4, 4, 128, 128),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_shapes(name):
    batch, length, key_heads, value_heads, key_dim, value_dim = PUBLISHED[name]
    problem = variant(
        batch=batch,
        length=length,
        key_heads=key_heads,
        value_heads=value_heads,
        key_dim=key_dim,
        value_dim=value_dim,
        vector_gate="FlashKDA" in name,
        normalize="normalised" in name,
        mask="masked" in name,
        state=True,
    )
    operands = drawn(problem, 9)
    scale = 0.1 if "scaled" in name else SCALE
    with tg.use_kernel("any"):
        held(problem, operands, call(problem, operands, scale=scale), scale)


@pytest.mark.slow
@pytest.mark.parametrize("length", [1111, 2049, 4096])
@pytest.mark.parametrize("kernel", FORWARD)
def test_long_prompts_whole_and_in_pieces(kernel, length):
    """With decays near 1, of which the last state is of all tokens."""
    problem = variant(batch=1, key_heads=1, value_heads=1, length=length, state=True)
    q, k, v, gamma, *others = drawn(problem, 2)
    operands = [q, k, v, 1 - gamma / 1000, *others]
    ends = [0, length // 3, length // 3 + 1, length - 7, length]
    with tg.use_kernel(kernel):
        y, last = call(problem, operands)
        held(problem, operands, (y, last))
        *tokens, state = operands
        rows = []
        for start, end in pairwise(ends):
            piece = replace(problem, length=end - start)
            row, state = call(piece, [*(x[:, start:end] for x in tokens), state])
            rows.append(row)
    np.testing.assert_allclose(mx.concatenate(rows, axis=1), y, rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(state, last, rtol=1e-5, atol=2e-6)


@pytest.mark.slow
def test_sequences_of_other_lengths_in_one_batch():
    """As each alone: the lengths that FlashQLA's tests cut a row of tokens into, fewer tokens."""
    ends = (0, 41, 84, 113, 212, 251)
    pieces = list(pairwise(ends))
    problem = variant(batch=1, length=ends[-1], state=True, key_dim=32, value_dim=16)
    *tokens, state = drawn(problem, 7)
    longest = max(end - start for start, end in pieces)

    def padded(x):
        rows = [x[:, start:end] for start, end in pieces]
        holes = [[(0, 0), (0, longest - row.shape[1]), *[(0, 0)] * (x.ndim - 2)] for row in rows]
        return mx.concatenate([mx.pad(row, hole) for row, hole in zip(rows, holes, strict=True)])

    lengths = mx.array([end - start for start, end in pieces])
    states = mx.repeat(state, len(pieces), axis=0)
    with tg.use_kernel("any"):
        y, last = tg.gated_delta_update(*map(padded, tokens), states, lengths=lengths)
        for i, (start, end) in enumerate(pieces):
            part, alone = tg.gated_delta_update(*(x[:, start:end] for x in tokens), state)
            np.testing.assert_allclose(y[i, : end - start], part[0], rtol=1e-5, atol=2e-6)
            np.testing.assert_allclose(last[i], alone[0], rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("kernel", [None, *FORWARD], ids=lambda name: name or "mlx")
def test_masks_lengths_and_states(kernel):
    """One text, many meanings: dropped tokens, separate calls, and a state handed on."""
    q, k, v, gamma, beta, state = drawn(variant(state=True, length=19), 3)
    mask = mx.array(RANDOM.random((2, 19)) < 0.6)
    where = tg.use_kernel(kernel) if kernel else tg.use_backend("mlx")
    with where:

        def run(first, *tokens, state=state, **options):
            return tg.gated_delta_update(first, *tokens, state, **options)

        # Masked tokens are as if they were not there, whatever they hold.
        dirty = [mx.where(mask[..., None, None], x, mx.nan) for x in (q, k, v)]
        y, last = run(*dirty, gamma, beta, mask=mask)
        for b in range(2):
            seen = mx.array(np.flatnonzero(np.array(mask[b])))
            tokens = [x[b : b + 1, seen] for x in (q, k, v, gamma, beta)]
            ones = mx.ones((1, seen.size), dtype=mx.bool_)
            part, end = run(*tokens, state=state[b : b + 1], mask=ones)
            np.testing.assert_allclose(y[b, seen], part[0], rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(last[b], end[0], rtol=1e-5, atol=1e-6)
            assert not np.array(y[b])[~np.array(mask[b])].any()
        # Lengths are masks of what comes first, and go together with other masks.
        lengths = mx.array([0, 12])
        inside = mx.arange(19)[None] < lengths[:, None]
        for given_mask in (None, mask):
            got = run(q, k, v, gamma, beta, mask=given_mask, lengths=lengths)
            both = inside if given_mask is None else mx.logical_and(inside, mask)
            want = run(q, k, v, gamma, beta, mask=both)
            assert all(map(mx.array_equal, got, want))
        assert mx.array_equal(got[1][0], state[0])
        # A mask may be of any dtype.
        again = run(q, k, v, gamma, beta, mask=mask.astype(mx.float32))
        assert mx.array_equal(again[1], run(q, k, v, gamma, beta, mask=mask)[1])


@pytest.mark.slow
@pytest.mark.parametrize("kernel", FORWARD)
def test_a_state_is_handed_on_at_every_token(kernel):
    problem = variant(state=True, mask=True, length=19)
    operands = drawn(problem, 4)
    *tokens, state, mask = operands
    with tg.use_kernel(kernel):
        y, last = tg.gated_delta_update(*tokens, state, mask)
        for at in range(1, 19):
            first, middle = tg.gated_delta_update(*(x[:, :at] for x in tokens), state, mask[:, :at])
            rest, end = tg.gated_delta_update(*(x[:, at:] for x in tokens), middle, mask[:, at:])
            joined = mx.concatenate([first, rest], axis=1)
            np.testing.assert_allclose(joined, y, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(end, last, rtol=1e-5, atol=1e-6)


def test_nothing_to_do():
    problem = variant(length=0, state=True)
    operands = drawn(problem)
    y, state, states = call(problem, operands, every=2)
    assert y.shape == (2, 0, 4, 13)
    assert states.shape == (2, 0, 4, 13, 40)
    assert mx.array_equal(state, operands[5])
    assert not mx.any(call(variant(length=0), operands[:5])[1])
    y, state = call(variant(batch=0), [x[:0] for x in drawn(variant())])
    assert (y.shape, state.shape) == ((0, 19, 4, 13), (0, 4, 13, 40))


@pytest.mark.slow
@pytest.mark.parametrize("every", [8, 16])
@pytest.mark.parametrize("kernel", FORWARD)
def test_states_after_each_few_tokens(kernel, every):
    problem = variant(every=every)
    operands = drawn(problem, 6)
    with tg.use_kernel(kernel):
        outputs = call(problem, operands)
    held(problem, operands, outputs)
    assert outputs[2].shape == (2, 19 // every, 4, 13, 40)
    for i in range(19 // every):
        head = [x[:, : (i + 1) * every] for x in operands]
        state = call(variant(length=head[0].shape[1]), head)[1]
        np.testing.assert_allclose(outputs[2][:, i], state, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kernel", FORWARD)
@pytest.mark.parametrize("name", ["q", "v"])
def test_what_is_infinite_is_not_seen_by_tokens_before_it(kernel, name):
    problem = variant()
    operands = drawn(problem)
    place = problem.operand_names.index(name)
    at = (mx.arange(19) == 12)[None, :, None, None]
    operands[place] = mx.where(at, float("inf"), operands[place])
    with tg.use_kernel(kernel):
        y, _ = call(problem, operands)
    finite = mx.all(mx.isfinite(y), axis=(0, 2, 3)).tolist()
    assert finite == [t != 12 if name == "q" else t < 12 for t in range(19)]


@pytest.mark.parametrize("kernel", FORWARD)
def test_gates_may_be_of_any_size_and_sign(kernel):
    problem = variant(length=11)
    operands = drawn(problem)
    operands[3:] = [3 * operands[3] - 1.5, 2 * operands[4] - 1]
    assert mx.any(operands[3] < 0)
    assert mx.any(operands[3] > 1)
    with tg.use_kernel(kernel):
        held(problem, operands, call(problem, operands))


@pytest.mark.slow
@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.parametrize("kernel", FORWARD)
def test_a_logarithm_of_nothing_forgets_the_state(kernel, vector):
    problem = variant(log_decay=True, vector_gate=vector)
    operands = drawn(problem)
    operands[3][:, 12] = -mx.inf
    with tg.use_kernel(kernel):
        y, _ = call(problem, operands)
        rest = replace(problem, length=7)
        alone, _ = call(rest, [x[:, 12:] for x in operands])
    np.testing.assert_allclose(y[:, 12:], alone, rtol=1e-5, atol=1e-6)
    assert mx.all(mx.isfinite(y))


def test_fewer_tokens_than_every():
    problem = variant(every=20)
    outputs = call(problem, drawn(problem))
    assert outputs[2].shape == (2, 0, 4, 13, 40)


EQUAL, RESETS = "equal keys", "strong resets"
HARD = [
    *((EQUAL, beta, decay) for beta in (0.999, 1.99) for decay in (0.9999, 0.97)),
    *((RESETS, 0.5, low) for low in (0.0, 1e-37, 1e-12)),
]


def hard(kind, beta, decay, length, batch=8, dim=64):
    """Return operands that some implementation or other has gone wrong on."""
    random = np.random.default_rng(8)
    q, k = random.standard_normal((2, batch, length, 1, dim))
    gamma = np.full((batch, length, 1), decay)
    if kind == EQUAL:
        k[:] = k[:, :1]
    else:
        gamma = np.where(random.random(gamma.shape) < 0.1, decay, 0.999)
    q, k = (x / np.sqrt((x * x).sum(-1, keepdims=True)) for x in (q, k))
    v = random.standard_normal((batch, length, 1, 16))
    arrays = (q, k, v, gamma, np.full(gamma.shape, beta))
    return [mx.array(x.astype(np.float32)) for x in arrays]


def recurrence(operands, keep=lambda state: state):
    """Return y and the state of the rule in float64, of a state that is kept so after a token."""
    q, k, v, gamma, beta = (np.array(x)[:, :, 0].astype(np.float64) for x in operands)
    state, rows = np.zeros((q.shape[0], 16, q.shape[2])), []
    for t in range(q.shape[1]):
        decay, rate = (x[:, t].reshape(len(x), 1, -1) for x in (gamma, beta))
        decayed, key = state * decay, k[:, t, None]
        missing = v[:, t, :, None] - (decayed * key).sum(axis=-1, keepdims=True)
        state = keep(decayed + rate * missing * key)
        rows.append(SCALE * (state * q[:, t, None]).sum(axis=-1))
    return np.stack(rows, axis=1)[:, :, None], state[:, None]


class Relative(NamedTuple):
    """Errors of sequences whose largest value is 1: their root mean square and the largest."""

    mean: float
    worst: float


def relative_errors(found, wanted):
    found, wanted = (np.array(x).reshape(len(x), -1) for x in (found, wanted))
    each = np.abs(found - wanted).max(axis=1) / np.abs(wanted).max(axis=1)
    return Relative(np.sqrt((each**2).mean()), each.max())


def hard_problem(queries, **dtypes):
    batch, length, heads, key_dim = queries.shape
    dims = {"key_heads": heads, "value_heads": heads, "key_dim": key_dim, "value_dim": 16}
    return variant(batch=batch, length=length, **dims, **dtypes)


def hard_errors(kernel, operands):
    """Return the errors of a kernel's y and state."""
    vector = operands[3].ndim == 4
    problem = replace(hard_problem(operands[0]), vector_gate=vector)
    with tg.use_kernel(kernel):
        return errors(call(problem, operands), operands)


def errors(found, operands):
    return [relative_errors(*pair) for pair in zip(found, recurrence(operands), strict=True)]


def rounded(state):
    return state.astype(np.float32).astype(np.float64)


def with_decays_of_elements(operands):
    q, k, v, gamma, beta = operands
    return [q, k, v, mx.broadcast_to(gamma[..., None], q.shape), beta]


@pytest.mark.slow
@pytest.mark.parametrize("length", [16, 96, 512])
@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.parametrize("kernel", FORWARD)
@pytest.mark.parametrize("case", HARD, ids=str)
def test_hard_cases_keep_float32(kernel, vector, case, length):
    """5e-7 of y, and of a state in chunks, or what rounding it once a token leaves if that is more.

    Token by token the state may have twice that.
    """
    operands = hard(*case, length=length)
    once = errors(recurrence(operands, rounded), operands)[1].mean
    if vector:
        operands = with_decays_of_elements(operands)
    y, state = hard_errors(kernel, operands)
    assert y.mean <= 5e-7
    assert case[1] > 1 or y.worst <= 5e-7
    if kernel == "delta_recurrent":
        assert state.mean <= max(5e-7, 1.75 * once)
    else:
        assert state.mean <= max(5e-7, once * vector)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["delta_chunk", "delta_scan"])
def test_decays_of_elements_that_stay_for_long(kernel):
    """What a chunk's decay of an element has lost in rounding adds up, if it is another's."""
    q, k, v, _, beta = hard(EQUAL, 0.999, 1.0, length=512)
    each = np.random.default_rng(3).random((8, 1, 1, 64))
    gamma = np.broadcast_to((1 - each / 1000).astype(np.float32), q.shape)
    operands = [q, k, v, mx.array(gamma), beta]
    y, state = hard_errors(kernel, operands)
    assert y.worst <= 5e-7
    # No more than a state that is rounded once a token loses.
    assert state.mean <= errors(recurrence(operands, rounded), operands)[1].mean


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("kernel", FORWARD)
def test_keys_that_repeat_for_some_tokens(kernel, normalize):
    """With decays of elements: runs within chunks and over their ends, resets and holes in them."""
    problem = variant(length=40, vector_gate=True, mask=True, state=True, normalize=normalize)
    q, k, v, gamma, beta, state, mask = drawn(problem, 8)
    starts = (0, 3, 4, 9, 10, 27, 37, 40)
    runs = [mx.repeat(k[:, a : a + 1], b - a, axis=1) for a, b in pairwise(starts)]
    gamma = 0.7 + 0.3 * gamma
    gamma[:, 21, :, 5] = 0
    mask[:, :9] = True
    mask[:, 21] = True
    operands = [q, mx.concatenate(runs, axis=1), v, gamma, 2 * beta, state, mask]
    with tg.use_kernel(kernel):
        held(problem, operands, call(problem, operands))
        # What a reset takes away is gone, however large it was.
        beta[:, :21] = 0
        outputs = []
        for factor in (0, 1e6):
            state[..., 5] *= factor
            state[..., 5] += factor
            outputs.append(call(problem, [*operands[:4], beta, state, mask]))
    (y, last), (after, end) = outputs
    np.testing.assert_allclose(after[:, 21:], y[:, 21:], rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(end, last, rtol=1e-5, atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.parametrize("dtype", [BFLOAT16, FLOAT16], ids=str)
@pytest.mark.parametrize("kernel", FORWARD)
def test_hard_cases_of_16_bits_are_rounded_once(kernel, dtype, vector):
    """Of values near 1 in float32, which bfloat16 would make 1: y is as exact as its dtype."""
    for case in ((EQUAL, 1.99, 0.999), (EQUAL, 0.999, 0.998), (RESETS, 0.5, 1e-37)):
        q, k, v, *gates = hard(*case, length=33, batch=2)
        operands = [*(x.astype(dtype.mlx) for x in (q, k, v)), *gates]
        if vector:
            operands = with_decays_of_elements(operands)
        problem = hard_problem(operands[0], q=dtype, k=dtype, v=dtype, y=dtype)
        problem = replace(problem, vector_gate=vector)
        exact, last = (
            one.value for one in family_of(problem).reference(problem, operands, (SCALE,))
        )
        with tg.use_kernel(kernel):
            y, state = (np.array(x.astype(mx.float32)) for x in call(problem, operands))
        own = dtype.unit_roundoff * np.abs(exact)
        assert (np.abs(y - exact) <= own + 1e-6 * np.abs(exact).max()).all()
        assert np.abs(state - last).max() <= 1e-6 * np.abs(last).max()


@pytest.mark.parametrize("vector", [False, True], ids=["head", "element"])
@pytest.mark.parametrize("mask", [False, True], ids=["all", "masked"])
def test_steps_of_a_gpu_are_those_of_a_cpu_in_fewer_kernels(monkeypatch, vector, mask):
    problem = variant(length=3, vector_gate=vector, mask=mask)
    tokens, state = fallback._prepared(
        problem, dict(zip(problem.operand_names, drawn(problem), strict=True))
    )
    monkeypatch.setattr(mlx_ops, "gated_delta_update", None)
    on_gpu, on_cpu = (fallback._update(problem, device) for device in (mx.gpu, mx.cpu))
    found, wanted = (mx.value_and_grad(total(one))(state, tokens) for one in (on_gpu, on_cpu))
    for one, other in zip(found, wanted, strict=True):
        assert mx.allclose(one, other, rtol=1e-5, atol=1e-6)
    counts = [graph_of(one(*tokens, state)).count("label") for one in (on_gpu, on_cpu)]
    assert counts[0] < 0.8 * counts[1]


def total(update):
    return lambda state, tokens: sum(x.sum() for x in update(*tokens, state))


def graph_of(outputs):
    graph = io.StringIO()
    mx.export_to_dot(graph, *outputs)
    return graph.getvalue()


def test_it_is_mlx_where_mlx_is_exact():
    problem = variant(state=True)
    operands = drawn(problem)
    wanted = mx.fast.gated_delta_update(*operands)
    with tg.use_backend("mlx"):
        got = tg.gated_delta_update(*operands)
    assert all(map(mx.array_equal, got, wanted))
    # MLX rounds a decay to the dtype of q; here it stays as it is.
    narrow = [x.astype(mx.bfloat16) for x in operands[:3]]
    near_one = mx.full(operands[3].shape, 0.999)
    _, ours = tg.gated_delta_update(*narrow, near_one, operands[4])
    _, exact = tg.gated_delta_update(*(x.astype(mx.float32) for x in narrow), near_one, operands[4])
    assert mx.array_equal(ours, exact)


def test_normalising_is_what_mlx_lm_does():
    problem = variant()
    q, k, *rest = drawn(problem)
    q, k = 3 * q, 5 * k
    size = 40**-0.5
    norm_q = size * size * mx.fast.rms_norm(q, None, 1e-6 / 40)
    norm_k = size * mx.fast.rms_norm(k, None, 1e-6 / 40)
    wanted = tg.gated_delta_update(norm_q, norm_k, *rest)
    for backend in ("emulator", "mlx"):
        with tg.use_backend(backend), tg.use_kernel("any"):
            got = tg.gated_delta_update(q, k, *rest, normalize=True)
        for a, b in zip(got, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q": (2, 19, 2)}, r"Expected q of four dimensions, .*, got \(2,19,2\)\."),
        ({"k": (2, 19, 2, 41)}, r"Expected k of shape \(2,19,2,40\)"),
        ({"v": (2, 18, 4, 13)}, r"Expected v of shape \(2,19,4,13\)"),
        ({"v": (2, 19, 3, 13)}, "multiple of those of q, got 3 and 2"),
        ({"gamma": (2, 19, 2)}, r"Expected gamma of shape \(2,19,4\)"),
        ({"gamma": (2, 19, 4, 41)}, r"Expected gamma of shape \(2,19,4,40\)"),
        ({"beta": (2, 19, 4, 1)}, r"Expected beta of shape \(2,19,4\)"),
        ({"initial_state": (2, 4, 40, 13)}, r"Expected initial_state of shape \(2,4,13,40\)"),
        ({"mask": (2, 19, 1)}, r"Expected mask of shape \(2,19\)"),
        ({"lengths": (2, 1)}, r"Expected lengths of shape \(2\)"),
    ],
)
def test_shapes_are_checked(changes, message):
    given = dict(zip(variant().operand_names, drawn(variant()), strict=True))
    arrays = {
        name: mx.zeros(shape, mx.int32 if name == "lengths" else mx.float32)
        for name, shape in changes.items()
    }
    with pytest.raises(ProblemError, match=rf"^\[gated_delta_update\] .*{message}"):
        tg.gated_delta_update(**{**given, **arrays})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q": [1.0]}, "Expected q to be an mlx.core.array, got list"),
        ({"beta": mx.zeros((2, 19, 4), mx.int32)}, "Expected beta of float32"),
        ({"lengths": mx.zeros((2,))}, "Expected integer lengths, got float32"),
        ({"every": 1.5}, "Expected every to be None or a whole number"),
        ({"log_decay": "yes"}, "Expected log_decay to be a bool"),
        ({"out_dtype": mx.int32}, "Expected a floating point out_dtype, got int32"),
        ({"scale": "1"}, "Expected scale to be a real number"),
    ],
)
def test_kinds_are_checked(changes, message):
    given = dict(zip(variant().operand_names, drawn(variant()), strict=True))
    with pytest.raises(DTypeError, match=rf"^\[gated_delta_update\] .*{message}"):
        tg.gated_delta_update(**{**given, **changes})


def test_every_is_positive():
    with pytest.raises(ProblemError, match="every to be None or at least 1, got 0"):
        call(variant(), drawn(variant()), every=0)


def test_a_forced_kernel_says_why_not():
    problem = variant(length=0)
    with (
        tg.use_kernel("delta_recurrent"),
        pytest.raises(IllegalKernelError, match="there is nothing to compute"),
    ):
        call(problem, drawn(problem))


def test_problems_go_into_files():
    for problem in (variant(), variant(mask=True, vector_gate=True, every=3, q=BFLOAT16)):
        assert from_plain(to_plain(problem, problem_types()), problem_types()) == problem
        assert f"batch 2, {problem.length} tokens" in str(problem)


def test_the_spelling():
    problem = parse("1x5x2x4x64x96:bf16,f32:vector")
    assert (problem.length, problem.key_dim, problem.value_dim) == (5, 64, 96)
    assert (problem.q, problem.gamma, problem.y) == (BFLOAT16, FLOAT32, BFLOAT16)
    assert problem.vector_gate
    assert problem.state
    assert not parse("1x5x2x4x64x96:f16:first").state
    for wrong in ("1x5x2x4x64", "1x5x2x4x64x96:f16:fast"):
        with pytest.raises(ProblemError, match="--gated-delta-update"):
            parse(wrong)


@pytest.mark.parametrize(
    ("text", "kernel"),
    [
        ("1x1x16x32x128x128:bf16,f32", "delta_recurrent"),
        ("1x16x16x32x128x128:bf16,f32", "delta_recurrent"),
        ("1x8x32x32x128x128:bf16,f32:vector", "delta_recurrent"),
        ("1x512x16x32x128x128:bf16,f32", "delta_scan"),
        ("1x512x32x32x128x128:bf16,f32:vector", "delta_scan"),
        ("1x2048x30x30x96x192:bf16,f32", "delta_scan"),
    ],
)
def test_the_choice(text, kernel):
    decision = choose(parse(text), chips.get("m4-max"), mlx_competes=True)
    assert decision.route == kernel
    assert decision.mlx is not None


def test_explain_says_what_serves_and_what_a_narrow_gate_loses():
    problem = variant(gamma=FLOAT16)
    operands = drawn(problem)
    found = tg.explain(tg.gated_delta_update, *operands, chip="m4")
    assert found.plan.kernel in FORWARD
    assert any("gamma is float16" in note for note in found.notes)
    assert any(f"{2 * 4 * 40 * 13 * 4} bytes" in note for note in found.notes)


@pytest.mark.parametrize("chip", ["m1", "m2-ultra", "m3-max", "m4-max", "m5-max"])
@pytest.mark.parametrize(
    ("text", "mask", "packed"),
    [
        ("1xTx16x32x128x128:bf16,f32", False, True),
        ("8xTx16x48x128x128:bf16,f32", True, False),
        ("1xTx96x96x128x128:bf16,f32:vector", False, False),
        ("1xTx30x30x96x192:bf16,f32", False, False),
    ],
)
def test_no_choice_is_slower_than_mlx_lms_own_kernel(chip, text, mask, packed):
    """As modelled, for models that mlx-lm's kernel is called by."""
    for tokens in (1, 4, 16, 24, 512, 2048):
        problem = replace(parse(text.replace("T", str(tokens))), mask=mask)
        rival = mlx_lm_kernel(problem, chips.get(chip))
        assert rival.path == "mlx-lm" + " for packed rows" * packed
        found = choose(problem, chips.get(chip), mlx_competes=True)
        times = {f"{one.kernel}/{one.config}": one.seconds for one in found.candidates}
        assert found.plan is None or times[str(found.plan)] <= rival.seconds
        assert found.plan is not None or found.mlx.seconds <= rival.seconds


def test_mlx_lms_own_kernel_has_no_other_rule():
    for changes in ({"key_dim": 40}, {"every": 8}, {"log_decay": True}, {"normalize": True}):
        problem = replace(variant(key_dim=64), **changes)
        assert mlx_lm_kernel(problem, chips.get("m4")) is None


@pytest.mark.parametrize(
    ("dim", "told"),
    [
        (128, None),
        (256, "its gradients take a head of v as 2 of 128 values each"),
        (512, "its gradients go through MLX's own ops: 69388 bytes of threadgroup memory"),
    ],
)
def test_explain_says_who_computes_gradients(dim, told):
    keys = tg.ArraySpec(shape=(1, 64, 8, dim), dtype=mx.bfloat16)
    gates = tg.ArraySpec(shape=(1, 64, 8), dtype=mx.float32)
    found = tg.explain("gated_delta_update", keys, keys, keys, gates, gates, chip="m4")
    assert found.plan is not None
    rival = "the kernel of mlx-lm for packed rows is modelled at"
    assert any(rival in one for one in found.notes) is (dim == 128)
    notes = [one for one in found.notes if "gradients" in one]
    assert [one.partition(" exceed")[0] for one in notes] == ([] if told is None else [told])

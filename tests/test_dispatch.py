"""Choice is total, legal, deterministic and says why."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mlx_tilegemm as tg
from mlx_tilegemm import dispatch
from mlx_tilegemm.assurance import variants
from mlx_tilegemm.core import render
from mlx_tilegemm.core.dtypes import BFLOAT16, FLOAT16, FLOAT32, FLOATS, INT8, INTEGERS
from mlx_tilegemm.core.plan import REGISTER_LIMIT, THREADGROUP_MEMORY_LIMIT
from mlx_tilegemm.errors import IllegalKernelError
from mlx_tilegemm.families.attention.problem import MaskKind, attention_problem
from mlx_tilegemm.families.gemm.kernels import gemm_simdgroup
from mlx_tilegemm.families.gemm.problem import gemm_problem
from mlx_tilegemm.machine import chips


def gemm(m, n, k, *, a=FLOAT16, b=FLOAT32, batch=(), **kwargs):
    options = {"transpose_a": False, "transpose_b": False} | kwargs
    return gemm_problem("matmul", a_shape=(*batch, m, k), b_shape=(k, n), a=a, b=b, **options)


def attention(*, q_len=33, kv_len=65, head_dim=64, value_dim=64, heads=(4, 2), **kwargs):
    options = {"softmax": True, "mask_kind": MaskKind.NONE} | kwargs
    return attention_problem(
        "attention_chain",
        q_shape=(2, heads[0], q_len, head_dim),
        k_shape=(2, heads[1], kv_len, head_dim),
        v_shape=(2, heads[1], kv_len, value_dim),
        q=FLOAT16,
        k=BFLOAT16,
        v=FLOAT32,
        **options,
    )


sizes = st.integers(0, 300)
floats = st.sampled_from(FLOATS)
gemm_problems = st.one_of(
    st.builds(gemm, sizes, sizes, sizes, a=floats, b=floats),
    st.builds(gemm, sizes, sizes, sizes, a=st.sampled_from(INTEGERS), b=st.sampled_from(INTEGERS)),
)
attention_problems = st.builds(
    attention,
    q_len=sizes,
    kv_len=sizes,
    head_dim=st.integers(1, 300),
    value_dim=st.integers(0, 300),
    softmax=st.booleans(),
    mask_kind=st.sampled_from((MaskKind.NONE, MaskKind.CAUSAL)),
)
any_chip = st.sampled_from(chips.CHIPS)


@given(problem=gemm_problems | attention_problems, chip=any_chip)
def test_the_choice_is_total_legal_and_deterministic(problem, chip):
    decision = dispatch.choose(problem, chip)
    assert decision.reason
    assert dispatch.choose.__wrapped__(problem, chip) == decision
    for candidate in decision.candidates:
        assert (candidate.reason is None) == (candidate.plan is not None)
        assert (candidate.reason is None) == (candidate.seconds is not None)
    legal = [one for one in decision.candidates if one.plan]
    assert (decision.plan is None) == (not legal)
    if decision.plan is not None:
        fastest = min(one.seconds for one in legal)
        chosen = next(one for one in legal if one.plan == decision.plan)
        assert chosen.seconds <= dispatch.RESOLUTION * fastest
        for earlier in legal[: legal.index(chosen)]:
            assert earlier.seconds > dispatch.RESOLUTION * fastest


@given(problem=gemm_problems | attention_problems, chip=any_chip)
def test_a_plan_fits_the_machine_and_covers_the_result(problem, chip):
    for candidate in dispatch.choose(problem, chip).candidates:
        if (plan := candidate.plan) is None:
            continue
        for stage in plan.stages:
            launch, resources = stage.launch, stage.resources
            assert resources.threadgroup_bytes <= THREADGROUP_MEMORY_LIMIT
            assert resources.registers < REGISTER_LIMIT
            threads = launch.threadgroup[0] * launch.threadgroup[1] * launch.threadgroup[2]
            assert threads == resources.threads
            assert threads % 32 == 0
            assert all(g % t == 0 for g, t in zip(launch.grid, launch.threadgroup, strict=True))
        assert candidate.seconds > 0


@given(problem=gemm_problems | attention_problems)
def test_no_kernel_means_mlx_with_the_reasons(problem):
    decision = dispatch.choose(problem, chips.DEFAULT)
    if decision.plan is None:
        assert decision.route == dispatch.MLX
        for candidate in decision.candidates:
            assert candidate.reason in decision.reason


def test_forcing_a_kernel_restricts_the_choice():
    problem = gemm(64, 64, 64)
    assert dispatch.choose(problem, chips.DEFAULT).route == "gemm_simdgroup"
    assert dispatch.choose(problem, chips.DEFAULT, "gemm_scalar").route == "gemm_scalar"
    forced = dispatch.choose(problem, chips.DEFAULT, "gemm_simdgroup/64x32x32-2x2-direct")
    assert str(forced.plan) == "gemm_simdgroup/64x32x32-2x2-direct"
    assert dispatch.choose(problem, chips.DEFAULT, "mlx").plan is None


@pytest.mark.parametrize(
    ("problem", "force", "reason"),
    [
        (gemm(8, 8, 8, a=INT8, b=INT8), "gemm_simdgroup", "simdgroup matrices hold floats"),
        (gemm(2, 2, 2), "gemm_simdgroup", "a has 4 elements"),
        (gemm(8, 0, 8), "gemm_scalar", "the result is empty"),
        (gemm(8, 8, 0), "gemm_scalar", "k is 0"),
        (gemm(8, 8, 8), "gemm_imaginary", "Expected a kernel among"),
        (gemm(8, 8, 8), "attention_chain", "Expected a kernel among"),
        (attention(head_dim=513), "attention_chain", "head_dim 513 is above 512"),
    ],
)
def test_forcing_an_illegal_kernel_raises_with_the_reason(problem, force, reason):
    with pytest.raises(IllegalKernelError, match=reason):
        dispatch.choose(problem, chips.DEFAULT, force)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"block_m": 60}, "block_m 60 is not a multiple"),
        ({"block_k": 12}, "block_k 12 is not a multiple of 8"),
        ({"block_m": 512, "block_n": 128}, "bytes of threadgroup memory exceed 32768"),
        ({"block_m": 128, "block_n": 128}, "registers a thread reach the limit of 128"),
        ({"simdgroups_m": 8, "simdgroups_n": 8}, "threads exceed the 1024"),
    ],
)
def test_each_limit_of_the_machine_refuses(change, reason):
    config = replace(next(gemm_simdgroup.candidates(None, chips.DEFAULT)), **change)
    problem = gemm(2048, 2048, 2048, a=FLOAT32, b=FLOAT32)
    assert reason in gemm_simdgroup.reject(problem, config, chips.DEFAULT)


def test_an_oversized_grid_is_refused():
    problem = gemm(8, 8, 8, batch=(), transpose_a=False)
    huge = replace(problem, n=2**31 - 8)
    assert "threads exceeds" in gemm_simdgroup.reject(
        huge, next(gemm_simdgroup.candidates(None, chips.DEFAULT)), chips.DEFAULT
    )


def test_sizes_beyond_int32_are_left_to_mlx():
    a = tg.ArraySpec(shape=(4, 2**29, 16), dtype=mx.float16)
    b = tg.ArraySpec(shape=(16, 8), dtype=mx.float32)
    explanation = tg.explain("matmul", a, b, chip="m3-ultra")
    assert explanation.problem.m == 2**31
    assert explanation.route == "mlx"
    assert "a size of 2147483648 exceeds 2147483647" in explanation.reason


ONE_CHIP_A_GENERATION = list({chip.generation: chip for chip in chips.CHIPS}.values())
LENGTHS = sorted({*range(1, 34), *range(64, 4097, 320), *range(65, 4097, 397)})
HANDFUL = 10


def kernel_names(plan):
    return {render.render(stage.spec).name for stage in plan.stages}


def names_for_prompts(chip, lengths):
    names = set()
    for m in lengths:
        problem = gemm(m, 4096, 4096, a=FLOAT32, b=BFLOAT16, transpose_b=True)
        names |= kernel_names(dispatch.choose(problem, chip).plan)
    return names


@pytest.mark.parametrize("chip", ONE_CHIP_A_GENERATION, ids=lambda chip: chip.name)
def test_prompts_of_any_length_need_a_handful_of_kernels(chip):
    assert len(names_for_prompts(chip, LENGTHS)) <= HANDFUL


@pytest.mark.slow
def test_prompts_of_every_length_need_a_handful_of_kernels():
    assert len(names_for_prompts(chips.DEFAULT, range(1, 4097))) <= HANDFUL


def test_attention_of_any_length_needs_a_handful_of_kernels():
    names = set()
    for length in LENGTHS:
        problem = attention(q_len=length, kv_len=length, mask_kind=MaskKind.CAUSAL)
        names |= kernel_names(dispatch.choose(problem, chips.DEFAULT).plan)
    assert len(names) <= HANDFUL


def test_a_shared_weight_folds_the_batch_into_rows():
    problem = gemm(5, 7, 9, batch=(2, 3))
    assert (problem.m, problem.batch) == (30, ())


def test_every_stage_has_its_template():
    for variant in variants.variants():
        for stage in variant.plan.stages:
            assert (render.TEMPLATES / stage.spec.template).is_file()

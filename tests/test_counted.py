"""What the cost model counts for a plan is what the emulator counts when the plan runs."""

from __future__ import annotations

import pytest

from mlx_tilegemm import chips, emulator
from mlx_tilegemm.backends import EmulatorBackend
from mlx_tilegemm.backends.launch import kernel_run
from mlx_tilegemm.dtypes import BFLOAT16, FLOAT16, FLOAT32
from mlx_tilegemm.emulator import Space
from mlx_tilegemm.kernels import attention_chain, gemm_simdgroup, gemv
from mlx_tilegemm.kernels.counts import AttentionTile, attention_work
from mlx_tilegemm.problem import MaskKind, attention_problem, gemm_problem
from mlx_tilegemm.verify import cases

CHIP = chips.get("m1-max")
GEMMS = {str(config): config for config in gemm_simdgroup.candidates(None, CHIP)}


def gemm(m, n, k, a=FLOAT16, b=FLOAT32, transpose_b=False):
    return gemm_problem(
        "test",
        a_shape=(m, k),
        b_shape=(n, k) if transpose_b else (k, n),
        a=a,
        b=b,
        transpose_a=False,
        transpose_b=transpose_b,
    )


def run(problem, plan):
    call = kernel_run(plan, EmulatorBackend(), last_is_scalar=False)
    with emulator.count() as launches:
        call(cases.operands(problem, cases.Data()), cases.factors(problem), None)
    (counted,) = launches
    return counted


def products(work):
    """The MMAs of a launch; work counts them in cycles."""
    return work.tiles * work.issue_cycles / CHIP.mma_cycles


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ("64x64x16-2x2-staged", gemm(128, 128, 48)),
        ("64x64x16-2x2-staged", gemm(70, 100, 40, FLOAT32, FLOAT16, True)),
        ("64x64x16-2x2-staged-double", gemm(128, 128, 48)),
        ("32x32x16-2x2-staged", gemm(96, 64, 64, FLOAT16, FLOAT16)),
        ("16x64x32-1x4-staged", gemm(16, 128, 96, BFLOAT16, BFLOAT16, True)),
    ],
    ids=str,
)
def test_staged_products(config, problem):
    config = GEMMS[config]
    work = gemm_simdgroup.work(problem, config, CHIP)
    counted = run(problem, gemm_simdgroup.plan(problem, config))
    assert counted.threadgroups == work.tiles
    assert counted.multiply_accumulates == products(work)
    threadgroup = counted.accesses.total(Space.THREADGROUP)
    assert threadgroup.bytes == work.tiles * work.threadgroup_bytes
    loaded = counted.accesses.total(Space.DEVICE, stores=False).bytes
    aligned = problem.m % config.block_m == 0 and problem.k % config.block_k == 0
    if aligned and problem.n % config.block_n == 0:
        assert loaded == work.tiles * work.cache_bytes
        assert threadgroup.conflicts == 0
        assert counted.threadgroup_bytes == work.threadgroup_memory
        barriers = work.waits + 1 if config.double_buffered else 2 * work.waits
        assert counted.threadgroup_barriers == work.tiles * barriers
    else:
        # The model rounds edges up to blocks; nothing is loaded for what is past them.
        assert loaded < work.tiles * work.cache_bytes


@pytest.mark.parametrize("config", ["32x32x16-2x2-direct", "16x64x32-1x4-direct"])
def test_direct_products(config):
    problem, config = gemm(64, 128, 64), GEMMS[config]
    work = gemm_simdgroup.work(problem, config, CHIP)
    counted = run(problem, gemm_simdgroup.plan(problem, config))
    assert counted.multiply_accumulates == products(work)
    loaded = counted.accesses.total(Space.DEVICE, stores=False).bytes
    assert loaded == work.tiles * work.fragment_bytes
    # What a threadgroup's lines hold is the shared cache's part.
    lines = counted.accesses.threadgroup_lines
    assert 128 * (lines["a"] + lines["b"]) == work.tiles * work.cache_bytes
    assert counted.accesses.total(Space.THREADGROUP).bytes == 0


@pytest.mark.parametrize("config", gemv.CONFIGS, ids=str)
def test_few_rows(config):
    problem = gemm(config.rows, 128, 512, FLOAT32, FLOAT16, True)
    work = gemv.work(problem, config, CHIP)
    counted = run(problem, gemv.plan(problem, config))
    loaded = counted.accesses.total(Space.DEVICE, stores=False).bytes
    assert loaded == work.tiles * (work.cache_bytes + work.vector_bytes)
    lines = counted.accesses.threadgroup_lines
    assert 128 * (lines["a"] + lines["b"]) == work.tiles * work.cache_bytes


@pytest.mark.parametrize("mask", [MaskKind.NONE, MaskKind.CAUSAL])
def test_attention(mask):
    problem = attention_problem(
        "test",
        q_shape=(1, 4, 128, 64),
        k_shape=(1, 2, 128, 64),
        v_shape=(1, 2, 128, 64),
        q=FLOAT16,
        k=FLOAT16,
        v=FLOAT32,
        softmax=True,
        mask_kind=mask,
    )
    config = next(
        one for one in attention_chain.candidates(problem, CHIP) if str(one) == "32x32-staged"
    )
    plan = attention_chain.plan(problem, config)
    resources = plan.stages[0].resources
    tile = AttentionTile(
        simdgroups=config.simdgroups,
        block_kv=config.block_kv,
        staged=config.staged,
        registers=resources.registers,
        threadgroup_memory=resources.threadgroup_bytes,
    )
    work = attention_work(problem, tile, CHIP)
    counted = run(problem, plan)
    assert counted.threadgroups == work.tiles
    assert counted.multiply_accumulates == products(work)
    threadgroup = counted.accesses.total(Space.THREADGROUP)
    assert threadgroup.bytes == work.tiles * work.threadgroup_bytes
    assert threadgroup.conflicts == 0
    rows = problem.q_elements * problem.q.bytes
    loaded = counted.accesses.total(Space.DEVICE, stores=False).bytes
    assert loaded == work.tiles * work.cache_bytes + rows

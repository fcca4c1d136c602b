"""What the cost model counts for a plan is what the emulator counts when the plan runs."""

from __future__ import annotations

import cases
import pytest

from mlx_tilegemm import emulator
from mlx_tilegemm.backends.emulator import EmulatorBackend
from mlx_tilegemm.backends.launch import kernel_run
from mlx_tilegemm.emulator import Space
from mlx_tilegemm.families.attention.kernels import attention_chain
from mlx_tilegemm.families.attention.spelling import parse as attention_spec
from mlx_tilegemm.families.attention.work import AttentionTile, attention_work
from mlx_tilegemm.families.gemm.kernels import gemm_simdgroup, gemv
from mlx_tilegemm.families.gemm.spelling import parse as matmul_spec
from mlx_tilegemm.families.quantized.kernels import quantized_gemm, quantized_gemv
from mlx_tilegemm.families.quantized.kernels import quantized_split_k as split_k
from mlx_tilegemm.families.quantized.spelling import parse as quantized_spec
from mlx_tilegemm.machine import chips

CHIP = chips.get("m1-max")
GEMMS = {str(config): config for config in gemm_simdgroup.candidates(None, CHIP)}


def run(problem, plan):
    call = kernel_run(problem, plan, EmulatorBackend())
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
        pytest.param(
            "64x64x16-2x2-staged", matmul_spec("128x128x48:f16,f32"), marks=pytest.mark.slow
        ),
        ("64x64x16-2x2-staged", matmul_spec("70x100x40:f32,f16:nt")),
        ("64x64x16-2x2-staged-double", matmul_spec("128x128x48:f16,f32")),
        ("32x32x16-2x2-staged", matmul_spec("96x64x64:f16")),
        ("16x64x32-1x4-staged", matmul_spec("16x128x96:bf16:nt")),
    ],
    ids=str,
)
def test_staged_products(config, problem):
    config = GEMMS[config]
    work = gemm_simdgroup.work(problem.product, config, CHIP)
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kernel", "config", "spelled"),
    [
        (quantized_gemv, "1x4-4", "1x64x1024:f16"),
        (quantized_gemv, "8x4-4", "8x64x1024:f16"),
        (quantized_gemm, "16x64-1x4", "16x128x1024:f16"),
        (quantized_gemm, "64x64-2x2", "64x128x1024:bf16,f16:affine8x64"),
    ],
    ids=str,
)
def test_quantized_products(kernel, config, spelled):
    problem = quantized_spec(spelled)
    config = next(one for one in kernel.CONFIGS if str(one) == config)
    work = kernel.work(problem, config, CHIP)
    counted = run(problem, kernel.plan(problem, config))
    assert counted.threadgroups == work.tiles
    lines = counted.accesses.threadgroup_lines
    read = sum(lines[name] for name in ("x", "w", "scales", "biases"))
    assert 128 * read == work.tiles * work.cache_bytes
    threadgroup = counted.accesses.total(Space.THREADGROUP)
    assert threadgroup.bytes == work.tiles * work.threadgroup_bytes
    if kernel is quantized_gemm:
        assert counted.multiply_accumulates == products(work)
        assert counted.threadgroup_bytes == work.threadgroup_memory


@pytest.mark.slow
def test_shares_of_a_quantized_product():
    problem = quantized_spec("16x128x1024:f16")
    config = next(one for one in split_k.CONFIGS if one.splits == 4)
    with emulator.count() as launches:
        call = kernel_run(problem, split_k.plan(problem, config), EmulatorBackend())
        call(cases.operands(problem, cases.Data()), cases.factors(problem), None)
    shares, adding = launches
    whole = quantized_gemm.work(problem, config.share, CHIP)
    assert shares.threadgroups == 4 * whole.tiles
    assert shares.multiply_accumulates == products(whole)
    assert adding.accesses.total(Space.DEVICE, stores=False).bytes == 4 * 4 * 16 * 128


@pytest.mark.parametrize("config", ["32x32x16-2x2-direct", "16x64x32-1x4-direct"])
def test_direct_products(config):
    problem, config = matmul_spec("64x128x64:f16,f32"), GEMMS[config]
    work = gemm_simdgroup.work(problem.product, config, CHIP)
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
    problem = matmul_spec(f"{config.rows}x128x512:f32,f16:nt")
    work = gemv.work(problem, config, CHIP)
    counted = run(problem, gemv.plan(problem, config))
    loaded = counted.accesses.total(Space.DEVICE, stores=False).bytes
    assert loaded == work.tiles * (work.cache_bytes + work.vector_bytes)
    lines = counted.accesses.threadgroup_lines
    assert 128 * (lines["a"] + lines["b"]) == work.tiles * work.cache_bytes


@pytest.mark.parametrize("mask", ["", ":causal"])
def test_attention(mask):
    problem = attention_spec("1x4x2x128x128x64:f16,f16,f32" + mask)
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
    rows = problem.nbytes("q")
    loaded = counted.accesses.total(Space.DEVICE, stores=False).bytes
    assert loaded == work.tiles * work.cache_bytes + rows

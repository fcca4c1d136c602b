"""Configurations of long steps, which only some chips are offered."""

import pytest

from mlx_tilegemm.families.attention.kernels import attention_decode
from mlx_tilegemm.families.attention.spelling import parse as attention_spec
from mlx_tilegemm.families.experts.kernels import expert_gemm
from mlx_tilegemm.families.experts.spelling import parse as experts_spec
from mlx_tilegemm.families.gemm.kernels import gemm_split_k
from mlx_tilegemm.families.gemm.spelling import parse as matmul_spec
from mlx_tilegemm.families.quantized.kernels import quantized_split_k
from mlx_tilegemm.families.quantized.spelling import parse as quantized_spec
from mlx_tilegemm.machine import chips

CASES = [
    (gemm_split_k, matmul_spec("16x4096x4096:f16,bf16:nt"), "16x64x128-1x4-staged-split8"),
    (gemm_split_k, matmul_spec("64x4096x4096:f32,bf16:nt"), "64x64x64-2x2-staged-split4"),
    (quantized_split_k, quantized_spec("32x4096x4096:bf16:affine4x64"), "32x64x64-1x4-split8"),
    (expert_gemm, experts_spec("64x8x128x768x2048:f16,bf16"), "8x64x128-1x4"),
    (attention_decode, attention_spec("1x32x8x1x4096x128:f16,bf16,bf16"), "32-1x2x4-split32"),
]


@pytest.mark.parametrize(("module", "problem", "config"), CASES, ids=[one[2] for one in CASES])
def test_they_are_for_chips_that_have_more_on_its_way(module, problem, config):
    """Copies go on in the background there, or a thread has registers for more of them."""
    problem = problem.stored()

    def offered(chip):
        found = module.KERNEL.candidates(problem, chip)
        return {str(one): module.KERNEL.reject(problem, one, chip) for one in found}

    assert offered(chips.NVIDIA)[config] is None
    assert not any(config in offered(chip) for chip in chips.CHIPS)


def test_a_share_is_of_whole_steps():
    problem = quantized_spec("16x64x1088:bf16:affine4x64").stored()
    found = {str(one): one for one in quantized_split_k.candidates(problem, chips.NVIDIA)}
    (share, _) = quantized_split_k.plan(problem, found["16x64x64-1x4-split8"]).stages
    assert (share.spec.split_k, share.launch.grid[2]) == (192, 6)
    short = quantized_spec("16x64x512:bf16:affine4x64").stored()
    reason = quantized_split_k.reject(short, found["16x64x64-1x4-split8"], chips.NVIDIA)
    assert reason == "k 512 is too short for 8 shares"

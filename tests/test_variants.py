"""The enumeration of all texts, over chips of which each may run but some of the kernels."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mlx_tilegemm.assurance import variants
from mlx_tilegemm.assurance.verify import Request, campaign, selected
from mlx_tilegemm.errors import IllegalKernelError, ProblemError
from mlx_tilegemm.families import all_kernels, kernel_named
from mlx_tilegemm.machine import chips

M4, M5 = chips.get("m4"), chips.get("m5")
KERNEL = kernel_named("gemm_simdgroup")


def neural(problem, config, chip):
    if not chip.neural_fma_per_cycle:
        return "it needs neural accelerators"
    return KERNEL.reject(problem, config, chip)


@pytest.fixture(autouse=True)
def anew():
    """Keep no enumeration of another test."""
    campaign._variants.cache_clear()
    yield
    campaign._variants.cache_clear()


def with_kernel(monkeypatch, reject):
    """Put a kernel that is rejected so in the place of one that any chip may run."""
    kernel = replace(KERNEL, name="gemm_neural", reject=reject)
    kernels = tuple(kernel if one is KERNEL else one for one in all_kernels())
    assert kernel in kernels
    for module in (variants, campaign):
        monkeypatch.setattr(module, "all_kernels", lambda: iter(kernels))
    return kernel


def specs(found):
    return {stage.spec for one in found for stage in one.plan.stages}


def test_a_kernel_for_few_chips_has_variants(monkeypatch):
    kernel = with_kernel(monkeypatch, neural)
    found = list(variants.variants())
    assert len(found) > 1000
    of_it = list(variants.variants_of(kernel, variants.COVERING))
    assert of_it
    assert {one.chip for one in of_it} == {M5}
    assert specs(of_it) < specs(found)


def test_a_kernel_that_no_chip_may_run_is_an_error(monkeypatch):
    with_kernel(monkeypatch, lambda problem, config, chip: "never")
    with pytest.raises(
        IllegalKernelError, match=r"on one of m4, m5, nvidia, got none of gemm_neural\.$"
    ):
        list(variants.variants())


def test_a_kernel_that_none_of_the_chips_named_may_run_is_an_error(monkeypatch):
    with_kernel(monkeypatch, neural)
    with pytest.raises(IllegalKernelError, match=r"on one of m4, got none of gemm_neural\.$"):
        list(variants.variants((M4,)))


def test_a_text_is_named_for_the_first_chip_that_may_run_it():
    first = list(variants.variants((M5, M4)))
    assert {one.chip for one in first} == {M5}
    assert specs(first) == specs(variants.variants((M4, M5)))


@pytest.mark.slow
def test_the_covering_chips_reach_every_text():
    every = (*chips.CHIPS, chips.NVIDIA)
    assert specs(variants.variants(every)) == specs(variants.variants())


@pytest.mark.parametrize(("chip", "left_out"), [(M4, ("gemm_neural",)), (M5, ())])
def test_a_gpu_runs_the_kernels_of_its_chip_alone(monkeypatch, chip, left_out):
    with_kernel(monkeypatch, neural)
    monkeypatch.setattr(chips, "detect", lambda: (chip, None))
    assert {one.chip for one in selected(Request(backend="metal"))} == {chip}
    assert campaign._left_out("metal") == left_out
    assert campaign._left_out("emulator") == ()


def test_a_kernel_asked_for_on_a_gpu_that_may_not_run_it_is_refused(monkeypatch):
    with_kernel(monkeypatch, neural)
    monkeypatch.setattr(chips, "detect", lambda: (M4, None))
    with pytest.raises(ProblemError, match="got 'gemm_neural'"):
        selected(Request(backend="metal", kernel="gemm_neural"))

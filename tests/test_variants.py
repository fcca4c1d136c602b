"""The enumeration of all texts, over chips of which each may run but some of the kernels."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from mlx_tilegemm.kernels import KERNELS, gemm_simdgroup
from mlx_tilegemm.verify import Request, campaign, selected

from mlx_tilegemm import chips, variants
from mlx_tilegemm.errors import IllegalKernelError, ProblemError

M4, M5 = chips.get("m4"), chips.get("m5")


def neural(problem, config, chip):
    if not chip.neural_fma_per_cycle:
        return "it needs neural accelerators"
    return gemm_simdgroup.reject(problem, config, chip)


def with_kernel(monkeypatch, reject):
    """Register a kernel that is rejected so, before all others."""
    fields = {"NAME": "gemm_neural", "reject": reject}
    kernel = SimpleNamespace(**{**vars(gemm_simdgroup), **fields})
    for module in (variants, campaign):
        monkeypatch.setattr(module, "KERNELS", (kernel, *KERNELS[1:]))
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
    with pytest.raises(IllegalKernelError, match=r"on one of m4, m5, got none of gemm_neural\.$"):
        list(variants.variants())


def test_a_kernel_that_none_of_the_chips_named_may_run_is_an_error(monkeypatch):
    with_kernel(monkeypatch, neural)
    with pytest.raises(IllegalKernelError, match=r"on one of m4, got none of gemm_neural\.$"):
        list(variants.variants((M4,)))


def test_a_text_is_named_for_the_first_chip_that_may_run_it():
    first = list(variants.variants((M5, M4)))
    assert {one.chip for one in first} == {M5}
    assert specs(first) == specs(variants.variants())


@pytest.mark.slow
def test_the_covering_chips_reach_every_text():
    assert specs(variants.variants(chips.CHIPS)) == specs(variants.variants())


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

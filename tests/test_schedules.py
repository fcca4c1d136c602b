"""Results and findings do not depend on the order of a run, its workers or where buffers start."""

from __future__ import annotations

import cases
import mlx.core as mx
import numpy as np
import pytest

from mlx_tilegemm import emulator
from mlx_tilegemm.assurance.mutation import unique_mutants
from mlx_tilegemm.assurance.mutation.campaign import _Mutated
from mlx_tilegemm.assurance.mutation.subjects import subjects
from mlx_tilegemm.assurance.verify import Request, selected
from mlx_tilegemm.backends import backend_named
from mlx_tilegemm.backends.launch import kernel_run
from mlx_tilegemm.core.render import render
from mlx_tilegemm.errors import KernelCheckError

SCHEDULES = [
    {"order": "forward", "workers": 1},
    {"order": "forward", "workers": 2, "misalign": True},
    {"order": "reverse", "workers": 1, "misalign": True},
    {"order": "reverse", "workers": 2},
    {"order": "random", "seed": 1, "workers": 2},
    {"order": "random", "seed": 2, "workers": 1, "misalign": True},
]
SAMPLE = selected(Request(backend="emulator", sample=16))
DATA = cases.Data(seed=5)


def bits(plan, problem, backend):
    run = kernel_run(problem, plan, backend)
    outputs = run(cases.operands(problem, DATA), cases.factors(problem), None)
    return [np.array(one.reshape(-1).view(mx.uint8)).tobytes() for one in outputs]


@pytest.mark.slow
@pytest.mark.parametrize("variant", SAMPLE, ids=str)
def test_results_are_the_same_bits_in_every_schedule(variant):
    seen = []
    for schedule in SCHEDULES:
        with emulator.settings(**schedule):
            seen.append(bits(variant.plan, variant.problem, backend_named("emulator")))
    assert all(one == seen[0] for one in seen)


PLANTED = [
    ("weaken-barrier", "threadgroup_barrier", "gemm/gemm_simdgroup.metal.j2"),
    ("weaken-barrier", "threadgroup_barrier", "gemm/gemm_scalar.metal.j2"),
    ("weaken-barrier", "threadgroup_barrier", "gemm/gemv.metal.j2"),
    ("delete-statement", "threadgroup_barrier", "attention/attention_chain.metal.j2"),
    ("delete-statement", "tile_fill(sum, 0.0f)", "gemm/gemm_simdgroup.metal.j2"),
    ("drop-conjunct", "row < m && column < N", "gemm/gemm_scalar.metal.j2"),
    ("shift-index", "out_block[", "gemm/gemm_simdgroup.metal.j2"),
    ("swap-axis", "threadgroup_position_in_grid.x", "attention/attention_chain.metal.j2"),
]


def planted(operator, original, template):
    """Return a kernel with a bug of ours, and a problem that shows it."""
    for ways in unique_mutants():
        mutant = ways[0].mutant
        same = (mutant.operator, mutant.template) == (operator, template)
        if same and original in mutant.original:
            return ways[0]
    raise LookupError((operator, original, template))


def findings(variation):
    """Return what is found in a kernel, by kind and line."""
    trial = subjects()[variation.subject].trials[0]
    original = render(trial.plan.stages[variation.stage].spec).name
    try:
        bits(trial.plan, trial.problem, _Mutated(original, variation.source))
    except KernelCheckError as error:
        return {(one.kind, one.file, one.line) for one in error.findings}
    return set()


@pytest.mark.slow
@pytest.mark.parametrize(("operator", "original", "template"), PLANTED)
def test_findings_are_the_same_in_every_schedule(operator, original, template):
    variation = planted(operator, original, template)
    seen = []
    for schedule in SCHEDULES:
        with emulator.settings(**schedule):
            seen.append(findings(variation))
    assert seen[0]
    for schedule, one in zip(SCHEDULES, seen, strict=True):
        assert one == seen[0], schedule

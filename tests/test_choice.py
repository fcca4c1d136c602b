"""What serves a call: the dispatcher's choice met with derivatives, measurements and proof."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from unittest import mock

import mlx.core as mx
import pytest
from fake_metal import ON_A_GPU, FakeMetal, fake_metal

import mlx_tilegemm as tg
from mlx_tilegemm.backends import backend_named
from mlx_tilegemm.call import choice
from mlx_tilegemm.call.choice import chosen
from mlx_tilegemm.dispatch import MLX, choose
from mlx_tilegemm.errors import IllegalKernelError
from mlx_tilegemm.families import kernel_named
from mlx_tilegemm.machine import chips

EMULATOR = backend_named("emulator")
CHIP = chips.detect()[0]


def stated(op, *arrays, **options):
    return tg.explain(op, *(tg.ArraySpec(shape=x, dtype=mx.float16) for x in arrays), **options)


ATTENTION = stated("attention_chain", (1, 4, 40, 64), (1, 2, 50, 64), (1, 2, 50, 32)).problem
LITERAL = stated(
    "attention_chain", (1, 4, 40, 64), (1, 2, 50, 64), (1, 2, 50, 32), softmax=False
).problem
PRODUCT = stated("matmul", (50, 40), (40, 24)).problem
FIRST = str(choose(ATTENTION, CHIP).plan)


def outputs(plan):
    return [name for stage in plan.stages for name in stage.spec.output_names]


class TestDerivatives:
    def test_a_call_with_derivatives_solves_the_problem_that_leaves_what_they_need(self):
        found = chosen(ATTENTION, EMULATOR)
        assert found.problem == replace(ATTENTION, return_lse=True)
        assert outputs(found.plan) == ["out", "lse"]
        assert str(found.plan) == FIRST
        without = chosen(ATTENTION, EMULATOR, gradients=False)
        assert without.problem == ATTENTION
        assert outputs(without.plan) == ["out"]
        assert without.plan == choose(ATTENTION, CHIP).plan

    @pytest.mark.parametrize("problem", [LITERAL, PRODUCT], ids=["chain", "product"])
    def test_where_they_need_nothing_it_solves_the_problem_itself(self, problem):
        found = chosen(problem, EMULATOR)
        assert (found.problem, found.plan) == (problem, choose(problem, CHIP).plan)

    def refusing(self, configs):
        """Refuse configurations of attention's kernels with the log-sum-exp alone."""

        self.refused = Counter()

        def named(name):
            kernel = kernel_named(name)

            def reject(problem, config, chip):
                if problem.return_lse and f"{name}/{config}" in configs:
                    self.refused[name] += 1
                    return "that is too much"
                return kernel.reject(problem, config, chip)

            return replace(kernel, reject=reject)

        return mock.patch.object(choice, "kernel_named", named)

    def test_what_may_not_solve_it_with_them_is_refused_with_the_reason(self):
        with self.refusing({FIRST}):
            found = chosen(ATTENTION, EMULATOR)
            assert str(found.plan) != FIRST
            assert outputs(found.plan) == ["out", "lse"]
            (refused,) = (x for x in found.decision.candidates if str(x) == FIRST)
            assert refused.reason == "with its derivatives, that is too much"
            assert str(chosen(ATTENTION, EMULATOR, gradients=False).plan) == FIRST
            assert str(chosen(ATTENTION, EMULATOR, force=FIRST, gradients=False).plan) == FIRST
            with pytest.raises(IllegalKernelError, match="with its derivatives, that is too much"):
                chosen(ATTENTION, EMULATOR, force=FIRST)

    def test_a_kernel_that_is_refused_several_times_is_not_asked_again(self):
        legal = {str(x) for x in choose(ATTENTION, CHIP).candidates if x.plan}
        with self.refusing(legal):
            found = chosen(ATTENTION, EMULATOR)
        assert found.plan is None
        assert found.decision.route == MLX
        assert found.problem == ATTENTION
        assert {str(x) for x in found.decision.candidates if x.reason is not None} >= legal
        assert set(self.refused.values()) == {choice.MAX_FAILURES}


class TestMeasurements:
    @pytest.mark.parametrize(
        ("backend", "options"),
        [
            (EMULATOR, {}),
            (backend_named("metal"), {}),
            (None, {}),
            (FakeMetal(), {"chip": chips.get("m1")}),
        ],
        ids=["emulator", "no Metal", "MLX", "another chip"],
    )
    def test_times_of_other_machines_do_not_count(self, monkeypatch, backend, options):
        monkeypatch.setattr(choice, "measured", mock.Mock(side_effect=AssertionError))
        monkeypatch.setattr(mx.metal, "is_available", lambda: False)
        chip = options.get("chip", CHIP)
        expected = choose(PRODUCT, chip, mlx_competes="chip" in options)
        assert chosen(PRODUCT, backend, **options).decision == expected

    def test_those_of_this_gpu_do(self):
        asked = []
        with (
            fake_metal("off") as metal,
            mock.patch.object(choice, "measured", lambda *given: asked.append(given)),
        ):
            chosen(PRODUCT, metal)
        assert asked == [(PRODUCT, CHIP)]


class TestRivals:
    def test_mlx_serves_where_it_is_faster_on_the_same_gpu(self):
        chip = chips.get("m5-max")
        large = stated("matmul", (4096, 4096), (4096, 4096)).problem
        assert choose(large, chip, mlx_competes=True).plan is None, "modelled to be faster"
        assert chosen(large, None, chip=chip).plan is None
        with (
            fake_metal("off") as metal,
            mock.patch.object(choice, "detect", return_value=(chip, None)),
        ):
            assert chosen(large, metal).plan is not None
            with mock.patch.object(metal, "capabilities", replace(ON_A_GPU, rivals_mlx=True)):
                assert chosen(large, metal).plan is None
                assert chosen(large, metal, force="any").plan is not None

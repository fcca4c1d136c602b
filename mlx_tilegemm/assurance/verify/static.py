"""Static checks of a variant's texts, which run without them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from ... import strict
from ...backends import Backend, Capabilities
from ...backends.launch import kernel_run
from ...backends.metal import mlx_kernel
from ...core.family import Data
from ...core.plan import Plan, Source
from ...core.problem import Problem
from ...families import family_of
from ...strict.lint import lint_source, lint_text
from ...strict.signature import Traced, argument, compare, trace
from ...strict.vocabulary import unknown_words


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedStage:
    """One kernel of a plan as MLX would send it to Metal.

    Attributes:
        source: The kernel as rendered.
        inputs: The arrays it was given.
        traced: What MLX made of the call.
    """

    source: Source
    inputs: tuple[mx.array, ...]
    traced: Traced


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticOutcome:
    """Outcome of the static checks.

    Attributes:
        findings: What is wrong.
        unchecked: What could not be looked at, and why.
        text_bytes: Size of the longest text.
    """

    findings: tuple[str, ...]
    unchecked: tuple[str, ...]
    text_bytes: int


class _Recorder(Backend):
    """A backend that runs nothing: every output is zero."""

    name = "recorder"
    capabilities = Capabilities(
        lazy=False,
        checks_launches=False,
        rivals_mlx=False,
        has_clock=False,
        compiles=False,
        parallel=True,
    )

    def __init__(self) -> None:
        self.stages: list[TracedStage] = []

    def compile(self, source: Source) -> Callable[..., list[mx.array]]:
        """Return a callable that records its call."""
        kernel = mlx_kernel(source)

        def record(**call: Any) -> list[mx.array]:  # noqa: ANN401 - passed on as they come
            call.pop("stream", None)
            traced = trace(kernel, call)
            self.stages.append(
                TracedStage(source=source, inputs=tuple(call["inputs"]), traced=traced)
            )
            shapes = zip(call["output_shapes"], call["output_dtypes"], strict=True)
            return [mx.zeros(shape, dtype) for shape, dtype in shapes]

        return record


def traced_stages(problem: Problem, plan: Plan) -> tuple[TracedStage, ...]:
    """Return every kernel of a problem's plan with the text that MLX generates for it."""
    recorder, family = _Recorder(), family_of(problem)
    run = kernel_run(problem, plan, recorder)
    run(family.draw(problem, Data()), family.trial_factors(problem), None)
    return tuple(recorder.stages)


def check_static(problem: Problem, plan: Plan) -> StaticOutcome:
    """Compile strictly, lint, compare signatures and look up every word of a plan's texts."""
    findings: list[str] = []
    unchecked: list[str] = []
    stages = traced_stages(problem, plan)
    for stage, planned in zip(stages, plan.stages, strict=True):
        text, name = stage.traced.text, stage.source.name
        inputs = [argument(array) for array in stage.inputs]
        found = [*lint_source(stage.source), *lint_text(text, name)]
        found += compare(stage.source, planned.launch, inputs, stage.traced)
        report = strict.check(text, name)
        found += report.findings
        if not report.checked:
            unchecked.append(f"strict compile and vocabulary: {report.tool}")
        else:
            try:
                found += unknown_words(report)
            except OSError as error:
                unchecked.append(f"vocabulary: {error}")
        findings += [str(one) for one in found]
    return StaticOutcome(
        findings=tuple(findings),
        unchecked=tuple(dict.fromkeys(unchecked)),
        text_bytes=max(len(stage.traced.text) for stage in stages),
    )

"""Every text the dispatcher can choose, with MLX's own version of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from enum import Enum
from functools import lru_cache
from itertools import combinations

import mlx.core as mx

from mlx_tilegemm.backends.launch import kernel_run, operand_names
from mlx_tilegemm.backends.metal import MetalBackend
from mlx_tilegemm.chips import CHIPS
from mlx_tilegemm.kernels.gemm import GemmSpec
from mlx_tilegemm.plan import Plan, Source, Spec, Stage
from mlx_tilegemm.problem import GemmProblem, Problem
from mlx_tilegemm.strict.signature import Argument, Traced, argument, trace
from mlx_tilegemm.variants import variants
from mlx_tilegemm.verify import cases


@dataclass(frozen=True, slots=True)
class Rendered:
    """One kernel of one plan as it reaches MLX."""

    stage: Stage
    source: Source
    inputs: tuple[Argument, ...]
    traced: Traced


class Recorder:
    """A backend that has MLX write the text of every call instead of running it."""

    name = "metal"

    def __init__(self):
        self.calls = []

    def compile(self, source: Source):
        kernel = MetalBackend().compile(source)

        def record(*, stream=None, **arguments):
            inputs = tuple(argument(array) for array in arguments["inputs"])
            self.calls.append((source, inputs, trace(kernel, arguments)))
            outputs = zip(arguments["output_shapes"], arguments["output_dtypes"], strict=True)
            return [mx.zeros(shape, dtype=dtype) for shape, dtype in outputs]

        return record


def operands(problem: Problem, plan: Plan) -> list[mx.array]:
    """Return arrays of the operands' sizes and dtypes."""
    if not isinstance(problem, GemmProblem):
        return cases.operands(problem, cases.Data())
    return [
        mx.zeros((getattr(problem, f"{name}_elements"),), dtype=getattr(problem, name).mlx)
        for name in operand_names(plan)
    ]


@lru_cache(maxsize=1)
def every_text() -> tuple[Rendered, ...]:
    """Return every distinct text of every chip, in order of enumeration."""
    found: dict[str, Rendered] = {}
    known: set[Spec] = set()
    for chip in CHIPS:
        for variant in variants(chip):
            specs = {stage.spec for stage in variant.plan.stages}
            if specs <= known:
                continue
            known |= specs
            for rendered in _calls(variant.problem, variant.plan):
                found.setdefault(rendered.source.name, rendered)
    return tuple(found.values())


def _calls(problem: Problem, plan: Plan) -> Iterator[Rendered]:
    recorder = Recorder()
    run = kernel_run(plan, recorder, last_is_scalar=False)
    run(operands(problem, plan), (1,) * len(plan.factors), None)
    for stage, call in zip(plan.stages, recorder.calls, strict=True):
        yield Rendered(stage, *call)


@lru_cache(maxsize=1)
def covering_texts() -> tuple[Rendered, ...]:
    """Return texts that hold every value of every field of a spec, and every pair of its flags."""
    seen: set[object] = set()
    chosen = []
    for rendered in every_text():
        new = _traits(rendered.stage.spec) - seen
        if new:
            seen |= new
            chosen.append(rendered)
    return tuple(chosen)


def _values(value: object) -> Iterator[tuple[str, object]]:
    """Yield the fields of a spec, and those of its configuration, by name."""
    for field in fields(value):
        one = getattr(value, field.name)
        if field.name == "config":
            yield from _values(one)
        else:
            yield field.name, one


def _traits(spec: Spec) -> set[object]:
    values = [*_values(spec)]
    if isinstance(spec, GemmSpec):
        values.append(("has_tail", spec.k % spec.block[2] != 0))
    flags = [(name, value) for name, value in values if isinstance(value, bool | Enum)]
    return {(spec.template, *one) for one in (*values, *combinations(flags, 2))}

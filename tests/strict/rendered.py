"""Every text the dispatcher can choose, with MLX's own version of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from enum import Enum
from functools import lru_cache
from itertools import combinations
from typing import Any, cast

import mlx.core as mx

from mlx_tilegemm.assurance.variants import variants
from mlx_tilegemm.backends import Executable
from mlx_tilegemm.backends.launch import kernel_run
from mlx_tilegemm.backends.metal import MetalBackend
from mlx_tilegemm.core.plan import Plan, Source, Spec, Stage
from mlx_tilegemm.core.problem import Problem
from mlx_tilegemm.families.gemm.spec import GemmSpec
from mlx_tilegemm.strict.signature import Argument, Traced, argument, trace


@dataclass(frozen=True, slots=True)
class Rendered:
    """One kernel of one plan as it reaches MLX."""

    stage: Stage
    source: Source
    inputs: tuple[Argument, ...]
    traced: Traced


class Recorder(MetalBackend):
    """Metal that has MLX write the text of every call instead of running it."""

    def __init__(self) -> None:
        self.calls: list[tuple[Source, tuple[Argument, ...], Traced]] = []

    def compile(self, source: Source) -> Executable:
        kernel = super().compile(source)

        def record(*, stream: object = None, **arguments: Any) -> list[mx.array]:
            inputs = tuple(argument(array) for array in arguments["inputs"])
            self.calls.append((source, inputs, trace(kernel, arguments)))
            outputs = zip(arguments["output_shapes"], arguments["output_dtypes"], strict=True)
            return [mx.zeros(shape, dtype=dtype) for shape, dtype in outputs]

        return record


def operands(problem: Problem) -> list[mx.array]:
    """Return arrays of the operands' sizes and dtypes."""
    return [mx.zeros(one.stored_shape, dtype=one.mlx) for one in problem.operands]


@lru_cache(maxsize=1)
def every_text() -> tuple[Rendered, ...]:
    """Return every distinct text, in order of enumeration."""
    found: dict[str, Rendered] = {}
    for variant in variants():
        for rendered in _calls(variant.problem, variant.plan):
            found.setdefault(rendered.source.name, rendered)
    return tuple(found.values())


def _calls(problem: Problem, plan: Plan) -> Iterator[Rendered]:
    recorder = Recorder()
    run = kernel_run(problem, plan, recorder)
    run(operands(problem), (1,) * len(problem.factors), None)
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
    """Yield the fields of a spec by name, and those of its configuration and of its problem."""
    for name in _names(value):
        one = getattr(value, name)
        if name in ("config", "text"):
            yield from _values(one)
        else:
            yield name, one


def _names(value: object) -> list[str]:
    """Return the names of the fields of a data class or of a tuple that has names."""
    named = getattr(value, "_fields", None)
    return list(named) if named else [one.name for one in fields(cast(Any, value))]


def _traits(spec: Spec) -> set[object]:
    values = [*_values(spec)]
    if isinstance(spec, GemmSpec):
        values.append(("has_tail", spec.text.k % spec.block[2] != 0))
    flags = [(name, value) for name, value in values if isinstance(value, bool | Enum)]
    return {(spec.template, *one) for one in (*values, *combinations(flags, 2))}

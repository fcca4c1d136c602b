"""The kernels of this project as this tool sees them; no other module here knows its inside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_tilegemm.assurance import tuning
from mlx_tilegemm.assurance.variants import variants
from mlx_tilegemm.backends.launch import kernel_run
from mlx_tilegemm.backends.metal import MetalBackend
from mlx_tilegemm.core.plan import Plan, Stage
from mlx_tilegemm.core.problem import Problem
from mlx_tilegemm.families.attention import spelling as attention
from mlx_tilegemm.families.attention.problem import (
    AttentionProblem,
    KeyValueGradientProblem,
    QueryGradientProblem,
)
from mlx_tilegemm.families.gemm import spelling as gemm
from mlx_tilegemm.machine import chips

from .dialect import Program, convert

_FLOATS = ("f16", "bf16", "f32", "f32,f16")
_PRODUCTS = (
    *(f"{size}:{kind}" for size in ("4096x4096x4096", "1000x1000x1000") for kind in _FLOATS),
    *(f"4096x4096x4096:{kind}:nt" for kind in _FLOATS),
    *(f"{size}:f16" for size in ("4000x4000x4096", "4096x4096x1000", "64x64x16384")),
    *(f"{rows}x4096x4096:{kind}:nt" for rows in (1, 4, 8) for kind in _FLOATS),
    *(f"1x4096x4096:{kind}" for kind in _FLOATS),
)
_HEADS = ("64", "80", "96", "128", "192x128", "256")
_ATTENTIONS = tuple(
    f"1x2x1x{rows}x{head}:{kind}:{mask}"
    for rows in ("64x64", "1x1024")
    for head in _HEADS
    for kind in ("f16", "f32", "f16,bf16,f32")
    for mask in ("none", "causal")
    if rows == "64x64" or mask == "none"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A text that dispatch can choose.

    Attributes:
        kernel: Name of its template.
        config: What it is tiled like. Where texts differ in nothing else, they are numbered.
        problem: The problem that it serves.
        program: The text.
        estimate: The project's own estimate of its registers.
        threadgroup_bytes: Threadgroup memory that the project counts for it, in bytes.
    """

    kernel: str
    config: str
    problem: str
    program: Program
    estimate: int
    threadgroup_bytes: int

    def __str__(self) -> str:
        return f"{self.kernel}/{self.config} {self.problem}"


def core_memory(chip: str) -> int:
    """Return the bytes of threadgroup memory that a core of a chip has."""
    return chips.get(chip).threadgroup_memory_bytes


def every_text(chip: str) -> Iterator[Text]:
    """Yield the texts that differ of all kernels: those of models' sizes first, then all variants.

    The latter serve small problems, which together reach every line of every template.

    Args:
        chip: Name of the chip that they are chosen for.
    """
    known: set[str] = set()
    names: dict[str, int] = {}
    for problem, plan in _plans(chip):
        for stage, program in _stages(problem, plan):
            if program.code in known:
                continue
            known.add(program.code)
            text = _text(problem, str(plan.config), stage, program)
            names[str(text)] = count = names.get(str(text), 0) + 1
            yield text if count == 1 else _text(problem, f"{plan.config}#{count}", stage, program)


def texts_of(spelled: str, chip: str, kernel: str = "") -> Iterator[Text]:
    """Yield the texts of every legal configuration for one problem, and for its gradients.

    Args:
        spelled: A product or an attention, as ``mlx-tilegemm tune`` takes them.
        chip: Name of the chip that they are chosen for.
        kernel: Only this ``kernel/config``.
    """
    for problem in _with_gradients(_spelled(spelled)):
        for candidate in tuning.legal(problem, chips.get(chip)):
            if candidate.plan is not None and kernel in ("", str(candidate.plan)):
                for stage, program in _stages(problem, candidate.plan):
                    yield _text(problem, str(candidate.plan.config), stage, program)


def _plans(chip: str) -> Iterator[tuple[Problem, Plan]]:
    for problem in _models():
        for candidate in tuning.legal(problem, chips.get(chip)):
            if candidate.plan is not None:
                yield problem, candidate.plan
    for variant in variants((chips.get(chip),)):
        yield variant.problem, variant.plan


def _models() -> Iterator[Problem]:
    for spelled in (*_PRODUCTS, *_ATTENTIONS):
        yield from _with_gradients(_spelled(spelled))


def _with_gradients(problem: Problem) -> Iterator[Problem]:
    """Yield a problem and, where queries are many, those of the gradients."""
    yield problem
    if isinstance(problem, AttentionProblem) and problem.q_len > 1:
        yield QueryGradientProblem(attention=problem)
        yield KeyValueGradientProblem(attention=problem)


def _spelled(text: str) -> Problem:
    sizes = text.partition(":")[0].count("x") + 1
    return gemm.parse(text) if sizes == 3 else attention.parse(text)


def _text(problem: Problem, config: str, stage: Stage, program: Program) -> Text:
    return Text(
        kernel=Path(stage.spec.template).name.partition(".")[0],
        config=config,
        problem=str(problem),
        program=program,
        estimate=stage.resources.registers,
        threadgroup_bytes=stage.resources.threadgroup_bytes,
    )


def _stages(problem: Problem, plan: Plan) -> Iterator[tuple[Stage, Program]]:
    """Yield each stage of a plan with the text that MLX makes of it."""
    texts: list[str] = []

    def record(event: dict[str, Any]) -> None:
        if event.get("name") == "CustomKernel":
            texts.append(event["arguments"][1])

    run = kernel_run(problem, plan, MetalBackend())
    factors = (1,) * len(problem.factors)
    operands = [mx.zeros(one.stored_shape, dtype=one.mlx) for one in problem.operands]
    mx.export_function(record, lambda *arrays: run(arrays, factors, None), *operands)
    for stage, text in zip(plan.stages, texts, strict=True):
        (program,) = convert(text)
        yield stage, program

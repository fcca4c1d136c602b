"""The kernels of this project as this tool sees them; no other module here knows its inside.

It also reads earlier commits of it, for a comparison with them: what they lack is asked for only
where it is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_tilegemm.assurance import tuning
from mlx_tilegemm.assurance.variants import variants
from mlx_tilegemm.backends.launch import kernel_run
from mlx_tilegemm.backends.metal import MetalBackend
from mlx_tilegemm.core.operand import Operand
from mlx_tilegemm.core.plan import Plan
from mlx_tilegemm.core.problem import Problem
from mlx_tilegemm.families import families
from mlx_tilegemm.families.attention import spelling as attention
from mlx_tilegemm.families.attention.problem import (
    AttentionProblem,
    KeyValueGradientProblem,
    QueryGradientProblem,
)
from mlx_tilegemm.families.gemm import spelling as gemm
from mlx_tilegemm.machine import chips

from .compiler import Bracket
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
_QUANTIZED = tuple(
    f"quantized-matmul={rows}x4096x4096:{kind}:{weight}"
    for rows in (1, 8, 512)
    for kind in ("f16", "bf16")
    for weight in ("affine4x64", "affine8x64", "mxfp4")
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
        metal: The complete Metal text.
        usual: Whether models have such problems; else it is one to try a variant with.
    """

    kernel: str
    config: str
    problem: str
    program: Program
    estimate: int
    threadgroup_bytes: int
    metal: str
    usual: bool

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
    for usual, problem, plan in _plans(chip):
        for text in _texts(problem, plan, usual):
            if text.program.code in known:
                continue
            known.add(text.program.code)
            names[str(text)] = count = names.get(str(text), 0) + 1
            yield text if count == 1 else replace(text, config=f"{plan.config}#{count}")


def texts_of(spelled: str, chip: str, kernel: str = "") -> Iterator[Text]:
    """Yield the texts of every legal configuration for one problem, and for its gradients.

    Args:
        spelled: A product or an attention, as ``mlx-tilegemm tune`` takes them; of another family
            after its option, as in ``experts=8x8x128x768x2048:f16``. After ``segments=`` it is a
            product whose k has eight segments.
        chip: Name of the chip that they are chosen for.
        kernel: Only this ``kernel/config``.
    """
    for problem in _with_gradients(_spelled(spelled)):
        for candidate in tuning.legal(problem, chips.get(chip)):
            if candidate.plan is not None and kernel in ("", str(candidate.plan)):
                yield from _texts(problem, candidate.plan, usual=True)


def _plans(chip: str) -> Iterator[tuple[bool, Problem, Plan]]:
    """Yield plans and their problems, and whether models have them."""
    for problem in _models():
        for candidate in tuning.legal(problem, chips.get(chip)):
            if candidate.plan is not None:
                yield True, problem, candidate.plan
    for variant in variants((chips.get(chip),)):
        yield False, variant.problem, variant.plan


def _models() -> Iterator[Problem]:
    for spelled in (*_PRODUCTS, *_ATTENTIONS, *_QUANTIZED):
        yield from _with_gradients(_spelled(spelled))
    for spelling in (family.spelling for family in families() if family.spelling):
        for spelled in spelling.standard:
            yield from _with_gradients(spelling.parse(spelled))


def _with_gradients(problem: Problem) -> Iterator[Problem]:
    """Yield a problem and, where queries are many, those of the gradients."""
    yield problem
    if isinstance(problem, AttentionProblem) and problem.q_len > 1:
        yield QueryGradientProblem(attention=problem)
        yield KeyValueGradientProblem(attention=problem)
    yield from _update_gradients(problem)


def _update_gradients(problem: Problem) -> Iterator[Problem]:
    """Yield the gradients of a gated delta update of several chunks."""
    # Imported here because earlier commits have no such family.
    from mlx_tilegemm.families.gated_delta.problem import (
        CHUNK,
        DeltaGradientProblem,
        DeltaProblem,
    )

    if isinstance(problem, DeltaProblem) and problem.length > CHUNK:
        kept = replace(problem, every=CHUNK, normalize=False, log_decay=False, state=True)
        yield DeltaGradientProblem(update=kept)


def _spelled(text: str) -> Problem:
    option, named, spelled = text.partition("=")
    if named:
        return _of_family(option, spelled)
    if "affine" in text:
        # Imported here because earlier commits have no such family.
        from mlx_tilegemm.families.quantized import spelling as quantized

        return quantized.parse(text)
    sizes = text.partition(":")[0].count("x") + 1
    return gemm.parse(text) if sizes == 3 else attention.parse(text)


def _of_family(option: str, text: str) -> Problem:
    if option == "segments":
        return _segments(text)
    spellings = {one.spelling.option: one.spelling for one in families() if one.spelling}
    found = spellings.get(f"--{option}")
    if found is None:
        raise ValueError(f"[agx] Expected the option of a family before '=', got {option!r}.")
    problem: Problem = found.parse(text)
    return problem


def _segments(text: str) -> Problem:
    """Return products of eight segments of k, spelled like one product."""
    from mlx_tilegemm.families.experts.problem import SegmentedProblem

    one = gemm.parse(text)
    return SegmentedProblem(
        m=one.m,
        n=one.n,
        k=one.k,
        segments=8,
        a=one.a,
        b=one.b,
        out=one.out,
        transpose_a=one.transpose_a,
        transpose_b=one.transpose_b,
        out_shape=(8, one.m, one.n),
    )


def _texts(problem: Problem, plan: Plan, usual: bool) -> Iterator[Text]:
    """Yield the text of each stage of a plan as MLX makes it."""
    texts: list[str] = []

    def record(event: dict[str, Any]) -> None:
        if event.get("name") == "CustomKernel":
            texts.append(event["arguments"][1])

    run = kernel_run(problem, plan, MetalBackend())
    factors = (1,) * len(problem.factors)
    operands = list(map(_zeros, problem.operands))
    mx.export_function(record, lambda *arrays: run(arrays, factors, None), *operands)
    for stage, text in zip(plan.stages, texts, strict=True):
        (program,) = convert(text)
        yield Text(
            kernel=Path(stage.spec.template).name.partition(".")[0],
            config=str(plan.config),
            problem=str(problem),
            program=program,
            estimate=stage.resources.registers,
            threadgroup_bytes=stage.resources.threadgroup_bytes,
            metal=text,
            usual=usual,
        )


def _zeros(operand: Operand) -> mx.array:
    if hasattr(operand, "stored_shape"):
        return mx.zeros(operand.stored_shape, dtype=operand.mlx)
    return mx.zeros(operand.shape, dtype=operand.dtype.mlx)


def keep(brackets: Iterable[tuple[Text, Bracket]]) -> int:
    """Write what the compiler makes of texts into the package; return how many there are.

    Raises:
        ValueError: Texts that it takes differently have one name.
    """
    from mlx_tilegemm.call.compiled import Compiled, identity, save

    entries: dict[str, Compiled] = {}
    for text, bracket in brackets:
        low, high = sorted((bracket.low.registers, bracket.high.registers))
        spills = bool(bracket.low.spills or bracket.high.spills)
        entry = Compiled(low=low, high=high, spills=spills)
        name = identity(text.metal)
        if entries.setdefault(name, entry) != entry:
            raise ValueError(f"[agx] Expected one text of the name {name}, got another.")
    save(entries)
    return len(entries)

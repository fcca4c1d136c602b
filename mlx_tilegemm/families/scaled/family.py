"""The family of products of scaled codes, as the rest of the library sees it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...core.arguments import ArraySpec
from ...core.context import current_settings, is_exact
from ...core.family import Data, Family, Op, Part, Subject
from ...core.kernel import load_kernels
from ...core.problem import Factors
from . import fallback, kernels, notes, ops, price, spelling
from .problem import ScaledProblem
from .request import scaled_request

if TYPE_CHECKING:
    import mlx.core as mx

    from ...core.family import Run
    from ...core.reference import Expected

ARRAYS = ("a", "b", "a_scales", "b_scales", "bias")
"""Names of all operands, in order."""


def _request(op: str, arrays: Mapping[str, ArraySpec], options: Mapping[str, Any]) -> ScaledProblem:
    names = ("a_format", "b_format", "block", "transpose_b", "out_dtype", "batch_invariant")
    return scaled_request(
        op,
        a=arrays["a"],
        b=arrays["b"],
        a_scales=arrays.get("a_scales"),
        b_scales=arrays.get("b_scales"),
        bias=arrays.get("bias"),
        **{name: options[name] for name in names},
        exact=is_exact(op, options["precision"], current_settings()),
    )


# References need NumPy, which is most of what `import mlx_tilegemm` may cost.
def _reference(
    problem: ScaledProblem, operands: Sequence[mx.array], factors: Factors
) -> tuple[Expected, ...]:
    from .reference import expected

    return expected(problem, operands, factors)


def _rounded(
    problem: ScaledProblem, operands: Sequence[mx.array], factors: Factors, roundoff: float
) -> tuple[Expected, ...]:
    from .reference import expected

    return expected(problem, operands, factors, roundoff)


def _draw(problem: ScaledProblem, data: Data) -> list[mx.array]:
    from .reference import draw_operands

    return draw_operands(problem, data)


def _part(
    problem: ScaledProblem,
    operands: Sequence[mx.array],
    outputs: Sequence[mx.array],
    rows: int,
) -> Part[ScaledProblem]:
    from .reference import part

    return part(problem, operands, outputs, rows)


def _subjects() -> Iterator[Subject[ScaledProblem]]:
    from .subjects import subjects

    return subjects()


def _fallback(problem: ScaledProblem) -> Run:
    return fallback.scaled(problem)


FAMILY: Family[ScaledProblem] = Family(
    name="scaled",
    problems={"scaled": ScaledProblem},
    kernels=load_kernels(kernels.__name__, kernels.KERNELS),
    ops=(Op(function=ops.fp8_scaled_matmul, arrays=ARRAYS, request=_request),),
    reference=_reference,
    rounded=_rounded,
    draw=_draw,
    part=_part,
    fallback=_fallback,
    price=price.price,
    multiplies_float32=fallback.multiplies_float32,
    notes=notes.notes,
    spelling=spelling.SPELLING,
    subjects=_subjects,
)

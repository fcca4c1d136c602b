"""The family of products with quantized weights, as the rest of the library sees it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...backends import Backend
from ...core.arguments import ArraySpec
from ...core.context import current_settings, is_exact
from ...core.family import Data, Family, Op, Part, Subject
from ...core.kernel import load_kernels
from ...core.problem import Factors
from . import fallback, kernels, notes, ops, price, spelling
from .gradients import ARRAYS, QuantizedRule
from .problem import QuantizedProblem
from .request import quantized_request

if TYPE_CHECKING:
    import mlx.core as mx

    from ...core.family import Rule, Run
    from ...core.reference import Expected


def _request(
    op: str, arrays: Mapping[str, ArraySpec], options: Mapping[str, Any]
) -> QuantizedProblem:
    names = ("transpose", "group_size", "bits", "mode", "out_dtype", "batch_invariant")
    return quantized_request(
        op,
        x=arrays["x"],
        w=arrays["w"],
        scales=arrays["scales"],
        biases=arrays.get("biases"),
        global_scale=arrays.get("global_scale"),
        bias=arrays.get("bias"),
        **{name: options[name] for name in names},
        exact=is_exact(op, options["precision"], current_settings()),
    )


# References need NumPy, which is most of what `import mlx_tilegemm` may cost.
def _reference(
    problem: QuantizedProblem, operands: Sequence[mx.array], factors: Factors
) -> tuple[Expected, ...]:
    from .reference import expected

    return expected(problem, operands, factors)


def _rounded(
    problem: QuantizedProblem, operands: Sequence[mx.array], factors: Factors, roundoff: float
) -> tuple[Expected, ...]:
    from .reference import expected

    # MLX's op rounds the weight to the type that it computes in.
    if not fallback.multiplies_float32(problem):
        roundoff = max(roundoff, problem.computed.unit_roundoff)
    return expected(problem, operands, factors, roundoff)


def _draw(problem: QuantizedProblem, data: Data) -> list[mx.array]:
    from .reference import draw_operands

    return draw_operands(problem, data)


def _part(
    problem: QuantizedProblem,
    operands: Sequence[mx.array],
    outputs: Sequence[mx.array],
    rows: int,
) -> Part[QuantizedProblem]:
    from .reference import part

    return part(problem, operands, outputs, rows)


def _subjects() -> Iterator[Subject[QuantizedProblem]]:
    from .subjects import subjects

    return subjects()


def _fallback(problem: QuantizedProblem) -> Run:
    return fallback.quantized(problem)


def _rule(problem: QuantizedProblem, backend: Backend) -> Rule:
    return QuantizedRule(problem=problem, backend=backend)


FAMILY: Family[QuantizedProblem] = Family(
    name="quantized",
    problems={"quantized": QuantizedProblem},
    kernels=load_kernels(kernels.__name__, kernels.KERNELS),
    ops=(Op(function=ops.quantized_matmul, arrays=ARRAYS, request=_request),),
    reference=_reference,
    rounded=_rounded,
    draw=_draw,
    part=_part,
    fallback=_fallback,
    price=price.price,
    multiplies_float32=fallback.multiplies_float32,
    rule=_rule,
    notes=notes.notes,
    spelling=spelling.SPELLING,
    subjects=_subjects,
)

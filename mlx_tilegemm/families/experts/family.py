"""The family of products with chosen matrices, as the rest of the library sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...backends import Backend
from ...core.arguments import ArraySpec
from ...core.context import current_settings, is_exact
from ...core.family import Data, Family, Op, Part, Subject
from ...core.kernel import load_kernels
from ...core.later import later
from ...core.problem import Factors
from . import kernels, ops, request, spelling
from .problem import AnyProblem, ExpertProblem, SegmentedProblem

if TYPE_CHECKING:
    import mlx.core as mx

    from ...core.family import Rule, Run
    from ...core.reference import Expected

    State = Callable[[str, Mapping[str, ArraySpec], Mapping[str, Any]], AnyProblem]


def _op(function: Callable[..., mx.array], arrays: tuple[str, ...], state: State) -> Op[AnyProblem]:
    def stated(op: str, given: Mapping[str, ArraySpec], options: Mapping[str, Any]) -> AnyProblem:
        return state(op, given, {**options, "exact": is_exact(op, None, current_settings())})

    return Op(function=function, arrays=arrays, request=stated)


# References need NumPy, which is most of what `import mlx_tilegemm` may cost.
def _reference(
    problem: AnyProblem, operands: Sequence[mx.array], factors: Factors
) -> tuple[Expected, ...]:
    from .reference import expected

    return expected(problem, operands, factors)


def _rounded(
    problem: AnyProblem, operands: Sequence[mx.array], factors: Factors, roundoff: float
) -> tuple[Expected, ...]:
    from .reference import expected

    # MLX's op rounds a quantized weight to the type that it computes in.
    if isinstance(problem, ExpertProblem) and problem.weight is not None:
        roundoff = max(roundoff, problem.computed.unit_roundoff)
    return expected(problem, operands, factors, roundoff)


def _draw(problem: AnyProblem, data: Data) -> list[mx.array]:
    from .reference import draw_operands

    return draw_operands(problem, data)


def _part(
    problem: AnyProblem,
    operands: Sequence[mx.array],
    outputs: Sequence[mx.array],
    rows: int,
) -> Part[AnyProblem]:
    from .reference import part

    return part(problem, operands, outputs, rows)


def _subjects() -> Iterator[Subject[AnyProblem]]:
    from .subjects import subjects

    return subjects()


def _fallback(problem: AnyProblem) -> Run:
    from ...call.transforms import transformable
    from .fallback import mlx_call

    # MLX's own ops lack some of these transforms, or pay more for them.
    return transformable(mlx_call(problem), _rule(problem, None))


def _rule(problem: AnyProblem, backend: Backend | None) -> Rule:
    from .gradients import ExpertRule, SegmentedRule

    if isinstance(problem, SegmentedProblem):
        return SegmentedRule(problem=problem, backend=backend)
    return ExpertRule(problem=problem, backend=backend)


FALLBACK = f"{__package__}.fallback"

_INDICES = ("lhs_indices", "rhs_indices")

FAMILY: Family[AnyProblem] = Family(
    name="experts",
    problems={"experts": ExpertProblem, "segmented": SegmentedProblem},
    kernels=load_kernels(kernels.__name__, kernels.KERNELS),
    ops=(
        _op(ops.gather_mm, ("a", "b", *_INDICES), request.gather_mm_request),
        _op(
            ops.gather_qmm,
            ("x", "w", "scales", "biases", *_INDICES, "global_scale"),
            request.gather_qmm_request,
        ),
        _op(ops.gather_fp8_mm, ("x", "w", "scales", *_INDICES), request.gather_fp8_request),
        _op(ops.grouped_matmul, ("a", "b", "offsets", "bias"), request.grouped_request),
        _op(ops.segmented_mm, ("a", "b", "segments"), request.segmented_request),
    ),
    reference=_reference,
    rounded=_rounded,
    draw=_draw,
    part=_part,
    fallback=_fallback,
    price=later(f"{__package__}.price", "price"),
    multiplies_float32=later(FALLBACK, "multiplies_float32"),
    rule=_rule,
    notes=later(f"{__package__}.notes", "notes"),
    spelling=spelling.SPELLING,
    subjects=_subjects,
)

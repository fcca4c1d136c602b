"""The family of gated delta updates, as the rest of the library sees it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...core.arguments import ArraySpec, as_number
from ...core.family import Data, Family, Op, Subject
from ...core.kernel import load_kernels
from ...core.problem import Factors
from . import kernels, ops, spelling
from .problem import DeltaGradientProblem, DeltaProblem
from .request import delta_request

if TYPE_CHECKING:
    import mlx.core as mx

    from ...backends import Backend, Route
    from ...core.family import Rule, Run
    from ...core.reference import Expected
    from ...dispatch import Decision
    from ...machine.chips.record import Chip
    from ...machine.price import Price

AnyProblem = DeltaProblem | DeltaGradientProblem

ARRAYS = ("q", "k", "v", "gamma", "beta", "initial_state", "mask", "lengths")


def _request(op: str, arrays: Mapping[str, ArraySpec], options: Mapping[str, Any]) -> DeltaProblem:
    as_number(op, "scale", options["scale"])
    names = ("log_decay", "normalize", "every", "out_dtype")
    return delta_request(op, **arrays, **{name: options[name] for name in names})


# References need NumPy, which is most of what `import mlx_tilegemm` may cost.
def _reference(
    problem: AnyProblem, operands: Sequence[mx.array], factors: Factors
) -> tuple[Expected, ...]:
    from . import gradient_reference, reference

    if isinstance(problem, DeltaProblem):
        return reference.expected(problem, operands, factors)
    return gradient_reference.expected(problem, operands, factors)


def _draw(problem: AnyProblem, data: Data) -> list[mx.array]:
    from .reference import draw

    return draw(problem, data)


def _subjects() -> Iterator[Subject[AnyProblem]]:
    from .subjects import subjects

    return subjects()


def _trial_factors(problem: AnyProblem) -> Factors:
    return (0.75,)


def _fallback(problem: AnyProblem) -> Run | None:
    """Return MLX's own ops; of gradients MLX has none that start from what kernels left."""
    from .fallback import delta

    return delta(problem) if isinstance(problem, DeltaProblem) else None


def _stepwise(problem: AnyProblem) -> bool:
    return True


def _price(problem: AnyProblem, chip: Chip) -> Price | None:
    from .price import price

    return price(problem, chip) if isinstance(problem, DeltaProblem) else None


def _rule(problem: AnyProblem, backend: Backend | None) -> Rule | None:
    from .gradients import DeltaRule

    if not isinstance(problem, DeltaProblem):
        return None
    return DeltaRule(problem=problem, backend=backend)


def _notes(problem: AnyProblem, decision: Decision, route: Route, chip: Chip) -> list[str]:
    from .notes import notes

    return notes(problem, decision, route, chip) if isinstance(problem, DeltaProblem) else []


FAMILY: Family[AnyProblem] = Family(
    name="gated_delta",
    problems={
        "gated delta": DeltaProblem,
        "gradients of gated delta": DeltaGradientProblem,
    },
    kernels=load_kernels(kernels.__name__, kernels.KERNELS),
    ops=(Op(function=ops.gated_delta_update, arrays=ARRAYS, request=_request),),
    reference=_reference,
    draw=_draw,
    trial_factors=_trial_factors,
    fallback=_fallback,
    price=_price,
    stepwise=_stepwise,
    rule=_rule,
    notes=_notes,
    spelling=spelling.SPELLING,
    subjects=_subjects,
)

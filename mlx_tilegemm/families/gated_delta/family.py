"""The family of gated delta updates, as the rest of the library sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...backends import Backend
from ...core.arguments import ArraySpec, as_number
from ...core.family import Data, Family, Op
from ...core.kernel import load_kernels
from ...core.problem import Factors
from . import fallback, kernels, notes, ops, price, spelling
from .gradients import DeltaRule
from .problem import DeltaProblem
from .request import delta_request

if TYPE_CHECKING:
    import mlx.core as mx

    from ...core.family import Rule, Run
    from ...core.reference import Expected

ARRAYS = ("q", "k", "v", "gamma", "beta", "initial_state", "mask", "lengths")


def _request(op: str, arrays: Mapping[str, ArraySpec], options: Mapping[str, Any]) -> DeltaProblem:
    as_number(op, "scale", options["scale"])
    names = ("log_decay", "normalize", "every", "out_dtype")
    return delta_request(op, **arrays, **{name: options[name] for name in names})


# References need NumPy, which is most of what `import mlx_tilegemm` may cost.
def _reference(
    problem: DeltaProblem, operands: Sequence[mx.array], factors: Factors
) -> tuple[Expected, ...]:
    from .reference import expected

    return expected(problem, operands, factors)


def _draw(problem: DeltaProblem, data: Data) -> list[mx.array]:
    from .reference import draw

    return draw(problem, data)


def _trial_factors(problem: DeltaProblem) -> Factors:
    return (0.75,)


def _fallback(problem: DeltaProblem) -> Run:
    return fallback.delta(problem)


def _rule(problem: DeltaProblem, backend: Backend) -> Rule:
    return DeltaRule(problem=problem, backend=backend)


FAMILY: Family[DeltaProblem] = Family(
    name="gated_delta",
    problems={"gated delta": DeltaProblem},
    kernels=load_kernels(kernels.__name__, kernels.KERNELS),
    ops=(Op(function=ops.gated_delta_update, arrays=ARRAYS, request=_request),),
    reference=_reference,
    draw=_draw,
    trial_factors=_trial_factors,
    fallback=_fallback,
    price=price.price,
    rule=_rule,
    notes=notes.notes,
    spelling=spelling.SPELLING,
)

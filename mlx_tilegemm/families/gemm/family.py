"""The family of matrix products, as the rest of the library sees it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...backends import Backend
from ...core.arguments import ArraySpec, as_number
from ...core.context import current_settings, is_exact
from ...core.family import Data, Family, Op, Part, Subject
from ...core.kernel import load_kernels
from ...core.problem import Factors
from . import fallback, kernels, notes, ops, price, spelling
from .gradients import ProductRule
from .problem import GemmProblem
from .request import elsewhere, gemm_request

if TYPE_CHECKING:
    import mlx.core as mx

    from ...core.family import Rule, Run
    from ...core.reference import Expected


def _request(
    op: str, arrays: Mapping[str, ArraySpec], options: Mapping[str, Any]
) -> GemmProblem | None:
    alpha, beta = (as_number(op, name, options.get(name, 1)) for name in ("alpha", "beta"))
    return gemm_request(
        op,
        a=arrays["a"],
        b=arrays["b"],
        c=arrays.get("c"),
        transpose_a=options["transpose_a"],
        transpose_b=options["transpose_b"],
        out_dtype=options["out_dtype"],
        scaled=alpha != 1,
        no_product=alpha == 0,
        no_addend=beta == 0,
        batch_invariant=options["batch_invariant"],
        exact=is_exact(op, options["precision"], current_settings()),
    )


def _elsewhere(arrays: Mapping[str, ArraySpec], options: Mapping[str, Any]) -> str:
    return elsewhere(arrays, options.get("alpha", 1) == 0)


# References need NumPy, which is most of what `import mlx_tilegemm` may cost.
def _reference(
    problem: GemmProblem, operands: Sequence[mx.array], factors: Factors
) -> tuple[Expected, ...]:
    from .reference import expected

    return expected(problem, operands, factors)


def _rounded(
    problem: GemmProblem, operands: Sequence[mx.array], factors: Factors, roundoff: float
) -> tuple[Expected, ...]:
    from .reference import expected

    return expected(problem, operands, factors, roundoff)


def _draw(problem: GemmProblem, data: Data) -> list[mx.array]:
    from .reference import draw

    return draw(problem, data)


def _part(
    problem: GemmProblem, operands: Sequence[mx.array], outputs: Sequence[mx.array], rows: int
) -> Part[GemmProblem]:
    from .reference import part

    return part(problem, operands, outputs, rows)


def _subjects() -> Iterator[Subject[GemmProblem]]:
    from .subjects import subjects

    return subjects()


def _trial_factors(problem: GemmProblem) -> Factors:
    # Powers of two: they leave exact sums exact.
    alpha, beta = (3, -2) if problem.is_integer else (0.5, -2.0)
    return (alpha if problem.scaled else 1, beta)


def _fallback(problem: GemmProblem) -> Run:
    return fallback.gemm(problem)


def _rule(problem: GemmProblem, backend: Backend) -> Rule:
    return ProductRule(problem=problem, backend=backend)


FAMILY: Family[GemmProblem] = Family(
    name="gemm",
    problems={"gemm": GemmProblem},
    kernels=load_kernels(kernels.__name__, kernels.KERNELS),
    ops=(
        Op(function=ops.matmul, arrays=("a", "b"), request=_request, elsewhere=_elsewhere),
        Op(function=ops.addmm, arrays=("a", "b", "c"), request=_request, elsewhere=_elsewhere),
    ),
    reference=_reference,
    rounded=_rounded,
    draw=_draw,
    trial_factors=_trial_factors,
    part=_part,
    fallback=_fallback,
    price=price.price,
    multiplies_float32=fallback.multiplies_float32,
    rule=_rule,
    notes=notes.notes,
    spelling=spelling.SPELLING,
    subjects=_subjects,
)

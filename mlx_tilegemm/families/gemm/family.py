"""The family of matrix products, as the rest of the library sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...core.arguments import ArraySpec, as_number
from ...core.context import current_settings, is_exact
from ...core.family import Family, Op
from ...core.kernel import load_kernels
from ...core.later import later
from ...core.problem import Factors
from . import kernels, ops, spelling
from .problem import GemmProblem
from .request import elsewhere, gemm_request


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


def _trial_factors(problem: GemmProblem) -> Factors:
    # Powers of two: they leave exact sums exact.
    alpha, beta = (3, -2) if problem.is_integer else (0.5, -2.0)
    return (alpha if problem.scaled else 1, beta)


FALLBACK, REFERENCE = f"{__package__}.fallback", f"{__package__}.reference"

FAMILY: Family[GemmProblem] = Family(
    name="gemm",
    problems={"gemm": GemmProblem},
    kernels=load_kernels(kernels.__name__, kernels.KERNELS),
    ops=(
        Op(function=ops.matmul, arrays=("a", "b"), request=_request, elsewhere=_elsewhere),
        Op(function=ops.addmm, arrays=("a", "b", "c"), request=_request, elsewhere=_elsewhere),
    ),
    reference=later(REFERENCE, "expected"),
    rounded=later(REFERENCE, "expected"),
    draw=later(REFERENCE, "draw"),
    trial_factors=_trial_factors,
    part=later(REFERENCE, "part"),
    fallback=later(FALLBACK, "gemm"),
    price=later(f"{__package__}.price", "price"),
    multiplies_float32=later(FALLBACK, "multiplies_float32"),
    rule=later(f"{__package__}.gradients", "ProductRule"),
    notes=later(f"{__package__}.notes", "notes"),
    spelling=spelling.SPELLING,
    subjects=later(f"{__package__}.subjects", "subjects"),
)

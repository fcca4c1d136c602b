"""The family of products with quantized weights, as the rest of the library sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...core.arguments import ArraySpec
from ...core.context import current_settings, is_exact
from ...core.family import Family, Op
from ...core.kernel import load_kernels
from ...core.later import later
from ...core.problem import Factors
from . import kernels, ops, spelling
from .problem import ARRAYS, QuantizedProblem
from .request import quantized_request

if TYPE_CHECKING:
    import mlx.core as mx

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


def _rounded(
    problem: QuantizedProblem, operands: Sequence[mx.array], factors: Factors, roundoff: float
) -> tuple[Expected, ...]:
    from .fallback import multiplies_float32
    from .reference import expected

    # MLX's op rounds the weight to the type that it computes in.
    if not multiplies_float32(problem):
        roundoff = max(roundoff, problem.computed.unit_roundoff)
    return expected(problem, operands, factors, roundoff)


FALLBACK, REFERENCE = f"{__package__}.fallback", f"{__package__}.reference"

FAMILY: Family[QuantizedProblem] = Family(
    name="quantized",
    problems={"quantized": QuantizedProblem},
    kernels=load_kernels(kernels.__name__, kernels.KERNELS),
    ops=(Op(function=ops.quantized_matmul, arrays=ARRAYS, request=_request),),
    reference=later(REFERENCE, "expected"),
    rounded=_rounded,
    draw=later(REFERENCE, "draw_operands"),
    part=later(REFERENCE, "part"),
    fallback=later(FALLBACK, "quantized"),
    price=later(f"{__package__}.price", "price"),
    multiplies_float32=later(FALLBACK, "multiplies_float32"),
    rule=later(f"{__package__}.gradients", "QuantizedRule"),
    notes=later(f"{__package__}.notes", "notes"),
    spelling=spelling.SPELLING,
    subjects=later(f"{__package__}.subjects", "subjects"),
)

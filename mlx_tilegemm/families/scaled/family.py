"""The family of products of scaled codes, as the rest of the library sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...core.arguments import ArraySpec
from ...core.context import current_settings, is_exact
from ...core.family import Family, Op
from ...core.kernel import load_kernels
from ...core.later import later
from . import kernels, ops, spelling
from .problem import ScaledProblem
from .request import scaled_request

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


FALLBACK, REFERENCE = f"{__package__}.fallback", f"{__package__}.reference"

FAMILY: Family[ScaledProblem] = Family(
    name="scaled",
    problems={"scaled": ScaledProblem},
    kernels=load_kernels(kernels.__name__, kernels.KERNELS),
    ops=(Op(function=ops.fp8_scaled_matmul, arrays=ARRAYS, request=_request),),
    reference=later(REFERENCE, "expected"),
    rounded=later(REFERENCE, "expected"),
    draw=later(REFERENCE, "draw_operands"),
    part=later(REFERENCE, "part"),
    fallback=later(FALLBACK, "scaled"),
    price=later(f"{__package__}.price", "price"),
    multiplies_float32=later(FALLBACK, "multiplies_float32"),
    rule=later(f"{__package__}.gradients", "ScaledRule"),
    notes=later(f"{__package__}.notes", "notes"),
    spelling=spelling.SPELLING,
    subjects=later(f"{__package__}.subjects", "subjects"),
)

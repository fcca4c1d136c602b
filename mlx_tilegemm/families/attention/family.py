"""The family of chained attentions, as the rest of the library sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...core.arguments import ArraySpec, as_number
from ...core.context import current_settings, is_exact
from ...core.family import Family, Op
from ...core.kernel import load_kernels
from ...core.later import later
from ...core.problem import Factors
from . import kernels, ops, spelling
from .problem import AttentionProblem, KeyValueGradientProblem, QueryGradientProblem
from .request import attention_request

if TYPE_CHECKING:
    from ...backends import Backend, Route
    from ...core.family import Rule, Run
    from ...dispatch import Decision
    from ...machine.chips.record import Chip
    from ...machine.price import Price

AnyProblem = AttentionProblem | QueryGradientProblem | KeyValueGradientProblem


def _request(
    op: str, arrays: Mapping[str, ArraySpec], options: Mapping[str, Any]
) -> AttentionProblem:
    if options["scale"] is not None:
        as_number(op, "scale", options["scale"])
    return attention_request(
        op,
        q=arrays["q"],
        k=arrays["k"],
        v=arrays["v"],
        softmax=options["softmax"],
        mask=arrays.get("mask", options["mask"]),
        window=options["window"],
        sinks=arrays.get("sinks"),
        q_pe=arrays.get("q_pe"),
        k_pe=arrays.get("k_pe"),
        return_lse=options["return_lse"],
        out_dtype=options["out_dtype"],
        exact=is_exact(op, options["precision"], current_settings()),
    )


def _trial_factors(problem: AnyProblem) -> Factors:
    p = problem if isinstance(problem, AttentionProblem) else problem.attention
    return ((p.head_dim + p.pe_dim) ** -0.5 if p.softmax else 0.5,)


def _fallback(problem: AnyProblem) -> Run | None:
    """Return MLX's own ops; of gradients MLX has none that start from what our kernels left."""
    from .fallback import attention

    return attention(problem) if isinstance(problem, AttentionProblem) else None


def _price(problem: AnyProblem, chip: Chip) -> Price | None:
    """Return a price; MLX computes gradients from what its own forward pass kept."""
    from .price import price_attention

    return price_attention(problem, chip) if isinstance(problem, AttentionProblem) else None


def _always(problem: AnyProblem) -> bool:
    """Return that the weights, or the scores of a literal chain, are float32."""
    return True


def _differentiable(problem: AnyProblem) -> AnyProblem:
    from .gradients import with_row_operands

    return with_row_operands(problem) if isinstance(problem, AttentionProblem) else problem


def _rule(problem: AnyProblem, backend: Backend | None) -> Rule | None:
    from .gradients import AttentionRule

    if not isinstance(problem, AttentionProblem):
        return None
    return AttentionRule(problem=problem, backend=backend)


def _notes(problem: AnyProblem, decision: Decision, route: Route, chip: Chip) -> list[str]:
    from .notes import notes

    return notes(problem, decision, route, chip) if isinstance(problem, AttentionProblem) else []


REFERENCE = f"{__package__}.reference"

FAMILY: Family[AnyProblem] = Family(
    name="attention",
    problems={
        "attention": AttentionProblem,
        "gradient of q": QueryGradientProblem,
        "gradient of k and v": KeyValueGradientProblem,
    },
    kernels=load_kernels(kernels.__name__, kernels.KERNELS),
    ops=(
        Op(
            function=ops.attention_chain,
            arrays=("q", "k", "v", "q_pe", "k_pe", "mask", "sinks"),
            request=_request,
        ),
    ),
    reference=later(REFERENCE, "expected"),
    rounded=later(REFERENCE, "expected"),
    draw=later(REFERENCE, "draw"),
    trial_factors=_trial_factors,
    part=later(REFERENCE, "part"),
    fallback=_fallback,
    price=_price,
    multiplies_float32=_always,
    differentiable=_differentiable,
    rule=_rule,
    notes=_notes,
    spelling=spelling.SPELLING,
    subjects=later(f"{__package__}.subjects", "subjects"),
)

"""Notes on an attention's call, for `explain`."""

from __future__ import annotations

from ...backends import Route
from ...core.context import current_settings
from ...dispatch import Decision, choose
from ...machine.chips.record import Chip
from .fused import compute_type, is_fused
from .fused_backward import joined_problem
from .price import serves_attention
from .problem import (
    AttentionProblem,
    KeyValueGradientProblem,
    MaskKind,
    QueryGradientProblem,
)


def notes(problem: AttentionProblem, decision: Decision, route: Route, chip: Chip) -> list[str]:
    """Return what else is worth knowing about an attention's call."""
    on_kernel = decision.plan is not None and route.backend is not None
    fused_by_mlx = (
        serves_attention(problem, chip)
        if decision.mlx_competes
        else is_fused(problem, compute_type(problem))
    )
    found = []
    if not on_kernel and not fused_by_mlx:
        score_bytes = 4 * problem.batch * problem.num_heads * problem.q_len * problem.kv_len
        found.append(f"MLX's ops hold all scores in memory: {score_bytes} bytes")
    if problem.softmax and _may_have_empty_rows(problem):
        empty = "that of their sink" if problem.sinks else "-inf"
        found.append(f"rows with nothing to attend to are 0, their log-sum-exp {empty}")
    if on_kernel and current_settings().gradients:
        found += _gradient_notes(problem, chip)
    return found


_WRITTEN = "written for the gradients; not inside `with use_gradients(False):`"


def _gradient_notes(problem: AttentionProblem, chip: Chip) -> list[str]:
    joined = joined_problem(problem)
    query = choose(QueryGradientProblem(attention=joined), chip)
    key_value = choose(KeyValueGradientProblem(attention=joined), chip)
    if query.plan is None or key_value.plan is None:
        refused = query if query.plan is None else key_value
        return [f"gradients go to MLX's own ops: {refused.reason}"]
    found = [f"gradients of q, k and v: {query.plan} and {key_value.plan}"]
    if problem.pe_dim:
        found.append("for the gradients, q_pe and k_pe are copied next to q and k")
    if "norm" in problem.row_operands:
        found.append(f"the rows' highest scores and sums are {_WRITTEN}")
    elif problem.softmax and not problem.return_lse:
        found.append(f"the log-sum-exp is {_WRITTEN}")
    if problem.mask_kind is MaskKind.ADDITIVE:
        found.append(
            "the gradient of the mask, if asked for, goes through MLX's ops and all scores"
        )
    return found


def _may_have_empty_rows(problem: AttentionProblem) -> bool:
    if problem.mask_kind is MaskKind.CAUSAL:
        return problem.q_len > problem.kv_len
    return problem.mask_kind is not MaskKind.NONE

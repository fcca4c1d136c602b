"""Requests: gated delta updates that Python arguments ask for."""

from __future__ import annotations

import mlx.core as mx

from ...core.arguments import ArraySpec, as_flag, as_whole, float_out_row, float_row
from ...core.dtypes import mlx_name
from ...errors import DTypeError
from .problem import DeltaProblem, delta_problem


def delta_request(
    op: str,
    *,
    q: ArraySpec,
    k: ArraySpec,
    v: ArraySpec,
    gamma: ArraySpec,
    beta: ArraySpec,
    initial_state: ArraySpec | None = None,
    mask: ArraySpec | None = None,
    lengths: ArraySpec | None = None,
    log_decay: object = False,
    normalize: object = False,
    every: object = None,
    out_dtype: object = None,
) -> DeltaProblem:
    """State the update that arrays and options ask for; each is as of the op.

    Raises:
        ProblemError: Shapes or options that do not fit together.
        DTypeError: Dtypes that no update takes.
    """
    operands = {"q": q, "k": k, "v": v, "gamma": gamma, "beta": beta}
    dtypes = {name: float_row(op, name, spec.dtype) for name, spec in operands.items()}
    if initial_state is not None:
        float_row(op, "initial_state", initial_state.dtype)
    if lengths is not None and not mx.issubdtype(lengths.dtype, mx.integer):
        raise DTypeError(f"[{op}] Expected integer lengths, got {mlx_name(lengths.dtype)}.")
    out = float_out_row(op, out_dtype, mx.result_type(q.dtype, k.dtype, v.dtype))
    given = {"initial_state": initial_state, "mask": mask, "lengths": lengths}
    arrays = {**operands, **{name: one for name, one in given.items() if one is not None}}
    return delta_problem(
        op,
        shapes={name: one.shape for name, one in arrays.items()},
        dtypes={**dtypes, "y": out},
        log_decay=as_flag(op, "log_decay", log_decay),
        normalize=as_flag(op, "normalize", normalize),
        every=None if every is None else as_whole(op, "every", every),
    )

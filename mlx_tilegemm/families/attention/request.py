"""Requests: attentions that Python arguments ask for."""

from __future__ import annotations

from numbers import Integral

import mlx.core as mx

from ...core.arguments import ArraySpec, kind_name, out_row
from ...core.dtypes import DType, Kind, from_mlx, mlx_name
from ...errors import DTypeError, ProblemError
from .problem import AttentionProblem, MaskKind, attention_problem


def attention_request(
    op: str,
    *,
    q: ArraySpec,
    k: ArraySpec,
    v: ArraySpec,
    softmax: bool = True,
    mask: ArraySpec | str | None = None,
    window: object = None,
    sinks: ArraySpec | None = None,
    q_pe: ArraySpec | None = None,
    k_pe: ArraySpec | None = None,
    return_lse: bool = False,
    out_dtype: object = None,
) -> AttentionProblem:
    """State the attention that its operands and options ask for.

    Raises:
        ProblemError: Shapes or options that do not fit together, or an unknown mask name.
        DTypeError: Dtypes that attention does not take.
    """
    array_mask = mask if isinstance(mask, ArraySpec) else None
    return attention_problem(
        op,
        q_shape=q.shape,
        k_shape=k.shape,
        v_shape=v.shape,
        q=_float_row(op, "q", q.dtype),
        k=_float_row(op, "k", k.dtype),
        v=_float_row(op, "v", v.dtype),
        softmax=bool(softmax),
        mask_kind=_mask_kind(op, mask),
        mask_shape=array_mask.shape if array_mask else None,
        mask=from_mlx(array_mask.dtype) if array_mask else None,
        return_lse=bool(return_lse),
        out=out_row(op, out_dtype),
        window=_whole_window(op, window),
        sinks_shape=sinks.shape if sinks else None,
        sinks=_float_row(op, "sinks", sinks.dtype) if sinks else None,
        q_pe_shape=q_pe.shape if q_pe else None,
        q_pe=_float_row(op, "q_pe", q_pe.dtype) if q_pe else None,
        k_pe_shape=k_pe.shape if k_pe else None,
        k_pe=_float_row(op, "k_pe", k_pe.dtype) if k_pe else None,
    )


def _whole_window(op: str, window: object) -> int | None:
    if window is None:
        return None
    if isinstance(window, bool) or not isinstance(window, Integral):
        raise DTypeError(
            f"[{op}] Expected window to be None or a whole number, got {kind_name(window)}."
        )
    return int(window)


def _float_row(op: str, name: str, dtype: mx.Dtype) -> DType:
    row = from_mlx(dtype)
    if row is None or row.kind is not Kind.FLOAT:
        raise DTypeError(
            f"[{op}] Expected {name} of float32, float16 or bfloat16, got {mlx_name(dtype)}."
        )
    return row


def _mask_kind(op: str, mask: ArraySpec | str | None) -> MaskKind:
    if mask is None:
        return MaskKind.NONE
    if isinstance(mask, str):
        if mask != "causal":
            raise ProblemError(
                f"[{op}] Expected mask to be None, 'causal' or an array, got {mask!r}."
            )
        return MaskKind.CAUSAL
    row = from_mlx(mask.dtype)
    if row is None or row.kind is Kind.INTEGER:
        raise DTypeError(
            f"[{op}] Expected a mask of bool (True keeps) or of float32, float16 or bfloat16 "
            f"(added to the scores), got {mlx_name(mask.dtype)}."
        )
    return MaskKind.BOOLEAN if row.kind is Kind.BOOL else MaskKind.ADDITIVE

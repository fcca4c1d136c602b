"""Requests: attentions that Python arguments ask for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import mlx.core as mx

from ...core.arguments import ArraySpec, as_flag, as_whole, out_row
from ...core.dtypes import MLX_FLOATS, DType, Kind, from_mlx, mlx_name
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
    exact: bool = False,
) -> AttentionProblem:
    """State the attention that its operands and options ask for, as `taken` has the operands.

    Raises:
        ProblemError: Shapes or options that do not fit together, or an unknown mask name.
        DTypeError: Dtypes that attention does not take.
    """
    array_mask = mask if isinstance(mask, ArraySpec) else None
    given = {"q": q, "k": k, "v": v, "q_pe": q_pe, "k_pe": k_pe, "mask": array_mask, "sinks": sinks}
    arrays = taken({name: spec for name, spec in given.items() if spec is not None})
    q, k, v = arrays["q"], arrays["k"], arrays["v"]
    array_mask, sinks = arrays.get("mask"), arrays.get("sinks")
    q_pe, k_pe = arrays.get("q_pe"), arrays.get("k_pe")
    return attention_problem(
        op,
        q_shape=q.shape,
        k_shape=k.shape,
        v_shape=v.shape,
        q=_float_row(op, "q", q.dtype),
        k=_float_row(op, "k", k.dtype),
        v=_float_row(op, "v", v.dtype),
        softmax=as_flag(op, "softmax", softmax),
        mask_kind=_mask_kind(op, array_mask or mask),
        mask_shape=array_mask.shape if array_mask else None,
        mask=from_mlx(array_mask.dtype) if array_mask else None,
        return_lse=as_flag(op, "return_lse", return_lse),
        out=out_row(op, out_dtype),
        window=None if window is None else as_whole(op, "window", window),
        sinks_shape=sinks.shape if sinks else None,
        sinks=_float_row(op, "sinks", sinks.dtype) if sinks else None,
        q_pe_shape=q_pe.shape if q_pe else None,
        q_pe=_float_row(op, "q_pe", q_pe.dtype) if q_pe else None,
        k_pe_shape=k_pe.shape if k_pe else None,
        k_pe=_float_row(op, "k_pe", k_pe.dtype) if k_pe else None,
        exact=exact,
    )


def taken(given: Mapping[str, ArraySpec]) -> dict[str, ArraySpec]:
    """Return the operands as kernels take them, by name; those that differ have to be made.

    As in MLX, integers and bools beside floats are promoted, and an integer mask is added. Heads of
    no elements, whose scores are all 0, become heads of one that is 0.
    """
    arrays = dict(given)
    operands = [spec.dtype for name, spec in given.items() if name not in ("mask", "sinks")]
    promoted = mx.result_type(*operands)
    for name, spec in given.items():
        if mx.issubdtype(spec.dtype, mx.inexact) or (name == "mask" and spec.dtype == mx.bool_):
            continue
        if name == "mask":
            arrays[name] = replace(spec, dtype=mx.float32)
        elif promoted in MLX_FLOATS:
            arrays[name] = replace(spec, dtype=promoted)
    if given["q"].shape[3:] == given["k"].shape[3:] == (0,):
        for name in ("q", "k"):
            arrays[name] = replace(arrays[name], shape=(*given[name].shape[:3], 1))
    return arrays


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

"""From Python arguments to problems: every check of argument kinds, for ops and explain alike.

What a problem itself can check (shapes, dtypes that do not go together) is checked there.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real

import mlx.core as mx

from .dtypes import DTYPES, DType, Kind, from_mlx, mlx_name
from .errors import DTypeError, ProblemError
from .problem import (
    AttentionProblem,
    GemmProblem,
    MaskKind,
    Shape,
    attention_problem,
    gemm_problem,
)

Number = int | float

MAX_SIZE = 2**31 - 1
"""Of an axis; MLX holds sizes as int32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArraySpec:
    """The shape and dtype of an array, without the array.

    Attributes:
        shape: Size of every axis.
        dtype: The MLX dtype of the elements.

    Raises:
        ProblemError: No array has such a shape.
    """

    shape: Shape
    dtype: mx.Dtype

    def __post_init__(self) -> None:
        if not all(isinstance(size, Integral) and 0 <= size <= MAX_SIZE for size in self.shape):
            shape = ",".join(str(size) for size in self.shape)
            raise ProblemError(f"[shape] Expected sizes from 0 to {MAX_SIZE}, got ({shape}).")
        # Of NumPy's integers, which lack methods of Python's.
        object.__setattr__(self, "shape", tuple(int(size) for size in self.shape))


def as_array(op: str, name: str, value: object) -> mx.array:
    """Return ``value`` as an array: one already, or an object with ``__mlx_array__``.

    Raises:
        DTypeError: Anything else; nothing is converted silently.
    """
    if isinstance(value, mx.array):
        return value
    convert = getattr(value, "__mlx_array__", None)
    array = convert() if callable(convert) else None
    if isinstance(array, mx.array):
        return array
    raise DTypeError(
        f"[{op}] Expected {name} to be an mlx.core.array, got {_kind_name(value)}; "
        f"mx.array({name}) makes one."
    )


def as_spec(op: str, name: str, value: object) -> ArraySpec:
    """Return the shape and dtype of an array, or of anything that states both as MLX does."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if isinstance(dtype, mx.Dtype) and shape is not None:
        return ArraySpec(shape=tuple(shape), dtype=dtype)
    array = as_array(op, name, value)
    return ArraySpec(shape=array.shape, dtype=array.dtype)


def as_number(op: str, name: str, value: object) -> Number:
    """Return ``value``, a real Python or NumPy number, as an int or a float.

    Raises:
        DTypeError: Anything else, a bool included.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise DTypeError(f"[{op}] Expected {name} to be a real number, got {_kind_name(value)}.")
    return value if isinstance(value, int) else float(value)


def _kind_name(value: object) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def gemm_request(
    op: str,
    *,
    a: ArraySpec,
    b: ArraySpec,
    c: ArraySpec | None = None,
    transpose_a: bool = False,
    transpose_b: bool = False,
    out_dtype: object = None,
    scaled: bool = False,
    batch_invariant: bool = False,
) -> GemmProblem | None:
    """State the product that ``a``, ``b`` and ``c`` ask for.

    Returns:
        The problem, or None when an operand is complex64 or float64, which MLX's own op serves.

    Raises:
        ProblemError: Shapes that do not fit together.
        DTypeError: Dtypes that do not go together or that no op takes.
    """
    operands = {"a": a, "b": b} | ({} if c is None else {"c": c})
    if any(spec.dtype in _WIDE for spec in operands.values()):
        _check_no_out_dtype(op, out_dtype)
        return None
    rows = {name: _row(op, name, spec.dtype) for name, spec in operands.items()}
    return gemm_problem(
        op,
        a_shape=a.shape,
        b_shape=b.shape,
        a=rows["a"],
        b=rows["b"],
        transpose_a=bool(transpose_a),
        transpose_b=bool(transpose_b),
        c_shape=None if c is None else c.shape,
        c=rows.get("c"),
        out=_out_row(op, out_dtype),
        scaled=scaled,
        batch_invariant=bool(batch_invariant),
    )


_WIDE = (mx.complex64, mx.float64)


def _check_no_out_dtype(op: str, out_dtype: object) -> None:
    if out_dtype is not None:
        raise DTypeError(
            f"[{op}] Expected out_dtype None for complex64 and float64 operands, got "
            f"{mlx_name(out_dtype)}; cast the result instead."
        )


def _row(op: str, name: str, dtype: mx.Dtype) -> DType:
    row = from_mlx(dtype)
    if row is None:
        known = ", ".join(row.name for row in DTYPES if row.kind is not Kind.BOOL)
        raise DTypeError(
            f"[{op}] Expected {name} of {known}, complex64 or float64, got {mlx_name(dtype)}."
        )
    return row


def _out_row(op: str, out_dtype: object) -> DType | None:
    if out_dtype is None:
        return None
    row = from_mlx(out_dtype) if isinstance(out_dtype, mx.Dtype) else None
    if row is None:
        got = mlx_name(out_dtype) if isinstance(out_dtype, mx.Dtype) else repr(out_dtype)
        raise DTypeError(
            f"[{op}] Expected out_dtype to be None, float32, float16, bfloat16 or, for integers, "
            f"int32 of mlx.core, got {got}."
        )
    return row


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
        out=_out_row(op, out_dtype),
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
            f"[{op}] Expected window to be None or a whole number, got {_kind_name(window)}."
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


def default_scale(head_dim: int, softmax: bool) -> float:
    """Return the scale of an attention that names none."""
    return head_dim**-0.5 if softmax else 1.0

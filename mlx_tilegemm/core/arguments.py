"""Arguments of ops: every check of their kinds, for ops and explain alike.

What a problem itself can check (shapes, dtypes that do not go together) is checked there.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real

import mlx.core as mx

from ..errors import DTypeError, ProblemError
from .dtypes import DType, from_mlx, mlx_name
from .problem import Number
from .shapes import Shape

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
        f"[{op}] Expected {name} to be an mlx.core.array, got {kind_name(value)}; "
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
        raise DTypeError(f"[{op}] Expected {name} to be a real number, got {kind_name(value)}.")
    return value if isinstance(value, int) else float(value)


def kind_name(value: object) -> str:
    """Return the name of a value's type, for messages."""
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def out_row(op: str, out_dtype: object) -> DType | None:
    """Return the row of the result dtype that is asked for, None for the op's own choice.

    Raises:
        DTypeError: It is no MLX dtype, or none that a kernel writes.
    """
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

"""Arguments of ops: every check of their kinds, for ops and explain alike.

What a problem itself can check (shapes, dtypes that do not go together) is checked there.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real

import mlx.core as mx

from ..errors import DTypeError, ProblemError
from .dtypes import FLOATS, DType, from_mlx, mlx_name
from .problem import Number
from .shapes import Shape, shape_text

MAX_SIZE = 2**31 - 1
"""Of an axis; MLX holds sizes as int32."""


Stated = tuple[Shape, mx.Dtype]
"""Shape and dtype of an array, as keys of calls have them."""


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
    remedy = "" if value is None else f"; mx.array({name}) makes one"
    raise DTypeError(
        f"[{op}] Expected {name} to be an mlx.core.array, got {kind_name(value)}{remedy}."
    )


def as_spec(op: str, name: str, value: object) -> ArraySpec:
    """Return the shape and dtype of an array, or of anything that states both as MLX does."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if isinstance(dtype, mx.Dtype) and shape is not None:
        return ArraySpec(shape=tuple(shape), dtype=dtype)
    if isinstance(value, tuple) and all(isinstance(size, Integral) for size in value):
        raise DTypeError(
            f"[{op}] Expected {name} to be an array or an ArraySpec, got a tuple; a shape alone "
            f"has no dtype: ArraySpec(shape={value}, dtype=mx.float32)."
        )
    array = as_array(op, name, value)
    return ArraySpec(shape=array.shape, dtype=array.dtype)


def as_number(op: str, name: str, value: object) -> Number:
    """Return ``value`` as an int or a float: a real Python or NumPy number, or an array of one.

    Raises:
        DTypeError: Anything else, a bool included.
        ProblemError: An integer that no float64 holds, or an array that has no value yet.
    """
    number = _element(op, name, value)
    if isinstance(number, bool) or not isinstance(number, Real):
        raise DTypeError(f"[{op}] Expected {name} to be a real number, got {kind_name(value)}.")
    try:
        as_float = float(number)
    except OverflowError:
        raise ProblemError(
            f"[{op}] Expected {name} to be a number that float64 holds, got a larger one."
        ) from None
    return number if isinstance(number, int) else as_float


def _element(op: str, name: str, value: object) -> object:
    """Return the element of an MLX array of one, or of a NumPy array without axes."""
    if isinstance(value, mx.array):
        if value.size != 1:
            raise DTypeError(
                f"[{op}] Expected {name} to be a real number, got an array of shape "
                f"{shape_text(value.shape)}."
            )
        try:
            return value.item()
        except ValueError:
            raise ProblemError(
                f"[{op}] Expected {name} to be a number, got an array that has no value while MLX "
                "follows a function."
            ) from None
    item = getattr(value, "item", None)
    return item() if callable(item) and getattr(value, "shape", None) == () else value


def as_whole(op: str, name: str, value: object) -> int:
    """Return ``value``, a whole Python or NumPy number, as an int.

    Raises:
        DTypeError: Anything else, a bool included.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise DTypeError(
            f"[{op}] Expected {name} to be None or a whole number, got {kind_name(value)}."
        )
    return int(value)


def as_flag(op: str, name: str, value: object) -> bool:
    """Return ``value``, a Python or NumPy bool, or 0 or 1, as a bool.

    Raises:
        DTypeError: Anything else.
    """
    plain = _element(op, name, value) if type(value).__module__ == "numpy" else value
    if not isinstance(plain, int) or plain not in (0, 1):
        raise DTypeError(f"[{op}] Expected {name} to be a bool, got {kind_name(value)}.")
    return bool(plain)


def kind_name(value: object) -> str:
    """Return the name of a value's type, for messages."""
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def float_row(op: str, name: str, dtype: mx.Dtype) -> DType:
    """Return the row of the dtype of an operand of floats.

    Raises:
        DTypeError: It is of no floats, or of wider ones.
    """
    row = from_mlx(dtype)
    if row is None or row not in FLOATS:
        raise DTypeError(
            f"[{op}] Expected {name} of float32, float16 or bfloat16, got {mlx_name(dtype)}."
        )
    return row


def float_out_row(op: str, out_dtype: object, natural: mx.Dtype) -> DType:
    """Return the row of the result dtype that is asked for, or of the natural one: of floats.

    Raises:
        DTypeError: It is of no floats.
    """
    out = out_row(op, out_dtype) or from_mlx(natural)
    if out is None or out not in FLOATS:
        raise DTypeError(f"[{op}] Expected a floating point out_dtype, got {out}.")
    return out


def check_bias(op: str, bias: ArraySpec | None, columns: int) -> None:
    """Check that a bias is a row of the result's columns.

    Raises:
        ProblemError: It has another shape.
    """
    if bias is not None and bias.shape != (columns,):
        raise ProblemError(
            f"[{op}] Expected bias of the result's columns, ({columns}), got "
            f"{shape_text(bias.shape)}."
        )


def check_out_dtype(op: str, out_dtype: object) -> None:
    """Check that a result dtype is None or an MLX dtype.

    Raises:
        DTypeError: It is neither.
    """
    if out_dtype is not None and not isinstance(out_dtype, mx.Dtype):
        out_row(op, out_dtype)


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

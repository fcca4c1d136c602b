"""The element formats the kernels know: one row each, and nothing about them anywhere else.

A *native* format is an MLX dtype of the same name. A *packed* format, such as an 8-bit float, is
held in an MLX array of unsigned integers, which does not say so: an op has to name it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

import mlx.core as mx

if TYPE_CHECKING:
    import numpy as np

    Decode = Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]


class Kind(Enum):
    """Arithmetic that an element format takes part in."""

    FLOAT = "float"
    INTEGER = "integer"
    BOOL = "bool"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class DType:
    """One element format. Rows are compared by identity.

    Attributes:
        name: The field's name of the format: MLX's, where MLX has one. Also used in messages.
        short: The name in spellings of problems, such as ``f16``.
        metal: Type in which Metal reads an element, or the unit that holds several.
        bits: Size of one element.
        kind: Arithmetic it belongs to; operands of one product share a kind.
        unit_roundoff: Largest relative error of one rounding to this format; 0 for integers.
        smallest_step: Distance of neighbours next to 0, where relative errors end; 0 for integers.
        stored: Name of the MLX dtype of the arrays that hold it; empty where it is a native format.
        decode: Exact float64 values of the codes that an array of a packed format holds, which may
            be more than the array has elements; None for a native format.
        bytes: Size of one element in memory; 0 where several share a byte.
    """

    name: str
    short: str
    metal: str
    bits: int
    kind: Kind
    unit_roundoff: float
    smallest_step: float = 0.0
    stored: str = ""
    decode: Decode | None = None
    bytes: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bytes", self.bits // 8)

    def __repr__(self) -> str:
        return f"<DType {self.name}>"

    def __str__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[Callable[[str], DType], tuple[str]]:
        return by_name, (self.name,)

    @property
    def native(self) -> bool:
        """Whether it is an MLX dtype, which an array names by itself."""
        return not self.stored

    @property
    def mlx(self) -> Any:  # noqa: ANN401 - mlx.core.Dtype is a C++ type without a stub
        """The MLX dtype of the arrays that hold it."""
        name = self.stored or self.name
        return getattr(mx, "bool_" if name == "bool" else name)


FLOAT32 = DType(
    name="float32",
    short="f32",
    metal="float",
    bits=32,
    kind=Kind.FLOAT,
    unit_roundoff=2.0**-24,
    smallest_step=2.0**-126,  # Metal flushes what is smaller
)
FLOAT16 = DType(
    name="float16",
    short="f16",
    metal="half",
    bits=16,
    kind=Kind.FLOAT,
    unit_roundoff=2.0**-11,
    smallest_step=2.0**-24,
)
BFLOAT16 = DType(
    name="bfloat16",
    short="bf16",
    metal="bfloat",
    bits=16,
    kind=Kind.FLOAT,
    unit_roundoff=2.0**-8,
    smallest_step=2.0**-126,
)
INT32 = DType(name="int32", short="i32", metal="int", bits=32, kind=Kind.INTEGER, unit_roundoff=0.0)
INT16 = DType(
    name="int16", short="i16", metal="short", bits=16, kind=Kind.INTEGER, unit_roundoff=0.0
)
INT8 = DType(name="int8", short="i8", metal="char", bits=8, kind=Kind.INTEGER, unit_roundoff=0.0)
UINT8 = DType(name="uint8", short="u8", metal="uchar", bits=8, kind=Kind.INTEGER, unit_roundoff=0.0)
BOOL = DType(name="bool", short="bool", metal="bool", bits=8, kind=Kind.BOOL, unit_roundoff=0.0)
UINT32 = DType(
    name="uint32", short="u32", metal="uint", bits=32, kind=Kind.INTEGER, unit_roundoff=0.0
)
"""Sums of integers only, because int32 overflow has to wrap: no operand has it."""

TF32_ROUNDOFF = 2.0**-10
"""Largest relative error of a float32 factor in TF32, which MLX's own ops may multiply: an M5 cuts
bits off, where NVIDIA's GPUs round."""

DTYPES = (FLOAT32, FLOAT16, BFLOAT16, INT32, INT16, INT8, UINT8, BOOL)
NATIVE = tuple(dtype for dtype in DTYPES if dtype.native)
FLOATS = tuple(dtype for dtype in NATIVE if dtype.kind is Kind.FLOAT)
INTEGERS = tuple(dtype for dtype in NATIVE if dtype.kind is Kind.INTEGER)

_MLX_NAMES = {
    **{dtype.name: dtype.short for dtype in NATIVE if dtype.name != dtype.short},
    **{f"uint{bits}": f"u{bits}" for bits in (16, 32, 64)},
    "int64": "i64",
    "float64": "f64",
    "complex64": "c64",
}
_MLX_BY_NAME = {
    name: getattr(mx, long)
    for long, short in (*_MLX_NAMES.items(), ("bool_", "bool"))
    for name in (long, short)
}
_BY_MLX = {dtype.mlx: dtype for dtype in NATIVE}
_BY_NAME = {name: dtype for dtype in (*DTYPES, UINT32) for name in (dtype.name, dtype.short)}


def from_mlx(dtype: object) -> DType | None:
    """Return the row of an MLX dtype, or None for a type no kernel takes."""
    return _BY_MLX.get(dtype)


def by_name(name: str) -> DType:
    """Return the row with a name, or with its short form.

    Raises:
        ValueError: There is none.
    """
    found = _BY_NAME.get(name)
    if found is None:
        raise ValueError(f"no dtype {name!r}")
    return found


def mlx_dtype(name: str) -> Any:  # noqa: ANN401 - mlx.core.Dtype is a C++ type without a stub
    """Return the MLX dtype of a name, such as ``float16`` or, in short, ``f16``.

    Raises:
        ValueError: There is none; the message says which there are.
    """
    found = _MLX_BY_NAME.get(name.strip().lower())
    if found is None:
        known = ", ".join(f"{long} ({short})" for long, short in _MLX_NAMES.items())
        raise ValueError(f"one of {known}, bool")
    return found


def mlx_name(dtype: object) -> str:
    """Return an MLX dtype's name without its module, as MLX's own messages print it."""
    return str(dtype).removeprefix("mlx.core.")


def promote(a: DType, b: DType) -> DType:
    """Return the result type of ``a @ b``.

    Floats follow MLX's promotion (float16 with bfloat16 is float32); integers accumulate in and
    return int32.
    """
    if a.kind is Kind.INTEGER:
        return INT32
    return a if a is b else FLOAT32

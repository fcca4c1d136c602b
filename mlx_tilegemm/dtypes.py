"""The element types the kernels know: one row each, and nothing about them anywhere else."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import mlx.core as mx


class Kind(Enum):
    """What arithmetic an element type takes part in."""

    FLOAT = "float"
    INTEGER = "integer"
    BOOL = "bool"


@dataclass(frozen=True, slots=True, kw_only=True)
class DType:
    """One element type.

    Attributes:
        name: MLX's name, also used in messages.
        metal: The type's name in Metal.
        bytes: Size of one element in memory.
        kind: Arithmetic it belongs to; operands of one product share a kind.
        unit_roundoff: Largest relative error of one rounding to this type; 0 for integers.
    """

    name: str
    metal: str
    bytes: int
    kind: Kind
    unit_roundoff: float

    def __str__(self) -> str:
        return self.name

    @property
    def mlx(self) -> Any:  # noqa: ANN401 - mlx.core.Dtype is a C++ type without a stub
        """The MLX dtype of the same name."""
        return getattr(mx, "bool_" if self.kind is Kind.BOOL else self.name)


FLOAT32 = DType(name="float32", metal="float", bytes=4, kind=Kind.FLOAT, unit_roundoff=2.0**-24)
FLOAT16 = DType(name="float16", metal="half", bytes=2, kind=Kind.FLOAT, unit_roundoff=2.0**-11)
BFLOAT16 = DType(name="bfloat16", metal="bfloat", bytes=2, kind=Kind.FLOAT, unit_roundoff=2.0**-8)
INT32 = DType(name="int32", metal="int", bytes=4, kind=Kind.INTEGER, unit_roundoff=0.0)
INT16 = DType(name="int16", metal="short", bytes=2, kind=Kind.INTEGER, unit_roundoff=0.0)
INT8 = DType(name="int8", metal="char", bytes=1, kind=Kind.INTEGER, unit_roundoff=0.0)
UINT8 = DType(name="uint8", metal="uchar", bytes=1, kind=Kind.INTEGER, unit_roundoff=0.0)
BOOL = DType(name="bool", metal="bool", bytes=1, kind=Kind.BOOL, unit_roundoff=0.0)
UINT32 = DType(name="uint32", metal="uint", bytes=4, kind=Kind.INTEGER, unit_roundoff=0.0)
"""Sums of integers only: no operand has it."""

DTYPES = (FLOAT32, FLOAT16, BFLOAT16, INT32, INT16, INT8, UINT8, BOOL)
FLOATS = tuple(dtype for dtype in DTYPES if dtype.kind is Kind.FLOAT)
INTEGERS = tuple(dtype for dtype in DTYPES if dtype.kind is Kind.INTEGER)

_BY_MLX = {dtype.mlx: dtype for dtype in DTYPES}


def from_mlx(dtype: object) -> DType | None:
    """Return the row of an MLX dtype, or None for a type no kernel takes."""
    return _BY_MLX.get(dtype)


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

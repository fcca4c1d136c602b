"""Operand: an array that a problem takes or gives, without its elements."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import prod
from typing import Any

from .dtypes import UINT32, DType
from .shapes import Shape


class Role(Enum):
    """Meaning of an operand, from which follows how one is drawn at random."""

    DATA = "data"
    """Numbers that are multiplied or added: drawn from a normal distribution."""

    MASK = "mask"
    """Selects, or adds -inf: some rows hide everything."""

    SCALE = "scale"
    """Positive factors of other operands."""

    GATE = "gate"
    """Factors between 0 and 1."""

    INDEX = "index"
    """Positions along an axis of ``Operand.limit`` elements."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operand:
    """An array that a problem takes or gives.

    Attributes:
        name: Its name, the kernels' name of the buffer too.
        shape: Its shape in elements, with every batch axis that matters to a kernel.
        dtype: Its element format.
        role: What it means.
        limit: Exclusive bound of the elements of an index; 0 for other roles.
        ordered: Elements of an index never fall: who calls promises it, and MLX's ops rely on it.
        words: Elements are packed into uint32 along the last axis, as smaller ones always are.
    """

    name: str
    shape: Shape
    dtype: DType
    role: Role = Role.DATA
    limit: int = 0
    ordered: bool = False
    words: bool = False

    @property
    def mlx(self) -> Any:  # noqa: ANN401 - mlx.core.Dtype is a C++ type without a stub
        """The MLX dtype of the array that holds it."""
        return UINT32.mlx if self.words else self.dtype.mlx

    @property
    def stored_shape(self) -> Shape:
        """Shape of the array that holds it: its own, but for elements packed into words."""
        if not self.words and self.dtype.bytes:
            return self.shape
        return (*self.shape[:-1], self.shape[-1] * self.dtype.bits // UINT32.bits)

    @property
    def stored_elements(self) -> int:
        """Number of elements of the array that holds it."""
        return prod(self.stored_shape)

    @property
    def elements(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.elements * self.dtype.bits // 8

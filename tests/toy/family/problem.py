"""Scaled rows as frozen values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ...core.dtypes import INT32, DType
from ...core.operand import Operand
from ...core.problem import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class RowScale(Problem):
    """``y = d[:, None] * x``, and the number of negative elements of each row of ``y``.

    Attributes:
        rows: Rows of ``x``.
        columns: Columns of ``x``.
        d: Element format of ``d``.
        x: Element format of ``x`` and ``y``.
    """

    rows: int
    columns: int
    d: DType
    x: DType

    @property
    def operands(self) -> tuple[Operand, ...]:
        """``d`` and ``x``."""
        d = Operand(name="d", shape=(self.rows,), dtype=self.d)
        return (d, Operand(name="x", shape=(self.rows, self.columns), dtype=self.x))

    @property
    def results(self) -> tuple[Operand, ...]:
        """``y`` and ``counted``."""
        y = Operand(name="y", shape=(self.rows, self.columns), dtype=self.x)
        return (y, Operand(name="counted", shape=(self.rows,), dtype=INT32))

    def flops(self) -> float:
        """Return one multiplication an element."""
        return float(self.rows * self.columns)

    def smaller(self) -> Iterator[RowScale]:
        """Yield fewer and shorter rows."""
        for rows, columns in ((41, 19), (9, 8)):
            yield replace(self, rows=rows, columns=columns)

"""Derivatives of a formula of MLX's own ops, for what is rarely asked of a call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import mlx.core as mx

from ..backends import StreamOrDevice
from ..core.problem import Factors

if TYPE_CHECKING:
    from ..core.family import Run

Arrays = Sequence[mx.array]
Formula = Callable[..., list[mx.array]]


def gradients_of(formula: Formula, primals: Arrays, cotangents: Arrays) -> list[mx.array]:
    """Return a gradient for every operand; that of a bool is zero."""
    moving = [i for i, x in enumerate(primals) if x.dtype != mx.bool_]
    of_moving = _of_places(formula, primals, moving)
    found = mx.vjp(of_moving, [primals[i] for i in moving], [*cotangents])[1]
    by_place = dict(zip(moving, found, strict=True))
    return [by_place.get(i, mx.zeros_like(x)) for i, x in enumerate(primals)]


def tangents_of(
    formula: Formula, primals: Arrays, tangents: Sequence[mx.array | None]
) -> list[mx.array]:
    """Return a tangent for every output.

    An operand whose tangent is None is constant, and MLX need not know how to differentiate it.
    """
    moving = [i for i, one in enumerate(tangents) if one is not None]
    of_moving = _of_places(formula, primals, moving)
    given = [one for one in tangents if one is not None]
    return mx.jvp(of_moving, [primals[i] for i in moving], given)[1]


def _of_places(formula: Formula, operands: Arrays, places: Sequence[int]) -> Formula:
    """Return a formula as one of the operands at some places alone."""

    def of_places(*values: mx.array) -> list[mx.array]:
        arrays = [*operands]
        for i, value in zip(places, values, strict=True):
            arrays[i] = value
        return formula(*arrays)

    return of_places


def mapped(value: mx.array, axis: int | None, count: int) -> mx.array:
    """Return an operand with its mapped axis first, of so many steps; None is one it lacks."""
    if axis is None:
        return mx.broadcast_to(value, (count, *value.shape))
    return mx.moveaxis(value, axis, 0)


def mapped_size(operands: Arrays, axes: Sequence[int | None]) -> int:
    """Return the steps along the axis that is mapped."""
    return next(x.shape[a] for x, a in zip(operands, axes, strict=True) if a is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ByFormula:
    """Derivatives of a call that computes what a formula of MLX's ops does.

    Attributes:
        formula: The call by MLX's ops.
    """

    formula: Run

    def vjp(
        self,
        operands: Arrays,
        factors: Factors,
        stream: StreamOrDevice,
        cotangents: Arrays,
        outputs: Arrays,
    ) -> list[mx.array]:
        """Return a gradient for every operand; that of a bool is zero."""
        return gradients_of(self._of_arrays(factors, stream), operands, cotangents)

    def jvp(
        self,
        operands: Arrays,
        factors: Factors,
        stream: StreamOrDevice,
        tangents: Sequence[mx.array | None],
    ) -> list[mx.array]:
        """Return a tangent for every output."""
        return tangents_of(self._of_arrays(factors, stream), operands, tangents)

    def _of_arrays(self, factors: Factors, stream: StreamOrDevice) -> Formula:
        return lambda *arrays: self.formula(arrays, factors, stream)

"""Operands, factors and expected results of a problem, as its family has them."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from mlx_tilegemm.core.family import Data
from mlx_tilegemm.core.problem import Factors, Problem
from mlx_tilegemm.core.reference import Expected
from mlx_tilegemm.families import family_of
from mlx_tilegemm.machine.chips import Chip
from mlx_tilegemm.machine.price import Price

__all__ = ["Data", "expected", "factors", "operands", "price_of"]


def operands(problem: Problem, data: Data) -> list[mx.array]:
    """Return evaluated operands of a problem."""
    arrays = family_of(problem).draw(problem, data)
    mx.eval(*arrays)
    return arrays


def factors(problem: Problem) -> Factors:
    """Return the factors that a problem is tried with."""
    return family_of(problem).trial_factors(problem)


def expected(problem: Problem, arrays: Sequence[mx.array]) -> tuple[Expected, ...]:
    """Return what each result should be."""
    return family_of(problem).reference(problem, arrays, factors(problem))


def price_of(problem: Problem, chip: Chip) -> Price | None:
    """Return what MLX's own ops would take for a problem."""
    return family_of(problem).price(problem, chip)

"""Trial: an instance of a kernel's texts, run and held against its family's float64 reference."""

from __future__ import annotations

import mlx.core as mx

from ...backends import Backend
from ...backends.launch import kernel_run
from ...core.family import Data
from ...core.reference import hold
from ...families import family_of
from .instance import Instance

DATA = Data(seed=5, exact=True)
ROWS = 1 << 10
"""Rows of a result that are compared."""


def trial(instance: Instance, backend: Backend) -> str | None:
    """Run the instance; return what is wrong with its results, or None.

    Raises:
        Exception: Whatever the backend or MLX raises.
    """
    problem = instance.problem
    family = family_of(problem)
    with mx.stream(mx.cpu):
        operands = family.draw(problem, DATA)
        mx.eval(*operands)
    factors = family.trial_factors(problem)
    outputs = kernel_run(problem, instance.plan, backend)(operands, factors, None)
    mx.eval(*outputs)
    with mx.stream(mx.cpu):
        part = family.part(problem, operands, outputs, ROWS)
        wanted = family.reference(part.problem, part.operands, factors)
        _, reasons = hold(part.problem, part.outputs, wanted)
    return reasons[0] if reasons else None

"""The kernels, in the order in which ties between them are decided.

A kernel is a module with a ``NAME`` (also the stem of its template), the ``PROBLEM`` type it serves
and five pure functions; see `Kernel`. To add one, write the module and its template and name it in
`KERNELS`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, cast

from ..chips.record import Chip
from ..plan import Plan
from ..problem import Problem
from . import (
    attention_backward_key_value,
    attention_backward_query,
    attention_chain,
    attention_decode,
    gemm_scalar,
    gemm_simdgroup,
    gemm_split_k,
    gemv,
)


class Kernel(Protocol):
    """What dispatch asks of a kernel module. A config is the module's own frozen value."""

    NAME: str
    PROBLEM: type[Problem]

    def candidates(self, problem: Problem, chip: Chip) -> Iterator[Any]:
        """Yield every configuration, preferred ones first."""

    def reject(self, problem: Problem, config: Any, chip: Chip) -> str | None:  # noqa: ANN401
        """Return why a configuration may not serve the problem, or None."""

    def cost(self, problem: Problem, config: Any, chip: Chip) -> float:  # noqa: ANN401
        """Return the modelled seconds of a legal configuration."""

    def plan(self, problem: Problem, config: Any) -> Plan:  # noqa: ANN401
        """Return the plan of a legal configuration."""

    def variant_problems(self) -> Iterator[Problem]:
        """Yield small problems that together reach every flag of the text."""


KERNELS: tuple[Kernel, ...] = (
    cast(Kernel, gemm_simdgroup),
    cast(Kernel, gemv),
    cast(Kernel, gemm_split_k),
    cast(Kernel, gemm_scalar),
    cast(Kernel, attention_decode),
    cast(Kernel, attention_chain),
    cast(Kernel, attention_backward_query),
    cast(Kernel, attention_backward_key_value),
)

"""Scaled rows, one for each thread."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import ClassVar

from ....core.dtypes import FLOATS, INT32, DType
from ....core.kernel import Kernel
from ....core.plan import Arguments, Launch, Plan, Resources, Sizes, Stage
from ....machine.chips.record import Chip
from ....machine.limits import reject_plan, tiny_operand
from ..problem import RowScale


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec(Arguments):
    """What the text depends on."""

    d: DType
    x: DType
    threads: int

    INPUTS: ClassVar[tuple[str, ...]] = ("d", "x", "sizes")
    OUTPUTS: ClassVar[tuple[str, ...]] = ("y", "counted")
    SIZES: ClassVar[tuple[str, ...]] = ("rows", "columns")

    @property
    def template(self) -> str:
        """Template of the kernel."""
        return "toy/row_scale.metal.j2"

    @property
    def label(self) -> str:
        """Readable part of the kernel's name."""
        return f"tilegemm_row_scale_{self.d}_{self.x}_{self.threads}"


def candidates(problem: RowScale, chip: Chip) -> Iterator[int]:
    """Yield the one configuration: threads of a threadgroup."""
    yield 32


def reject(problem: RowScale, config: int, chip: Chip) -> str | None:
    """Return why the kernel may not serve the problem, or None."""
    return tiny_operand(problem.operands) or reject_plan(plan(problem, config))


def cost(problem: RowScale, config: int, chip: Chip) -> float:
    """Return the modelled seconds: what has to be moved, and the launch."""
    return chip.launch_seconds + problem.least_bytes() / chip.dram_bytes_per_second


def plan(problem: RowScale, config: int) -> Plan:
    """Return the plan."""
    spec = Spec(d=problem.d, x=problem.x, threads=config)
    launch = Launch(
        grid=(ceil(problem.rows / config) * config, 1, 1),
        threadgroup=(config, 1, 1),
        sizes=Sizes.of(spec, {"rows": problem.rows, "columns": problem.columns}),
        output_shapes=tuple(one.shape for one in problem.results),
        output_dtypes=(problem.x, INT32),
    )
    resources = Resources(threads=config, threadgroup_bytes=0, registers=20)
    stage = Stage(spec=spec, launch=launch, resources=resources)
    return Plan(kernel="row_scale", config=config, stages=(stage,))


def variant_problems() -> Iterator[RowScale]:
    """Yield a problem for every pair of dtypes."""
    for d in FLOATS:
        for x in FLOATS:
            yield RowScale(rows=37, columns=11, d=d, x=x)


KERNEL = Kernel(
    name="row_scale",
    problem_type=RowScale,
    candidates=candidates,
    reject=reject,
    cost=cost,
    plan=plan,
    variant_problems=variant_problems,
)

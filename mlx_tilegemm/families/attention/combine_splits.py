"""The second kernel of a decoding attention: join what its splits left, and finish the result."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from ...core.dtypes import DType
from ...core.plan import Launch, Resources, Stage
from .problem import AttentionProblem
from .spec import forward_outputs

THREADS = 256
REGISTERS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class CombineSpec:
    """What the text of the joining kernel depends on; all sizes are run-time.

    Attributes:
        out: Element type of the result.
        sinks: Element type of the sinks; None without.
        softmax: Whether the splits have maxima and totals.
        return_lse: Whether the log-sum-exp is written.
    """

    out: DType
    sinks: DType | None
    softmax: bool
    return_lse: bool

    @property
    def template(self) -> str:
        """Template of the kernel."""
        return "attention/combine_splits.metal.j2"

    @property
    def label(self) -> str:
        """Readable part of the kernel's name."""
        softmax = "softmax" if self.softmax else "literal"
        return f"tilegemm_combine_splits_{softmax}_{self.out}"

    @property
    def input_names(self) -> tuple[str, ...]:
        """Inputs in order."""
        rows = ("maxima", "totals") if self.softmax else ()
        sinks = ("sinks",) if self.sinks else ()
        return ("partials", *rows, *sinks, "sizes")

    @property
    def output_names(self) -> tuple[str, ...]:
        """The result, and the log-sum-exp if it is wanted."""
        return ("out", "lse") if self.return_lse else ("out",)

    @property
    def threads(self) -> int:
        """Threads of one threadgroup."""
        return THREADS

    @property
    def resources(self) -> Resources:
        """Threads and live registers."""
        return Resources(threads=THREADS, threadgroup_bytes=0, registers=REGISTERS)


def combine_stage(problem: AttentionProblem, splits: int) -> Stage:
    """Return the stage that joins as many splits of a problem."""
    spec = CombineSpec(
        out=problem.out,
        sinks=problem.sinks,
        softmax=problem.softmax,
        return_lse=problem.return_lse,
    )
    rows = problem.batch * problem.num_heads * problem.q_len
    shapes, dtypes = forward_outputs(problem)
    launch = Launch(
        grid=(ceil(rows * problem.value_dim / THREADS) * THREADS, 1, 1),
        threadgroup=(THREADS, 1, 1),
        sizes=(rows, problem.value_dim, splits, problem.q_len, problem.num_heads),
        output_shapes=shapes,
        output_dtypes=dtypes,
    )
    return Stage(spec=spec, launch=launch, resources=spec.resources)

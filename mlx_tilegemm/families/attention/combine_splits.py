"""The second kernel of a decoding attention: join what its splits left, and finish the result."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from ...core.caches import kept
from ...core.dtypes import DType
from ...core.plan import Arguments, Launch, Resources, Sizes, Stage, features
from .problem import AttentionProblem
from .spec import forward_outputs

THREADS = 256
REGISTERS = 24
"""For the weights of shares. As Mesa's compiler for M1 has it, like the next."""

PLAIN_REGISTERS = 9
"""For shares that are only added up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CombineSpec(Arguments):
    """Everything that the text of the joining kernel depends on; all sizes are run-time.

    Attributes:
        out: Element type of the result.
        sinks: Element type of the sinks; None without.
        softmax: Whether the splits have maxima and totals.
        return_lse: Whether the log-sum-exp is written.
        return_norm: Whether what a row's weights are made with is written.
    """

    UNDECLARED = frozenset({"norm"})
    INPUTS = ("partials", "maxima", "totals", "sinks", "sizes")
    OUTPUTS = ("out", "lse", "norm")
    SIZES = ("rows", "value_dim", "splits", "q_len", "num_heads")

    out: DType
    sinks: DType | None
    softmax: bool
    return_lse: bool
    return_norm: bool

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
    def lacks(self) -> frozenset[str]:
        """Inputs and outputs that this variant is not given."""
        return features(
            {
                ("maxima", "totals"): not self.softmax,
                ("sinks",): self.sinks is None,
                ("lse",): not self.return_lse,
                ("norm",): not self.return_norm,
            }
        )

    @property
    def threads(self) -> int:
        """Threads of one threadgroup."""
        return THREADS

    @property
    def resources(self) -> Resources:
        """Threads and live registers."""
        registers = REGISTERS if self.softmax else PLAIN_REGISTERS
        return Resources(threads=THREADS, threadgroup_bytes=0, registers=registers)


@kept
def _spec(
    out: DType, sinks: DType | None, softmax: bool, return_lse: bool, return_norm: bool
) -> CombineSpec:
    return CombineSpec(
        out=out, sinks=sinks, softmax=softmax, return_lse=return_lse, return_norm=return_norm
    )


def combine_stage(problem: AttentionProblem, splits: int) -> Stage:
    """Return the stage that joins as many splits of a problem."""
    p = problem
    spec = _spec(p.out, p.sinks, p.softmax, p.return_lse, p.return_norm)
    rows = problem.batch * problem.num_heads * problem.q_len
    sizes = {"rows": rows, "value_dim": problem.value_dim, "splits": splits}
    sizes |= {"q_len": problem.q_len, "num_heads": problem.num_heads}
    shapes, dtypes = forward_outputs(problem)
    launch = Launch(
        grid=(ceil(rows * problem.value_dim / THREADS) * THREADS, 1, 1),
        threadgroup=(THREADS, 1, 1),
        sizes=Sizes.of(spec, sizes),
        output_shapes=shapes,
        output_dtypes=dtypes,
    )
    return Stage(spec=spec, launch=launch, resources=spec.resources)

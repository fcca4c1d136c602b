"""Everything that the texts of gated delta updates depend on, and what their launches share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ...core.dtypes import BFLOAT16, FLOAT16, FLOAT32, FLOATS, DType
from ...core.plan import Arguments, Extent, Launch, Sizes, Spec, features
from ...machine.limits import reject_sizes
from .problem import DeltaProblem


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaText:
    """What is compiled into a text: a `DeltaProblem` without the sizes that are run-time."""

    key_dim: int
    q: DType
    k: DType
    v: DType
    gamma: DType
    beta: DType
    y: DType
    vector_gate: bool
    log_decay: bool
    normalize: bool
    state: bool
    mask: bool
    saves: bool

    @property
    def flags(self) -> str:
        """The options, in short."""
        names = ("vector_gate", "log_decay", "normalize", "state", "mask", "saves")
        return "".join(name[0] for name in names if getattr(self, name)) or "0"


def delta_text(problem: DeltaProblem) -> DeltaText:
    """Return what a problem's texts depend on."""
    p = problem
    return DeltaText(
        key_dim=p.key_dim,
        q=p.q,
        k=p.k,
        v=p.v,
        gamma=p.gamma,
        beta=p.beta,
        y=p.y,
        vector_gate=p.vector_gate,
        log_decay=p.log_decay,
        normalize=p.normalize,
        state=p.state,
        mask=p.mask,
        saves=bool(p.every),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaSpec(Arguments, ABC):
    """Base of the specs of all kernels.

    Attributes:
        text: What the problem's texts depend on.
    """

    KERNEL: ClassVar[str]
    INPUTS: ClassVar[tuple[str, ...]] = (
        "q",
        "k",
        "v",
        "gamma",
        "beta",
        "initial_state",
        "mask",
        "factors",
        "sizes",
    )
    OUTPUTS: ClassVar[tuple[str, ...]] = ("y", "state", "states")
    SIZES: ClassVar[tuple[str, ...]] = (
        "length",
        "key_heads",
        "value_heads",
        "value_dim",
        "every",
    )

    text: DeltaText

    @property
    def template(self) -> str:
        """Template of the kernel."""
        return f"gated_delta/{self.KERNEL}.metal.j2"

    @property
    @abstractmethod
    def variant(self) -> str:
        """The configuration as a part of a Metal name."""

    @property
    def label(self) -> str:
        """Readable part of the kernel's name."""
        t = self.text
        dtypes = "_".join(one.short for one in (t.q, t.k, t.v, t.gamma, t.beta, t.y))
        return f"tilegemm_{self.KERNEL}_{dtypes}_d{t.key_dim}_{t.flags}_{self.variant}"

    @property
    def lacks(self) -> frozenset[str]:
        """Inputs, outputs and sizes that this variant is not given."""
        return features(
            {
                ("initial_state",): not self.text.state,
                ("mask",): not self.text.mask,
                ("states", "every"): not self.text.saves,
            }
        )


def delta_launch(problem: DeltaProblem, spec: Spec, grid: Extent, threads: int) -> Launch:
    """Return the launch of a kernel that gives all results."""
    return Launch(
        grid=grid,
        threadgroup=(threads, 1, 1),
        sizes=Sizes.of(spec, delta_sizes(problem)),
        output_shapes=tuple(one.shape for one in problem.results),
        output_dtypes=tuple(one.dtype for one in problem.results),
    )


def delta_sizes(problem: DeltaProblem) -> dict[str, int]:
    """Return the run-time sizes by name."""
    return {
        "length": problem.length,
        "key_heads": problem.key_heads,
        "value_heads": problem.value_heads,
        "value_dim": problem.value_dim,
        "every": problem.every,
    }


def reject_delta(problem: DeltaProblem) -> str | None:
    """Return why no kernel may serve a problem, or None."""
    if problem.is_empty:
        return "there is nothing to compute"
    if problem.every and not problem.saved:
        return f"no state is asked for: {problem.length} tokens are fewer than {problem.every}"
    return reject_sizes(delta_sizes(problem).values())


def token_bytes(problem: DeltaProblem) -> float:
    """Return the bytes of q, k, v, the gates and y of one token and value head."""
    gates = problem.gamma.bytes * (problem.key_dim if problem.vector_gate else 1)
    keys = problem.key_dim * (problem.q.bytes + problem.k.bytes)
    values = problem.value_dim * (problem.v.bytes + problem.y.bytes)
    return keys + values + gates + problem.beta.bytes


def variant(**changes: Any) -> DeltaProblem:  # noqa: ANN401 - fields of a problem
    """Return a small problem, two sequences of a few tokens, with some fields changed."""
    problem = DeltaProblem(
        batch=2,
        length=19,
        key_heads=2,
        value_heads=4,
        key_dim=40,
        value_dim=13,
        q=FLOAT32,
        k=FLOAT32,
        v=FLOAT32,
        gamma=FLOAT32,
        beta=FLOAT32,
        y=FLOAT32,
    )
    return replace(problem, **changes)


def variant_problems(steps: int = 3) -> Iterator[DeltaProblem]:
    """Yield small problems that together reach every flag of the texts."""
    for dtype in FLOATS:
        yield variant(q=dtype, k=dtype, v=dtype, y=dtype)
    mixed = {"q": BFLOAT16, "k": FLOAT16, "gamma": FLOAT16, "beta": BFLOAT16, "y": BFLOAT16}
    yield variant(**mixed, key_dim=60, log_decay=True, normalize=True, state=True, mask=True)
    yield variant(vector_gate=True, state=True, every=steps)
    yield variant(vector_gate=True, key_dim=60, log_decay=True, mask=True, gamma=BFLOAT16)
    yield variant(key_dim=32, value_dim=16, v=FLOAT16, normalize=True, every=steps)

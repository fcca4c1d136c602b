"""Gated delta updates as frozen values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from ...core.dtypes import BOOL, FLOAT32, DType
from ...core.operand import Operand, Role
from ...core.problem import Problem
from ...core.shapes import Shape, shape_text
from ...errors import ProblemError

CHUNK = 8
"""Tokens after which every kernel has added up its state, and from which gradients start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaProblem(Problem):
    """``S <- gamma S; S <- S + beta (v - S k) k^T; y = scale S q`` for every token of a sequence.

    Attributes:
        batch: Sequences.
        length: Tokens of a sequence.
        key_heads: Heads of q and k.
        value_heads: Heads of v, of the gates, of the state and of y: a multiple.
        key_dim: Elements of a head of q and k.
        value_dim: Elements of a head of v and y.
        q: Element format of q. Likewise ``k``, ``v``, ``gamma``, ``beta`` and ``y``.
        k: See ``q``.
        v: See ``q``.
        gamma: See ``q``.
        beta: See ``q``.
        y: See ``q``.
        vector_gate: Whether each element of a key decays by a factor of its own.
        log_decay: Whether gamma is given as its logarithm.
        normalize: Whether q and k are divided by their lengths, and q by the root of ``key_dim``.
        state: Whether there is a state to begin with; else it is zero.
        mask: Whether some tokens leave the state as it is.
        every: The state is also returned after each so many tokens; 0 for the last alone, as where
            there are fewer tokens.
    """

    batch: int
    length: int
    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    q: DType
    k: DType
    v: DType
    gamma: DType
    beta: DType
    y: DType
    vector_gate: bool = False
    log_decay: bool = False
    normalize: bool = False
    state: bool = False
    mask: bool = False
    every: int = 0

    def __str__(self) -> str:
        gate = "log decay" if self.log_decay else "gamma"
        options = ["normalized"] * self.normalize + ["initial state"] * self.state
        options += ["mask"] * self.mask + [f"states every {self.every}"] * bool(self.every)
        return ", ".join(
            [
                f"{self.q} q, {self.k} k, {self.v} v -> {self.y}",
                f"{gate} {self.gamma}{' of each key element' * self.vector_gate}",
                f"beta {self.beta}",
                f"batch {self.batch}, {self.length} tokens",
                f"heads {self.value_heads} of {self.value_dim} on {self.key_heads} of "
                f"{self.key_dim}",
                *options,
            ]
        )

    @property
    def operands(self) -> tuple[Operand, ...]:
        """q, k, v, gamma, beta and, where there are such, initial_state and mask."""
        tokens = (self.batch, self.length)
        keys = (*tokens, self.key_heads, self.key_dim)
        heads = (*tokens, self.value_heads)
        gates = (*heads, self.key_dim) if self.vector_gate else heads
        found = [
            Operand(name="q", shape=keys, dtype=self.q),
            Operand(name="k", shape=keys, dtype=self.k),
            Operand(name="v", shape=(*heads, self.value_dim), dtype=self.v),
            Operand(name="gamma", shape=gates, dtype=self.gamma, role=Role.GATE),
            Operand(name="beta", shape=heads, dtype=self.beta, role=Role.GATE),
        ]
        if self.state:
            found.append(Operand(name="initial_state", shape=self.state_shape, dtype=FLOAT32))
        if self.mask:
            found.append(Operand(name="mask", shape=tokens, dtype=BOOL, role=Role.MASK))
        return tuple(found)

    @property
    def results(self) -> tuple[Operand, ...]:
        """y, the last state and, if asked for, earlier ones."""
        y = (self.batch, self.length, self.value_heads, self.value_dim)
        found = [
            Operand(name="y", shape=y, dtype=self.y),
            Operand(name="state", shape=self.state_shape, dtype=FLOAT32),
        ]
        if self.every:
            found.append(Operand(name="states", shape=self.states_shape, dtype=FLOAT32))
        return tuple(found)

    @property
    def factors(self) -> tuple[str, ...]:
        """The scale of y."""
        return ("scale",)

    @property
    def state_shape(self) -> Shape:
        """Shape of a state, MLX's: ``[B, Hv, Dv, Dk]``."""
        return (self.batch, self.value_heads, self.value_dim, self.key_dim)

    @property
    def states_shape(self) -> Shape:
        """Shape of the states after each ``every`` tokens: ``[B, T // every, Hv, Dv, Dk]``."""
        return (self.batch, self.saved, *self.state_shape[1:])

    @property
    def saved(self) -> int:
        """States that are returned beside the last one."""
        return self.length // self.every if self.every else 0

    @property
    def group(self) -> int:
        """Heads of v that share one of q and k."""
        return self.value_heads // self.key_heads

    @property
    def matrices(self) -> int:
        """States of all sequences and heads."""
        return self.batch * self.value_heads

    @property
    def is_empty(self) -> bool:
        """Whether there is no token, or nothing to a head."""
        return 0 in (self.batch, self.length, self.value_heads, self.key_dim, self.value_dim)

    def flops(self) -> float:
        """Return seven operations for each element of the state and token."""
        return 7.0 * self.matrices * self.length * self.key_dim * self.value_dim

    def smaller(self) -> Iterator[DeltaProblem]:
        """Yield shorter sequences of fewer heads with fewer values."""
        for length in (19, 9, 3, 1):
            short = max(length, self.every) if self.every else length
            yield replace(self, batch=2, length=short, key_heads=2, value_heads=4, value_dim=13)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaGradientProblem(Problem):
    """The gradients of an update, from the states after each `CHUNK` tokens.

    Attributes:
        update: The update: linear decays, q and k as they are multiplied, and an initial state.
    """

    update: DeltaProblem

    def __str__(self) -> str:
        return f"gradients of {self.update}"

    @property
    def operands(self) -> tuple[Operand, ...]:
        """The update's, the states, and the gradients of y and of the last state."""
        p = self.update
        states = (
            () if not p.saved else (Operand(name="states", shape=p.states_shape, dtype=FLOAT32),)
        )
        y, state, *_ = p.results
        return (
            *p.operands,
            *states,
            replace(y, name="grad"),
            replace(state, name="state_grad"),
        )

    @property
    def results(self) -> tuple[Operand, ...]:
        """Float32 gradients of q and k for each head of v, and of all other operands."""
        p = self.update
        heads = (p.batch, p.length, p.value_heads)
        gates = (*heads, p.key_dim) if p.vector_gate else heads
        shapes = {
            "q_grad": (*heads, p.key_dim),
            "k_grad": (*heads, p.key_dim),
            "v_grad": (*heads, p.value_dim),
            "gamma_grad": gates,
            "beta_grad": heads,
            "initial_grad": p.state_shape,
        }
        return tuple(
            Operand(name=name, shape=shape, dtype=FLOAT32) for name, shape in shapes.items()
        )

    @property
    def factors(self) -> tuple[str, ...]:
        """The scale of y."""
        return self.update.factors

    def flops(self) -> float:
        """Return about thrice the operations of the update."""
        return 3.0 * self.update.flops()

    def smaller(self) -> Iterator[DeltaGradientProblem]:
        """Yield gradients of smaller updates."""
        for update in self.update.smaller():
            yield replace(self, update=replace(update, value_dim=self.update.value_dim))


def delta_problem(
    op: str,
    *,
    shapes: Mapping[str, Shape],
    dtypes: Mapping[str, DType],
    log_decay: bool = False,
    normalize: bool = False,
    every: int | None = None,
) -> DeltaProblem:
    """Check shapes and state the update they ask for.

    Args:
        op: Name to begin messages with.
        shapes: Shapes of the op's arrays, as far as they are given, by name.
        dtypes: Element formats of q, k, v, gamma, beta and y, by name.
        log_decay: As of the op.
        normalize: As of the op.
        every: As of the op.

    Raises:
        ProblemError: Shapes that do not fit together.
    """
    for name in ("q", "v"):
        if len(shapes[name]) != 4:
            raise ProblemError(
                f"[{op}] Expected {name} of four dimensions, [B, T, heads, elements], got "
                f"{shape_text(shapes[name])}."
            )
    batch, length, key_heads, key_dim = shapes["q"]
    value_heads, value_dim = shapes["v"][2:]
    if not key_heads or value_heads % key_heads:
        raise ProblemError(
            f"[{op}] Expected heads of v to be a multiple of those of q, got {value_heads} and "
            f"{key_heads}."
        )
    heads = (batch, length, value_heads)
    vector = shapes["gamma"] == (*heads, key_dim)
    _check_shapes(
        op,
        shapes,
        {
            "k": shapes["q"],
            "v": (*heads, value_dim),
            "gamma": (*heads, key_dim) if len(shapes["gamma"]) == 4 else heads,
            "beta": heads,
            "initial_state": (batch, value_heads, value_dim, key_dim),
            "mask": (batch, length),
            "lengths": (batch,),
        },
    )
    if every is not None and every < 1:
        raise ProblemError(f"[{op}] Expected every to be None or at least 1, got {every}.")
    return DeltaProblem(
        batch=batch,
        length=length,
        key_heads=key_heads,
        value_heads=value_heads,
        key_dim=key_dim,
        value_dim=value_dim,
        q=dtypes["q"],
        k=dtypes["k"],
        v=dtypes["v"],
        gamma=dtypes["gamma"],
        beta=dtypes["beta"],
        y=dtypes["y"],
        vector_gate=vector,
        log_decay=log_decay,
        normalize=normalize,
        state="initial_state" in shapes,
        mask="mask" in shapes or "lengths" in shapes,
        every=every if every is not None and every <= length else 0,
    )


def _check_shapes(op: str, shapes: Mapping[str, Shape], wanted: Mapping[str, Shape]) -> None:
    for name, expected in wanted.items():
        if shapes.get(name, expected) != expected:
            raise ProblemError(
                f"[{op}] Expected {name} of shape {shape_text(expected)} beside q of "
                f"{shape_text(shapes['q'])} and v of {shape_text(shapes['v'])}, got "
                f"{shape_text(shapes[name])}."
            )

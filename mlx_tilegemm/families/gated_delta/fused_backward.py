"""The backward pass of a gated delta update on its kernels.

Nothing but the operands is kept from the forward pass. Going back, the forward kernel leaves the
state once for each span of tokens, then, one span after another from the last, after each chunk of
it, where the gradients' kernel takes over. Where the update also returned states, it is gone back
from one to the one before it, and the gradient of each is added on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import mlx.core as mx

from ...backends import StreamOrDevice
from ...call.transforms import on
from ...core.dtypes import FLOAT32
from ...core.problem import Factors
from .fallback import multiplied
from .problem import CHUNK, DeltaGradientProblem, DeltaProblem

if TYPE_CHECKING:
    from ...core.family import Run

SPAN = 256
"""Tokens between states that are kept; those after each chunk of one span are as many bytes as the
states of 8192 tokens."""

Arrays = dict[str, mx.array]


def multiplied_problem(problem: DeltaProblem) -> DeltaProblem:
    """Return the update whose gradients the kernel computes: of q, k and gamma as multiplied."""
    p = replace(problem, normalize=False, log_decay=False, state=True, every=0)
    if problem.normalize:
        p = replace(p, q=FLOAT32, k=FLOAT32)
    return replace(p, gamma=FLOAT32) if problem.log_decay else p


Prepare = Callable[[DeltaProblem], "Run"]
Refusable = Callable[[DeltaGradientProblem], "Run | None"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedBackward:
    """The kernels of a backward pass, ready to run.

    Attributes:
        problem: The update that was asked for.
        plain: The update of what is multiplied.
        marks: Runs the forward kernel for the states between spans; None for a single span.
        forward: Runs it for the states of a span, by the span's length; None for a single chunk.
        backward: Runs the gradients' kernel, by the span's length.
    """

    problem: DeltaProblem
    plain: DeltaProblem
    marks: Run | None
    forward: dict[int, Run | None]
    backward: dict[int, Run]

    def __call__(
        self, operands: Sequence[mx.array], factors: Factors, stream: StreamOrDevice
    ) -> list[mx.array]:
        """Return the gradients of q, k, v, gamma, beta and the initial state, if there is one."""
        with on(stream):
            return self._gradients(operands, factors, stream)

    def _gradients(
        self, operands: Sequence[mx.array], factors: Factors, stream: StreamOrDevice
    ) -> list[mx.array]:
        names = (*self.problem.operand_names, "grad", "state_grad")
        given = dict(zip(names, operands, strict=True))
        raw = [given[name] for name in ("q", "k", "gamma")]
        wide = self._multiplied(*raw)
        if self.problem.normalize:
            given |= {"q": wide[0], "k": wide[1]}
        if self.problem.log_decay:
            given["gamma"] = wide[2]
        if not self.problem.state:
            given["initial_state"] = mx.zeros(self.problem.state_shape)
        parts, slope = self._spans(given, factors, stream)
        q, k, v, gamma, beta = (
            x[0] if len(x) == 1 else mx.concatenate([*x], axis=1) for x in zip(*parts, strict=True)
        )
        found = mx.vjp(self._multiplied, raw, [self._grouped(q), self._grouped(k), gamma])[1]
        gradients = [*found[:2], v, found[2], beta, *([slope] if self.problem.state else [])]
        return [
            x.astype(one.dtype.mlx)
            for x, one in zip(gradients, self.problem.operands, strict=False)
        ]

    def _multiplied(self, *arrays: mx.array) -> list[mx.array]:
        wide = [x.astype(mx.float32) for x in arrays]
        return multiplied(self.problem, *wide)

    def _grouped(self, x: mx.array) -> mx.array:
        """Add up what the heads that share a key have."""
        if self.problem.group == 1:
            return x
        return mx.sum(mx.unflatten(x, 2, (-1, self.problem.group)), axis=3)

    def _spans(
        self, given: Arrays, factors: Factors, stream: StreamOrDevice
    ) -> tuple[list[list[mx.array]], mx.array]:
        names = self.plain.operand_names
        states = None
        if self.marks is not None:
            states = self.marks([given[name] for name in names], factors, stream)[2]
        slope = given["state_grad"]
        parts = []
        for start, end in reversed([*spans(self.plain.length)]):
            part = {name: x if "state" in name else x[:, start:end] for name, x in given.items()}
            if start:
                assert states is not None
                # A span's states are not computed before the span after it is done with.
                part["initial_state"] = mx.depends(states[:, start // SPAN - 1], slope)
            operands = [part[name] for name in names]
            forward = self.forward[end - start]
            saved = forward(operands, factors, stream)[2:] if forward is not None else []
            *found, slope = self.backward[end - start](
                [*operands, *saved, part["grad"], slope], factors, stream
            )
            parts.append(found)
        return parts[::-1], slope


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockwiseBackward:
    """The backward pass of an update that also returned states, a block between two at a time.

    Attributes:
        problem: The update that was asked for.
        states: Runs it for the states between blocks; None for a single block.
        blocks: Backward passes of blocks, each from its initial state, by their lengths.
    """

    problem: DeltaProblem
    states: Run | None
    blocks: dict[int, FusedBackward]

    def __call__(
        self, operands: Sequence[mx.array], factors: Factors, stream: StreamOrDevice
    ) -> list[mx.array]:
        """Return the gradients of q, k, v, gamma, beta and the initial state, if there is one."""
        with on(stream):
            return self._gradients(operands, factors, stream)

    def _gradients(
        self, operands: Sequence[mx.array], factors: Factors, stream: StreamOrDevice
    ) -> list[mx.array]:
        p = self.problem
        *arrays, grad, slope, state_grads = operands
        given = dict(zip(p.operand_names, arrays, strict=True))
        tokens = {name: x for name, x in given.items() if name != "initial_state"}
        first = given.get("initial_state", mx.zeros(p.state_shape))
        states = None if self.states is None else self.states(arrays, factors, stream)[2]
        parts = []
        for start in reversed(range(0, p.length, p.every)):
            end = min(start + p.every, p.length)
            if end % p.every == 0:
                slope = slope + state_grads[:, end // p.every - 1]
            block = {name: x[:, start:end] for name, x in tokens.items()}
            block["initial_state"] = first
            if start:
                assert states is not None
                block["initial_state"] = states[:, start // p.every - 1]
            run = self.blocks[end - start]
            taken = [block[name] for name in run.problem.operand_names]
            *found, slope = run([*taken, grad[:, start:end], slope], factors, stream)
            parts.append(found)
        joined = (mx.concatenate([*x], axis=1) for x in zip(*reversed(parts), strict=True))
        return [*joined, *([slope] if p.state else [])]


def spans(length: int) -> Iterator[tuple[int, int]]:
    """Yield where spans of tokens begin and end."""
    for start in range(0, length, SPAN):
        yield start, min(start + SPAN, length)


def fused_backward(
    problem: DeltaProblem, prepare: Prepare, prepare_gradients: Refusable
) -> FusedBackward | None:
    """Return a backward pass on kernels; None where the gradients' kernel does not serve.

    Args:
        problem: The update.
        prepare: Returns the call of an update.
        prepare_gradients: Returns the kernel's call of gradients, or None.
    """
    plain = multiplied_problem(problem)
    forward: dict[int, Run | None] = {}
    backward: dict[int, Run] = {}
    for start, end in spans(plain.length):
        length = end - start
        span = replace(plain, length=length, every=CHUNK)
        run = prepare_gradients(DeltaGradientProblem(update=span))
        if run is None:
            return None
        backward[length] = run
        forward[length] = prepare(span) if span.saved else None
    return FusedBackward(
        problem=problem,
        plain=plain,
        marks=prepare(replace(plain, every=SPAN)) if plain.length > SPAN else None,
        forward=forward,
        backward=backward,
    )


def blockwise_backward(
    problem: DeltaProblem, prepare: Prepare, prepare_gradients: Refusable
) -> BlockwiseBackward | None:
    """Return the backward pass of an update that also returned states; else as `fused_backward`."""
    blocks = {}
    for length in {min(problem.every, problem.length), problem.length % problem.every} - {0}:
        block = replace(problem, length=length, state=True, every=0)
        run = fused_backward(block, prepare, prepare_gradients)
        if run is None:
            return None
        blocks[length] = run
    states = prepare(problem) if problem.length > problem.every else None
    return BlockwiseBackward(problem=problem, states=states, blocks=blocks)

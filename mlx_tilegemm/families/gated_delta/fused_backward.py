"""The backward pass of a gated delta update on its kernels.

Nothing but the operands is kept from the forward pass. Going back, the forward kernel leaves the
state once for each span of tokens, then, one span after another from the last, after each chunk of
it, where the gradients' kernel takes over. Where the update also returned states, it is gone back
from one to the one before it, and the gradient of each is added on the way.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import mlx.core as mx

from ...backends import StreamOrDevice
from ...call.transforms import on
from ...core.dtypes import FLOAT32
from ...core.problem import Factors
from .fallback import multiplied, seen
from .kernels.delta_backward import sliced, slices_of
from .problem import CHUNK, DeltaGradientProblem, DeltaProblem

if TYPE_CHECKING:
    from ...core.family import Run

SPAN = 128
"""Tokens between states that are kept; those after each chunk of one span are as many bytes as the
states of 2048 tokens."""

Arrays = dict[str, mx.array]


def multiplied_problem(problem: DeltaProblem) -> DeltaProblem:
    """Return the update whose gradients the kernel computes: of q, k and gamma as multiplied."""
    p = replace(problem, normalize=False, log_decay=False, state=True, every=0)
    if problem.normalize:
        p = replace(p, q=FLOAT32, k=FLOAT32)
    return replace(p, gamma=FLOAT32) if problem.log_decay else p


Prepare = Callable[[DeltaProblem], "Run"]
Refusable = Callable[[DeltaGradientProblem], "Run | None"]


class _Backward(ABC):
    """Base of backward passes, which are called as runs of kernels are."""

    __slots__ = ()

    def __call__(
        self, operands: Sequence[mx.array], factors: Factors, stream: StreamOrDevice
    ) -> list[mx.array]:
        """Return the gradients of q, k, v, gamma, beta and the initial state, if there is one."""
        with on(stream):
            return self._gradients(operands, factors, stream)

    @abstractmethod
    def _gradients(
        self, operands: Sequence[mx.array], factors: Factors, stream: StreamOrDevice
    ) -> list[mx.array]:
        """Return the gradients; MLX's ops go to the stream already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedBackward(_Backward):
    """The kernels of a backward pass, ready to run.

    Attributes:
        problem: The update that was asked for.
        marks: Runs the forward kernel for the states between spans; None for a single span.
        forward: Runs it for the states of a span, by the span's length; None for a single chunk.
        backward: Runs the gradients' kernel, by the span's length.
        slices: Slices of a head's values, which are heads to that kernel.
    """

    problem: DeltaProblem
    slices: int
    marks: Run | None
    forward: dict[int, Run | None]
    backward: dict[int, Run]

    def _gradients(
        self, operands: Sequence[mx.array], factors: Factors, stream: StreamOrDevice
    ) -> list[mx.array]:
        p = self.problem
        given = dict(zip((*p.operand_names, "grad", "state_grad"), operands, strict=True))
        slope = given.pop("state_grad")
        first = given.pop("initial_state", mx.zeros(p.state_shape))
        states = None
        if self.marks is not None:
            states = self.marks(_with_state(p, given, first), factors, stream)[2]
        parts = []
        for start, end in reversed([*spans(p.length)]):
            part = {name: x[:, start:end] for name, x in given.items()}
            begin = first
            if start:
                assert states is not None
                # A span's states are not computed before the span after it is done with.
                begin = mx.depends(states[:, start // SPAN - 1], slope)
            found, slope = self._span(part, begin, slope, factors, stream)
            # Nor are its float32 gradients kept for each head of v until all spans are done with.
            slope = mx.depends([slope], found)[0]
            parts.append(found)
        joined = (mx.concatenate([*x], axis=1) for x in zip(*reversed(parts), strict=True))
        return [*joined, *([slope] if p.state else [])]

    def _span(
        self,
        given: Arrays,
        begin: mx.array,
        slope: mx.array,
        factors: Factors,
        stream: StreamOrDevice,
    ) -> tuple[list[mx.array], mx.array]:
        """Return a span's gradients of q, k, v, gamma and beta, and that of the state before it."""
        p, grad = self.problem, given["grad"]
        forward = self.forward[grad.shape[1]]
        saved = forward(_with_state(p, given, begin), factors, stream)[2:] if forward else []
        raw = [seen(given, name) for name in ("q", "k", "gamma")]
        wide = self._multiplied(*raw)
        plain = dict(given)
        if p.normalize:
            plain |= {"q": wide[0], "k": wide[1]}
        if p.log_decay:
            plain["gamma"] = wide[2]
        operands = [
            *_with_state(p, self._sliced_tokens(plain), self._sliced_state(begin)),
            *map(self._sliced_state, saved),
            self._sliced_values(grad),
            self._sliced_state(slope),
        ]
        q, k, v, gamma, beta, slope = self.backward[grad.shape[1]](operands, factors, stream)
        q, k = (_added_up(x, p.group * self.slices) for x in (q, k))
        gamma, beta = (_added_up(x, self.slices) for x in (gamma, beta))
        v, slope = self._whole_values(v), self._whole_state(slope)
        q, k, gamma = mx.vjp(self._multiplied, raw, [q, k, gamma])[1]
        pairs = zip((q, k, v, gamma, beta), p.operands, strict=False)
        return [x.astype(one.dtype.mlx) for x, one in pairs], slope

    def _multiplied(self, *arrays: mx.array) -> list[mx.array]:
        wide = [x.astype(mx.float32) for x in arrays]
        return multiplied(self.problem, *wide)

    def _sliced_tokens(self, given: Arrays) -> Arrays:
        gates = {name: mx.repeat(given[name], self.slices, axis=2) for name in ("gamma", "beta")}
        return given | gates | {"v": self._sliced_values(given["v"])}

    def _sliced_values(self, x: mx.array) -> mx.array:
        """Take slices of values, the last axis, for heads."""
        return mx.flatten(mx.unflatten(self._filled(x, -1), -1, (self.slices, -1)), -3, -2)

    def _sliced_state(self, x: mx.array) -> mx.array:
        """Take slices of values, the last axis but one, for heads."""
        return mx.flatten(mx.unflatten(self._filled(x, -2), -2, (self.slices, -1)), -4, -3)

    def _filled(self, x: mx.array, axis: int) -> mx.array:
        missing = -self.problem.value_dim % self.slices
        return mx.pad(x, [(0, missing * (i == x.ndim + axis)) for i in range(x.ndim)])

    def _whole_values(self, x: mx.array) -> mx.array:
        heads = mx.flatten(mx.unflatten(x, -2, (-1, self.slices)), -2, -1)
        return heads[..., : self.problem.value_dim]

    def _whole_state(self, x: mx.array) -> mx.array:
        heads = mx.flatten(mx.unflatten(x, -3, (-1, self.slices)), -3, -2)
        return heads[..., : self.problem.value_dim, :]


def _added_up(x: mx.array, count: int) -> mx.array:
    """Add up what each so many heads have."""
    return x if count == 1 else mx.sum(mx.unflatten(x, 2, (-1, count)), axis=3)


def _with_state(problem: DeltaProblem, given: Arrays, state: mx.array) -> list[mx.array]:
    """Return the operands of an update of some tokens, from a state."""
    names = replace(problem, state=True).operand_names
    return [state if name == "initial_state" else given[name] for name in names]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockwiseBackward(_Backward):
    """The backward pass of an update that also returned states, a block between two at a time.

    Attributes:
        problem: The update that was asked for.
        states: Runs it for the states between blocks; None for a single block.
        blocks: Backward passes of blocks, each from its initial state, by their lengths.
    """

    problem: DeltaProblem
    states: Run | None
    blocks: dict[int, FusedBackward]

    def _gradients(
        self, operands: Sequence[mx.array], factors: Factors, stream: StreamOrDevice
    ) -> list[mx.array]:
        p = self.problem
        *arrays, grad, slope, state_grads = operands
        given = dict(zip(p.operand_names, arrays, strict=True))
        first = given.pop("initial_state", mx.zeros(p.state_shape))
        states = None if self.states is None else self.states(arrays, factors, stream)[2]
        parts = []
        for start in reversed(range(0, p.length, p.every)):
            end = min(start + p.every, p.length)
            if end % p.every == 0:
                slope = slope + state_grads[:, end // p.every - 1]
            block = {name: x[:, start:end] for name, x in given.items()}
            begin = first
            if start:
                assert states is not None
                begin = states[:, start // p.every - 1]
            taken = [*_with_state(p, block, begin), grad[:, start:end], slope]
            *found, slope = self.blocks[end - start](taken, factors, stream)
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
    updates = replace(problem, state=True, every=0)
    slices = slices_of(problem)
    forward: dict[int, Run | None] = {}
    backward: dict[int, Run] = {}
    for start, end in spans(problem.length):
        span = replace(updates, length=end - start, every=CHUNK)
        gradients = sliced(replace(multiplied_problem(span), every=CHUNK), slices)
        run = prepare_gradients(DeltaGradientProblem(update=gradients))
        if run is None:
            return None
        backward[span.length] = run
        forward[span.length] = prepare(span) if span.saved else None
    long = problem.length > SPAN
    return FusedBackward(
        problem=problem,
        slices=slices,
        marks=prepare(replace(updates, every=SPAN)) if long else None,
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

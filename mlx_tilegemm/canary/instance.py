"""The smallest problem that a kernel variant serves with the very text it has for a larger one.

What is compiled into a text (k, n, head sizes, dtypes, alignment) stays; what is a run-time number
(rows, batch, heads, sequence lengths) shrinks to a few, off every tile. Which is which is not
repeated here: an instance is right if the kernel's own plan gives it the same specs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

from ..chips import Chip
from ..kernels import KERNELS
from ..plan import Plan
from ..problem import AttentionProblem, BatchAxis, GemmProblem, Problem

ROWS = (67, 35, 19, 11, 5, 3, 2, 1, 128, 64)
"""Ragged numbers of rows, the most first, then what variants for whole blocks of rows need."""

LENGTHS = ((45, 37), (11, 75), (5, 300), (1, 300), (1, 37))
"""Lengths of q and of k. In the first a causal mask leaves rows with nothing to attend to."""

HEADS = (4, 2)
"""Heads of q and of k."""

MAX_ELEMENTS = 1 << 26
"""Operand elements up to which a problem that nothing smaller stands for is tried itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """A problem to try a kernel variant with.

    Attributes:
        problem: The problem.
        plan: Its plan, of the variant's own specs.
    """

    problem: Problem
    plan: Plan


def smallest_instance(problem: Problem, plan: Plan, chip: Chip) -> Instance | None:
    """Return a small instance of ``plan``'s kernel variant, or None if there is none.

    Args:
        problem: A problem that the plan serves.
        plan: The plan.
        chip: The chip it was chosen for.
    """
    kernel = next(kernel for kernel in KERNELS if plan.kernel == kernel.NAME)
    config = next(one for one in kernel.candidates(problem, chip) if str(one) == plan.config)
    for smaller in _smaller(problem):
        if kernel.reject(smaller, config, chip) is not None:
            continue
        candidate = kernel.plan(smaller, config)
        if _specs(candidate) == _specs(plan):
            return Instance(problem=smaller, plan=candidate)
    if _elements(problem) > MAX_ELEMENTS:
        return None
    return Instance(problem=problem, plan=plan)


def _specs(plan: Plan) -> list[object]:
    return [stage.spec for stage in plan.stages]


def _elements(problem: Problem) -> int:
    if isinstance(problem, GemmProblem):
        return problem.a_elements + problem.b_elements + problem.c_elements
    if not isinstance(problem, AttentionProblem):
        return _elements(problem.attention)
    positional = problem.q_pe_elements + problem.k_pe_elements
    return problem.q_elements + problem.k_elements + problem.v_elements + positional


def _smaller(problem: Problem) -> Iterator[Problem]:
    if isinstance(problem, GemmProblem):
        yield from _smaller_gemms(problem)
    elif isinstance(problem, AttentionProblem):
        yield from _smaller_attentions(problem)
    else:
        for attention in _smaller_attentions(problem.attention):
            yield replace(problem, attention=attention)


def _smaller_gemms(problem: GemmProblem) -> Iterator[GemmProblem]:
    batch = _small_batch(problem.batch)
    sizes = tuple(axis.size for axis in batch)
    for m in ROWS:
        yield replace(problem, m=m, batch=batch, out_shape=(*sizes, m, problem.n))


def _small_batch(batch: tuple[BatchAxis, ...]) -> tuple[BatchAxis, ...]:
    """Return the axes with few steps each; what an operand is broadcast along stays so."""
    sizes = [2 + (index == 0) for index in range(len(batch))]
    small = []
    for index, (axis, size) in enumerate(zip(batch, sizes, strict=True)):
        inner = list(zip(batch[index + 1 :], sizes[index + 1 :], strict=True))
        small.append(
            BatchAxis(
                size=size,
                a=prod(size for other, size in inner if other.a) if axis.a else 0,
                b=prod(size for other, size in inner if other.b) if axis.b else 0,
                c=prod(size for other, size in inner if other.c) if axis.c else 0,
            )
        )
    return tuple(small)


def _smaller_attentions(problem: AttentionProblem) -> Iterator[AttentionProblem]:
    group = problem.num_heads // problem.num_kv_heads
    for num_heads, num_kv_heads in (HEADS, (2 * group, 2)):
        for q_len, kv_len in LENGTHS:
            full = (2, num_heads, q_len, kv_len)
            sizes = zip(full, problem.mask_shape, strict=True)
            batch, heads, rows, columns = (size if given > 1 else 1 for size, given in sizes)
            yield replace(
                problem,
                batch=2,
                num_heads=num_heads,
                num_kv_heads=num_kv_heads,
                q_len=q_len,
                kv_len=kv_len,
                mask_shape=(batch, heads, rows, columns),
                # Some keys are hidden, and those left are still enough to share out.
                window=problem.window and min(problem.window, 2 * kv_len // 3),
                num_pe_heads=min(problem.num_pe_heads, num_kv_heads),
            )

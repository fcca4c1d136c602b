"""Ready calls of a problem's candidates, and their check against the float64 reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod

import mlx.core as mx
import numpy as np

from .. import mlx_route
from ..arguments import Number
from ..backends import Backend
from ..backends.launch import kernel_run
from ..canary.trial import ForwardProblem, stored_operands
from ..dtypes import BOOL, DType, Kind
from ..plan import Plan
from ..problem import AttentionProblem, GemmProblem, MaskKind
from ..verify import reference
from .measure import Launches

ROWS = 16
"""Rows of a result that are compared with the reference."""

PENDING_BYTES = 1 << 28
"""Size of the results that wait for each other in one sample, at most."""

Call = Callable[[], Sequence[mx.array]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A problem with data.

    Attributes:
        problem: The problem.
        operands: Its arrays by name, in the op's order.
        factors: alpha and beta, or the scale.
    """

    problem: ForwardProblem
    operands: dict[str, mx.array]
    factors: tuple[Number, ...]

    def on_kernel(self, plan: Plan, backend: Backend) -> Call:
        """Return the call of a plan's kernels."""
        run = kernel_run(plan, backend, last_is_scalar=False)
        return partial(run, tuple(self.operands.values()), self.factors, None)

    def on_mlx(self) -> Call:
        """Return the call of MLX's own ops."""
        operands, factors = tuple(self.operands.values()), self.factors
        if isinstance(self.problem, GemmProblem):
            return partial(mlx_route.gemm, self.problem, operands, factors, None)
        return partial(mlx_route.attention, self.problem, operands, factors, None)


def workload(problem: ForwardProblem, seed: int = 7) -> Workload:
    """Return a problem with random operands; axes that were folded into rows stay so."""
    if isinstance(problem, GemmProblem):
        sizes = tuple(axis.size for axis in problem.batch)
        problem = replace(problem, out_shape=(*sizes, problem.m, problem.n))
    keys = mx.random.split(mx.random.key(seed), 8)
    stored = stored_operands(problem)
    operands = {
        name: _random(shape, dtype, keys[i])
        for i, (name, (shape, dtype)) in enumerate(stored.items())
    }
    mx.eval(*operands.values())
    return Workload(problem=problem, operands=operands, factors=_factors(problem))


def _random(shape: tuple[int, ...], dtype: DType, random: mx.array) -> mx.array:
    if dtype is BOOL:
        return mx.random.uniform(shape=shape, key=random) < 0.7
    if dtype.kind is Kind.INTEGER:
        return mx.random.randint(
            -100 if dtype.name != "uint8" else 0, 100, shape, key=random
        ).astype(dtype.mlx)
    return mx.random.uniform(-1, 1, shape, key=random).astype(dtype.mlx)


def _factors(problem: ForwardProblem) -> tuple[Number, ...]:
    if isinstance(problem, AttentionProblem):
        return ((problem.head_dim + problem.pe_dim) ** -0.5 if problem.softmax else 1.0,)
    if problem.is_integer:
        return (2 if problem.scaled else 1, 1)
    return (0.5 if problem.scaled else 1.0, 1.0)


def launches(call: Call) -> Launches:
    """Return what makes a call so many times, lets the results pile up a little, and waits."""

    def make(count: int) -> None:
        waiting: list[mx.array] = []
        pending = 0
        for _ in range(count):
            outputs = call()
            waiting += outputs
            pending += sum(one.nbytes for one in outputs)
            if pending >= PENDING_BYTES:
                mx.async_eval(*waiting)
                waiting, pending = waiting[-1:], 0
        mx.eval(*waiting)

    return make


def mistake(work: Workload, outputs: Sequence[mx.array]) -> str | None:
    """Return what is wrong with a call's result, or None; of many rows, some are compared."""
    if isinstance(work.problem, GemmProblem):
        return _gemm_mistake(work.problem, work, outputs[0])
    return _attention_mistake(work.problem, work, outputs[0])


def _gemm_mistake(problem: GemmProblem, work: Workload, output: mx.array) -> str | None:
    p, arrays = problem, dict(work.operands)
    at = mx.array(np.unique(np.linspace(0, p.m - 1, min(ROWS, p.m)).round().astype(np.int32)))
    sizes = tuple(axis.size for axis in p.batch)
    got = mx.take(output.reshape(*sizes, p.m, p.n), at, axis=-2)
    arrays["a"] = mx.take(arrays["a"], at, axis=-1 if p.transpose_a else -2)
    if p.c and p.c_rows:
        arrays["c"] = mx.take(arrays["c"], at, axis=-2)
    value, magnitude = reference.gemm(
        arrays["a"],
        arrays["b"],
        transpose_a=p.transpose_a,
        transpose_b=p.transpose_b,
        c=arrays.get("c"),
        alpha=work.factors[0],
        beta=work.factors[1],
    )
    if p.is_integer:
        return reference.compare(got, reference.wrap(value), 0.0).reason
    bound = reference.gemm_bound(value, magnitude, p.k, p.out)
    return reference.compare(got, value, bound).reason


def _attention_mistake(problem: AttentionProblem, work: Workload, output: mx.array) -> str | None:
    """Compare the last rows, which a causal mask treats as if they were all there are."""
    p, arrays = problem, dict(work.operands)
    rows = min(ROWS, p.q_len)
    arrays["q"] = arrays["q"][..., p.q_len - rows :, :]
    if "q_pe" in arrays:
        arrays["q_pe"] = arrays["q_pe"][..., p.q_len - rows :, :]
    mask: mx.array | str | None = arrays.pop("mask", None)
    if isinstance(mask, mx.array) and p.mask_shape[2] > 1:
        mask = mask[..., p.q_len - rows :, :]
    value, bound, _ = reference.attention(
        arrays.pop("q"),
        arrays.pop("k"),
        arrays.pop("v"),
        scale=work.factors[0],
        softmax=p.softmax,
        mask="causal" if p.mask_kind is MaskKind.CAUSAL else mask,
        window=p.window,
        **arrays,
    )
    got = output.reshape(p.out_shape)[..., p.q_len - rows :, :]
    return reference.compare(got, value, bound + reference.rounding(value, p.out)).reason


def flops(problem: ForwardProblem) -> float:
    """Return the operations that a problem takes at least; a multiply-add is two."""
    if isinstance(problem, GemmProblem):
        return 2.0 * problem.m * problem.n * problem.k * problem.batch_size
    p = problem
    pairs = float(p.q_len * p.kv_len)
    if p.mask_kind is MaskKind.CAUSAL:
        hidden = min(p.q_len, p.kv_len) - 1
        pairs -= hidden * (hidden + 1) / 2
    return 2.0 * p.batch * p.num_heads * pairs * (p.head_dim + p.pe_dim + p.value_dim)


def least_bytes(problem: ForwardProblem) -> float:
    """Return the bytes that a problem has to move: each operand and the result once."""
    stored = stored_operands(problem).values()
    read = sum(prod(shape) * dtype.bytes for shape, dtype in stored)
    return float(read + prod(problem.out_shape) * problem.out.bytes)

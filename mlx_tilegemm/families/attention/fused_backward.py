"""The backward pass of chained attention on its two kernels, and what follows from their results.

The kernels know no positional parts of q and k: these become further columns of q and k, which
copies as much as q and k are large, and the columns of the gradients are parted again.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import mlx.core as mx

from ...backends import StreamOrDevice
from ...core.dtypes import FLOAT32, promote
from ...core.problem import Factors
from .exponents import to_exponent
from .problem import AttentionProblem

if TYPE_CHECKING:
    from ...core.family import Run

Arrays = dict[str, mx.array]


def joined_problem(problem: AttentionProblem) -> AttentionProblem:
    """Return the attention whose gradients the kernels compute: with q_pe in q, and k_pe in k."""
    if problem.q_pe is None or problem.k_pe is None:
        return problem
    # The heads' parts of the gradient of a k_pe that they share are added up unrounded.
    shared = problem.num_pe_heads != problem.num_kv_heads
    return replace(
        problem,
        head_dim=problem.head_dim + problem.pe_dim,
        q=promote(problem.q, problem.q_pe),
        k=FLOAT32 if shared else promote(problem.k, problem.k_pe),
        pe_dim=0,
        num_pe_heads=0,
        q_pe=None,
        k_pe=None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedBackward:
    """The two kernels, ready to run.

    Args:
        problem: The attention.
        names: Operands of the call, in order.
        query_names: Those of the kernel of q's gradient, which takes the joined q and k.
        key_value_names: Likewise of the gradients of k and v.
        query: Runs the kernel of q's gradient.
        key_value: Runs that of k's and v's.
    """

    problem: AttentionProblem
    names: tuple[str, ...]
    query_names: tuple[str, ...]
    key_value_names: tuple[str, ...]
    query: Run
    key_value: Run

    def __call__(
        self, operands: Sequence[mx.array], factors: Factors, stream: StreamOrDevice
    ) -> list[mx.array]:
        """Return the gradients of q, k, v, q_pe, k_pe and, for each batch row, of the sinks."""
        arrays = dict(zip(self.names, operands, strict=True))
        if self.problem.pe_dim:
            arrays |= _joined(self.problem, arrays, stream)
        q, *delta = self.query([arrays[x] for x in self.query_names], factors, stream)
        arrays.update(zip(("delta",), delta, strict=False))
        k, v = self.key_value([arrays[x] for x in self.key_value_names], factors, stream)
        gradients = [q, k, v]
        if self.problem.pe_dim:
            gradients = _parted(self.problem, q, k, v, stream)
        if self.problem.sinks:
            gradients.append(_sink_gradient(arrays, stream))
        return gradients


def _joined(problem: AttentionProblem, arrays: Arrays, stream: StreamOrDevice) -> Arrays:
    wide = joined_problem(problem)
    k_pe = mx.broadcast_to(
        arrays["k_pe"],
        (problem.batch, problem.num_kv_heads, problem.kv_len, problem.pe_dim),
        stream=stream,
    )
    pairs = {"q": (arrays["q"], arrays["q_pe"], wide.q), "k": (arrays["k"], k_pe, wide.k)}
    return {
        name: mx.concatenate(
            [x.astype(dtype.mlx, stream=stream) for x in parts], axis=-1, stream=stream
        )
        for name, (*parts, dtype) in pairs.items()
    }


def _parted(
    problem: AttentionProblem, q: mx.array, k: mx.array, v: mx.array, stream: StreamOrDevice
) -> list[mx.array]:
    """Return the gradients of q, k, v, q_pe and k_pe, given those of the joined q and k."""
    assert problem.q_pe is not None
    assert problem.k_pe is not None
    (own_q, q_pe), (own_k, k_pe) = (
        mx.split(x, [problem.head_dim], axis=-1, stream=stream) for x in (q, k)
    )
    if problem.num_pe_heads != problem.num_kv_heads:
        k_pe = mx.sum(k_pe, axis=1, keepdims=True, stream=stream)
    dtypes = (problem.q, problem.k, problem.v, problem.q_pe, problem.k_pe)
    parts = (own_q, own_k, v, q_pe, k_pe)
    return [x.astype(dtype.mlx, stream=stream) for x, dtype in zip(parts, dtypes, strict=True)]


def _sink_gradient(arrays: Arrays, stream: StreamOrDevice) -> mx.array:
    """Return the gradient of the sinks for each batch row, ``[B, Hq]``, in float32.

    A sink's share of a row has no value, so its slope is that of no other share: minus delta, in
    which the gradient of the log-sum-exp is already.
    """
    with nullcontext() if stream is None else mx.stream(stream):
        shares = _sink_shares(arrays["sinks"].astype(mx.float32)[:, None], arrays)
        return -mx.sum(shares * arrays["delta"], axis=-1)


def _sink_shares(sinks: mx.array, arrays: Arrays) -> mx.array:
    # A row whose highest score is -inf has a sink of -inf, and no share of it.
    if "norm" in arrays:
        peak, share = arrays["norm"][..., 0], arrays["norm"][..., 1]
        exponents = to_exponent(sinks, mx.where) - mx.where(peak == -mx.inf, 0.0, peak)
        return mx.power(2.0, exponents) * share
    return mx.exp(sinks - mx.where(arrays["lse"] == -mx.inf, 0.0, arrays["lse"]))

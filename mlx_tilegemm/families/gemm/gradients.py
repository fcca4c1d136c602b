"""Derivatives and batching of products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

import mlx.core as mx

from ...backends import Backend, StreamOrDevice
from ...call.transforms import fold_mapped, sum_to
from ...core.context import inner_settings
from ...core.problem import Factors, Number
from ...core.shapes import Shape
from .key import (
    WITH_ADDEND,
    WITH_PRODUCT,
    BatchInvariant,
    Exact,
    Scaled,
    TransposeB,
    product_call,
)
from .problem import GemmProblem


def multiply(
    a: mx.array,
    b: mx.array,
    c: mx.array | None = None,
    *,
    factors: Factors = (1.0, 1.0),
    transpose_a: bool = False,
    transpose_b: bool = False,
    out_dtype: mx.Dtype,
    batch_invariant: bool = False,
    exact: bool,
    backend: Backend | None,
    stream: StreamOrDevice,
) -> mx.array:
    """Return ``alpha * op(a) @ op(b) + beta * c`` on a given backend, differentiable in turn."""
    call = product_call(
        "matmul",
        a.shape,
        a.dtype,
        b.shape,
        b.dtype,
        None if c is None else c.shape,
        None if c is None else c.dtype,
        transpose_a,
        TransposeB(transpose_b),
        out_dtype,
        Scaled(factors[0] != 1),
        WITH_PRODUCT,
        WITH_ADDEND,
        BatchInvariant(batch_invariant),
        Exact(exact),
        backend,
        inner_settings(),
    )
    return call((a, b) if c is None else (a, b, c), factors, stream)[0]


@dataclass(frozen=True, slots=True)
class ProductRule:
    """Transforms of one product.

    With C = op(a) op(b): da = dC op(b)^T and db = op(a)^T dC. Every transpose is a flag of the
    product, never a copy.
    """

    problem: GemmProblem
    backend: Backend | None

    def vjp(
        self,
        operands: Sequence[mx.array],
        factors: Factors,
        stream: StreamOrDevice,
        cotangents: Sequence[mx.array],
        outputs: Sequence[mx.array],
    ) -> list[mx.array]:
        """Return a gradient for every operand."""
        if self.problem.is_integer:
            return [mx.zeros_like(x) for x in operands]
        transpose_a, transpose_b = self.problem.transpose_a, self.problem.transpose_b
        a = mx.reshape(operands[0], _matrix_shape(operands[0].shape, is_row=True))
        b = mx.reshape(operands[1], _matrix_shape(operands[1].shape, is_row=False))
        batch = self.problem.out_shape[: max(a.ndim, b.ndim) - 2]
        rows, columns = a.shape[-1 if transpose_a else -2], b.shape[-2 if transpose_b else -1]
        grad = mx.reshape(cotangents[0], (*batch, rows, columns))
        product = partial(self._gradient, batch, factors[0], stream)
        if transpose_a:
            grad_a = product(operands[0], b, grad, transpose_b, True)
        else:
            grad_a = product(operands[0], grad, b, False, not transpose_b)
        if transpose_b:
            grad_b = product(operands[1], grad, a, True, transpose_a)
        else:
            grad_b = product(operands[1], a, grad, not transpose_a, False)
        return [grad_a, grad_b, *_addend_gradients(operands[2:], factors, cotangents[0])]

    def _gradient(
        self,
        batch: Shape,
        alpha: Number,
        stream: StreamOrDevice,
        operand: mx.array,
        left: mx.array,
        right: mx.array,
        transpose_left: bool,
        transpose_right: bool,
    ) -> mx.array:
        """Multiply; the result has the operand's dtype, and its shape by summing over the batch."""
        own_batch = operand.shape[:-2]
        summed = prod(own_batch) != prod(batch)
        stacked = transpose_left and not transpose_right and left.shape[:-2] == right.shape[:-2]
        if stacked and prod(own_batch) == 1:
            # Summing over the batch is contracting a longer axis.
            left, right = (mx.reshape(x, (-1, x.shape[-1])) for x in (left, right))
            summed = False
        product = multiply(
            left,
            right,
            factors=(alpha, 1.0),
            transpose_a=transpose_left,
            transpose_b=transpose_right,
            out_dtype=mx.float32 if summed else operand.dtype,
            exact=self.problem.exact,
            backend=self.backend,
            stream=stream,
        )
        if summed:
            product = sum_to(product, (*own_batch, *product.shape[-2:])).astype(operand.dtype)
        return mx.reshape(product, operand.shape)

    def jvp(
        self,
        operands: Sequence[mx.array],
        factors: Factors,
        stream: StreamOrDevice,
        tangents: Sequence[mx.array | None],
    ) -> list[mx.array]:
        """Return a tangent for every output."""
        out = self.problem.out.mlx
        if self.problem.is_integer:
            return [mx.zeros(self.problem.out_shape, dtype=out)]
        a, b = operands[:2]
        pairs = ((tangents[0], b), (a, tangents[1]))
        terms = [(x, y) for x, y in pairs if x is not None and y is not None]
        total = tangents[2] if len(tangents) > 2 else None
        alpha, beta = factors
        if not terms:
            constant = mx.zeros(()) if total is None else total.astype(mx.float32) * float(beta)
            return [mx.broadcast_to(constant, self.problem.out_shape).astype(out)]
        for i, (x, y) in enumerate(terms, start=1):
            total = multiply(
                x,
                y,
                total,
                factors=(alpha, beta),
                transpose_a=self.problem.transpose_a,
                transpose_b=self.problem.transpose_b,
                out_dtype=out if i == len(terms) else mx.float32,
                exact=self.problem.exact,
                backend=self.backend,
                stream=stream,
            )
            beta = 1.0
        assert total is not None
        return [total]

    def vmap(
        self,
        operands: Sequence[mx.array],
        factors: Factors,
        stream: StreamOrDevice,
        axes: Sequence[int | None],
    ) -> list[mx.array]:
        """Return the outputs for operands with a further axis each."""
        ranks = [x.ndim - (axis is not None) for x, axis in zip(operands, axes, strict=True)]
        batch_rank = max(2, *ranks[:2]) - 2
        a, b = (
            fold_mapped(x, axis, partial(_padded_matrix, batch_rank=batch_rank, is_row=is_row))
            for x, axis, is_row in zip(operands, axes, (True, False), strict=False)
        )
        rows, columns = ranks[0] > 1, ranks[1] > 1
        addend = partial(_padded_addend, batch_rank=batch_rank, rows=rows, columns=columns)
        c = [fold_mapped(x, axis, addend) for x, axis in zip(operands[2:], axes[2:], strict=True)]
        product = partial(
            multiply,
            a,
            b,
            transpose_a=self.problem.transpose_a,
            transpose_b=self.problem.transpose_b,
            batch_invariant=self.problem.batch_invariant,
            exact=self.problem.exact,
            backend=self.backend,
            stream=stream,
        )
        out = self.problem.out.mlx
        if axes[0] is None and axes[1] is None:
            # One product serves every mapped addend.
            wide = mx.int32 if self.problem.is_integer else mx.float32
            once = product(factors=(factors[0], 1), out_dtype=wide)
            result = (once + mx.array(factors[1], dtype=wide) * c[0].astype(wide)).astype(out)
        else:
            result = product(*c, factors=factors, out_dtype=out)
        count = next(x.shape[a] for x, a in zip(operands, axes, strict=True) if a is not None)
        return [mx.reshape(result, (count, *self.problem.out_shape))]


def _addend_gradients(
    operands: Sequence[mx.array], factors: Factors, grad: mx.array
) -> list[mx.array]:
    total = [sum_to(grad.astype(mx.float32), c.shape) for c in operands]
    beta = float(factors[1])
    return [(x * beta).astype(c.dtype) for x, c in zip(total, operands, strict=True)]


def _matrix_shape(shape: Shape, is_row: bool) -> Shape:
    if len(shape) > 1:
        return shape
    return (1, *shape) if is_row else (*shape, 1)


def _padded_matrix(shape: Shape, batch_rank: int, is_row: bool) -> Shape:
    matrix = _matrix_shape(shape, is_row)
    return (*(1,) * (batch_rank + 2 - len(matrix)), *matrix)


def _padded_addend(shape: Shape, batch_rank: int, rows: bool, columns: bool) -> Shape:
    """Give an addend every batch axis of the result, a row axis and a column axis."""
    rank = batch_rank + rows + columns
    padded = (*(1,) * (rank - len(shape)), *shape)
    row_axis = padded[batch_rank : batch_rank + 1] if rows else (1,)
    column_axis = padded[rank - 1 :] if columns else (1,)
    return (*padded[:batch_rank], *row_axis, *column_axis)

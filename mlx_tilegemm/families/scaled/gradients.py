"""Derivatives and batching of products of scaled codes.

A product is linear in ``a`` where that is a float, in scales of floats and in the bias. Codes have
no gradient, nor have scales that are codes themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import mlx.core as mx

from ...backends import Backend, StreamOrDevice
from ...call.precision import refuse_rounding
from ...call.transforms import bring_forward, sum_to
from ...core import mlx_ops
from ...core.context import inner_settings
from ...core.dtypes import FLOAT8_E8M0, FLOAT32, DType, Kind, from_mlx
from ...core.problem import Factors
from ...core.scaling import Scaling
from ...core.shapes import Shape, pad
from ...formats import element_values, scale_sums
from .fallback import left_values
from .key import NAME, problem_call
from .problem import ScaledProblem, scaled_problem

Given = Mapping[str, mx.array]


@dataclass(frozen=True, slots=True)
class ScaledRule:
    """Transforms of one product.

    With A = a * a_scales, B likewise and y = A B: dA = dy B^T, the same codes read the other way,
    and dB = A^T dy. da is dA times the scales of a, and the gradient of a scale is the sum of dA
    times the elements of a over all that share it.
    """

    problem: ScaledProblem
    backend: Backend | None

    def vjp(
        self,
        operands: Sequence[mx.array],
        factors: Factors,
        stream: StreamOrDevice,
        cotangents: Sequence[mx.array],
        outputs: Sequence[mx.array],
    ) -> list[mx.array]:
        """Return a gradient for every operand; that of codes is zero."""
        given = self._given(operands)
        found = {name: mx.zeros_like(array) for name, array in given.items()}
        if mx.issubdtype(cotangents[0].dtype, mx.floating):
            grad = mx.reshape(cotangents[0], self._matrices_shape(given))
            found |= self._left_gradients(given, grad, stream)
            if _is_float(self.problem.b_scales):
                if self.problem.exact:
                    refuse_rounding(NAME, stream)
                found["b_scales"] = self._right_gradient(given, grad)
            if self.problem.bias is not None:
                bias = given["bias"]
                found["bias"] = sum_to(grad.astype(mx.float32), bias.shape).astype(bias.dtype)
        return [found[name] for name in self.problem.operand_names]

    def _given(self, operands: Sequence[mx.array]) -> dict[str, mx.array]:
        return dict(zip(self.problem.operand_names, operands, strict=True))

    def _matrices_shape(self, given: Given) -> Shape:
        """Return the result's shape with an axis of rows."""
        batch_rank = max(given["a"].ndim, given["b"].ndim) - 2
        rows = given["a"].shape[-2:-1] or (1,)
        return (*self.problem.out_shape[:batch_rank], *rows, self.problem.n)

    def _left_gradients(
        self, given: Given, grad: mx.array, stream: StreamOrDevice
    ) -> dict[str, mx.array]:
        problem, a = self.problem, given["a"]
        scaling, is_float = problem.a_scales, problem.a.native and problem.a.kind is Kind.FLOAT
        if not is_float and not _is_float(scaling):
            return {}
        own = _matrix(a.shape)
        summed = prod(own[:-2]) != prod(grad.shape[:-2])
        alone = scaling is None and not summed
        product = self._product(
            {"a": grad, **_turned_operands(problem, given)},
            None,
            problem.b_scales and problem.b_scales.turned(),
            not problem.transpose_b,
            a.dtype if alone else mx.float32,
            stream,
        )
        product = mx.reshape(sum_to(product, own), a.shape)
        if scaling is None:
            return {"a": product.astype(a.dtype)}
        found = {}
        if is_float:
            exact = replace(problem, a=FLOAT32)
            found["a"] = left_values(exact, {**given, "a": product}).astype(a.dtype)
        if _is_float(scaling):
            terms = mx.reshape(product * element_values(problem.a, a), own)
            found["a_scales"] = scale_sums(scaling, terms, given["a_scales"], transposed=False)
        return found

    def _right_gradient(self, given: Given, grad: mx.array) -> mx.array:
        problem, b = self.problem, given["b"]
        assert problem.b_scales is not None
        a = mx.reshape(left_values(problem, given), _matrix(given["a"].shape))
        a = mx.broadcast_to(a, (*grad.shape[:-2], *a.shape[-2:]))
        grad = grad.astype(mx.float32)
        if b.ndim == 2:
            a, grad = (mx.reshape(one, (-1, one.shape[-1])) for one in (a, grad))
        left, right = (grad, a) if problem.transpose_b else (a, grad)
        whole = sum_to(mlx_ops.matmul(mx.swapaxes(left, -1, -2), right), b.shape)
        terms = whole * element_values(problem.b, b)
        transposed = not problem.transpose_b
        return scale_sums(problem.b_scales, terms, given["b_scales"], transposed=transposed)

    def jvp(
        self,
        operands: Sequence[mx.array],
        factors: Factors,
        stream: StreamOrDevice,
        tangents: Sequence[mx.array | None],
    ) -> list[mx.array]:
        """Return the tangent of the result."""
        given = self._given(operands)
        moved = {
            name: tangent
            for name, tangent in zip(given, tangents, strict=True)
            if tangent is not None and mx.issubdtype(given[name].dtype, mx.floating)
        }
        total = mx.zeros(self.problem.out_shape)
        for name in ("a", "a_scales", "b_scales"):
            if name in moved:
                total = total + self._term({**given, name: moved[name]}, stream)
        if "bias" in moved:
            total = total + moved["bias"].astype(mx.float32)
        return [total.astype(self.problem.out.mlx)]

    def _term(self, given: Given, stream: StreamOrDevice) -> mx.array:
        problem = self.problem
        return self._product(
            {name: array for name, array in given.items() if name != "bias"},
            self._left_scaling(given),
            problem.b_scales,
            problem.transpose_b,
            mx.float32,
            stream,
        )

    def _left_scaling(self, given: Given) -> Scaling | None:
        """Return how the scales of ``a`` lie in the caller's axes, before any is folded."""
        scaling = self.problem.a_scales
        if scaling is None or not scaling.height:
            return scaling
        return replace(scaling, batched=given["a"].ndim > 2)

    def vmap(
        self,
        operands: Sequence[mx.array],
        factors: Factors,
        stream: StreamOrDevice,
        axes: Sequence[int | None],
    ) -> list[mx.array]:
        """Return the outputs for operands with a further axis each."""
        problem = self.problem
        given, mapped, count = bring_forward(problem.operand_names, operands, axes)
        single = {name: x[0] if name in mapped else x for name, x in given.items()}
        rank = max(2, single["a"].ndim, single["b"].ndim)
        left, a_scaling = _mapped_side(
            "a", given, mapped, count, rank, self._left_scaling(single), transposed=False
        )
        right, b_scaling = _mapped_side(
            "b", given, mapped, count, rank, problem.b_scales, transposed=not problem.transpose_b
        )
        bias = given.get("bias")
        fused = {} if bias is None or "bias" in mapped else {"bias": bias}
        out = problem.out.mlx if "bias" not in mapped else mx.float32
        product = self._product(
            {**left, **right, **fused}, a_scaling, b_scaling, problem.transpose_b, out, stream
        )
        product = mx.reshape(product, (-1, *problem.out_shape))
        if bias is not None and "bias" in mapped:
            ones = (1,) * (len(problem.out_shape) - 1)
            product = product + mx.reshape(bias, (count, *ones, problem.n)).astype(mx.float32)
        shape = (count, *problem.out_shape)
        return [mx.broadcast_to(product, shape).astype(problem.out.mlx)]

    def _product(
        self,
        given: Given,
        a_scaling: Scaling | None,
        b_scaling: Scaling | None,
        transpose_b: bool,
        out_dtype: mx.Dtype,
        stream: StreamOrDevice,
    ) -> mx.array:
        """Return a product on the call's own backend, differentiable in turn."""
        a, bias = given["a"], given.get("bias")
        problem = scaled_problem(
            NAME,
            a_shape=a.shape,
            b_shape=given["b"].shape,
            a=_row(a.dtype) if mx.issubdtype(a.dtype, mx.floating) else self.problem.a,
            b=self.problem.b,
            a_scales=a_scaling,
            b_scales=b_scaling,
            bias=None if bias is None else _row(bias.dtype),
            out=_row(out_dtype),
            transpose_b=transpose_b,
            batch_invariant=self.problem.batch_invariant,
            exact=self.problem.exact,
        )
        settings = inner_settings()
        call = problem_call(problem, self.backend, settings)
        return call([given[name] for name in problem.operand_names], (), stream)[0]


def _matrix(shape: Shape) -> Shape:
    """Return the shape of ``a`` with an axis of rows."""
    return shape if len(shape) > 1 else (1, *shape)


def _row(dtype: mx.Dtype) -> DType:
    row = from_mlx(dtype)
    assert row is not None
    return row


def _is_float(scaling: Scaling | None) -> bool:
    return scaling is not None and scaling.dtype is not FLOAT8_E8M0


def _turned_operands(problem: ScaledProblem, given: Given) -> dict[str, mx.array]:
    """Return ``b`` and its scales, which have both axes: the only one is no longer the columns."""
    found = {"b": given["b"]}
    if problem.b_scales is not None:
        scales = given["b_scales"]
        if scales.ndim == 1 and scales.size > 1:
            scales = mx.expand_dims(scales, -1 if problem.transpose_b else -2)
        found["b_scales"] = scales
    return found


def _mapped_side(
    name: str,
    given: Given,
    mapped: set[str],
    count: int,
    rank: int,
    scaling: Scaling | None,
    *,
    transposed: bool,
) -> tuple[dict[str, mx.array], Scaling | None]:
    """Return an operand and its scales with the mapped axis before all others that broadcast.

    Args:
        name: Of the operand.
        given: All operands, mapped axes first.
        mapped: Names of those that have one.
        count: Its length.
        rank: Axes that operands have without it.
        scaling: How the scales lie; None without.
        transposed: The operand is stored ``[k, n]``.
    """
    of_scales, codes = f"{name}_scales", given[name]
    shape = _matrix(codes.shape[1:] if name in mapped else codes.shape)
    scales = given.get(of_scales)
    if name not in mapped and of_scales not in mapped:
        found = {name: mx.reshape(codes, shape)}
        if scales is not None:
            is_row = codes.ndim == scales.ndim == 1
            found[of_scales] = mx.expand_dims(scales, 0) if is_row else scales
        return found, scaling
    full = pad(shape, rank)
    codes = mx.reshape(codes, (count if name in mapped else 1, *full))
    codes = mx.broadcast_to(codes, (count, *full))
    if scaling is None or scales is None:
        return {name: codes}, None
    if of_scales not in mapped and _is_of_all(scaling):
        return {name: codes, of_scales: scales}, scaling
    rows, depth = full[:-3:-1] if transposed else full[-2:]
    grid = scaling.counts(rows, depth)
    grid = grid[::-1] if transposed else grid
    own = (count,) if of_scales in mapped else (1,)
    batch = full[:-2] if scales.size > prod(own) * prod(grid) else (1,) * (rank - 2)
    scales = mx.reshape(scales, (*own, *batch, *grid))
    scales = mx.broadcast_to(scales, (count, *full[:-2], *grid))
    return {name: codes, of_scales: scales}, replace(scaling, batched=True)


def _is_of_all(scaling: Scaling) -> bool:
    return not (scaling.height or scaling.width or scaling.batched)

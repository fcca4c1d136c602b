"""Derivatives and batching of products with chosen matrices.

Products are linear in ``x``, in a plain weight, in the scales and biases of affine groups, and in
scales of floats of codes of a byte.
Codes and indices are integers and have no gradient, nor have scales that are codes themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx

from ...backends import Backend, StreamOrDevice
from ...call.transforms import bring_forward
from ...core.context import inner_settings
from ...core.dtypes import FLOATS
from ...core.problem import Factors
from ...core.scaling import BYTE_FORMATS
from ...formats import TENSOR_SCALE, element_values, scale_sums, unpack
from .fallback import mlx_call
from .indices import flat_indices
from .key import (
    GATHER_FP8_MM,
    GATHER_MM,
    GATHER_QMM,
    GROUPED_MATMUL,
    SEGMENTED_MM,
    ExpertKey,
    expert_call,
    stated,
)
from .problem import ExpertProblem, SegmentedProblem

Given = Mapping[str, mx.array]


def _call(
    op: str,
    arrays: dict[str, mx.array],
    options: dict[str, Any],
    backend: Backend | None,
    stream: StreamOrDevice,
) -> mx.array:
    """Return an op's result on a given backend, differentiable in turn."""
    key = ExpertKey(
        op=op,
        arrays=stated(arrays),
        options=tuple(options.items()),
        backend=backend,
        settings=inner_settings(),
    )
    return expert_call(key).run(list(arrays.values()), (), stream)[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertRule:
    """Transforms of products with chosen matrices.

    With y[p] = x[source] W[expert]: dx[source] is the sum over its products of dy W^T, the same
    weight read the other way, and dW[expert] that of x^T dy: of rows in the order of experts, it is
    the product of segments.
    """

    problem: ExpertProblem
    backend: Backend | None

    def vjp(
        self,
        operands: Sequence[mx.array],
        factors: Factors,
        stream: StreamOrDevice,
        cotangents: Sequence[mx.array],
        outputs: Sequence[mx.array],
    ) -> list[mx.array]:
        """Return a gradient for every operand; those of codes and indices are zero."""
        p, given = self.problem, self._given(operands)
        grad = mx.reshape(cotangents[0], (p.products, p.m, p.n))
        found = {name: mx.zeros_like(array) for name, array in given.items()}
        if p.is_empty and p.bias is None:
            return list(found.values())
        found["x"] = self._x_gradient(given, grad, stream)
        if p.has_codes:
            found |= self._scale_gradients(given, grad, stream)
        elif p.weight is None:
            whole = self._weight_gradient(given, grad, given["w"].dtype, stream)
            found["w"] = mx.reshape(whole, given["w"].shape)
        elif p.biases is not None:
            found["scales"], found["biases"] = self._group_gradients(given, grad, stream)
        grad = grad.astype(mx.float32)
        if p.tensor_scale:
            unscaled = self._unscaled(given, stream)
            per_product = mx.sum(grad * unscaled, axis=(1, 2)) / TENSOR_SCALE
            found["global_scale"] = self._by_expert(given, per_product)
        if p.bias is not None:
            rows = self._by_expert(given, mx.sum(grad, axis=1))
            found["bias"] = rows.astype(given["bias"].dtype)
        return [found[name] for name in p.operand_names]

    def _given(self, operands: Sequence[mx.array]) -> dict[str, mx.array]:
        return dict(zip(self.problem.operand_names, operands, strict=True))

    def _x_gradient(self, given: Given, grad: mx.array, stream: StreamOrDevice) -> mx.array:
        p, x = self.problem, given["x"]
        one = p.fanout == 1
        out_dtype = x.dtype if one else mx.float32
        weight = {name: given[name] for name in self._weight_names if name in given}
        product = self._product(
            {"x": grad, **weight, **self._experts_of(given)},
            transpose=not p.transpose,
            out_dtype=out_dtype,
            stream=stream,
        )
        product = mx.reshape(product, (p.products, p.m, p.k))
        if not one and p.fanout:
            product = mx.sum(mx.reshape(product, (p.sources, p.fanout, p.m, p.k)), axis=1)
        elif not one:
            zeros = mx.zeros((p.sources, p.m, p.k))
            product = zeros.at[given["lhs_indices"]].add(product)
        return mx.reshape(product, x.shape).astype(x.dtype)

    @property
    def _weight_names(self) -> tuple[str, ...]:
        return ("w", "scales", "biases", "global_scale")

    def _experts_of(self, given: Given) -> dict[str, mx.array]:
        name = "offsets" if self.problem.grouped else "rhs_indices"
        return {name: given[name]}

    def _indices(self, given: Given) -> tuple[mx.array, mx.array]:
        """Return the expert of each product, 0 where it has none, and whether it has one."""
        p = self.problem
        if p.grouped:
            rows = mx.arange(p.products)[:, None]
            found = mx.sum(given["offsets"][None] <= rows, axis=1).astype(mx.int32)
        else:
            found = given["rhs_indices"]
        known = mx.logical_and(found >= 0, found < p.experts)
        return mx.where(known, found, 0), known

    def _sources(self, given: Given) -> mx.array:
        """Return the matrix of ``x`` of each product."""
        p = self.problem
        return given["lhs_indices"] if not p.fanout else mx.arange(p.products) // p.fanout

    def _by_expert(self, given: Given, values: mx.array) -> mx.array:
        """Return the sum of what products have, ``[products, ...]``, for each expert."""
        experts, known = self._indices(given)
        shape = (-1, *(1,) * (values.ndim - 1))
        values = mx.where(mx.reshape(known, shape), values, 0)
        return mx.zeros((self.problem.experts, *values.shape[1:])).at[experts].add(values)

    def _weight_gradient(
        self, given: Given, grad: mx.array, dtype: mx.Dtype, stream: StreamOrDevice
    ) -> mx.array:
        """Return the gradient of all experts' matrices, as they are stored."""
        p = self.problem
        x = mx.reshape(given["x"], (p.sources, p.m, p.k))
        if p.grouped:
            ends = given["offsets"]
        else:
            experts, known = self._indices(given)
            experts = mx.where(known, experts, p.experts)
            order = mx.argsort(experts)
            x = mx.take(x, mx.take(self._sources(given), order), axis=0)
            grad = mx.take(grad, order, axis=0)
            upto = experts[None] <= mx.arange(p.experts)[:, None]
            ends = p.m * mx.sum(upto, axis=1).astype(mx.int32)
        starts = mx.concatenate([mx.zeros((1,), mx.int32), ends[:-1]])
        rows, others = (mx.reshape(one, (p.rows, one.shape[-1])) for one in (x, grad))
        left, right = (others, rows) if p.transpose else (rows, others)
        return _call(
            SEGMENTED_MM,
            {"a": left, "b": right, "segments": mx.stack([starts, ends], axis=1)},
            {"transpose_a": True, "out_dtype": dtype, "exact": p.exact},
            self.backend,
            stream,
        )

    def _scale_gradients(
        self, given: Given, grad: mx.array, stream: StreamOrDevice
    ) -> dict[str, mx.array]:
        """Return the gradients of the scales of codes of a byte, where they are floats."""
        p = self.problem
        if p.scaling is None or p.scaling.dtype not in FLOATS:
            return {}
        whole = self._weight_gradient(given, grad, mx.float32, stream)
        terms = whole * mx.reshape(element_values(p.w, given["w"]), whole.shape)
        return {"scales": scale_sums(p.scaling, terms, given["scales"], transposed=not p.transpose)}

    def _group_gradients(
        self, given: Given, grad: mx.array, stream: StreamOrDevice
    ) -> tuple[mx.array, mx.array]:
        assert self.problem.weight is not None
        form = self.problem.weight
        whole = self._weight_gradient(given, grad, mx.float32, stream)
        codes = mx.reshape(unpack(given["w"], form.bits), whole.shape)
        whole, codes = (mx.unflatten(one, -1, (-1, form.group)) for one in (whole, codes))
        found = {
            "scales": mx.sum(whole * codes.astype(mx.float32), axis=-1),
            "biases": mx.sum(whole, axis=-1),
        }
        scales, biases = (
            mx.reshape(one, given[name].shape).astype(given[name].dtype)
            for name, one in found.items()
        )
        return scales, biases

    def _unscaled(self, given: Given, stream: StreamOrDevice) -> mx.array:
        """Return the products without their tensor scales and biases, lazily, in float32."""
        p = replace(
            self.problem.stored(), tensor_scale=False, bias=None, out=self.problem.accumulates
        )
        return mlx_call(p)([given[name] for name in p.operand_names], (), stream)[0]

    def jvp(
        self,
        operands: Sequence[mx.array],
        factors: Factors,
        stream: StreamOrDevice,
        tangents: Sequence[mx.array | None],
    ) -> list[mx.array]:
        """Return the tangent of the result."""
        p, given = self.problem, self._given(operands)
        moved = {
            name: tangent
            for name, tangent in zip(given, tangents, strict=True)
            if tangent is not None and mx.issubdtype(tangent.dtype, mx.floating)
        }
        rest = {name: array for name, array in given.items() if name != "bias"}
        terms = []
        if "x" in moved:
            terms.append(self._term({**rest, "x": moved["x"]}, stream))
        if "w" in moved:
            terms.append(self._term({**rest, "w": moved["w"]}, stream))
        if p.has_codes and "scales" in moved:
            terms.append(self._term({**rest, "scales": moved["scales"]}, stream))
        if p.biases is not None and ("scales" in moved or "biases" in moved):
            groups = {
                name: moved.get(name, mx.zeros_like(given[name])) for name in ("scales", "biases")
            }
            terms.append(self._term({**rest, **groups}, stream))
        if "global_scale" in moved:
            terms.append(self._term({**rest, "global_scale": moved["global_scale"]}, stream))
        if "bias" in moved:
            experts, known = self._indices(given)
            rows = mx.take(moved["bias"], experts, axis=0).astype(mx.float32)
            rows = mx.where(known[:, None], rows, 0)[:, None]
            terms.append(mx.reshape(mx.broadcast_to(rows, (p.products, p.m, p.n)), p.out_shape))
        total = sum(terms, mx.zeros(p.out_shape))
        return [total.astype(p.out.mlx)]

    def _term(self, given: dict[str, mx.array], stream: StreamOrDevice) -> mx.array:
        product = self._product(
            given, transpose=self.problem.transpose, out_dtype=mx.float32, stream=stream
        )
        return mx.reshape(product, self.problem.out_shape)

    def vmap(
        self,
        operands: Sequence[mx.array],
        factors: Factors,
        stream: StreamOrDevice,
        axes: Sequence[int | None],
    ) -> list[mx.array]:
        """Return the outputs for operands with a further axis each: as many times more products."""
        p = self.problem
        given, mapped, count = bring_forward(p.operand_names, operands, axes)
        found = _matrices(p, given, mapped, count)
        sources, experts = self._mapped_indices(given, mapped, count)
        product = self._product(
            {**found, "lhs_indices": sources, "rhs_indices": experts},
            transpose=p.transpose,
            out_dtype=p.out.mlx,
            stream=stream,
        )
        return [mx.reshape(product, (count, *p.out_shape))]

    def _mapped_indices(
        self, given: Given, mapped: set[str], count: int
    ) -> tuple[mx.array, mx.array]:
        """Return the matrix of ``x`` and the expert of each product of each mapping."""
        p = self.problem
        which = mx.arange(count, dtype=mx.int32)[:, None]
        sources = self._sources(given)
        sources = mx.broadcast_to(sources.astype(mx.int32), (count, p.products))
        if "x" in mapped:
            sources = sources + which * p.sources
        if "offsets" in mapped:
            rows = mx.arange(p.products)[:, None]
            experts = mx.sum(given["offsets"][:, None] <= rows, axis=-1).astype(mx.int32)
            known = experts < p.experts
        elif "rhs_indices" in mapped:
            experts = given["rhs_indices"]
            known = mx.logical_and(experts >= 0, experts < p.experts)
        else:
            experts, known = self._indices(given)
        experts = mx.broadcast_to(mx.where(known, experts, -1), (count, p.products))
        if mapped & _WEIGHT:
            experts = mx.where(experts < 0, -1, experts + which * p.experts)
        return mx.reshape(sources, (-1,)), mx.reshape(experts, (-1,))

    def _product(
        self,
        given: dict[str, mx.array],
        *,
        transpose: bool,
        out_dtype: mx.Dtype,
        stream: StreamOrDevice,
    ) -> mx.array:
        """Return products of these operands on the call's own backend."""
        p = self.problem
        rows, columns = p.weight_shape
        options: dict[str, Any] = {"out_dtype": out_dtype, "exact": p.exact}
        arrays = dict(given)
        x = mx.reshape(arrays.pop("x"), (-1, p.m, p.k if transpose == p.transpose else p.n))
        w = arrays.pop("w")
        if p.weight is not None:
            options |= {
                "transpose": transpose,
                "group_size": p.weight.group,
                "bits": p.weight.bits,
                "mode": p.weight.mode,
                "sorted_indices": False,
            }
            stacks = {"w": w, "scales": arrays.pop("scales")}
            if "biases" in arrays:
                stacks["biases"] = arrays.pop("biases")
            weight = {name: mx.reshape(one, (-1, *one.shape[-2:])) for name, one in stacks.items()}
            return self._gathered(GATHER_QMM, {"x": x, **weight, **arrays}, options, stream)
        w = mx.reshape(w, (-1, rows, columns))
        if p.has_codes:
            return self._coded_product({"x": x, "w": w, **arrays}, transpose, options, stream)
        options["transpose_b"] = transpose
        if "offsets" in arrays:
            x = mx.reshape(x, (-1, x.shape[-1]))
            return _call(GROUPED_MATMUL, {"a": x, "b": w, **arrays}, options, self.backend, stream)
        options["sorted_indices"] = False
        return self._gathered(GATHER_MM, {"a": x, "b": w, **arrays}, options, stream)

    def _coded_product(
        self,
        arrays: dict[str, mx.array],
        transpose: bool,
        options: dict[str, Any],
        stream: StreamOrDevice,
    ) -> mx.array:
        """Return products with codes of a byte; scales are as of this problem, or turned."""
        p, names = self.problem, {row: name for name, row in BYTE_FORMATS.items()}
        options |= {"format": names[p.w], "transpose": transpose, "sorted_indices": False}
        if p.scaling is not None:
            counts = p.scaling.stored_counts(p.n, p.k, p.transpose)
            same = transpose == p.transpose
            options["scaling"] = p.scaling if same else p.scaling.turned()
            arrays["scales"] = mx.reshape(arrays["scales"], (-1, *counts))
        return self._gathered(GATHER_FP8_MM, arrays, options, stream)

    def _gathered(
        self,
        op: str,
        arrays: dict[str, mx.array],
        options: dict[str, Any],
        stream: StreamOrDevice,
    ) -> mx.array:
        """Return gathered products; a matrix of ``x`` that several share has its index stated."""
        x, experts = next(iter(arrays.values())), arrays["rhs_indices"]
        if "lhs_indices" not in arrays and x.shape[0] != experts.shape[0]:
            sources = self._sources({})
            arrays["lhs_indices"] = flat_indices(sources, (), sources.shape, stream)
        ordered = {name: one for name, one in arrays.items() if name not in _CHOICE}
        ordered |= {name: arrays[name] for name in _CHOICE if name in arrays}
        return _call(op, ordered, options, self.backend, stream)


_CHOICE = ("lhs_indices", "rhs_indices")
_WEIGHT = frozenset(("w", "scales", "biases", "global_scale", "bias"))


def _matrices(
    problem: ExpertProblem, given: Given, mapped: set[str], count: int
) -> dict[str, mx.array]:
    """Return ``x`` and the weight with mapped axes among the matrices that indices choose from."""
    is_mapped = bool(mapped & _WEIGHT)
    found = {"x": mx.reshape(given["x"], (-1, problem.m, problem.k))}
    for one in problem.operands:
        if one.name not in _WEIGHT:
            continue
        shape = (problem.experts, *one.stored_shape[1:])
        array = mx.reshape(given[one.name], (-1, *shape))
        if is_mapped:
            array = mx.broadcast_to(array, (count, *shape))
        found[one.name] = mx.reshape(array, (-1, *shape[1:]))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentedRule:
    """Transforms of products of segments.

    With y[s] = A M[s] B, where M[s] keeps segment s: dA is the sum of dy[s] B^T M[s] over all s,
    and dB that of M[s] A^T dy[s]. Segments may share elements, so that each has a product of its
    own.
    """

    problem: SegmentedProblem
    backend: Backend | None

    def vjp(
        self,
        operands: Sequence[mx.array],
        factors: Factors,
        stream: StreamOrDevice,
        cotangents: Sequence[mx.array],
        outputs: Sequence[mx.array],
    ) -> list[mx.array]:
        """Return a gradient for every operand; that of segments is zero."""
        p = self.problem
        a, b, segments = operands
        grad = mx.reshape(cotangents[0], (p.segments, p.m, p.n)).astype(mx.float32)
        left, right = (one.astype(mx.float32) for one in (a, b))
        left = left.T if p.transpose_a else left
        right = right.T if p.transpose_b else right
        at = mx.arange(p.k)
        starts, ends = (mx.reshape(segments[:, i], (-1, 1)) for i in range(2))
        inside = mx.logical_and(at >= starts, at < ends).astype(mx.float32)
        grad_a = mx.sum((grad @ right.T) * inside[:, None], axis=0)
        grad_b = mx.sum((left.T @ grad) * inside[:, :, None], axis=0)
        grad_a = grad_a.T if p.transpose_a else grad_a
        grad_b = grad_b.T if p.transpose_b else grad_b
        return [grad_a.astype(a.dtype), grad_b.astype(b.dtype), mx.zeros_like(segments)]

    def jvp(
        self,
        operands: Sequence[mx.array],
        factors: Factors,
        stream: StreamOrDevice,
        tangents: Sequence[mx.array | None],
    ) -> list[mx.array]:
        """Return the tangent of the result."""
        a, b, segments = operands
        pairs = ((tangents[0], b), (a, tangents[1]))
        terms = [
            self._product(left, right, segments, mx.float32, stream)
            for left, right in pairs
            if left is not None and right is not None
        ]
        total = sum(terms, mx.zeros(self.problem.out_shape))
        return [total.astype(self.problem.out.mlx)]

    def vmap(
        self,
        operands: Sequence[mx.array],
        factors: Factors,
        stream: StreamOrDevice,
        axes: Sequence[int | None],
    ) -> list[mx.array]:
        """Return the outputs for operands with a further axis each, one call for each of them."""
        names = self.problem.operand_names
        given, mapped, count = bring_forward(names, operands, axes)
        results = []
        for number in range(count):
            a, b, segments = (x[number] if name in mapped else x for name, x in given.items())
            results.append(self._product(a, b, segments, self.problem.out.mlx, stream))
        return [mx.stack(results)]

    def _product(
        self,
        a: mx.array,
        b: mx.array,
        segments: mx.array,
        out_dtype: mx.Dtype,
        stream: StreamOrDevice,
    ) -> mx.array:
        p = self.problem
        product = _call(
            SEGMENTED_MM,
            {"a": a, "b": b, "segments": segments},
            {
                "transpose_a": p.transpose_a,
                "transpose_b": p.transpose_b,
                "out_dtype": out_dtype,
                "exact": p.exact,
            },
            self.backend,
            stream,
        )
        return mx.reshape(product, p.out_shape)

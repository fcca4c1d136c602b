"""Derivatives and batching of products with quantized weights.

A product is linear in ``x``, and in the scales and biases of affine groups. Codes are integers and
have no gradient, nor have scales that are codes themselves.
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
from ...core.dtypes import FLOAT32
from ...core.problem import Factors
from ...core.shapes import Shape, pad
from ...formats import TENSOR_SCALE, unpack
from .fallback import quantized
from .key import NAME, QuantizedKey, optional, quantized_call, stated
from .problem import ARRAYS, QuantizedProblem

Given = Mapping[str, mx.array]


@dataclass(frozen=True, slots=True)
class QuantizedRule:
    """Transforms of one product.

    With y = x W^T: dx = dy W, the same packed weight read the other way. With dW = dy^T x and
    W = scale * code + bias, a group's dscale is the sum of dW * code over it, and dbias that of dW.
    """

    problem: QuantizedProblem
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
        grad = mx.reshape(cotangents[0], self._matrices_shape(given, self.problem.n))
        found = {name: mx.zeros_like(array) for name, array in given.items()}
        found["x"] = self._x_gradient(given, grad, stream)
        if self.problem.biases is not None:
            if self.problem.exact:
                refuse_rounding(NAME, stream)
            found["scales"], found["biases"] = self._group_gradients(given, grad)
        if self.problem.tensor_scale:
            scale = given["global_scale"]
            total = mx.sum(grad.astype(mx.float32) * self._unscaled(given, stream, grad.shape))
            found["global_scale"] = mx.reshape(total / TENSOR_SCALE, scale.shape)
        if self.problem.bias is not None:
            bias = given["bias"]
            found["bias"] = sum_to(grad.astype(mx.float32), bias.shape).astype(bias.dtype)
        return [found[name] for name in self.problem.operand_names]

    def _given(self, operands: Sequence[mx.array]) -> dict[str, mx.array]:
        return dict(zip(self.problem.operand_names, operands, strict=True))

    def _matrices_shape(self, given: Given, columns: int) -> Shape:
        """Return the result's shape with an axis of rows, and ``columns`` columns."""
        batch_rank = max(given["x"].ndim, given["w"].ndim) - 2
        rows = given["x"].shape[-2:-1] or (1,)
        return (*self.problem.out_shape[:batch_rank], *rows, columns)

    def _x_gradient(self, given: Given, grad: mx.array, stream: StreamOrDevice) -> mx.array:
        x = given["x"]
        own = _matrix(x.shape)
        summed = prod(own[:-2]) != prod(grad.shape[:-2])
        product = self._product(
            {**_weight(given), "x": grad},
            transpose=not self.problem.transpose,
            out_dtype=mx.float32 if summed else x.dtype,
            stream=stream,
        )
        return mx.reshape(sum_to(product, own), x.shape).astype(x.dtype)

    def _group_gradients(self, given: Given, grad: mx.array) -> tuple[mx.array, mx.array]:
        x = mx.reshape(given["x"], _matrix(given["x"].shape)).astype(mx.float32)
        x = mx.broadcast_to(x, (*grad.shape[:-2], *x.shape[-2:]))
        grad = grad.astype(mx.float32)
        if given["w"].ndim == 2:
            x, grad = (mx.reshape(one, (-1, one.shape[-1])) for one in (x, grad))
        left, right = (grad, x) if self.problem.transpose else (x, grad)
        whole = mlx_ops.matmul(mx.swapaxes(left, -1, -2), right)
        codes = unpack(given["w"], self.problem.weight.bits)
        whole = sum_to(whole, codes.shape)
        whole, codes = (
            mx.unflatten(one, -1, (-1, self.problem.weight.group)) for one in (whole, codes)
        )
        scales = mx.sum(whole * codes.astype(mx.float32), axis=-1)
        biases = mx.sum(whole, axis=-1)
        return scales.astype(given["scales"].dtype), biases.astype(given["biases"].dtype)

    def _unscaled(self, given: Given, stream: StreamOrDevice, shape: Shape) -> mx.array:
        """Return the product without the scale of the whole weight and without a bias, lazily."""
        problem = replace(self.problem, tensor_scale=False, bias=None, out=FLOAT32)
        operands = [given[name] for name in problem.operand_names]
        return mx.reshape(quantized(problem)(operands, (), stream)[0], shape)

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
        terms = []
        if "x" in moved:
            terms.append(self._term({**_weight(given), "x": moved["x"]}, stream))
        if "scales" in moved or "biases" in moved:
            groups = {
                name: moved.get(name, mx.zeros_like(given[name])) for name in ("scales", "biases")
            }
            terms.append(self._term({"x": given["x"], "w": given["w"], **groups}, stream))
        if "global_scale" in moved:
            share = mx.reshape(moved["global_scale"], ()) / TENSOR_SCALE
            terms.append(share * self._unscaled(given, stream, self.problem.out_shape))
        if "bias" in moved:
            terms.append(mx.broadcast_to(moved["bias"], self.problem.out_shape).astype(mx.float32))
        total = sum(terms, mx.zeros(self.problem.out_shape))
        return [total.astype(self.problem.out.mlx)]

    def _term(self, given: Given, stream: StreamOrDevice) -> mx.array:
        return self._product(
            given, transpose=self.problem.transpose, out_dtype=mx.float32, stream=stream
        )

    def vmap(
        self,
        operands: Sequence[mx.array],
        factors: Factors,
        stream: StreamOrDevice,
        axes: Sequence[int | None],
    ) -> list[mx.array]:
        """Return the outputs for operands with a further axis each."""
        given, mapped, count = bring_forward(self.problem.operand_names, operands, axes)
        apart = mapped & {"global_scale", "bias"}
        kept = {name: given[name] for name in given if name not in ("global_scale", "bias")}
        if not apart:
            kept |= {name: given[name] for name in ("global_scale", "bias") if name in given}
        product = self._product(
            {**kept, **self._mapped_matrices(kept, mapped, count)},
            transpose=self.problem.transpose,
            out_dtype=mx.float32 if apart else self.problem.out.mlx,
            stream=stream,
        )
        product = mx.reshape(product, (-1, *self.problem.out_shape))
        if apart:
            product = self._mapped_ends(product, given, mapped)
        shape = (count, *self.problem.out_shape)
        return [mx.broadcast_to(product, shape).astype(self.problem.out.mlx)]

    def _mapped_matrices(self, given: Given, mapped: set[str], count: int) -> dict[str, mx.array]:
        """Return ``x`` and the weight with the mapped axis before all others that broadcast."""
        weight = [name for name in ("w", "scales", "biases") if name in given]
        shapes = {
            name: given[name].shape[1:] if name in mapped else given[name].shape
            for name in ("x", *weight)
        }
        shapes["x"] = _matrix(shapes["x"])
        rank = max(len(shapes["x"]), len(shapes["w"]))
        is_mapped = any(name in mapped for name in weight)
        found = {}
        for name, shape in shapes.items():
            own = (count,) if name in mapped else (1,)
            if name in weight and not is_mapped:
                continue
            array = mx.reshape(given[name], (*own, *pad(shape, rank)))
            full = (count, *array.shape[1:]) if name in weight else array.shape
            found[name] = mx.broadcast_to(array, full)
        return found

    def _mapped_ends(self, product: mx.array, given: Given, mapped: set[str]) -> mx.array:
        """Return float32 products with the scale of the whole weight and the bias, per mapping."""
        ones = (1,) * (len(self.problem.out_shape) - 1)
        if "global_scale" in given:
            count = given["global_scale"].shape[0] if "global_scale" in mapped else 1
            scale = mx.reshape(given["global_scale"], (count, *ones, 1))
            product = product * (scale / TENSOR_SCALE)
        if "bias" in given:
            count = given["bias"].shape[0] if "bias" in mapped else 1
            bias = mx.reshape(given["bias"], (count, *ones, self.problem.n))
            product = product + bias.astype(mx.float32)
        return product

    def _product(
        self, given: Given, *, transpose: bool, out_dtype: mx.Dtype, stream: StreamOrDevice
    ) -> mx.array:
        """Return a product on the call's own backend, differentiable in turn."""
        weight = self.problem.weight
        call = quantized_call(
            QuantizedKey(
                x=stated(given["x"]),
                w=stated(given["w"]),
                scales=stated(given["scales"]),
                biases=optional(given.get("biases")),
                global_scale=optional(given.get("global_scale")),
                bias=optional(given.get("bias")),
                transpose=transpose,
                group_size=weight.group,
                bits=weight.bits,
                mode=weight.mode,
                out_dtype=out_dtype,
                batch_invariant=self.problem.batch_invariant,
                exact=self.problem.exact,
                backend=self.backend,
                settings=inner_settings(),
            )
        )
        return call([given[name] for name in ARRAYS if name in given], (), stream)[0]


def _matrix(shape: Shape) -> Shape:
    """Return the shape of ``x`` with an axis of rows."""
    return shape if len(shape) > 1 else (1, *shape)


def _weight(given: Given) -> dict[str, mx.array]:
    return {
        name: given[name] for name in ("w", "scales", "biases", "global_scale") if name in given
    }

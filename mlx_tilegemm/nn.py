"""Layers that compute through this library: drop-ins of their `mlx.nn` namesakes.

Each is a subclass of its namesake with the same parameters under the same names, so checkpoints
load, ``isinstance`` holds and quantizing works. What differs is only which op computes. The mixins
hold that difference; patching puts them on layers that exist already.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal

import mlx.core as mx
import mlx.nn as nn
from mlx.nn.layers.distributed import sum_gradients

from .backends import is_left_to_mlx, resolve
from .call.explanation import explain
from .core import mlx_ops
from .core.arguments import ArraySpec
from .core.caches import prepared
from .core.context import current_settings
from .core.dtypes import MLX_FLOATS
from .core.fast_path import Served
from .core.held import HeldCalls
from .core.scaling import BYTE_FORMATS
from .core.scaling_request import right_scaling
from .core.tracing import is_shapeless, is_traced
from .errors import DTypeError
from .families.experts.ops import gathered
from .formats import byte_values, encode
from .ops import (
    addmm,
    attention_chain,
    fp8_scaled_matmul,
    gather_fp8_mm,
    gather_mm,
    gather_qmm,
    matmul,
    quantized_matmul,
)

Mask = Literal["causal"] | mx.array | None


def linear(x: mx.array, weight: mx.array, bias: mx.array | None = None) -> mx.array:
    """Return ``x @ weight.T + bias``, each operand read in its own dtype, none copied.

    Args:
        x: ``[..., k]`` of any dtype that `mx.matmul` promotes with the weight's.
        weight: ``[n, k]``, as linear layers store it.
        bias: ``[n]``, or None.

    Returns:
        ``[..., n]`` of MLX's promotion of all operands.

    Example:
        >>> x = mx.random.normal((2, 5, 64))
        >>> linear(x, mx.zeros((32, 64), dtype=mx.float16)).dtype
        mlx.core.float32
    """
    # `mx.addmm` keeps the sizes of the sum that it has seen.
    is_left = is_left_to_mlx() and (bias is None or not is_shapeless())
    if is_left or x.dtype not in MLX_FLOATS or weight.dtype not in MLX_FLOATS:
        # MLX's layers promote what the ops here refuse, such as integers with floats.
        return x @ weight.T if bias is None else mlx_ops.addmm(bias, x, weight.T)
    if bias is None:
        return matmul(x, weight, transpose_b=True)
    return addmm(bias, x, weight, transpose_b=True)


class LinearRoute:
    """The call of a layer that holds ``weight`` and maybe ``bias`` as `nn.Linear` does."""

    __slots__ = ()

    def __call__(self, x: mx.array) -> mx.array:
        """Return ``x @ weight.T + bias``."""
        layer: Any = self
        weight, bias = layer["weight"], layer.get("bias")
        if type(x) is not mx.array or is_left_to_mlx():
            return linear(x, weight, bias)
        key = (id(weight), id(bias), x.shape, x.dtype, _place())
        call = _linear.find(key)
        if call is None:
            return _first_linear(key, x, weight, bias)
        return call(x, weight) if bias is None else call(x, weight, bias)


def _place() -> tuple[object, ...]:
    """Return what calls depend on beside their arrays and options."""
    return current_settings(), mx.default_device().type is mx.gpu


_linear = HeldCalls(first=1, count=2)


def _first_linear(
    key: tuple[object, ...], x: mx.array, weight: mx.array, bias: mx.array | None
) -> mx.array:
    """Serve the product of a layer, and keep the call for others like it."""
    # In training each step has arrays of its own, of which nothing is worth keeping.
    if not {x.dtype, weight.dtype} <= MLX_FLOATS or is_traced():
        return linear(x, weight, bias)
    if bias is None:
        call, result = _served(matmul)(x, weight, transpose_b=True)
    else:
        call, result = _served(addmm)(bias, x, weight, transpose_b=True)
    _linear.keep(key, call, (x, weight, bias), linear)
    return result


def _served(op: Callable[..., mx.array]) -> Callable[..., Served[mx.array]]:
    """Return the text of an op, which also returns the call that serves others alike."""
    served: Callable[..., Served[mx.array]] = inspect.unwrap(op)
    return served


class AllToShardedRoute:
    """The call of a layer that holds some rows of a weight, as `nn.AllToShardedLinear` does."""

    __slots__ = ()

    def __call__(self, x: mx.array) -> mx.array:
        """Return this machine's columns of ``x @ weight.T + bias``; gradients of ``x`` are sums."""
        layer: Any = self
        shared: mx.array = sum_gradients(layer.group)(x)
        return linear(shared, layer["weight"], layer.get("bias"))


class ShardedToAllRoute:
    """The call of a layer that holds some columns of a weight, as `nn.ShardedToAllLinear` does."""

    __slots__ = ()

    def __call__(self, x: mx.array) -> mx.array:
        """Return the sum of all machines' ``x @ weight.T``, plus ``bias``."""
        layer: Any = self
        return _summed(layer, linear(x, layer["weight"]))


class EmbeddingRoute:
    """The output projection of a layer that holds ``weight`` as `nn.Embedding` does."""

    __slots__ = ()

    def as_linear(self, x: mx.array) -> mx.array:
        """Return ``x @ weight.T``, the logits of models whose embeddings are tied."""
        layer: Any = self
        return linear(x, layer["weight"])


def quantized_linear(
    layer: Any,  # noqa: ANN401
    x: mx.array,
    bias: mx.array | None = None,
    *,
    transpose: bool = True,
    dtype: mx.Dtype | None = None,
) -> mx.array:
    """Return ``x`` times the transpose of a layer's quantized weight, and ``bias``, rounded once.

    Args:
        layer: A layer that holds ``weight``, ``scales`` and maybe ``biases`` as
            `nn.QuantizedLinear` does, and maybe a ``global_scale``.
        x: ``[..., k]``.
        bias: ``[n]``, or None.
        transpose: Multiply by the transpose, not by the weight itself.
        dtype: Dtype of the product; None is the one that MLX's layer has.

    Returns:
        ``[..., n]`` of the promotion of the product and the bias.
    """
    biases: mx.array | None = layer.get("biases")
    if bias is None and dtype is None and "global_scale" not in layer:
        return quantized_matmul(
            x,
            layer["weight"],
            layer["scales"],
            biases,
            transpose,
            layer.group_size,
            layer.bits,
            layer.mode,
        )
    fused = bias is not None and bias.dtype in MLX_FLOATS
    if dtype is None:
        dtype = x.dtype if biases is None else mx.result_type(x, layer["scales"], biases)
    y = quantized_matmul(
        x,
        layer["weight"],
        layer["scales"],
        biases,
        transpose,
        group_size=layer.group_size,
        bits=layer.bits,
        mode=layer.mode,
        global_scale=layer.get("global_scale"),
        bias=bias if fused else None,
        out_dtype=mx.result_type(dtype, bias.dtype) if bias is not None and fused else dtype,
    )
    return y if bias is None or fused else y + bias


class QuantizedLinearRoute:
    """The call of a layer that holds a quantized weight as `nn.QuantizedLinear` does."""

    __slots__ = ()

    def __call__(self, x: mx.array) -> mx.array:
        """Return ``x @ weight.T + bias``."""
        layer: Any = self
        if "bias" in layer or "global_scale" in layer or type(x) is not mx.array:
            return quantized_linear(layer, x, layer.get("bias"))
        weight, scales, biases = layer["weight"], layer["scales"], layer.get("biases")
        key = (id(weight), id(scales), id(biases), x.shape, x.dtype, _place())
        call = _quantized.find(key)
        if call:
            return call(x, weight, scales, biases)
        return _first_quantized(layer, key, x, weight, scales, biases)


_quantized = HeldCalls(first=1, count=3)


def _first_quantized(layer: Any, key: tuple[object, ...], *arrays: Any) -> mx.array:  # noqa: ANN401
    """Serve the product of a quantized layer, and keep the call for others like it."""
    form = (True, layer.group_size, layer.bits, layer.mode)
    op: Callable[..., mx.array] = quantized_matmul
    call, result = _served(op)(*arrays, *form)
    _quantized.keep(key, call, arrays, lambda *others: op(*others, *form))
    return result


class QuantizedEmbeddingRoute:
    """The output projection of a layer that holds a weight as `nn.QuantizedEmbedding` does."""

    __slots__ = ()

    def as_linear(self, x: mx.array) -> mx.array:
        """Return ``x @ weight.T``, the logits of models whose embeddings are tied."""
        return quantized_linear(self, x)


class QuantizedAllToShardedRoute:
    """The call of a layer that holds some rows of a quantized weight, as MLX's of that name."""

    __slots__ = ()

    def __call__(self, x: mx.array) -> mx.array:
        """Return this machine's columns of ``x @ weight.T + bias``; gradients of ``x`` are sums."""
        layer: Any = self
        return quantized_linear(layer, sum_gradients(layer.group)(x), layer.get("bias"))


class QuantizedShardedToAllRoute:
    """The call of a layer that holds some columns of a quantized weight, as MLX's of that name."""

    __slots__ = ()

    def __call__(self, x: mx.array) -> mx.array:
        """Return the sum of all machines' ``x @ weight.T``, plus ``bias``."""
        layer: Any = self
        return _summed(layer, quantized_linear(layer, x))


def _summed(layer: Any, product: mx.array) -> mx.array:  # noqa: ANN401
    """Return the sum of all machines' products, plus the layer's bias."""
    y: mx.array = mx.distributed.all_sum(product, group=layer.group)
    bias: mx.array | None = layer.get("bias")
    return y if bias is None else y + bias


class MultiLinearRoute:
    """The call of a layer with one ``weight`` per head, as mlx-lm's latent attention has it."""

    __slots__ = ()

    def __call__(self, x: mx.array, transpose: bool = True) -> mx.array:
        """Return ``x @ weight.T`` for every head, or ``x @ weight``."""
        layer: Any = self
        return _product(x, layer["weight"], transpose_b=transpose)


class QuantizedMultiLinearRoute:
    """The call of a layer with one quantized weight per head, as mlx-lm's latent attention has."""

    __slots__ = ()

    def __call__(self, x: mx.array, transpose: bool = True) -> mx.array:
        """Return ``x @ weight.T`` for every head, or ``x @ weight``."""
        return quantized_linear(self, x, transpose=transpose)


def _product(a: mx.array, b: mx.array, *, transpose_b: bool = False) -> mx.array:
    """Multiply as `mx.matmul` does, whatever the dtypes."""
    if a.dtype in MLX_FLOATS and b.dtype in MLX_FLOATS:
        return matmul(a, b, transpose_b=transpose_b)
    return mlx_ops.matmul(a, b.swapaxes(-1, -2) if transpose_b else b)


class LowRankRoute:
    """The call of an adapter of low rank around a linear layer, as mlx-lm's LoRA has it."""

    __slots__ = ()

    def __call__(self, x: mx.array) -> mx.array:
        """Return the layer's result and ``scale`` times ``x @ lora_a @ lora_b``."""
        adapter: Any = self
        y: mx.array = adapter.linear(x)
        return y + _low_rank(adapter, x, adapter.lora_a, adapter.lora_b)


class LowRankEmbeddingRoute:
    """The output projection of an adapter of low rank around an embedding, as mlx-lm has it."""

    __slots__ = ()

    def as_linear(self, x: mx.array) -> mx.array:
        """Return the embedding's result and ``scale`` times ``x @ lora_b.T @ lora_a.T``."""
        adapter: Any = self
        y: mx.array = adapter.embedding.as_linear(x)
        return y + _low_rank(adapter, x, adapter.lora_b.T, adapter.lora_a.T)


class WeightNormRoute:
    """The call of an adapter that scales columns to their magnitudes, as mlx-lm's DoRA has it."""

    __slots__ = ()

    def __call__(self, x: mx.array) -> mx.array:
        """Return ``x`` times the adapted weight, each column of it of the learned norm."""
        adapter: Any = self
        weight: mx.array = adapter._dequantized_weight()
        y = _unadapted(adapter.linear, x, weight)
        y = y + _low_rank(adapter, x, adapter.lora_a, adapter.lora_b)
        update = _product(adapter.scale * adapter.lora_b.T, adapter.lora_a, transpose_b=True)
        norm = mx.stop_gradient(mx.linalg.norm(weight + update, axis=1))
        magnitude: mx.array = adapter.m
        y = (magnitude / norm).astype(x.dtype) * y
        bias: mx.array | None = adapter.linear.get("bias")
        return y if bias is None else y + bias


def _unadapted(layer: nn.Module, x: mx.array, weight: mx.array) -> mx.array:
    """Return a layer's product with ``weight``, or with the quantized one that decodes to it."""
    if isinstance(layer, FP8Linear):
        return layer.product(x, None, x.dtype)
    if not isinstance(layer, nn.QuantizedLinear):
        return linear(x, weight)
    return quantized_linear(layer, x, dtype=mx.result_type(x, weight))


def _low_rank(adapter: Any, x: mx.array, first: mx.array, second: mx.array) -> mx.array:  # noqa: ANN401
    product = _product(_product(adapter.dropout(x), first), second)
    return (float(adapter.scale) * product).astype(x.dtype)


def switch_linear(
    layer: Any,  # noqa: ANN401
    x: mx.array,
    indices: mx.array,
    sorted_indices: bool = False,
) -> mx.array:
    """Return ``x`` times the transposes of the experts that rows choose, plus their biases.

    Args:
        layer: A layer that holds ``weight`` of all experts, maybe ``bias``, and maybe what a
            quantized weight has, as mlx-lm's ``SwitchLinear`` and ``QuantizedSwitchLinear`` do.
        x: ``[..., 1, k]``; its axes before broadcast with those of ``indices``.
        indices: The expert of each row.
        sorted_indices: Whether they are sorted.

    Returns:
        ``[..., 1, n]`` of the dtype that mlx-lm's layer has.
    """
    weight, scales, bias = layer["weight"], layer.get("scales"), layer.get("bias")
    biases: mx.array | None = layer.get("biases")
    if scales is not None and bias is None and "global_scale" not in layer:
        return gather_qmm(
            x,
            weight,
            scales,
            biases,
            None,
            indices,
            True,
            layer.group_size,
            layer.bits,
            layer.mode,
            sorted_indices=sorted_indices,
        )
    if scales is None:
        if x.dtype not in MLX_FLOATS or weight.dtype not in MLX_FLOATS:
            # MLX's op promotes what the ops here refuse.
            columns = weight.swapaxes(-1, -2)
            y = mlx_ops.gather_mm(x, columns, rhs_indices=indices, sorted_indices=sorted_indices)
            return y if bias is None else y + mx.expand_dims(bias[indices], -2)
        dtype, form = mx.result_type(x, weight), {}
    else:
        dtype = x.dtype if biases is None else mx.result_type(x, scales, biases)
        form = {"group_size": layer.group_size, "bits": layer.bits, "mode": layer.mode}
    fused = bias is not None and bias.dtype in MLX_FLOATS
    y = gathered(
        x,
        weight,
        indices,
        scales=scales,
        biases=biases,
        global_scale=getattr(layer, "global_scale", None),
        bias=bias if fused else None,
        out_dtype=mx.result_type(dtype, bias.dtype) if fused else dtype,
        sorted_indices=sorted_indices,
        **form,
    )
    return y if bias is None or fused else y + mx.expand_dims(bias[indices], -2)


class SwitchRoute:
    """The call of a layer of experts, as mlx-lm's ``SwitchLinear`` or its quantized namesake."""

    __slots__ = ()

    def __call__(self, x: mx.array, indices: mx.array, sorted_indices: bool = False) -> mx.array:
        """Return ``x @ weight[indices].T + bias[indices]``."""
        layer: Any = self
        if "bias" in layer or "global_scale" in layer:
            return switch_linear(layer, x, indices, sorted_indices)
        if not (type(x) is type(indices) is mx.array and type(sorted_indices) is bool):
            return switch_linear(layer, x, indices, sorted_indices)
        weight, scales, biases = layer["weight"], layer.get("scales"), layer.get("biases")
        given = (x.shape, x.dtype, indices.shape, indices.dtype, sorted_indices)
        key = (id(weight), id(scales), id(biases), given, _place())
        if scales is None:
            call = _plain_experts.find(key)
            if call:
                return call(x, weight, None, indices)
            return _first_plain_experts(key, x, weight, indices, sorted_indices)
        call = _experts.find(key)
        arrays = (x, weight, scales, biases, None, None, indices)
        if call:
            return call(*arrays)
        return _first_experts(layer, key, arrays, sorted_indices)


_plain_experts = HeldCalls(first=1, count=1)


def _first_plain_experts(
    key: tuple[object, ...],
    x: mx.array,
    weight: mx.array,
    indices: mx.array,
    sorted_indices: bool,
) -> mx.array:
    """Serve the products of a layer of plain experts, and keep the call for others like it."""
    options = {"transpose_b": True, "sorted_indices": sorted_indices}
    if not {x.dtype, weight.dtype} <= MLX_FLOATS or is_traced():
        return switch_linear({"weight": weight}, x, indices, sorted_indices)
    op: Callable[..., mx.array] = gather_mm
    arrays = (x, weight, None, indices)
    call, result = _served(op)(*arrays, **options)
    _plain_experts.keep(key, call, arrays, lambda *others: op(*others, **options))
    return result


_experts = HeldCalls(first=1, count=3)


def _first_experts(
    layer: Any,  # noqa: ANN401
    key: tuple[object, ...],
    arrays: tuple[Any, ...],
    sorted_indices: bool,
) -> mx.array:
    """Serve the products of a layer of quantized experts, and keep the call for others like it."""
    form = (True, layer.group_size, layer.bits, layer.mode)
    op: Callable[..., mx.array] = gather_qmm

    def given(*arrays: Any) -> tuple[Any, ...]:  # noqa: ANN401 - arrays, or None
        x, weight, scales, biases, global_scale, lhs, rhs = arrays
        return (x, weight, scales, biases, lhs, rhs, *form, global_scale)

    def again(*arrays: Any) -> mx.array:  # noqa: ANN401 - arrays, or None
        return op(*given(*arrays), sorted_indices=sorted_indices)

    call, result = _served(op)(*given(*arrays), sorted_indices=sorted_indices)
    _experts.keep(key, call, arrays, again)
    return result


SORTED_ROWS = 64
"""Rows that choose experts from which mlx-lm sorts them."""


def _by_experts(
    first: Any,  # noqa: ANN401
    x: mx.array,
    indices: mx.array,
    layers: Callable[[mx.array, mx.array, bool], mx.array],
) -> mx.array:
    """Return what layers make of each row with each expert that it chooses.

    Args:
        first: The first of the layers.
        x: ``[..., k]``.
        indices: ``[..., experts of a row]``.
        layers: Takes rows ``[..., 1, k]``, their experts, and whether these are sorted.
    """
    rows = mx.expand_dims(x, (-2, -3))
    if getattr(first, "training", True):
        indices = mx.stop_gradient(indices)
    if indices.size < SORTED_ROWS or _takes_any_order(first, rows, indices):
        return mx.squeeze(layers(rows, indices, False), -2)
    # MLX's own ops read an expert once only for sorted rows; once is enough for all layers.
    flat = mx.flatten(indices)
    order = mx.argsort(flat)
    rows = mx.take(mx.flatten(rows, 0, -3), order // indices.shape[-1], axis=0)
    y = mx.take(layers(rows, mx.take(flat, order), True), mx.argsort(order), axis=0)
    return mx.squeeze(mx.unflatten(y, 0, indices.shape), -2)


def _takes_any_order(layer: Any, rows: mx.array, indices: mx.array) -> bool:  # noqa: ANN401
    """Return whether rows need not be sorted here and now for a layer: kernels gather them.

    Of an adapter the layer that it adapts is asked.
    """
    settings = current_settings()
    if settings.stand_in is not None:
        return True
    backend = resolve(settings=settings).backend
    if backend is None or backend.capabilities.modelled:
        return backend is not None
    # What was never measured is left to MLX's ops, each of which would sort for itself, but for
    # that of affine weights, which gains nothing from it.
    base: Any = layer.get("linear", layer) if isinstance(layer, nn.Module) else {}
    weight, scales = base.get("weight"), base.get("scales")
    is_affine = base.get("biases") is not None
    is_coded = scales is not None and not isinstance(base, FP8SwitchLinear)
    if weight is None or is_affine or (is_coded and not hasattr(base, "mode")):
        return True
    op: Callable[..., mx.array] = gather_mm
    options: dict[str, Any] = {"transpose_b": True}
    if isinstance(base, FP8SwitchLinear):
        op, options = gather_fp8_mm, {"format": base.format, "block": base.block_size}
    elif is_coded:
        op = gather_qmm
        options = {"group_size": base.group_size, "bits": base.bits, "mode": base.mode}
    elif not {rows.dtype, weight.dtype} <= MLX_FLOATS:
        return False
    arrays = [one for one in (rows, weight, scales, indices) if one is not None]
    specs = tuple(ArraySpec(shape=one.shape, dtype=one.dtype) for one in arrays)
    return _are_gathered(op, specs, tuple(options.items()), _place())


@prepared
def _are_gathered(
    op: Callable[..., mx.array],
    specs: tuple[ArraySpec, ...],
    options: tuple[tuple[str, Any], ...],
    place: tuple[object, ...],
) -> bool:
    """Return whether a kernel serves an op's products of rows with experts.

    Args:
        op: The op.
        specs: Shapes and dtypes of its operands, and of the indices of its experts.
        options: Its other arguments, by name.
        place: The settings and the device in force, on which it depends.
    """
    *operands, indices = specs
    return explain(op, *operands, rhs_indices=indices, **dict(options)).plan is not None


class SwitchGluRoute:
    """The call of gated layers of experts, as mlx-lm's ``SwitchGLU``, whose rows kernels gather."""

    __slots__ = ()

    def __call__(self, x: mx.array, indices: mx.array) -> mx.array:
        """Return ``down(activation(up(x), gate(x)))`` of each row and each expert it chooses."""
        layer: Any = self

        def layers(rows: mx.array, chosen: mx.array, ordered: bool) -> mx.array:
            up = layer.up_proj(rows, chosen, sorted_indices=ordered)
            gate = layer.gate_proj(rows, chosen, sorted_indices=ordered)
            hidden = layer.activation(up, gate)
            y: mx.array = layer.down_proj(hidden, chosen, sorted_indices=ordered)
            return y

        return _by_experts(layer.up_proj, x, indices, layers)


class SwitchMlpRoute:
    """The call of two layers of experts, as mlx-lm's ``SwitchMLP``, whose rows kernels gather."""

    __slots__ = ()

    def __call__(self, x: mx.array, indices: mx.array) -> mx.array:
        """Return ``fc2(activation(fc1(x)))`` of each row and each expert it chooses."""
        layer: Any = self

        def layers(rows: mx.array, chosen: mx.array, ordered: bool) -> mx.array:
            hidden = layer.activation(layer.fc1(rows, chosen, sorted_indices=ordered))
            y: mx.array = layer.fc2(hidden, chosen, sorted_indices=ordered)
            return y

        return _by_experts(layer.fc1, x, indices, layers)


class LowRankSwitchRoute:
    """The call of an adapter of low rank around a layer of experts, as mlx-lm's LoRA has it."""

    __slots__ = ()

    def __call__(self, x: mx.array, indices: mx.array, sorted_indices: bool = False) -> mx.array:
        """Return the layer's result and ``scale`` times the products with both adapters."""
        adapter: Any = self
        y: mx.array = adapter.linear(x, indices, sorted_indices=sorted_indices)
        down, up = ({"weight": adapter[name]} for name in ("lora_a", "lora_b"))
        z = switch_linear(down, adapter.dropout(x), indices, sorted_indices)
        z = switch_linear(up, z, indices, sorted_indices)
        return y + (float(adapter.scale) * z).astype(x.dtype)


class Linear(LinearRoute, nn.Linear):
    """`nn.Linear` whose activations and weight may have different dtypes.

    Args:
        input_dims: Size of the last axis of the input.
        output_dims: Size of the last axis of the output.
        bias: Whether to add a bias.

    Example:
        >>> layer = Linear(64, 32)
        >>> layer.set_dtype(mx.float16)
        >>> layer(mx.random.normal((5, 64))).dtype
        mlx.core.float32
    """


class Embedding(EmbeddingRoute, nn.Embedding):
    """`nn.Embedding` whose `as_linear` multiplies in the dtypes there are.

    Args:
        num_embeddings: How many vectors there are.
        dims: Size of each.
    """


class QuantizedLinear(QuantizedLinearRoute, nn.QuantizedLinear):
    """`nn.QuantizedLinear` whose activations, scales and bias may have different dtypes.

    Args:
        input_dims: Size of the last axis of the input.
        output_dims: Size of the last axis of the output.
        bias: Whether to add a bias, before the result is rounded.
        group_size: Elements that share a scale; None is the mode's own.
        bits: Bits of an element; None is the mode's own.
        mode: ``affine``, ``mxfp4``, ``mxfp8`` or ``nvfp4``. A layer of ``nvfp4`` may have a
            ``global_scale``, as `quantized_matmul` takes it.

    Example:
        >>> layer = QuantizedLinear.from_linear(nn.Linear(64, 32), bits=8)
        >>> layer(mx.random.normal((5, 64))).shape
        (5, 32)
    """


class _FP8Layer(nn.Module):
    """Base of layers whose weight stays 8-bit codes."""

    def __init__(
        self,
        shape: tuple[int, ...],
        bias: tuple[int, ...] | None,
        format: str,
        scales: tuple[int, ...] | None,
        block: tuple[int, int] | None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        if format not in BYTE_FORMATS:
            raise DTypeError(
                f"[{type(self).__name__}] Expected a format of {', '.join(BYTE_FORMATS)}, got "
                f"{format!r}."
            )
        self.format = format
        self.block_size = block
        self.weight = mx.zeros(shape, dtype=BYTE_FORMATS[format].mlx)
        if scales is not None:
            self.scales = mx.ones(scales)
        if bias is not None:
            self.bias = mx.zeros(bias)
        self.freeze()

    @property
    def input_dims(self) -> int:
        """Size of the last axis of the input."""
        size: int = self.weight.shape[-1]
        return size

    @property
    def output_dims(self) -> int:
        """Size of the last axis of the output."""
        size: int = self.weight.shape[-2]
        return size

    def decoded(self, dtype: mx.Dtype = mx.float32) -> mx.array:
        """Return the weight, decoded and scaled, each element rounded once to ``dtype``."""
        codes, scales = self["weight"], self.get("scales")
        if scales is None:
            return byte_values(BYTE_FORMATS[self.format], codes, None, None, True).astype(dtype)
        stated, beside = (ArraySpec(shape=one.shape, dtype=one.dtype) for one in (codes, scales))
        scaling = right_scaling("decoded", "scales", stated, beside, self.block_size, True)
        found = byte_values(BYTE_FORMATS[self.format], codes, scaling, scales, True)
        return found.astype(dtype)

    def _take(self, linear: nn.Module) -> None:
        """Take the nearest codes of another layer's weight, a scale for each row, and its bias."""
        weight = linear.weight.astype(mx.float32)
        largest = mx.max(mx.abs(weight), axis=-1, keepdims=True)
        scales = mx.where(largest == 0, 1, largest / _LARGEST[self.format])
        if self.format == "int8":
            self.weight = mx.round(weight / scales).astype(mx.int8)
        else:
            self.weight = encode(weight / scales, self.format)
        self.scales = scales
        if "bias" in linear:
            self.bias = linear.bias
        self.freeze()

    def _adapted(
        self,
        kind: Any,  # noqa: ANN401 - of mlx-lm
        own: type,
        r: int,
        dropout: float,
        scale: float,
    ) -> nn.Module:
        """Return one of mlx-lm's adapters around this layer, which knows that it is codes."""
        adapter: nn.Module = kind.from_base(self, r=r, dropout=dropout, scale=scale)
        adapter.__class__ = _adapter_class(kind, own)
        return adapter


@lru_cache(maxsize=8)
def _adapter_class(kind: type, own: type) -> type:
    return type(f"FP8{kind.__name__}", (own, kind), {"__module__": __name__})


class FP8Adapter:
    """What adapters around layers of codes have in common: how they are fused with them."""

    def fuse(self, dequantize: bool = False) -> nn.Module:
        """Return a layer without the adapter: of codes with a scale for each row, or of bfloat16.

        Args:
            dequantize: Whether its weight is to be bfloat16.
        """
        adapter: Any = self
        coded = adapter.linear
        plain = nn.Module()
        plain.weight = coded.decoded()
        if "bias" in coded:
            plain.bias = coded.bias
        adapter.linear = plain
        try:
            fused: nn.Module = super().fuse(dequantize)  # type: ignore[misc] # of the adapter
        finally:
            adapter.linear = coded
        if not dequantize:
            found: nn.Module = type(coded).from_linear(fused, coded.format)
            return found
        fused.weight = fused.weight.astype(mx.bfloat16)
        return fused


class FP8WeightNorm(FP8Adapter, WeightNormRoute):
    """The adapter that scales columns to their magnitudes, around a layer of codes."""

    def _dequantized_weight(self) -> mx.array:
        adapter: Any = self
        layer = adapter.linear
        found: mx.array = layer.decoded() if isinstance(layer, _FP8Layer) else layer.weight
        return found


class FP8Linear(_FP8Layer):
    """Linear layer whose weight stays 8-bit codes, multiplied by `fp8_scaled_matmul`.

    It holds ``weight``, the codes ``[output_dims, input_dims]``, maybe ``scales`` as that op takes
    them, and maybe ``bias``. All are frozen, as those of `nn.QuantizedLinear` are. The result has
    the dtype of the input, or its promotion with that of the bias.

    Args:
        input_dims: Size of the last axis of the input.
        output_dims: Size of the last axis of the output.
        bias: Whether to add a bias, before the result is rounded.
        format: ``e4m3``, ``e5m2`` or ``int8``.
        scales: Shape of the scales, such as ``(output_dims, 1)``; None without.
        block: Columns of the result, and elements along the contracted axis, of a block that
            shares a scale; None where scales are of the weight or of its rows.

    Raises:
        DTypeError: A ``format`` that is none (a `TypeError`).

    Example:
        >>> layer = FP8Linear.from_linear(nn.Linear(64, 32))
        >>> layer(mx.random.normal((5, 64))).shape, layer.weight.dtype
        ((5, 32), mlx.core.uint8)
    """

    def __init__(
        self,
        input_dims: int,
        output_dims: int,
        bias: bool = True,
        format: str = "e4m3",
        scales: tuple[int, ...] | None = None,
        block: tuple[int, int] | None = None,
    ) -> None:
        of_bias = (output_dims,) if bias else None
        super().__init__((output_dims, input_dims), of_bias, format, scales, block)

    def __call__(self, x: mx.array) -> mx.array:
        """Return ``x @ (weight * scales).T + bias``."""
        bias: mx.array | None = self.get("bias")
        return self.product(x, bias, x.dtype if bias is None else mx.result_type(x, bias))

    def product(self, x: mx.array, bias: mx.array | None, dtype: mx.Dtype) -> mx.array:
        """Return ``x @ (weight * scales).T``, plus ``bias`` if there is one, rounded once."""
        return fp8_scaled_matmul(
            x,
            self["weight"],
            None,
            self.get("scales"),
            b_format=self.format,
            block=self.block_size,
            transpose_b=True,
            bias=bias,
            out_dtype=dtype,
        )

    @classmethod
    def from_linear(cls, linear: nn.Module, format: str = "e4m3") -> FP8Linear:
        """Return the layer with the nearest codes of a linear one, and a scale for each row.

        Args:
            linear: A layer with ``weight`` and maybe ``bias``.
            format: ``e4m3``, ``e5m2`` or ``int8``.
        """
        output_dims, input_dims = linear.weight.shape
        layer = cls(input_dims, output_dims, "bias" in linear, format, (output_dims, 1))
        layer._take(linear)
        return layer

    def to_lora(self, r: int = 8, dropout: float = 0.0, scale: float = 20.0) -> nn.Module:
        """Return mlx-lm's ``LoRALinear`` around this layer, as its tuner asks for it.

        Args:
            r: Rank of the adapter.
            dropout: Share of the input that the adapter does not see in training.
            scale: Factor of what the adapter adds.

        Raises:
            ImportError: mlx-lm is not installed.
        """
        from mlx_lm.tuner.lora import LoRALinear

        return self._adapted(LoRALinear, FP8Adapter, r, dropout, scale)

    def to_dora(self, r: int = 8, dropout: float = 0.0, scale: float = 20.0) -> nn.Module:
        """Return mlx-lm's ``DoRALinear`` around this layer; arguments are as of `to_lora`.

        Raises:
            ImportError: mlx-lm is not installed.
        """
        from mlx_lm.tuner.dora import DoRALinear

        adapter: Any = self._adapted(DoRALinear, FP8WeightNorm, r, dropout, scale)
        adapter.set_linear(self)
        found: nn.Module = adapter
        return found

    def _extra_repr(self) -> str:
        return (
            f"input_dims={self.input_dims}, output_dims={self.output_dims}, "
            f"bias={'bias' in self}, format={self.format}, block={self.block_size}"
        )


class FP8SwitchLinear(_FP8Layer):
    """Linear layers of experts whose weights stay 8-bit codes, multiplied by `gather_fp8_mm`.

    It takes the place of mlx-lm's ``SwitchLinear``, and holds ``weight``, the codes ``[num_experts,
    output_dims, input_dims]``, maybe ``scales`` as that op takes them, and maybe ``bias``
    ``[num_experts, output_dims]``, all frozen. The result has the dtype of the input, or its
    promotion with that of the bias.

    Args:
        input_dims: Size of the last axis of the input.
        output_dims: Size of the last axis of the output.
        num_experts: How many experts there are.
        bias: Whether each adds a bias, before the result is rounded.
        format: ``e4m3``, ``e5m2`` or ``int8``.
        scales: Shape of the scales, such as ``(num_experts, 1, 1)``; None without.
        block: As of `FP8Linear`.

    Raises:
        DTypeError: A ``format`` that is none (a `TypeError`).

    Example:
        >>> layer = FP8SwitchLinear(64, 32, 8, scales=(8, 32, 1))
        >>> layer(mx.zeros((5, 1, 1, 64)), mx.zeros((5, 2), dtype=mx.int32)).shape
        (5, 2, 1, 32)
    """

    def __init__(
        self,
        input_dims: int,
        output_dims: int,
        num_experts: int,
        bias: bool = True,
        format: str = "e4m3",
        scales: tuple[int, ...] | None = None,
        block: tuple[int, int] | None = None,
    ) -> None:
        of_bias = (num_experts, output_dims) if bias else None
        shape = (num_experts, output_dims, input_dims)
        super().__init__(shape, of_bias, format, scales, block)

    @property
    def num_experts(self) -> int:
        """How many experts there are."""
        count: int = self.weight.shape[0]
        return count

    def __call__(self, x: mx.array, indices: mx.array, sorted_indices: bool = False) -> mx.array:
        """Return ``x @ (weight * scales)[indices].T + bias[indices]``.

        Args:
            x: ``[..., 1, k]``; its axes before broadcast with those of ``indices``.
            indices: The expert of each row.
            sorted_indices: Whether they are sorted.
        """
        bias: mx.array | None = self.get("bias")
        return gathered(
            x,
            self["weight"],
            indices,
            scales=self.get("scales"),
            bias=bias,
            out_dtype=x.dtype if bias is None else mx.result_type(x, bias),
            sorted_indices=sorted_indices,
            format=self.format,
            block=self.block_size,
        )

    @classmethod
    def from_linear(cls, linear: nn.Module, format: str = "e4m3") -> FP8SwitchLinear:
        """Return the layer with the nearest codes of a layer of experts, and scales of their rows.

        Args:
            linear: A layer with ``weight`` ``[num_experts, output_dims, input_dims]`` and maybe
                ``bias``.
            format: ``e4m3``, ``e5m2`` or ``int8``.
        """
        count, output_dims, input_dims = linear.weight.shape
        layer = cls(input_dims, output_dims, count, "bias" in linear, format)
        layer._take(linear)
        return layer

    def to_lora(self, r: int = 8, dropout: float = 0.0, scale: float = 20.0) -> nn.Module:
        """Return mlx-lm's ``LoRASwitchLinear`` around this layer; as of `FP8Linear.to_lora`."""
        from mlx_lm.tuner.lora import LoRASwitchLinear

        return self._adapted(LoRASwitchLinear, FP8Adapter, r, dropout, scale)

    def _extra_repr(self) -> str:
        return (
            f"input_dims={self.input_dims}, output_dims={self.output_dims}, "
            f"num_experts={self.num_experts}, bias={'bias' in self}, format={self.format}, "
            f"block={self.block_size}"
        )


class FP8MultiLinear(_FP8Layer):
    """Projections of heads whose weights stay 8-bit codes, as mlx-lm's latent attention has them.

    It takes the place of mlx-lm's ``MultiLinear``, and holds ``weight``, the codes ``[num_heads,
    rows, columns]`` of a matrix for each head, and ``scales``, frozen both.

    Args:
        rows: Rows of a matrix as it is stored.
        columns: Columns of a matrix as it is stored.
        num_heads: How many heads there are.
        format: ``e4m3``, ``e5m2`` or ``int8``.
        scales: Shape of the scales; None without.
        block: Rows and columns, as stored, of a block that shares a scale.
        transposed: The matrices are stored as ``MultiLinear`` would have their transposes.

    Raises:
        DTypeError: A ``format`` that is none (a `TypeError`).
    """

    def __init__(
        self,
        rows: int,
        columns: int,
        num_heads: int,
        format: str = "e4m3",
        scales: tuple[int, ...] | None = None,
        block: tuple[int, int] | None = None,
        transposed: bool = False,
    ) -> None:
        super().__init__((num_heads, rows, columns), None, format, scales, block)
        self.transposed = transposed

    def __call__(self, x: mx.array, transpose: bool = True) -> mx.array:
        """Return ``x @ weight.T`` for every head, or ``x @ weight``; the other way if transposed.

        Args:
            x: ``[..., num_heads, m, k]``.
            transpose: Multiply by the transpose.
        """
        as_stored = transpose != self.transposed
        block = self.block_size
        return fp8_scaled_matmul(
            x,
            self["weight"],
            None,
            self.get("scales"),
            b_format=self.format,
            block=block if block is None or as_stored else block[::-1],
            transpose_b=as_stored,
            out_dtype=x.dtype,
        )

    def _extra_repr(self) -> str:
        heads, rows, columns = self.weight.shape
        return (
            f"rows={rows}, columns={columns}, num_heads={heads}, format={self.format}, "
            f"block={self.block_size}, transposed={self.transposed}"
        )


_LARGEST = {"e4m3": 448.0, "e5m2": 57344.0, "int8": 127.0}


class QuantizedEmbedding(QuantizedEmbeddingRoute, nn.QuantizedEmbedding):
    """`nn.QuantizedEmbedding` whose `as_linear` multiplies in the dtypes there are.

    Args:
        num_embeddings: How many vectors there are.
        dims: Size of each.
        group_size: As in `QuantizedLinear`.
        bits: As in `QuantizedLinear`.
        mode: As in `QuantizedLinear`.
    """


class MultiHeadAttention(nn.MultiHeadAttention):
    """`nn.MultiHeadAttention` as four `Linear` layers and one `attention_chain`.

    The scores stay in registers between the two products, whatever the dtypes of the projections
    are. A query that the mask leaves nothing to attend to gets zeros.

    Args:
        dims: Size of the model; the default of the sizes below.
        num_heads: How many heads share ``dims``.
        query_input_dims: Size of the queries that come in.
        key_input_dims: Size of the keys that come in.
        value_input_dims: Size of the values that come in; by default that of the keys.
        value_dims: Size of the values once projected.
        value_output_dims: Size of the output.
        bias: Whether the projections add a bias.

    Example:
        >>> attention = MultiHeadAttention(64, 4)
        >>> x = mx.random.normal((1, 10, 64))
        >>> attention(x, x, x, mask="causal").shape
        (1, 10, 64)
    """

    def __init__(
        self,
        dims: int,
        num_heads: int,
        query_input_dims: int | None = None,
        key_input_dims: int | None = None,
        value_input_dims: int | None = None,
        value_dims: int | None = None,
        value_output_dims: int | None = None,
        bias: bool = False,
    ) -> None:
        super().__init__(
            dims,
            num_heads,
            query_input_dims,
            key_input_dims,
            value_input_dims,
            value_dims,
            value_output_dims,
            bias,
        )
        for projection in (self.query_proj, self.key_proj, self.value_proj, self.out_proj):
            # Keeps the arrays, and so the random numbers, that the namesake was made with.
            projection.__class__ = Linear

    def __call__(
        self, queries: mx.array, keys: mx.array, values: mx.array, mask: Mask = None
    ) -> mx.array:
        """Return the attention of ``queries`` to ``keys``, applied to ``values``.

        Args:
            queries: ``[B, Lq, query_input_dims]``.
            keys: ``[B, Lk, key_input_dims]``.
            values: ``[B, Lk, value_input_dims]``.
            mask: As `attention_chain` takes it.

        Returns:
            ``[B, Lq, value_output_dims]``.
        """
        q = self._heads(self.query_proj(queries))
        k = self._heads(self.key_proj(keys))
        v = self._heads(self.value_proj(values))
        heads = attention_chain(q, k, v, mask=mask)
        joined: mx.array = self.out_proj(mx.flatten(heads.transpose(0, 2, 1, 3), -2, -1))
        return joined

    def _heads(self, x: mx.array) -> mx.array:
        return mx.unflatten(x, -1, (self.num_heads, -1)).transpose(0, 2, 1, 3)

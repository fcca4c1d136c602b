"""Weights that stay codes while a model is loaded: which tensors they are, and their layers.

A model's own ``sanitize`` renames and rearranges tensors that it expects to be floats. Before, each
weight of codes is replaced by its values, which MLX computes only if something comes to need them.
After, the very arrays that were put there become codes again, whatever their names are then; what
was stacked or cut is what the values made of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import ceil, prod
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from ..core.arguments import ArraySpec
from ..core.shapes import shape_text
from ..errors import ProblemError
from ..families.scaled.fallback import right_values
from ..families.scaled.request import scaled_request
from ..formats import TENSOR_SCALE, decode, dequantize, encode
from ..nn import FP8Linear, QuantizedLinear

Weights = dict[str, mx.array]

Block = tuple[int, int]

BLOCK: Block = (128, 128)
"""Sizes of blocks where a checkpoint does not say them."""

_FORMATS = {"F8_E4M3": "e4m3", "F8_E5M2": "e5m2", "I8": "int8"}

_SCALES = ("_scale_inv", "_scale")
"""What names of scales end in, after that of the weight. All of them multiply: that of the first is
inverse to what the weight was multiplied by when it was rounded."""

_OF_ACTIVATIONS = ("input_scale", "activation_scale", "scale_input", "output_scale")
"""Scales of activations, which stay floats here."""

_MARKS = ("scaled_fp8",)
"""Tensors that say no more than that others are codes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept(ABC):
    """A weight of codes.

    Attributes:
        weight: The codes as a checkpoint holds them.
        scales: Their scales.
    """

    weight: mx.array
    scales: mx.array | None

    @abstractmethod
    def values(self, dtype: mx.Dtype) -> mx.array:
        """Return the values of the weight."""

    @abstractmethod
    def layer(self, linear: nn.Linear) -> nn.Module:
        """Return the layer that multiplies by the codes in the place of a linear one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptBytes(Kept):
    """A weight of one code a byte.

    Attributes:
        format: Format of the codes.
        block: Sizes of blocks that share a scale; None where scales are of rows or of the weight.
        powers: The scales are powers of two, whatever their dtype.
    """

    format: str
    block: Block | None = None
    powers: bool = False

    def values(self, dtype: mx.Dtype) -> mx.array:
        """Return the values of the weight."""
        scales = self.scales
        problem = scaled_request(
            "load",
            a=ArraySpec(shape=(1, self.weight.shape[-1]), dtype=mx.float32),
            b=ArraySpec(shape=self.weight.shape, dtype=self.weight.dtype),
            b_scales=None if scales is None else ArraySpec(shape=scales.shape, dtype=scales.dtype),
            b_format=self.format,
            block=self.block,
            transpose_b=True,
        )
        given = {"b": self.weight} | ({} if scales is None else {"b_scales": scales})
        return right_values(problem, given).astype(dtype)

    def layer(self, linear: nn.Linear) -> nn.Module:
        """Return an `FP8Linear`, or `mxfp8` where that is the same."""
        rows, columns = self.weight.shape
        groups = self._groups()
        if groups is not None:
            exact = QuantizedLinear(columns, rows, "bias" in linear, mode="mxfp8")
            exact.weight, exact.scales = self.weight.view(mx.uint32), groups
            return exact
        layer = FP8Linear(columns, rows, "bias" in linear, self.format, block=self.block)
        layer.weight = self.weight
        if self.scales is not None:
            layer.scales = self.scales
        return layer

    def _groups(self) -> mx.array | None:
        """Return the scales as `mxfp8` has them, for 32 elements each; None where it cannot."""
        rows, columns = self.weight.shape
        height, width = self.block or (1, 32)
        grid = (ceil(rows / height), ceil(columns / width))
        powers = None if columns % 32 or width % 32 else self._powers()
        if powers is None or self.format != "e4m3" or powers.shape != grid:
            return None
        of_rows = mx.take(powers, mx.arange(rows) // height, axis=0)
        return mx.take(of_rows, mx.arange(columns // 32) * 32 // width, axis=1)

    def _powers(self) -> mx.array | None:
        """Return the scales as codes of powers of two; None where some are none."""
        if self.scales is None or self.scales.dtype == mx.uint8:
            return self.scales
        codes = encode(self.scales, "e8m0")
        exact = self.powers and mx.array_equal(decode(codes, "e8m0"), self.scales)
        return codes if exact else None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptFours(Kept):
    """A weight of `nvfp4`, two codes a byte.

    Attributes:
        factor: Scale of the whole weight.
    """

    factor: mx.array

    def values(self, dtype: mx.Dtype) -> mx.array:
        """Return the values of the weight."""
        assert self.scales is not None
        words = self.weight.view(mx.uint32)
        return dequantize(
            words, self.scales, mode="nvfp4", global_scale=self.factor * TENSOR_SCALE, dtype=dtype
        )

    def layer(self, linear: nn.Linear) -> nn.Module:
        """Return a `QuantizedLinear` with the scale of the whole weight."""
        rows, halves = self.weight.shape
        layer = QuantizedLinear(2 * halves, rows, "bias" in linear, mode="nvfp4")
        assert self.scales is not None
        layer.weight, layer.scales = self.weight.view(mx.uint32), self.scales
        layer.global_scale = self.factor * TENSOR_SCALE
        layer.freeze()
        return layer


@dataclass(slots=True, kw_only=True)
class Codes:
    """The weights of one checkpoint that are codes.

    Attributes:
        formats: Format of every tensor, as the files name it.
        settings: What the checkpoint says of how it was quantized.
        dtype: Of values that something comes to need.
    """

    formats: Mapping[str, str]
    settings: Mapping[str, Any]
    dtype: mx.Dtype = mx.bfloat16
    _kept: dict[int, tuple[mx.array, Kept]] = field(default_factory=dict)

    @property
    def are_kept(self) -> bool:
        """Whether there are such weights, none of them experts of two codes a byte.

        Of these mlx-lm's models know themselves.
        """
        forms = self.formats
        fours = (key for key in forms if key.endswith(("_scale_2", "_global_scale")))
        return not any(".experts." in key for key in fours) and any(
            form in _FORMATS for form in forms.values()
        )

    def set_apart(self, weights: Weights) -> Weights:
        """Return tensors with values in the place of codes, and without their scales."""
        found, taken = dict(weights), set[str]()
        for name, key, kept, used in self._found(weights):
            values = kept.values(self.dtype)
            self._kept[id(values)] = (values, kept)
            found[name] = values
            taken |= {key, *used} - {name}
        return {name: array for name, array in found.items() if name not in taken}

    def put_back(self, model: nn.Module, weights: Weights) -> Weights:
        """Give a model layers of codes where weights are still what was set apart.

        Returns:
            The tensors of the model as it is then.
        """
        linears = {path: layer for path, layer in model.named_modules() if type(layer) is nn.Linear}
        found, layers = dict(weights), []
        for name, array in weights.items():
            path = name.removesuffix(".weight")
            _, kept = self._kept.get(id(array), (None, None))
            if kept is None or path not in linears or path == name:
                continue
            layer = kept.layer(linears[path])
            layers.append((path, layer))
            own = layer.parameters()
            own.pop("bias", None)
            found |= {f"{path}.{key}": value for key, value in own.items() if value is not None}
        model.update_modules(tree_unflatten(layers))
        self._kept.clear()
        return found

    def _found(self, weights: Weights) -> Iterator[tuple[str, str, Kept, list[str]]]:
        """Yield the name of each weight, that of its codes, the weight, and what belongs to it."""
        scales = set()
        for key in weights:
            fours = self._fours(weights, key)
            if fours is not None:
                name, kept, used = fours
                scales.add(f"{name}_scale")
                yield name, key, kept, used
        for key, array in weights.items():
            form = _FORMATS.get(self.formats.get(key, ""))
            if form is None or array.ndim < 2 or key in scales or _is_scale(key):
                continue
            of = next((name for name in _names_of_scales(key) if name in weights), None)
            if of is None and form == "int8":
                continue
            kept = self._bytes(array, form, of, weights)
            yield key, key, kept, _belonging(key, weights, of)

    def _fours(self, weights: Weights, key: str) -> tuple[str, Kept, list[str]] | None:
        name = key.removesuffix("_packed")
        of = f"{name}_scale"
        if self.formats.get(key) != "U8" or self.formats.get(of) != "F8_E4M3":
            return None
        # One of them multiplies the weight, the other is what it was multiplied by.
        multiplier, divisor = f"{name}_scale_2", f"{name}_global_scale"
        if multiplier in weights:
            factor = weights[multiplier].astype(mx.float32)
        elif divisor in weights:
            factor = 1 / weights[divisor].astype(mx.float32)
        else:
            return None
        if factor.size != 1 or weights[key].ndim != 2:
            return None
        kept = KeptFours(weight=weights[key], scales=weights[of], factor=mx.reshape(factor, ()))
        return name, kept, _belonging(name, weights, of, multiplier, divisor)

    def _bytes(self, array: mx.array, form: str, of: str | None, weights: Weights) -> KeptBytes:
        powers = self.settings.get("scale_fmt") == "ue8m0"
        scales = weights[of] if of else None
        kept = KeptBytes(weight=array, scales=scales, format=form, powers=powers)
        rows = array.shape[:-1]
        of_rows = scales is not None and scales.shape in (rows, (*rows, 1))
        if scales is None or of_rows or prod(scales.shape[-2:]) == 1:
            return kept
        block = self._block()
        grid = (
            *array.shape[:-2],
            ceil(array.shape[-2] / block[0]),
            ceil(array.shape[-1] / block[1]),
        )
        if scales.shape == grid:
            return replace(kept, block=block)
        if scales.dtype == mx.uint8:
            return kept
        raise ProblemError(
            f"[load] Expected {of} to be of blocks of {block[0]} by {block[1]}, "
            f"{shape_text(grid)}, of rows or of all of {shape_text(array.shape)}, got "
            f"{shape_text(scales.shape)}."
        )

    def _block(self) -> Block:
        """Return the sizes of blocks that the checkpoint states, in whichever place."""
        groups = (self.settings.get("config_groups") or {}).values()
        stated = [
            self.settings.get("weight_block_size"),
            *((one.get("weights") or {}).get("block_structure") for one in groups),
        ]
        for one in stated:
            if isinstance(one, list | tuple) and len(one) == 2:
                return (int(one[0]), int(one[1]))
        return BLOCK


def _is_scale(key: str) -> bool:
    return key.endswith((*_SCALES, "scale_weight", "_scale_2", *_OF_ACTIVATIONS))


def _names_of_scales(key: str) -> Iterator[str]:
    for ending in _SCALES:
        yield key + ending
    if key.endswith(".weight"):
        yield key.removesuffix("weight") + "scale_weight"


def _belonging(key: str, weights: Weights, *names: str | None) -> list[str]:
    """Return the tensors that are of no use without the codes of a weight."""
    base = key.rpartition(".")[0]
    others = (f"{base}.{name}" if base else name for name in _OF_ACTIVATIONS)
    return [name for name in (*names, *others, *_MARKS) if name in weights]

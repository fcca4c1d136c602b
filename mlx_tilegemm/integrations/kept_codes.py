"""Weights that stay codes while a model is loaded: which tensors they are, and their layers.

A model's own ``sanitize`` renames and rearranges tensors that it expects to be floats. Before, each
weight of codes is replaced by its values, which MLX computes only if something comes to need them.
After, the very arrays that were put there become codes again, whatever their names are then, and
so do stacks of them. What was cut by rows or turned, such as a joined ``gate_up_proj``, what was
made of rows of some of them in any order, such as a joined ``qkv_proj``, and what latent attention
cuts by heads and absorbs, becomes codes where these have the very values of the parts. What else
was cut or joined stays floats.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from math import ceil, gcd, prod
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_unflatten

from ..core.arguments import ArraySpec
from ..core.scaling_request import POWER_WIDTH
from ..core.shapes import shape_text
from ..errors import ProblemError
from ..families.scaled.fallback import right_values
from ..families.scaled.request import scaled_request
from ..formats import TENSOR_SCALE, decode, dequantize, encode
from ..nn import FP8Linear, FP8MultiLinear, FP8SwitchLinear, QuantizedLinear

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

_ABSORBED, _PARTS = "kv_b_proj", ("embed_q", "unembed_out")
"""The projection of latent attention that becomes two of each head: its first rows, of which these
are the transposes, and its others."""

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
    def layer(self, linear: nn.Module) -> nn.Module | None:
        """Return the layer that multiplies by the codes in the place of another; None if none may.

        Args:
            linear: An `nn.Linear`, or a ``SwitchLinear`` of mlx-lm.
        """

    def stacked_with(self, others: Sequence[Kept]) -> Kept | None:
        """Return the weight of matrices one after another; None where there is none."""
        return None


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

    def layer(self, linear: nn.Module) -> nn.Module | None:
        """Return an `FP8Linear` or `FP8SwitchLinear`, or one of `mxfp8` where that is the same."""
        if self.weight.ndim not in (2, 3):
            return None
        shape, bias = self.weight.shape, "bias" in linear
        groups = self._groups()
        if groups is not None:
            return _mxfp8(shape, bias, self.weight, groups)
        columns, rows, form = shape[-1], shape[-2], self.format
        layer: nn.Module
        if len(shape) == 2:
            layer = FP8Linear(columns, rows, bias, form, block=self.block)
        else:
            layer = FP8SwitchLinear(columns, rows, shape[0], bias, form, block=self.block)
        layer.weight = self.weight
        if self.scales is not None:
            layer.scales = self._scales_of_matrices()
        return layer

    def stacked_with(self, others: Sequence[Kept]) -> Kept | None:
        """Return the weight of matrices one after another; None where there is none."""
        every = [self, *(one for one in others if isinstance(one, KeptBytes))]
        if len(every) <= len(others) or self.weight.ndim != 2:
            return None
        if len({(one.weight.shape, one.format, one.powers) for one in every}) > 1:
            return None
        alike = _with_scales_alike(every)
        stack = mx.stack([one.weight for one in alike])
        scales = [one._scales_of_matrices() for one in alike if one.scales is not None]
        return replace(alike[0], weight=stack, scales=mx.stack(scales) if scales else None)

    def heads(self, count: int) -> KeptHeads:
        """Return the weight as so many matrices of neighbouring rows, each row with its scales."""
        rows, columns = self.weight.shape
        shape = (count, rows // count, columns)
        scales, block = self.scales, self.block
        if scales is not None:
            finer = self.finer((1, self.sizes[1]))
            assert finer.scales is not None
            scales = mx.reshape(finer.scales, (*shape[:2], finer.scales.shape[-1]))
            block = finer.block
        weight = mx.reshape(self.weight, shape)
        return KeptHeads(weight=weight, scales=scales, format=self.format, block=block)

    @property
    def sizes(self) -> Block:
        """Rows and columns that share a scale; those of a matrix where all do."""
        rows, columns = self.weight.shape[-2:]
        if self.scales is None:
            return (rows, columns)
        if self.block is not None:
            return (min(self.block[0], rows), min(self.block[1], columns))
        across, along = self._scales_of_matrices().shape[-2:]
        return (rows if across == 1 else 1, columns if along == 1 else POWER_WIDTH)

    def with_float_scales(self) -> KeptBytes:
        """Return the weight with scales of float32, which holds those of every format."""
        if self.scales is None:
            return self
        codes = self.scales.dtype == mx.uint8
        scales = decode(self.scales, "e8m0") if codes else self.scales.astype(mx.float32)
        return replace(self, scales=scales)

    def finer(self, sizes: Block) -> KeptBytes:
        """Return the weight with scales of blocks of such sizes, none of which has parts of two."""
        scales = mx.ones((1, 1)) if self.scales is None else self._scales_of_matrices()
        for axis, own, size in zip((-2, -1), self.sizes, sizes, strict=True):
            if size != own:
                count = ceil(self.weight.shape[axis] / size)
                scales = mx.take(scales, mx.arange(count) * size // own, axis=axis)
        return replace(self, scales=scales, block=sizes)

    def part(self, first: int, count: int) -> KeptBytes:
        """Return so many rows of each matrix, from the first one on."""
        weight = mx.contiguous(self.weight[..., first : first + count, :])
        if self.scales is None:
            return replace(self, weight=weight)
        rows, width = self.sizes
        if rows == self.weight.shape[-2]:
            return replace(self, weight=weight, block=(count, width))
        height = gcd(rows, first)
        laid = self.finer((height, width))
        assert laid.scales is not None
        of_rows = slice(first // height, ceil((first + count) / height))
        return replace(laid, weight=weight, scales=mx.contiguous(laid.scales[..., of_rows, :]))

    def turned(self) -> KeptBytes:
        """Return the weight of the transposes of all matrices."""
        weight = mx.contiguous(mx.swapaxes(self.weight, -1, -2))
        if self.scales is None:
            return replace(self, weight=weight)
        height, width = self.sizes
        scales = mx.contiguous(mx.swapaxes(self._scales_of_matrices(), -1, -2))
        return replace(self, weight=weight, scales=scales, block=(width, height))

    def parts(self, shape: tuple[int, ...]) -> Iterator[KeptBytes]:
        """Yield what a model may have made of a joined weight: equal shares of rows, or turned."""
        *batch, rows, columns = shape
        if self.weight.shape[:-2] != tuple(batch):
            return
        for one in (self, self.turned()):
            own_rows, own_columns = one.weight.shape[-2:]
            if own_columns == columns and own_rows % rows == 0:
                yield from (one.part(first, rows) for first in range(0, own_rows, rows))

    def with_rows(self, blocks: mx.array, rows: int) -> KeptBytes:
        """Return the weight of so many rows, in blocks of those that share a scale, by number."""
        height = self.sizes[0]
        places = mx.expand_dims(blocks * height, -1) + mx.arange(height)
        weight = mx.take(self.weight, mx.flatten(places)[:rows], axis=-2)
        scales = None if self.scales is None else mx.take(self.scales, blocks, axis=-2)
        return replace(self, weight=weight, scales=scales)

    def _scales_of_matrices(self) -> mx.array:
        """Return the scales with an axis of rows and one of columns; those of all are as they are.

        Those of experts are each expert's.
        """
        assert self.scales is not None
        *batch, rows, _ = self.weight.shape
        if self.scales.size == 1 and not batch:
            return mx.reshape(self.scales, (1, 1))
        if self.scales.shape == (*batch, rows):
            return mx.expand_dims(self.scales, -1)
        if self.scales.size == 1:
            return mx.broadcast_to(mx.reshape(self.scales, (1,) * (len(batch) + 2)), (*batch, 1, 1))
        return self.scales

    def _groups(self) -> mx.array | None:
        """Return the scales as `mxfp8` has them, for 32 elements each; None where it cannot."""
        *batch, rows, columns = self.weight.shape
        height, width = self.block or (1, 32)
        grid = (*batch, ceil(rows / height), ceil(columns / width))
        powers = None if columns % 32 or width % 32 else self._powers()
        if powers is None or self.format != "e4m3" or powers.shape != grid:
            return None
        of_rows = mx.take(powers, mx.arange(rows) // height, axis=-2)
        return mx.take(of_rows, mx.arange(columns // 32) * 32 // width, axis=-1)

    def _powers(self) -> mx.array | None:
        """Return the scales as codes of powers of two; None where some are none."""
        if self.scales is None or self.scales.dtype == mx.uint8:
            return self.scales
        codes = encode(self.scales, "e8m0")
        exact = self.powers and mx.array_equal(decode(codes, "e8m0"), self.scales)
        return codes if exact else None


def _with_scales_alike(every: Sequence[KeptBytes]) -> Sequence[KeptBytes]:
    """Return the same weights with scales of one dtype, and of blocks of the same sizes."""
    if len({(one.block, one.scales is None) for one in every}) == 1:
        scales = [one._scales_of_matrices() for one in every if one.scales is not None]
        if len({(one.shape, one.dtype) for one in scales}) <= 1:
            return every
    rows, columns = every[0].weight.shape[-2:]
    sizes = (
        _common(rows, [one.sizes[0] for one in every]),
        _common(columns, [one.sizes[1] for one in every]),
    )
    return [one.with_float_scales().finer(sizes) for one in every]


def _common(length: int, sizes: Sequence[int]) -> int:
    """Return the size of blocks of an axis that are whole in blocks of each of some sizes."""
    # A block of all of the axis begins and ends where any block does.
    return gcd(*(size for size in sizes if size < length)) or length


def _mxfp8(shape: tuple[int, ...], bias: bool, codes: mx.array, scales: mx.array) -> nn.Module:
    """Return a quantized layer of a linear one, or of experts, with these codes and scales."""
    layer: nn.Module
    if len(shape) == 2:
        layer = QuantizedLinear(*shape[::-1], bias, mode="mxfp8")
    else:
        layer = _switch_layers().QuantizedSwitchLinear(
            *shape[::-1], bias, group_size=32, bits=8, mode="mxfp8"
        )
    layer.weight, layer.scales = codes.view(mx.uint32), scales
    layer.freeze()
    return layer


def _switch_layers() -> Any:  # noqa: ANN401 - a module without types
    return import_module("mlx_lm.models.switch_layers")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptHeads:
    """A weight of one code a byte that is a matrix for each head.

    Attributes:
        weight: The codes, ``[heads, rows, columns]``.
        scales: Their scales; None without.
        format: Format of the codes.
        block: Rows and columns of blocks that share a scale.
    """

    weight: mx.array
    scales: mx.array | None
    format: str
    block: Block | None

    def rows(self, part: slice, transposed: bool) -> FP8MultiLinear:
        """Return the projections of some rows of each head, or their transposes."""
        weight = mx.contiguous(self.weight[:, part])
        heads, rows, columns = weight.shape
        layer = FP8MultiLinear(
            rows, columns, heads, self.format, block=self.block, transposed=transposed
        )
        layer.weight = weight
        if self.scales is not None:
            layer.scales = mx.contiguous(self.scales[:, part])
        layer.freeze()
        return layer


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

    def layer(self, linear: nn.Module) -> nn.Module | None:
        """Return a `QuantizedLinear` with the scale of the whole weight."""
        if type(linear) is not nn.Linear:
            return None
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
    _named: dict[str, KeptBytes] = field(default_factory=dict)
    _stacked: set[int] = field(default_factory=set)

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
            if isinstance(kept, KeptBytes):
                self._named[name] = kept
            found[name] = values
            taken |= {key, *used} - {name}
        return {name: array for name, array in found.items() if name not in taken}

    def stack(
        self,
        original: Callable[..., mx.array],
        arrays: Sequence[mx.array],
        axis: int = 0,
        **options: object,
    ) -> mx.array:
        """Stack arrays as `mx.stack` does, and know what is a stack of weights of codes."""
        values = original(arrays, axis, **options)
        kept = [self._kept.get(id(one), (None, None))[1] for one in arrays]
        known = [one for one in kept if one is not None]
        if known and len(known) == len(kept) and axis == 0:
            stacked = known[0].stacked_with(known[1:])
            if stacked is not None:
                self._kept[id(values)] = (values, stacked)
                self._stacked |= {id(one) for one in arrays}
        return values

    def put_back(self, model: nn.Module, weights: Weights) -> Weights:
        """Give a model layers of codes where weights are still what was set apart, or stacks of it.

        Returns:
            The tensors of the model as it is then.
        """
        modules = dict(model.named_modules())
        found = dict(weights)
        layers = [*self._own_layers(modules, found), *self._heads(modules, found)]
        joined = self._joined(found)
        for path, _ in layers:
            del found[f"{path}.weight"]
        weights.clear()
        layers += self._parts(modules, found, joined)
        for path, layer in layers:
            own = layer.parameters()
            own.pop("bias", None)
            found |= {f"{path}.{key}": value for key, value in own.items() if value is not None}
        model.update_modules(tree_unflatten(layers))
        self._kept.clear()
        self._named.clear()
        self._stacked.clear()
        return found

    def _own_layers(
        self, modules: Mapping[str, nn.Module], weights: Weights
    ) -> Iterator[tuple[str, nn.Module]]:
        for name, array in weights.items():
            path = name.removesuffix(".weight")
            _, kept = self._kept.get(id(array), (None, None))
            if kept is None or path == name or type(modules.get(path)) not in _kinds():
                continue
            layer = kept.layer(modules[path])
            if layer is not None:
                yield path, layer

    def _joined(self, weights: Weights) -> dict[str, KeptBytes]:
        """Return those whose values are no tensor of the model and in no stack."""
        taken = {id(one) for one in weights.values()} | self._stacked
        left = {id(kept) for key, (_, kept) in self._kept.items() if key not in taken}
        return {name: kept for name, kept in self._named.items() if id(kept) in left}

    def _parts(
        self,
        modules: Mapping[str, nn.Module],
        weights: Weights,
        joined: Mapping[str, KeptBytes],
    ) -> list[tuple[str, nn.Module]]:
        """Return layers of which the weight is a part of a joined one, and take their weights away.

        Values are computed to compare them, and nothing holds those of a layer while the next ones
        are.
        """
        layers = []
        for name in list(weights):
            path = name.removesuffix(".weight")
            if path == name or type(modules.get(path)) not in _kinds():
                continue
            alike = [one for key, one in joined.items() if _numbers(key) == _numbers(name)]
            kept = self._part(alike, weights[name])
            layer = None if kept is None else kept.layer(modules[path])
            if layer is not None:
                del weights[name]
                layers.append((path, layer))
        return layers

    def _part(self, joined: Sequence[KeptBytes], values: mx.array) -> KeptBytes | None:
        """Return the codes that have some values; who joined them needs theirs no longer."""
        for whole in joined:
            for one in whole.parts(values.shape):
                if _are_equal(one.values(values.dtype), values):
                    self._forget([whole])
                    return one
        sources = [one for one in joined if _are_alike(one, joined[0], values.shape)]
        made = _gathered(sources, values)
        if made is not None:
            self._forget(sources)
        return made

    def _forget(self, taken: Sequence[KeptBytes]) -> None:
        """Let go of the values of weights that became others."""
        ids = {id(one) for one in taken}
        self._kept = {key: pair for key, pair in self._kept.items() if id(pair[1]) not in ids}

    def _heads(
        self, modules: Mapping[str, nn.Module], weights: Weights
    ) -> Iterator[tuple[str, nn.Module]]:
        """Yield the projections of heads that latent attention makes of one weight of codes."""
        for name, kept in self._named.items():
            path = name.removesuffix(f"{_ABSORBED}.weight")
            if path == name or kept.weight.ndim != 2:
                continue
            names = [f"{path}{one}" for one in _PARTS]
            parts = [weights.get(f"{one}.weight") for one in names]
            if any(type(modules.get(one)).__name__ != "MultiLinear" for one in names):
                continue
            first, second = parts
            if first is None or second is None or first.ndim != 3:
                continue
            cut, heads = first.shape[-1], kept.heads(first.shape[0])
            layers = (heads.rows(slice(0, cut), True), heads.rows(slice(cut, None), False))
            if all(_has_values(*pair) for pair in zip(layers, (first, second), strict=True)):
                yield from zip(names, layers, strict=True)

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
        if scales.shape == (*array.shape[:-2], 1, array.shape[-1]):
            return replace(kept, block=(array.shape[-2], 1))
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
            f"{shape_text(grid)}, of rows, of columns or of all of {shape_text(array.shape)}, got "
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


def _are_alike(one: KeptBytes, other: KeptBytes, shape: Sequence[int]) -> bool:
    """Whether rows of two weights may be rows of one of a shape."""
    *batch, _, columns = shape
    is_of_shape = (one.weight.shape[:-2], one.weight.shape[-1]) == (tuple(batch), columns)
    return is_of_shape and one.format == other.format


def _gathered(sources: Sequence[KeptBytes], values: mx.array) -> KeptBytes | None:
    """Return the weight of rows of some weights that have some values; None where there is none."""
    if not sources:
        return None
    places = _row_places([one.values(values.dtype) for one in sources], values)
    if places is None:
        return None
    starts = [at for at, place in enumerate(places) if not at or place != places[at - 1] + 1]
    ends = [one.weight.shape[-2] for one in sources]
    height = gcd(*(one.sizes[0] for one in sources), *ends, *starts, *(places[at] for at in starts))
    width = _common(values.shape[-1], [one.sizes[1] for one in sources])
    fine = [one.with_float_scales().finer((height, width)) for one in sources]
    whole = replace(
        fine[0],
        weight=mx.concatenate([one.weight for one in fine], axis=-2),
        scales=mx.concatenate([one.scales for one in fine if one.scales is not None], axis=-2),
    )
    made = whole.with_rows(mx.array(places[::height]) // height, values.shape[-2])
    return made if _are_equal(made.values(values.dtype), values) else None


def _row_places(sources: Sequence[mx.array], values: mx.array) -> list[int] | None:
    """Return which row of the sources, one after the other, each row of values is; None if none is.

    Of weights of several matrices it is asked of the first.
    """
    known = [row for one in sources for row in _rows(one)]
    first = {row: place for place, row in reversed([*enumerate(known)])}
    places: list[int] = []
    for row in _rows(values):
        following = places[-1] + 1 if places else 0
        is_next = following < len(known) and known[following] == row
        place = following if is_next else first.get(row)
        if place is None:
            return None
        places.append(place)
    return places


def _rows(values: mx.array) -> list[bytes]:
    """Return the bytes of each row of the first matrix."""
    matrix = mx.reshape(values, (-1, *values.shape[-2:]))[0]
    return [row.tobytes() for row in np.array(matrix.view(mx.uint8))]


def _has_values(layer: FP8MultiLinear, weight: mx.array) -> bool:
    """Whether a layer of codes has the values that were made of them, each rounded once."""
    values = layer.decoded(weight.dtype)
    return _are_equal(values.swapaxes(-1, -2) if layer.transposed else values, weight)


def _are_equal(values: mx.array, weight: mx.array) -> bool:
    same = values.shape == weight.shape
    return same and bool(mx.array_equal(values, weight, equal_nan=True).item())


def _kinds() -> tuple[type, ...]:
    """Return the classes of layers that layers of codes take the place of."""
    return (nn.Linear, _switch_layers().SwitchLinear)


def _numbers(name: str) -> list[str]:
    """Return the numbers in a tensor's name: of its layer, and of its expert if it is of one."""
    return [part for part in name.split(".") if part.isdecimal()]


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

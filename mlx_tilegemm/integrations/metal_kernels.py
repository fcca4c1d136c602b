"""Metal kernels of mlx-lm's own, for GPUs on which MLX runs none.

Where Metal is missing, mlx-lm's models compute by MLX's ops what they have a kernel for, or fail.
Such a function has a twin here: the source of its module run once more, with an `mlx.core` that
says that Metal is there and makes kernels as a backend makes them. Neither MLX nor mlx-lm changes.
"""

from __future__ import annotations

import builtins
import copy
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NamedTuple, cast

import mlx.core as mx
import mlx.nn as nn

from ..backends import KernelMaker, resolved_backend
from ..core.context import current_settings
from ..core.tracing import is_traced
from ..layers.functions import FunctionRule
from ..layers.routing import Function, original_of

_MODELS = "mlx_lm.models"


class _Kernel(NamedTuple):
    """A function of mlx-lm that has a kernel.

    Attributes:
        is_for: Whether its kernel computes what its ops do of such arguments.
        has_ops: Whether it computes by MLX's ops where Metal is missing.
    """

    is_for: Callable[..., bool]
    has_ops: bool = True


def _is_one_token(*arrays: Any, **options: Any) -> bool:  # noqa: ANN401 - as mlx-lm's ssm_update
    state = arrays[7] if len(arrays) > 7 else options.get("state")
    # The kernel of one token knows of no masks, and its lanes share a state of 32 times so many.
    masked = any(one is not None for one in arrays[9:]) or any(
        options.get(name) is not None for name in ("mask", "lengths")
    )
    return arrays[0].shape[1] == 1 and state is not None and not (masked or state.shape[-1] % 32)


def _has_whole_heads(layer: nn.Module, r: mx.array, *others: mx.array | None) -> bool:
    return r.shape[-1] % 32 == 0 and r.size > 0


def _mixes_blocks(
    blocks: Any,  # noqa: ANN401 - mlx-lm's own
    partial_sum: mx.array,
    w_eff: mx.array,
    eps: float,
    use_kernel: bool = True,
) -> bool:
    return use_kernel and blocks.raw is not None and partial_sum.size > 0


def _has_iterations(comb: mx.array, *, iters: int, eps: mx.array) -> bool:
    return iters > 0 and comb.size > 0


def _has_rows(layer: nn.Module, x: mx.array, packed_weights: mx.array) -> bool:
    return x.size > 0


_KERNELS = {
    (f"{_MODELS}.ssm", "ssm_update"): _Kernel(_is_one_token),
    (f"{_MODELS}.rwkv7", "Rwkv7TimeMixing._wkv7"): _Kernel(_has_whole_heads),
    (f"{_MODELS}.kimi_k3", "_attn_res_mix"): _Kernel(_mixes_blocks),
    (f"{_MODELS}.deepseek_v41", "_sinkhorn"): _Kernel(_has_iterations),
    (f"{_MODELS}.bitlinear_layers", "BitLinear.execute_matmul_kernel"): _Kernel(
        _has_rows, has_ops=False
    ),
}


def are_missing() -> bool:
    """Return whether MLX itself runs no Metal kernels here, and a GPU that could is there."""
    return mx.cuda.is_available()


def function_rules() -> tuple[FunctionRule, ...]:
    """Return rules for the functions of loaded modules of mlx-lm that have a kernel."""
    found = (_found(sys.modules.get(module), name) for module, name in _KERNELS)
    return tuple(
        FunctionRule(function=function, route=on_kernel, op=KERNEL)
        for function in found
        if function is not None
    )


KERNEL = "metal_kernel"
"""The op that reports name."""


def _found(module: ModuleType | None, name: str) -> Function | None:
    """Return a function of a module, or of a class in it, as it is outside of any block."""
    owner, _, last = name.rpartition(".")
    scope = getattr(module, owner, None) if owner else module
    return cast(Function | None, original_of(getattr(scope, "__dict__", {}).get(last)))


def on_kernel(original: Function, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
    """Serve a call of a function of mlx-lm by its kernel, where the backend runs such kernels.

    Derivatives and batches are those of the function itself.
    """
    backend = resolved_backend(None, current_settings())
    make = backend.metal_kernel() if backend else None
    kernel = _KERNELS[original.__module__, original.__qualname__]
    if make is None or not kernel.is_for(*args, **kwargs):
        return original(*args, **kwargs)
    twin = _twin(original.__module__, original.__qualname__, make)
    if not kernel.has_ops or not is_traced():
        return twin(*args, **kwargs)
    return _transformed(twin, original, (args, kwargs))


@lru_cache(maxsize=64)
def _twin(module: str, name: str, make: KernelMaker) -> Function:
    owner, _, last = name.rpartition(".")
    names = _run_again(module, make)
    return cast(Function, getattr(names[owner], last) if owner else names[last])


@lru_cache(maxsize=64)
def _run_again(module: str, make: KernelMaker) -> dict[str, Any]:
    """Return the names of a module whose source is run with an `mlx.core` of its own."""
    spec = find_spec(module)
    assert spec is not None
    loader: Any = spec.loader
    names = {
        "__name__": module,
        "__package__": spec.parent,
        "__spec__": spec,
        "__file__": spec.origin,
        "__builtins__": {**vars(builtins), "__import__": _importing(_core(make))},
    }
    exec(loader.get_code(module), names)
    return names


class _View:
    """Another object, but for some attributes."""

    def __init__(self, other: object, **attributes: object) -> None:
        vars(self).update(attributes)
        self._other = other

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._other, name)


def _core(make: KernelMaker) -> _View:
    return _View(
        mx,
        metal=_View(mx.metal, is_available=lambda: True),
        fast=_View(mx.fast, metal_kernel=make),
        # Kernels run there whatever the default device is.
        default_device=lambda: mx.Device(mx.gpu),
    )


def _importing(core: _View) -> Callable[..., Any]:
    """Return an ``__import__`` that has ``core`` for `mlx.core`."""

    def load(
        name: str,
        globals: dict[str, Any] | None = None,
        locals: dict[str, Any] | None = None,
        fromlist: Sequence[str] = (),
        level: int = 0,
    ) -> object:
        found = builtins.__import__(name, globals, locals, fromlist, level)
        if found is mx:
            return core
        return _View(found, core=core) if found is sys.modules["mlx"] else found

    return load


def _transformed(kernel: Function, original: Function, arguments: Any) -> Any:  # noqa: ANN401
    """Return what a kernel computes, with the derivatives and the batching of its original."""
    results: list[Any] = []

    def forward(*given: mx.array) -> list[mx.array]:
        # MLX differentiates what is inside a custom function too, unless it is stopped.
        args, kwargs = _with_floats(arguments, [mx.stop_gradient(x) for x in given])
        results.append(kernel(*args, **kwargs))
        return _floats(results[-1])

    def ops(*given: mx.array) -> list[mx.array]:
        args, kwargs = _with_floats(arguments, given)
        found = zip(_floats(original(*args, **kwargs)), _floats(results[0]), strict=True)
        # Those of RWKV have another axis.
        return [x.reshape(like.shape).astype(like.dtype) for x, like in found]

    function = _custom_function(forward, ops)
    outputs = cast(list[mx.array], function(*_floats(arguments)))
    return _with_floats(results[0], outputs)


def _custom_function(
    forward: Callable[..., list[mx.array]], ops: Callable[..., list[mx.array]]
) -> Callable[..., Any]:
    function = mx.custom_function(forward)

    def vjp(primals: Any, cotangents: Any, outputs: object) -> Any:  # noqa: ANN401 - MLX's
        found = mx.vjp(ops, _listed(primals), _listed(cotangents))[1]
        return found[0] if isinstance(primals, mx.array) else found

    def jvp(primals: Any, tangents: Any) -> Any:  # noqa: ANN401
        pairs = zip(_listed(primals), _listed(tangents), strict=True)
        filled = [mx.zeros_like(x) if tangent is None else tangent for x, tangent in pairs]
        return mx.jvp(ops, _listed(primals), filled)[1]

    def vmap(given: Any, axes: Any) -> Any:  # noqa: ANN401
        outputs = mx.vmap(ops, in_axes=tuple(_listed(axes)))(*_listed(given))
        return outputs, [0] * len(outputs)

    function.vjp(vjp)
    function.jvp(jvp)
    function.vmap(vmap)
    return function


def _listed(value: Any) -> list[Any]:  # noqa: ANN401 - of one array MLX gives the array
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _floats(value: object) -> list[mx.array]:
    """Return the arrays of floats in a value: in containers, and in objects that are no layers."""
    found: list[mx.array] = []

    def kept(x: mx.array) -> mx.array:
        found.append(x)
        return x

    _mapped(value, kept)
    return found


def _with_floats(value: Any, arrays: Sequence[mx.array]) -> Any:  # noqa: ANN401
    """Return a value with other arrays in the place of those that `_floats` finds."""
    rest = iter(arrays)
    return _mapped(value, lambda _: next(rest))


def _mapped(value: Any, change: Callable[[mx.array], mx.array]) -> Any:  # noqa: ANN401
    if isinstance(value, mx.array):
        return change(value) if mx.issubdtype(value.dtype, mx.inexact) else value
    if type(value) in (list, tuple):
        return type(value)(_mapped(one, change) for one in value)
    if type(value) is dict:
        return {key: _mapped(one, change) for key, one in value.items()}
    own = getattr(value, "__dict__", {})
    if isinstance(value, nn.Module) or not any(isinstance(one, mx.array) for one in own.values()):
        return value
    twin = copy.copy(value)
    vars(twin).update(_mapped(own, change))
    return twin

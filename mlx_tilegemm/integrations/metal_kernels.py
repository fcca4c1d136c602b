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
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple, cast

import mlx.core as mx
import mlx.nn as nn

from ..backends import Backend, KernelMaker, resolved_backend
from ..core.context import current_settings
from ..core.tracing import is_traced
from ..layers.functions import FunctionRule
from ..layers.routing import Function, original_of

_MODELS = "mlx_lm.models"


class _Kernel(NamedTuple):
    """Account of a function of mlx-lm that has a kernel.

    Attributes:
        parameters: Those of its parameters that decide.
        computes: Whether the kernel computes of such arguments what the function does without it;
            an argument that is not given is None.
        has_ops: Whether the function computes by MLX's ops where Metal is missing.
    """

    parameters: tuple[str, ...]
    computes: Callable[..., bool]
    has_ops: bool = True


def _is_one_token(
    x: mx.array, state: mx.array | None, mask: mx.array | None, lengths: mx.array | None
) -> bool:
    if state is None or mask is not None or lengths is not None:
        return False
    # 32 lanes share a row of the state.
    return x.shape[1] == 1 and state.shape[-1] % 32 == 0


def _is_shared_by_lanes(r: mx.array) -> bool:
    return r.shape[-1] % 32 == 0 and r.size > 0


def _has_blocks(blocks: Any, partial_sum: mx.array, use_kernel: bool | None) -> bool:  # noqa: ANN401
    return use_kernel is not False and blocks.raw is not None and partial_sum.size > 0


def _has_iterations(comb: mx.array, iters: int) -> bool:
    return iters > 0 and comb.size > 0


_ALONE = _Kernel((), lambda: True, has_ops=False)

_KERNELS = {
    (f"{_MODELS}.ssm", "ssm_update"): _Kernel(
        ("hidden_states", "state", "mask", "lengths"), _is_one_token
    ),
    (f"{_MODELS}.rwkv7", "Rwkv7TimeMixing._wkv7"): _Kernel(("r",), _is_shared_by_lanes),
    (f"{_MODELS}.kimi_k3", "_attn_res_mix"): _Kernel(
        ("blocks", "partial_sum", "use_kernel"), _has_blocks
    ),
    (f"{_MODELS}.deepseek_v41", "_sinkhorn"): _Kernel(("comb", "iters"), _has_iterations),
    (f"{_MODELS}.bitlinear_layers", "BitLinear.execute_matmul_kernel"): _ALONE,
    **{
        (f"mlx_lm.kernels.{module}", name): _ALONE
        for module, name in (
            ("expert_routing", "expert_routing"),
            ("norm_add_norm", "norm_add_norm"),
            ("norm_add_norm", "pre_norm"),
            ("post_expert_norm_combine", "post_expert_norm_combine"),
            ("qk_norm", "qk_norm"),
            ("qk_norm_rope", "qk_norm_rope"),
            ("rms_norm_sigmoid_gate", "rms_norm_sigmoid_gate"),
        )
    },
}


def are_served() -> bool:
    """Return whether a backend runs such kernels: that of CUDA, or an object that is asked for."""
    asked = current_settings().backend
    return mx.cuda.is_available() or (isinstance(asked, Backend) and bool(asked.metal_kernel()))


def function_rules() -> tuple[FunctionRule, ...]:
    """Return rules for the functions of loaded modules of mlx-lm that have a kernel."""
    found = {(module, name): _found(sys.modules.get(module), name) for module, name in _KERNELS}
    return tuple(
        FunctionRule(function=function, route=on_kernel, op=KERNEL)
        for key, function in found.items()
        if function is not None and set(_KERNELS[key].parameters) <= set(_parameters(function))
    )


KERNEL = "metal_kernel"
"""The op that reports name."""


def _found(module: ModuleType | None, name: str) -> FunctionType | None:
    """Return a function of a module, or of a class in it, as it is outside of any block."""
    owner, _, last = name.rpartition(".")
    scope = getattr(module, owner, None) if owner else module
    value = original_of(getattr(scope, "__dict__", {}).get(last))
    return value if isinstance(value, FunctionType) else None


def _parameters(function: Any) -> tuple[str, ...]:  # noqa: ANN401
    code: CodeType = function.__code__
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


def on_kernel(original: Function, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
    """Serve a call of a function of mlx-lm by its kernel, where the backend runs such kernels.

    Derivatives and batches are those of the function itself.
    """
    backend = resolved_backend(None, current_settings())
    make = backend.metal_kernel() if backend else None
    if make is None:
        return original(*args, **kwargs)
    key = original.__module__, original.__qualname__
    kernel = _KERNELS[key]
    given = {**dict(zip(_parameters(original), args, strict=False)), **kwargs}
    if not kernel.computes(*map(given.get, kernel.parameters)):
        return original(*args, **kwargs)
    twin = _twin(*key, make)
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

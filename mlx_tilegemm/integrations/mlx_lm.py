"""mlx-lm: its models' linear layers, attention and recurrences, and FP8 checkpoints of them.

mlx-lm is imported when something is patched or loaded.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn

from ..layers import patching
from ..layers.functions import FunctionRule
from ..layers.patching import RULES, PatchReport, Rule, Rules
from ..layers.routing import Function, original_of
from ..nn import (
    LowRankEmbeddingRoute,
    LowRankRoute,
    LowRankSwitchRoute,
    MultiLinearRoute,
    QuantizedMultiLinearRoute,
    SwitchGluRoute,
    SwitchMlpRoute,
    SwitchRoute,
    WeightNormRoute,
)
from ..ops import gated_delta_update
from . import metal_kernels
from .loading import keeping_codes

_MODELS = "mlx_lm.models"


def patch(model: nn.Module) -> PatchReport:
    """Route an mlx-lm model through this library, in place; `mlx_tilegemm.unpatch` undoes it.

    Does what `mlx_tilegemm.patch` does, and routes the per-head projections of latent attention,
    experts, whose rows are then no longer sorted and copied, the adapters of LoRA and DoRA, and the
    recurrence of gated delta nets, in training too.
    Attention with a quantized cache stays with MLX.

    On NVIDIA GPUs also what mlx-lm has a Metal kernel for runs that kernel, by `mlx_tilegemm.cuda`:
    the recurrence of RWKV-7, that of Mamba 2 for one token, the products of BitNet, the mixed
    residuals of Kimi K3 and DeepSeek V4.1, and what Muse Spark fuses. Gradients are those of the
    ops that mlx-lm computes by elsewhere; BitNet and Muse Spark have none.

    Args:
        model: A model of mlx-lm, or a part of one.

    Returns:
        What was replaced and what was left alone.

    Raises:
        DTypeError: ``model`` is no `nn.Module` (a `TypeError`).
        ImportError: mlx-lm is not installed.

    Example:
        >>> model, tokenizer = mlx_lm.load("mlx-community/Llama-3.2-1B-Instruct-bf16")
        >>> print(patch(model))
    """
    return patching.patch_by(_rules(), model)[0]


def patched(model: nn.Module | None = None) -> AbstractContextManager[PatchReport]:
    """Route an mlx-lm model, or all of them, while a ``with`` block runs.

    Args:
        model: As in `patch`. None routes every model for the running thread or task.

    Returns:
        A context manager that gives the report.

    Raises:
        DTypeError: ``model`` is neither None nor an `nn.Module` (a `TypeError`).
        ImportError: mlx-lm is not installed.

    Example:
        >>> with patched():
        ...     text = mlx_lm.generate(model, tokenizer, "Hello")
    """
    return patching.patched_by(_rules(), model)


def load(path_or_hf_repo: str | PathLike[str], *args: Any, **options: Any) -> Any:  # noqa: ANN401
    """Load a model and its tokenizer as `mlx_lm.load` does, with FP8 weights kept as they are.

    Linear layers whose weight the checkpoint holds as codes become `mlx_tilegemm.nn.FP8Linear`,
    experts `mlx_tilegemm.nn.FP8SwitchLinear`, and what latent attention makes of ``kv_b_proj`` two
    `mlx_tilegemm.nn.FP8MultiLinear`; or they become layers of mxfp8 where scales are powers of two,
    which is exact, and of nvfp4 with the scale of the whole weight. mlx-lm would make bfloat16 of
    them, of twice the size, or refuse.
    Recognised are, beside a weight of F8_E4M3, F8_E5M2 or I8: ``weight_scale_inv`` and
    ``weight_scale`` (one, for each row, or for blocks of ``weight_block_size``, 128 by 128 if the
    checkpoint does not say it; F8_E8M0 also for 32 elements) and ``scale_weight``; and of nvfp4
    ``weight_scale_2``, which multiplies the weight, and ``weight_global_scale``, which divides it.
    Scales of activations are not used: activations stay floats. Weights that a model cuts, or joins
    in other ways than by `mx.stack`, are decoded as mlx-lm decodes them.

    Args:
        path_or_hf_repo: As of `mlx_lm.load`.
        args: Likewise.
        options: Likewise.

    Returns:
        What `mlx_lm.load` returns.

    Raises:
        ProblemError: Scales that do not fit their weight (a `ValueError`).
        ImportError: mlx-lm is not installed.

    Example:
        >>> model, tokenizer = load("Qwen/Qwen3-0.6B-FP8")
        >>> report = patch(model)
    """
    # mlx-lm itself asks for a path of its own kind.
    name = path_or_hf_repo if isinstance(path_or_hf_repo, str) else str(path_or_hf_repo)
    with keeping_codes():
        return import_module("mlx_lm.utils").load(name, *args, **options)


def load_model(model_path: str | PathLike[str], *args: Any, **options: Any) -> Any:  # noqa: ANN401
    """Load a model as `mlx_lm.utils.load_model` does, with FP8 weights kept as `load` keeps them.

    Args:
        model_path: As of `mlx_lm.utils.load_model`.
        args: Likewise.
        options: Likewise.

    Returns:
        The model and its configuration.

    Raises:
        ProblemError: Scales that do not fit their weight (a `ValueError`).
        ImportError: mlx-lm is not installed.
    """
    with keeping_codes():
        return import_module("mlx_lm.utils").load_model(Path(model_path), *args, **options)


_SWITCH = f"{_MODELS}.switch_layers"
_ROUTES = {
    (f"{_MODELS}.mla", "MultiLinear"): (MultiLinearRoute, "matmul"),
    (f"{_MODELS}.mla", "QuantizedMultiLinear"): (QuantizedMultiLinearRoute, "quantized_matmul"),
    (_SWITCH, "SwitchLinear"): (SwitchRoute, "gather_mm"),
    (_SWITCH, "QuantizedSwitchLinear"): (SwitchRoute, "gather_qmm"),
    (_SWITCH, "SwitchGLU"): (SwitchGluRoute, "gather_mm"),
    (_SWITCH, "SwitchMLP"): (SwitchMlpRoute, "gather_mm"),
    ("mlx_lm.tuner.lora", "LoRALinear"): (LowRankRoute, "matmul"),
    ("mlx_lm.tuner.lora", "LoRAEmbedding"): (LowRankEmbeddingRoute, "matmul"),
    ("mlx_lm.tuner.lora", "LoRASwitchLinear"): (LowRankSwitchRoute, "gather_mm"),
    ("mlx_lm.tuner.dora", "DoRALinear"): (WeightNormRoute, "matmul"),
}


def gated_delta(
    original: Function,
    q: mx.array,
    k: mx.array,
    v: mx.array,
    a: mx.array,
    b: mx.array,
    A_log: mx.array,  # noqa: N803 - mlx-lm's name
    dt_bias: mx.array,
    state: mx.array | None = None,
    mask: mx.array | None = None,
    *,
    use_kernel: bool = True,
    lower_bound: float | None = None,
    allow_neg_eigval: bool = False,
) -> tuple[mx.array, mx.array]:
    """Serve a call of mlx-lm's ``gated_delta_update``, whose gates are computed as there.

    ``use_kernel=False`` there asks for what has gradients, as everything here does.
    """
    gates = import_module(f"{_MODELS}.gated_delta")
    beta = mx.sigmoid(b) * (2.0 if allow_neg_eigval else 1.0)
    if lower_bound is None:
        gamma = gates.compute_g(A_log, a, dt_bias)
    else:
        gamma = gates.compute_lower_bound_g(A_log, a, dt_bias, lower_bound)
    y, last = gated_delta_update(q, k, v, gamma, beta, state, mask, out_dtype=q.dtype)
    return y, last if state is None else last.astype(state.dtype)


def _function_rules() -> tuple[FunctionRule, ...]:
    function = import_module(f"{_MODELS}.gated_delta").gated_delta_update
    # Kimi K3 compiles the step of one token.
    rule = FunctionRule(
        function=cast(Function, original_of(function)),
        route=gated_delta,
        op=gated_delta_update.__name__,
        compiled=("_step",),
    )
    return (rule, *(metal_kernels.function_rules() if metal_kernels.are_served() else ()))


def _rules() -> Rules:
    import_module(f"{_MODELS}.mla")
    import_module(_SWITCH)
    # A model has adapters only if their module is loaded, which would load all of training.
    own = (
        _rule(getattr(sys.modules[module], name), route, op)
        for (module, name), (route, op) in _ROUTES.items()
        if module in sys.modules
    )
    return Rules(layers=(*RULES, *own), functions=_function_rules())


def _rule(layer: type, route: type, op: str) -> Rule:
    method = "as_linear" if hasattr(route, "as_linear") else "__call__"
    return Rule(
        layer=layer,
        method=method,
        route=route,
        op=op,
        biased_op="addmm" if op == "matmul" else op,
        quantized_op="gather_qmm" if route in (SwitchGluRoute, SwitchMlpRoute) else "",
    )

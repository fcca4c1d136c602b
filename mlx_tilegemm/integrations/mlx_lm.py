"""mlx-lm: its models' linear layers and attention. It is imported when something is patched."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from importlib import import_module

import mlx.nn as nn

from ..layers import patching
from ..layers.patching import RULES, PatchReport, Rule, Rules
from ..nn import (
    LowRankEmbeddingRoute,
    LowRankRoute,
    MultiLinearRoute,
    QuantizedMultiLinearRoute,
    WeightNormRoute,
)

_MODELS = "mlx_lm.models"


def patch(model: nn.Module) -> PatchReport:
    """Route an mlx-lm model through this library, in place; `mlx_tilegemm.unpatch` undoes it.

    Does what `mlx_tilegemm.patch` does, and routes the per-head projections of latent attention and
    the adapters of LoRA and DoRA.
    Attention with a quantized cache stays with MLX.

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


_ROUTES = {
    (f"{_MODELS}.mla", "MultiLinear"): MultiLinearRoute,
    (f"{_MODELS}.mla", "QuantizedMultiLinear"): QuantizedMultiLinearRoute,
    ("mlx_lm.tuner.lora", "LoRALinear"): LowRankRoute,
    ("mlx_lm.tuner.lora", "LoRAEmbedding"): LowRankEmbeddingRoute,
    ("mlx_lm.tuner.dora", "DoRALinear"): WeightNormRoute,
}


def _rules() -> Rules:
    import_module(f"{_MODELS}.mla")
    experts = import_module(f"{_MODELS}.switch_layers").SwitchLinear
    # A model has adapters only if their module is loaded, which would load all of training.
    own = (
        _rule(getattr(sys.modules[module], name), route)
        for (module, name), route in _ROUTES.items()
        if module in sys.modules
    )
    return Rules(
        layers=(*RULES, *own),
        reasons=((experts, "its experts are chosen row by row, by MLX's gather_mm"),),
    )


def _rule(layer: type, route: type) -> Rule:
    method = "as_linear" if hasattr(route, "as_linear") else "__call__"
    if route is QuantizedMultiLinearRoute:
        op = "quantized_matmul"
        return Rule(layer=layer, method=method, route=route, op=op, biased_op=op)
    return Rule(layer=layer, method=method, route=route)

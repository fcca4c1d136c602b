"""mlx-lm: its models' linear layers and attention. It is imported when something is patched."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from importlib import import_module

import mlx.nn as nn

from ..layers import patching
from ..layers.patching import RULES, PatchReport, Rule, Rules
from ..nn import (
    LowRankRoute,
    LowRankSwitchRoute,
    MultiLinearRoute,
    QuantizedMultiLinearRoute,
    SwitchGluRoute,
    SwitchMlpRoute,
    SwitchRoute,
    WeightNormRoute,
)

_MODELS = "mlx_lm.models"


def patch(model: nn.Module) -> PatchReport:
    """Route an mlx-lm model through this library, in place; `mlx_tilegemm.unpatch` undoes it.

    Does what `mlx_tilegemm.patch` does, and routes the per-head projections of latent attention,
    experts, whose rows are then no longer sorted and copied, and the adapters of LoRA and DoRA.
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


_SWITCH = f"{_MODELS}.switch_layers"
_ROUTES = {
    (f"{_MODELS}.mla", "MultiLinear"): (MultiLinearRoute, "matmul"),
    (f"{_MODELS}.mla", "QuantizedMultiLinear"): (QuantizedMultiLinearRoute, "quantized_matmul"),
    (_SWITCH, "SwitchLinear"): (SwitchRoute, "gather_mm"),
    (_SWITCH, "QuantizedSwitchLinear"): (SwitchRoute, "gather_qmm"),
    (_SWITCH, "SwitchGLU"): (SwitchGluRoute, "gather_mm"),
    (_SWITCH, "SwitchMLP"): (SwitchMlpRoute, "gather_mm"),
    ("mlx_lm.tuner.lora", "LoRALinear"): (LowRankRoute, "matmul"),
    ("mlx_lm.tuner.lora", "LoRASwitchLinear"): (LowRankSwitchRoute, "gather_mm"),
    ("mlx_lm.tuner.dora", "DoRALinear"): (WeightNormRoute, "matmul"),
}


def _rules() -> Rules:
    import_module(f"{_MODELS}.mla")
    import_module(_SWITCH)
    # A model has adapters only if their module is loaded, which would load all of training.
    own = (
        Rule(
            layer=getattr(sys.modules[module], name),
            method="__call__",
            route=route,
            op=op,
            biased_op="addmm" if op == "matmul" else op,
        )
        for (module, name), (route, op) in _ROUTES.items()
        if module in sys.modules
    )
    return Rules(layers=(*RULES, *own))

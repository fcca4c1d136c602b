"""mlx-lm: its models' linear layers and attention, by way of the names they import.

mlx-lm's models copy `scaled_dot_product_attention` into their own modules as they are imported, so
each of those names is a site. mlx-lm itself is imported when something is patched.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from importlib import import_module
from types import ModuleType
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..layers import patching
from ..layers.inspection import ATTENTION
from ..layers.patching import RULES, PatchReport, Rule, Rules, attention_site
from ..layers.routing import Function, Site, original_of
from ..nn import MultiLinearRoute, multi_linear

_MODELS = "mlx_lm.models"


def patch(model: nn.Module) -> PatchReport:
    """Route an mlx-lm model through this library, in place; `mlx_tilegemm.unpatch` undoes it.

    Does what `mlx_tilegemm.patch` does, and routes the per-head projections of latent attention.
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
    rules = _rules()
    return _late_names_restored(patching.patched_by(rules, model))


@contextmanager
def _late_names_restored(
    block: AbstractContextManager[PatchReport],
) -> Iterator[PatchReport]:
    try:
        with block as report:
            yield report
    finally:
        # A module imported in the block has copied the hook.
        for module in _model_modules():
            value = vars(module)[ATTENTION]
            if original_of(value) is not value and not _is_routed(module):
                setattr(module, ATTENTION, original_of(value))


def _is_routed(module: ModuleType) -> bool:
    return attention_site(module, attention).is_in_place


def attention(original: Function, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
    """Serve a call of mlx-lm's attention function, by ``original`` if need be."""
    return _attention(*args, original=original, **kwargs)


def _attention(
    queries: mx.array,
    keys: Any,  # noqa: ANN401 - quantized caches hold tuples
    values: Any,  # noqa: ANN401
    cache: object,
    scale: float,
    mask: Any,  # noqa: ANN401 - None, a name or an array
    sinks: mx.array | None = None,
    *,
    original: Function,
) -> Any:  # noqa: ANN401
    if hasattr(cache, "bits"):
        return original(queries, keys, values, cache, scale, mask, sinks)
    return patching.fast_attention(
        mx.fast.scaled_dot_product_attention,
        queries,
        keys,
        values,
        scale=scale,
        mask=mask,
        sinks=sinks,
    )


def _sites(modules: frozenset[str]) -> tuple[Site, ...]:
    """Return the sites of models in ``modules``, or of all that are loaded if there is none."""
    # A class made by exec has a module that is not among the loaded ones.
    owners = [sys.modules[name] for name in sorted(modules) if name in sys.modules]
    if not modules:
        owners = _model_modules()
    by_name = [attention_site(owner, attention) for owner in owners if _names_attention(owner)]
    return (*by_name, attention_site())


def _model_modules() -> list[ModuleType]:
    loaded = [module for name, module in sys.modules.items() if name.startswith(f"{_MODELS}.")]
    return [module for module in loaded if _names_attention(module)]


def _names_attention(module: ModuleType) -> bool:
    base = sys.modules[f"{_MODELS}.base"]
    value = original_of(vars(module).get(ATTENTION))
    return value is not None and value is original_of(vars(base)[ATTENTION])


@lru_cache(maxsize=1)
def _rules() -> Rules:
    import_module(f"{_MODELS}.base")
    multi_linear_layer = import_module(f"{_MODELS}.mla").MultiLinear
    experts = import_module(f"{_MODELS}.switch_layers").SwitchLinear
    rule = Rule(
        layer=multi_linear_layer,
        method="__call__",
        route=MultiLinearRoute,
        function=lambda _, layer, x, transpose=True: multi_linear(x, layer["weight"], transpose),
    )
    return Rules(
        layers=(*RULES, rule),
        attention=_sites,
        reasons=((experts, "its experts are chosen row by row, by MLX's gather_mm"),),
    )

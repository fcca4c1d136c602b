"""Loading of mlx-lm's models, whose weights of codes stay codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from functools import lru_cache
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..layers.routing import Item, Site, routed
from . import safetensors
from .kept_codes import Codes, Weights


def keeping_codes() -> AbstractContextManager[None]:
    """Let `mlx_lm.utils.load_model` keep codes inside a ``with`` block."""
    return routed(_load_site())


@lru_cache(maxsize=1)
def _load_site() -> Site:
    return Site(Item(vars(import_module("mlx_lm.utils")), "load_model"), _loaded)


@lru_cache(maxsize=1)
def _tensors_site() -> Site:
    return Site(Item(vars(mx), "load"), _tensors)


_sanitized: ContextVar[Codes] = ContextVar("mlx_tilegemm_sanitized")
"""Weights of codes whose values a model sanitizes just now."""


@lru_cache(maxsize=1)
def _stack_site() -> Site:
    return Site(Item(vars(mx), "stack"), _stack)


def _stack(original: Callable[..., mx.array], *args: Any, **options: Any) -> mx.array:  # noqa: ANN401
    return _sanitized.get().stack(original, *args, **options)


def _tensors(original: Callable[..., Any], file: Any, *args: Any, **options: Any) -> Any:  # noqa: ANN401
    """Load a file as `mx.load` does, which knows no F8_E5M2."""
    path = Path(file) if isinstance(file, str | PathLike) else None
    if path is None or path.suffix != ".safetensors":
        return original(file, *args, **options)
    if "F8_E5M2" in safetensors.stored_formats([path]).values():
        return safetensors.load(path)
    return original(file, *args, **options)


def _loaded(
    original: Callable[..., Any],
    model_path: Path,
    lazy: bool = False,
    strict: bool = True,
    model_config: dict[str, Any] | None = None,
    get_model_classes: Callable[..., Any] | None = None,
    **options: Any,  # noqa: ANN401 - mlx-lm's
) -> Any:  # noqa: ANN401
    utils = import_module("mlx_lm.utils")
    config = {**utils.load_config(model_path), **(model_config or {})}
    settings = _settings(config, model_path)
    codes = Codes(
        formats=safetensors.stored_formats(sorted(model_path.glob("model*.safetensors"))),
        settings=settings,
        dtype=mx.float16 if _dtype(config) == "float16" else mx.bfloat16,
    )
    classes = get_model_classes or utils._get_classes
    own = {} if model_config is None else model_config
    if not codes.are_kept or _is_mlx_lms(config, settings):
        return original(model_path, lazy, strict, model_config, classes, **options)

    def with_codes(config: dict[str, Any]) -> tuple[Callable[[Any], nn.Module], Any]:
        kind, arguments = classes(config=config)
        return lambda given: _keeping(kind(given), codes), arguments

    # What is said of quantization is done here.
    changed = {**own, "quantization_config": False}
    with routed(_tensors_site()):
        model, loaded = original(model_path, lazy, strict, changed, with_codes, **options)
    return model, {**loaded, "quantization_config": settings}


def _dtype(config: dict[str, Any]) -> object:
    inner = config.get("text_config") or {}
    names = ("torch_dtype", "dtype")
    return next((one[name] for one in (config, inner) for name in names if name in one), None)


def _settings(config: dict[str, Any], model_path: Path) -> dict[str, Any]:
    """Return what a checkpoint says of its quantization, in whichever place."""
    inner = config.get("text_config") or {}
    found = config.get("quantization_config") or inner.get("quantization_config")
    beside = model_path / "hf_quant_config.json"
    if not found and beside.exists():
        found = json.loads(beside.read_text())
    return dict(found or {})


def _is_mlx_lms(config: dict[str, Any], settings: dict[str, Any]) -> bool:
    """Whether mlx-lm keeps the codes itself."""
    blocks = list(settings.get("weight_block_size") or ())
    return "quantization" in config or (settings.get("scale_fmt") == "ue8m0" and blocks == [32, 32])


def _keeping(model: nn.Module, codes: Codes) -> nn.Module:
    """Return a model that has layers of codes once its tensors are sanitized."""
    own = getattr(model, "sanitize", None)

    def sanitize(weights: Weights) -> Weights:
        del model.sanitize
        apart = codes.set_apart(weights)
        token = _sanitized.set(codes)
        try:
            with routed(_stack_site()):
                floats = own(apart) if own else apart
        finally:
            _sanitized.reset(token)
        return codes.put_back(model, floats)

    model.sanitize = sanitize
    return model

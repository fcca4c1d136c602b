"""Calls that routes make of this library's ops, as tests count them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from mlx_tilegemm import nn
from mlx_tilegemm.core import fast_path
from mlx_tilegemm.layers import attention


def note_ops(
    monkeypatch: pytest.MonkeyPatch, ops: tuple[Callable[..., Any], ...], note: Callable[[str], Any]
) -> None:
    """Tell ``note`` of each call that a layer makes of ops, none of which is kept for the next."""
    fast_path.forget()
    for op in ops:
        monkeypatch.setattr(nn, op.__name__, _noted(op, note))


def _noted(op: Callable[..., Any], note: Callable[[str], Any]) -> Callable[..., Any]:
    served: Callable[..., Any] = inspect.unwrap(op)

    def call(*args: Any, **kwargs: Any) -> Any:
        note(op.__name__)
        return op(*args, **kwargs)

    def text(*args: Any, **kwargs: Any) -> tuple[None, Any]:
        note(op.__name__)
        return None, served(*args, **kwargs)[1]

    call.__dict__["__wrapped__"] = text
    return call


def note_attention(monkeypatch: pytest.MonkeyPatch, note: Callable[[str], object]) -> None:
    """Tell ``note`` of each call of MLX's attention function that a route does not leave to MLX."""
    route: Callable[..., Any] = attention._attention

    def noting(*args: Any, **kwargs: Any) -> Any:
        try:
            result = route(*args, **kwargs)
        except Exception:
            note("attention_chain")
            raise
        if result is not None:
            note("attention_chain")
        return result

    monkeypatch.setattr(attention, "_attention", noting)

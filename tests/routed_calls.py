"""Calls that routes make of this library's ops, as tests count them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mlx_tilegemm.layers import attention


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

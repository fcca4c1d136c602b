"""MLX's CUDA build as it looks to this library, without a GPU: launches are written down."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest

from mlx_tilegemm.assurance import canary
from mlx_tilegemm.cuda import kernel


class FakeCuda:
    """Launches of `mx.fast.precompiled_cuda_kernel`, whose outputs are zeros."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.launches: list[dict[str, Any]] = []
        monkeypatch.setattr(mx.cuda, "is_available", lambda: True)
        monkeypatch.setattr(kernel, "architecture", lambda: "90")
        # Zeros would not pass a trial.
        monkeypatch.setattr(canary, "is_needed", lambda backend: False)
        monkeypatch.setattr(mx.fast, "precompiled_cuda_kernel", self._launch)

    def _launch(self, **call: Any) -> list[mx.array]:
        self.launches.append(call)
        pairs = zip(call["output_shapes"], call["output_dtypes"], strict=True)
        return [mx.zeros(shape, dtype) for shape, dtype in pairs]

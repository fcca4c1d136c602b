"""Refuse products that MLX's own ops would round, where all bits are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import mlx.core as mx

from ..backends import StreamOrDevice
from ..backends.rounding import rounds_float32
from ..core.problem import Factors
from ..errors import BackendError

if TYPE_CHECKING:
    from ..core.family import Run


def refuse_rounding(op: str, stream: StreamOrDevice) -> None:
    """Check that MLX's own ops multiply float32 with all its bits on ``stream``.

    Raises:
        BackendError: They round it to TF32.
    """
    if rounds_float32(stream):
        raise BackendError(
            f"[{op}] Expected what multiplies float32 with all its bits for "
            "precision='float32', got MLX's own ops, which round it to TF32 on this GPU: set "
            "MLX_ENABLE_TF32=0 before MLX starts, or pass stream=mx.cpu."
        )


def unrounded(op: str, run: Run) -> Run:
    """Return the call ``run`` of MLX's own ops, which raises where those round float32."""

    def call(
        operands: Sequence[mx.array], factors: Factors, stream: StreamOrDevice
    ) -> list[mx.array]:
        refuse_rounding(op, stream)
        return run(operands, factors, stream)

    return call

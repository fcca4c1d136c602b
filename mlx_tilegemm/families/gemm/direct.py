"""MLX's own ops for the arrays of a product as they are passed, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx

from ...core import mlx_ops
from ...core.fast_path import by_mlx
from ...core.tracing import probes


def product(transpose_b: bool) -> Callable[..., mx.array]:
    """Return the call for ``(a, b)`` of ``a @ b`` or ``a @ b.T``."""
    return _product_nt if transpose_b else _product


@by_mlx
def _product(a: mx.array, b: mx.array) -> mx.array:
    return mlx_ops.matmul(a, b)


@by_mlx
def _product_nt(a: mx.array, b: mx.array) -> mx.array:
    # Without a call of a function, which takes as long as a third of the product's node.
    return mlx_ops.matmul(a, b.T if b.ndim == 2 else mx.swapaxes(b, -1, -2))


def total(transpose_b: bool, anysize: Callable[..., mx.array]) -> Callable[..., mx.array]:
    """Return the call for ``(a, b, c)`` of ``a @ b + c`` or ``a @ b.T + c``.

    Args:
        transpose_b: Multiply by the transpose of ``b``.
        anysize: The call where sizes may change: `mx.addmm` keeps those of the sum that it saw.
    """
    shapeless = probes().shapeless

    @by_mlx
    def call(a: mx.array, b: mx.array, c: mx.array) -> mx.array:
        if shapeless():
            return anysize(a, b, c)
        return mlx_ops.addmm(c, a, mx.swapaxes(b, -1, -2) if transpose_b else b)

    return call

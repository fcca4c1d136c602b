"""Key of a prepared product with a quantized weight, and the call prepared for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import mlx.core as mx

from ...backends import Backend, StreamOrDevice
from ...core.arguments import ArraySpec, Stated
from ...core.caches import prepared
from ...core.context import Settings
from ...core.problem import Factors

if TYPE_CHECKING:
    from ...core.family import Run

NAME = "quantized_matmul"


class QuantizedKey(NamedTuple):
    """Everything that a call is prepared from; fields are the op's."""

    x: Stated
    w: Stated
    scales: Stated
    biases: Stated | None
    global_scale: Stated | None
    bias: Stated | None
    transpose: bool
    group_size: int | None
    bits: int | None
    mode: str
    out_dtype: mx.Dtype | None
    batch_invariant: bool
    exact: bool
    backend: Backend | None
    settings: Settings


@prepared
def quantized_call(key: QuantizedKey) -> Run:
    """Return the call that serves a product of these shapes, dtypes and options."""
    # Imported at the first call: kernels and chips are most of what importing the package costs.
    from ...call.prepare import prepare
    from .request import quantized_request

    problem = quantized_request(
        NAME,
        x=_spec(key.x),
        w=_spec(key.w),
        scales=_spec(key.scales),
        biases=key.biases and _spec(key.biases),
        global_scale=key.global_scale and _spec(key.global_scale),
        bias=key.bias and _spec(key.bias),
        transpose=key.transpose,
        group_size=key.group_size,
        bits=key.bits,
        mode=key.mode,
        out_dtype=key.out_dtype,
        batch_invariant=key.batch_invariant,
        exact=key.exact,
    )
    settings = key.settings
    return prepare(
        NAME,
        problem,
        key.backend,
        force=settings.kernel,
        gradients=settings.gradients,
    )


def casting(run: Run, dtype: mx.Dtype) -> Run:
    """Return the call ``run`` for a first operand that is cast to ``dtype``, as MLX casts it."""

    def call(
        operands: Sequence[mx.array], factors: Factors, stream: StreamOrDevice
    ) -> list[mx.array]:
        x, *others = operands
        return run([x.astype(dtype, stream=stream), *others], factors, stream)

    return call


def stated(array: mx.array) -> Stated:
    """Return an array's part of a key."""
    return (array.shape, array.dtype)


def optional(array: mx.array | None) -> Stated | None:
    """Return the part of a key of an array that may not be passed."""
    return None if array is None else (array.shape, array.dtype)


def _spec(one: Stated) -> ArraySpec:
    return ArraySpec(shape=one[0], dtype=one[1])

"""The public operation: arrays in, arrays out."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import mlx.core as mx

from ...backends import Backend, StreamOrDevice, resolve
from ...core.arguments import ArraySpec
from ...core.caches import prepared
from ...core.context import Settings, current_settings
from ...core.dtypes import from_mlx
from ...core.shapes import Shape
from ...errors import DTypeError, ProblemError
from .problem import RowScale

if TYPE_CHECKING:
    from ...core.family import Run


def row_scale(
    d: mx.array, x: mx.array, /, *, stream: StreamOrDevice = None
) -> tuple[mx.array, mx.array]:
    """Return ``d[:, None] * x`` and the number of negative elements of each of its rows."""
    settings = current_settings()
    backend = resolve(stream, settings).backend
    run = _call(RowScaleKey(d.shape, d.dtype, x.shape, x.dtype, backend, settings))
    y, counted = run((d, x), (), stream)
    return y, counted


def request(d: ArraySpec, x: ArraySpec) -> RowScale:
    """State the problem that two arrays ask for."""
    rows = [from_mlx(one.dtype) for one in (d, x)]
    if rows[0] is None or rows[1] is None:
        raise DTypeError(f"[row_scale] Expected floats, got {d.dtype} and {x.dtype}.")
    if len(x.shape) != 2 or d.shape != x.shape[:1]:
        raise ProblemError(f"[row_scale] Expected d of x's rows, got {d.shape} for {x.shape}.")
    return RowScale(rows=x.shape[0], columns=x.shape[1], d=rows[0], x=rows[1])


class RowScaleKey(NamedTuple):
    """What a call is prepared from."""

    d_shape: Shape
    d_dtype: mx.Dtype
    x_shape: Shape
    x_dtype: mx.Dtype
    backend: Backend | None
    settings: Settings


@prepared
def _call(key: RowScaleKey) -> Run:
    from ...call.prepare import prepare

    d = ArraySpec(shape=key.d_shape, dtype=key.d_dtype)
    problem = request(d, ArraySpec(shape=key.x_shape, dtype=key.x_dtype))
    settings = key.settings
    return prepare(
        "row_scale", problem, key.backend, force=settings.kernel, gradients=settings.gradients
    )

"""Key of a prepared product of scaled codes, and the call prepared for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import mlx.core as mx

from ...backends import Backend
from ...core.arguments import ArraySpec
from ...core.caches import prepared
from ...core.context import Settings
from ...core.shapes import Shape

if TYPE_CHECKING:
    from ...core.family import Run
    from .problem import ScaledProblem

NAME = "fp8_scaled_matmul"

Stated = tuple[Shape, mx.Dtype]
"""Shape and dtype of an array."""


class ScaledKey(NamedTuple):
    """Everything that a call is prepared from; fields are the op's."""

    a: Stated
    b: Stated
    a_scales: Stated | None
    b_scales: Stated | None
    a_format: str | None
    b_format: str
    block: tuple[int, int] | None
    transpose_b: bool
    bias: Stated | None
    out_dtype: mx.Dtype | None
    batch_invariant: bool
    exact: bool
    backend: Backend | None
    settings: Settings


@prepared
def scaled_call(key: ScaledKey) -> Run:
    """Return the call that serves a product of these shapes, dtypes and options."""
    # Imported at the first call: kernels and chips are most of what importing the package costs.
    from .request import scaled_request

    problem = scaled_request(
        NAME,
        a=_spec(key.a),
        b=_spec(key.b),
        a_scales=key.a_scales and _spec(key.a_scales),
        b_scales=key.b_scales and _spec(key.b_scales),
        a_format=key.a_format,
        b_format=key.b_format,
        block=key.block,
        transpose_b=key.transpose_b,
        bias=key.bias and _spec(key.bias),
        out_dtype=key.out_dtype,
        batch_invariant=key.batch_invariant,
        exact=key.exact,
    )
    return problem_call(problem, key.backend, key.settings)


@prepared
def problem_call(problem: ScaledProblem, backend: Backend | None, settings: Settings) -> Run:
    """Return the call that solves a product on a backend, as settings in force say."""
    from ...call.prepare import prepare

    return prepare(NAME, problem, backend, force=settings.kernel, gradients=settings.gradients)


def stated(array: mx.array) -> Stated:
    """Return an array's part of a key."""
    return (array.shape, array.dtype)


def optional(array: mx.array | None) -> Stated | None:
    """Return the part of a key of an array that may not be passed."""
    return None if array is None else (array.shape, array.dtype)


def _spec(one: Stated) -> ArraySpec:
    return ArraySpec(shape=one[0], dtype=one[1])

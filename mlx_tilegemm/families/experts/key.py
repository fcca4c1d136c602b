"""Keys of prepared products with chosen matrices, and the calls prepared for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import mlx.core as mx

from ...backends import Backend
from ...core.arguments import ArraySpec
from ...core.caches import prepared
from ...core.context import Settings
from ...core.shapes import Shape

if TYPE_CHECKING:
    from ...core.family import Run
    from .problem import AnyProblem

GATHER_MM = "gather_mm"
GATHER_QMM = "gather_qmm"
GATHER_FP8_MM = "gather_fp8_mm"
GROUPED_MATMUL = "grouped_matmul"
SEGMENTED_MM = "segmented_mm"

INDEXED = frozenset((GATHER_MM, GATHER_QMM, GATHER_FP8_MM))
"""Ops whose operands indices choose."""

DIRECT = frozenset((GATHER_MM, GATHER_QMM))
"""Ops that MLX has as well."""

ARRAYS: dict[str, tuple[str, ...]] = {
    GATHER_MM: ("a", "b", "lhs_indices", "rhs_indices"),
    GATHER_QMM: ("x", "w", "scales", "biases", "global_scale", "lhs_indices", "rhs_indices"),
    GATHER_FP8_MM: ("x", "w", "scales", "lhs_indices", "rhs_indices"),
    GROUPED_MATMUL: ("a", "b", "bias", "offsets"),
    SEGMENTED_MM: ("a", "b", "segments"),
}
"""Arguments of ops that may be arrays, in the order of the kernels' operands."""

Stated = tuple[str, Shape, mx.Dtype]
"""Name, shape and dtype of an array."""

Option = tuple[str, object]
"""Name and value of an argument that is no array."""


class ExpertKey(NamedTuple):
    """Everything that a call is prepared from."""

    op: str
    arrays: tuple[Stated, ...]
    options: tuple[Option, ...]
    backend: Backend | None
    settings: Settings


class ExpertCall(NamedTuple):
    """A prepared call.

    Attributes:
        problem: What it solves.
        casts: What MLX casts an operand that is multiplied to, by its name; none is cast that has
            this dtype already.
        shape: Shape of the products, to which indices broadcast; () where nothing is indexed.
        run: The call of operands in the problem's order.
        unfollowed: The same where MLX follows no function.
        is_eager: Whether arrays are evaluated at once, so that values of indices are known.
        is_mlx_s: Whether MLX's own ops serve, which trust indices.
        takes_any_shape: Whether indices need not be flat where nothing is being followed.
        direct: MLX's op for the arrays as they are passed, in the order of `ARRAYS`, and a stream:
            on a GPU, and on a CPU where it multiplies float32 and nothing is followed. None where
            there is more to do.
    """

    problem: AnyProblem
    casts: tuple[tuple[str, mx.Dtype], ...]
    shape: Shape
    run: Run
    unfollowed: Run
    is_eager: bool
    is_mlx_s: bool
    takes_any_shape: bool
    direct: Callable[..., mx.array] | None


@prepared
def expert_call(key: ExpertKey) -> ExpertCall:
    """Return the call that serves products of these shapes, dtypes and options."""
    # Imported at the first call: kernels and chips are most of what importing the package costs.
    from ...call.prepare import Server, prepare_told
    from . import request
    from .fallback import direct_call

    states: dict[str, Callable[..., AnyProblem]] = {
        GATHER_MM: request.gather_mm_request,
        GATHER_QMM: request.gather_qmm_request,
        GATHER_FP8_MM: request.gather_fp8_request,
        GROUPED_MATMUL: request.grouped_request,
        SEGMENTED_MM: request.segmented_request,
    }
    state = states[key.op]
    arrays = {name: ArraySpec(shape=shape, dtype=dtype) for name, shape, dtype in key.arrays}
    problem = state(key.op, arrays, dict(key.options))
    settings = key.settings
    prepared_call = prepare_told(
        key.op,
        problem,
        key.backend,
        force=settings.kernel,
        gradients=settings.gradients,
    )
    backend = key.backend
    is_eager, casts = backend is not None and not backend.capabilities.lazy, request.casts(arrays)
    server = prepared_call.server
    is_plain = server is Server.MLX and not casts and key.op in DIRECT
    return ExpertCall(
        problem=problem,
        casts=casts,
        shape=request.index_shape(arrays) if key.op in INDEXED else (),
        run=prepared_call.run,
        unfollowed=prepared_call.unfollowed,
        is_eager=is_eager,
        is_mlx_s=backend is None,
        takes_any_shape=server is Server.KERNELS and not is_eager,
        direct=direct_call(key.op, problem, arrays) if is_plain else None,
    )


def stated(arrays: dict[str, mx.array]) -> tuple[Stated, ...]:
    """Return the part of a key of the arrays that are passed."""
    # A list, which takes half as long as a generator.
    return tuple([(name, array.shape, array.dtype) for name, array in arrays.items()])

"""Indices, offsets and segments as kernels take them, and checks of their values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from math import prod
from typing import Any, cast

import mlx.core as mx

from ...backends import StreamOrDevice
from ...core.shapes import Shape
from ...errors import ProblemError
from .problem import AnyProblem, ExpertProblem, SegmentedProblem


def as_int32(indices: mx.array, stream: StreamOrDevice) -> mx.array:
    """Return integers as int32, of which what is too large becomes negative."""
    if indices.dtype == mx.int32:
        return indices
    if indices.dtype == mx.uint32:
        return mx.view(indices, mx.int32, stream=stream)
    return indices.astype(mx.int32, stream=stream)


def flat_indices(
    indices: mx.array | None, batch: Shape, shape: Shape, stream: StreamOrDevice
) -> mx.array:
    """Return an index for each product: those given, or else all of a batch in order.

    Args:
        indices: The indices that are passed.
        batch: Shape of the batch that they are of.
        shape: Shape of the products.
        stream: Stream or device.
    """
    return mx.reshape(spread_indices(indices, batch, shape, stream), (-1,), stream=stream)


def spread_indices(
    indices: mx.array | None, batch: Shape, shape: Shape, stream: StreamOrDevice
) -> mx.array:
    """Return what `flat_indices` does, in the shape of the products."""
    if indices is None:
        indices = mx.arange(prod(batch), dtype=mx.int32, stream=stream)
        indices = mx.reshape(indices, batch, stream=stream)
    found = as_int32(indices, stream)
    return found if found.shape == shape else mx.broadcast_to(found, shape, stream=stream)


def spreading(
    like: mx.array | None, batch: Shape, shape: Shape
) -> Callable[[mx.array | None], mx.array]:
    """Return `spread_indices` on the default stream, for indices that are all as ``like``."""
    if like is not None and like.shape == shape and like.dtype in (mx.int32, mx.uint32):
        if like.dtype == mx.int32:
            return cast(Callable[[mx.array | None], mx.array], _same)
        return lambda indices: mx.view(cast(mx.array, indices), mx.int32)
    return lambda indices: spread_indices(indices, batch, shape, None)


def _same(indices: mx.array) -> mx.array:
    return indices


def check_values(op: str, problem: AnyProblem, given: Mapping[str, mx.array | None]) -> None:
    """Check the values of indices, offsets or segments, by their names; None stands for all.

    They are evaluated for it as they are given: what is made of them only to be looked at would
    cost more than the look.

    Raises:
        ProblemError: One of them is out of range, or they are in no order.
    """
    for name, values in given.items():
        if values is None:
            continue
        if isinstance(problem, SegmentedProblem):
            _check_segments(op, values, problem)
        elif name == "offsets":
            _check_offsets(op, values, problem)
        else:
            limit = problem.sources if name == "lhs_indices" else problem.experts
            _check_range(op, name, values, limit)


def _extremes(values: mx.array) -> tuple[int, int]:
    # NumPy, which is imported here because nothing else of the ops takes it, needs no graph for it.
    import numpy as np

    found = np.asarray(values)
    return int(found.min()), int(found.max())


def _check_range(op: str, name: str, indices: mx.array, limit: int) -> None:
    if not indices.size:
        return
    for value in _extremes(indices):
        if not 0 <= value < limit:
            raise ProblemError(f"[{op}] Expected {name} from 0 to {limit - 1}, got {value}.")


def _check_offsets(op: str, offsets: mx.array, problem: ExpertProblem) -> None:
    ends: Any = offsets.tolist()
    values: list[int] = [0, *ends]
    falls = any(before > after for before, after in pairwise(values))
    if falls or values[-1] > problem.products:
        raise ProblemError(
            f"[{op}] Expected offsets that never fall, from 0 to {problem.products} rows, got "
            f"{values[1:]}."
        )


def _check_segments(op: str, segments: mx.array, problem: SegmentedProblem) -> None:
    if not segments.size:
        return
    for value in _extremes(segments):
        if not 0 <= value <= problem.k:
            raise ProblemError(
                f"[{op}] Expected segments from 0 to {problem.k}, the contracted axis's length, "
                f"got {value}."
            )

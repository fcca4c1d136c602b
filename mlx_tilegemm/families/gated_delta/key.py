"""Key of a prepared gated delta update, and the call prepared for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import mlx.core as mx

from ...backends import Backend, StreamOrDevice
from ...core.arguments import ArraySpec, Stated
from ...core.caches import prepared
from ...core.context import Settings
from ...core.problem import Factors
from ...core.shapes import Shape

if TYPE_CHECKING:
    from ...core.family import Run

NAME = "gated_delta_update"

Named = tuple[tuple[str, Stated], ...]
"""Arrays by their names, in order."""


class DeltaKey(NamedTuple):
    """Everything that a call is prepared from; fields are the op's."""

    arrays: Named
    log_decay: bool
    normalize: bool
    every: int | None
    out_dtype: mx.Dtype | None
    backend: Backend | None
    settings: Settings


@prepared
def delta_call(key: DeltaKey) -> Run:
    """Return the call that serves an update of these shapes, dtypes and options.

    It takes the arrays in the order of the key.
    """
    # Imported at the first call: kernels and chips are most of what importing the package costs.
    from ...call.prepare import prepare
    from .request import delta_request

    specs = {name: ArraySpec(shape=shape, dtype=dtype) for name, (shape, dtype) in key.arrays}
    problem = delta_request(
        NAME,
        **specs,
        log_decay=key.log_decay,
        normalize=key.normalize,
        every=key.every,
        out_dtype=key.out_dtype,
    )
    settings = key.settings
    run = prepare(NAME, problem, key.backend, force=settings.kernel, gradients=settings.gradients)
    taken = {name: specs[name].dtype for name in OPTIONAL if name in specs}
    if "lengths" in specs or any(dtype != OPTIONAL[name] for name, dtype in taken.items()):
        run = _making(run, tuple(specs))
    return run if key.every is None or problem.every else _without_states(run, problem.states_shape)


ARRAYS = ("q", "k", "v", "gamma", "beta")
"""Names of the operands that every call has."""

OPTIONAL = {"initial_state": mx.float32, "mask": mx.bool_}
"""Names of the others, and the dtypes that kernels take."""


def _making(run: Run, names: tuple[str, ...]) -> Run:
    """Return the call ``run`` for a state of another dtype, for lengths and for other masks."""

    def call(
        operands: Sequence[mx.array], factors: Factors, stream: StreamOrDevice
    ) -> list[mx.array]:
        given = dict(zip(names, operands, strict=True))
        made = [given[name] for name in ARRAYS]
        if "initial_state" in given:
            made.append(given["initial_state"].astype(mx.float32, stream=stream))
        if "mask" in given or "lengths" in given:
            made.append(_mask(given, stream))
        return run(made, factors, stream)

    return call


def _without_states(run: Run, shape: Shape) -> Run:
    """Return the call ``run`` for more tokens between states than there are."""

    def call(
        operands: Sequence[mx.array], factors: Factors, stream: StreamOrDevice
    ) -> list[mx.array]:
        return [*run(operands, factors, stream), mx.zeros(shape, stream=stream)]

    return call


def _mask(given: dict[str, mx.array], stream: StreamOrDevice) -> mx.array:
    """Return which tokens count, of a mask and of lengths."""
    mask = given.get("mask")
    if mask is not None:
        mask = mask.astype(mx.bool_, stream=stream)
    if "lengths" not in given:
        assert mask is not None
        return mask
    places = mx.arange(given["q"].shape[1], stream=stream)[None]
    inside = mx.less(places, mx.expand_dims(given["lengths"], 1, stream=stream), stream=stream)
    return inside if mask is None else mx.logical_and(inside, mask, stream=stream)

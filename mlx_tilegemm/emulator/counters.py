"""Counts of a launch that do not depend on the machine it was emulated on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from . import native
from .accesses import Accesses


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """Counts of a launch. Bytes are counted while the checks are on, by thread, without caches.

    Args:
        kernel: Name of the kernel.
        grid_threadgroups: Threadgroups of the whole grid.
        threadgroups: Threadgroups run; fewer than the grid's if a sample stands for it.
        threadgroup_bytes: Threadgroup memory that one of them takes.
        device_loaded: Bytes read from buffers.
        device_stored: Bytes written to buffers.
        loaded: Bytes read, by buffer name.
        stored: Bytes written, by buffer name.
        threadgroup_loaded: Bytes read from threadgroup memory.
        threadgroup_stored: Bytes written to threadgroup memory.
        multiply_accumulates: 8x8x8 matrix products.
        simdgroup_loads: Calls of simdgroup_load, by simdgroup.
        simdgroup_stores: Calls of simdgroup_store, by simdgroup.
        threadgroup_barriers: Barriers met by threadgroups.
        simdgroup_barriers: Barriers met by simdgroups.
        simd_functions: Calls of simd and quad functions, by thread.
        atomics: Atomic accesses, by thread.
        accesses: What simdgroups accessed together, if that was asked for; see :func:`count`.
    """

    kernel: str
    grid_threadgroups: int
    threadgroups: int
    threadgroup_bytes: int
    device_loaded: int
    device_stored: int
    loaded: Mapping[str, int]
    stored: Mapping[str, int]
    threadgroup_loaded: int
    threadgroup_stored: int
    multiply_accumulates: int
    simdgroup_loads: int
    simdgroup_stores: int
    threadgroup_barriers: int
    simdgroup_barriers: int
    simd_functions: int
    atomics: int
    accesses: Accesses | None = None


def read_counters(
    record: native.Counters,
    *,
    kernel: str,
    grid_threadgroups: int,
    names: Sequence[str],
    accesses: Accesses | None = None,
) -> Counters:
    """The counters of a launch whose buffers have these names."""
    loaded = {name: int(record.buffer_loaded[i]) for i, name in enumerate(names)}
    stored = {name: int(record.buffer_stored[i]) for i, name in enumerate(names)}
    return Counters(
        kernel=kernel,
        grid_threadgroups=grid_threadgroups,
        threadgroups=record.threadgroups,
        threadgroup_bytes=record.threadgroup_bytes,
        device_loaded=sum(loaded.values()),
        device_stored=sum(stored.values()),
        loaded=loaded,
        stored=stored,
        threadgroup_loaded=record.threadgroup_loaded,
        threadgroup_stored=record.threadgroup_stored,
        multiply_accumulates=record.multiply_accumulates,
        simdgroup_loads=record.simdgroup_loads,
        simdgroup_stores=record.simdgroup_stores,
        threadgroup_barriers=record.threadgroup_barriers,
        simdgroup_barriers=record.simdgroup_barriers,
        simd_functions=record.simd_functions,
        atomics=record.atomics,
        accesses=accesses,
    )

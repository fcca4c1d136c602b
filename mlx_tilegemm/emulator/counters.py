"""What a launch did, in numbers that do not depend on the machine it was emulated on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from . import native


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """What a launch did. Bytes are counted while the checks are on, by thread, without caches.

    Args:
        threadgroups: Threadgroups run.
        threadgroup_bytes: Threadgroup memory that one of them takes.
        device_loaded: Bytes read from buffers.
        device_stored: Bytes written to buffers.
        loaded: Bytes read, by buffer name.
        stored: Bytes written, by buffer name.
        threadgroup_loaded: Bytes read from threadgroup memory.
        threadgroup_stored: Bytes written to threadgroup memory.
        multiply_accumulates: 8x8x8 matrix products.
        threadgroup_barriers: Barriers met by threadgroups.
        simdgroup_barriers: Barriers met by simdgroups.
        simd_functions: Calls of simd and quad functions, by thread.
        atomics: Atomic accesses, by thread.
    """

    threadgroups: int
    threadgroup_bytes: int
    device_loaded: int
    device_stored: int
    loaded: Mapping[str, int]
    stored: Mapping[str, int]
    threadgroup_loaded: int
    threadgroup_stored: int
    multiply_accumulates: int
    threadgroup_barriers: int
    simdgroup_barriers: int
    simd_functions: int
    atomics: int


def read_counters(record: native.Counters, names: Sequence[str]) -> Counters:
    """The counters of a launch whose buffers have these names."""
    loaded = {name: int(record.buffer_loaded[i]) for i, name in enumerate(names)}
    stored = {name: int(record.buffer_stored[i]) for i, name in enumerate(names)}
    return Counters(
        threadgroups=record.threadgroups,
        threadgroup_bytes=record.threadgroup_bytes,
        device_loaded=sum(loaded.values()),
        device_stored=sum(stored.values()),
        loaded=loaded,
        stored=stored,
        threadgroup_loaded=record.threadgroup_loaded,
        threadgroup_stored=record.threadgroup_stored,
        multiply_accumulates=record.multiply_accumulates,
        threadgroup_barriers=record.threadgroup_barriers,
        simdgroup_barriers=record.simdgroup_barriers,
        simd_functions=record.simd_functions,
        atomics=record.atomics,
    )

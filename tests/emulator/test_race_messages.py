"""The message of a race names the barrier that does not order its accesses."""

from __future__ import annotations

import numpy as np
import pytest

from mlx_tilegemm.emulator import KernelCheckError, Output, run_text

# The barrier stands on line 5.
SHARED = """#include <metal_stdlib>
kernel void f(device float* y, uint i [[thread_position_in_grid]]) {
  threadgroup float t[64];
  t[i] = i;
  BARRIER
  y[i] = t[i ^ MASK];
}
"""
DEVICE = """#include <metal_stdlib>
kernel void f(device float* y, uint i [[thread_position_in_grid]]) {
  threadgroup float t[64];
  y[i] = i; t[i] = i;
  BARRIER
  t[i] = y[i ^ MASK];
}
"""


def race(text, barrier, *, mask=1, group=64):
    text = text.replace("BARRIER", barrier).replace("MASK", str(mask))
    y = Output(shape=(64,), dtype=np.float32)
    with pytest.raises(KernelCheckError) as error:
        run_text(text, buffers=[y], grid=(64, 1, 1), threadgroup=(group, 1, 1))
    (finding,) = error.value.findings
    assert finding.kind == "race"
    return finding.message.partition(", with ")[2]


def barrier(kind, *flags):
    return f"metal::{kind}(metal::mem_flags::{' | metal::mem_flags::'.join(flags)});"


ORDERS = "no barrier that orders the two in between: "


@pytest.mark.parametrize(
    ("text", "flags", "covered"),
    [
        (SHARED, ["mem_device"], "device memory only"),
        (SHARED, ["mem_none"], "no memory"),
        (SHARED, ["mem_texture"], "texture memory only"),
        (SHARED, ["mem_device", "mem_texture"], "device memory only"),
        (DEVICE, ["mem_threadgroup"], "threadgroup memory only"),
        (DEVICE, ["mem_none"], "no memory"),
    ],
)
@pytest.mark.parametrize("mask", [1, 33])
def test_a_barrier_of_other_memory(text, flags, covered, mask):
    found = race(text, barrier("threadgroup_barrier", *flags), mask=mask)
    assert found == f"{ORDERS}the threadgroup_barrier at line 5 covers {covered}"


def test_a_simdgroup_barrier():
    kind = "simdgroup_barrier"
    found = race(SHARED, barrier(kind, "mem_threadgroup"), mask=33)
    one = "the simdgroup_barrier at line 5 orders the threads of one simdgroup"
    assert found == ORDERS + one
    other = "the simdgroup_barrier at line 5 covers device memory only"
    for mask in (1, 33):
        assert race(SHARED, barrier(kind, "mem_device"), mask=mask) == ORDERS + other


def test_the_barrier_of_an_earlier_access_is_not_named():
    text = SHARED.replace(
        "  t[i] = i;", f"{barrier('threadgroup_barrier', 'mem_device')} t[i] = i;"
    )
    assert race(text, "") == "no barrier in between"


def test_a_simdgroup_s_barrier_before_both_is_not_named():
    first = barrier("simdgroup_barrier", "mem_threadgroup")
    text = SHARED.replace("  t[i] = i;", f"  {first}\n  t[i] = i;")
    for mask in (1, 33):
        assert race(text, "", mask=mask) == "no barrier in between"


def test_no_barrier_orders_threadgroups():
    text = DEVICE.replace("y[i ^ MASK]", "y[0]")
    found = race(text, barrier("threadgroup_barrier", "mem_device"), group=32)
    assert found == "no barrier that could order the two"

"""`emulator.count`: the numbers of tiny kernels, worked out by hand."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from cxx import compilers

from mlx_tilegemm import emulator
from mlx_tilegemm.emulator import AccessCount, Output, Space, run_text

HEAD = "#include <metal_stdlib>\nusing namespace metal;\n"

# Stores to and loads from threadgroup memory with a stride, in words.
STRIDED = """
kernel void f(constant int* stride [[buffer(0)]], device float* y [[buffer(1)]],
              uint i [[thread_position_in_threadgroup]], uint at [[thread_position_in_grid]]) {
  threadgroup float tile[1056];
  tile[i * stride[0]] = i;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  y[at] = tile[(31 - i) * stride[1]];
}
"""


def run(text, buffers, *, threads=32, group=32, sample=0, **options):
    with emulator.count(sample=sample) as launches:
        launched = run_text(
            HEAD + text, buffers=buffers, grid=(threads, 1, 1), threadgroup=(group, 1, 1), **options
        )
    (counters,) = launches
    assert counters == launched.counters
    return counters


def floats(count=32):
    return Output(shape=(count,), dtype=np.float32)


@pytest.mark.parametrize("compiler", compilers())
@pytest.mark.parametrize(
    ("stride", "turns"), [(1, 1), (2, 2), (3, 1), (4, 4), (16, 16), (32, 32), (33, 1)]
)
def test_strides_share_banks(compiler, stride, turns):
    with emulator.settings(compiler=compiler):
        found = run(STRIDED, [np.int32([stride, stride]), floats()]).accesses
    one = {"accesses": 1, "lanes": 32, "bytes": 128, "fewest_transactions": 1}
    expected = AccessCount(**one, transactions=turns)
    assert found.total(Space.THREADGROUP, stores=True) == expected
    assert found.total(Space.THREADGROUP, stores=False) == expected
    assert found.total(Space.THREADGROUP).conflicts == 2 * (turns - 1)
    assert found.total(Space.DEVICE) == AccessCount(**one, transactions=1)
    assert found.total(Space.CONSTANT).transactions == 2


def test_one_word_for_all_is_one_turn():
    found = run(STRIDED, [np.int32([1, 0]), floats()]).accesses
    assert found.total(Space.THREADGROUP, stores=False).transactions == 1


def test_sites_name_lines_and_arrays():
    found = run(STRIDED, [np.int32([4, 4]), floats()]).accesses
    store, load = [site for site in found.sites if site.conflicts]
    assert (load.buffer, load.stores, load.space) == ("tile", False, Space.THREADGROUP)
    assert store.source_line == "tile[i * stride[0]] = i;"
    assert load.source_line == "y[at] = tile[(31 - i) * stride[1]];"


GATHERED = """
kernel void f(device const T* x [[buffer(0)]], constant int* s [[buffer(1)]],
              device T* y [[buffer(2)]], uint i [[thread_position_in_grid]]) {
  y[i] = x[i % 32 * s[0] + s[1]];
}
"""


@pytest.mark.parametrize(
    ("kind", "stride", "offset", "lines", "fewest"),
    [
        ("float", 1, 0, 1, 1),
        ("float", 1, 1, 2, 1),
        ("float", 2, 0, 2, 1),
        ("float", 32, 0, 32, 1),
        ("float", 0, 5, 1, 1),
        ("half", 1, 0, 1, 1),
        ("half", 1, 63, 2, 1),
        ("float4", 1, 0, 4, 4),
        ("float4", 1, 1, 5, 4),
    ],
)
def test_lines_that_loads_touch(kind, stride, offset, lines, fewest):
    bytes_of = {"half": 2, "float": 4, "float4": 16}[kind]
    x = np.zeros(1024 * bytes_of, np.uint8)
    text = f"typedef {kind} T;\n" + GATHERED
    y = Output(shape=(64 * bytes_of,), dtype=np.uint8)
    counters = run(text, [x, np.int32([stride, offset]), y], threads=64)
    (load,) = [site for site in counters.accesses.sites if site.buffer == "x"]
    # Both threadgroups load the same.
    assert (load.accesses, load.lanes, load.bytes) == (2, 64, 64 * bytes_of)
    assert (load.transactions, load.fewest_transactions) == (2 * lines, 2 * fewest)
    assert counters.accesses.threadgroup_lines["x"] == 2 * lines
    assert counters.accesses.distinct_lines["x"] == lines
    assert counters.accesses.distinct_lines["y"] == max(1, 64 * bytes_of // 128)


NEIGHBOURS = """
kernel void f(device const float* x [[buffer(0)]], device float* y [[buffer(1)]],
              uint i [[thread_position_in_grid]]) {
  const float2 pair = float2(x[2 * i], x[2 * i + 1]);
  float sum = pair.x + pair.y;
  const float apart = x[i] + x[i + 32];
  if (i < 10) { sum += x[i + 16]; }
  for (uint n = 0; n < i % 3; ++n) { sum += x[n]; }
  y[i] = sum + apart;
}
"""


def test_neighbours_are_one_access_and_branches_take_part_of_the_lanes():
    found = run(NEIGHBOURS, [np.zeros(64, np.float32), floats()]).accesses
    # One access of 8 bytes, two lines.
    pair, apart, branch, loop = [
        (site.accesses, site.lanes, site.transactions) for site in found.sites if site.buffer == "x"
    ]
    assert pair == (1, 32, 2)
    assert apart == (2, 64, 2)
    assert branch == (1, 10, 1)
    # Two lanes in three go round once, one in three goes round again.
    assert loop == (2, 21 + 10, 2)


MATRICES = """
kernel void f(device const half* x [[buffer(0)]], device float* y [[buffer(1)]],
              uint i [[thread_position_in_grid]]) {
  threadgroup half tile[8 * 72];
  for (int n = i; n < 8 * 72; n += 32) { tile[n] = x[n % 64]; }
  simdgroup_barrier(mem_flags::mem_threadgroup);
  simdgroup_half8x8 a, b;
  simdgroup_load(a, tile, 72);
  simdgroup_load(b, tile, 64, ulong2(0, 0), true);
  simdgroup_float8x8 sum(0.0f);
  for (int k = 0; k < 5; ++k) { simdgroup_multiply_accumulate(sum, a, b, sum); }
  simdgroup_store(sum, y, 8);
}
"""


@pytest.mark.parametrize("compiler", compilers())
def test_matrices(compiler):
    with emulator.settings(compiler=compiler):
        counters = run(MATRICES, [np.ones(64, np.float16), floats(64)])
    assert (counters.simdgroup_loads, counters.simdgroup_stores) == (2, 1)
    assert counters.multiply_accumulates == 5
    assert counters.simdgroup_barriers == 1
    plain, transposed = [
        site for site in counters.accesses.sites if site.buffer == "tile" and not site.stores
    ]
    # Rows of 36 words begin in different banks: 8 rows of 4 words in one turn.
    assert (plain.accesses, plain.transactions, plain.fewest_transactions) == (1, 1, 1)
    # Rows of 32 words begin in one bank. Of a row there are 8 halves, in 4 words; the two elements
    # of a lane are in different rows, so that they are two accesses, of 4 rows each.
    assert (transposed.accesses, transposed.transactions) == (2, 8)
    assert transposed.fewest_transactions == 2


def test_nothing_is_counted_unless_asked_for():
    launched = run_text(
        HEAD + STRIDED,
        buffers=[np.int32([1, 1]), floats()],
        grid=(32, 1, 1),
        threadgroup=(32, 1, 1),
    )
    assert launched.counters.accesses is None
    assert launched.counters.threadgroup_loaded == 128


def test_a_sample_of_a_grid_of_equals_runs_a_part_and_misses_nothing():
    counters = run(STRIDED, [np.int32([1, 1]), floats(320)], threads=320, sample=4)
    assert (counters.threadgroups, counters.grid_threadgroups) == (4, 10)
    assert counters.accesses.total(Space.DEVICE).accesses == 4
    with pytest.raises(ValueError, match="at least two"), emulator.count(sample=1):
        pass


UNEVEN = """
kernel void f(device const float* x [[buffer(0)]], device float* y [[buffer(1)]],
              uint i [[thread_position_in_grid]], uint g [[threadgroup_position_in_grid]],
              uint groups [[threadgroups_per_grid]]) {
  BODY
}
"""
GROUPS = 64


def run_uneven(body, *, out=None, threads=32 * GROUPS, sample=6, **settings):
    x = np.zeros(64 * GROUPS, np.float32)
    text = UNEVEN.replace("BODY", body)
    with emulator.settings(**settings):
        return run(text, [x, out or floats(threads)], threads=threads, sample=sample)


@pytest.mark.parametrize(
    "body",
    [
        # As the idle corner of a swizzled grid: half of it has no work.
        "if (g % 2) return; y[i / 64 * 64 + i % 32] = x[i]; y[i / 64 * 64 + i % 32 + 32] = 0;",
        "if (g < groups / 2) return; y[2 * (i - 1024)] = x[i]; y[2 * (i - 1024) + 1] = 0;",
        # All fill as much, from more or less.
        "float sum = 0; for (uint k = 0; k < 1 + g / 8; ++k) sum += x[i]; y[i] = sum;",
        "float sum = x[i]; if (g % 2) sum += x[i + 32]; y[i] = sum;",
        # As much everywhere, but elsewhere in memory.
        "y[i] = x[i + g % 2];",
        "y[i] = x[i] + x[i + g % 2 * 32];",
        # As much everywhere, at another line.
        """float v;
        if (g % 2) { v = x[i]; }
        else { v = 2 * x[i]; }
        y[i] = v;""",
        "float v = x[i]; if (g % 2) v = simd_sum(v); y[i] = v;",
    ],
    ids=["every-other", "half", "growing", "more", "lines", "reuse", "places", "functions"],
)
@pytest.mark.parametrize("order", ["forward", "random"])
def test_a_sample_that_does_not_stand_for_the_grid_is_completed(body, order):
    sampled = run_uneven(body, order=order)
    assert sampled.threadgroups == sampled.grid_threadgroups == GROUPS
    assert sampled == run_uneven(body, sample=0)


@pytest.mark.parametrize(("groups", "sample"), [(57, 8), (66, 10)])
def test_a_sample_does_not_go_in_step_with_the_grid(groups, sample):
    body = "float sum = x[i]; if (g % 8 > 1) sum += x[i + 32]; y[i] = sum;"
    counters = run_uneven(body, threads=32 * groups, sample=sample)
    assert counters.threadgroups == groups


def test_a_sample_of_threadgroups_without_work_is_completed():
    # The first and the last are the same, and all there is of a sample of two.
    body = "if (g == 0 || g == 63) return; y[i - 32] = x[i];"
    counters = run_uneven(body, sample=2, out=floats(62 * 32))
    assert counters.threadgroups == GROUPS
    assert counters.stored["y"] == 62 * 32 * 4


def test_a_last_threadgroup_of_fewer_threads_completes_a_sample():
    counters = run_uneven("y[i] = x[i];", threads=32 * GROUPS - 1)
    assert counters.threadgroups == GROUPS
    assert counters.stored["y"] == 4 * (32 * GROUPS - 1)


def test_a_sample_is_not_taken_of_a_kernel_that_changes_what_it_got():
    y = np.arange(32 * GROUPS, dtype=np.float32)
    with emulator.count(sample=4) as launches:
        launched = run_text(
            HEAD + UNEVEN.replace("BODY", "y[i] += 1;"),
            buffers=[np.zeros(1, np.float32), y],
            grid=(32 * GROUPS, 1, 1),
            threadgroup=(32, 1, 1),
        )
    assert launches[0].threadgroups == GROUPS
    assert np.array_equal(launched.outputs[1], y + 1)


def test_a_sample_without_counting_stays_a_sample():
    text = UNEVEN.replace("BODY", "if (g % 2) return; y[i] = x[i];")
    with emulator.settings(sample=4):
        launched = run_text(
            HEAD + text,
            buffers=[np.ones(32 * GROUPS, np.float32), floats(32 * GROUPS)],
            grid=(32 * GROUPS, 1, 1),
            threadgroup=(32, 1, 1),
        )
    assert launched.counters.threadgroups == 4


@pytest.mark.parametrize("order", ["reverse", "random"])
def test_order_and_workers_do_not_matter(order):
    buffers = [np.int32([2, 2]), floats(320)]
    expected = run(STRIDED, buffers, threads=320)
    with emulator.settings(order=order, seed=3, workers=2):
        assert run(STRIDED, buffers, threads=320) == expected


def test_kernels_called_through_mlx_are_counted():
    kernel = emulator.metal_kernel(
        "twice", ["x"], ["y"], "uint i = thread_position_in_grid.x; y[i] = 2.0f * x[i];"
    )
    with emulator.count() as launches:
        for _ in range(2):
            kernel(
                inputs=[mx.ones((64,))],
                output_shapes=[(64,)],
                output_dtypes=[mx.float32],
                grid=(64, 1, 1),
                threadgroup=(64, 1, 1),
            )
    assert [one.accesses.distinct_lines["x"] for one in launches] == [2, 2]
    assert "twice" in launches[0].kernel

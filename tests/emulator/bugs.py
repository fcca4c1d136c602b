"""Kernels with planted bugs, and their clean twins.

A line that ends in ``// finds: KIND...`` must be reported with exactly those kinds, and no other
line may be; a line of a helper names its kernel before ``finds``. Every body sees the parameters
of ``SIGNATURE``; x has 256 elements and y must be filled.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from textwrap import indent

SIGNATURE = """kernel void {name}(
    device const float* x [[buffer(0)]],
    device float* y [[buffer(1)]],
    uint i [[thread_position_in_grid]],
    uint t [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup [[simdgroup_index_in_threadgroup]],
    uint g [[threadgroup_position_in_grid]]) {{
{body}
}}
"""

HELPERS = """struct Grid {
  float at[2][2];
};

struct Pairs {
  float2 kept[2];
  METAL_FUNC void keep(int n, float value) thread {
    kept[n] = float2(value);  // one_past_an_array_of_its_own_struct finds: out-of-bounds
  }
};

struct Nested {
  Pairs pairs[2];
};

typedef float2 two_pairs[2];
typedef thread float* place;

METAL_FUNC float first_of(thread float& value) {
  return value;
}

METAL_FUNC void store_pair(thread float2 (&pairs)[2], int n, float value) {
  pairs[n] = float2(value);  // one_past_an_array_parameter finds: out-of-bounds
}

template <typename T, int N>
METAL_FUNC T load_element(const thread T (&elements)[N], int n) {
  return elements[n];  // one_past_an_array_of_a_template finds: out-of-bounds
}

"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One kernel; the name of a clean one ends in ``_clean``."""

    name: str
    body: str


_BODIES = {
    # Races between the threads of a threadgroup.
    "no_barrier": """
threadgroup float tile[64];
tile[t] = x[i];
y[i] = tile[63 - t];  // finds: race
""",
    "no_barrier_clean": """
threadgroup float tile[64];
tile[t] = x[i];
threadgroup_barrier(mem_flags::mem_threadgroup);
y[i] = tile[63 - t];
""",
    "no_second_barrier": """
threadgroup float tile[64];
float sum = 0.0f;
for (int step = 0; step < 2; ++step) {
  tile[t] = x[i];
  threadgroup_barrier(mem_flags::mem_threadgroup);
  sum += tile[63 - t];  // finds: race
}
y[i] = sum;
""",
    "no_second_barrier_clean": """
threadgroup float tile[64];
float sum = 0.0f;
for (int step = 0; step < 2; ++step) {
  tile[t] = x[i];
  threadgroup_barrier(mem_flags::mem_threadgroup);
  sum += tile[63 - t];
  threadgroup_barrier(mem_flags::mem_threadgroup);
}
y[i] = sum;
""",
    "barrier_of_no_memory": """
threadgroup float tile[64];
tile[t] = x[i];
threadgroup_barrier(mem_flags::mem_none);
y[i] = tile[63 - t];  // finds: race
""",
    "barrier_of_other_memory": """
threadgroup float tile[64];
tile[t] = x[i];
threadgroup_barrier(mem_flags::mem_device);
y[i] = tile[63 - t];  // finds: race
""",
    "barrier_of_both_memories_clean": """
threadgroup float tile[64];
tile[t] = x[i];
threadgroup_barrier(mem_flags::mem_device | mem_flags::mem_threadgroup);
y[i] = tile[63 - t];
""",
    "barrier_of_a_simdgroup": """
threadgroup float tile[64];
tile[t] = x[i];
simdgroup_barrier(mem_flags::mem_threadgroup);
y[i] = tile[63 - t];  // finds: race
""",
    "barrier_of_a_simdgroup_clean": """
threadgroup float tile[64];
tile[t] = x[i];
simdgroup_barrier(mem_flags::mem_threadgroup);
y[i] = tile[t ^ 1];
""",
    "two_writers": """
threadgroup float total[1];
total[0] = x[i];  // finds: race
threadgroup_barrier(mem_flags::mem_threadgroup);
y[i] = total[0];
""",
    "two_writers_clean": """
threadgroup float total[1];
if (t == 0) {
  total[0] = x[i];
}
threadgroup_barrier(mem_flags::mem_threadgroup);
y[i] = total[0];
""",
    "half_neighbours_clean": """
threadgroup half tile[64];
tile[t] = half(x[i]);
y[i] = tile[t];
""",
    "matrix_handed_over": """
threadgroup float tile[2 * 64];
simdgroup_float8x8 m = make_filled_simdgroup_matrix<float, 8, 8>(1.0f);
simdgroup_store(m, tile + simdgroup * 64, 8);
simdgroup_load(m, tile + simdgroup * 64, 8, ulong2(0, 0), true);  // finds: race
y[i] = m.thread_elements()[0];
""",
    "matrix_handed_over_clean": """
threadgroup float tile[2 * 64];
simdgroup_float8x8 m = make_filled_simdgroup_matrix<float, 8, 8>(1.0f);
simdgroup_store(m, tile + simdgroup * 64, 8);
simdgroup_barrier(mem_flags::mem_threadgroup);
simdgroup_load(m, tile + simdgroup * 64, 8, ulong2(0, 0), true);
y[i] = m.thread_elements()[0];
""",
    "tile_of_the_neighbour": """
threadgroup float tile[2 * 64];
simdgroup_float8x8 m = make_filled_simdgroup_matrix<float, 8, 8>(1.0f);
simdgroup_store(m, tile + simdgroup * 64, 8);
simdgroup_barrier(mem_flags::mem_threadgroup);
simdgroup_load(m, tile + (1 - simdgroup) * 64, 8);  // finds: race
y[i] = m.thread_elements()[0];
""",
    "tile_of_the_neighbour_clean": """
threadgroup float tile[2 * 64];
simdgroup_float8x8 m = make_filled_simdgroup_matrix<float, 8, 8>(1.0f);
simdgroup_store(m, tile + simdgroup * 64, 8);
threadgroup_barrier(mem_flags::mem_threadgroup);
simdgroup_load(m, tile + (1 - simdgroup) * 64, 8);
y[i] = m.thread_elements()[0];
""",
    "output_read_back": """
y[i] = x[i];
threadgroup_barrier(mem_flags::mem_threadgroup);
y[i] += y[i ^ 1];  // finds: race
""",
    "output_read_back_clean": """
y[i] = x[i];
threadgroup_barrier(mem_flags::mem_device);
const float other = y[i ^ 1];
threadgroup_barrier(mem_flags::mem_device);
y[i] += other;
""",
    # Races between threadgroups.
    "all_write_all_tiles": """
for (uint k = 0; k < 256; k += 64) {
  y[k + t] = x[k + t];  // finds: race
}
""",
    "read_from_other_threadgroup": """
y[i] = x[i];
threadgroup_barrier(mem_flags::mem_device);
const float other = y[(i + 64) % 256];  // finds: race
y[i] += other;  // finds: race
""",
    "histogram_without_atomics": """
if (i > 0) {
  y[i] = x[i];
}
y[0] += x[i];  // finds: race
""",
    # Out of bounds.
    "load_past_the_end": """
y[i] = x[i + 1];  // finds: out-of-bounds
""",
    "load_before_the_start": """
y[i] = x[int(i) - 1];  // finds: out-of-bounds
""",
    "unsigned_index_wraps": """
y[i] = x[i - 1u];  // finds: out-of-bounds
""",
    "store_past_the_end": """
y[i] = x[i];
if (i == 0) {
  y[256] = 1.0f;  // finds: out-of-bounds
}
""",
    "threadgroup_array_too_small": """
threadgroup float tile[60];
tile[t] = x[i];  // finds: out-of-bounds
threadgroup_barrier(mem_flags::mem_threadgroup);
y[i] = tile[t % 60];
""",
    "threadgroup_array_clean": """
threadgroup float tile[64];
tile[t] = x[i];
threadgroup_barrier(mem_flags::mem_threadgroup);
y[i] = tile[t % 60];
""",
    "into_the_neighbour_array": """
threadgroup float first[64];
threadgroup float second[64];
first[t] = x[i];
second[t] = x[i];
threadgroup_barrier(mem_flags::mem_threadgroup);
threadgroup float* p = first;
y[i] = p[t + 1] + second[t];  // finds: out-of-bounds
""",
    "into_the_next_row": """
threadgroup float tile[8][8];
tile[t / 8][t % 8] = x[i];
threadgroup_barrier(mem_flags::mem_threadgroup);
y[i] = 0.0f;
const uint column = t + 1;
if (i == 7) {
  y[i] = tile[0][column];  // finds: out-of-bounds
}
""",
    "private_array": """
float parts[4] = {0.0f, 1.0f, 2.0f, 3.0f};
y[i] = 0.0f;
if (i == 9) {
  y[i] = parts[uint(x[200])];  // finds: out-of-bounds
}
""",
    "private_array_clean": """
float parts[4] = {0.0f, 1.0f, 2.0f, 3.0f};
y[i] = parts[i % 4];
""",
    "one_past_a_vector": """
float2 pair = float2(x[i], 1.0f);
for (int e = 0; e < (i == 9 ? 3 : 2); ++e) {
  pair[e] += 1.0f;  // finds: out-of-bounds
}
y[i] = pair.x;
""",
    "one_past_a_packed_vector": """
packed_float3 three = packed_float3(x[i], 1.0f, 2.0f);
y[i] = three[i == 9 ? 3 : 2];  // finds: out-of-bounds
""",
    "one_before_a_vector": """
const float4 four = float4(x[i]);
y[i] = four[int(i) - 1 < 0 ? -1 : 3];  // finds: out-of-bounds
""",
    "one_past_an_array_member": """
Grid grid = {{{1.0f, 2.0f}, {3.0f, 4.0f}}};
y[i] = first_of(grid.at[1][i == 9 ? 2 : 1]);  // finds: out-of-bounds
""",
    "one_past_the_rows_of_an_array_member": """
Grid grids[1] = {{{{1.0f, 2.0f}, {3.0f, 4.0f}}}};
y[i] = first_of(grids[0].at[i == 9 ? 2 : 1][0]);  // finds: out-of-bounds
""",
    "one_past_a_metal_array": """
array<float, 4> four = {{x[i], 1.0f, 2.0f, 3.0f}};
y[i] = first_of(four[i == 9 ? 4 : 3]);  // finds: out-of-bounds
""",
    "array_members_clean": """
Grid grid = {{{1.0f, 2.0f}, {3.0f, 4.0f}}};
thread float* end = &grid.at[1][2];
thread Grid* same = &grid;
same->at[0][i % 2] = x[i];
y[i] = grid.at[0][0]+grid.at[1][ushort(i) % 2] + float(end - &same->at[0][0]);
""",
    "one_past_a_local_array_stored": """
float2 pairs[2];
for (int n = 0; n < (i == 9 ? 3 : 2); ++n) {
  pairs[n] = float2(x[i], 1.0f);  // finds: out-of-bounds
}
y[i] = pairs[0].x + pairs[1].y;
""",
    "one_past_a_local_array_read": """
float2 pairs[2] = {float2(x[i], 1.0f), float2(2.0f, 3.0f)};
const float2 last = pairs[i == 9 ? 2 : 1];  // finds: out-of-bounds
y[i] = last.x;
""",
    "one_past_a_local_array_by_reference": """
float parts[4] = {0.0f, 1.0f, 2.0f, x[i]};
y[i] = first_of(parts[i == 9 ? 4 : 3]);  // finds: out-of-bounds
""",
    "one_past_the_last_declared": """
float2 pair = float2(1.0f, x[i]), pairs[2] = {pair, pair};
y[i] = pair.x;
pairs[i == 9 ? 2 : 1] = pair;  // finds: out-of-bounds
y[i] += pairs[0].x;
""",
    "one_past_the_rows_of_a_local_array": """
float rows[2][3] = {{0.0f, 1.0f, 2.0f}, {3.0f, 4.0f, x[i]}};
y[i] = first_of(rows[i == 9 ? 2 : 1][0]);  // finds: out-of-bounds
""",
    "one_past_a_row_of_a_local_array": """
float rows[2][3] = {{0.0f, 1.0f, 2.0f}, {3.0f, 4.0f, x[i]}};
y[i] = 2.0f * first_of(rows[1][i == 9 ? 3 : 2]);  // finds: out-of-bounds
""",
    "one_past_an_array_parameter": """
float2 pairs[2] = {float2(x[i]), float2(1.0f)};
store_pair(pairs, i == 9 ? 2 : 1, 2.0f);
y[i] = pairs[0].x;
""",
    "one_past_an_array_of_a_template": """
const float2 pairs[2] = {float2(x[i]), float2(1.0f)};
y[i] = load_element(pairs, i == 9 ? 2 : 1).x;
""",
    "one_past_an_array_behind_a_pointer": """
float2 pairs[2] = {float2(x[i]), float2(1.0f)};
thread float2 (*both)[2] = &pairs;
(*both)[i == 9 ? 2 : 1] = float2(2.0f);  // finds: out-of-bounds
y[i] = pairs[0].x;
""",
    "one_past_a_row_by_reference": """
float2 rows[2][2] = {{float2(x[i]), float2(1.0f)}, {float2(2.0f), float2(3.0f)}};
thread auto& row = rows[1];
row[i == 9 ? 2 : 1] = float2(2.0f);  // finds: out-of-bounds
y[i] = rows[0][0].x;
""",
    "one_past_an_array_of_a_named_type": """
two_pairs pairs = {float2(x[i]), float2(1.0f)};
pairs[i == 9 ? 2 : 1] = float2(2.0f);  // finds: out-of-bounds
y[i] = pairs[0].x;
""",
    "one_past_an_array_of_its_own_struct": """
Pairs pairs;
pairs.keep(0, x[i]);
pairs.keep(i == 9 ? 2 : 1, 1.0f);
y[i] = pairs.kept[0].x;
""",
    "one_past_an_array_whose_member_is_read": """
Grid grids[1] = {{{{1.0f, 2.0f}, {3.0f, 4.0f}}}};
y[i] = first_of(grids[i == 9 ? 1 : 0].at[1][1]);  // finds: out-of-bounds
""",
    "one_past_a_member_of_a_member": """
Nested nested;
nested.pairs[i % 2].kept[0] = float2(x[i]);
nested.pairs[i % 2].kept[i == 9 ? 2 : 1] = float2(1.0f);  // finds: out-of-bounds
y[i] = nested.pairs[i % 2].kept[0].x;
""",
    "local_arrays_clean": """
constexpr int count = 2;
float parts[count * 2] = {0.0f, 1.0f}, rows[count][3], pair[] = {x[i], parts[1]};
thread float* const ends[count] = {&parts[4], &rows[1][3]};
place places[2] = {&parts[0], pair};
thread place* last = &places[2];
vec<float, 4> four[1 + (count > 1)] = {float4(2.0f), float4(parts[0])};
const device float *inputs[2] = {x, &x[i]};
thread float (*both)[2] = &pair;
thread two_pairs* named;
two_pairs twos = {float2(1.0f) * parts[1], float2{parts[1], parts[2]}};
named = &twos;
(*named)[sizeof(two_pairs[2]) / sizeof(float2[4])] = float2(1.0f);
for (int n = 0, steps[2] = {3, 4}; n < 2 && n < steps[n]; ++n) {
  rows[n][2] = count > parts[n] ? (*both)[n] * four[n][3] : -parts[n];
}
float sum = *(ends[0] - 1) + *places[0] + float(last - places) - inputs[1][0], others[1] = {0.0f};
store_pair(twos, 1, rows[0][2] + rows[1][2]);
y[i] = sum + others[0] + load_element(twos, int(parts[1] > pair[1])).x;
""",
    # Uninitialised memory.
    "half_of_a_tile": """
threadgroup float tile[64];
if (t < 32) {
  tile[t] = x[i];
}
threadgroup_barrier(mem_flags::mem_threadgroup);
y[i] = tile[t];  // finds: uninitialized
""",
    "tile_of_the_last_threadgroup": """
threadgroup float tile[64];
if (g == 0) {
  tile[t] = x[i];
}
threadgroup_barrier(mem_flags::mem_threadgroup);
y[i] = tile[t];  // finds: uninitialized
""",
    "output_before_it_is_written": """
y[i] += x[i];  // finds: uninitialized
""",
    "accumulator": """
simdgroup_float8x8 a = make_filled_simdgroup_matrix<float, 8, 8>(1.0f);
simdgroup_float8x8 sum;
simdgroup_multiply_accumulate(sum, a, a, sum);  // finds: uninitialized
y[i] = sum.thread_elements()[0];
""",
    "accumulator_clean": """
simdgroup_float8x8 a = make_filled_simdgroup_matrix<float, 8, 8>(1.0f);
simdgroup_float8x8 sum(0.0f);
simdgroup_multiply_accumulate(sum, a, a, sum);
y[i] = sum.thread_elements()[0];
""",
    "half_operand": """
simdgroup_half8x8 a;
simdgroup_float8x8 sum(0.0f);
simdgroup_multiply_accumulate(sum, a, a, sum);  // finds: uninitialized
y[i] = sum.thread_elements()[0];
""",
    # Vector accesses.
    "misaligned_base": """
threadgroup half4 tile[64];
const uint from = 2 * min(t, 60u) + 1;
tile[t] = *reinterpret_cast<const device half4*>(x + from);  // finds: misaligned
y[i] = float(tile[t].x + tile[t].w);
""",
    # Without tracking, clang splits the load before it can be checked.
    "misaligned_and_split": """
y[i] = 0.0f;
if (i < 60) {
  auto v = *reinterpret_cast<const device float4*>(x + 4 * i + 1);  // finds: misaligned@g++,tracked
  y[i] = v.x + v.w;
}
""",
    "misaligned_row": """
threadgroup float tile[8 * 9];
tile[t] = x[i];
if (t < 8) {
  tile[64 + t] = x[i];
}
threadgroup_barrier(mem_flags::mem_threadgroup);
threadgroup float2 pairs[64];
pairs[t] = *reinterpret_cast<threadgroup float2*>(tile + t / 8 * 9);  // finds: misaligned
y[i] = pairs[t].x + pairs[t].y;
""",
    "aligned_row_clean": """
threadgroup float4 tile[8 * 3];
threadgroup float* scalars = reinterpret_cast<threadgroup float*>(tile);
scalars[t] = x[i];
if (t < 32) {
  scalars[64 + t] = x[i];
}
threadgroup_barrier(mem_flags::mem_threadgroup);
const float4 v = *reinterpret_cast<threadgroup float4*>(scalars + t / 8 * 12);
y[i] = v.x + v.w;
""",
    "packed_clean": """
y[i] = 0.0f;
if (i < 60) {
  const packed_float4 v = *reinterpret_cast<const device packed_float4*>(x + 4 * i + 1);
  y[i] = v[0] + v[3];
}
""",
    # Divergence.
    "barrier_in_a_branch": """
threadgroup float tile[64];
tile[t] = x[i];
if (t < 40) {
  threadgroup_barrier(mem_flags::mem_threadgroup);  // finds: divergence
}
y[i] = tile[t];
""",
    "barrier_after_return": """
y[i] = x[i];
if (t == 3) {
  return;
}
threadgroup_barrier(mem_flags::mem_threadgroup);  // finds: divergence
""",
    "barrier_after_uniform_return_clean": """
y[i] = x[i];
if (g == 1) {
  return;
}
threadgroup_barrier(mem_flags::mem_threadgroup);
""",
    "two_barriers": """
y[i] = x[i];
if (t < 32) {
  threadgroup_barrier(mem_flags::mem_none);  // finds: divergence
} else {
  threadgroup_barrier(mem_flags::mem_none);
}
""",
    "simdgroup_barrier_in_a_branch": """
y[i] = x[i];
if (lane < 7) {
  simdgroup_barrier(mem_flags::mem_none);  // finds: divergence
}
""",
    "matrix_in_a_branch": """
simdgroup_float8x8 a = make_filled_simdgroup_matrix<float, 8, 8>(1.0f);
if (lane < 16) {
  simdgroup_multiply(a, a, a);  // finds: divergence
}
y[i] = a.thread_elements()[0];
""",
    "matrix_in_a_uniform_branch_clean": """
simdgroup_float8x8 a = make_filled_simdgroup_matrix<float, 8, 8>(1.0f);
if (simdgroup == 1) {
  simdgroup_multiply(a, a, a);
}
y[i] = a.thread_elements()[0];
""",
    "pointer_of_the_lane": """
simdgroup_float8x8 a;
simdgroup_load(a, x + (lane / 16) * 8, 8);  // finds: divergence
simdgroup_multiply(a, a, a);
y[i] = a.thread_elements()[0];
""",
    "simd_sum_in_a_branch_clean": """
float sum = 0.0f;
if (lane < 5) {
  sum = simd_sum(x[i]);
}
y[i] = sum + simd_max(x[i]);
""",
    # Outputs and inputs.
    "rows_left_out": """
if (t != 5) {
  y[i] = x[i];
}
""",  # checked apart: no line is to blame
    "input_stored_to": """
y[i] = x[i];
const_cast<device float*>(x)[i] = 0.0f;  // finds: store-to-input
""",
    # Threadgroup memory.
    "too_much_threadgroup_memory": """
threadgroup float first[8000];
threadgroup float second[200];  // finds: threadgroup-memory
first[t] = second[t] = x[i];
y[i] = first[t] + second[t];
""",
    "all_threadgroup_memory_clean": """
threadgroup float first[8000];
threadgroup float second[192];
first[t] = second[t] = x[i];
y[i] = first[t] + second[t];
""",
    # Undefined behaviour.
    "signed_overflow": """
const int big = 2147483647;
y[i] = float(big + int(x[1]) * int(i == 3));  // finds: undefined-behavior
""",
    "unsigned_wraps_clean": """
const uint big = 4294967295u;
y[i] = float(big + i);
""",
    "shift_too_far": """
y[i] = float(1 << (i == 3 ? 32 : 1));  // finds: undefined-behavior
""",
    "float_to_int": """
y[i] = float(int(i == 3 ? 3e9f : 1.0f));  // finds: undefined-behavior
""",
    "division_by_zero": """
y[i] = float(7 / (int(i) - 3));  // finds: undefined-behavior
""",
}

CASES = tuple(Case(name=name, body=body.strip("\n")) for name, body in _BODIES.items())


def text_of(case: Case) -> str:
    """The kernel of a case, without the lines that every text starts with."""
    return SIGNATURE.format(name=case.name, body=indent(case.body, "  "))


def full_text() -> str:
    """One Metal text with the kernels of all cases."""
    head = "#include <metal_stdlib>\nusing namespace metal;\n\n" + HELPERS
    return head + "\n".join(text_of(case) for case in CASES)


def _numbered(text: str, first: int) -> Iterator[tuple[int, str]]:
    return enumerate(text.split("\n"), start=first)


def expected(text: str, case: Case, build: str) -> set[tuple[int, str]]:
    """Line and kind of every finding that a case must bring, as its comments say.

    ``KIND@NAME,...`` is for builds whose name starts so.
    """
    first = text[: text.index(f"kernel void {case.name}(")].count("\n") + 1
    lines = [(number, f"// {case.name} finds: ", line) for number, line in _numbered(text, 1)]
    lines += [(number, "// finds: ", line) for number, line in _numbered(text_of(case), first)]
    found = set()
    for number, mark, line in lines:
        _, marker, kinds = line.partition(mark)
        for kind in kinds.split() if marker else ():
            name, _, only = kind.partition("@")
            if build.startswith(tuple(only.split(","))):
                found.add((number, name))
    return found

"""Metal kernels whose results NumPy knows, for the tests of the translation and of the device."""

from __future__ import annotations

from dataclasses import dataclass

PRODUCT = """
simdgroup_matrix<T, 8, 8> left, right;
simdgroup_matrix<float, 8, 8> sum = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
for (int k = 0; k < 24; k += 8) {
  simdgroup_load(left, a + k, 24);
  simdgroup_load(right, b + k * 8, 8);
  simdgroup_multiply_accumulate(sum, left, right, sum);
}
simdgroup_store(sum, c, 8);
"""
"""c = a b, of 8x24 by 24x8 matrices, in one simdgroup."""


@dataclass(frozen=True)
class SimdCase:
    """An expression of a lane's value ``v`` and number ``lane``, and what NumPy makes of it."""

    name: str
    expression: str
    expected: str


SIMD_CASES = (
    SimdCase("sum", "simd_sum(v)", "np.full(32, v.sum())"),
    SimdCase("max", "simd_max(v)", "np.full(32, v.max())"),
    SimdCase("inclusive", "simd_prefix_inclusive_sum(v)", "np.cumsum(v)"),
    SimdCase("exclusive", "simd_prefix_exclusive_sum(v)", "np.cumsum(v) - v"),
    SimdCase("xor", "simd_shuffle_xor(v, ushort(9))", "v[lane ^ 9]"),
    SimdCase("up", "simd_shuffle_up(v, ushort(3))", "np.where(lane >= 3, v[lane - 3], v)"),
    SimdCase("rotate", "simd_shuffle_rotate_down(v, ushort(5))", "v[(lane + 5) % 32]"),
    SimdCase("broadcast", "simd_broadcast(v, ushort(7))", "np.full(32, v[7])"),
    SimdCase("quad", "quad_sum(v)", "v.reshape(8, 4).sum(1).repeat(4)"),
    SimdCase(
        "ballot",
        "float(ulong(simd_vote::vote_t(simd_ballot(lane % 3 == 0))) & 0xfffffu)",
        "np.full(32, float(sum(1 << i for i in range(0, 20, 3))))",
    ),
)
"""Each is computed by lanes in Metal's order and by lanes renumbered for matrices."""

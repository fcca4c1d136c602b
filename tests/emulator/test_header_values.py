"""Layouts, matrices, geometry, packing, and the names of MLX's prelude."""

from __future__ import annotations

import ctypes
import itertools

import numpy as np
import pytest
from cxx import Cxx, compilers

RNG = np.random.default_rng(7)
pytestmark = pytest.mark.skipif(not compilers(), reason="no C++ compiler")

SIZES = {"bool": 1, "char": 1, "uchar": 1, "short": 2, "ushort": 2, "half": 2, "bfloat": 2}
SIZES |= {"int": 4, "uint": 4, "float": 4, "long": 8, "ulong": 8}


def _layout_asserts() -> str:
    lines = []
    for (kind, size), n in itertools.product(SIZES.items(), (2, 3, 4)):
        whole = size * (4 if n == 3 else n)
        for name, bytes_, alignment in (
            (f"{kind}{n}", whole, whole),
            (f"packed_{kind}{n}", size * n, size),
        ):
            lines.append(
                f"static_assert(sizeof({name}) == {bytes_} && alignof({name}) == {alignment} && "
                f"__is_trivially_copyable({name}) && __is_trivial({name}));"
            )
    for kind, c, r in itertools.product(("half", "float"), (2, 3, 4), (2, 3, 4)):
        lines.append(f"static_assert(sizeof({kind}{c}x{r}) == {c} * sizeof({kind}{r}));")
    lines.append("struct S { float3 a; half b; packed_float3 c; uchar4 d; float2 e; };")
    lines.append("static_assert(sizeof(S) == 48 && __builtin_offsetof(S, c) == 20);")
    lines.append("static_assert(__builtin_offsetof(S, d) == 32 && __builtin_offsetof(S, e) == 40);")
    return "\n".join(lines)


_SOURCE = """
#include <mlx_prelude.h>

extern "C" {
void geometry(const float3* a, const float3* b, float* out) {
  out[0] = dot(*a, *b);
  out[1] = length(*a);
  out[2] = length_squared(*a);
  out[3] = distance(*a, *b);
  out[4] = distance_squared(*a, *b);
  *(float3*)(out + 8) = cross(*a, *b);
  *(float3*)(out + 12) = normalize(*a);
  *(float3*)(out + 16) = reflect(*a, *b);
  *(float3*)(out + 20) = refract(normalize(*a), normalize(*b), 0.5f);
  *(float3*)(out + 24) = faceforward(*a, *b, *a);
}

float determinants(const float* m, int n) {
  switch (n) {
    case 2: return determinant(*(const float2x2*)m);
    case 3: return determinant(float3x3(m[0], m[1], m[2], m[3], m[4], m[5], m[6], m[7], m[8]));
    default: return determinant(*(const float4x4*)m);
  }
}

void products(const float2x4* a, const float4x2* b, const float2* v, const float4* w, float* out) {
  *(float4x4*)out = *a * *b;
  *(float2x2*)(out + 16) = *b * *a;
  *(float4*)(out + 20) = *a * *v;
  *(float2*)(out + 24) = *w * *a;
  *(float4x2*)(out + 28) = transpose(*a) + 2.0f * *b;
  *(float4x2*)(out + 36) = -(*b - transpose(*a) / 4.0f);
}

#define PACKING(n, pack, unpack, bits) \\
  bits do_##pack(const float##n* v) { return pack(*v); } \\
  void do_##unpack(bits x, float##n* v) { *v = unpack(x); }
PACKING(4, pack_float_to_unorm4x8, unpack_unorm4x8_to_float, uint)
PACKING(4, pack_float_to_snorm4x8, unpack_snorm4x8_to_float, uint)
PACKING(4, pack_float_to_srgb_unorm4x8, unpack_unorm4x8_srgb_to_float, uint)
PACKING(2, pack_float_to_unorm2x16, unpack_unorm2x16_to_float, uint)
PACKING(2, pack_float_to_snorm2x16, unpack_snorm2x16_to_float, uint)
PACKING(4, pack_float_to_unorm10a2, unpack_unorm10a2_to_float, uint)
PACKING(3, pack_float_to_unorm565, unpack_unorm565_to_float, ushort)

int relations(const float4* v) {
  const bool4 nan = isnan(*v), inf = isinf(*v), finite = isfinite(*v), sign = signbit(*v);
  return any(nan) | all(finite) << 1 | inf.y << 2 | sign.z << 3 | isordered(v->x, v->y) << 4 |
         isunordered(v->x, v->w) << 5 | any(select(*v, float4(9), nan) == 9) << 6;
}

long place(uint i, const int* shape, const int64_t* strides, int ndim) {
  return elem_to_loc<int64_t>(i, shape, strides, ndim);
}
long place3(uint x, uint y, uint z, const int* shape, const int64_t* strides, int ndim) {
  const long2 both = elem_to_loc_2_nd<int64_t>(uint3(x, y, z), shape, strides, strides, ndim);
  return both.x == both.y ? both.y : -1;
}
void walk(int ndim, const int* shape, const int64_t* strides, const int* steps, int n, long* out) {
  LoopedElemToLoc<3, long> a(ndim);
  LoopedElemToLoc<1, long, true> b(ndim);
  for (int i = 0; i < n; ++i) {
    out[2 * i] = a.location();
    out[2 * i + 1] = b.location();
    steps[i] == 1 ? a.next(shape, strides) : a.next(steps[i], shape, strides);
    steps[i] == 1 ? b.next(shape, strides) : b.next(steps[i], shape, strides);
  }
}

void complexes(const complex64_t* a, const complex64_t* b, complex64_t* out) {
  out[0] = *a + *b;
  out[1] = *a - *b;
  out[2] = *a * *b;
  out[3] = *a / *b;
  out[4] = -*a;
  out[5] = log1p(*a);
  out[6] = 1.0f / *b;
  out[7] = *a + 1;
  out[8] = *a;
  out[8] += *b;
  out[9] = complex64_t(*a > *b, *a <= *b);
  out[10] = complex64_t(float2(3, 4));
}
float log1p_of(float x) { return log1p(x); }
float hypot_of(float x, float y) { return hypot(x, y); }
bool tiny_is_true() {
  return cast_to<bool>(1e-45f) && !cast_to<bool>(-0.0f) &&
         cast_to<bool>(uint16_to_bfloat16(1)) && cast_to<int>(2.5f) == 2;
}
}

bfloat16_t activate(bfloat16_t x) {
  auto y = 1 / (1 + metal::precise::exp(metal::abs(x)));
  return (x < 0) ? y : 1 - y;
}
extern "C" void activations(const bfloat16_t* x, bfloat16_t* out, int n) {
  for (int i = 0; i < n; ++i) out[i] = activate(x[i]);
}
static_assert(Limits<int8_t>::min == -128 && Limits<uint64_t>::max == ~uint64_t(0));
static_assert(Limits<bool>::max && !Limits<bool>::min && Limits<float16_t>::max > half(65504.0f));
static_assert(Limits<bfloat16_t>::finite_min < -3e38f && -Limits<bfloat16_t>::min == INFINITY);
static_assert(WorkPerThread<float>::n == 2 && REDUCE_N_READS == 4);
static_assert(is_same_v<ConditionalType<false, int, float>::type, float>);
static_assert(is_complex_v<complex64_t> && sizeof(complex64_t) == 8);
"""


@pytest.fixture(scope="module", params=compilers())
def library(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> ctypes.CDLL:
    cxx = Cxx(command=request.param, folder=tmp_path_factory.mktemp("values"))
    loaded = cxx.library("values", _SOURCE + _layout_asserts())
    for name in ("determinants", "log1p_of", "hypot_of"):
        getattr(loaded, name).restype = ctypes.c_float
    for name in ("place", "place3"):
        getattr(loaded, name).restype = ctypes.c_long
    loaded.tiny_is_true.restype = ctypes.c_bool
    return loaded


def address(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def aligned(count: int) -> np.ndarray:
    """Float storage on a 16-byte boundary."""
    raw = np.zeros(count + 4, np.float32)
    return raw[-raw.ctypes.data % 16 // 4 :][:count]


@pytest.mark.slow
def test_geometry(library: ctypes.CDLL) -> None:
    a, b, out = aligned(4), aligned(4), aligned(32)
    a[:3], b[:3] = (1.5, -2, 0.25), (0.5, 1, -3)
    library.geometry(address(a), address(b), address(out))
    u, v = a[:3].astype(np.float64), b[:3].astype(np.float64)
    scalars = [u @ v, np.linalg.norm(u), u @ u, np.linalg.norm(u - v), (u - v) @ (u - v)]
    np.testing.assert_allclose(out[:5], scalars, rtol=1e-6)
    np.testing.assert_allclose(out[8:11], np.cross(u, v), rtol=1e-6)
    np.testing.assert_allclose(out[12:15], u / np.linalg.norm(u), rtol=1e-6)
    np.testing.assert_allclose(out[16:19], u - 2 * (v @ u) * v, rtol=1e-6)
    i, n = u / np.linalg.norm(u), v / np.linalg.norm(v)
    k = 1 - 0.25 * (1 - (n @ i) ** 2)
    np.testing.assert_allclose(out[20:23], 0.5 * i - (0.5 * (n @ i) + np.sqrt(k)) * n, rtol=1e-5)
    np.testing.assert_allclose(out[24:27], u if u @ v < 0 else -u, rtol=1e-6)


def test_matrices(library: ctypes.CDLL) -> None:
    for n in (2, 3, 4):
        m = aligned(16)
        m[: n * n] = RNG.standard_normal(n * n)
        expected = np.linalg.det(m[: n * n].reshape(n, n).astype(np.float64))
        assert library.determinants(address(m), n) == pytest.approx(expected, rel=1e-4)
    a, b, v, w, out = aligned(8), aligned(8), aligned(2), aligned(4), aligned(44)
    for operand in (a, b, v, w):
        operand[:] = RNG.standard_normal(operand.size)
    library.products(*(address(x) for x in (a, b, v, w, out)))
    # Columns are contiguous: a float2x4 is two columns of four.
    left, right = a.reshape(2, 4).T, b.reshape(4, 2).T
    np.testing.assert_allclose(out[:16].reshape(4, 4).T, left @ right, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(out[16:20].reshape(2, 2).T, right @ left, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(out[20:24], left @ v, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(out[24:26], w @ left, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(out[28:36].reshape(4, 2).T, left.T + 2 * right, rtol=1e-5)
    np.testing.assert_allclose(out[36:44].reshape(4, 2).T, left.T / 4 - right, rtol=1e-5, atol=1e-6)


PACKINGS = {
    # pack: (unpack, bits of each component, signed)
    "float_to_unorm4x8": ("unorm4x8_to_float", [8] * 4, False),
    "float_to_snorm4x8": ("snorm4x8_to_float", [8] * 4, True),
    "float_to_unorm2x16": ("unorm2x16_to_float", [16] * 2, False),
    "float_to_snorm2x16": ("snorm2x16_to_float", [16] * 2, True),
    "float_to_unorm10a2": ("unorm10a2_to_float", [10, 10, 10, 2], False),
    "float_to_unorm565": ("unorm565_to_float", [5, 6, 5], False),
}


@pytest.mark.parametrize("name", PACKINGS)
def test_packing(library: ctypes.CDLL, name: str) -> None:
    unpack_name, widths, signed = PACKINGS[name]
    pack, unpack = library[f"do_pack_{name}"], library[f"do_unpack_{unpack_name}"]
    total = sum(widths)
    pack.restype = ctypes.c_uint16 if total == 16 else ctypes.c_uint32
    for _ in range(50):
        v = aligned(4)
        v[:] = RNG.uniform(-1.5, 1.5, 4)
        bits, position = 0, 0
        for x, width in zip(v, widths, strict=False):
            scale = 2 ** (width - signed) - 1
            code = int(np.rint(np.float32(np.clip(x, -signed, 1)) * np.float32(scale)))
            bits |= (code & (2**width - 1)) << position
            position += width
        assert pack(address(v)) == bits
        back = aligned(4)
        unpack(ctypes.c_uint32(bits), address(back))
        for i, width in enumerate(widths):
            clipped = np.clip(v[i], -signed, 1)
            assert abs(back[i] - clipped) <= 0.5001 / (2 ** (width - signed) - 1)


def test_srgb_round_trip(library: ctypes.CDLL) -> None:
    for code in (0, 1, 10, 11, 128, 254, 255):
        v = aligned(4)
        library.do_unpack_unorm4x8_srgb_to_float(ctypes.c_uint32(code * 0x01010101), address(v))
        c = code / 255
        linear = c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        np.testing.assert_allclose(v, [linear] * 3 + [c], rtol=1e-5)
        pack = library.do_pack_float_to_srgb_unorm4x8
        pack.restype = ctypes.c_uint32
        assert pack(address(v)) == code * 0x01010101


def test_relations(library: ctypes.CDLL) -> None:
    v = aligned(4)
    v[:] = (1, np.inf, -1, np.nan)
    assert library.relations(address(v)) == 0b1111101
    v[:] = (1, 2, 3, 4)
    assert library.relations(address(v)) == 0b0010010


def test_places_in_strided_arrays(library: ctypes.CDLL) -> None:
    shape, strides = (3, 4, 5), (40, 3, 8)
    c_shape, c_strides = (ctypes.c_int * 3)(*shape), (ctypes.c_int64 * 3)(*strides)
    for flat, (z, y, x) in enumerate(itertools.product(*map(range, shape))):
        expected = z * strides[0] + y * strides[1] + x * strides[2]
        assert library.place(flat, c_shape, c_strides, 3) == expected
        assert library.place3(x, y, z, c_shape, c_strides, 3) == expected


def test_looped_places(library: ctypes.CDLL) -> None:
    shape, strides = (2, 3, 2, 4), (100, 7, 50, 2)
    c_shape, c_strides = (ctypes.c_int * 4)(*shape), (ctypes.c_int64 * 4)(*strides)
    steps = [1, 1, 3, 1, 5, 9, 1, 2, 11, 1, 1]
    out = (ctypes.c_long * (2 * len(steps)))()
    library.walk(4, c_shape, c_strides, (ctypes.c_int * len(steps))(*steps), len(steps), out)
    flat = np.concatenate([[0], np.cumsum(steps)[:-1]])
    expected = np.stack(np.unravel_index(flat, shape), -1) @ np.array(strides)
    assert list(out)[::2] == expected.tolist()
    assert list(out)[1::2] == expected.tolist()


def test_complex_numbers(library: ctypes.CDLL) -> None:
    a, b = np.complex64([1.5 - 2j]), np.complex64([-0.25 + 4j])
    out = np.zeros(11, np.complex64)
    library.complexes(address(a), address(b), address(out))
    x, y = a[0], b[0]
    expected = [x + y, x - y, x * y, x / y, -x, np.log(1 + x), 1 / y, x + 1, x + y, 1 + 0j, 3 + 4j]
    np.testing.assert_allclose(out, expected, rtol=1e-6)


def test_prelude_functions(library: ctypes.CDLL) -> None:
    for x in (1e-9, -1e-5, 0.3, 7.0):
        assert library.log1p_of(ctypes.c_float(x)) == pytest.approx(np.log1p(x), rel=1e-6)
    f = ctypes.c_float
    assert library.hypot_of(f(3e30), f(4e30)) == pytest.approx(5e30, rel=1e-6)
    assert library.hypot_of(f(np.inf), f(np.nan)) == np.inf
    assert library.tiny_is_true()
    x = (RNG.standard_normal(64).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    out = np.zeros(64, np.uint16)
    library.activations(address(x), address(out), 64)
    wide, got = ((v.astype(np.uint32) << 16).view(np.float32) for v in (x, out))
    np.testing.assert_allclose(got, 1 / (1 + np.exp(-wide)), atol=0.02)

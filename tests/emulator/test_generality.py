"""Custom kernels of the kinds that authors write for MLX, under all checks."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_tilegemm.emulator import KernelCheckError, KernelCompileError, metal_kernel, settings

SCHEDULES = pytest.mark.parametrize("order", ["forward", "reverse", "random"])


def run(kernel, inputs, shapes, dtypes, grid, group, **options):
    return kernel(
        inputs=inputs,
        output_shapes=shapes,
        output_dtypes=dtypes,
        grid=grid,
        threadgroup=group,
        **options,
    )


# Bilinear sampling, as authors of vision models write it: weights in a helper, borders are zero.
CORNERS = """
struct Corners {
  int2 low;
  float2 weight;
};
template <typename T>
METAL_FUNC Corners corners(const device T* point, int width, int height) {
  float2 at = (float2(point[0], point[1]) + 1.0) * float2(width, height) * 0.5 - 0.5;
  float2 low = floor(at);
  return {int2(low), at - low};
}
METAL_FUNC bool inside(int2 at, int width, int height) {
  return all(at >= 0) && at.x < width && at.y < height;
}
"""
SAMPLE = """
uint i = thread_position_in_grid.x;
int height = image_shape[1], width = image_shape[2], channels = image_shape[3];
int channel = i % channels, point = i / channels;
int batch = point / (points_shape[1] * points_shape[2]);
auto c = corners(points + 2 * point, width, height);
float sum = 0.0;
for (int corner = 0; corner < 4; ++corner) {
  int2 shift(corner & 1, corner >> 1);
  float2 w = select(1.0 - c.weight, c.weight, bool2(shift));
  int2 at = c.low + shift;
  if (inside(at, width, height)) {
    sum += w.x * w.y * image[((batch * height + at.y) * width + at.x) * channels + channel];
  }
}
out[i] = T(sum);
"""
# One simdgroup handles a point, so that its gradient is a simdgroup's sum.
SAMPLE_BACKWARD = """
uint lane = thread_index_in_simdgroup;
int height = image_shape[1], width = image_shape[2], channels = image_shape[3];
int point = thread_position_in_grid.y;
int batch = point / (points_shape[1] * points_shape[2]);
auto c = corners(points + 2 * point, width, height);
float2 gradient = 0;
for (int channel = lane; channel < channels; channel += threads_per_simdgroup) {
  float from = cotangent[point * channels + channel];
  for (int corner = 0; corner < 4; ++corner) {
    int2 shift(corner & 1, corner >> 1);
    float2 w = select(1.0 - c.weight, c.weight, bool2(shift));
    int2 at = c.low + shift;
    if (!inside(at, width, height)) {
      continue;
    }
    int where = ((batch * height + at.y) * width + at.x) * channels + channel;
    atomic_fetch_add_explicit(&d_image[where], from * w.x * w.y, memory_order_relaxed);
    gradient += image[where] * from * w.yx * select(float2(-1.0), float2(1.0), bool2(shift));
  }
}
gradient = simd_sum(gradient) * float2(width, height) / 2.0;
if (lane < 2) {
  atomic_store_explicit(&d_points[2 * point + lane], gradient[lane], memory_order_relaxed);
}
"""


def sample(image, points):
    """What the kernels compute, in MLX ops."""
    _, height, width, _ = image.shape
    at = (points + 1) * mx.array([width, height]) / 2 - 0.5
    low = mx.stop_gradient(mx.floor(at))
    weight = at - low
    batch = mx.arange(image.shape[0])[:, None, None]
    total = 0
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        x, y = low[..., 0].astype(mx.int32) + dx, low[..., 1].astype(mx.int32) + dy
        wx = weight[..., 0] if dx else 1 - weight[..., 0]
        wy = weight[..., 1] if dy else 1 - weight[..., 1]
        valid = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        texel = image[batch, mx.clip(y, 0, height - 1), mx.clip(x, 0, width - 1)]
        total = total + mx.where(valid, wx * wy, 0)[..., None] * texel
    return total


@pytest.fixture
def scene():
    keys = mx.random.split(mx.random.key(0), 3)
    image = mx.random.normal((2, 5, 7, 9), key=keys[0])
    points = mx.random.uniform(-1.2, 1.2, (2, 4, 3, 2), key=keys[1])
    return image, points, mx.random.normal((2, 4, 3, 9), key=keys[2])


@SCHEDULES
@pytest.mark.parametrize("dtype", [mx.float32, mx.float16], ids=str)
def test_grid_sample(scene, dtype, order):
    image, points = (array.astype(dtype) for array in scene[:2])
    kernel = metal_kernel("sample", ["image", "points"], ["out"], SAMPLE, header=CORNERS)
    shape = (2, 4, 3, 9)
    with settings(order=order, misalign=True):
        (out,) = run(
            kernel,
            [image, points],
            [shape],
            [dtype],
            (216, 1, 1),
            (256, 1, 1),
            template=[("T", dtype)],
        )
    expected = sample(image.astype(mx.float32), points.astype(mx.float32))
    tolerance = 1e-5 if dtype == mx.float32 else 2e-3
    assert mx.allclose(out.astype(mx.float32), expected, rtol=tolerance, atol=tolerance)


@SCHEDULES
def test_grid_sample_backward(scene, order):
    image, points, cotangent = scene
    kernel = metal_kernel(
        "sample_backward",
        ["image", "points", "cotangent"],
        ["d_image", "d_points"],
        SAMPLE_BACKWARD,
        header=CORNERS,
        atomic_outputs=True,
    )
    with settings(order=order):
        got = run(
            kernel,
            [image, points, cotangent],
            [image.shape, points.shape],
            [mx.float32] * 2,
            (32, 24, 1),
            (32, 8, 1),
            init_value=0,
        )
    _, expected = mx.vjp(sample, [image, points], [cotangent])
    for one, other in zip(got, expected, strict=True):
        assert mx.allclose(one, other, rtol=1e-4, atol=1e-4)


SOFTMAX = """
constexpr int simdgroups = THREADS / 32;
threadgroup float partial[simdgroups];
uint lane = thread_index_in_simdgroup, group = simdgroup_index_in_threadgroup;
auto row = x + threadgroup_position_in_grid.x * x_strides[0];
auto to = y + threadgroup_position_in_grid.x * N;
float top = -INFINITY;
for (int i = thread_index_in_threadgroup; i < N; i += THREADS) {
  top = max(top, float(row[i * x_strides[1]]));
}
top = simd_max(top);
if (lane == 0) partial[group] = top;
threadgroup_barrier(mem_flags::mem_threadgroup);
top = simd_max(lane < simdgroups ? partial[lane] : -INFINITY);
float sum = 0;
for (int i = thread_index_in_threadgroup; i < N; i += THREADS) {
  sum += fast::exp(row[i * x_strides[1]] - top);
}
sum = simd_sum(sum);
threadgroup_barrier(mem_flags::mem_threadgroup);
if (lane == 0) partial[group] = sum;
threadgroup_barrier(mem_flags::mem_threadgroup);
sum = simd_sum(lane < simdgroups ? partial[lane] : 0);
for (int i = thread_index_in_threadgroup; i < N; i += THREADS) {
  to[i] = static_cast<T>(LOG ? row[i * x_strides[1]] - top - log(sum)
                             : fast::exp(row[i * x_strides[1]] - top) / sum);
}
"""


def softmax(x, log, source=SOFTMAX):
    kernel = metal_kernel("softmax", ["x"], ["y"], source, ensure_row_contiguous=False)
    rows, columns = x.shape
    template = [("T", x.dtype), ("N", columns), ("THREADS", 128), ("LOG", log)]
    return run(
        kernel, [x], [x.shape], [x.dtype], (128 * rows, 1, 1), (128, 1, 1), template=template
    )[0]


@SCHEDULES
@pytest.mark.parametrize("log", [False, True])
def test_softmax_of_a_transposed_array(log, order):
    x = mx.random.normal((331, 3), key=mx.random.key(2)).T
    with settings(order=order):
        got = softmax(x, log)
    probabilities = mx.softmax(x, axis=-1)
    expected = mx.log(probabilities) if log else probabilities
    assert mx.allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_softmax_without_its_second_barrier():
    barrier = "threadgroup_barrier(mem_flags::mem_threadgroup);\n"
    broken = SOFTMAX.replace(f"sum = simd_sum(sum);\n{barrier}", "sum = simd_sum(sum);\n")
    assert broken != SOFTMAX
    with pytest.raises(KernelCheckError) as caught:
        softmax(mx.zeros((2, 200)), False, broken)
    assert {(str(f.kind), f.buffer) for f in caught.value.findings} == {("race", "partial")}


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9])
def test_inputs_of_every_small_size(size):
    kernel = metal_kernel(
        "small",
        ["x", "scale", "offset"],
        ["y"],
        "uint i = thread_position_in_grid.x;"
        "y[i] = i < uint(x_shape[0]) ? x[i] * scale + offset[0] : T(x_ndim);",
    )
    x = mx.arange(size, dtype=mx.float32)
    (y,) = run(
        kernel,
        [x, mx.array(2.0), mx.array([0.5])],
        [(10,)],
        [mx.float32],
        (10, 1, 1),
        (10, 1, 1),
        template=[("T", mx.float32)],
    )
    assert y.tolist() == [2 * i + 0.5 for i in range(size)] + [1.0] * (10 - size)


def test_scalar_output():
    kernel = metal_kernel("total", ["x"], ["y"], "y[0] = simd_sum(x[thread_index_in_simdgroup]);")
    source = "float s = simd_sum(x[thread_index_in_simdgroup]); if (simd_is_first()) y[0] = s;"
    x = mx.arange(32, dtype=mx.float32)
    with pytest.raises(KernelCheckError, match="race"):
        run(kernel, [x], [()], [mx.float32], (32, 1, 1), (32, 1, 1))
    kernel = metal_kernel("total", ["x"], ["y"], source)
    (y,) = run(kernel, [x], [()], [mx.float32], (32, 1, 1), (32, 1, 1))
    assert y.shape == ()
    assert y.item() == 496


BITS = """
uint i = thread_position_in_grid.x;
uint word = x[i];
uchar4 bytes = as_type<uchar4>(word);
counts[i] = popcount(word) + 100 * clz(word) + 10000 * ctz(word);
turned[i] = as_type<uint>(bytes.wzyx) ^ reverse_bits(rotate(word, 3u));
products[i] = metal::mulhi(word, 0x9E3779B9u) + extract_bits(word, 4, 8);
packed_half[i] = as_type<half2>(word & 0x3FFF3FFFu).y * 2.0h;
"""


def test_bits_and_vectors():
    words = np.random.default_rng(0).integers(1, 2**32, 50, dtype=np.uint32)
    kernel = metal_kernel("bits", ["x"], ["counts", "turned", "products", "packed_half"], BITS)
    counts, turned, products, halves = run(
        kernel,
        [mx.array(words)],
        [(50,)] * 4,
        [mx.uint32, mx.uint32, mx.uint32, mx.float16],
        (50, 1, 1),
        (32, 1, 1),
    )
    for i, word in enumerate(int(word) for word in words):
        text = f"{word:032b}"
        zeros = 32 - len(text.lstrip("0")), len(text) - len(text.rstrip("0"))
        assert counts[i].item() == text.count("1") + 100 * zeros[0] + 10000 * zeros[1]
        rotated = text[3:] + text[:3]
        assert turned[i].item() == int.from_bytes(word.to_bytes(4, "little"), "big") ^ int(
            rotated[::-1], 2
        )
        assert products[i].item() == ((word * 0x9E3779B9 >> 32) + (word >> 4 & 255)) % 2**32
    expected = (words & np.uint32(0x3FFF3FFF)).view(np.float16)[1::2] * np.float16(2)
    assert np.array_equal(np.array(halves), expected)


QUANTIZED = """
template <int bits>
struct Packed {
  static constant constexpr const uint mask = (1u << bits) - 1;
  static METAL_FUNC float get(const device uint32_t* words, int i) {
    constexpr int per_word = 32 / bits;
    return (words[i / per_word] >> (i % per_word * bits)) & mask;
  }
};
"""


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_dequantization(bits):
    kernel = metal_kernel(
        "dequantize",
        ["w", "scales", "biases"],
        ["out"],
        "uint i = thread_position_in_grid.x;"
        "out[i] = T(scales[i / GROUP] * Packed<BITS>::get(w, i) + biases[i / GROUP]);",
        header=QUANTIZED,
    )
    w = mx.random.normal((6, 128), key=mx.random.key(3))
    packed = mx.quantize(w, group_size=32, bits=bits)
    template = [("T", mx.float32), ("GROUP", 32), ("BITS", bits)]
    (out,) = run(
        kernel, packed, [w.shape], [mx.float32], (w.size, 1, 1), (64, 1, 1), template=template
    )
    assert mx.allclose(out, mx.dequantize(*packed, group_size=32, bits=bits), atol=1e-6)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("y[0] = texture_sample(x);", "texture_sample"),
        ("goto end; end: y[0] = x[0];\ny[1] = undefined_name;", r"kernel\.metal:\d+.*"),
        ("double d = x[0]; y[0] = d;", "double"),
    ],
)
def test_what_metal_does_not_have_is_an_error(source, message):
    kernel = metal_kernel("unknown", ["x"], ["y"], source)
    with pytest.raises(KernelCompileError, match=message):
        run(kernel, [mx.zeros((9,))], [(9,)], [mx.float32], (9, 1, 1), (9, 1, 1))


def test_takes_the_place_of_the_function_of_mlx(monkeypatch):
    monkeypatch.setattr(mx.fast, "metal_kernel", metal_kernel)
    kernel = mx.fast.metal_kernel(
        name="copy",
        input_names=["x"],
        output_names=["y"],
        source="y[thread_position_in_grid.x] = x[thread_position_in_grid.x];",
    )
    x = mx.arange(9)
    assert run(kernel, [x], [(9,)], [x.dtype], (9, 1, 1), (9, 1, 1))[0].tolist() == x.tolist()

"""`metal_kernel` takes what `mx.fast.metal_kernel` takes and gives what Metal would give."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_tilegemm import emulator
from mlx_tilegemm.emulator import KernelCheckError, KernelCompileError, metal_kernel
from mlx_tilegemm.errors import EmulatorError

DTYPES = (
    mx.bool_,
    mx.int8,
    mx.uint8,
    mx.int16,
    mx.uint16,
    mx.int32,
    mx.uint32,
    mx.int64,
    mx.uint64,
    mx.float16,
    mx.bfloat16,
    mx.float32,
    mx.complex64,
)


def run(kernel, inputs, shape, dtype, *, threads, group=32, **options):
    (out,) = kernel(
        inputs=inputs,
        output_shapes=[shape],
        output_dtypes=[dtype],
        grid=(threads, 1, 1),
        threadgroup=(group, 1, 1),
        **options,
    )
    return out


@pytest.fixture(scope="module")
def copier():
    return metal_kernel(
        "copier", ["x"], ["y"], "uint i = thread_position_in_grid.x; y[i] = T(x[i]);"
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_goes_in_and_out(copier, dtype):
    x = mx.array([0, 1, 1, 0, 1, 0, 0, 1, 1]).astype(dtype)
    out = run(copier, [x], x.shape, dtype, threads=9, template=[("T", dtype)])
    assert out.dtype == dtype
    assert mx.array_equal(out, x)


def test_conversion_is_that_of_mlx(copier):
    x = mx.random.normal((999,), key=mx.random.key(3)) * 300
    for dtype in (mx.float16, mx.bfloat16):
        out = run(copier, [x], x.shape, dtype, threads=999, template=[("T", dtype)])
        assert mx.array_equal(out, x.astype(dtype))


def test_scalars_and_small_inputs_are_constants():
    kernel = metal_kernel(
        "scale",
        ["x", "factor", "shift", "flag", "small"],
        ["y"],
        "uint i = thread_position_in_grid.x;y[i] = flag ? x[i] * factor + shift + small[1] : 0.0f;",
    )
    x = mx.arange(20, dtype=mx.float32)
    small = mx.array([1.0, 0.25], dtype=mx.float16)
    out = run(kernel, [x, 2.5, 3, True, small], x.shape, mx.float32, threads=20)
    assert mx.array_equal(out, x * 2.5 + 3.25)


def test_template_arguments():
    kernel = metal_kernel(
        "pick",
        ["x"],
        ["y"],
        "uint i = thread_position_in_grid.x; y[i] = NEGATE ? T(-x[i] + N) : T(x[i] + N);",
    )
    x = mx.arange(10, dtype=mx.int32)
    for negate in (False, True):
        for n in (-3, 4):
            template = [("T", mx.float16), ("N", n), ("NEGATE", negate)]
            out = run(kernel, [x], x.shape, mx.float16, threads=10, template=template)
            assert mx.array_equal(out, ((-x if negate else x) + n).astype(mx.float16))


STRIDED = """
uint i = thread_position_in_grid.x;
y[i] = x[elem_to_loc<int64_t>(i, x_shape, x_strides, x_ndim)];
"""


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x,
        lambda x: x.T,
        lambda x: x[::-1, ::2],
        lambda x: x[2:, 1:4],
        lambda x: mx.broadcast_to(x[:1], (5, 8)),
    ],
    ids=["whole", "transposed", "reversed", "slice", "broadcast"],
)
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=str)
def test_strided_inputs(view, dtype):
    kernel = metal_kernel("strided", ["x"], ["y"], STRIDED, ensure_row_contiguous=False)
    x = view(mx.arange(64, dtype=mx.float32).reshape(8, 8).astype(dtype))
    mx.eval(x)
    out = run(kernel, [x], x.shape, dtype, threads=x.size)
    assert mx.array_equal(out, x)


def test_inputs_are_made_contiguous(copier):
    x = mx.arange(64, dtype=mx.float32).reshape(8, 8).T
    out = run(copier, [x], x.shape, mx.float32, threads=64, template=[("T", mx.float32)])
    assert mx.array_equal(out, x)


def test_several_outputs_and_init_value():
    kernel = metal_kernel(
        "split",
        ["x"],
        ["even", "odd"],
        "uint i = thread_position_in_grid.x;"
        "if (i % 2 == 0) { even[i] = x[i]; } else { odd[i] = half(x[i]); }",
    )
    x = mx.arange(16, dtype=mx.float32)
    call = {
        "inputs": [x],
        "output_shapes": [(16,), (16,)],
        "output_dtypes": [mx.float32, mx.float16],
        "grid": (16, 1, 1),
        "threadgroup": (16, 1, 1),
    }
    even, odd = kernel(**call, init_value=-1.0)
    assert even.tolist()[:3] == [0, -1, 2]
    assert odd.tolist()[:3] == [-1, 1, -1]
    with pytest.raises(KernelCheckError, match="unwritten-output"):
        kernel(**call)


def test_atomic_outputs():
    kernel = metal_kernel(
        "histogram",
        ["x"],
        ["bins"],
        "uint i = thread_position_in_grid.x;"
        "atomic_fetch_add_explicit(&bins[x[i]], 1u, memory_order_relaxed);",
        atomic_outputs=True,
    )
    x = mx.random.randint(0, 7, (500,), key=mx.random.key(0))
    out = run(kernel, [x], (7,), mx.uint32, threads=500, group=64, init_value=0)
    assert out.tolist() == [int((x == value).sum()) for value in range(7)]


ATTRIBUTES = """
uint at = thread_position_in_grid.y * threads_per_grid.x + thread_position_in_grid.x;
uint s = threadgroup_position_in_grid.x + 10 * threadgroup_position_in_grid.y;
y[at * 6 + 0] = thread_index_in_threadgroup;
y[at * 6 + 1] = thread_position_in_threadgroup.x + 100 * thread_position_in_threadgroup.y;
y[at * 6 + 2] = s + 100 * threadgroups_per_grid.x + 1000 * threadgroups_per_grid.y;
y[at * 6 + 3] = threads_per_threadgroup.x + 100 * threads_per_threadgroup.y
    + 10000 * dispatch_threads_per_threadgroup.x;
y[at * 6 + 4] = thread_index_in_simdgroup + 100 * simdgroup_index_in_threadgroup
    + 10000 * simdgroups_per_threadgroup + 100000 * threads_per_simdgroup
    + 10000000 * thread_execution_width;
y[at * 6 + 5] = thread_index_in_quadgroup + 10 * quadgroup_index_in_threadgroup
    + 1000 * quadgroups_per_threadgroup + grid_size.z + grid_origin.x;
"""


def test_attributes_and_clipped_threadgroups():
    kernel = metal_kernel("attributes", [], ["y"], ATTRIBUTES)
    width, height, group_x, group_y = 21, 5, 16, 3
    (out,) = kernel(
        inputs=[],
        output_shapes=[(height, width, 6)],
        output_dtypes=[mx.uint32],
        grid=(width, height, 1),
        threadgroup=(group_x, group_y, 1),
    )
    got = np.array(out)
    for row in range(height):
        for column in range(width):
            group = (column // group_x, row // group_y)
            size = (min(group_x, width - 16 * group[0]), min(group_y, height - 3 * group[1]))
            inside = (column % group_x, row % group_y)
            index = inside[0] + size[0] * inside[1]
            threads = size[0] * size[1]
            assert got[row, column].tolist() == [
                index,
                inside[0] + 100 * inside[1],
                group[0] + 10 * group[1] + 200 + 2000,
                size[0] + 100 * size[1] + 10000 * group_x,
                index % 32 + 100 * (index // 32) + 10000 * -(-threads // 32) + 323200000,
                index % 4 + 10 * (index // 4) + 1000 * -(-threads // 4) + 1,
            ]


def test_threadgroup_is_no_larger_than_the_grid():
    kernel = metal_kernel(
        "sizes", [], ["y"], "y[thread_position_in_grid.x] = threads_per_threadgroup.x;"
    )
    assert run(kernel, [], (5,), mx.uint32, threads=5, group=256).tolist() == [5] * 5


def test_empty_grid():
    kernel = metal_kernel("nothing", ["x"], ["y"], "y[thread_position_in_grid.x] = x[0];")
    out = run(kernel, [mx.zeros((0,))], (0,), mx.float32, threads=0)
    assert out.shape == (0,)


def test_header_functions_and_threadgroup_memory():
    kernel = metal_kernel(
        "rows",
        ["x"],
        ["y"],
        """
        threadgroup float partial[4];
        uint row = threadgroup_position_in_grid.x;
        float sum = simd_sum(twice(x[row * 128 + thread_index_in_threadgroup]));
        if (thread_index_in_simdgroup == 0) {
          partial[simdgroup_index_in_threadgroup] = sum;
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        if (thread_index_in_threadgroup == 0) {
          y[row] = partial[0] + partial[1] + partial[2] + partial[3];
        }
        """,
        header="template <typename T> METAL_FUNC float twice(T v) { return 2.0f * float(v); }\n",
    )
    x = mx.random.normal((3, 128), key=mx.random.key(1))
    out = run(kernel, [x], (3,), mx.float32, threads=384, group=128)
    assert mx.allclose(out, 2 * x.sum(axis=1), rtol=1e-5, atol=1e-5)
    assert kernel.last_counters is not None
    assert kernel.last_counters.threadgroups == 3
    assert kernel.last_counters.threadgroup_barriers == 3
    assert kernel.last_counters.loaded["x"] == 3 * 128 * 4
    assert kernel.last_counters.stored["y"] == 3 * 4


def test_mlx_refuses_wrong_calls(copier):
    x = mx.zeros((9,))
    with pytest.raises(ValueError, match="Expected `inputs` to have size 1"):
        run(copier, [], (9,), mx.float32, threads=9, template=[("T", mx.float32)])
    with pytest.raises(ValueError, match="at least one output"):
        metal_kernel("none", ["x"], [], "")
    with pytest.raises(TypeError):
        copier(
            inputs=[x],
            output_shapes=[(9,)],
            output_dtypes=[mx.float32],
            grid=(9, 1),
            threadgroup=(9, 1, 1),
        )


def test_compile_error_names_the_line():
    kernel = metal_kernel(
        "broken", ["x"], ["y"], "\nuint i = thread_position_in_grid.x;\ny[i] = x[i] + z;\n"
    )
    with pytest.raises(KernelCompileError, match=r"kernel\.metal:\d+:\d+: error: .*z"):
        run(kernel, [mx.zeros((9,))], (9,), mx.float32, threads=9)


def test_line_directives_name_the_template():
    kernel = metal_kernel(
        "named",
        ["x"],
        ["y"],
        '#line 40 "my/kernel.j2"\ny[0] = 1.0f;\ny[thread_position_in_grid.x] = x[9];\n',
    )
    with pytest.raises(KernelCheckError) as caught:
        run(kernel, [mx.zeros((9,))], (9,), mx.float32, threads=9)
    kinds = {(f.file, f.line, str(f.kind)) for f in caught.value.findings}
    assert ("my/kernel.j2", 41, "out-of-bounds") in kinds
    lines = {f.source_line for f in caught.value.findings if f.line == 41}
    assert lines == {"y[thread_position_in_grid.x] = x[9];"}


def test_checks_can_be_off():
    source = "y[thread_position_in_grid.x] = x[thread_position_in_grid.x + 1];"
    x = mx.zeros((8,))
    with pytest.raises(KernelCheckError):
        run(metal_kernel("off", ["x"], ["y"], source), [x], (8,), mx.float32, threads=8)
    unchecked = metal_kernel("off", ["x"], ["y"], source, checks="off")
    assert run(unchecked, [x], (8,), mx.float32, threads=8).shape == (8,)
    with emulator.settings(checks="off"):
        plain = metal_kernel("off", ["x"], ["y"], source)
        assert run(plain, [x], (8,), mx.float32, threads=8).shape == (8,)


def test_misaligned_buffers():
    source = """
    uint i = thread_position_in_grid.x;
    threadgroup float4 tile[8];
    tile[i] = *reinterpret_cast<const device float4*>(x + 4 * i);
    y[i] = tile[i].x + tile[i].y + tile[i].z + tile[i].w;
    """
    kernel = metal_kernel("vectors", ["x"], ["y"], source)
    x = mx.arange(32, dtype=mx.float32)
    out = run(kernel, [x], (8,), mx.float32, threads=8)
    assert mx.array_equal(out, x.reshape(8, 4).sum(axis=1))
    with emulator.settings(misalign=True), pytest.raises(KernelCheckError, match="misaligned"):
        run(kernel, [x], (8,), mx.float32, threads=8)


def plain_copy():
    source = "uint i = thread_position_in_grid.x; y[i] = x[i];"
    return metal_kernel("copy", ["x"], ["y"], source)


def test_threadgroups_without_threads():
    with pytest.raises(ValueError, match=r"threads in the threadgroup, got \(0, 1, 1\)"):
        run(plain_copy(), [mx.zeros((9,))], (9,), mx.float32, threads=9, group=0)


def test_an_empty_grid_writes_no_outputs():
    with pytest.raises(KernelCheckError, match="9 elements of 'y': the grid is empty"):
        run(plain_copy(), [mx.zeros((9,))], (9,), mx.float32, threads=0)


def test_derivatives_are_not_silently_zero():
    def loss(x):
        return run(plain_copy(), [x], (9,), mx.float32, threads=9).sum()

    with pytest.raises(ValueError, match="Not implemented for CustomKernel"):
        mx.grad(loss)(mx.zeros((9,)))
    for transform in (mx.compile, mx.vmap):
        with pytest.raises(EmulatorError, match=r"mx.compile or mx.vmap"):
            transform(loss)(mx.zeros((2, 9)))


def test_the_default_stream_will_do():
    x = mx.arange(9, dtype=mx.float32)
    stream = mx.default_stream(mx.default_device())
    assert run(plain_copy(), [x], (9,), mx.float32, threads=9, stream=stream).tolist() == x.tolist()
    with pytest.raises(ValueError, match="Only supports the GPU"):
        run(plain_copy(), [x], (9,), mx.float32, threads=9, stream=mx.cpu)


def test_template_must_be_a_list_of_pairs(copier):
    with pytest.raises(TypeError, match="incompatible function arguments"):
        copier(
            inputs=[mx.zeros((9,))],
            template={"T": mx.float32},
            output_shapes=[(9,)],
            output_dtypes=[mx.float32],
            grid=(9, 1, 1),
            threadgroup=(9, 1, 1),
        )

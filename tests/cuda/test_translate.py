"""The translation of Metal into CUDA C++; NVRTC compiles it where its wheel is installed."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from cuda_cases import PRODUCT, SIMD_CASES
from fake_cuda import FakeCuda
from header_sources import int_library, real_library, swizzle_library

import mlx_tilegemm as tg
from mlx_tilegemm.core.render import TEMPLATES
from mlx_tilegemm.cuda import CudaKernel, Settings, compiler, metal_kernel, settings
from mlx_tilegemm.cuda import kernel as kernels
from mlx_tilegemm.cuda import translate as translation
from mlx_tilegemm.cuda.translate import Geometry, Numbers, Order, translate
from mlx_tilegemm.errors import KernelCompileError, ProblemError

LACKING = compiler.missing()
needs_nvrtc = pytest.mark.skipif(LACKING is not None, reason=LACKING or "")

TEXT = """
[[kernel]] void custom_kernel_k(
  const device float* x [[buffer(0)]],
  device float* y [[buffer(1)]],
  uint3 thread_position_in_grid [[thread_position_in_grid]]) {
  threadgroup half rows[2][33], one;
  float v = 1.5 * x[thread_position_in_grid.x];
  y[thread_position_in_grid.x] = v;
}
"""
WHOLE = Geometry(threadgroup=(64, 1, 1), whole=True)

_FOUR_RUNS = """
struct Run {
  ELEMENT at[16 / sizeof(ELEMENT)];
};
[[kernel]] void custom_kernel_k(
  const device ELEMENT* x [[buffer(0)]],
  device float* y [[buffer(1)]],
  uint3 thread_position_in_threadgroup [[thread_position_in_threadgroup]]) {
  const uint lane = thread_position_in_threadgroup.x;
  PLACE
  float sum = 0.0f;
  for (int j = 0; j < 4; ++j) {
    const Run run = *reinterpret_cast<const SPACE Run*>(from + j * 256 + lane);
    for (uint i = 0; i < 16 / sizeof(ELEMENT); ++i) {
      sum += float(run.at[i]);
    }
  }
  y[lane] = sum;
}
"""
NEIGHBOURS = {
    "device": _FOUR_RUNS.replace("SPACE", "device").replace(
        "PLACE", "const device ELEMENT* from = x;"
    ),
    "threadgroup": _FOUR_RUNS.replace("SPACE", "threadgroup").replace(
        "PLACE",
        "threadgroup ELEMENT from[1200];\n  for (uint i = 0; i < 1200; i += 64) {\n"
        "    from[i + lane] = x[i + lane];\n  }\n"
        "  threadgroup_barrier(mem_flags::mem_threadgroup);",
    ),
}


@pytest.fixture
def cuda(monkeypatch):
    return FakeCuda(monkeypatch)


def launch(kernel, *, grid, group, shape=(8,), inputs=(), **options):
    return kernel(
        inputs=list(inputs),
        output_shapes=[shape],
        output_dtypes=[mx.float32],
        grid=grid,
        threadgroup=group,
        **options,
    )


class TestTranslate:
    def test_the_function_takes_the_buffers_in_order(self):
        made = translate(TEXT, WHOLE)
        assert made.name == "msl_custom_kernel_k"
        signature = made.code.partition("__launch_bounds__")[2].partition("{")[0]
        assert signature == "(64) msl_custom_kernel_k(void* msl_buffer_0, void* msl_buffer_1) "

    def test_lines_keep_their_numbers(self):
        lines = translate(TEXT, WHOLE).code.splitlines()
        first = lines.index('#line 1 "kernel.metal"') + 1
        of_text = TEXT.splitlines()
        at = next(i for i, line in enumerate(of_text) if "1.5 * x" in line)
        assert "float v = 1.5f * " in lines[first + at]

    def test_threadgroup_memory_is_declared_by_name(self):
        code = translate(TEXT, WHOLE).code
        assert "typedef half msl_rt_type_0[2][33]; MSL_RT_THREADGROUP(msl_rt_type_0, rows" in code
        assert "MSL_RT_THREADGROUP(msl_rt_type_1, one" in code

    def test_a_grid_that_ends_inside_of_a_threadgroup_is_an_argument(self):
        trimmed = translate(TEXT, Geometry(threadgroup=(64, 1, 1), whole=False))
        assert "int msl_grid_x" in trimmed.code
        assert "-DMSL_RT_LANES_END" in trimmed.options
        assert "int msl_grid_x" not in translate(TEXT, WHOLE).code

    @pytest.mark.parametrize(
        "pragma", ["clang fp contract(off)", "METAL fp contract( off )", "STDC FP_CONTRACT OFF"]
    )
    def test_nothing_is_contracted_where_a_text_says_so(self, pragma):
        assert "--fmad=true" in translate(TEXT, WHOLE).options
        on = TEXT.replace("  float v", "#pragma clang fp contract(on)\n  float v")
        assert "--fmad=true" in translate(on, WHOLE).options
        off = TEXT.replace("  float v", f"#pragma {pragma}\n  float v")
        assert "--fmad=false" in translate(off, WHOLE).options

    def test_lanes_are_renumbered_for_matrices_alone(self):
        assert "-DMSL_RT_FRAGMENTS" not in translate(TEXT, WHOLE).options
        with_matrix = TEXT.replace("float v", "simdgroup_float8x8 m; float v")
        assert "-DMSL_RT_FRAGMENTS" in translate(with_matrix, WHOLE).options

    def test_matrices_take_whole_simdgroups(self):
        with_matrix = TEXT.replace("float v", "simdgroup_float8x8 m; float v")
        with pytest.raises(KernelCompileError, match=r"whole simdgroups .* of 40 threads"):
            translate(with_matrix, Geometry(threadgroup=(40, 1, 1), whole=True))

    def test_lanes_that_may_end_are_told(self):
        assert "-DMSL_RT_LANES_END" not in translate(TEXT, WHOLE).options
        ending = TEXT.replace("float v", "if (x[0] > 3.0f) return; float v")
        assert "-DMSL_RT_LANES_END" in translate(ending, WHOLE).options

    def test_hints_to_unroll_are_respelled(self):
        hinted = TEXT.replace(
            "  float v", '  _Pragma("clang loop unroll_count(8)") for (;false;) {}\n  float v'
        )
        assert '_Pragma("unroll 8") for' in translate(hinted, WHOLE).code

    def test_exact_arithmetic_is_not_contracted(self):
        assert translate(TEXT, WHOLE).options[-1] == "--fmad=true"
        exact = translate(TEXT, WHOLE, exact=True).options
        assert exact[-2:] == ("-DMSL_RT_EXACT", "--fmad=false")

    def test_structs_in_memory_move_as_vectors(self):
        moving = TEXT.replace(
            "  float v",
            "  const Run run = *reinterpret_cast<const device Run*>(x + f(y));\n"
            "  *reinterpret_cast<threadgroup Run*>(rows + 1) = run;\n  float v",
        )
        code = translate(moving, WHOLE).code
        assert "run = msl_rt::loaded(reinterpret_cast<const device Run*>(x + f(y)));" in code
        assert "msl_rt::store(reinterpret_cast<threadgroup Run*>(rows + 1), run);" in code

    def test_products_are_no_reads(self):
        product = TEXT.replace("1.5 * x", "1.5 *reinterpret_cast<const device float*>(x)[0] * x")
        assert "loaded" not in translate(product, WHOLE).code

    def test_tiles_of_fragments_are_those_of_the_executor(self):
        helpers = (TEMPLATES / "lib" / "fragment.metal.j2").read_text(encoding="utf-8")
        text = helpers.partition("#}")[2] + TEXT
        fast, exact = translate(text, WHOLE), translate(text, WHOLE, exact=True)
        assert "-DMSL_RT_TILES" in fast.options
        assert "void tile_mma(" not in fast.code
        assert "-DMSL_RT_TILES" not in exact.options
        assert "void tile_mma(" in exact.code
        assert exact.code.count("\n") == fast.code.count("\n")

    def test_elements_that_were_narrow_keep_their_type(self):
        helpers = (TEMPLATES / "lib" / "fragment.metal.j2").read_text(encoding="utf-8")
        filled = """
          set_elements(
              tile.at[0][j], float2(float(run.at[d]), float(next.at[d])));
          for (int e = 0; e < 2; ++e) { pair[e] = float(row[element]); }
          set_elements(tile, pair);
          set_elements(tile, other);
          float v"""
        text = helpers.partition("#}")[2] + TEXT.replace("float v", filled)
        fast, exact = (translate(text, WHOLE, exact=one).code for one in (False, True))
        assert fast.count("set_widened(") == 2
        assert re.search(r"set_widened\(.*run\.at, d\), .*next\.at, d\)\);", fast)
        assert "set_widened(tile, pair, row);" in fast
        assert "set_elements(tile, other);" in fast
        assert "set_widened(" not in exact
        assert exact.count("\n") == fast.count("\n")

    def test_numbers_in_the_place_of_a_buffer_are_arguments(self):
        geometry = replace(WHOLE, numbers=Numbers(buffer=0, count=2))
        code = translate(TEXT.replace("device float* x", "device int* x"), geometry).code
        assert "(void* msl_buffer_1, int msl_number_0, int msl_number_1)" in code
        assert "int msl_buffer_0[] = {msl_number_0, msl_number_1};" in code

    @needs_nvrtc
    @pytest.mark.parametrize("mask", [None, "causal"])
    def test_blocks_of_causal_masks_come_longest_first(self, cuda, mask):
        """In all heads: else a GPU waits in the end for a long block of the last one."""
        q = mx.zeros((1, 3, 100, 64), mx.float16)
        with tg.use_backend("cuda"), tg.use_kernel("attention_chain/64x32-staged-tall"):
            mx.eval(tg.attention_chain(q, q, q, mask=mask))
        (sent,) = cuda.launches
        assert sent["grid"] == ((768, 1, 1) if mask else (256, 3, 1))
        assert sent["scalars"][-3:] == ((256, 3, 1) if mask else sent["scalars"][-3:])
        geometry = WHOLE.for_text("constant constexpr bool CAUSAL = true;")
        assert geometry.order is Order.LAUNCHED

    def test_other_tiles_are_left_alone(self):
        other = "void tile_mma(int a) {}\n" + TEXT
        assert "-DMSL_RT_TILES" not in translate(other, WHOLE).options
        assert "void tile_mma(int a) {}" in translate(other, WHOLE).code

    @pytest.mark.parametrize(
        ("head", "message"),
        [("#if 1\n#endif\n", "without #if"), ("namespace metal { int f(); }\n", "namespace metal")],
    )
    def test_what_it_does_not_know_is_refused(self, head, message):
        with pytest.raises(KernelCompileError, match=message):
            translate(head + TEXT, WHOLE)


def test_unused_variables_are_left_out_of_ptx():
    ptx = (
        ".global .align 4 .u32 _unused = 1;\n.global .align 1 .b8 _table[2] = {1, 2};\n"
        ".const .align 4 .b8 gone[8];\n.visible .entry k() { ld.global.u8 %r1, [_table]; }\n"
    )
    lines = ptx.splitlines(keepends=True)
    assert compiler.without_unused(ptx) == lines[1] + lines[3]


def test_settings_nest():
    with settings(exact=True):
        with settings(line_info=True):
            assert tg.cuda.current_settings() == Settings(exact=True, line_info=True)
        assert tg.cuda.current_settings() == Settings(exact=True)
    assert tg.cuda.current_settings() == Settings()


@needs_nvrtc
class TestLaunch:
    SOURCE = "y[thread_position_in_grid.x] = x[0] + float(x_shape[0] + x_ndim);"

    def test_shapes_follow_their_inputs(self, cuda):
        kernel = metal_kernel("shaped", ["x", "z"], ["y"], self.SOURCE)
        launch(kernel, grid=(8, 1, 1), group=(8, 1, 1), inputs=[mx.zeros((5, 3)), 2.0])
        sent = cuda.launches[0]["inputs"]
        assert [one.tolist() for one in sent[1:]] == [[5, 3], [2], 2.0]
        assert cuda.launches[0]["ensure_row_contiguous"]

    def test_calls_of_one_form_share_a_kernel(self, cuda):
        kernel = metal_kernel("shaped", ["x", "z"], ["y"], self.SOURCE)
        for shape in ((5, 3), (2, 9), (7,)):
            launch(kernel, grid=(8, 1, 1), group=(8, 1, 1), inputs=[mx.zeros(shape), 2.0])
        codes = {one["compiled_source"] for one in cuda.launches}
        assert len(codes) == 1

    @pytest.mark.parametrize("packs", [False, True])
    def test_code_is_packed_where_that_can_be(self, cuda, monkeypatch, packs):
        def packed(fatbin: object, cubin: bytes, machine: str) -> bytes:
            return b"%s of sm_%s" % (cubin[1:4], machine.encode())

        monkeypatch.setattr(kernels, "packer", lambda: "nvFatbin" if packs else None)
        monkeypatch.setattr(kernels, "packed", packed)
        one = metal_kernel(f"packed_{packs}", [], ["y"], "y[thread_position_in_grid.x] = 1.0f;")
        launch(one, grid=(8, 1, 1), group=(8, 1, 1), inputs=[])
        code = cuda.launches[0]["compiled_source"]
        assert code == b"ELF of sm_90" if packs else code.startswith(b"\x7fELF")

    def test_more_threadgroups_than_cuda_takes_are_counted_in_x(self, cuda):
        kernel = metal_kernel("deep", [], ["y"], "y[thread_position_in_grid.z] = 1.0f;")
        launch(kernel, grid=(2, 3, 70_000), group=(2, 1, 1))
        (sent,) = cuda.launches
        assert sent["grid"] == (2 * 3 * 70_000, 1, 1)
        assert sent["scalars"] == (2, 3, 70_000)

    def test_threadgroups_are_no_larger_than_the_grid(self, cuda):
        kernel = metal_kernel("small", [], ["y"], "y[thread_position_in_grid.x] = 1.0f;")
        launch(kernel, grid=(8, 1, 1), group=(256, 1, 1))
        assert cuda.launches[0]["threadgroup"] == (8, 1, 1)
        assert cuda.launches[0]["scalars"] == ()

    def test_a_call_that_names_no_stream_is_of_the_gpu(self, cuda):
        kernel = metal_kernel("small", [], ["y"], "y[thread_position_in_grid.x] = 1.0f;")
        launch(kernel, grid=(8, 1, 1), group=(8, 1, 1))
        stream = mx.default_stream(mx.cpu)
        launch(kernel, grid=(8, 1, 1), group=(8, 1, 1), stream=stream)
        assert [one["stream"] for one in cuda.launches] == [mx.gpu, stream]

    def test_an_empty_grid_launches_nothing(self, cuda):
        kernel = metal_kernel("small", [], ["y"], "y[thread_position_in_grid.x] = 1.0f;")
        (y,) = launch(kernel, grid=(0, 1, 1), group=(8, 1, 1), init_value=3)
        assert y.tolist() == [3.0] * 8
        assert cuda.launches == []

    def test_launches_that_cannot_be_are_refused(self, cuda):
        kernel = metal_kernel("small", [], ["y"], "y[thread_position_in_grid.x] = 1.0f;")
        with pytest.raises(ProblemError, match="three sizes in threadgroup, got"):
            launch(kernel, grid=(8, 1, 1), group=(0, 1, 1))
        with pytest.raises(ProblemError, match=r"Thread group size \(2048\)"):
            launch(kernel, grid=(4096, 1, 1), group=(2048, 1, 1))

    def test_calls_are_traced(self, cuda):
        kernel = metal_kernel("traced", ["x"], ["y"], "y[thread_position_in_grid.x] = x[0];")
        function = mx.compile(
            lambda x: launch(kernel, grid=(8, 1, 1), group=(8, 1, 1), inputs=[x])[0] + 1
        )
        for _ in range(3):
            assert function(mx.zeros((4,))).tolist() == [1.0] * 8
        assert len(cuda.launches) == 1

    def test_a_bound_kernel_is_found_out_once(self, cuda, monkeypatch):
        kernel = metal_kernel("bound", ["x"], ["y"], "y[thread_position_in_grid.x] = x[0];")
        bound, x = kernel.bound(), mx.zeros((4,))
        launch(kernel, grid=(8, 1, 1), group=(8, 1, 1), inputs=[x])
        launch(bound, grid=(8, 1, 1), group=(8, 1, 1), inputs=[x])
        monkeypatch.setattr(CudaKernel, "_prepare", lambda *_: pytest.fail("it is found out"))
        stream = mx.default_stream(mx.cpu)
        (y,) = launch(bound, grid=(8, 1, 1), group=(8, 1, 1), inputs=[x], stream=stream)
        assert y.tolist() == [0.0] * 8
        assert [one.pop("stream") for one in cuda.launches] == [mx.gpu, mx.gpu, stream]
        plain, *rest = [(one.pop("inputs")[0] is x, one) for one in cuda.launches]
        assert plain[0]
        assert rest == [plain] * 2

    def test_a_bound_kernel_follows_the_settings(self, cuda):
        body = f"typedef half T; threadgroup T a[64], b[64], c[64]; {PRODUCT} y[0] = x[0];"
        bound = metal_kernel("exactly", ["x"], ["y"], body).bound()
        for exact in (False, True, False):
            with settings(exact=exact):
                launch(bound, grid=(32, 1, 1), group=(32, 1, 1), inputs=[mx.zeros((4,))])
        codes = [one["compiled_source"] for one in cuda.launches]
        assert codes[0] == codes[2] != codes[1]

    def test_a_bound_kernel_passes_shapes_or_launches_nothing(self, cuda):
        shaped = metal_kernel("shaped", ["x"], ["y"], "y[0] = x_shape[0];").bound()
        launch(shaped, grid=(8, 1, 1), group=(8, 1, 1), inputs=[mx.zeros((5, 3))])
        assert [one.tolist() for one in cuda.launches[0]["inputs"][1:]] == [[5, 3]]
        empty = metal_kernel("shaped", ["x"], ["y"], "y[0] = x_shape[0];").bound()
        x = mx.zeros((5, 3))
        (y,) = launch(empty, grid=(0, 1, 1), group=(8, 1, 1), inputs=[x], stream=mx.cpu)
        assert y.tolist() == [0.0] * 8
        assert len(cuda.launches) == 1

    def test_sizes_of_a_bound_kernel_are_arguments(self, cuda):
        body = "y[thread_position_in_grid.x] = float(sizes[1]);"
        bound = metal_kernel("sized", ["x", "sizes"], ["y"], body).bound((3, -4))
        x = mx.zeros((4,))
        launch(bound, grid=(8, 1, 1), group=(8, 1, 1), inputs=[x])
        (sent,) = cuda.launches
        assert (sent["inputs"][0] is x, len(sent["inputs"]), sent["scalars"]) == (True, 1, (3, -4))
        empty = metal_kernel("sized", ["x", "sizes"], ["y"], body).bound((3, -4))
        (y,) = launch(empty, grid=(0, 1, 1), group=(8, 1, 1), inputs=[x], stream=mx.cpu)
        assert y.tolist() == [0.0] * 8

    def test_an_op_is_one_launch(self, cuda):
        a, b = mx.zeros((32, 64), mx.float16), mx.zeros((64, 48), mx.bfloat16)
        with tg.use_backend("cuda"), tg.use_kernel("gemm_simdgroup"):
            y = tg.matmul(a, b)
        assert np.array(y).shape == (32, 48)
        assert len(cuda.launches) == 1

    @pytest.mark.slow
    @pytest.mark.parametrize("kernel", ["attention_chain", "attention_decode"])
    def test_attention_is_translated(self, cuda, kernel):
        q, k, v = (
            mx.zeros((1, heads, rows, 64), dtype)
            for heads, rows, dtype in (
                (4, 1, mx.float16),
                (2, 64, mx.bfloat16),
                (2, 64, mx.bfloat16),
            )
        )
        with tg.use_backend("cuda"), tg.use_kernel(kernel):
            y = tg.attention_chain(q, k, v)
        assert np.array(y.astype(mx.float32)).shape == (1, 4, 1, 64)
        assert cuda.launches


@needs_nvrtc
class TestCompile:
    @pytest.mark.slow
    @pytest.mark.parametrize("library", [real_library, int_library, swizzle_library])
    def test_the_library_is_that_of_the_emulator(self, library):
        """Each function of it that the emulator's tests hold against NumPy is known here too."""
        text = library().replace('extern "C" ', "").partition("using namespace metal;\n")[2]
        code = f"#include <executor/prelude.h>\nMSL_TEXT_BEGIN\n{text}\nMSL_TEXT_END\n"
        assert compiler.compile_code(code, "90", ())[:4] == b"\x7fELF"

    @pytest.mark.parametrize("space", ["device", "threadgroup"])
    @pytest.mark.parametrize("element", ["half", "uchar", "uint"])
    def test_loads_of_neighbours_do_not_wait_for_each_other(self, space, element):
        """A branch over one load becomes a condition of it; one over more is waited for."""
        made = translate(NEIGHBOURS[space].replace("ELEMENT", element), WHOLE)
        options = ("--gpu-architecture=compute_90", *made.options)
        ptx = compiler._compile(made.code, options, "PTX").decode()
        over = re.findall(r"@%p\d+ bra\s+(\$\w+);(.*?)\n\1:", ptx, re.DOTALL)
        assert len(over) == len(re.findall(r"\bbra\b", ptx)) == 4
        for _, skipped in over:
            lines = [line.strip() for line in skipped.splitlines() if ";" in line]
            assert [line.split()[0].split(".")[0] for line in lines if "mov" not in line] == ["ld"]

    @pytest.mark.parametrize(
        ("names", "products"),
        [
            # Two parts of q and three of the weights, sixteen numbers deep.
            (("float16", "bfloat16", "bfloat16"), {"bf16": 2 * 20 + 3 * 20}),
            (("bfloat16", "bfloat16", "bfloat16"), {"bf16": 20 + 3 * 20}),
            # TF32 is eight deep, and weights are two of it.
            (("float16", "float16", "float16"), {"f16": 20, "tf32": 2 * 40}),
            (("bfloat16", "float16", "float16"), {"tf32": 40 + 2 * 40}),
        ],
        ids=str,
    )
    def test_attention_of_sixteen_rows_multiplies_as_few_parts_as_do(
        self, cuda, monkeypatch, names, products
    ):
        made, compiled = [], kernels.compiled

        def seen(translated, *rest, **options):
            made.append(translated)
            return compiled(translated, *rest, **options)

        monkeypatch.setattr(kernels, "compiled", seen)
        # No other test has such heads, whose text would be compiled already.
        q, k, v = (mx.zeros((1, 2, 64, 80), getattr(mx, name)) for name in names)
        with tg.use_backend("cuda"), tg.use_kernel("attention_chain/64x32-staged-tall"):
            mx.eval(tg.attention_chain(q, k, v))
        options = ("--gpu-architecture=compute_90", *made[0].options)
        ptx = compiler._compile(made[0].code, options, "PTX").decode()
        found = re.findall(r"mma\.sync\.\S+\.f32\.(\w+)\.\w+\.f32", ptx)
        assert Counter(found) == products

    def test_mistakes_are_told_with_their_line(self):
        made = translate(TEXT.replace("= v;", "= vv;").replace("\n  float", "  float"), WHOLE)
        with pytest.raises(KernelCompileError, match=r'kernel.metal\(7\): error: .*"vv"'):
            compiler.compile_code(made.code, "90", made.options)

    @pytest.mark.parametrize("exact", [False, True])
    def test_products_of_matrices(self, exact):
        body = PRODUCT.replace("a + k", "x + k").replace("b + k", "x + k").replace("c, 8", "y, 8")
        text = TEXT.replace("float v", f"typedef half T; {body} float v")
        geometry = Geometry(threadgroup=(32, 1, 1), whole=True)
        made = translate(text, geometry, exact=exact)
        assert compiler.compile_code(made.code, "90", made.options)[:4] == b"\x7fELF"

    def test_code_is_small(self):
        """MLX hashes it at every call."""
        made = translate(TEXT, WHOLE)
        size = len(compiler.compile_code(made.code, "90", made.options))
        assert size < 8192 or compiler.linker() is None

    def test_packed_code_is_smaller(self):
        fatbin = pytest.importorskip("cuda.bindings.nvfatbin", reason="no bindings of nvFatbin")
        try:
            fatbin.version()
        except RuntimeError as error:
            pytest.skip(str(error))
        made = translate(TEXT, WHOLE)
        cubin = compiler.compile_code(made.code, "90", made.options)
        packed = compiler.packed(fatbin, cubin, "90")
        assert packed[:4] == (0xBA55ED50).to_bytes(4, "little")
        assert len(packed) < len(cubin) / 2

    @pytest.mark.parametrize("extra", ["", "simdgroup_float8x8 m; ", "if (x[0] < 0.0f) return; "])
    def test_simd_functions(self, extra):
        body = "; ".join(f"y[{i}] = {case.expression}" for i, case in enumerate(SIMD_CASES))
        head = f"{extra}uint lane = thread_position_in_grid.x; "
        text = TEXT.replace("  y[", f"  {head}{body};  y[")
        made = translate(text, WHOLE)
        assert compiler.compile_code(made.code, "90", made.options)[:4] == b"\x7fELF"


def test_every_header_of_the_executor_is_included():
    headers = {one.name: one.read_text() for one in compiler.OWN_INCLUDE.rglob("*.h")}
    others = "".join(one.read_text() for one in compiler.INCLUDE.rglob("*.h"))
    known = "".join(headers.values()) + others + Path(translation.__file__).read_text()
    assert len(headers) > 5
    assert [name for name in headers if f"executor/{name}" not in known] == []

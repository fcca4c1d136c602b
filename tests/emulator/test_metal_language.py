"""Text that C++ takes and Metal does not is refused, at its line, and nothing else is."""

from __future__ import annotations

import warnings

import mlx.core as mx
import numpy as np
import pytest

from mlx_tilegemm import emulator, strict
from mlx_tilegemm.emulator import KernelCompileError, Output, language, run_text


@pytest.fixture(autouse=True)
def _clang():
    try:
        strict.find_clang()
    except strict.ClangMissingError as missing:
        pytest.skip(f"Metal's language is not checked: {missing}")


def call(source="f(y + thread_position_in_grid.x);", header="", name="k", **template):
    kernel = emulator.metal_kernel(name, ["x"], ["y"], source, header=header)
    return kernel(
        inputs=[mx.ones((32,))],
        output_shapes=[(32,)],
        output_dtypes=[mx.float32],
        grid=(32, 1, 1),
        threadgroup=(32, 1, 1),
        template=list(template.items()) or None,
    )[0]


SET = "y[thread_position_in_grid.x] = x[0];\n"
HEADERS = {
    "pointer": ("void f(float* p) { *p = 2; }", "pointer p names no address space"),
    "reference": ("float f(float& p) { return p; }", "reference p names no address space"),
    "field": ("struct S { float* p; };", "pointer p names no address space"),
    "result": ("float* f(device float* p) { return p; }", "f returns float *"),
    "alias": ("typedef float* P; void f(P p) { *p = 2; }", "pointer p names no address space"),
    "const": ("float f(const float* p) { return *p; }", "pointer p names no address space"),
    "global": ("float g = 1;", "program scope variable must reside in constant"),
    "const-global": ("const float g[2] = {1, 2};", "program scope variable must reside in"),
    "constexpr-global": ("constexpr int g = 2;", "program scope variable must reside in"),
    "namespace": ("namespace a { int g; }", "program scope variable must reside in constant"),
    "member": ("struct S { static int g; };", "program scope variable must reside in constant"),
    "virtual": ("struct S { virtual void f() {} };", "virtual functions are not supported"),
    "virtual-base": ("struct A {}; struct B : virtual A {};", "B is derived"),
    "dynamic-cast": (
        "struct A {}; struct B : A {}; void f(thread B* b) { (void)dynamic_cast<thread A*>(b); }",
        "'dynamic_cast' is not supported in Metal",
    ),
    "recursion": ("int f(int n) { return n < 2 ? 1 : n * f(n - 1); }", "f can call itself"),
    "mutual": ("int g(int); int f(int n) { return g(n); } int g(int n) { return f(n); }", "f can"),
    "method": ("struct S { int f(int n) { return n ? f(n - 1) : 0; } };", "f can call itself"),
    "function-pointer": ("void f(float (*g)(float)) {}", "pointers to functions are not allowed"),
    "return": (
        "thread float* f(device float* p) { return p; }",
        "return object of type 'thread float *' with an lvalue of type 'device float *'",
    ),
}
BODIES = {
    "local": ("float v[2]; float* p = v; *p = 1;", "pointer p names no address space"),
    "cast": ("uint u = 1; float v = *(float*)&u; (void)v;", "cast to float * names no address"),
    "goto": ("if (x[0] > 2) goto end;\nend: ;", "Metal has no goto"),
    "new": ("device float* p = new float[2];", "'default new' is not supported"),
    "delete": ("thread float* p = 0; delete p;", "'default delete' is not supported"),
    "static": ("static int count = 0; ++count;", "static local variable must reside in constant"),
    "array": ("int n = x[0]; float v[n]; v[0] = 1;", "array size is not a constant expression"),
    "const-array": ("const int n = x[0] + 1; float v[n]; v[0] = 1;", "array size is not a const"),
    "initial": ("thread float* p = y; *p = 1;", "'thread float *' with an lvalue of type 'device"),
    "assigned": (
        "threadgroup float t[4]; device float* p = y; p = t;",
        "assigning to 'device float *' from incompatible type 'threadgroup float[4]'",
    ),
    "bound": ("thread float& v = y[0]; v = 1;", "binding reference of type 'thread float'"),
    "converted": ("auto p = (threadgroup float*)y; *p = 1;", "between mismatching address spaces"),
    "aliased": (
        "auto p = (threadgroup float4*)(device int32_t*)y; (void)p;",
        "'device int32_t *' (aka 'device int *') to 'threadgroup float4 *'",
    ),
    "compared": (
        "threadgroup float t[4]; t[0] = 1; if (y == t) { return; }",
        "comparison of distinct pointer types ('device float *' and 'threadgroup float *')",
    ),
}


def refused(**arguments):
    with pytest.raises(KernelCompileError, match="is not Metal") as error:
        call(**arguments)
    return error.value


@pytest.mark.parametrize("name", HEADERS)
def test_what_metal_does_not_take_in_a_header(name):
    header, message = HEADERS[name]
    error = refused(source=SET, header=f'\n#line 7 "mine.metal"\n{header}\n')
    finding = next(one for one in error.findings if message in one.message)
    assert (finding.file, finding.line) == ("mine.metal", 7)
    assert f"mine.metal:7:{finding.column}: [{finding.rule}] {finding.message}" in str(error)
    assert f"\n      {header}\n" in f"{error}\n"
    assert "__" not in str(error)


@pytest.mark.parametrize("name", BODIES)
def test_what_metal_does_not_take_in_a_body(name):
    body, message = BODIES[name]
    error = refused(source=f'#line 3 "mine.metal"\n{body}\n{SET}')
    assert any(message in finding.message for finding in error.findings)
    assert {(finding.file, finding.line) for finding in error.findings} == {("mine.metal", 3)}


ARGUMENTS = {
    "function": "void f(thread float* p) { *p = 2; }",
    "template": "template <typename T> void f(thread T* p) { *p = 2; }",
    "overloads": """void f(thread float* p) { *p = 2; }
        void f(thread float* p, int n) { p[n] = 2; }""",
    "class": "struct f { thread float* p; f(thread float* p) : p(p) { *p = 2; } };",
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_pointer_to_another_address_space(name):
    (finding,) = refused(header=ARGUMENTS[name] + "\n").findings
    assert finding.message.startswith("no matching")
    assert any("'device" in note and "'thread" in note for note in finding.notes)


def test_kernels_with_template_arguments_are_checked():
    header = "template <typename T> void f(threadgroup T* p) { *p = 2; }\n"
    (finding,) = refused(source="f(y + N);", header=header, T=mx.float32, N=3).findings
    assert "'device float *'" in finding.notes[0]


TAKEN = {
    "spaces": "void f(device float* p) { *p = 2; }",
    "template": "template <typename P> void f(P p) { *p = 2; }",
    # As MLX's quantized kernels do.
    "reference": """void g(device float*& p) { p += 1; }
        void f(device float* p) { device float* q = p; g(q); p = q - 1; *p = 2; }""",
    "constant": "constant float g[2] = {1, 2};\nvoid f(device float* p) { *p = g[1]; }",
    "static": """struct S { static constant constexpr int n = 2; };
        void f(device float* p) { thread float v[S::n]; v[1] = 2; *p = v[1]; }""",
    # C++ for OpenCL has none of this.
    "unknown": "void f(device float* p) { float v = 2; *p = metal::precise::erf_of_mine(v); }",
    "instances": """template <int N>
        struct S { static float f(float v) { return S<N - 1>::f(v) + 1; } };
        template <> struct S<0> { static float f(float v) { return v; } };
        float g(float v) { return v; }
        float g(int v) { return g(float(v)); }
        void f(device float* p) { *p = S<1>::f(g(1)); }""",
    "function": """float twice(float v) { return 2 * v; }
        template <typename F> float apply(F f, float v) { return f(v); }
        struct Twice { float operator()(float v) const { return twice(v); } };
        void f(device float* p) { *p = apply(Twice(), 1); }""",
    "virtual": """#if 0
        struct S { virtual void f(); };
        #endif
        void f(device float* p) { *p = 2; }""",
    "comment": "// goto new float* p\nvoid f(device float* p) { *p = 2; }",
}
TAKEN["unknown"] = (
    "namespace metal { namespace precise { float erf_of_mine(float v) { return v; } } }\n"
    + TAKEN["unknown"]
)


@pytest.mark.parametrize("name", TAKEN)
def test_what_metal_takes(name):
    assert call(header=TAKEN[name] + "\n").tolist() == [2] * 32


def test_a_line_that_clang_does_not_know_is_not_judged():
    text = "strange thing = 1; float g = 1;\nfloat h = 1;\n"
    findings = [one for one in strict.check(text).findings if one.certain]
    assert [(one.line, one.message.split()[0]) for one in findings] == [(2, "program")]


def test_settings_let_it_pass():
    header = "void f(float* p) { *p = 2; }\n"
    for options in ({"language": False}, {"checks": "off"}):
        with emulator.settings(**options):
            assert call(header=header).tolist() == [2] * 32
    refused(header=header)


def test_whole_texts_and_their_includes(tmp_path):
    (tmp_path / "lib").mkdir()
    library = tmp_path / "lib" / "twice.h"
    text = """#include <metal_stdlib>
#include "lib/twice.h"
kernel void twice(device float* x [[buffer(0)]], device float* y [[buffer(1)]],
                  uint i [[thread_position_in_grid]]) { y[i] = 2 * get(x + i); }
"""
    x = np.ones(4, np.float32)

    def run():
        return run_text(
            text,
            buffers=[x, Output(shape=(4,), dtype=np.float32)],
            grid=(4, 1, 1),
            threadgroup=(4, 1, 1),
            include_dirs=[tmp_path],
        )

    library.write_text("inline float get(float* x) { return *x; }\n")
    with pytest.raises(KernelCompileError, match=r"twice\.h:1:.*pointer x names no address space"):
        run()
    library.write_text("inline float get(device float* x) { return *x; }\n")
    assert run().outputs[1].tolist() == [2] * 4


def test_verdicts_are_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("MLX_TILEGEMM_CACHE", str(tmp_path))
    good, bad = "void f(device float*);\n", "void f(float*, float& p);\n"

    def findings(text):
        report = language.judge(text, "msl/prelude_mlx.h", ())
        assert report.checked
        return report.findings

    first = [findings(text) for text in (good, bad)]
    assert [len(found) for found in first] == [0, 2]
    monkeypatch.setattr(strict, "check", lambda *_, **__: pytest.fail("it was known"))
    assert [findings(text) for text in (good, bad)] == first


def test_what_is_not_checked_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("MLX_TILEGEMM_CACHE", str(tmp_path))
    monkeypatch.setenv("MLX_TILEGEMM_CLANG", "/nowhere/clang")
    header = "void f(float* p) { *p = 2; } // unchecked\n"
    language._warn.cache_clear()
    reason = r"Not checked: .*: /nowhere/clang cannot be run"
    with pytest.warns(emulator.UncheckedWarning, match=reason):
        assert call(header=header).tolist() == [2] * 32
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call(header=header + "\n")
    # It is no verdict: with a clang the text is refused.
    monkeypatch.delenv("MLX_TILEGEMM_CLANG")
    refused(header=header + "\n\n")
    assert not language.judge(header, "msl/prelude_mlx.h", ()).passed


@pytest.mark.parametrize("name", ["my kernel", "a-b", "größe", "a;b", "f()"])
def test_a_name_that_is_none(name):
    with pytest.raises(KernelCompileError) as error:
        call(source=SET, name=name)
    assert str(error.value) == (
        "[metal_kernel] Expected a name of ASCII letters, digits and underscores, as it becomes a "
        f"part of the kernel's, got {name!r}."
    )


@pytest.mark.parametrize("name", ["1x", "float", "_", ""])
def test_a_name_that_is_a_part_of_one(name):
    assert call(source=SET, name=name).tolist() == [1] * 32

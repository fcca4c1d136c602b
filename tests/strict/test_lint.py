"""The lint finds what it says it finds, and nothing in what the dispatcher can choose."""

from __future__ import annotations

import pytest
from rendered import covering_texts, every_text

from mlx_tilegemm.core.plan import Source
from mlx_tilegemm.strict.lint import MAX_TEXT_BYTES, lint_source, lint_text


def source(body="", header="", inputs=("a", "b"), outputs=("out",), name="probe") -> Source:
    return Source(name=name, header=header, body=body, input_names=inputs, output_names=outputs)


def rules(found) -> set[str]:
    return {one.rule for one in found}


@pytest.mark.parametrize(
    ("kernel", "rule"),
    [
        (source("uint my_grid_size_x = 1;"), "attribute-trap"),
        (source("// threads_per_grid is not needed\nout[0] = 1;"), "attribute-trap"),
        (source("int kb_shape = 1;"), "shape-trap"),
        (source("// a_strides do not matter\nout[0] = 1;"), "shape-trap"),
        (source(header="// no end of line"), "header"),
        (source(name="with-dash"), "name"),
        (source(name="1st"), "name"),
        (source(inputs=("grid_size",)), "name"),
        (source(inputs=("a", "a")), "name"),
        (source(inputs=("a",), outputs=("a",)), "name"),
        (source(inputs=tuple(f"x{i}" for i in range(31))), "buffers"),
        (source("a_shape[0];", outputs=("o", "p")), "signature"),
    ],
)
def test_traps_of_the_signature(kernel, rule):
    assert rule in rules(lint_source(kernel))


@pytest.mark.parametrize(
    "kernel",
    [
        source("uint i = thread_position_in_grid.x; out[i] = a[i];"),
        source("out[0] = float(a_shape[0]);"),
        source("a_shape[0]; thread_position_in_grid;", outputs=("o", "p")),
        source(header="// a helper that speaks of grid_size and a_shape\n"),
        source(inputs=tuple(f"x{i}" for i in range(30))),
    ],
)
def test_no_traps(kernel):
    assert lint_source(kernel) == ()


def test_long_texts():
    assert rules(lint_text("// " + "x" * MAX_TEXT_BYTES + "\n")) == {"size"}


def test_places_follow_line_directives():
    (found,) = lint_text('int x() { return 1; }\n#line 40 "two.metal"\n\n  goto end;\n')
    assert (found.file, found.line, found.column, found.rule) == ("two.metal", 41, 3, "word")


@pytest.mark.parametrize(
    "text",
    [
        "// goto, double, 1.0 and [](int x) {} in a comment\n",
        '#line 1 "goto/double.metal"\n',
        "kernel void f(device float* a) { a[a[0] > 1.0f ? 1 : 0] = 2.0f; }\n",
        "kernel void f(device float* a) { int x[2] = {1, 2}; threadgroup float* p; }\n",
        "kernel void f() { threadgroup float a[4], b[2][3]; const threadgroup float* p = a; }\n",
        "struct S { static constant constexpr const int value = 1; };\n",
        "template <typename T> constexpr constant bool is_wide = sizeof(T) > 2;\n",
        "[[kernel]] void f(device float* a [[buffer(0)]]) { a[0] = 1.0f; }\n",
    ],
)
def test_what_only_looks_refused(text):
    assert lint_text(text) == ()


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("void f() { threadgroup float a[4]; }\n", "threadgroup-scope"),
        ("kernel void f() { for (;;) { threadgroup float a; } }\n", "threadgroup-scope"),
        ("kernel void f() { { const threadgroup float a[2]; } }\n", "threadgroup-scope"),
        ("threadgroup float a[4];\n", "threadgroup-scope"),
        ("namespace n { float x; }\n", "program-scope"),
        ("static const int x = 1;\n", "program-scope"),
        ("void f() { static int x = 1; }\n", "static-local"),
        ("float x() { return 1.; }\n", "literal"),
        ("float x() { return .5; }\n", "literal"),
        ("float x() { return 0x1.8p3; }\n", "literal"),
        ("float x() { return 1.0d; }\n", "literal"),
        ("#pragma omp parallel\n", "pragma"),
        ("#include <cmath>\n", "include"),
        ("void f() { g([](int x) { return x; }); }\n", "lambda"),
        ("int main_\u00fc();\n", "ascii"),
        ("int f() { return 1;\t}\r\n", "ascii"),
    ],
)
def test_what_is_refused(text, rule):
    assert rule in rules(lint_text(text))


@pytest.mark.slow
def test_every_source_is_free_of_traps():
    for one in every_text():
        assert lint_source(one.source) == ()


@pytest.mark.slow
def test_covering_texts_are_clean():
    for one in covering_texts():
        assert lint_text(one.traced.text, one.source.name) == ()


@pytest.mark.exhaustive
def test_every_text_is_clean():
    for one in every_text():
        assert lint_text(one.traced.text, one.source.name) == ()

"""The strict check on texts the dispatcher can choose, and how it reports."""

from __future__ import annotations

import shlex
import stat

import pytest
from rendered import covering_texts, every_text

from mlx_tilegemm.strict import check, check_all, find_clang
from mlx_tilegemm.strict.compile import prepare
from mlx_tilegemm.strict.toolchain import ENVIRONMENT_VARIABLE, ClangMissingError
from mlx_tilegemm.strict.vocabulary import unknown_words, vocabulary

GOOD = "kernel void f(device float* out [[buffer(0)]]) {\n  out[0] = 1.0f;\n}\n"
BAD = (
    '#line 7 "templates/bad.metal"\n'
    "kernel void f(device float* out) {\n  out[0] = half4(1.0h);\n}\n"
)


def failures(texts) -> list[str]:
    reports = check_all({one.source.name: one.traced.text for one in texts})
    unknown = [str(one) for report in reports.values() for one in unknown_words(report)]
    return [str(report) for report in reports.values() if not report.passed] + unknown


@pytest.mark.slow
def test_covering_texts_pass(clang):
    assert failures(covering_texts()) == []


@pytest.mark.exhaustive
def test_every_text_passes(clang):
    assert failures(every_text()) == []


def test_the_vocabulary_names_its_sources():
    words = vocabulary()
    assert len(words) > 250
    for word, origin in words.items():
        assert origin.header or origin.chapter, word
    assert words["simd_shuffle_xor"].header
    assert not any("nax" in origin.header for origin in words.values())


def test_a_word_from_nowhere_is_found(clang):
    text = GOOD.replace("1.0f", "simd_total(out[1])")
    assert [one.message.split()[0] for one in unknown_words(check(text))] == ["simd_total"]


def test_a_word_that_is_too_new_is_found(clang, monkeypatch):
    words = vocabulary()
    newer = type(words["half"])(header="", chapter="MSL, Scalar Data Types", since="3.2")
    monkeypatch.setitem(words, "half", newer)
    text = GOOD.replace("1.0f", "half(1.0f)")
    assert [one.message.split()[0] for one in unknown_words(check(text))] == ["half"]


def test_foreign_names_leave_out_what_a_text_declares(clang):
    text = (
        "struct S { float at; };\ntemplate <int N> float g(S s) { return s.at * N; }\n"
        "kernel void f(device float* out) { S s; s.at = 1.0f; out[0] = g<2>(s) + exp(s.at); }\n"
    )
    assert check(text).foreign == {
        "struct",
        "float",
        "template",
        "int",
        "return",
        "kernel",
        "void",
        "device",
        "exp",
    }


def test_a_finding_is_at_the_line_of_its_template(clang):
    report = check(BAD)
    assert report.checked
    assert not report.passed
    (found,) = report.findings
    assert (found.file, found.line, found.rule) == ("templates/bad.metal", 8, "compile")
    assert "templates/bad.metal:8:" in str(report)


def test_a_finding_in_a_template_instance_names_the_use(clang):
    text = (
        "template <typename T> T twice(T x) {\n  return min(x, 1.0f);\n}\n"
        "kernel void f(device half* out) {\n  out[0] = twice(out[1]);\n}\n"
    )
    (found,) = check(text, "one.metal").findings
    assert found.line == 2
    assert any(note.startswith("one.metal:5:") for note in found.notes)


def test_a_finding_inside_the_headers_is_at_the_use(clang):
    text = "kernel void f(device float* out) {\n  simdgroup_matrix<int, 8, 8> m;\n}\n"
    (found,) = check(text, "one.metal").findings
    assert (found.file, found.line) == ("one.metal", 2)


def test_a_clean_text_passes(clang):
    report = check(GOOD)
    assert report.passed
    assert "clang" in report.tool


def test_preparing_keeps_lines_and_columns():
    text = "[[kernel]] void f(device float* a [[buffer(0)]],\n uint i [[grid_size]]) { a[0]; }\n"
    prepared = prepare(text)
    assert "[[" not in prepared
    assert prepared.startswith("kernel     void f(device float* a ")
    assert len(prepared) == len(text)
    assert prepare("x = 1.0bf + .5bf;") == "x = bfloat(1.0f) + bfloat(.5f);"


def test_a_missing_clang_is_said(monkeypatch):
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "/nowhere/clang")
    report = check(BAD)
    assert not report.checked
    assert not report.passed
    assert "/nowhere/clang cannot be run" in str(report)
    with pytest.raises(ClangMissingError, match="/nowhere/clang"):
        find_clang()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("Debian clang version 14.0.6", "older than"),
        ("gcc (GCC) 12.2.0", "does not say that it is clang"),
        ("clang version 99.0.0", "does not take the strict headers"),
    ],
)
def test_an_unusable_clang_is_said(monkeypatch, tmp_path, answer, reason):
    program = tmp_path / "clang"
    program.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "{answer}" || exit 3\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(program))
    report = check(GOOD)
    assert not report.checked
    assert reason in report.tool


@pytest.mark.parametrize("prelude", [None, '#include "strict/nowhere.h"\n'])
def test_missing_headers_are_not_blamed_on_clang(tmp_path, clang, prelude):
    if prelude:
        (tmp_path / "mlx_prelude.h").write_text(prelude)
    report = check(GOOD, prelude=tmp_path / "mlx_prelude.h")
    assert not report.checked
    assert report.tool.startswith("this installation lacks strict headers: ")
    assert ("nowhere.h" if prelude else "mlx_prelude.h") in report.tool


def test_a_clang_that_crashes_is_not_a_pass(monkeypatch, tmp_path, clang):
    program = tmp_path / "clang"
    real = shlex.join(clang.command)
    program.write_text(
        f'#!/bin/sh\ncase "$*" in *ast-dump*) exit 139;; *) exec {real} "$@";; esac\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(program))
    report = check(GOOD)
    assert not report.checked
    assert "139" in report.tool

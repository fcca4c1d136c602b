"""Tokens of Metal text."""

from __future__ import annotations

import pytest

from mlx_tilegemm.msl.lexer import Kind, tokenize


@pytest.mark.parametrize("before", ["", "  ", "\t", "int a;\n", "int a;\n   ", "\n \n  "])
def test_a_directive_may_be_indented(before):
    kinds = [(one.kind, one.text.strip()) for one in tokenize(f"{before}#define X 0.5\nint b;")]
    assert (Kind.DIRECTIVE, "#define X 0.5") in kinds
    assert (Kind.NUMBER, "0.5") not in kinds


def test_a_directive_begins_a_line():
    tokens = tokenize("a # b\n")
    assert [one.kind for one in tokens] == [Kind.WORD, Kind.PUNCTUATION, Kind.WORD]


def test_a_directive_goes_on_behind_a_backslash():
    tokens = tokenize("  #define X \\\n  0.5\nint b;")
    assert [one.kind for one in tokens] == [Kind.DIRECTIVE, Kind.WORD, Kind.WORD, Kind.PUNCTUATION]


def test_comments_are_no_tokens():
    assert [one.text for one in tokenize("a /* b\n # */ c // d\n  // e\ne")] == ["a", "c", "e"]

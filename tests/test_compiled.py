"""Registers by another compiler are shown for the very text that was compiled, and no other."""

from __future__ import annotations

import re
from collections import defaultdict
from itertools import takewhile
from pathlib import Path
from statistics import mean

import mlx.core as mx
import pytest
from agx import project, report

import mlx_tilegemm as tg
from mlx_tilegemm import ArraySpec
from mlx_tilegemm.call import compiled
from mlx_tilegemm.call.compiled import Compiled, identity
from mlx_tilegemm.core.plan import REGISTER_LIMIT

REPORT = Path(__file__).parents[1] / "reports" / "registers.json"
KNOWN = Compiled(low=66, high=68, spills=False)


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.setattr(compiled, "TABLE", tmp_path / "compiled.tsv")
    compiled.save({})
    yield
    compiled._table.cache_clear()


def explained(dtype=mx.float16):
    arrays = (ArraySpec(shape=(1, 8, 128, 64), dtype=dtype) for _ in range(3))
    return tg.explain("attention_chain", *arrays, chip="m1")


def needs(explanation):
    (line,) = re.findall("needs .*", str(explanation))
    return line


def test_a_text_that_was_compiled(table):
    explanation = explained()
    compiled.save({identity(explanation.text): KNOWN})
    assert needs(explanation).endswith("a thread (estimated; 66-68 by Mesa's compiler for M1)")
    (launch,) = explanation.to_dict()["launches"]
    assert launch["registers_compiled"] == {"low": 66, "high": 68, "spills": False}
    assert explanation.compiled == (KNOWN,)


def test_a_text_that_was_not(table):
    compiled.save({identity(explained(mx.float32).text): KNOWN})
    explanation = explained()
    assert needs(explanation).endswith("registers a thread (estimated)")
    (launch,) = explanation.to_dict()["launches"]
    assert launch["registers_compiled"] is None


def test_no_entry_outlives_a_change_of_its_text():
    text = explained().text
    seen = re.sub("#line.*|//.*", "", text)
    numbers = set(re.findall(r"(?<![\w.])\d+(?![\w.])", seen))
    assert len(numbers) > 5
    changed = [re.sub(rf"(?<![\w.]){one}(?![\w.])", "77", text) for one in numbers - {"77"}]
    names = [identity(one) for one in changed]
    assert identity(text) not in names
    assert len(set(names)) == len(names)


def test_what_no_compiler_sees_does_not_count():
    text = explained().text
    commented = text.replace(";\n", "; // here\n\n    // and there\n")
    moved = re.sub(r"#line \d+", "#line 7", text)
    named = re.sub(r"(void custom_kernel_)\w+", r"\1other", text)
    assert len({commented, moved, named, text}) == 4
    assert {identity(one) for one in (commented, moved, named)} == {identity(text)}


def test_words():
    assert str(KNOWN) == "66-68 by Mesa's compiler for M1"
    wide = Compiled(low=130, high=130, spills=True)
    assert str(wide) == "130 by Mesa's compiler for M1, which spills"


@pytest.mark.slow
def test_estimates_are_near_what_was_compiled():
    errors = defaultdict(list)
    for text in takewhile(lambda one: one.usual, project.every_text("m1")):
        if found := compiled.compiled(text.metal):
            # What a thread has no registers for is spilled, which is told apart.
            held = [min(one, REGISTER_LIMIT) for one in (found.low, found.high)]
            errors[text.kernel].append(text.estimate - mean(held))
    assert sum(map(len, errors.values())) > 50
    assert {kernel: found for kernel, found in errors.items() if mean(map(abs, found)) > 4} == {}
    assert {kernel: found for kernel, found in errors.items() if min(found) < -10} == {}


def test_what_was_compiled_of_all_texts():
    errors = defaultdict(list)
    for row in report.load(REPORT).rows:
        if row.bracket:
            low, high = row.bracket.low, row.bracket.high
            assert (low.spills, high.spills) == (0, 0), row.key
            errors[row.kernel].append(row.estimate - mean((low.registers, high.registers)))
    assert len(errors) > 20
    assert {kernel for kernel, found in errors.items() if mean(map(abs, found)) > 4} == set()
    assert {kernel for kernel, found in errors.items() if min(found) < -10} == set()

"""Snippets that Metal refuses are refused, for the stated reason; snippets it takes are taken."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mlx_tilegemm.strict import Finding, check_all
from mlx_tilegemm.strict.lint import lint_text

CORPUS = Path(__file__).parent / "corpus"
REJECT = sorted((CORPUS / "reject").glob("*.metal"))
ACCEPT = sorted((CORPUS / "accept").glob("*.metal"))
EXPECTATION = re.compile(r"^// expect ([\w-]+): (.*)$", re.MULTILINE)


@pytest.fixture(scope="module")
def reports(clang):
    return check_all({str(path): path.read_text("utf-8") for path in (*REJECT, *ACCEPT)})


def found(path, reports) -> tuple[Finding, ...]:
    report = reports[str(path)]
    assert report.checked, report
    return (*report.findings, *lint_text(path.read_text("utf-8"), str(path)))


def matches(finding: Finding, rule: str, pattern: str) -> bool:
    return finding.rule == rule and re.search(pattern, finding.message) is not None


def test_the_corpora_are_there():
    assert len(REJECT) >= 150
    assert len(ACCEPT) >= 80


@pytest.mark.parametrize("path", REJECT, ids=lambda path: path.stem)
@pytest.mark.slow
def test_refused_for_the_stated_reason(path, reports):
    expectations = EXPECTATION.findall(path.read_text("utf-8"))
    findings = found(path, reports)
    assert expectations
    for rule, pattern in expectations:
        assert any(matches(one, rule, pattern) for one in findings), (rule, pattern, findings)
    for one in findings:
        assert any(matches(one, rule, pattern) for rule, pattern in expectations), one


@pytest.mark.parametrize("path", ACCEPT, ids=lambda path: path.stem)
@pytest.mark.slow
def test_taken(path, reports):
    assert found(path, reports) == ()

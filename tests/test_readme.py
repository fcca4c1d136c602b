"""What the documents show runs."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest

import mlx_tilegemm as tg
from mlx_tilegemm.cli import main

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])


def blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", document.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_python_blocks_run_in_order(document, capsys):
    namespace: dict[str, object] = {}
    with tg.use_backend("auto"):
        for block in blocks(document, "python"):
            exec(compile(block, str(document), "exec"), namespace)


def commands() -> list[str]:
    return [
        line
        for document in DOCUMENTS
        for block in blocks(document, "sh")
        for line in block.splitlines()
        if line.strip()
    ]


@pytest.mark.parametrize("command", commands())
def test_commands_run(command, capsys):
    program, *arguments = shlex.split(command)
    if program.startswith("scripts/"):
        # These set up an environment, so CI runs them: each has to be in its script.
        assert os.access(ROOT / program, os.X_OK)
        assert program in (ROOT / ".ci" / "run").read_text()
        return
    assert program == "mlx-tilegemm"
    assert main(arguments) in (0, None)
    assert capsys.readouterr().out


def test_relative_links_lead_somewhere():
    for document in DOCUMENTS:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), (document.name, target)

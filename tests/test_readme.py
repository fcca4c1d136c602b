"""What the documents show runs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_tilegemm.cli import main
from mlx_tilegemm.families import all_kernels

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
UNCHECKED = "default:[emulator] Not checked"
"""A machine without a new enough clang says so, and runs everything else."""


def blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", document.read_text(), re.DOTALL | re.MULTILINE)


def program(document: Path) -> str:
    """Return a document's Python, on the lines on which it stands there."""
    parts = re.split(r"(^```python\n.*?^```)", document.read_text(), flags=re.DOTALL | re.MULTILINE)
    return "".join(
        part.replace("```python", "").replace("```", "") if number % 2 else "\n" * part.count("\n")
        for number, part in enumerate(parts)
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "document", [one for one in DOCUMENTS if blocks(one, "python")], ids=lambda path: path.name
)
def test_python_blocks_run_as_they_stand(document, tmp_path):
    """In a process of its own, so that nothing of this one's settings reaches them."""
    script = tmp_path / f"{document.stem}.py"
    script.write_text(program(document))
    environment = {name: value for name, value in os.environ.items() if "TILEGEMM_BACK" not in name}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", UNCHECKED, str(script)],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def commands() -> list[str]:
    return [
        line
        for document in DOCUMENTS
        for block in blocks(document, "sh")
        for line in block.replace("\\\n", " ").splitlines()
        if line.strip()
    ]


@pytest.mark.parametrize("command", commands())
def test_commands_run(command, capsys, tmp_path):
    program, *arguments = shlex.split(command)
    if program.startswith("scripts/"):
        # These set up an environment, so CI runs them: each has to be in its script.
        assert os.access(ROOT / program, os.X_OK)
        assert program in (ROOT / ".ci" / "run").read_text()
    elif program == ".":
        assert arguments == [".venv/bin/activate"], "what scripts/setup makes"
    elif program == "python":
        assert_script_runs(arguments)
    elif program == "sphinx-build":
        assert arguments[0] == "docs", "what tests/test_docs.py builds"
    else:
        assert program == "mlx-tilegemm"
        if "--out" in arguments:
            pytest.importorskip("matplotlib", reason="the extra `plots` brings matplotlib")
            out = arguments.index("--out") + 1
            arguments[out] = str(tmp_path / Path(arguments[out]).name)
        assert status_of(arguments) == 0
        assert capsys.readouterr().out


def status_of(arguments: list[str]) -> object:
    try:
        return main(arguments)
    except SystemExit as done:  # of an option that ends the program, such as --version
        return done.code


def assert_script_runs(arguments: list[str]) -> None:
    """Run a script for its options alone, for its work is what other tests see."""
    script, *options = arguments
    done = subprocess.run(
        [sys.executable, str(ROOT / script), "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert all(one in done.stdout for one in options if one.startswith("--"))


def test_an_environment_is_made_and_entered_before_it_is_used():
    programs = [
        shlex.split(line)[0]
        for block in blocks(ROOT / "README.md", "sh")
        for line in block.splitlines()
    ]
    assert programs[:2] == ["scripts/demo", "."]


def first_cells(text: str, head: str) -> set[str]:
    """Return the names in backquotes of the first column of the table that begins so."""
    table = text[text.index(head) :].partition("\n\n")[0]
    return {
        name
        for row in table.splitlines()[2:]
        for name in re.findall("`([^`]+)`", row.split("|")[1])
    }


def test_tables_of_the_readme_leave_nothing_out():
    text = (ROOT / "README.md").read_text()
    assert first_cells(text, "| kernel | dtypes") == {one.name for one in all_kernels()}
    section = re.search(
        r"^\[project.optional-dependencies\]$(.*?)^\[",
        (ROOT / "pyproject.toml").read_text(),
        re.S | re.M,
    )
    extras = re.findall(r"^(\w+) = \[", section[1], re.MULTILINE)
    assert first_cells(text, "| extra |") == set(extras)


def test_every_environment_variable_is_documented():
    text = (ROOT / "docs" / "reference" / "environment-variables.md").read_text()
    sources = [
        path for folder in ("mlx_tilegemm", "tools") for path in (ROOT / folder).rglob("*.py")
    ]
    read = {
        name
        for path in sources
        for name in re.findall(r'"(MLX_TILEGEMM_[A-Z_]+)"', path.read_text())
    }
    assert len(read) >= 4
    assert read == first_cells(text, "| variable | values")


def test_relative_links_lead_somewhere():
    for document in DOCUMENTS:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), (document.name, target)

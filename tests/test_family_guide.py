"""The guide on adding a family: its sessions run in a copy with the toy, its table is whole."""

from __future__ import annotations

import re
import shlex
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
from changed_library import appended, changed_library, replaced, run_in

from mlx_tilegemm.core.family import Family

TOY = Path(__file__).parent / "toy"
GUIDE = Path(__file__).parent.parent / "docs" / "guides" / "adding-a-family.md"
PLACES = {"family": "families/toy", "templates": "templates/toy"}
REQUIRED = "required"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE.read_text(), re.DOTALL | re.M)


def files() -> dict[str, Path]:
    """Return the files of the toy by where they go."""
    return {
        f"{place}/{path.relative_to(TOY / folder)}": path
        for folder, place in PLACES.items()
        for path in sorted((TOY / folder).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Return a folder with the library as it is after the guide."""
    (named,) = blocks("text")
    edits = {place: appended(path.read_text()) for place, path in files().items()}
    start, rest = named.split("...")
    assert rest == "\n"
    edits["families/__init__.py"] = replaced("FAMILIES = (", start)
    return changed_library(tmp_path_factory.mktemp("family"), edits)


@pytest.mark.slow
def test_the_sessions_go_as_shown(library):
    session = library / "session.txt"
    session.write_text("\n".join(blocks("pycon")))
    done = run_in(library, "-m", "doctest", str(session))
    assert done.returncode == 0, done.stdout + done.stderr
    assert session.read_text().count(">>> ") > 10


def commands() -> list[list[str]]:
    (block,) = blocks("console")
    return [shlex.split(line) for line in block.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("command", commands(), ids=lambda command: command[1])
def test_its_commands_run(library, command):
    program, *arguments = command
    assert program == "mlx-tilegemm"
    done = run_in(library, "-m", "mlx_tilegemm", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "row" in done.stdout


def test_every_file_of_the_toy_is_shown():
    included = re.findall(r"\{literalinclude\} (\S+)", GUIDE.read_text())
    shown = {(GUIDE.parent / path).resolve() for path in included}
    assert shown == {path for place, path in files().items() if place != "families/toy/__init__.py"}


def test_its_table_has_every_field():
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([^|]*) \|$", GUIDE.read_text(), re.M)
    required = {
        field.name: field.default is MISSING and field.default_factory is MISSING
        for field in fields(Family)
    }
    assert {name: without == REQUIRED for name, without in rows} == required
    assert [name for name, _ in rows] == list(required)

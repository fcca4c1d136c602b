"""A family is one folder and one line: a toy family in a copy of the library, with no other edit.

``row_scale`` multiplies each row by a factor, ``y = d[:, None] * x``, and counts the negative
results of each row: its second result is int32, and its gradient is its own.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from changed_library import with_path

ROOT = Path(__file__).parent.parent
TOY = Path(__file__).parent / "toy"
CHANGED = "families/__init__.py"


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Return a folder with the library, the toy's folders and its line."""
    folder = tmp_path_factory.mktemp("family")
    package = shutil.copytree(
        ROOT / "mlx_tilegemm",
        folder / "mlx_tilegemm",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    shutil.copytree(TOY / "family", package / "families" / "toy")
    shutil.copytree(TOY / "templates", package / "templates" / "toy")
    registry = package / CHANGED
    text, count = re.subn(
        r"^FAMILIES = \(", 'FAMILIES = ("toy", ', registry.read_text(), flags=re.M
    )
    assert count == 1
    registry.write_text(text)
    return folder


def run(library: Path, *arguments: str) -> str:
    """Run Python in the copy and return what it printed."""
    environment = with_path(library, ROOT / "tests")
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=library,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_costs_a_folder_and_a_line(library):
    package, own = ROOT / "mlx_tilegemm", library / "mlx_tilegemm"
    added, changed = set(), set()
    for path in own.rglob("*"):
        name = path.relative_to(own)
        if path.is_dir() or "__pycache__" in name.parts:
            continue
        if not (package / name).exists():
            added.add("/".join(name.parts[:2]))
        elif path.read_bytes() != (package / name).read_bytes():
            changed.add(str(name))
    assert added == {"families/toy", "templates/toy"}
    assert changed == {CHANGED}
    lines = [set((one / CHANGED).read_text().splitlines()) for one in (package, own)]
    assert len(lines[1] - lines[0]) == 1


def test_op_gradients_batching_explain_canary_and_tuning(library):
    printed = run(library, str(TOY / "session.py"))
    assert printed.splitlines()[-1] == "all right"


@pytest.mark.slow
def test_command_line(library):
    printed = run(library, "-m", "mlx_tilegemm", "explain", "row_scale", "15", "15x7")
    assert "row_scale/32" in printed
    assert "counted" not in printed
    rendered = run(library, "-m", "mlx_tilegemm", "render", "row_scale", "15", "15x7")
    assert "[[kernel]]" in rendered
    listed = run(library, "-m", "mlx_tilegemm", "tune", "--row-scale", "512x100:f16", "--dry-run")
    assert "1 candidates" in listed


@pytest.mark.slow
def test_every_variant_is_verified(library):
    command = ("verify", "--kernel", "row_scale", "--repeats", "3", "--jobs", "1")
    run(library, "-m", "mlx_tilegemm", *command, "--report", "reports")
    report = json.loads((library / "reports" / "verify.json").read_text())
    assert report["passed"]
    assert len(report["variants"]) == 9


@pytest.mark.slow
def test_its_mutants_are_noticed(library):
    *survivors, total = run(library, str(TOY / "mutants.py")).split()
    assert int(total) > 30
    # Conversions that the emulator's language also makes implicitly.
    assert set(survivors) <= {"drop-cast"}


@pytest.mark.slow
def test_its_types_are_strict(library):
    options = ("--config-file", str(ROOT / "pyproject.toml"))
    run(library, "-m", "mypy", *options, "mlx_tilegemm/families/toy")

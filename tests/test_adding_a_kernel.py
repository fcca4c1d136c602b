"""The guide on adding a kernel, followed to the letter in a copy of the library."""

from __future__ import annotations

import doctest
import json
import re
from pathlib import Path

import pytest
from changed_library import appended, changed_library, replaced, run_in

ROOT = Path(__file__).parent.parent
GUIDE = ROOT / "docs" / "guides" / "adding-a-kernel.md"
OPENING = "KERNELS = (\n"


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", GUIDE.read_text(), re.DOTALL | re.M)
    return found


def places() -> list[str]:
    """Return the paths that the guide gives its blocks, in order."""
    return re.findall(r"`mlx_tilegemm/([\w/.]+)`[:,]", GUIDE.read_text())


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Return a folder with the library as it is after the guide."""
    template, module, registry = places()
    named = block("text")
    assert named.startswith(OPENING)
    edits = {
        template: appended(block("jinja")),
        module: appended(block("py")),
        registry: replaced(OPENING, named),
    }
    return changed_library(tmp_path_factory.mktemp("guide"), edits)


def test_the_session_goes_as_shown(library):
    session = library / "session.txt"
    session.write_text(block("pycon"))
    done = run_in(library, "-m", "doctest", str(session))
    assert done.returncode == 0, done.stdout + done.stderr
    assert doctest.DocTestParser().get_examples(block("pycon"))


@pytest.mark.slow
def test_every_variant_is_right_and_legal_metal(library):
    command = re.findall(r"^mlx-tilegemm (verify .*)$", GUIDE.read_text(), re.M)[0].split()
    done = run_in(library, "-m", "mlx_tilegemm", *command)
    report = json.loads((library / "build" / "gemm_outer" / "verify.json").read_text())
    assert report["passed"], done.stderr
    assert done.returncode == 0
    assert len(report["variants"]) > 40


@pytest.mark.slow
def test_its_types_are_strict(library):
    module = library / "mlx_tilegemm" / places()[1]
    options = ["--config-file", str(ROOT / "pyproject.toml")]
    done = run_in(library, "-m", "mypy", *options, str(module))
    assert done.returncode == 0, done.stdout

"""The guide on adding a kernel, followed to the letter in a copy of the library."""

from __future__ import annotations

import doctest
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
GUIDE = ROOT / "docs" / "guides" / "adding-a-kernel.md"


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", GUIDE.read_text(), re.DOTALL | re.M)
    return found


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Return a folder with the library as it is after the guide."""
    folder = tmp_path_factory.mktemp("guide")
    package = shutil.copytree(
        ROOT / "mlx_tilegemm",
        folder / "mlx_tilegemm",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    (package / "templates" / "gemm_outer.metal.j2").write_text(block("jinja"))
    (package / "kernels" / "gemm_outer.py").write_text(block("py"))
    registry = package / "kernels" / "__init__.py"
    text = registry.read_text()
    opening = "KERNELS: tuple[Kernel, ...] = (\n"
    assert block("text").startswith(opening)
    text = text.replace(opening, block("text"))
    text = text.replace("from . import (\n", "from . import (\n    gemm_outer,\n")
    registry.write_text(text)
    return folder


def run(library: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(library)}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=library,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_session_goes_as_shown(library):
    session = library / "session.txt"
    session.write_text(block("pycon"))
    done = run(library, "-m", "doctest", str(session))
    assert done.returncode == 0, done.stdout + done.stderr
    assert doctest.DocTestParser().get_examples(block("pycon"))


@pytest.mark.slow
def test_every_variant_is_right_and_legal_metal(library):
    command = re.findall(r"^mlx-tilegemm (verify .*)$", GUIDE.read_text(), re.M)[0].split()
    done = run(library, "-m", "mlx_tilegemm", *command)
    report = json.loads((library / "build" / "gemm_outer" / "verify.json").read_text())
    assert report["passed"], done.stderr
    assert done.returncode == 0
    assert len(report["variants"]) > 40


@pytest.mark.slow
def test_its_types_are_strict(library):
    module = library / "mlx_tilegemm" / "kernels" / "gemm_outer.py"
    options = ["--config-file", str(ROOT / "pyproject.toml")]
    done = run(library, "-m", "mypy", *options, str(module))
    assert done.returncode == 0, done.stdout

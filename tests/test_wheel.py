"""The wheel holds the package: every file of it, Python or not, and no other."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "mlx_tilegemm"


def built(source: Path, directory: Path) -> Path:
    """Build the wheel of a source tree into a directory."""
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--wheel-dir", str(directory), str(source)], check=True)
    (wheel,) = directory.glob("*.whl")
    return wheel


@pytest.mark.slow
def test_every_file_of_the_package_is_in_the_wheel_and_no_other(tmp_path):
    # A copy, because setuptools packs whatever an earlier build left in build/.
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns("__pycache__", ".*")
    shutil.copytree(ROOT / PACKAGE, source / PACKAGE, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    tree = {str(path.relative_to(source)) for path in (source / PACKAGE).rglob("*")}
    files = {name for name in tree if (source / name).is_file()}
    with zipfile.ZipFile(built(source, tmp_path / "dist")) as wheel:
        packed = {name for name in wheel.namelist() if name.startswith(f"{PACKAGE}/")}
    assert files - packed == set(), "not in the wheel"
    assert packed - files == set(), "not in the tree"

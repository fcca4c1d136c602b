"""The documentation builds, and its reference has every public name."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest

import mlx_tilegemm as tg

sphinx_build = pytest.importorskip("sphinx.cmd.build", reason="the docs extra is not installed")
DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    arguments = ["-q", "-W", "--keep-going", "-d", str(folder / "trees"), str(DOCS)]
    assert sphinx_build.main([*arguments, str(folder / "html")]) == 0
    return folder / "html"


def documented(built: Path) -> set[str]:
    """Return the names of Sphinx's inventory, which has four lines of text before its contents."""
    content = (built / "objects.inv").read_bytes().split(b"\n", 4)[4]
    return {line.split(" ", 1)[0] for line in zlib.decompress(content).decode().splitlines()}


@pytest.mark.slow
def test_it_builds_and_has_every_public_name(built):
    names = documented(built)
    modules = {"emulator", "errors", "formats", "integrations", "nn"}
    public = {f"mlx_tilegemm.{name}" for name in tg.__all__ if name not in modules}
    public |= {"mlx_tilegemm.nn.Linear", "mlx_tilegemm.nn.MultiHeadAttention"}
    functions = ("decode", "encode", "unpack", "pack", "dequantize", "quantize")
    public |= {f"mlx_tilegemm.formats.{name}" for name in functions}
    public |= {
        f"mlx_tilegemm.emulator.{name}"
        for name in tg.emulator.__all__
        if name not in vars(tg.errors)
    }
    public |= {
        f"mlx_tilegemm.errors.{name}"
        for name, value in vars(tg.errors).items()
        if isinstance(value, type)
    }
    assert public - names == set()

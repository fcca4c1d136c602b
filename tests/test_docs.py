"""The documentation builds, its links lead somewhere, and its reference has every public name."""

from __future__ import annotations

import re
import warnings
import zlib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

import mlx_tilegemm as tg

sphinx_build = pytest.importorskip("sphinx.cmd.build", reason="the docs extra is not installed")
DOCS = Path(__file__).parent.parent / "docs"
OTHERS = {"_modules", "_static"}
"""Copies of source code, and files of the theme."""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    arguments = ["-q", "-W", "--keep-going", "-d", str(folder / "trees"), str(DOCS)]
    with warnings.catch_warnings():
        # Sphinx 8.1 calls docutils in a way that docutils 0.21 deprecates.
        warnings.filterwarnings("ignore", message="nodes.Text")
        assert sphinx_build.main([*arguments, str(folder / "html")]) == 0
    return folder / "html"


def documented(built: Path) -> set[str]:
    """Return the names of Sphinx's inventory, which has four lines of text before its contents."""
    content = (built / "objects.inv").read_bytes().split(b"\n", 4)[4]
    return {line.split(" ", 1)[0] for line in zlib.decompress(content).decode().splitlines()}


@pytest.mark.slow
def test_it_builds_and_has_every_public_name(built):
    names = documented(built)
    modules = {"cuda", "emulator", "errors", "formats", "integrations", "nn"}
    public = {f"mlx_tilegemm.{name}" for name in tg.__all__ if name not in modules}
    public |= {"mlx_tilegemm.nn.Linear", "mlx_tilegemm.nn.MultiHeadAttention"}
    functions = ("decode", "encode", "unpack", "pack", "dequantize", "quantize")
    public |= {f"mlx_tilegemm.formats.{name}" for name in functions}
    public |= {
        f"{executor.__name__}.{name}"
        for executor in (tg.cuda, tg.emulator)
        for name in executor.__all__
        if name not in vars(tg.errors)
    }
    public |= {
        f"mlx_tilegemm.errors.{name}"
        for name, value in vars(tg.errors).items()
        if isinstance(value, type)
    }
    assert public - names == set()


class Page(HTMLParser):
    """Title, anchors and links of a page."""

    def __init__(self, path: Path):
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.feed(path.read_text())
        self.title = re.search(r"<title>(.*?)</title>", path.read_text(), re.DOTALL)[1].strip()

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.anchors.add(found.get("id"))
        if tag == "a" and "sidebar-toggle" not in (found.get("class") or ""):
            self.links.append(found.get("href"))
        if tag == "img":
            self.links.append(found.get("src"))


@pytest.fixture(scope="module")
def pages(built):
    """The pages of the site, but for copies of source code."""
    found = {path: Page(path) for path in built.rglob("*.html") if not OTHERS & {*path.parts}}
    assert len(found) > 25
    return found


def dead_links(path: Path, pages: dict[Path, Page]):
    for link in pages[path].links:
        if not link or re.match(r"(https?|mailto):", link):
            continue
        name, _, anchor = unquote(link).partition("#")
        target = (path.parent / name).resolve() if name else path
        if not target.exists() or (
            anchor and target in pages and anchor not in pages[target].anchors
        ):
            yield link


@pytest.mark.slow
def test_no_link_of_the_site_is_dead(pages):
    assert {str(path): dead for path in pages if (dead := list(dead_links(path, pages)))} == {}


@pytest.mark.slow
def test_pages_can_be_told_apart_by_their_titles(pages):
    titles = [page.title for page in pages.values()]
    assert len(set(titles)) == len(titles)


@pytest.mark.slow
def test_types_of_other_libraries_lead_to_their_documentation(pages):
    links = {link for page in pages.values() for link in page.links}
    for site in ("ml-explore.github.io/mlx/", "docs.python.org/3/", "numpy.org/doc/"):
        assert any(site in link for link in links if link)


@pytest.mark.slow
def test_what_is_made_of_tables_is_there(built):
    from mlx_tilegemm.core.dtypes import FLOATS
    from mlx_tilegemm.families import all_kernels
    from mlx_tilegemm.machine.chips import CHIPS

    support = (built / "support.html").read_text()
    assert all(f">{one.name}<" in support for one in (*all_kernels(), *CHIPS))
    pairs = {f"{a.name}, {b.name}" for a in FLOATS for b in FLOATS}
    assert all(f"<p>{pair}</p>" in support for pair in pairs)
    commands = (built / "reference" / "command-line.html").read_text()
    assert "usage: mlx-tilegemm [-h] [--version] command" in commands
    for name in ("demo", "explain", "render", "verify", "tune", "roofline"):
        assert f"usage: mlx-tilegemm {name} [-h]" in commands


def test_code_fits_its_column():
    for document in DOCS.rglob("*.md"):
        for block in re.findall(
            r"^```\w+\n(.*?)^```", document.read_text(), re.DOTALL | re.MULTILINE
        ):
            assert max(map(len, block.splitlines()), default=0) <= 100, document

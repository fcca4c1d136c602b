"""Sphinx, as MLX's own documentation uses it: `sphinx-build -W docs build/docs`."""

import sys
import zlib
from importlib.metadata import version as installed_version
from pathlib import Path
from tempfile import TemporaryDirectory

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))

project = "mlx_tilegemm"
author = "the mlx_tilegemm authors"
version = release = installed_version("mlx-tilegemm")

extensions = [
    "generated",
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
myst_enable_extensions = ["colon_fence"]
# Documents link to one another as files, so that the links work where the sources are read too.
myst_heading_anchors = 3

# A name in single backquotes is code, as in the docstrings.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "separated"
autodoc_default_options = {"members": True, "show-inheritance": True, "exclude-members": "__init__"}
napoleon_use_ivar = True
maximum_signature_line_length = 68

# Prompts are shown and not copied.
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "sphinx_book_theme"
html_title = f"mlx_tilegemm {version}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_theme_options = {
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
}


def inventory(name: str, folder: Path) -> str:
    """Write an inventory of names that are kept as text, and return its path.

    A build then needs no network, and gives the same links each time.
    """
    text = (DOCS / "inventories" / f"{name}.txt").read_text(encoding="utf-8")
    head = f"# Sphinx inventory version 2\n# Project: {name}\n# Version: \n"
    head += "# The remainder of this file is compressed using zlib.\n"
    path = folder / f"{name}.inv"
    path.write_bytes(head.encode() + zlib.compress(text.encode()))
    return str(path)


INVENTORIES = TemporaryDirectory()
SITES = {
    "python": "https://docs.python.org/3/",
    "numpy": "https://numpy.org/doc/stable/",
    "mlx": "https://ml-explore.github.io/mlx/build/html/",
}
intersphinx_mapping = {
    name: (site, inventory(name, Path(INVENTORIES.name))) for name, site in SITES.items()
}

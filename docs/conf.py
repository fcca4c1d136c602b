"""Sphinx, as MLX's own documentation uses it: `sphinx-build -W docs build/docs`."""

from importlib.metadata import version as installed_version

project = "mlx_tilegemm"
author = "the mlx_tilegemm authors"
version = release = installed_version("mlx-tilegemm")

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "myst_parser"]
myst_enable_extensions = ["colon_fence"]
# Documents link to one another as files, so that the links work where the sources are read too.
myst_heading_anchors = 3
suppress_warnings = ["myst.xref_missing"]

# A name in single backquotes is code, as in the docstrings.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "separated"
autodoc_default_options = {"members": True, "show-inheritance": True, "exclude-members": "__init__"}
napoleon_use_ivar = True

html_theme = "sphinx_book_theme"
html_title = "mlx_tilegemm"

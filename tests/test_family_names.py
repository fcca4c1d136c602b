"""Nothing outside the families names one: no problem type, kernel or folder of theirs."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import mlx_tilegemm
from mlx_tilegemm.families import FAMILIES, all_kernels, problem_types

ROOT = Path(mlx_tilegemm.__file__).parent

# The public ops, and the layers of models that call them.
PUBLIC = ("__init__.py", "ops.py", "nn.py", "layers", "integrations", "cli/demo.py")
MODULES = sorted(
    path
    for path in ROOT.rglob("*.py")
    if not any(path.is_relative_to(ROOT / name) for name in ("families", *PUBLIC))
)
NAMES = frozenset(
    (*FAMILIES, *(kind.__name__ for kind in problem_types().values()), *map(str, all_kernels()))
)


NAMESAKES = {"gemv"}
"""Kernels of MLX that are called like one of ours."""


def named(text: str) -> Iterator[str]:
    """Yield what code and its strings name; sentences may name examples."""
    tree = ast.parse(text)
    documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.alias):
            yield from node.name.split(".")
        elif isinstance(node, ast.ImportFrom):
            yield from (node.module or "").split(".")
        elif isinstance(node, ast.Constant) and id(node) not in documents:
            word = node.value if isinstance(node.value, str) else ""
            yield from re.findall(r"\w+", "" if " " in word else word)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_family_is_named(path):
    own = NAMESAKES if path == ROOT / "machine" / "mlx_products.py" else set()
    assert not NAMES & {*named(path.read_text())} - own


@pytest.mark.parametrize(
    "planted",
    [
        "from .families.gemm.problem import x",
        "from .families import attention",
        "import mlx_tilegemm.families.gemm as x",
        "def f(p):\n    return isinstance(p, GemmProblem)",
        "x = problem.AttentionProblem",
        'if plan.kernel == "gemv":\n    pass',
        'path = "templates/gemm/x"',
    ],
)
def test_planted_names_are_seen(planted):
    assert NAMES & {*named(planted)}


def test_docstrings_may_name_examples():
    assert not NAMES & {*named('"""Such as ``gemv``."""\nx = 1')}

"""A module imports only from lower layers."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import mlx_tilegemm

ROOT = Path(mlx_tilegemm.__file__).parent
LAYERS = [
    "errors",
    "context",
    "dtypes",
    "problem",
    "plan",
    "chips",
    "kernels",
    "dispatch",
    "render",
    "variants",
    "lexer",
    "mlx_text",
    "strict",
    "emulator",
    "arguments",
    "backends",
    "mlx_route",
    "userfile",
    "measurements",
    "canary",
    "autodiff",
    "prepare",
    "ops",
    "explanation",
    "verify",
    "tuning",
    "roofline",
    "nn",
    "routing",
    "inspection",
    "patching",
    "integrations",
    "demo",
    "cli_tune",
    "cli",
    "__main__",
]
MODULES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def layer(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_layers(path: Path):
    package = ["mlx_tilegemm", *path.relative_to(ROOT).parent.parts]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            parts = package[: len(package) - node.level + 1]
            parts += node.module.split(".") if node.module else []
            names = [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
            yield from names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    own = LAYERS.index(layer(path))
    for name in imported_layers(path):
        assert LAYERS.index(name) <= own, f"{path.name} imports {name}"


def test_only_one_module_renders_and_one_calls_metal():
    def importing(what: str) -> set[str]:
        return {str(p.relative_to(ROOT)) for p in MODULES if what in p.read_text()}

    assert importing("import jinja2") == {"render.py"}
    assert importing("mx.fast.metal_kernel(") <= {
        "backends/metal.py",
        "emulator/metal_kernel.py",
    }


def test_choice_and_rendering_touch_no_device_clock_or_environment():
    pure = [ROOT / f"{name}.py" for name in ("plan", "dispatch", "render")]
    packages = (path for name in ("problem", "kernels") for path in (ROOT / name).glob("*.py"))
    for path in (*pure, *packages):
        for node in ast.walk(ast.parse(path.read_text())):
            names = {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
            assert not names & {"os", "time", "random", "mlx.core"}, path

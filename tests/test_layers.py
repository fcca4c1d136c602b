"""A module imports only from lower layers, and what must be pure is.

Imports under ``if TYPE_CHECKING:`` do not count: they say what a type is, and run never.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from imports import UNREADABLE, Use, run_time, under, upward, uses

import mlx_tilegemm
from mlx_tilegemm.families import FAMILIES

# From the lowest to the highest. A folder may have several: "families" holds the registry, and
# each family's own folder stands above what goes through the registry.
LAYERS = [
    "errors",
    "core",
    "formats",
    "machine",
    "msl",
    "strict",
    "emulator",
    "cuda",
    "backends",
    "families",
    "dispatch",
    "assurance",
    "call",
    *(f"families.{name}" for name in FAMILIES),
    "ops",
    "nn",
    "layers",
    "integrations",
    "cli",
    "__main__",
]

# Modules and folders that only compute: the same arguments give the same plan and the same text.
PURE = [
    "errors",
    *(
        f"core.{name}"
        for name in (
            "caches",
            "dtypes",
            "kernel",
            "operand",
            "plain",
            "plan",
            "problem",
            "product",
            "render",
            "shapes",
            "spelling",
        )
    ),
    *(
        f"machine.{name}"
        for name in (
            "chips.apple7",
            "chips.apple8",
            "chips.apple9",
            "chips.apple10",
            "chips.record",
            "cost",
            "counts",
            "fragment",
            "gemv",
            "limits",
            "lines",
            "mlx_products",
            "price",
            "products",
        )
    ),
    "dispatch",
    *(f"families.{name}.{part}" for name in FAMILIES for part in ("kernels", "problem")),
    *(
        f"families.{name}.{part}"
        for name in FAMILIES
        for part in ("price", "spec")
        if (Path(mlx_tilegemm.__file__).parent / "families" / name / f"{part}.py").exists()
    ),
]
PURE_WITH_MLX = ["core.dtypes", "core.spelling"]

CLOCKS = ["time", "datetime"]
RANDOM_NUMBERS = ["random", "secrets", "uuid", "numpy.random", "mlx.core.random"]
SURROUNDINGS = ["os", "sys", "platform", "subprocess", "socket", "importlib.metadata"]
DEVICES = [
    f"mlx.core.{name}"
    for name in (
        "Device",
        "Stream",
        "clear_streams",
        "cpu",
        "cuda",
        "default_device",
        "default_stream",
        "device_count",
        "device_info",
        "get_memory_limit",
        "gpu",
        "is_available",
        "metal",
        "new_stream",
        "set_default_device",
        "set_default_stream",
        "stream",
    )
]
IMPURE = [*CLOCKS, *RANDOM_NUMBERS, *SURROUNDINGS, *DEVICES]

# Names of which one file is the only user.
ONLY_USERS = {
    "jinja2": {"core/render.py"},
    "mlx.core.fast.metal_kernel": {
        "backends/metal.py",
        "cuda/kernel.py",
        "emulator/metal_kernel.py",
    },
}
# They import what a registry or a user names, or what may not be installed.
COMPUTED_IMPORTS = {
    "core/kernel.py",
    "core/later.py",
    "families/__init__.py",
    "integrations/__init__.py",
    "integrations/metal_kernels.py",
    "integrations/mlx_lm.py",
}

ROOT = Path(mlx_tilegemm.__file__).parent
FILES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))
# The package itself re-exports from everywhere.
MODULES = [path for path in FILES if path != Path("__init__.py")]


def dotted(path: Path) -> str:
    return ".".join(("mlx_tilegemm", *path.with_suffix("").parts)).removesuffix(".__init__")


def uses_of(path: Path) -> list[Use]:
    text = (ROOT / path).read_text(encoding="utf-8")
    return uses(text, dotted(path), is_package=path.name == "__init__.py")


def inside(path: Path, names: list[str]) -> bool:
    return any(f"{dotted(path)}.".startswith(f"mlx_tilegemm.{name}.") for name in names)


def where(found: list[Use]) -> list[str]:
    return [f"line {use.line}: {use.name}" for use in found]


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_imports_point_down(path):
    assert inside(path, LAYERS)
    assert where(upward(uses_of(path), dotted(path), LAYERS)) == []


@pytest.mark.parametrize("path", [path for path in MODULES if inside(path, PURE)], ids=str)
def test_choice_and_rendering_touch_no_device_clock_or_environment(path):
    refused = IMPURE if inside(path, PURE_WITH_MLX) else [*IMPURE, "mlx"]
    assert where(under(uses_of(path), refused)) == []


def test_every_name_on_a_list_exists():
    for name in (*LAYERS, *PURE):
        assert any(inside(path, [name]) for path in MODULES), name


def test_only_one_module_renders_and_one_calls_metal():
    for name, files in ONLY_USERS.items():
        assert {path.as_posix() for path in FILES if under(uses_of(path), [name])} == files


def test_only_few_modules_compute_what_they_import():
    computing = {
        path.as_posix()
        for path in MODULES
        if any(use.name == UNREADABLE for use in run_time(uses_of(path)))
    }
    assert computing == COMPUTED_IMPORTS

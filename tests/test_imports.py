"""The reader of imports, on texts that hold one violation each."""

from __future__ import annotations

import pytest
from imports import UNREADABLE, height, run_time, under, upward, uses

LAYERS = ["errors", "core", "core.plan", "kernels", "patching", "cli"]
IMPURE = [
    "os.environ",
    "time",
    "random",
    "numpy.random",
    "mlx.core.random",
    "mlx.core.default_device",
]

UPWARD = {
    "absolute": "import mlx_tilegemm.patching",
    "absolute, named": "import mlx_tilegemm.patching as p",
    "absolute, a name of it": "from mlx_tilegemm.cli import main",
    "absolute, the module": "from mlx_tilegemm import cli",
    "relative, a name of it": "from ..cli import main",
    "relative, the module": "from .. import cli",
    "relative, the same package": "from .later import x",
    "relative, several": "from .. import errors, cli",
    "star": "from ..cli import *",
    "in a function": "def f():\n    from ..cli import main",
    "in a method": "class C:\n    def f(self):\n        import mlx_tilegemm.cli",
    "in a condition": "if x:\n    pass\nelse:\n    from .. import cli",
    "beside types": "if TYPE_CHECKING:\n    pass\nelse:\n    from .. import cli",
    "where types are not checked": "if not TYPE_CHECKING:\n    from .. import cli",
    "import_module": 'importlib.import_module("mlx_tilegemm.cli")',
    "import_module, its name": 'from importlib import import_module\nimport_module(name="..cli")',
    "import_module, another name": 'from importlib import import_module as f\nf("..cli")',
    "import_module, relative": 'importlib.import_module("..cli", __package__)',
    "import_module, to a package": 'importlib.import_module(".cli", "mlx_tilegemm")',
    "__import__": 'x = __import__("mlx_tilegemm.cli")',
    "the package itself": "import mlx_tilegemm",
    "a name of the package itself": "from mlx_tilegemm import matmul",
    "a name of the package itself, relative": "from .. import matmul",
    "everything of the package": "from mlx_tilegemm import *",
    "an attribute": "import mlx_tilegemm.errors\nmlx_tilegemm.cli.main()",
}

IMPURITIES = {
    "environment": "from os import environ",
    "environment, through its module": "import os as o\no.environ",
    "everything": "from os import *",
    "clock": "import time",
    "clock, a name of it": "from time import perf_counter",
    "clock, in a function": "def f():\n    from time import perf_counter as now",
    "random": "from random import random",
    "NumPy's random": "import numpy as np\nx = np.random.default_rng(0).normal()",
    "NumPy's random, the module": "import numpy.random",
    "NumPy's random, a name of it": "from numpy.random import default_rng",
    "NumPy's random, renamed": "from numpy import random as r",
    "NumPy's random, by string": 'import numpy as np\ngetattr(np, "random").default_rng()',
    "MLX's random": "import mlx.core as mx\nx = mx.random.normal(shape)",
    "MLX's random, by its full name": "import mlx.core\nx = mlx.core.random.normal(shape)",
    "MLX's random, of the package": "from mlx import core\nx = core.random.normal(shape)",
    "device": "import mlx.core as mx\nx = [mx.default_device() for _ in y]",
    "device, a name of it": "from mlx.core import default_device",
    "import_module": 'import importlib\nimportlib.import_module("time")',
    "__import__": '__import__("random").random()',
}

MODULE = "mlx_tilegemm.core.plan"


@pytest.mark.parametrize("kind", UPWARD)
def test_an_import_of_a_higher_layer_is_seen(kind):
    (found, *_) = upward(uses(UPWARD[kind], MODULE), MODULE, [*LAYERS, "core.later"])
    assert found.line == 1 + UPWARD[kind].count("\n")


@pytest.mark.parametrize("kind", IMPURITIES)
def test_an_impure_use_is_seen(kind):
    assert under(uses(IMPURITIES[kind], MODULE), IMPURE)


@pytest.mark.parametrize(
    "text",
    [
        "from ..errors import ProblemError",
        "import mlx_tilegemm.errors",
        "from . import problem",
        "from .plan import Plan",
        'import_module("..errors", __package__)',
        "import mlx_tilegemm.errors as cli\ncli.main()",
        "from elsewhere.cli import main",
        "import climate, mlx_tilegemm_tools",
    ],
)
def test_an_import_of_a_lower_layer_is_none(text):
    assert upward(uses(text, MODULE), MODULE, LAYERS) == []


@pytest.mark.parametrize(
    "text",
    [
        "import timeit, osmium",
        "import mlx.core as mx\nx = mx.zeros(4).random",
        "time = 3\nx = problem.time + self.os.environ",
        "from numpy import randomize",
        "def f(random):\n    return random.random()",
    ],
)
def test_a_name_that_is_like_another_is_none(text):
    assert under(uses(text, MODULE), IMPURE) == []


def test_a_package_starts_its_relative_imports_from_itself():
    (use,) = uses("from .cli import main", "mlx_tilegemm.core", is_package=True)
    assert use.name == "mlx_tilegemm.core.cli.main"
    (use,) = uses("from .cli import main", "mlx_tilegemm.core")
    assert use.name == "mlx_tilegemm.cli.main"


@pytest.mark.parametrize("guard", ["TYPE_CHECKING", "typing.TYPE_CHECKING"])
def test_what_only_a_type_checker_sees_does_not_count(guard):
    text = (
        f"import typing\nif {guard}:\n    import time\n    if x:\n        from .. import cli\n"
        "y: time.time\n"
    )
    found = uses(text, MODULE)
    assert upward(found, MODULE, LAYERS) == []
    assert under(found, IMPURE) == []
    assert {use.name for use in found if use.for_types} == {
        "time",
        "mlx_tilegemm.cli",
        "time.time",
    }
    both = uses(f"{text}import time\n", MODULE)
    assert {use.name for use in under(both, IMPURE)} == {"time", "time.time"}


def test_an_import_whose_module_is_computed_is_told():
    found = uses('import importlib\nimportlib.import_module(f"..{name}", __package__)', MODULE)
    assert UNREADABLE in {use.name for use in run_time(found)}


def test_the_longest_layer_that_fits_is_a_modules_own():
    names = ("errors", "core", "core.problem", "core.plan", "core.planner", "cli.main", "ops")
    heights = [height(f"mlx_tilegemm.{name}", LAYERS) for name in names]
    assert heights == [0, 1, 1, 2, 1, 5, 6]
    assert height("mlx_tilegemm", LAYERS) == 6
    assert height("mlx_tilegemm.core.plan", ["core.plan", "core"]) == 0

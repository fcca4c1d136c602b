"""Keys of prepared calls: a type checker sees when two flags are swapped or one is left out."""

from __future__ import annotations

import ast
import copy
import inspect
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NewType

import pytest

import mlx_tilegemm
from mlx_tilegemm.families.attention import key as attention_key
from mlx_tilegemm.families.gemm import key as gemm_key

api = pytest.importorskip("mypy.api")

PACKAGE = Path(mlx_tilegemm.__file__).parent
CONFIG = Path(__file__).parent.parent / "pyproject.toml"


@dataclass(frozen=True)
class Ops:
    """A family's operations, and the function whose arguments are the key of their calls."""

    family: str
    prepare: object
    names: tuple[str, ...]

    @property
    def path(self) -> Path:
        return PACKAGE / "families" / self.family / "ops.py"

    @property
    def parameters(self) -> list[inspect.Parameter]:
        return [*inspect.signature(self.prepare).parameters.values()]

    @property
    def flags(self) -> list[int]:
        """Positions of the parameters that are true or false."""
        module = inspect.getmodule(inspect.unwrap(self.prepare))
        own = {name for name, value in vars(module).items() if isinstance(value, NewType)}
        return [i for i, one in enumerate(self.parameters) if one.annotation in {"bool", *own}]


OPS = (
    Ops("gemm", gemm_key.product_call, ("matmul", "addmm")),
    Ops("attention", attention_key.attention_call, ("attention_chain",)),
)


def mistakes(ops: Ops) -> Iterator[tuple[str, list[int]]]:
    """Yield each mistake in a key: its name, and the positions of the arguments that are passed."""
    every = range(len(ops.parameters))
    for i, j in itertools.combinations(ops.flags, 2):
        order = [{i: j, j: i}.get(at, at) for at in every]
        yield f"swapped_{ops.parameters[i].name}_{ops.parameters[j].name}", order
    for i in every:
        yield f"without_{ops.parameters[i].name}", [at for at in every if at != i]


def key_of(function: ast.FunctionDef, ops: Ops) -> ast.Call:
    """Return the expression that prepares an operation's call."""
    name = inspect.unwrap(ops.prepare).__name__
    calls = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
    (found,) = [one for one in calls if isinstance(one.func, ast.Name) and one.func.id == name]
    assert len(found.args) == len(ops.parameters)
    assert not found.keywords
    return found


def with_mistakes(ops: Ops) -> str:
    """Return the text of a family's operations, each followed by copies with a mistake each."""
    module = ast.parse(ops.path.read_text(encoding="utf-8"))
    functions = {node.name: node for node in module.body if isinstance(node, ast.FunctionDef)}
    for name in ops.names:
        for mistake, order in mistakes(ops):
            changed = copy.deepcopy(functions[name])
            changed.name = f"{name}__{mistake}"
            call = key_of(changed, ops)
            call.args = [call.args[at] for at in order]
            module.body.append(changed)
    return ast.unparse(module)


def functions_at(text: str, lines: set[int]) -> set[str]:
    """Return the functions, or ``""`` for the module, that lines of a text are in."""
    functions = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    where = {line: one.name for one in functions for line in range(one.lineno, one.end_lineno + 1)}
    return {where.get(line, "") for line in lines}


@pytest.fixture(scope="module")
def refused(tmp_path_factory) -> dict[str, set[str]]:
    """Return, by family, the functions in which mypy finds something wrong."""
    folder = tmp_path_factory.mktemp("keys")
    texts = {ops.family: with_mistakes(ops) for ops in OPS}
    arguments = ["--config-file", str(CONFIG), "--cache-dir", str(folder / "cache")]
    for ops in OPS:
        shadow = folder / f"{ops.family}.py"
        shadow.write_text(texts[ops.family], encoding="utf-8")
        arguments += ["--shadow-file", str(ops.path), str(shadow)]
    printed, errors, _ = api.run([*arguments, *(str(ops.path) for ops in OPS)])
    assert not errors
    found = re.findall(r"families/(\w+)/ops\.py:(\d+): error: ", printed)
    assert len(found) == printed.count(": error: "), printed
    return {
        name: functions_at(text, {int(line) for family, line in found if family == name})
        for name, text in texts.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("ops", OPS, ids=lambda ops: ops.family)
def test_mypy_refuses_every_mistake_and_nothing_else(ops, refused):
    assert len(ops.flags) >= 2
    names = [f"{op}__{mistake}" for op in ops.names for mistake, _ in mistakes(ops)]
    assert refused[ops.family] == set(names)

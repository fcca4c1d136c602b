"""Names that a module imports, or reaches through an import, read from its text."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

UNREADABLE = "?"
"""Name of an import whose module is computed at run time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """One use of a name from elsewhere.

    Attributes:
        name: The absolute dotted name: ``os.environ`` for ``from os import environ`` as for
            ``os.environ["HOME"]``.
        line: Line of the text, from 1.
        for_types: Whether only a type checker sees it: it is under ``if TYPE_CHECKING:``, or
            reached through a name that is imported nowhere else.
    """

    name: str
    line: int
    for_types: bool

    def within(self, prefix: str) -> bool:
        """Whether it is a dotted name or lies under it; a star import lies under all of them."""
        if self.name.endswith(".*"):
            return f"{prefix}.".startswith(self.name[:-1]) or self.name.startswith(f"{prefix}.")
        return f"{self.name}.".startswith(f"{prefix}.")


def uses(text: str, module: str, *, is_package: bool = False) -> list[Use]:
    """Return the uses of a module, those inside functions and those under literals included.

    Args:
        text: Text of the module.
        module: Its absolute dotted name, which relative imports start from.
        is_package: Whether it is a package's ``__init__``.
    """
    tree = ast.parse(text)
    imports = _Imports(module if is_package else module.rpartition(".")[0])
    imports.visit(tree)
    chains = _Chains(imports.bound)
    chains.visit(tree)
    return [*imports.found, *chains.found]


def run_time(found: Sequence[Use]) -> list[Use]:
    """Return the uses that are not for types alone."""
    return [use for use in found if not use.for_types]


class _Imports(ast.NodeVisitor):
    """Collector of import statements and calls, and of the local names they bind."""

    def __init__(self, package: str) -> None:
        self.package = package
        self.found: list[Use] = []
        self.bound: dict[str, list[Use]] = defaultdict(list)
        self.for_types = False

    def visit_If(self, node: ast.If) -> None:
        outside = self.for_types
        self.for_types = outside or _last_name(node.test) == "TYPE_CHECKING"
        for statement in node.body:
            self.visit(statement)
        self.for_types = outside
        for child in (node.test, *node.orelse):
            self.visit(child)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(alias.name, node.lineno)
            first = alias.name.partition(".")[0]
            self._bind(alias.asname or first, alias.name if alias.asname else first, node.lineno)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        start = self._absolute("." * node.level + (node.module or ""))
        for alias in node.names:
            name = f"{start}.{alias.name}"
            self._add(name, node.lineno)
            self._bind(alias.asname or alias.name, name, node.lineno)

    def visit_Call(self, node: ast.Call) -> None:
        if self._imports(node.func):
            values = [*node.args, *(keyword.value for keyword in node.keywords)]
            name, package, *_ = (*(_literal(one) for one in values), None, None)
            self._add(self._absolute(name, package) if name else UNREADABLE, node.lineno)
        self.generic_visit(node)

    def _imports(self, called: ast.expr) -> bool:
        """Whether a function that is called imports what it is given."""
        name = _last_name(called)
        names = {name, *(use.name.rpartition(".")[2] for use in self.bound.get(name, ()))}
        return not names.isdisjoint(("import_module", "__import__"))

    def _absolute(self, name: str, package: str | None = None) -> str:
        relative = name.lstrip(".")
        level = len(name) - len(relative)
        if not level:
            return name
        parts = (package or self.package).split(".")
        start = parts[: len(parts) - level + 1]
        return ".".join([*start, *([relative] if relative else [])])

    def _use(self, name: str, line: int) -> Use:
        return Use(name=name, line=line, for_types=self.for_types)

    def _add(self, name: str, line: int) -> None:
        self.found.append(self._use(name, line))

    def _bind(self, local: str, name: str, line: int) -> None:
        self.bound[local].append(self._use(name, line))


class _Chains(ast.NodeVisitor):
    """Collector of attributes that are read from imported names."""

    def __init__(self, bound: dict[str, list[Use]]) -> None:
        self.bound = bound
        self.found: list[Use] = []

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if not self._add(node):
            self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        self._add(node)
        self.generic_visit(node)

    def _add(self, node: ast.expr) -> bool:
        parts = _chain(node)
        if len(parts) < 2:
            return False
        starts = self.bound.get(parts[0], [])
        for_types = all(start.for_types for start in starts)
        for start in starts:
            name = ".".join((start.name, *parts[1:]))
            self.found.append(Use(name=name, line=node.lineno, for_types=for_types))
        return bool(starts)


def _chain(node: ast.expr) -> tuple[str, ...]:
    """Return ``a.b.c`` and ``getattr(a.b, "c")`` as their parts; empty for anything else."""
    if isinstance(node, ast.Name):
        return (node.id,)
    if isinstance(node, ast.Attribute):
        return _longer(_chain(node.value), node.attr)
    if isinstance(node, ast.Call) and _last_name(node.func) == "getattr" and len(node.args) > 1:
        return _longer(_chain(node.args[0]), _literal(node.args[1]))
    return ()


def _longer(parts: tuple[str, ...], name: str | None) -> tuple[str, ...]:
    return (*parts, name) if parts and name else ()


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else ""


def _literal(node: ast.expr) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def under(found: Sequence[Use], prefixes: Iterable[str]) -> list[Use]:
    """Return the run-time uses of some dotted names and of all that lies under them."""
    return [use for use in run_time(found) if any(use.within(prefix) for prefix in prefixes)]


def upward(found: Sequence[Use], module: str, layers: Sequence[str]) -> list[Use]:
    """Return the run-time uses of layers above a module's own.

    Args:
        found: Uses of the module.
        module: Its absolute dotted name.
        layers: Dotted names inside the package, the lowest first; the longest that fits a name
            is its layer. A name of the package that lies in no layer is the package itself, which
            imports everything.
    """
    own = height(module, layers)
    inside = under(found, [module.partition(".")[0]])
    return [use for use in inside if height(use.name, layers) > own]


def height(name: str, layers: Sequence[str]) -> int:
    """Return the number of a name's layer; that of the package itself is above all others."""
    inside = f"{name.partition('.')[2]}."
    fitting = [number for number, layer in enumerate(layers) if inside.startswith(f"{layer}.")]
    return max(fitting, key=lambda number: len(layers[number]), default=len(layers))

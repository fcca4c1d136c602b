"""Read clang's JSON syntax tree into a flat list of nodes with the lines they stand on."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .toolchain import INCLUDE

MAIN_FILE = "<stdin>"

_LINE_DIRECTIVE = re.compile(r'^\s*#\s*line\s+(\d+)(?:\s+"([^"]*)")?')


@dataclass(frozen=True, slots=True)
class Place:
    """A position in a text, as its ``#line`` directives number it."""

    file: str
    line: int
    column: int


class LineMap:
    """Turns offsets in a text into places."""

    def __init__(self, text: str) -> None:
        self._starts: list[int] = []
        self._places: list[tuple[str, int]] = []
        file, line, offset = MAIN_FILE, 0, 0
        for row in text.splitlines(keepends=True):
            directive = _LINE_DIRECTIVE.match(row)
            line += 1
            self._starts.append(offset)
            self._places.append((file, line))
            if directive:
                file, line = directive.group(2) or file, int(directive.group(1)) - 1
            offset += len(row)

    def place(self, offset: int) -> Place:
        """Return the place of the character at ``offset``."""
        index = bisect_right(self._starts, offset) - 1
        file, line = self._places[index]
        return Place(file, line, offset - self._starts[index] + 1)


@dataclass(slots=True)
class Node:
    """One node of the tree.

    Attributes:
        kind: Clang's name of its class.
        raw: Clang's record of it.
        parent: The node above, None at the top.
        function: The nearest function around it, or the function itself.
        place: Where it stands; None for what has no place in the text, such as what clang adds.
    """

    kind: str
    raw: dict[str, Any]
    parent: Node | None
    function: Node | None
    place: Place | None

    @property
    def name(self) -> str:
        """Name of a declaration."""
        return str(self.raw.get("name", ""))

    @property
    def type(self) -> str:
        """Type as written."""
        return str(self.raw.get("type", {}).get("qualType", ""))

    @property
    def plain_type(self) -> str:
        """Type with its aliases resolved."""
        return str(self.raw.get("type", {}).get("desugaredQualType", self.type))

    @property
    def id(self) -> str:
        """Identity of the node in its dump."""
        return str(self.raw.get("id", ""))

    @property
    def implicit(self) -> bool:
        """Whether clang added the declaration."""
        return bool(self.raw.get("isImplicit"))


FUNCTIONS = frozenset(
    (
        "FunctionDecl",
        "CXXMethodDecl",
        "CXXConstructorDecl",
        "CXXDestructorDecl",
        "CXXConversionDecl",
    )
)


def read_tree(dump: str, text: str) -> list[Node]:
    """Return the nodes of a dump in the order of the text.

    Args:
        dump: What ``-ast-dump=json`` printed.
        text: The text that was compiled.
    """
    return list(_Reader(LineMap(text)).nodes(json.loads(dump)))


class _Reader:
    """Follows the dump in order, because it names files and lines only where they change."""

    def __init__(self, lines: LineMap) -> None:
        self._lines = lines
        self._file = ""
        self._line = 0

    def nodes(self, root: dict[str, Any]) -> Iterator[Node]:
        stack: list[tuple[dict[str, Any], Node | None]] = [(root, None)]
        while stack:
            raw, parent = stack.pop()
            node = self._node(raw, parent)
            yield node
            children = [*raw.get("array_filler", ()), *raw.get("inner", ())]
            stack.extend((child, node) for child in reversed(children) if child.get("kind"))

    def _node(self, raw: dict[str, Any], parent: Node | None) -> Node:
        places = [self._place(raw.get("loc", {}))]
        span = raw.get("range", {})
        places += [self._place(span.get("begin", {})), self._place(span.get("end", {}))]
        node = Node(
            kind=str(raw["kind"]),
            raw=raw,
            parent=parent,
            function=parent.function if parent else None,
            place=next((place for place in places if place), None),
        )
        if node.kind in FUNCTIONS:
            node.function = node
        return node

    def _place(self, location: dict[str, Any]) -> Place | None:
        if "spellingLoc" in location or "expansionLoc" in location:
            self._place(location.get("spellingLoc", {}))
            return self._place(location.get("expansionLoc", {}))
        self._file = location.get("file", self._file)
        self._line = location.get("line", self._line)
        if "offset" not in location or self._file.startswith(str(INCLUDE)):
            return None
        if self._file != MAIN_FILE:
            return Place(self._file, self._line, location["col"])
        return self._lines.place(location["offset"])

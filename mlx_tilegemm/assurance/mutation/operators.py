"""Small changes to a kernel's text, each of which a careful engineer could make by mistake.

An operator takes a text without its comments and yields edits. It knows Metal's syntax only as far
as it has to; an edit that does not compile is a mutant that the compiler catches.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

_NOISE = re.compile(r"//[^\n]*|/\*.*?\*/|^#[^\n]*|\[\[.*?\]\]|^typedef[^\n]*", re.M | re.S)
_LINE_MARKER = re.compile(r'#line (\d+)(?: "([^"]*)")?')


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Mutant:
    """One change to one template.

    Attributes:
        template: File the changed line comes from.
        line: Line in it.
        operator: Name of the operator.
        original: The changed lines as they were, with single spaces.
        mutated: The changed lines as they are.
        number: Which of the operator's edits on that line it is.
    """

    template: str
    line: int
    operator: str
    original: str
    mutated: str
    number: int

    @property
    def key(self) -> tuple[str, int, str, str, int]:
        """Key that the same change to the same line of a template has in all kernels."""
        shape = re.sub(r"\d+", "#", self.original)
        return (self.template, self.line, self.operator, shape, self.number)

    def __str__(self) -> str:
        return f"{self.template}:{self.line} {self.operator}: {self.original} -> {self.mutated}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """Replace ``text[start:end]``."""

    start: int
    end: int
    replacement: str


Operator = Callable[[str], Iterator[Edit]]


def mutants(text: str) -> Iterator[tuple[Mutant, str]]:
    """Yield every mutant of a text with the text that it makes."""
    plain = _NOISE.sub(lambda found: re.sub(r"[^\n]", " ", found.group()), text)
    places = _Places(text)
    seen: set[str] = set()
    for name, operator in OPERATORS.items():
        for edit in operator(plain):
            changed = text[: edit.start] + edit.replacement + text[edit.end :]
            if changed == text or changed in seen:
                continue
            seen.add(changed)
            yield places.mutant(name, edit), changed


class _Places:
    """Origin of each part of a text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._starts: list[int] = []
        self._count: Counter[tuple[str, int, str]] = Counter()
        self._places: list[tuple[str, int]] = []
        file, number, start = "", 1, 0
        for row in text.splitlines(keepends=True):
            marker = _LINE_MARKER.match(row)
            if marker:
                file, number = marker.group(2) or file, int(marker.group(1)) - 1
            self._starts.append(start)
            self._places.append((file, number))
            start += len(row)
            number += 1

    def mutant(self, operator: str, edit: Edit) -> Mutant:
        text = self._text
        template, line = self._places[bisect_right(self._starts, edit.start) - 1]
        first = text.rfind("\n", 0, edit.start) + 1
        last = text.find("\n", edit.end)
        last = len(text) if last < 0 else last
        self._count[template, line, operator] += 1
        changed = text[first : edit.start] + edit.replacement + text[edit.end : last]
        return Mutant(
            template=template.removeprefix("mlx_tilegemm/templates/"),
            line=line,
            operator=operator,
            original=" ".join(text[first:last].split()),
            mutated=" ".join(changed.split()) or "(nothing)",
            number=self._count[template, line, operator],
        )


def _each(pattern: str, *replacements: str) -> Operator:
    """Return an operator that replaces each match by each of some templates."""
    compiled = re.compile(pattern)

    def operator(text: str) -> Iterator[Edit]:
        for found in compiled.finditer(text):
            for replacement in replacements:
                yield Edit(
                    start=found.start(), end=found.end(), replacement=found.expand(replacement)
                )

    return operator


def _swapped(pairs: Mapping[str, str]) -> Operator:
    """Return an operator that replaces each word of a pair by the other one."""
    other = {**pairs, **{value: key for key, value in pairs.items()}}
    compiled = re.compile(r"(?<![\w.])(" + "|".join(map(re.escape, other)) + r")\b")

    def operator(text: str) -> Iterator[Edit]:
        for found in compiled.finditer(text):
            if _is_declared(text, found.start(), found.end()):
                continue
            yield Edit(start=found.start(), end=found.end(), replacement=other[found.group()])

    return operator


_DECLARED = re.compile(r"(?:\b(?:int|size_t|float|auto|Stride|bool|type|_type)|[*&>])\s*$")


def _is_declared(text: str, start: int, end: int) -> bool:
    """Whether a name stands where it gets its type: a parameter or a definition."""
    before = text[max(0, start - 40) : start]
    after = text[end : end + 2].strip()
    return bool(_DECLARED.search(before)) and after[:1] in ("", ",", ")", "=", ";", "{")


def _closing(text: str, opening: int) -> int:
    """Return where the bracket that opens at ``opening`` closes."""
    depth = 0
    for index in range(opening, len(text)):
        if text[index] in "([{":
            depth += 1
        elif text[index] in ")]}":
            depth -= 1
            if depth == 0:
                return index
    return len(text)


def _statements(text: str) -> Iterator[tuple[int, int]]:
    """Yield the spans of simple statements, semicolons included."""
    start, depth = 0, 0
    for index, character in enumerate(text):
        if character in "([":
            depth += 1
        elif character in ")]":
            depth -= 1
        elif depth == 0 and character in "{}":
            start = index + 1
        elif depth == 0 and character == ";":
            lead = len(text[start:index]) - len(text[start:index].lstrip())
            yield start + lead, index + 1
            start = index + 1


_DECLARATION = re.compile(
    r"(?:MLX_MTL_PRAGMA_UNROLL|template|using|struct|constant|const|constexpr|static|auto|int|uint|"
    r"size_t|ushort|float|float2|bool|threadgroup|thread|device|typedef|typename|for|"
    r"Fragment\w*|Run|\w+_type|matrix8x8|fragment)\b(?![(.])"
)


def _delete_statement(text: str) -> Iterator[Edit]:
    for start, end in _statements(text):
        statement = text[start:end]
        if statement.strip(" ;\n") and not _DECLARATION.match(statement):
            yield Edit(start=start, end=end, replacement=";")


def _shift_declaration(text: str) -> Iterator[Edit]:
    pattern = re.compile(r"\b(?:int|uint|size_t|auto)\s+\w+\s*=\s*([^;]+);")
    for found in pattern.finditer(text):
        before = text[max(0, found.start() - 10) : found.start()]
        if "for (" not in before and "constexpr" not in before:
            value = found.group(1)
            yield Edit(start=found.start(1), end=found.end(1), replacement=f"({value}) + 1")


def _shift_index(text: str) -> Iterator[Edit]:
    declared = re.compile(
        r"\b(?:threadgroup|thread|float|float2|accumulator_type|T|fragment|\w+_type|"
        r"\w+<[^;]*>|matrix8x8)\s+\w+(?:\[[^;{}=]*\])+\s*;"
    )
    skipped = [found.span() for found in declared.finditer(text)]
    for found in re.finditer(r"[\w\])](\[)", text):
        opening = found.start(1)
        closing = _closing(text, opening)
        if any(start <= opening < end for start, end in skipped):
            continue
        index = text[opening + 1 : closing]
        if index.strip():
            yield Edit(start=opening + 1, end=closing, replacement=f"({index}) + 1")


def _resize_array(text: str) -> Iterator[Edit]:
    for found in re.finditer(r"\bthreadgroup \w+ \w+\[(\d+)\];", text):
        size = int(found.group(1))
        for smaller in (size - 1, size // 2):
            yield Edit(start=found.start(1), end=found.end(1), replacement=str(smaller))


def _drop_condition(text: str) -> Iterator[Edit]:
    for found in re.finditer(r"\bif (\()", text):
        opening = found.start(1)
        closing = _closing(text, opening)
        yield Edit(start=opening + 1, end=closing, replacement="true")
        yield Edit(start=opening + 1, end=closing, replacement="false")
    for found in re.finditer(r" \? ", text):
        yield Edit(start=found.start(), end=found.end(), replacement=" || true ? ")
        yield Edit(start=found.start(), end=found.end(), replacement=" && false ? ")


def _drop_conjunct(text: str) -> Iterator[Edit]:
    for found in re.finditer(r" (&&|\|\|) ", text):
        neutral = "true" if found.group(1) == "&&" else "false"
        start, end = _term(text, found.start(), -1), _term(text, found.end(), 1)
        yield Edit(start=start, end=found.start(), replacement=neutral)
        yield Edit(start=found.end(), end=end, replacement=neutral)


def _term(text: str, index: int, step: int) -> int:
    """Return the far end of the term of a condition that begins or ends at ``index``."""
    depth = 0
    inward, outward = ("(", ")") if step > 0 else (")", "(")
    while 0 <= index < len(text):
        character = text[index if step > 0 else index - 1]
        if character == inward:
            depth += 1
        elif character == outward:
            if depth == 0:
                return index
            depth -= 1
        ahead = text[index : index + 4] if step > 0 else text[max(0, index - 4) : index]
        if depth == 0 and (
            character in ";{}?," or ahead in (" && ", " || ") or (step < 0 and ahead[-3:] == " = ")
        ):
            return index
        index += step
    return index


def _drop_cast(text: str) -> Iterator[Edit]:
    for found in re.finditer(r"\b(?:float|int|\w+_type|T|as_type<int>|ushort)(\()", text):
        opening = found.start(1)
        closing = _closing(text, opening)
        inner = text[opening : closing + 1]
        yield Edit(start=found.start(), end=closing + 1, replacement=inner)


def _swap_arguments(text: str) -> Iterator[Edit]:
    """Swap each two neighbours among the arguments of each call and of each template."""
    for found in re.finditer(r"\b(\w+)(?:<[^;(){}]*>)?(\()", text):
        if found.group(1) in ("if", "for", "while", "return", "MLX_MTL_CONST", "min", "max"):
            continue  # no call, or one to which the order is nothing
        opening = found.start(2)
        closing = _closing(text, opening)
        if text[closing + 1 : closing + 3].strip().startswith("{"):
            continue
        yield from _swapped_neighbours(text, opening + 1, closing)
    for found in re.finditer(r"\b\w+<([^<>;(){}]*,[^<>;(){}]*)>\s*\(", text):
        yield from _swapped_neighbours(text, found.start(1), found.end(1))


def _swapped_neighbours(text: str, start: int, end: int) -> Iterator[Edit]:
    spans: list[tuple[int, int]] = []
    depth, first = 0, start
    for index in range(start, end + 1):
        if index == end or (text[index] == "," and depth == 0):
            part = text[first:index]
            lead = len(part) - len(part.lstrip())
            spans.append((first + lead, first + len(part.rstrip())))
            first = index + 1
        elif text[index] in "([{":
            depth += 1
        elif text[index] in ")]}":
            depth -= 1
    for (a, b), (c, d) in pairwise(spans):
        yield Edit(start=a, end=d, replacement=text[c:d] + text[b:c] + text[a:b])


def _change_literal(text: str) -> Iterator[Edit]:
    for found in re.finditer(r"(?<![\w.<])(\d+)(?![\w.])", text):
        rest = text[found.end() : found.end() + 1]
        if "constexpr int" in text[text.rfind("\n", 0, found.start()) : found.start()]:
            continue
        if rest == "]" and re.search(
            r"(?:threadgroup|float|_type)\s+\w+\[$", text[: found.start()][-60:]
        ):
            continue
        value = int(found.group(1))
        yield Edit(start=found.start(), end=found.end(), replacement=str(value + 1))
        if value > 1:
            yield Edit(start=found.start(), end=found.end(), replacement=str(value - 1))
    for found in re.finditer(r"(?<![\w.])(\d+\.\d+)f\b", text):
        yield Edit(
            start=found.start(), end=found.end(), replacement=f"{float(found.group(1)) + 0.5}f"
        )


_OTHER = {"+": "-", "-": "+", "*": "+", "/": "*", "%": "/"}


def _arithmetic(text: str) -> Iterator[Edit]:
    for found in re.finditer(r"(?<=[\w)\]}]) ([+*/%-]) (?=[\w(])", text):
        other = _OTHER[found.group(1)]
        yield Edit(start=found.start(), end=found.end(), replacement=f" {other} ")


_NAMES = {
    "row_stride": "column_stride",
    "a_row_stride": "a_column_stride",
    "b_row_stride": "b_column_stride",
    "a_tile_row_stride": "a_tile_column_stride",
    "b_tile_row_stride": "b_tile_column_stride",
    "A_TILE_STRIDE": "B_TILE_STRIDE",
    "HEAD_TILE_STRIDE": "VALUE_TILE_STRIDE",
    "lane_row": "lane_column",
    "simdgroup_row": "simdgroup_column",
    "first_row": "first_column",
    "thread_row": "thread_column",
    "a_matrix": "b_matrix",
    "q_matrix": "kv_matrix",
    "GUARD_M": "GUARD_N",
    "GUARD_ROWS": "GUARD_COLUMNS",
    "ROWS": "COLUMNS",
    "BLOCK_M": "BLOCK_N",
    "THREADS_M": "THREADS_N",
    "FRAGMENTS_M": "FRAGMENTS_N",
    "HEAD_DIM": "VALUE_DIM",
    "HEAD_FRAGMENTS": "VALUE_FRAGMENTS",
    "N": "K",
    "rows": "columns",
    "q_len": "kv_len",
    "fragment_row": "fragment_column",
    "thread_index_in_simdgroup": "thread_index_in_threadgroup",
    "true": "false",
    "min": "max",
}

OPERATORS: Mapping[str, Operator] = {
    "weaken-barrier": _each(
        r"threadgroup_barrier\(mem_flags::mem_threadgroup\)",
        "threadgroup_barrier(mem_flags::mem_none)",
        "threadgroup_barrier(mem_flags::mem_device)",
        "simdgroup_barrier(mem_flags::mem_threadgroup)",
    ),
    "delete-statement": _delete_statement,
    "resize-array": _resize_array,
    "widen-tile": _each(
        r"(?m)^(constant constexpr int \w+ = )([^;]+);", r"\1(\2) + 8;", r"\1(\2) - 1;"
    ),
    "drop-condition": _drop_condition,
    "drop-conjunct": _drop_conjunct,
    "swap-name": _swapped(_NAMES),
    "swap-arguments": _swap_arguments,
    "swap-axis": _each(r"(threadgroup_position_in_grid)\.x", r"\1.y", r"\1.z"),
    "swap-axes": _each(r"(threadgroup_position_in_grid)\.([yz])", r"\1.x"),
    "swap-element": _each(r"(?<=\w)\.x\b(?! *<)", ".y"),
    "shift-index": _shift_index,
    "shift-declaration": _shift_declaration,
    "drop-cast": _drop_cast,
    "comparison": _each(r" (<|>)(=?) ", r" \1 ", r" \1= "),
    "equality": _each(r" (?:==|!=) ", " == ", " != "),
    "logic": _each(r" (?:&&|\|\|) ", " && ", " || "),
    "arithmetic": _arithmetic,
    "bits": _each(r" (?:&|<<|>>) ", " & ", " << ", " >> "),
    "assignment": _each(r" (?:\+=|-=|\*=|/=) ", " = ", " += ", " -= "),
    "increment": _each(r"\+\+(\w+)", r"\1 += 2"),
    "literal": _change_literal,
    "infinity": _each(r"-INFINITY", "0.0f", "INFINITY"),
}
"""Every operator by name. `size_t` casts are left alone: that they are there matters only beyond
2**31 elements, which no small problem reaches."""

GENERIC = frozenset(("arithmetic", "literal", "swap-arguments", "swap-name"))
"""Operators that change anything anywhere; the others are mistakes with names."""

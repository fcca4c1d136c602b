"""Rules about Metal text that need no compiler, and the traps of how MLX builds a signature."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from ..core.plan import Source
from ..msl.lexer import Kind, Token, match_close, tokenize
from .finding import Finding
from .statements import Scope, Statement, statements
from .syntax import LineMap

MAX_TEXT_BYTES = 32768
"""MLX hashes the text at every evaluation, so it has to stay small."""

MAX_BUFFERS = 31
"""Buffers that Metal binds to one kernel."""

ATTRIBUTES = {
    "dispatch_quadgroups_per_threadgroup": "uint",
    "dispatch_simdgroups_per_threadgroup": "uint",
    "dispatch_threads_per_threadgroup": "uint3",
    "grid_origin": "uint3",
    "grid_size": "uint3",
    "quadgroup_index_in_threadgroup": "uint",
    "quadgroups_per_threadgroup": "uint",
    "simdgroup_index_in_threadgroup": "uint",
    "simdgroups_per_threadgroup": "uint",
    "thread_execution_width": "uint",
    "thread_index_in_quadgroup": "uint",
    "thread_index_in_simdgroup": "uint",
    "thread_index_in_threadgroup": "uint",
    "thread_position_in_grid": "uint3",
    "thread_position_in_threadgroup": "uint3",
    "threadgroup_position_in_grid": "uint3",
    "threadgroups_per_grid": "uint3",
    "threads_per_grid": "uint3",
    "threads_per_simdgroup": "uint",
    "threads_per_threadgroup": "uint3",
}
"""Arguments that MLX passes to a kernel whose body names them, with their types, in its order."""

SHAPE_SUFFIXES = ("_shape", "_strides", "_ndim")
"""Arguments that MLX passes for an input whose name with the suffix occurs in the body."""

_REFUSED_WORDS = {
    **dict.fromkeys(("goto", "asm", "new", "delete", "noexcept"), "Metal has no {}"),
    **dict.fromkeys(("throw", "try", "catch"), "Metal has no exceptions"),
    **dict.fromkeys(("virtual", "dynamic_cast", "typeid", "std"), "Metal has no {}"),
    **dict.fromkeys(("register", "thread_local"), "Metal has no storage class {}"),
    **dict.fromkeys(("double", "wchar_t", "char16_t", "char32_t"), "Metal has no {}"),
    **dict.fromkeys(("co_await", "co_yield", "co_return", "concept", "requires"), "C++20's {}"),
    **dict.fromkeys(("consteval", "constinit"), "C++20's {}"),
    **dict.fromkeys(("_Float16", "__fp16", "__bf16", "__half"), "{} is not a Metal type"),
}
_RESERVED_NAMES = frozenset(("vertex", "fragment", "ray_data", "object_data"))
_GIVEN_NAMES = frozenset(
    ("__METAL_VERSION__", "__METAL__", "__METAL_MACOS__", "__FAST_MATH__", "__LINE__")
)
_FLOAT = re.compile(r"(?:\d[\d']*\.?[\d']*|\.\d[\d']*)(?:[eE][+-]?\d+)?(?P<suffix>[A-Za-z]*)")
_WHOLE = re.compile(r"(?:0[xX][0-9a-fA-F']+|0[bB][01']+|\d[\d']*)(?P<suffix>[A-Za-z]*)")
_FLOAT_SUFFIXES = frozenset(("f", "F", "h", "H", "bf", "BF"))
_WHOLE_SUFFIXES = frozenset(("", "u", "U", "l", "L", "ul", "UL", "uL", "Ul", "lu", "LU"))
_INCLUDE = re.compile(r"#\s*include\s*(?P<what>.*)")
_PRAGMA = re.compile(r"#\s*pragma\s+(?P<what>\w+)")


def lint_text(text: str, name: str = "kernel.metal") -> tuple[Finding, ...]:
    """Check one Metal text, with or without the signature MLX gives it.

    Args:
        text: The text.
        name: Names the text, and its lines up to the first ``#line``.
    """
    return tuple(sorted(_Lint(text, name).findings()))


def lint_source(source: Source) -> tuple[Finding, ...]:
    """Check a rendered kernel for what MLX's way of building the signature would make of it."""
    checks = (_source_names, _header_end, _attribute_traps, _shape_traps, _signature_bug)
    return tuple(
        Finding(file=source.name, line=0, column=0, rule=rule, message=message)
        for check in checks
        for rule, message in check(source)
    )


class _Lint:
    def __init__(self, text: str, name: str) -> None:
        self._text = text
        self._name = name
        self._prefix = f'#line 1 "{name}"\n'
        self._lines = LineMap(self._prefix + text)
        self._tokens = tokenize(text)

    def findings(self) -> Iterator[Finding]:
        yield from self._whole()
        for index, token in enumerate(self._tokens):
            if token.kind is Kind.WORD:
                yield from self._word(token)
            elif token.kind is Kind.NUMBER:
                yield from self._number(token)
            elif token.kind is Kind.DIRECTIVE:
                yield from self._directive(token)
            elif token.text == "[":
                yield from self._lambda(index)
        for statement in statements(self._tokens):
            yield from self._statement(statement)

    def _finding(self, start: int, rule: str, message: str) -> Finding:
        place = self._lines.place(start + len(self._prefix))
        return Finding(
            file=place.file, line=place.line, column=place.column, rule=rule, message=message
        )

    def _whole(self) -> Iterator[Finding]:
        size = len(self._text.encode())
        if size > MAX_TEXT_BYTES:
            yield self._finding(0, "size", f"{size} bytes exceed {MAX_TEXT_BYTES}")
        for match in re.finditer(r"[^\n\t\x20-\x7e]", self._text):
            yield self._finding(match.start(), "ascii", f"{match.group()!r} is not printable ASCII")

    def _word(self, token: Token) -> Iterator[Finding]:
        word = token.text
        if word in _REFUSED_WORDS:
            yield self._finding(token.start, "word", _REFUSED_WORDS[word].format(word))
        elif word in _RESERVED_NAMES:
            yield self._finding(token.start, "reserved", f"{word} is a word of Metal, not a name")
        elif re.match(r"__|_[A-Z]", word) and word not in _GIVEN_NAMES and word != "_Pragma":
            yield self._finding(token.start, "reserved", f"{word} belongs to the compiler")

    def _number(self, token: Token) -> Iterator[Finding]:
        whole = _WHOLE.fullmatch(token.text)
        if whole and whole["suffix"] in _WHOLE_SUFFIXES:
            return
        found = _FLOAT.fullmatch(token.text)
        if found and found["suffix"] in _FLOAT_SUFFIXES and not whole:
            return
        if found and not found["suffix"]:
            yield self._finding(
                token.start, "literal", f"{token.text} needs an f or an h behind it"
            )
        else:
            yield self._finding(token.start, "literal", f"{token.text} is no literal of Metal")

    def _directive(self, token: Token) -> Iterator[Finding]:
        include = _INCLUDE.search(token.text)
        if include and not re.match(r"<metal_\w+>", include["what"]):
            yield self._finding(
                token.start, "include", f"{include['what']}: only <metal_*> is found at run time"
            )
        pragma = _PRAGMA.search(token.text)
        if pragma and pragma["what"] not in ("clang", "METAL"):
            yield self._finding(token.start, "pragma", f"Metal has no pragma {pragma['what']}")

    def _lambda(self, index: int) -> Iterator[Finding]:
        before = self._tokens[index - 1] if index else None
        if before and (before.text in ("]", ")", "[", "operator") or _is_operand(before)):
            return
        after = match_close(self._tokens, index) + 1
        if after < len(self._tokens) and self._tokens[after].text in ("(", "{", "mutable"):
            start = self._tokens[index].start
            yield self._finding(start, "lambda", "lambdas need Metal 3.2")

    def _statement(self, statement: Statement) -> Iterator[Finding]:
        if not statement.declares_variable():
            return
        start, words = statement.tokens[0].start, statement.specifiers()
        if statement.at_program_scope and "constant" not in words:
            yield self._finding(start, "program-scope", "a variable outside functions is constant")
        scopes = statement.scopes
        in_kernel = bool(scopes) and scopes[-1] is Scope.KERNEL
        if "threadgroup" in words and not statement.is_pointer() and not in_kernel:
            yield self._finding(
                start, "threadgroup-scope", "threadgroup memory is declared in a kernel's own scope"
            )
        inside = any(scope in (Scope.FUNCTION, Scope.KERNEL) for scope in scopes)
        if inside and Scope.CLASS not in scopes and "static" in words:
            yield self._finding(start, "static-local", "Metal has no static variables in functions")


def _is_operand(token: Token) -> bool:
    return token.kind in (Kind.NUMBER, Kind.STRING) or (
        token.kind is Kind.WORD and token.text not in ("return", "case", "else", "do")
    )


Trap = Iterator[tuple[str, str]]


@lru_cache(maxsize=256)
def words(text: str) -> frozenset[str]:
    """Return the words of a text, without comments, strings and directives."""
    return frozenset(token.text for token in tokenize(text) if token.kind is Kind.WORD)


def _source_names(source: Source) -> Trap:
    if not re.fullmatch(r"[A-Za-z]\w*", source.name, re.ASCII):
        yield "name", f"{source.name} is not a legal part of a Metal name"
    names = (*source.input_names, *source.output_names)
    for name in names:
        if not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII) or name in ATTRIBUTES:
            yield "name", f"{name} is not a legal name of a buffer"
    if len(set(names)) != len(names):
        yield "name", f"two buffers share a name: {', '.join(names)}"
    if _buffers(source) > MAX_BUFFERS:
        yield "buffers", f"{_buffers(source)} buffers exceed {MAX_BUFFERS}"


def _buffers(source: Source) -> int:
    asked = sum(name + s in source.body for name in source.input_names for s in SHAPE_SUFFIXES)
    return len(source.input_names) + len(source.output_names) + asked


def _header_end(source: Source) -> Trap:
    if source.header and not source.header.endswith("\n"):
        yield "header", "the header does not end its last line, where MLX puts the signature"


def _attribute_traps(source: Source) -> Trap:
    found = words(source.body)
    for name in ATTRIBUTES:
        if name in source.body and name not in found:
            yield (
                "attribute-trap",
                f"{name} occurs in the body, but not as a word of the code, and MLX passes it",
            )


def _shape_traps(source: Source) -> Trap:
    found = words(source.body)
    for name in (name + suffix for name in source.input_names for suffix in SHAPE_SUFFIXES):
        if name in source.body and name not in found:
            yield (
                "shape-trap",
                f"{name} occurs in the body, but not as a word of the code, and MLX passes it",
            )


def _signature_bug(source: Source) -> Trap:
    shapes = _asks(source.body, source.input_names)
    attributes = any(name in source.body for name in ATTRIBUTES)
    if len(source.output_names) > 1 and shapes and not attributes:
        yield (
            "signature",
            "MLX writes a broken signature for several outputs with shapes and no attribute",
        )


def _asks(body: str, inputs: Sequence[str]) -> bool:
    return any(name + suffix in body for name in inputs for suffix in SHAPE_SUFFIXES)

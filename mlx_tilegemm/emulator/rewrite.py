"""Turns Metal text into C++ that the include directory of the emulator can compile.

Only what no header can express is touched: attributes, threadgroup variables, literal suffixes and
function constants. Lines keep their numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from .lexer import Kind, Token, match_angle, match_close, tokenize
from .overloads import drop_repeated_definitions
from .signature import (
    CONSTANT_ATTRIBUTES,
    THREAD_ATTRIBUTES,
    EntryPoint,
    Function,
    Parameter,
    Source,
    find_kernels,
    is_attribute,
    unknown_construct,
)

ConstantValue = bool | int | float

_METAL_INCLUDE = re.compile(r"\s*#\s*include\s*<(metal_\w+|metal_stdlib|simd/simd\.h)>")
_INCLUDE = re.compile(r"\s*#\s*include\b")
_HIDING_MACRO = re.compile(
    r"\s*#\s*define\b.*(\bkernel\b|\bthreadgroup\b|\[\[|\binstantiate_)", re.DOTALL
)
_SUFFIXED = re.compile(
    r"^(?P<digits>[0-9.][0-9.eE+']*(?:(?<=[eE])-[0-9]+)?)(?P<suffix>[hH]|bf|BF)$"
)
_SUFFIXED_ANYWHERE = re.compile(r"(?<![\w.])((?:\d+\.\d*|\.\d+|\d+)(?:[eE][+-]?\d+)?)(h|H|bf|BF)\b")

_STORAGE_WORDS = frozenset(("threadgroup", "const", "volatile", "static", "typename", "struct"))
_BUILTIN_WORDS = frozenset(("unsigned", "signed", "char", "short", "int", "long"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewritten:
    """C++ for a Metal text.

    Args:
        text: The C++ text, ready to compile behind the prelude.
        entries: What can be launched, in the order of the exported functions.
    """

    text: str
    entries: tuple[EntryPoint, ...]


def needs_expansion(text: str) -> bool:
    """Whether macros or includes may hide what the rewriter must see."""
    if "#" not in text:
        return False
    for token in tokenize(text):
        if token.kind is not Kind.DIRECTIVE:
            continue
        if _INCLUDE.match(token.text) and not _METAL_INCLUDE.match(token.text):
            return True
        if _HIDING_MACRO.match(token.text):
            return True
    return "instantiate_kernel" in text


def rewrite(text: str, function_constants: Mapping[int | str, ConstantValue]) -> Rewritten:
    """Rewrites a Metal text.

    Args:
        text: Metal text; see :func:`needs_expansion`.
        function_constants: Values by index or name.

    Returns:
        The C++ text and its entry points.

    Raises:
        KernelCompileError: The text holds a construct that the emulator does not know.
    """
    text = drop_repeated_definitions(text)
    every = tokenize(text)
    tokens = [token for token in every if token.kind is not Kind.DIRECTIVE]
    functions, entries = find_kernels(text, tokens)
    editor = _Editor(text, tokens, functions, function_constants)
    editor.run()
    for token in every:
        if token.kind is Kind.DIRECTIVE:
            editor.directive(token)
    body = editor.result()
    return Rewritten(text=body + _entry_code(entries), entries=tuple(entries))


class _Editor:
    """Collects replacements and applies them at once."""

    def __init__(
        self,
        text: str,
        tokens: list[Token],
        functions: list[Function],
        constants: Mapping[int | str, ConstantValue],
    ) -> None:
        self.text = text
        self.tokens = tokens
        self.bodies = [function.body for function in functions]
        self.constants = constants
        self.edits: list[tuple[int, int, str]] = []
        self.declarations = 0

    def run(self) -> None:
        index = 0
        while index < len(self.tokens):
            token = self.tokens[index]
            if is_attribute(self.tokens, index):
                index = self._attribute(index)
            elif token.kind is Kind.NUMBER:
                self._number(token)
            elif token.text == "threadgroup" and self._starts_statement(index):
                index = self._threadgroup(index)
            elif token.text == "is_function_constant_defined":
                index = self._constant_defined(index)
            index += 1

    def directive(self, token: Token) -> None:
        if re.match(r"\s*#\s*define\b", token.text):
            changed = _SUFFIXED_ANYWHERE.sub(lambda m: _literal(m[1], m[2]), token.text)
            if changed != token.text:
                self.edits.append((token.start, token.end, changed))

    def result(self) -> str:
        pieces = []
        position = 0
        for start, end, replacement in sorted(self.edits):
            lost = self.text.count("\n", start, end) - replacement.count("\n")
            pieces += [self.text[position:start], replacement, "\n" * max(lost, 0)]
            position = end
        pieces.append(self.text[position:])
        return "".join(pieces)

    def _attribute(self, index: int) -> int:
        close = match_close(self.tokens, index)
        replacement = ""
        names = {token.text for token in self.tokens[index:close]}
        if "function_constant" in names and not self._in_parameters(index):
            replacement = self._function_constant(index, close)
        self.edits.append((self.tokens[index].start, self.tokens[close].end, replacement))
        return close

    def _in_parameters(self, index: int) -> bool:
        following = next(
            t.text for t in self.tokens[match_close(self.tokens, index) + 1 :] if t.text != "["
        )
        return following in (",", ")")

    def _function_constant(self, index: int, close: int) -> str:
        """Gives a function constant its value; the declaration must end behind the attribute."""
        name = self.tokens[index - 1].text
        where = [i for i in range(index, close) if self.tokens[i].text == "("]
        number = self.tokens[where[0] + 1].text if where else ""
        start = index - 1
        while start > 0 and self.tokens[start - 1].text not in (";", "}", "{"):
            start -= 1
        if self.tokens[start].text != "constant" or not number.isdigit():
            raise unknown_construct(self.text, self.tokens[index], "this function constant")
        self.edits.append((self.tokens[start].start, self.tokens[start].end, "static constexpr"))
        value = self.constants.get(int(number), self.constants.get(name))
        return "{}" if value is None else f" = {_constant_text(value)}"

    def _constant_defined(self, index: int) -> int:
        close = match_close(self.tokens, index + 1)
        name = self.tokens[index + 2].text
        defined = name in self.constants or self._number_of(name) in self.constants
        span = (self.tokens[index].start, self.tokens[close].end)
        self.edits.append((*span, "true" if defined else "false"))
        return close

    def _number_of(self, name: str) -> int | str:
        pattern = rf"\b{re.escape(name)}\s*\[\[\s*function_constant\s*\(\s*(\d+)"
        found = re.search(pattern, self.text)
        return int(found[1]) if found else name

    def _number(self, token: Token) -> None:
        if token.text[-1] not in "hHfF" or token.text[:2] in ("0x", "0X"):
            return
        found = _SUFFIXED.match(token.text)
        if found:
            self.edits.append((token.start, token.end, _literal(found["digits"], found["suffix"])))

    def _starts_statement(self, index: int) -> bool:
        before = index - 1
        while before >= 0 and self.tokens[before].text in ("const", "volatile", "static", ")"):
            if self.tokens[before].text == ")":
                opening = self._before_alignas(before)
                if opening is None:
                    return False
                before = opening
                continue
            before -= 1
        starts = before < 0 or self.tokens[before].text in (";", "{", "}", ":", "]")
        return starts and any(first < index < last for first, last in self.bodies)

    def _before_alignas(self, close: int) -> int | None:
        depth = 0
        for index in range(close, -1, -1):
            depth += {")": 1, "(": -1}.get(self.tokens[index].text, 0)
            if depth == 0:
                return index - 2 if self.tokens[index - 1].text == "alignas" else None
        return None

    def _threadgroup(self, index: int) -> int:
        """Rewrites one declaration of threadgroup variables; pointers are left alone."""
        end = self._statement_end(index)
        type_start, type_end = self._type_span(index, end)
        if self.tokens[type_end].text in ("*", "&", "("):
            return type_end
        if self.tokens[type_end].kind is not Kind.WORD:
            raise unknown_construct(
                self.text, self.tokens[index], "this declaration of threadgroup memory"
            )
        declarators = self._declarators(type_end, end)
        start = self._statement_start(index)
        alignment = self._alignment(start, type_start)
        kind = self.text[self.tokens[type_start].start : self.tokens[type_end - 1].end]
        code = " ".join(self._storage(kind, alignment, name, dims) for name, dims in declarators)
        self._drop_edits_from(self.tokens[start].start)
        self.edits.append((self.tokens[start].start, self.tokens[end].end, code))
        return end

    def _statement_end(self, index: int) -> int:
        while index < len(self.tokens) and self.tokens[index].text != ";":
            if self.tokens[index].text in ("(", "[", "{"):
                index = match_close(self.tokens, index)
            index += 1
        return index

    def _statement_start(self, index: int) -> int:
        while self.tokens[index - 1].text not in (";", "{", "}", ":"):
            index -= 1
        return index

    def _alignment(self, start: int, stop: int) -> str:
        for index in range(start, stop):
            if self.tokens[index].text == "alignas":
                close = match_close(self.tokens, index + 1)
                return self.text[self.tokens[index + 1].start : self.tokens[close].end]
        return ""

    def _drop_edits_from(self, start: int) -> None:
        self.edits = [edit for edit in self.edits if edit[0] < start]

    def _type_span(self, index: int, end: int) -> tuple[int, int]:
        """Token range of the type in a declaration that starts with ``threadgroup``."""
        while self.tokens[index].text in _STORAGE_WORDS or self.tokens[index].text == "alignas":
            if self.tokens[index].text == "alignas":
                index = match_close(self.tokens, index + 1)
            index += 1
        start = index
        if self.tokens[index].text in _BUILTIN_WORDS:
            while self.tokens[index].text in _BUILTIN_WORDS:
                index += 1
            return start, index
        while index < end:
            index += 1
            if self.tokens[index].text == "<":
                index = match_angle(self.tokens, index) + 1
            if self.tokens[index].text != "::":
                break
            index += 1
        if self.tokens[index].text == "const":
            index += 1
        return start, index

    def _declarators(self, index: int, end: int) -> list[tuple[str, str]]:
        found = []
        while index < end:
            name = self.tokens[index]
            index += 1
            first = index
            while self.tokens[index].text == "[":
                index = match_close(self.tokens, index) + 1
            dims = self.text[self.tokens[first].start : self.tokens[index - 1].end]
            found.append((name.text, dims if index > first else ""))
            if name.kind is not Kind.WORD or self.tokens[index].text not in (",", ";"):
                raise unknown_construct(
                    self.text, name, f"this declaration of the threadgroup variable '{name.text}'"
                )
            index += 1
        return found

    def _storage(self, kind: str, alignment: str, name: str, dims: str) -> str:
        number = self.declarations
        self.declarations += 1
        alias = f"msl_rt_type_{number}"
        return (
            f"typedef {kind} {alias}{dims}; {alias}& {name} = "
            f"::msl_rt::threadgroup_storage<{alias}, {alignment or 0}>("
            f'{number}, "{name}", ::msl_rt::Site::here());'
        )


def _literal(digits: str, suffix: str) -> str:
    exact = digits if any(c in digits for c in ".eE") else f"{digits}.0"
    return f"{'half' if suffix in 'hH' else 'bfloat'}({exact}f)"


def _constant_text(value: ConstantValue) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value)


def _entry_code(entries: list[EntryPoint]) -> str:
    """Exports two functions per entry point: one that runs a thread, one that describes."""
    lines = ['\n#line 1 "entry points"']
    for number, entry in enumerate(entries):
        arguments = [f"&{entry.expression}"]
        for position, parameter in enumerate(entry.function.parameters):
            arguments.append(_argument(position, parameter))
        lines += [
            f'extern "C" MSL_RT_EXPORT void msl_entry_{number}('
            "void* const* arguments, const msl_rt::ThreadIds* ids) {",
            "  (void)arguments; (void)ids;",
            f"  msl_rt::call({', '.join(arguments)});",
            "}",
            f'extern "C" MSL_RT_EXPORT unsigned msl_describe_{number}('
            "msl_rt::Parameter* parameters) {",
            f"  return msl_rt::describe(&{entry.expression}, parameters);",
            "}",
        ]
    return "\n".join(lines) + "\n"


def _argument(position: int, parameter: Parameter) -> str:
    if parameter.source is not Source.THREAD:
        return f"msl_rt::Memory{{arguments[{position}]}}"
    if parameter.attribute in CONSTANT_ATTRIBUTES:
        return CONSTANT_ATTRIBUTES[parameter.attribute]
    return f"ids->{THREAD_ATTRIBUTES[parameter.attribute]}"

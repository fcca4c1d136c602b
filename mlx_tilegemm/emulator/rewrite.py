"""Turns Metal text into C++ that the include directory of the emulator can compile.

Only what no header can express is touched: attributes, threadgroup variables, literal suffixes,
function constants and subscripts that are to be checked. Lines keep their numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..msl.lexer import Kind, Token, match_angle, match_close, tokenize
from .dialect import respell
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
from .subscripts import Subscripts

ConstantValue = bool | int | float

_METAL_INCLUDE = re.compile(r"\s*#\s*include\s*<(metal_\w+|metal_stdlib|simd/simd\.h)>")
_INCLUDE = re.compile(r"\s*#\s*include\b")
_HIDING_MACRO = re.compile(
    r"\s*#\s*define\b.*(\bkernel\b|\bthreadgroup\b|\bconstant\b|\[\[|##|\binstantiate_|\?)",
    re.DOTALL,
)
# What they leave out may be a parameter or a whole kernel.
_CONDITION = re.compile(r"\s*#\s*if")
_DEFINE = re.compile(r"\s*#\s*define\s+\w+")
_SUBSCRIPTING_MACRO = re.compile(
    r"^[ \t]*#[ \t]*define\b(?:[^\n\\]|\\.)*[\w)\]][ \t]*\[", re.MULTILINE | re.DOTALL
)
_SUFFIXED = re.compile(
    r"^(?P<digits>[0-9.][0-9.eE+']*(?:(?<=[eE])-[0-9]+)?|0[xX][0-9a-fA-F.']+[pP][+-]?[0-9']+)"
    r"(?P<suffix>[hH]|bf|BF)$"
)
_UNSUFFIXED = re.compile(
    r"(?:[0-9']+\.[0-9']*|\.[0-9']+)(?:[eE][+-]?[0-9']+)?"
    r"|[0-9']+[eE][+-]?[0-9']+"
    r"|0[xX][0-9a-fA-F.']+[pP][+-]?[0-9']+"
)
# Only a number or nothing says how far to unroll once the macros are gone.
_UNROLL_BY_NAME = re.compile(
    r"\s*#\s*pragma\s+(?:unroll|clang\s+loop\s+unroll_count)\s*\(?\s*[A-Za-z_]"
)

_STORAGE_WORDS = frozenset(("threadgroup", "const", "volatile", "static", "struct"))
_CONSTANT_WORDS = frozenset(("constant", "static", "const", "constexpr"))
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
        if _HIDING_MACRO.match(token.text) or _CONDITION.match(token.text):
            return True
    return "instantiate_kernel" in text


def hides_subscripts(text: str) -> bool:
    """Whether macros may hide subscripts that are to be checked."""
    return _SUBSCRIPTING_MACRO.search(text) is not None


def rewrite(
    text: str,
    function_constants: Mapping[int | str, ConstantValue],
    *,
    describes: bool = True,
) -> Rewritten:
    """Rewrites a Metal text.

    Args:
        text: Metal text; see :func:`needs_expansion`.
        function_constants: Values by index or name.
        describes: Whether functions follow that run and describe its kernels.

    Returns:
        The C++ text and its entry points.

    Raises:
        KernelCompileError: The text holds a construct that the emulator does not know.
    """
    text = respell(drop_repeated_definitions(text))
    every = tokenize(text)
    tokens = [token for token in every if token.kind is not Kind.DIRECTIVE]
    functions, entries = find_kernels(text, tokens)
    editor = _Editor(text, tokens, functions, function_constants)
    editor.run()
    for token in every:
        if token.kind is Kind.DIRECTIVE:
            editor.directive(token)
    body = editor.result()
    code = _entry_code(entries) if describes else ""
    return Rewritten(text=body + code, entries=tuple(entries))


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
        self.subscripts = Subscripts(tokens)

    def run(self) -> None:
        index = 0
        while index < len(self.tokens):
            token = self.tokens[index]
            if is_attribute(self.tokens, index):
                index = self._attribute(index)
            elif token.kind is Kind.NUMBER:
                self._number(token, 0)
            elif token.text == "[":
                self._subscript(index)
            elif token.text == "constant":
                self._constant(index)
            elif token.text == "threadgroup":
                index = self._threadgroup(index)
            elif token.text == "is_function_constant_defined":
                index = self._constant_defined(index)
            index += 1

    def directive(self, token: Token) -> None:
        define = _DEFINE.match(token.text)
        if define:
            for part in tokenize(token.text[define.end() :]):
                if part.kind is Kind.NUMBER:
                    self._number(part, token.start + define.end())
        elif _UNROLL_BY_NAME.match(token.text):
            self.edits.append((token.start, token.end, ""))

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
        start = self._declaration_start(index)
        words = [i for i in range(start, index) if self.tokens[i].text in _CONSTANT_WORDS]
        if "constant" not in {self.tokens[i].text for i in words} or not number.isdigit():
            raise unknown_construct(self.text, self.tokens[index], "this function constant")
        self._drop_edits_from(self.tokens[start].start)
        for i in words:
            code = "static constexpr" if i == words[0] else ""
            self.edits.append((self.tokens[i].start, self.tokens[i].end, code))
        value = self.constants.get(int(number), self.constants.get(name))
        return "{}" if value is None else f" = {_constant_text(value)}"

    def _declaration_start(self, index: int) -> int:
        start = index - 1
        while start > 0 and self.tokens[start - 1].text not in (";", "}", "{"):
            start -= 1
        return start

    def _constant(self, index: int) -> None:
        """Makes ``constant`` what it implies, unless the same specifiers say ``const`` already."""
        code = "" if "const" in self._specifiers(index) else "const"
        self.edits.append((self.tokens[index].start, self.tokens[index].end, code))

    def _specifiers(self, index: int) -> set[str]:
        """The words that stand next to one of them, up to a ``*``, a ``&`` or any bracket."""
        found = set()
        for step in (-1, 1):
            at, depth = index + step, 0
            while 0 <= at < len(self.tokens):
                token = self.tokens[at]
                depth += {"<": step, ">": -step}.get(token.text, 0)
                if depth < 0 or token.text in (";", "{", "}", "(", ")"):
                    break
                if depth == 0 and token.text not in ("<", ">", "::"):
                    if token.kind is not Kind.WORD:
                        break
                    found.add(token.text)
                at += step
        return found

    def _subscript(self, index: int) -> None:
        start = self.subscripts.operand(index)
        close = match_close(self.tokens, index)
        if start is None or close == len(self.tokens):
            return
        first = self.tokens[start].start
        self.edits.append((first, first, "msl_rt_element("))
        for at, code in ((index, ", "), (close, ")")):
            self.edits.append((self.tokens[at].start, self.tokens[at].end, code))

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

    def _number(self, token: Token, offset: int) -> None:
        """Suffixes as C++ has them: what has none is a ``float`` in Metal."""
        suffixed = _SUFFIXED.match(token.text)
        if suffixed:
            code = _literal(suffixed["digits"], suffixed["suffix"])
        elif _UNSUFFIXED.fullmatch(token.text):
            code = f"{token.text}f"
        else:
            return
        self.edits.append((offset + token.start, offset + token.end, code))

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
        return before < 0 or self.tokens[before].text in (";", "{", "}", ":", "]")

    def _in_kernel(self, index: int) -> bool:
        return any(first < index < last for first, last in self.bodies)

    def _before_alignas(self, close: int) -> int | None:
        depth = 0
        for index in range(close, -1, -1):
            depth += {")": 1, "(": -1}.get(self.tokens[index].text, 0)
            if depth == 0:
                return index - 2 if self.tokens[index - 1].text == "alignas" else None
        return None

    def _threadgroup(self, index: int) -> int:
        """Rewrites one declaration of threadgroup variables; pointers are left alone."""
        if not self._starts_statement(index):
            self._refuse_late_word(index)
            return index
        end = self._statement_end(index)
        type_start, type_end = self._type_span(index, end)
        if self.tokens[type_end].text in ("*", "&", "("):
            return type_end
        if not self._in_kernel(index):
            raise unknown_construct(
                self.text, self.tokens[index], "threadgroup memory declared outside a kernel"
            )
        if self.tokens[type_end].kind is not Kind.WORD:
            raise unknown_construct(
                self.text, self.tokens[index], "this declaration of threadgroup memory"
            )
        declarators = self._declarators(type_end, end)
        start = self._statement_start(index)
        alignment = self._alignment(start, end)
        kind = self.text[self.tokens[type_start].start : self.tokens[type_end - 1].end]
        code = " ".join(self._storage(kind, alignment, name, dims) for name, dims in declarators)
        self._drop_edits_from(self.tokens[start].start)
        self.edits.append((self.tokens[start].start, self.tokens[end].end, code))
        return end

    def _refuse_late_word(self, index: int) -> None:
        """Refuses ``float threadgroup x[4];``, which would make a private array."""
        before, after = self.tokens[index - 1], self.tokens[index + 1 : index + 3]
        if (
            self._in_kernel(index)
            and before.kind is Kind.WORD
            and len(after) == 2
            and after[0].kind is Kind.WORD
            and after[1].text in ("[", ";", ",")
        ):
            raise unknown_construct(
                self.text, self.tokens[index], "'threadgroup' behind the type of a declaration"
            )

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
            if self.tokens[index].text in ("alignas", "aligned", "__aligned__"):
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
        if self.tokens[index].text == "typename":
            index += 1
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
            index = self._behind_attribute(index)
            if name.kind is not Kind.WORD or self.tokens[index].text not in (",", ";"):
                raise unknown_construct(
                    self.text, name, f"this declaration of the threadgroup variable '{name.text}'"
                )
            index += 1
        return found

    def _behind_attribute(self, index: int) -> int:
        """Passes the ``__attribute__((aligned(16)))`` of a declarator."""
        if self.tokens[index].text != "__attribute__":
            return index
        return match_close(self.tokens, index + 1) + 1

    def _storage(self, kind: str, alignment: str, name: str, dims: str) -> str:
        number = self.declarations
        self.declarations += 1
        alias = f"msl_rt_type_{number}"
        return (
            f"typedef {kind} {alias}{dims}; "
            f"MSL_RT_THREADGROUP({alias}, {name}, {number}, {alignment or 0})"
        )


def _literal(digits: str, suffix: str) -> str:
    exact = digits if any(c in digits for c in ".eEpP") else f"{digits}.0"
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
            arguments.append(argument(parameter, f"arguments[{position}]", "ids->"))
        lines += [
            f'extern "C" MSL_RT_EXPORT void msl_entry_{number}('
            "void* const* arguments, const msl_rt::ThreadIds* ids) {",
            "  (void)arguments; (void)ids;",
            f"  msl_rt::call({', '.join(arguments)});",
            "}",
            f'extern "C" MSL_RT_EXPORT MSL_RT_UNCHECKED unsigned msl_describe_{number}('
            "msl_rt::Parameter* parameters) {",
            f"  return msl_rt::describe(&{entry.expression}, parameters);",
            "}",
        ]
    return "\n".join(lines) + "\n"


def argument(parameter: Parameter, memory: str, ids: str) -> str:
    """C++ for the argument of a kernel's parameter, as ``msl_rt::call`` takes it.

    Args:
        parameter: The parameter.
        memory: C++ for the address of its buffer, where it has one.
        ids: C++ before a member of the thread's ``ThreadIds``.
    """
    if parameter.source is not Source.THREAD:
        return f"msl_rt::Memory{{{memory}}}"
    if parameter.attribute in CONSTANT_ATTRIBUTES:
        return CONSTANT_ATTRIBUTES[parameter.attribute]
    return f"{ids}{THREAD_ATTRIBUTES[parameter.attribute]}"

"""Tells the names that a text declares from its expressions, as far as subscripts need it.

Knows no types but those of the language: what may be read in both ways is taken for a declaration.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..msl.lexer import Kind, Token, match_angle

# Words that an expression follows; any other word before a name is a part of its type.
EXPRESSION_WORDS = frozenset(("return", "case", "else", "do", "and", "or", "not", "xor"))
HEAD_WORDS = frozenset(("if", "constexpr", "while", "for", "switch")) | EXPRESSION_WORDS
_AGGREGATES = frozenset(("struct", "class", "union", "enum"))
_TYPE_KEYS = frozenset(("typename", "using", "namespace")) | _AGGREGATES
_SIGNED = frozenset(("char", "short", "int", "long", "signed", "float", "half", "double"))
_UNSIGNED = frozenset(("uchar", "ushort", "uint", "ulong", "unsigned", "bool", "void", "auto"))
_BUILTIN = _SIGNED | _UNSIGNED
_NO_VARIABLES = frozenset(("delete", "new", "operator", "sizeof")) | _BUILTIN | EXPRESSION_WORDS
# None of these is among the arguments of a template.
_NO_ARGUMENTS = frozenset(";{}?=|([")


class Declarators:
    """Names that a text declares.

    Args:
        tokens: Its tokens.

    Attributes:
        variables: Every word that may be declared as a variable, and none that is as a type.
        opening: Index of the bracket that each closing bracket closes.
    """

    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self.variables = _variables(tokens)
        self.opening = _opening_brackets(tokens)

    def declares(self, start: int) -> bool:
        """Whether the name, or the parentheses around it, at ``start`` is declared there."""
        tokens, before = self._tokens, self._tokens[start - 1]
        if before.kind is Kind.WORD:
            return before.text not in EXPRESSION_WORDS
        if before.text == ">":
            return self._opening_angle(start - 1) is not None
        if before.text == ")":
            word = tokens[self.opening[start - 1] - 1]
            return word.kind is Kind.WORD and word.text not in HEAD_WORDS
        if before.text == "}":
            return self._closes_aggregate(start - 1)
        if before.text == "*":
            return self._ends_pointer(start - 1)
        if before.text == ",":
            return self._separates_names(start - 1)
        return before.text == "::" or self._precedes_type(start - 1)

    def _ends_pointer(self, star: int) -> bool:
        """Whether a ``*`` makes a pointer of a type, and no product."""
        tokens, index = self._tokens, star
        while index > 1 and tokens[index].text in ("*", "const", "volatile"):
            index -= 1
        if tokens[index].text == ",":
            return self._separates_names(index)
        if tokens[index].text == ">":
            opening = self._opening_angle(index)
            if opening is None:
                return False
            index = opening - 1
        while index > 1 and tokens[index - 1].text == "::":
            index -= 2
        word, before = tokens[index], tokens[index - 1]
        if word.kind is not Kind.WORD or word.text in _BUILTIN:
            return word.text in _BUILTIN
        if before.kind is Kind.WORD:
            return before.text not in EXPRESSION_WORDS
        return before.text in (";", "{", "}") and word.text not in self.variables

    def _separates_names(self, comma: int) -> bool:
        """Whether a comma stands between names that one statement declares."""
        tokens, start = self._tokens, self._list_start(comma)
        before = tokens[start - 1].text if start > 0 else ""
        if before in ("(", "[") and tokens[start - 2].text != "for":
            return False
        if before == "}" and self._closes_aggregate(start - 1):
            return True
        first, second = tokens[start], tokens[start + 1]
        if first.kind is not Kind.WORD or first.text in EXPRESSION_WORDS:
            return False
        if second.text == "*":
            return first.text not in self.variables
        if second.text == "<":
            return self._is_template(start + 1)
        return second.kind is Kind.WORD or second.text == "::"

    def _precedes_type(self, index: int) -> bool:
        """Whether a type may follow a token: as `sizeof` asks, in an alias and as an argument."""
        text, before = self._tokens[index].text, self._tokens[index - 1]
        if text == "(":
            return before.text in ("sizeof", "alignof", "decltype")
        if text == "=":
            return self._tokens[index - 2].text == "using"
        return text == "<" and self._is_template(index)

    def _is_template(self, opening: int) -> bool:
        """Whether a ``<`` starts the arguments of a template, and is no comparison."""
        close = match_angle(self._tokens, opening)
        return close < len(self._tokens) and self._opening_angle(close) == opening

    def _opening_angle(self, closing: int) -> int | None:
        """Return the ``<`` before a template's arguments; None if the ``>`` compares or shifts."""
        tokens, depth = self._tokens, 0
        for index in self._backwards(closing):
            text = tokens[index].text
            if text in _NO_ARGUMENTS or (text == "&" and tokens[index - 1].text == "&"):
                return None
            depth += {">": 1, "<": -1}.get(text, 0)
            if depth == 0:
                return index if tokens[index - 1].kind is Kind.WORD else None
        return None

    def _list_start(self, comma: int) -> int:
        """Return where the statement or the list starts that a comma stands in."""
        for index in self._backwards(comma - 1):
            if self._tokens[index].text in (";", "{", "}", "(", "["):
                return index + 1
        return 0

    def _backwards(self, last: int) -> Iterator[int]:
        """Yield indices from ``last`` down, without what stands in brackets between them."""
        index = last
        while index >= 0:
            text = self._tokens[index].text
            # Of braces, those of initialisers; others end what came before.
            if text in (")", "]") or (text == "}" and self._tokens[index + 1].text == ","):
                index = self.opening[index]
            else:
                yield index
            index -= 1

    def _closes_aggregate(self, closing: int) -> bool:
        """Whether a brace ends the members of a type, behind which names may be declared."""
        for index in range(self.opening[closing] - 1, -1, -1):
            token = self._tokens[index]
            if token.text in _AGGREGATES:
                return True
            if token.kind is not Kind.WORD and token.text not in (":", "::", ","):
                break
        return False


def ends_name(token: Token) -> bool:
    """Whether a token may end the name of a type or of a function."""
    is_word = token.kind is Kind.WORD and token.text not in EXPRESSION_WORDS
    return is_word or token.text in (">", ")", "]")


def _variables(tokens: list[Token]) -> frozenset[str]:
    types = set(_NO_VARIABLES)
    found = set()
    in_typedef = False
    for before, token, after in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if token.text in (";", "typedef"):
            in_typedef = token.text == "typedef"
        if token.kind is not Kind.WORD:
            continue
        if before.text in _TYPE_KEYS or (in_typedef and after.text in (";", "[", ",")):
            types.add(token.text)
        elif _may_declare(before, after):
            found.add(token.text)
    return frozenset(found - types)


def _may_declare(before: Token, after: Token) -> bool:
    """Whether a name between two tokens may be declared there."""
    if before.text == ",":
        return after.text in ("[", "=")
    if after.text in ("[", "=", ";", ",", ")", ":"):
        return before.text in ("*", "&", "}") or ends_name(before)
    return after.text == "{" and ends_name(before)


def _opening_brackets(tokens: list[Token]) -> dict[int, int]:
    found: dict[int, int] = {}
    waiting: dict[str, list[int]] = {"(": [], "[": [], "{": []}
    openers = {")": "(", "]": "[", "}": "{"}
    for index, token in enumerate(tokens):
        if token.text in waiting:
            waiting[token.text].append(index)
        elif token.text in openers:
            opened = waiting[openers[token.text]]
            found[index] = opened.pop() if opened else 0
    return found

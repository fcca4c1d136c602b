"""Split Metal text into statements with the scopes around them, as far as declarations need it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

from ..msl.lexer import Kind, Token, match_angle, match_close


class Scope(Enum):
    """The kind of text that a pair of braces encloses."""

    NAMESPACE = auto()
    CLASS = auto()
    KERNEL = auto()
    FUNCTION = auto()
    BLOCK = auto()


@dataclass(frozen=True, slots=True)
class Statement:
    """The tokens of one statement without its semicolon.

    Attributes:
        tokens: The tokens; never empty.
        scopes: The scopes around it, outermost first.
    """

    tokens: tuple[Token, ...]
    scopes: tuple[Scope, ...]

    @property
    def at_program_scope(self) -> bool:
        """Whether it stands outside functions and classes."""
        return all(scope is Scope.NAMESPACE for scope in self.scopes)

    def _declaration(self) -> tuple[Token, ...]:
        """Return the tokens before an initialiser, without template parameters and arguments."""
        kept: list[Token] = []
        tokens, index = list(self.tokens), 0
        while index < len(tokens) and tokens[index].text not in ("=", "{"):
            if tokens[index].text == "<":
                index = match_angle(tokens, index) + 1
                continue
            if tokens[index].text == "[":
                index = match_close(tokens, index) + 1
                continue
            if tokens[index].text == "alignas":
                index = match_close(tokens, index + 1) + 1
                continue
            kept.append(tokens[index])
            index += 1
        return tuple(kept)

    def specifiers(self) -> tuple[str, ...]:
        """Return the words before the initialiser."""
        return tuple(token.text for token in self._declaration() if token.kind is Kind.WORD)

    def is_pointer(self) -> bool:
        """Whether a pointer or reference is declared."""
        return any(token.text in ("*", "&") for token in self._declaration())

    def declares_variable(self) -> bool:
        """Whether it declares a variable: two words or more, and none begins another thing."""
        declaration = self._declaration()
        texts = [token.text for token in declaration]
        words = self.specifiers()
        if len(words) < 2 or "(" in texts or "." in texts or "->" in texts:
            return False
        return not _OTHER & set(words[:2]) and texts[0] not in _EXPRESSIONS


_OTHER = frozenset(
    (
        "typedef",
        "using",
        "static_assert",
        "friend",
        "concept",
        "namespace",
        "return",
        "case",
        "goto",
        "struct",
        "class",
        "union",
        "enum",
        "else",
        "default",
    )
)
_EXPRESSIONS = frozenset(("*", "&", "+", "-", "!", "~"))


def statements(tokens: list[Token]) -> Iterator[Statement]:
    """Yield the statements of a text in order."""
    scopes: list[Scope] = []
    current: list[Token] = []
    index = 0
    while index < len(tokens):
        token = tokens[index]
        if token.kind is Kind.DIRECTIVE:
            index += 1
            continue
        if token.text in ("(", "[") or (token.text == "{" and _initialises(current)):
            end = match_close(tokens, index) + 1
            current.extend(tokens[index:end])
            index = end
            continue
        if token.text == "{":
            scopes.append(_scope(current, scopes))
            current = []
        elif token.text == "}":
            current = []
            if scopes:
                scopes.pop()
        elif token.text == ";":
            if current:
                yield Statement(tuple(current), tuple(scopes))
            current = []
        else:
            current.append(token)
        index += 1


def _initialises(before: list[Token]) -> bool:
    """Whether a brace behind these tokens begins an initialiser rather than a scope."""
    texts = [token.text for token in before]
    return "=" in texts and not {"struct", "class", "union", "enum"} & set(texts)


def _scope(before: list[Token], around: list[Scope]) -> Scope:
    words = {token.text for token in before if token.kind is Kind.WORD}
    if any(scope in (Scope.FUNCTION, Scope.KERNEL, Scope.BLOCK) for scope in around):
        return Scope.CLASS if words & {"struct", "union", "class"} else Scope.BLOCK
    if "namespace" in words:
        return Scope.NAMESPACE
    if "(" in {token.text for token in before}:
        return Scope.KERNEL if "kernel" in words else Scope.FUNCTION
    return Scope.CLASS

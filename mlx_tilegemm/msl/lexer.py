"""Splits Metal text into tokens, with the line that a reader would look for each of them at."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto


class Kind(Enum):
    """The kind of a token."""

    WORD = auto()
    NUMBER = auto()
    STRING = auto()
    DIRECTIVE = auto()
    PUNCTUATION = auto()


@dataclass(frozen=True, slots=True)
class Token:
    """One token and where it stands.

    Args:
        kind: What it is.
        text: Its characters.
        start: Offset of its first character in the text.
    """

    kind: Kind
    text: str
    start: int

    @property
    def end(self) -> int:
        """Offset behind its last character."""
        return self.start + len(self.text)


_PATTERN = re.compile(
    r"""
    (?P<directive>^[ \t]*\#(?:[^\n\\/]|\\\n|\\.|/(?!\*)|/\*.*?\*/)*)
  | (?P<skip>[\r\f\v\n]+ | [ \t]+ | //(?:[^\n\\]|\\.|\\\n)* | /\*.*?\*/ | \\\n)
  | (?P<string>(?:u8|u|U|L)?"(?:[^"\\\n]|\\.)*" | '(?:[^'\\\n]|\\.)+')
  | (?P<number>\.?[0-9](?:[eEpP][+-]|'[0-9a-zA-Z]|[0-9a-zA-Z_.])*)
  | (?P<word>[A-Za-z_$][A-Za-z_0-9$]*)
  | (?P<punctuation>::|->|.)
    """,
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)

_KINDS = {
    "directive": Kind.DIRECTIVE,
    "string": Kind.STRING,
    "number": Kind.NUMBER,
    "word": Kind.WORD,
    "punctuation": Kind.PUNCTUATION,
}


def tokenize(text: str) -> list[Token]:
    """All tokens of a text, without comments and white space."""
    tokens = []
    for match in _PATTERN.finditer(text):
        group = match.lastgroup
        if group is None or group == "skip":
            continue
        tokens.append(Token(_KINDS[group], match.group(), match.start()))
    return tokens


LINE_MARKER = re.compile(r'\s*#\s*(?:line\s+)?(?P<line>\d+)(?:\s+"(?P<file>[^"]*)")?')


def locate(text: str, offset: int) -> tuple[str, int]:
    """File and line of an offset, as ``#line`` directives before it say.

    Args:
        text: The text.
        offset: An offset in it.

    Returns:
        The file, empty when no directive names one, and the line from 1 on.
    """
    file, line = "", 1
    for row in text[:offset].split("\n")[:-1]:
        marker = LINE_MARKER.match(row)
        if marker is None:
            line += 1
            continue
        line = int(marker["line"])
        file = marker["file"] if marker["file"] is not None else file
    return file, line


def match_close(tokens: list[Token], opening: int) -> int:
    """Index of the token that closes the bracket at index ``opening``, or the token count."""
    pairs = {"(": ")", "[": "]", "{": "}"}
    depth = 0
    opener, closer = tokens[opening].text, pairs[tokens[opening].text]
    for index in range(opening, len(tokens)):
        if tokens[index].kind is not Kind.PUNCTUATION:
            continue
        if tokens[index].text == opener:
            depth += 1
        elif tokens[index].text == closer:
            depth -= 1
            if depth == 0:
                return index
    return len(tokens)


def match_angle(tokens: list[Token], opening: int) -> int:
    """Index of the ``>`` that closes the template bracket at ``opening``, or the token count."""
    depth = 0
    index = opening
    while index < len(tokens):
        text = tokens[index].text
        if text in "([{" and tokens[index].kind is Kind.PUNCTUATION:
            index = match_close(tokens, index)
        elif text == "<":
            depth += 1
        elif text == ">":
            depth -= 1
            if depth == 0:
                return index
        elif text == ";":
            break
        index += 1
    return len(tokens)

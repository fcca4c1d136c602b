"""Drops what is defined once for each address space.

C++ has one address space, so that a function or specialisation for ``device`` pointers and the same
for ``threadgroup`` pointers are one definition twice. The first one stays. Inside classes, where
not every C++ compiler takes a specialisation, it becomes an overload.
"""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise

from ..msl.lexer import Kind, Token, match_angle, match_close, tokenize
from .signature import is_attribute

_SPECIALIZATION = re.compile(r"\btemplate\s*<\s*>")
_ADDRESS_SPACES = frozenset(("device", "constant", "threadgroup", "thread"))
_CLASS_WORDS = frozenset(("struct", "class", "union"))
_NO_FUNCTION = frozenset(
    ("decltype", "alignas", "__attribute__", "noexcept", "explicit", "operator", "asm", "sizeof")
)
_SPECIFIERS = frozenset(("inline", "constexpr", "explicit", "METAL_FUNC"))
_LABELS = frozenset(("public", "private", "protected"))

_Key = tuple[str, ...]


def drop_repeated_definitions(text: str) -> str:
    """Blanks definitions that differ from an earlier one in address spaces only.

    Args:
        text: Metal text.

    Returns:
        The text, with every line at its place.
    """
    spaces = sum(word in text for word in _ADDRESS_SPACES)
    if spaces < 2 and not _SPECIALIZATION.search(text):
        return text
    tokens = [token for token in tokenize(text) if token.kind is not Kind.DIRECTIVE]
    walker = _Walker(tokens)
    walker.scope(0, len(tokens), "", in_class=False)
    for start, end in sorted(walker.unwanted, reverse=True):
        blank = "\n" * text.count("\n", start, end)
        text = text[:start] + blank + text[end:]
    return text


class _Walker:
    """Visits the definitions of all namespaces and classes."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.seen: dict[_Key, _Key] = {}
        self.unwanted: list[tuple[int, int]] = []

    def scope(self, first: int, last: int, path: str, *, in_class: bool) -> None:
        start = index = first
        while index < last:
            text = self.tokens[index].text
            if text == ";":
                if in_class:
                    self._declaration(start, index, path)
                start = index + 1
            elif text in ("(", "["):
                index = match_close(self.tokens, index)
            elif text == ":" and self.tokens[start].text in _LABELS:
                start = index + 1
            elif text == "{" and _initializes_member(self.tokens[start:index]):
                index = match_close(self.tokens, index)
            elif text == "{":
                close = match_close(self.tokens, index)
                index = self._braces(start, index, close, path, in_class=in_class)
                if index == close:
                    start = self._next_start(start, close)
            index += 1

    def _declaration(self, start: int, end: int, path: str) -> None:
        """Constructors that are defaulted or deleted once for each address space."""
        head = self.tokens[start:end]
        words = [token.text for token in head]
        plain = "=" in words and words[-1] in ("default", "delete") and "operator" not in words
        if plain and not self._is_repeated(start, end, end, path):
            self._erase_object_space(start, end)

    def _erase_object_space(self, start: int, end: int) -> None:
        """Blanks the ``constant`` behind the parameters of a constructor, which C++ refuses."""
        opening = _parameter_list(self.tokens[start:end])
        if opening < 0 or not _is_constructor(self.tokens[start : start + opening]):
            return
        behind = start + match_close(self.tokens[start:end], opening) + 1
        if behind < end and self.tokens[behind].text in ("constant", "const"):
            self.unwanted.append((self.tokens[behind].start, self.tokens[behind].end))

    def _next_start(self, start: int, close: int) -> int:
        following = self.tokens[close + 1].text if close + 1 < len(self.tokens) else ""
        return close + 1 if following != ";" else close + 2

    def _braces(self, start: int, opening: int, close: int, path: str, *, in_class: bool) -> int:
        """Handles what ends in braces; returns the index to go on behind."""
        head = self.tokens[start:opening]
        words = [token.text for token in head]
        if "namespace" in words[:2] or words[:1] == ["extern"]:
            self.scope(opening + 1, close, f"{path}::{''.join(words)}", in_class=False)
        elif _is_class(head):
            if not self._is_repeated(start, opening, close, path):
                self.scope(opening + 1, close, f"{path}::{''.join(words)}", in_class=True)
        elif "enum" not in words and "(" in words:
            repeated = self._is_repeated(start, opening, close, path)
            if in_class and not repeated:
                self._erase_object_space(start, opening)
            if in_class and not repeated and words[:3] == ["template", "<", ">"]:
                self.unwanted.append((head[0].start, head[2].end))
        return close

    def _is_repeated(self, start: int, opening: int, close: int, path: str) -> bool:
        head = self.tokens[start:opening]
        raw = tuple(token.text for token in head)
        key = (path, *_key(head))
        known = self.seen.setdefault(key, raw)
        # The same twice over is the author's mistake and stays for the compiler to find.
        if known == raw:
            return False
        end = close
        if _is_class(head) and self.tokens[close + 1].text == ";":
            end = close + 1
        self.unwanted.append((self.tokens[start].start, self.tokens[end].end))
        return True


def _is_class(head: list[Token]) -> bool:
    index = 0
    if head and head[0].text == "template" and len(head) > 1:
        index = match_angle(head, 1) + 1
    rest = [token.text for token in head[index:]]
    return bool(rest) and rest[0] in _CLASS_WORDS and "(" not in rest


def _is_constructor(before: list[Token]) -> bool:
    """Whether nothing but specifiers stands before the name that its parameters follow."""
    words = [token.text for token in before]
    if words[:1] == ["template"]:
        words = words[match_angle(before, 1) + 1 :]
    return len([word for word in words if word not in _SPECIFIERS]) == 1


def _initializes_member(head: list[Token]) -> bool:
    """Whether a brace behind the head of a constructor belongs to its initialiser list."""
    texts = [token.text for token in head]
    in_list = any(pair == (")", ":") for pair in pairwise(texts))
    return in_list and head[-1].kind is Kind.WORD


def _key(head: list[Token]) -> _Key:
    """A head without address spaces, attributes and parameter names."""
    plain: list[Token] = []
    index = 0
    while index < len(head):
        if is_attribute(head, index):
            index = match_close(head, index)
        elif head[index].text in ("const", "constant"):
            if not plain or plain[-1].text != "const":
                plain.append(replace(head[index], text="const"))
        elif head[index].text not in _ADDRESS_SPACES:
            plain.append(head[index])
        index += 1
    opening = _parameter_list(plain)
    if opening < 0:
        return tuple(token.text for token in plain)
    close = match_close(plain, opening)
    before = [token.text for token in plain[: opening + 1]]
    after = [token.text for token in plain[close:]]
    if _is_constructor(plain[:opening]):
        after = [text for text in after if text != "const"]
    if ":" in after:
        after = after[: after.index(":")]
    return (*before, *_parameter_types(plain[opening + 1 : close]), *after)


def _parameter_list(head: list[Token]) -> int:
    index = 0
    while index < len(head):
        text = head[index].text
        if text == "<":
            index = min(match_angle(head, index), len(head))
        elif text == "(":
            named = index > 0 and head[index - 1].kind is Kind.WORD
            if named and head[index - 1].text not in _NO_FUNCTION:
                return index
            index = match_close(head, index)
        index += 1
    return -1


def _parameter_types(tokens: list[Token]) -> _Key:
    types: list[str] = []
    start = index = 0
    while index <= len(tokens):
        text = tokens[index].text if index < len(tokens) else ","
        if text in ("(", "[", "{"):
            index = match_close(tokens, index)
        elif text == "<":
            index = min(match_angle(tokens, index), len(tokens) - 1)
        elif text == ",":
            types += [*_without_name(tokens[start:index]), ","]
            start = index + 1
        index += 1
    return tuple(types)


def _without_name(parameter: list[Token]) -> list[str]:
    texts = [token.text for token in parameter]
    if "=" in texts:
        texts = texts[: texts.index("=")]
        parameter = parameter[: len(texts)]
    for index in range(len(parameter) - 1, 0, -1):
        if parameter[index].kind is Kind.WORD:
            is_name = parameter[index - 1].text not in ("::", "const", "<", ",")
            return texts[:index] + texts[index + 1 :] if is_name else texts
        if parameter[index].text not in ("[", "]") and parameter[index].kind is not Kind.NUMBER:
            break
    return texts

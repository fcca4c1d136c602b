"""Finds the subscripts of members, which the rewriter has checked.

Compilers allow the address of an array's end, and with it a reference: of an index one past the end
they say nothing where the element is passed to a function.
"""

from __future__ import annotations

from ..msl.lexer import Kind, Token

_OPERAND_ENDS = frozenset((")", "]"))


def subscripted_member(tokens: list[Token], opening: int) -> int | None:
    """Return where the expression starts whose member the bracket at ``opening`` indexes.

    Args:
        tokens: Tokens of a text.
        opening: Index of a ``[``.

    Returns:
        Index of the expression's first token. None where the bracket follows no ``.`` or ``->``,
        where only an address is taken, and where the expression is too involved to be found.
    """
    member = opening - 1
    while member > 0 and tokens[member].text == "]":
        member = _match_open(tokens, member) - 1
    if member < 2 or not _follows_access(tokens, member):
        return None
    start = _start_of_operand(tokens, member)
    return None if start is None or _address_taken(tokens, start) else start


def _follows_access(tokens: list[Token], index: int) -> bool:
    return tokens[index].kind is Kind.WORD and tokens[index - 1].text in (".", "->")


def _start_of_operand(tokens: list[Token], member: int) -> int | None:
    """Walk from a member back over what it is a member of."""
    index = member
    while index >= 2 and tokens[index - 1].text in (".", "->"):
        index -= 2
        while index > 0 and tokens[index].text in _OPERAND_ENDS:
            closed = tokens[index].text
            index = _match_open(tokens, index)
            if closed == ")" and tokens[index - 1].kind is not Kind.WORD:
                # Parentheses of their own; a call of a template ends in ">".
                return None if tokens[index - 1].text == ">" else index
            index -= 1
        if tokens[index].kind is not Kind.WORD:
            return None
    return None if tokens[index - 1].text == "::" else index


def _match_open(tokens: list[Token], closing: int) -> int:
    pairs = {")": "(", "]": "["}
    closer, opener = tokens[closing].text, pairs[tokens[closing].text]
    depth = 0
    for index in range(closing, -1, -1):
        if tokens[index].kind is Kind.PUNCTUATION:
            depth += {closer: 1, opener: -1}.get(tokens[index].text, 0)
            if depth == 0:
                return index
    return 0


def _address_taken(tokens: list[Token], start: int) -> bool:
    if start < 2 or tokens[start - 1].text != "&":
        return False
    before = tokens[start - 2]
    binary = before.text in (*_OPERAND_ENDS, "&") or before.kind in (Kind.WORD, Kind.NUMBER)
    return not binary

"""Finds the subscripts of what may be an array, which the rewriter has checked.

Compilers allow the address of an array's end, and with it a reference: of an index one past the end
they say nothing where the element is passed to a function, as the elements of arrays of vectors
always are. Whether something is an array, and of how many elements, only the C++ compiler knows.
"""

from __future__ import annotations

from ..msl.lexer import Kind, Token
from .declarators import EXPRESSION_WORDS, HEAD_WORDS, Declarators, ends_name


class Subscripts:
    """Subscripts of a text.

    Args:
        tokens: Its tokens.
    """

    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._declarators = Declarators(tokens)
        self._opening = self._declarators.opening

    def operand(self, opening: int) -> int | None:
        """Return where the expression starts that the bracket at ``opening`` indexes.

        Args:
            opening: Index of a ``[``.

        Returns:
            Index of the expression's first token. None where the bracket is one of a declaration or
            of a type, where only an address is taken, and where the expression is too involved to
            be found.
        """
        tokens = self._tokens
        last = opening - 1
        while last > 0 and tokens[last].text == "]":
            last = self._opening[last] - 1
        if last < 1:
            return None
        is_member = tokens[last].kind is Kind.WORD and tokens[last - 1].text in (".", "->")
        start = self._start_of_member(last) if is_member else self._start(last)
        return None if start is None or self._address_taken(start) else start

    def _start(self, last: int) -> int | None:
        """Return where a variable or what stands in parentheses starts, given its last token."""
        tokens, start = self._tokens, last
        if tokens[last].text == ")":
            start = self._opening[last]
            if tokens[last - 1].text in ("*", "&") or self._has_callee(start):
                return None
        elif tokens[last].text not in self._declarators.variables:
            return None
        return None if self._declarators.declares(start) else start

    def _has_callee(self, opening: int) -> bool:
        """Whether parentheses are those of a call, of a cast's operand or of a declarator."""
        before = self._tokens[opening - 1]
        if before.text != ")":
            return opening == 0 or ends_name(before)
        return self._tokens[self._opening[opening - 1] - 1].text not in HEAD_WORDS

    def _start_of_member(self, member: int) -> int | None:
        """Walk from a member back over what it is a member of."""
        tokens, index = self._tokens, member
        while index >= 2 and tokens[index - 1].text in (".", "->"):
            index -= 2
            while index > 0 and tokens[index].text in (")", "]"):
                closed = tokens[index].text
                index = self._opening[index]
                if closed == ")" and tokens[index - 1].kind is not Kind.WORD:
                    # Parentheses of their own; a call of a template ends in ">".
                    return None if tokens[index - 1].text == ">" else index
                index -= 1
            if tokens[index].kind is not Kind.WORD:
                return None
        return None if tokens[index - 1].text == "::" else index

    def _address_taken(self, start: int) -> bool:
        if start < 2 or self._tokens[start - 1].text != "&":
            return False
        before = self._tokens[start - 2]
        is_word = before.kind is Kind.WORD and before.text not in EXPRESSION_WORDS
        return not (is_word or before.kind is Kind.NUMBER or before.text in (")", "]", "&"))

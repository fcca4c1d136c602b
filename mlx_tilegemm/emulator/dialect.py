"""Spells in C++ what only the compiler of Metal understands: extensions that no header can express.

Works on text whose macros are expanded as far as need be; lines keep their numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

from ..msl.lexer import Kind, Token, match_close, tokenize
from .signature import unknown_construct

_Edit = tuple[int, int, str]
_Range = tuple[int, int]

_BFLOAT = re.compile(r"\bbfloat(16_t)?\b")
_SWIZZLE = re.compile(r"[xyzw]{2,4}|[rgba]{2,4}")
_CHAIN = re.compile(rf"\.\s*(?:{_SWIZZLE.pattern})\s*\.")
_COMPONENTS = {name: at for names in ("xyzw", "rgba") for at, name in enumerate(names)}
_ENDS_OF_ARMS = frozenset((";", ",", ")", "]", "}", ":"))


def respell(text: str) -> str:
    """Replaces range designators, vector attributes, swizzles of swizzles and some choices.

    The choices are those of an integer or a bfloat.

    Args:
        text: Metal text.

    Raises:
        KernelCompileError: A vector attribute or a designator is of a kind not known here.
    """
    wanted = [words for words in ("...", "ext_vector_type") if words in text]
    chooses = "?" in text and _BFLOAT.search(text) is not None
    chains = _CHAIN.search(text) is not None
    if not wanted and not chooses and not chains:
        return text
    tokens = [token for token in tokenize(text) if token.kind is not Kind.DIRECTIVE]
    edits: list[_Edit] = []
    if wanted:
        edits += [*_range_designators(text, tokens), *_vector_attributes(text, tokens)]
    if chooses:
        edits += _integer_arms(text, tokens)
    if chains:
        edits += _swizzles_of_swizzles(tokens)
    return _apply(text, edits)


def _apply(text: str, edits: list[_Edit]) -> str:
    pieces = []
    position = 0
    for start, end, replacement in sorted(edits):
        lines = "\n" * (text.count("\n", start, end) - replacement.count("\n"))
        pieces += [text[position:start], replacement, lines]
        position = end
    return "".join([*pieces, text[position:]])


def _range_designators(text: str, tokens: list[Token]) -> Iterator[_Edit]:
    """``T a[N] = {[0 ... N - 1] = x};`` becomes a declaration and a call that sets all elements."""
    for index in range(3, len(tokens) - 1):
        texts = [token.text for token in tokens[index - 3 : index + 2]]
        if texts[2:4] != ["{", "["] or texts[4] != "0" or texts[1] != "=":
            continue
        inner = match_close(tokens, index)
        dots = [token.text for token in tokens[index + 2 : index + 5]]
        if dots != [".", ".", "."]:
            continue
        close = match_close(tokens, index - 1)
        name = _declared_array(tokens, index - 2)
        values = [token.text for token in tokens[inner + 1 : close]]
        if not name or values[:1] != ["="] or tokens[close + 1].text != ";" or "," in values:
            raise unknown_construct(text, tokens[index], "this range designator")
        value = text[tokens[inner + 2].start : tokens[close - 1].end]
        span = (tokens[index - 2].start, tokens[close].end)
        yield (*span, f"; ::msl_rt::fill({name}, {value})")


def _declared_array(tokens: list[Token], equals: int) -> str:
    """The name in front of the bounds that stand before an equals sign."""
    index = equals - 1
    while index > 0 and tokens[index].text == "]":
        while index > 0 and tokens[index].text != "[":
            index -= 1
        index -= 1
    return tokens[index].text if tokens[index].kind is Kind.WORD else ""


def _vector_attributes(text: str, tokens: list[Token]) -> Iterator[_Edit]:
    """``typedef T name __attribute__((ext_vector_type(4)))`` becomes a ``vec<T, 4>``."""
    for index, token in enumerate(tokens):
        if token.text != "ext_vector_type":
            continue
        start = index - 1
        while start > 0 and tokens[start - 1].text not in (";", "{", "}"):
            start -= 1
        end = next(i for i in range(index, len(tokens)) if tokens[i].text == ";")
        words = [one.text for one in tokens[start:end] if one.kind is Kind.WORD]
        size = tokens[index + 2].text
        if words[:1] != ["typedef"] or size not in ("2", "3", "4") or len(words) != 5:
            raise unknown_construct(text, token, f"this vector type of {size} elements")
        code = f"typedef ::metal::vec<{words[1]}, {size}> {words[2]}"
        yield (tokens[start].start, tokens[end - 1].end, code)


def _swizzles_of_swizzles(tokens: list[Token]) -> Iterator[_Edit]:
    """``v.wzyx.xy`` becomes ``v.wz``, unless a member or a variable has the name of a swizzle."""
    pairs = list(pairwise(tokens))
    named = {after.text for before, after in pairs if before.text not in (".", "->")}
    index = 0
    while index < len(pairs):
        before, first = pairs[index]
        index += 1
        if before.text not in (".", "->") or not _SWIZZLE.fullmatch(first.text):
            continue
        joined, last = first.text, first
        while index + 1 < len(pairs) and pairs[index][1].text == ".":
            following = pairs[index + 1][1]
            picked = [_COMPONENTS.get(letter, 4) for letter in following.text]
            if first.text in named or max(picked) >= len(joined):
                break
            joined, last = "".join(joined[at] for at in picked), following
            index += 2
        if last is not first:
            yield first.start, last.end, joined


def _integer_arms(text: str, tokens: list[Token]) -> list[_Edit]:
    """In ``c ? x : 0`` the 0 becomes what joins a bfloat, which is a class here, as in Metal."""
    edits: list[_Edit] = []
    # Choices inside an arm come behind the mark of the outer one, and are wanted respelled there.
    for index in range(len(tokens) - 1, -1, -1):
        arms = _arms(tokens, index) if tokens[index].text == "?" else None
        if arms is None or _in_constant(tokens, index):
            continue
        for literal, other in (arms, arms[::-1]):
            if _is_integer(tokens, *literal) and not _is_integer(tokens, *other):
                kind = _respelled(text, edits, _span(tokens, *other))
                start, end = _span(tokens, *literal)
                edits.append((start, end, f"::msl_rt::joined<decltype({kind})>({text[start:end]})"))
    return edits


def _arms(tokens: list[Token], question: int) -> tuple[_Range, _Range] | None:
    colon = _end_of_arm(tokens, question + 1, nested=False)
    if colon is None or tokens[colon].text != ":":
        return None
    end = _end_of_arm(tokens, colon + 1, nested=True)
    return None if end is None else ((question + 1, colon), (colon + 1, end))


def _in_constant(tokens: list[Token], index: int) -> bool:
    """Whether a choice is part of a constant; sizes are, bfloats hardly ever."""
    while index >= 0 and tokens[index].text not in (";", "{", "}"):
        if tokens[index].text in ("constexpr", "constant", "static"):
            return True
        index -= 1
    return False


def _span(tokens: list[Token], first: int, last: int) -> tuple[int, int]:
    return tokens[first].start, tokens[last - 1].end


def _respelled(text: str, edits: list[_Edit], span: tuple[int, int]) -> str:
    """One line of the text of a span as it will be, without its comments."""
    start, end = span
    inner = [(a - start, b - start, code) for a, b, code in edits if start <= a and b <= end]
    found = tokenize(_apply(text[start:end], inner))
    gaps = [" " if a.end < b.start else "" for a, b in pairwise(found)]
    return "".join(token.text + gap for token, gap in zip(found, [*gaps, ""], strict=True))


def _end_of_arm(tokens: list[Token], index: int, *, nested: bool) -> int | None:
    """Where an arm of a choice ends; None when a comma may belong to template arguments."""
    start, depth, angle = index, 0, False
    while index < len(tokens):
        text = tokens[index].text
        if text in ("(", "[", "{"):
            index = match_close(tokens, index)
        elif text == "?":
            depth += 1
        elif text == ":" and depth:
            depth -= 1
        elif text in _ENDS_OF_ARMS:
            if text == "," and (angle or not nested):
                return None
            return index if index > start else None
        angle = angle or text == "<"
        index += 1
    return None


def _is_integer(tokens: list[Token], start: int, end: int) -> bool:
    if end - start == 2 and tokens[start].text == "-":
        start += 1
    return end - start == 1 and tokens[start].text.isdigit()

"""Which of clang's errors hold for any Metal text.

The strict headers declare what this project's own kernels use. Of a text that uses more, clang says
much that Metal would not; what it says of address spaces, program scope, ``virtual``, ``new``, run
time types, pointers to functions and array bounds it says for reasons that lie in the text alone.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import replace
from itertools import pairwise

from .diagnostics import Diagnostic
from .finding import Finding

Named = tuple[str, int, str]
"""File, line and name of a variable."""

_CERTAIN = re.compile(
    r"(?:program scope|extern|static local) variable must reside in (?:global or )?constant "
    r"|virtual functions are not supported"
    r"|'(?:[\w ]*(?:new|delete)|dynamic_cast|typeid)' is not supported"
    r"|pointers to functions are not allowed"
    r"|.* does not support the '(?:thread_local|register)' storage class"
)
_FOLLOWING = re.compile(r"taking address of function is not allowed")
_CANDIDATES = re.compile(r"no matching (?:(?:member )?function|constructor|conversion) for")
_CANDIDATE = re.compile(r"candidate\b.*?(?:not viable|ignored): (?P<reason>.*)")
_ARITY = re.compile(r"(?:requires|expects) .*argument")
_SPACES_APART = re.compile(
    r"cannot (?:pass pointer to|bind reference in) address space '(?P<one>\w+)' "
    r"(?:as a pointer to|to object in) address space '(?P<other>\w+)'"
)
_ARRAY_BOUND = re.compile(r"array size is not a constant expression|variable length arrays? ")
_VARIABLE_BOUND = re.compile(
    r"read of non-const variable|function parameter '\w+' with unknown value"
)
_INITIALIZER = re.compile(r"initializer of '(?P<name>\w+)' is not a constant expression")
_QUOTED = re.compile(r"'([^']*)'")
_ALIASED = re.compile(r" \(aka '[^']*'\)")
_SPACE = re.compile(r"__(?:global|local|constant|private|generic)\b")
_METAL = {
    "__global": "device",
    "__local": "threadgroup",
    "__constant": "constant",
    "__private": "thread",
}


def is_certain(error: Diagnostic, varying: Collection[Named]) -> bool:
    """Whether an error holds for any Metal text.

    Args:
        error: What clang says.
        varying: Constant variables whose values are known at run time only.
    """
    if _ARRAY_BOUND.match(error.message):
        return _bound_varies(error.notes, varying)
    if _CANDIDATES.match(error.message):
        return _candidates_are_apart(error.notes)
    return bool(_CERTAIN.match(error.message)) or _types_are_apart(error.message)


def settled(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The findings in order, none of them certain on a line that clang may not have understood."""
    found = tuple(sorted(dict.fromkeys(findings)))
    unclear = {
        (one.file, one.line)
        for one in found
        if one.rule == "compile" and not one.certain and not _FOLLOWING.match(one.message)
    }
    return tuple(
        replace(one, certain=one.certain and (one.file, one.line) not in unclear) for one in found
    )


def metal_words(text: str) -> str:
    """A message with Metal's names of the address spaces, without those that nobody writes."""
    text = re.sub(r"(?<=[*&])__(?:private|generic)\b|\b__generic ?", "", text)
    text = re.sub(r"C\+\+ for OpenCL(?: version \d+)?", "Metal", text)
    return _SPACE.sub(lambda match: _METAL[match.group()], text)


def _bound_varies(notes: Iterable[Diagnostic], varying: Collection[Named]) -> bool:
    for note, where in pairwise((*notes, Diagnostic("", 0, 0, "note", ""))):
        named = _INITIALIZER.match(note.message)
        if named and (where.file, where.line, named["name"]) in varying:
            return True
        if _VARIABLE_BOUND.match(note.message):
            return True
    return False


def _candidates_are_apart(notes: Iterable[Diagnostic]) -> bool:
    """Whether the text has every candidate, and address spaces are all that rules them out."""
    reasons = []
    for note in notes:
        candidate = _CANDIDATE.match(note.message)
        if candidate is None or "(the implicit " in note.message:
            continue
        if note.is_in_headers:
            return False
        if not _ARITY.match(candidate["reason"]):
            reasons.append(candidate["reason"])
    return bool(reasons) and all(map(_types_are_apart, reasons))


def _types_are_apart(message: str) -> bool:
    """Whether a message is about pointers or references to two address spaces."""
    named = _SPACES_APART.match(message)
    if named:
        return "__generic" not in named.groups()
    kinds = _QUOTED.findall(_ALIASED.sub("", message))[:2]
    space = _space if message.startswith("binding reference of type") else _pointee_space
    spaces = {space(kind) for kind in kinds}
    return len(spaces) == 2 and "" not in spaces


def _pointee_space(kind: str) -> str:
    """The address space that a pointer or an array is of, "" for other types or none."""
    pointee, star, _ = kind.rpartition("*")
    if star:
        return _space(pointee)
    return _space(kind) if kind.endswith("]") else ""


def _space(kind: str) -> str:
    """The address space of a value of a type, "" for none."""
    found: list[str] = _SPACE.findall(kind.rpartition("*")[2])
    return "" if not found or found[0] == "__generic" else found[0]

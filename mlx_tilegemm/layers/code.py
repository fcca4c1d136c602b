"""Names that code looks up, and what it does with what it finds, as its instructions say."""

from __future__ import annotations

import dis
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from types import CodeType


class Base(Enum):
    """Where the first name of a chain is looked up."""

    GLOBAL = "global"
    SELF = "self"
    FREE = "free"
    IMPORT = "import"
    TEXT = "text"
    PRODUCT = "product"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Chain:
    """A name and the attributes that are read from it at once, such as ``mx.fast.rope``.

    Attributes:
        base: Where its first name is looked up; ``self`` is the first argument of a method.
        name: That name; of a string constant the string, of an operator its sign.
        attributes: Names of the attributes.
        is_used: Whether it is called, passed on or kept; else it is only asked about, as by ``in``,
            ``is``, ``isinstance`` and an index.
    """

    base: Base
    name: str
    attributes: tuple[str, ...] = ()
    is_used: bool = True


_SKIPPED = {"CACHE", "EXTENDED_ARG", "RESUME", "COPY_FREE_VARS", "NOP"}
_ATTRIBUTES = {"LOAD_ATTR", "LOAD_METHOD", "IMPORT_FROM", "LOAD_SUPER_ATTR", "LOAD_SUPER_METHOD"}
_BASES = {
    "LOAD_GLOBAL": Base.GLOBAL,
    "LOAD_NAME": Base.GLOBAL,
    "LOAD_DEREF": Base.FREE,
    "LOAD_CLASSDEREF": Base.FREE,
    "IMPORT_NAME": Base.IMPORT,
}
_ASKING = {"isinstance", "hasattr", "getattr", "type", "len", "id", "callable"}
_QUESTIONS = ("CONTAINS_OP", "IS_OP", "TO_BOOL", "POP_JUMP", "JUMP_IF", "UNARY_NOT")
_MATRIX_PRODUCTS = {"BINARY_MATRIX_MULTIPLY", "INPLACE_MATRIX_MULTIPLY"}


@lru_cache(maxsize=4096)
def chains(code: CodeType, self_name: str | None = None) -> tuple[Chain, ...]:
    """Return the chains of code and of the functions it defines, in the order of their calls.

    Args:
        code: Of a function.
        self_name: The variable that holds the object whose method it is.
    """
    steps = [one for one in dis.get_instructions(code) if one.opname not in _SKIPPED]
    found = sorted(_chains(steps, self_name), key=lambda one: one[0])
    return tuple(chain for _, chain in found)


def _chains(steps: list[dis.Instruction], self_name: str | None) -> Iterator[tuple[int, Chain]]:
    """Yield chains with the number of the step that calls what they find, or else finds it."""
    at = 0
    while at < len(steps):
        step = steps[at]
        start, at = at, at + 1
        if isinstance(step.argval, CodeType):
            yield from ((start, chain) for chain in chains(step.argval, self_name))
        elif step.opname in _MATRIX_PRODUCTS or step.argrepr in ("@", "@="):
            yield start, Chain(Base.PRODUCT, "@")
        elif step.opname == "LOAD_CONST" and isinstance(step.argval, str):
            yield start, Chain(Base.TEXT, step.argval)
        elif base := _base(step, self_name):
            kind, name = base
            end = at
            while end < len(steps) and steps[end].opname in _ATTRIBUTES:
                end += 1
            first = start if step.opname in _ATTRIBUTES else at
            attributes = tuple(_name(one) for one in steps[first:end])
            if end > at and steps[at].opname.startswith("LOAD_SUPER"):
                kind = Base.UNKNOWN
            chain = Chain(kind, name, attributes, _is_used(steps, start, end))
            yield _calling(steps, start, end), chain
            at = end


def _calling(steps: list[dis.Instruction], start: int, end: int) -> int:
    """Return which step calls what steps from ``start`` to ``end`` find, or else ``start``.

    A function is found before its arguments are, and called once they are.
    """
    depth = sum(map(_stack_effect, steps[start:end]))
    for at in range(end, len(steps)):
        depth += _stack_effect(steps[at])
        if depth <= 1 and steps[at].opname.startswith("CALL"):
            return at
        if depth < 1:
            break
    return start


def _stack_effect(step: dis.Instruction) -> int:
    return dis.stack_effect(step.opcode, step.arg, jump=False)


def _base(step: dis.Instruction, self_name: str | None) -> tuple[Base, str] | None:
    if step.opname in _ATTRIBUTES:
        return Base.UNKNOWN, ""
    if "LOAD_FAST" in step.opname:
        # Newer interpreters load two variables, or store one and load one, by one instruction.
        name = step.argval[-1] if isinstance(step.argval, tuple) else step.argval
        return (Base.SELF if name == self_name else Base.UNKNOWN), name
    if step.opname in _BASES:
        kind = _BASES[step.opname]
        return (Base.SELF if kind is Base.FREE and step.argval == self_name else kind), step.argval
    return None


def _name(step: dis.Instruction) -> str:
    return step.argval[-1] if isinstance(step.argval, tuple) else str(step.argval)


def _is_used(steps: list[dis.Instruction], start: int, end: int) -> bool:
    if start and steps[start - 1].argval in _ASKING:
        return False
    following = steps[end].opname if end < len(steps) else ""
    if following == "LOAD_CONST" and isinstance(steps[end].argval, str):
        # Of `layer["weight"]`, but not of `layer(x, "causal")`.
        following = steps[end + 1].opname
        return not (following == "BINARY_SUBSCR" or steps[end + 1].argrepr == "[]")
    return not following.startswith(_QUESTIONS)

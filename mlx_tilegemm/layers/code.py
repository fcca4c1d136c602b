"""Names that code looks up, and what it does with what it finds, as its instructions say."""

from __future__ import annotations

import dis
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache
from itertools import pairwise
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
        is_by_class: Whether it is the object of a method that was looked up in a class, as in
            ``Linear.__call__(self.layer, x)``.
        guards: Attributes of the object whose method it is, and whether each must be true for the
            code to get here.
    """

    base: Base
    name: str
    attributes: tuple[str, ...] = ()
    is_used: bool = True
    is_by_class: bool = False
    guards: frozenset[Guard] = frozenset()


Guard = tuple[tuple[str, ...], bool]
"""Names of an attribute of an object and of attributes of that, and whether it is true.

After `HAS` comes one name, and the question is whether the object has it; after `LACKS`, whether
that attribute is None.
"""

HAS, LACKS = "in self", "is None"

_SKIPPED = {"CACHE", "EXTENDED_ARG", "RESUME", "COPY_FREE_VARS", "NOP", "NOT_TAKEN"}
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
    found = sorted(_guarded(steps, self_name, code), key=lambda one: one[0])
    return tuple(chain for _, chain in found)


def _guarded(
    steps: list[dis.Instruction], self_name: str | None, code: CodeType
) -> Iterator[tuple[int, Chain]]:
    """Yield chains with the number of the step that calls what they find, or else finds it."""
    blocks = list(_blocks(steps, self_name, bool(getattr(code, "co_exceptiontable", b""))))
    for at, calling, chain in _chains(steps, self_name):
        guards = {guard for start, end, guard in blocks if start <= at < end}
        yield calling, replace(chain, guards=chain.guards | guards)


@lru_cache(maxsize=4096)
def stored(code: CodeType) -> frozenset[str]:
    """Return the names of the attributes that code sets, of whatever object."""
    steps = dis.get_instructions(code)
    return frozenset(str(step.argval) for step in steps if step.opname == "STORE_ATTR")


def _blocks(
    steps: list[dis.Instruction], self_name: str | None, has_handlers: bool
) -> Iterator[tuple[int, int, Guard]]:
    """Yield the steps, from a first to before a last, that run only if an attribute is so."""
    jumps = dict(_jumps(steps))
    for at, target in jumps.items():
        asked = _asked(steps, at, self_name) if target > at else None
        if asked is None:
            continue
        names, is_true = asked
        others = {start: end for start, end in jumps.items() if start != at}
        if _is_entered_at_start(at + 1, target, others):
            yield at + 1, target, (names, is_true)
        end = _end_of_else(steps, target, jumps, has_handlers)
        if end > target and _is_entered_at_start(target, end, others):
            yield target, end, (names, not is_true)


def _jumps(steps: list[dis.Instruction]) -> Iterator[tuple[int, int]]:
    """Yield the number of each step that jumps, and that of the step it jumps to."""
    offsets = [step.offset for step in steps]
    for at, step in enumerate(steps):
        if step.opcode in dis.hasjrel or step.opcode in dis.hasjabs:
            yield at, bisect_left(offsets, step.argval)


def _asked(
    steps: list[dis.Instruction], at: int, self_name: str | None
) -> tuple[tuple[str, ...], bool] | None:
    """Return the question about an object on which a jump depends, and the answer if it goes on."""
    opname = steps[at].opname
    if not opname.startswith("POP_JUMP"):
        return None
    at -= 2 if steps[at - 1].opname == "TO_BOOL" else 1
    if opname.endswith("NONE"):
        names = _names_before(steps, at, self_name)
        return ((LACKS, *names), opname.endswith("NOT_NONE")) if names else None
    if not opname.endswith(("IF_FALSE", "IF_TRUE")):
        return None
    goes_on = opname.endswith("IF_FALSE")
    if steps[at].opname == "IS_OP" and steps[at - 1].argval is None:
        names = _names_before(steps, at - 2, self_name)
        return ((LACKS, *names), goes_on != bool(steps[at].arg)) if names else None
    if steps[at].opname == "CONTAINS_OP" and at > 1:
        name, is_self = steps[at - 2].argval, _is_self(steps[at - 1], self_name)
        is_in = goes_on != bool(steps[at].arg)
        return ((HAS, name), is_in) if is_self and isinstance(name, str) else None
    names = _names_before(steps, at, self_name)
    return (names, goes_on) if names else None


def _names_before(steps: list[dis.Instruction], at: int, self_name: str | None) -> tuple[str, ...]:
    """Return the attributes of an object that steps up to one read; empty for anything else."""
    names: list[str] = []
    while at > 0 and steps[at].opname == "LOAD_ATTR":
        names.insert(0, _name(steps[at]))
        at -= 1
    return tuple(names) if _is_self(steps[at], self_name) else ()


def _is_self(step: dis.Instruction, self_name: str | None) -> bool:
    base = _base(step, self_name)
    return base is not None and base[0] is Base.SELF


def _is_entered_at_start(start: int, end: int, jumps: dict[int, int]) -> bool:
    """Whether no jump from elsewhere leads to the steps from ``start`` to before ``end``."""
    return not any(
        start <= target < end and not start <= source < end for source, target in jumps.items()
    )


def _end_of_else(
    steps: list[dis.Instruction], start: int, jumps: dict[int, int], has_handlers: bool
) -> int:
    """Return the end of what runs instead of the steps before ``start``; ``start`` if nothing."""
    last = steps[start - 1].opname
    if last.startswith("RETURN"):
        # Handlers stand at the end, and no jump leads to them.
        return start if has_handlers else len(steps)
    return jumps.get(start - 1, start) if last.startswith("JUMP") else start


def _chains(
    steps: list[dis.Instruction], self_name: str | None
) -> Iterator[tuple[int, int, Chain]]:
    """Yield chains with the number of the step that finds them, and of that which calls it."""
    modules = dict(_imported(steps))
    variables = _Variables(steps)
    at, method_end = 0, -1
    while at < len(steps):
        step = steps[at]
        start, at = at, at + 1
        if isinstance(step.argval, CodeType):
            yield from ((start, start, chain) for chain in chains(step.argval, self_name))
        elif step.opname in _MATRIX_PRODUCTS or step.argrepr in ("@", "@="):
            yield start, start, Chain(Base.PRODUCT, "@")
        elif step.opname == "LOAD_CONST" and isinstance(step.argval, str):
            yield start, start, Chain(Base.TEXT, step.argval)
        elif base := _base(step, self_name):
            kind, name = base
            held: tuple[str, ...] = ()
            if kind is Base.UNKNOWN and name in modules:
                kind, name = Base.IMPORT, modules[name]
            elif kind is Base.UNKNOWN:
                kind, name, held = variables.read(name)
            end = at
            while end < len(steps) and steps[end].opname in _ATTRIBUTES:
                end += 1
            first = start if step.opname in _ATTRIBUTES else at
            attributes = (*held, *(_name(one) for one in steps[first:end]))
            if end > at and steps[at].opname.startswith("LOAD_SUPER"):
                kind = Base.UNKNOWN
            chain = Chain(kind, name, attributes, _is_used(steps, start, end), start == method_end)
            if kind is not Base.SELF and attributes[-1:] == ("__call__",):
                method_end = _first_argument(steps, end)
            if kind is Base.SELF and attributes and variables.keep(steps[end:], chain):
                chain = replace(chain, is_used=False)
            yield start, _calling(steps, start, end), chain
            at = end


def _first_argument(steps: list[dis.Instruction], at: int) -> int:
    """Return the step from ``at`` on that finds a call's first argument."""
    while at < len(steps) and steps[at].opname in ("PUSH_NULL", "PRECALL"):
        at += 1
    return at


class _Variables:
    """Variables that hold an attribute of the object whose method it is, and nothing else ever."""

    def __init__(self, steps: list[dis.Instruction]) -> None:
        self._stored = Counter(name for step in steps for name in _stores(step))
        self._read: set[str] = set()
        self._held: dict[str, Chain] = {}

    def read(self, name: str) -> tuple[Base, str, tuple[str, ...]]:
        """Return the base, the name and the attributes that a variable stands for."""
        self._read.add(name)
        if name not in self._held:
            return Base.UNKNOWN, name, ()
        return Base.SELF, self._held[name].name, self._held[name].attributes

    def keep(self, following: list[dis.Instruction], chain: Chain) -> bool:
        """Whether the steps that follow make a variable stand for a chain from now on."""
        stores = _stores(following[0])[:1] if following else ()
        for name in stores:
            if self._stored[name] == 1 and name not in self._read:
                self._held[name] = chain
                return True
        return False


def _stores(step: dis.Instruction) -> tuple[str, ...]:
    """Return the variables that a step sets."""
    if not step.opname.startswith("STORE_FAST"):
        return ()
    if not isinstance(step.argval, tuple):
        return (step.argval,)
    return step.argval if step.opname.endswith("STORE_FAST") else step.argval[:1]


def _imported(steps: list[dis.Instruction]) -> Iterator[tuple[str, str]]:
    """Yield the variables that hold modules, and the modules' names."""
    for step, after in pairwise(steps):
        if step.opname == "IMPORT_NAME" and after.opname.startswith("STORE_FAST"):
            # `import a.b` makes a variable of `a`.
            yield _stores(after)[0], step.argval.partition(".")[0]


def _calling(steps: list[dis.Instruction], start: int, end: int) -> int:
    """Return which step calls what steps from ``start`` to ``end`` find, or else ``start``.

    A function is found before its arguments are, and called once they are.
    """
    depth = sum(map(_stack_effect, steps[start:end]))
    for at in range(end, len(steps)):
        depth += _stack_effect(steps[at])
        if depth < 1:
            break
        if depth == 1 and steps[at].opname.startswith("CALL"):
            return at
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


def _is_asked_about(steps: list[dis.Instruction], at: int) -> bool:
    """Whether a step finds an argument of a question, before which only others are found."""
    if at and steps[at - 1].argval in _ASKING:
        return True
    while at and (steps[at - 1].opname.startswith("LOAD") or steps[at - 1].opname == "PUSH_NULL"):
        at -= 1
        if steps[at].argval == "isinstance":
            return True
    return False


def _is_used(steps: list[dis.Instruction], start: int, end: int) -> bool:
    if _is_asked_about(steps, start):
        return False
    following = steps[end].opname if end < len(steps) else ""
    if following == "LOAD_CONST" and isinstance(steps[end].argval, str):
        # Of `layer["weight"]`, but not of `layer(x, "causal")`.
        following = steps[end + 1].opname
        return not (following == "BINARY_SUBSCR" or steps[end + 1].argrepr == "[]")
    return not following.startswith(_QUESTIONS)

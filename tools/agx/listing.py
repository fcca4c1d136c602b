"""Reads the shaders that Mesa's compiler prints.

They come in threes, the kernel's own first: as translated, as scheduled, and as finished. The
second is in SSA form and before registers are assigned, so that what a kernel wants can be counted
also where there is too little for it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

_SHADER = re.compile(r"^block0 \{\n", re.MULTILINE)
_BLOCK = re.compile(
    r"^block\d+ \{\n(?P<code>.*?)^\}"
    r"(?: -> (?P<successors>[^\n]*?))? ?(?:from(?P<origins>[^\n]*))?$",
    re.DOTALL | re.MULTILINE,
)
_VALUE = re.compile(r"[$`*]*(?P<name>\d+)(?P<size>[hd]?)(?:\.\w+)*")
_MASK = re.compile(r"x?y?z?w?")


@dataclass(frozen=True, slots=True)
class Operand:
    """A result or operand: a value by its number, or anything else as it is printed.

    Attributes:
        text: As printed.
        value: The value's number, or None.
        size: ``h``, nothing or ``d`` for elements of 16, 32 and 64 bits.
    """

    text: str
    value: int | None
    size: str


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction."""

    results: tuple[Operand, ...]
    operation: str
    operands: tuple[Operand, ...]

    @property
    def made(self) -> frozenset[int]:
        """Values that it makes."""
        return frozenset(one.value for one in self.results if one.value is not None)

    @property
    def used(self) -> frozenset[int]:
        """Values that it reads."""
        return frozenset(one.value for one in self.operands if one.value is not None)

    @property
    def channels(self) -> int:
        """Elements that a load moves."""
        masks = (one.text for one in self.operands if one.text and _MASK.fullmatch(one.text))
        return len(next(masks, "x"))


@dataclass(frozen=True, slots=True)
class Block:
    """Instructions that run one after the other, and the blocks around them."""

    instructions: tuple[Instruction, ...]
    successors: tuple[int, ...]
    predecessors: tuple[int, ...]

    @property
    def phis(self) -> list[Instruction]:
        """Return the instructions that choose by the block that was left."""
        return [one for one in self.instructions if one.operation == "phi"]


@dataclass(frozen=True)
class Shader:
    """The blocks of a shader, by number."""

    blocks: tuple[Block, ...]

    @cached_property
    def loops(self) -> tuple[frozenset[int], ...]:
        """Blocks of each loop, inner loops first."""
        found: dict[int, frozenset[int]] = {}
        for number, block in enumerate(self.blocks):
            for header in block.successors:
                if header <= number:
                    found[header] = found.get(header, frozenset()) | self._between(header, number)
        return tuple(sorted(found.values(), key=len))

    def _between(self, header: int, end: int) -> frozenset[int]:
        """Return the blocks on the ways from ``header`` to ``end``."""
        seen, waiting = {header}, [end]
        while waiting:
            number = waiting.pop()
            if number not in seen:
                seen.add(number)
                waiting += self.blocks[number].predecessors
        return frozenset(seen)


def scheduled(log: str) -> Shader | None:
    """Return the kernel's shader as scheduled; None if the log does not hold it."""
    starts = [found.start() for found in _SHADER.finditer(log)]
    if len(starts) < 3:
        return None
    text = log[starts[1] : starts[2]]
    return Shader(
        tuple(
            Block(
                tuple(_instruction(line) for line in found["code"].splitlines() if line.strip()),
                _numbers(found["successors"]),
                _numbers(found["origins"]),
            )
            for found in _BLOCK.finditer(text)
        )
    )


def _numbers(text: str | None) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"block(\d+)", text or "")))


def _instruction(line: str) -> Instruction:
    left, equals, right = line.strip().partition(" = ")
    operation, _, operands = (right if equals else left).partition(" ")
    return Instruction(_operands(left) if equals else (), operation, _operands(operands))


def _operands(text: str) -> tuple[Operand, ...]:
    return tuple(map(_operand, filter(None, text.split(", "))))


def _operand(text: str) -> Operand:
    found = _VALUE.fullmatch(text)
    return Operand(text, int(found["name"]), found["size"]) if found else Operand(text, None, "")

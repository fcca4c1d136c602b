"""Registers that a kernel wants: live values at its widest point, counted as Mesa counts them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .listing import Block, Instruction, Operand, Shader

_HALVES = {"h": 1, "": 2, "d": 4}
"""16-bit registers of an element, by its size."""

_UNIFORM = re.compile(r"u\d+(?P<half>[lh])?(?P<pair>:u\d+)?(?:\.\w+)*")
_NESTING = 1
"""16-bit registers that control flow keeps for itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Registers wanted at the widest point.

    Attributes:
        halves: 16-bit registers.
        in_loop: Whether that point is in a loop.
    """

    halves: int
    in_loop: bool


def demand(shader: Shader) -> Demand:
    """Return what a shader in SSA form wants, however many registers there are."""
    widths = _widths(shader)
    live_in: list[set[int]] = [set() for _ in shader.blocks]
    widest = [0] * len(shader.blocks)
    changed = True
    while changed:
        changed = False
        for number in reversed(range(len(shader.blocks))):
            live = _live_out(shader, number, live_in)
            widest[number] = _scan(shader.blocks[number], live, widths)
            changed = changed or live != live_in[number]
            live_in[number] = live
    most, number = max((count, number) for number, count in enumerate(widest))
    in_loop = any(number in loop for loop in shader.loops)
    return Demand(halves=most + (_NESTING if len(shader.blocks) > 1 else 0), in_loop=in_loop)


def _live_out(shader: Shader, number: int, live_in: list[set[int]]) -> set[int]:
    """Return what is live where a block ends; a phi reads its operand there."""
    live: set[int] = set()
    for successor in shader.blocks[number].successors:
        block = shader.blocks[successor]
        live |= live_in[successor].difference(*(phi.made for phi in block.phis))
        edge = block.predecessors.index(number)
        chosen = (phi.operands[edge].value for phi in block.phis)
        live.update(value for value in chosen if value is not None)
    return live


def _scan(block: Block, live: set[int], widths: dict[int, int]) -> int:
    """Turn what is live after a block into what is live before, and return its widest point."""
    total = sum(widths[value] for value in live)
    most = total
    for one in reversed(block.instructions):
        if one.operation == "phi":
            continue
        most = max(most, total + sum(widths[value] for value in one.made - live))
        total -= sum(widths[value] for value in one.made & live)
        live -= one.made
        total += sum(widths[value] for value in one.used - live)
        live |= one.used
        most = max(most, total)
    return most


def _widths(shader: Shader) -> dict[int, int]:
    """Return the 16-bit registers of every value, rounded up to a power of two."""
    widths: dict[int, int] = {}
    for block in shader.blocks:
        for one in block.instructions:
            for result in one.results:
                if result.value is not None:
                    halves = _width(one, _HALVES[result.size], widths)
                    widths[result.value] = 1 << (halves - 1).bit_length()
    return widths


def _width(instruction: Instruction, element: int, widths: dict[int, int]) -> int:
    if instruction.operation in ("device_load", "local_load", "stack_load"):
        return element * instruction.channels
    if instruction.operation == "collect":
        return sum(_part_width(one, element, widths) for one in instruction.operands)
    return element


def _part_width(part: Operand, element: int, widths: dict[int, int]) -> int:
    """Return the width of a part of a vector; of a constant, at most 32 bits of an element."""
    if part.value is not None:
        return widths.get(part.value, _HALVES[part.size])
    uniform = _UNIFORM.fullmatch(part.text)
    if uniform:
        return 4 if uniform["pair"] else 1 if uniform["half"] else 2
    return min(element, 2)

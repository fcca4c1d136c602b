"""Counts what a kernel's text does in one turn of a loop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .listing import Block, Instruction, Shader

# These only say how values are grouped: nothing remains of them.
_GROUPING = frozenset(("phi", "split", "collect", "begin_cf"))
_LOADS = frozenset(("device_load", "local_load"))
_INTEGER_OPERANDS = {
    **dict.fromkeys(_LOADS, slice(None)),
    # What is stored comes first, what is selected last.
    **dict.fromkeys(("device_store", "local_store"), slice(1, None)),
    **dict.fromkeys(("icmp", "if_icmp", "while_icmp"), slice(None)),
    "icmpsel": slice(2),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Work of one turn of a loop, on the way through it that does most.

    Attributes:
        products: Products of 8x8 matrices.
        device_loads: Loads from device memory.
        threadgroup_loads: Loads from threadgroup memory.
        instructions: Instructions, without the moves that assigning registers adds.
        device_stores: Stores to device memory.
        threadgroup_stores: Stores to threadgroup memory.
        barriers: Barriers of the threadgroup.
    """

    products: int = 0
    device_loads: int = 0
    threadgroup_loads: int = 0
    instructions: int = 0
    device_stores: int = 0
    threadgroup_stores: int = 0
    barriers: int = 0


_Counts = tuple[int, ...]
"""A step's numbers in their order."""


def main_step(shader: Shader) -> Step:
    """Return one turn of the loop of a shader in SSA form that has most products, or else loads.

    Of nested loops that have as many, it is the innermost. A shader without loops has an empty one.
    """
    products = _products(shader)
    turns = [_turn(shader, loop, products) for loop in shader.loops]
    if not turns:
        return Step()
    most = max(turns, key=lambda counts: counts[:3])
    return Step(**dict(zip(Step.__slots__, most, strict=True)))


def _turn(shader: Shader, loop: frozenset[int], products: frozenset[int]) -> _Counts:
    """Return the counts of the way through a loop that does most; loops inside it turn once."""
    ways: dict[int, _Counts] = {}
    for number in sorted(loop):
        own = _counts(shader.blocks[number], products)
        before = [ways[one] for one in shader.blocks[number].predecessors if one in ways]
        ways[number] = tuple(map(sum, zip(own, max(before, default=(0,) * len(own)), strict=True)))
    return max(ways.values())


def _counts(block: Block, products: frozenset[int]) -> _Counts:
    names = [one.operation for one in block.instructions]
    return (
        sum(len(one.made & products) for one in block.instructions),
        names.count("device_load"),
        names.count("local_load"),
        sum(name not in _GROUPING for name in names),
        names.count("device_store"),
        names.count("local_store"),
        names.count("threadgroup_barrier"),
    )


def _products(shader: Shader) -> frozenset[int]:
    """Return a value of every product of 8x8 matrices.

    They are those of include/agx/matrix.h. Of float32 operands that is a + b + c in 64 bits, of
    which the second addition goes where c is zero; of narrower ones it is a * b + c, which is not
    seen where c is zero. Other additions of 64 bits end in addresses and comparisons.
    """
    makers = {value: one for one in _all(shader) for value in one.made}
    sums = {value for value, one in makers.items() if _is_wide_sum(one)}
    sums -= _integers(shader, makers)
    narrow = {value for value in sums if _adds_narrow(makers[value], makers)}
    wide = sums - narrow
    return frozenset(narrow | {value for value in wide if not makers[value].used & wide})


def _all(shader: Shader) -> Iterator[Instruction]:
    return (one for block in shader.blocks for one in block.instructions)


def _is_wide_sum(one: Instruction) -> bool:
    values = sum(operand.value is not None for operand in one.operands)
    return one.operation == "iadd" and values == 2 and one.results[0].size == "d"


def _adds_narrow(one: Instruction, makers: dict[int, Instruction]) -> bool:
    """Whether an addition adds the product of narrow operands to something."""
    pairs = [makers[value] for value in one.used if makers[value].operation == "collect"]
    elements = [makers[value] for pair in pairs for value in pair.used]
    return any(
        element.operation == "fmul" and any(factor.size == "h" for factor in element.operands)
        for element in elements
    )


def _integers(shader: Shader, makers: dict[int, Instruction]) -> set[int]:
    """Return the values from which addresses and comparisons of integers are computed."""
    seen: set[int] = set()
    waiting = [value for one in _all(shader) for value in _read_as_integers(one)]
    while waiting:
        value = waiting.pop()
        if value not in seen:
            seen.add(value)
            one = makers[value]
            computed = one.operation not in _LOADS and not one.operation.startswith("f")
            waiting += one.used if computed else ()
    return seen


def _read_as_integers(one: Instruction) -> list[int]:
    """Return the values that an instruction surely takes for integers."""
    read = _INTEGER_OPERANDS.get(one.operation, slice(0))
    return [operand.value for operand in one.operands[read] if operand.value is not None]

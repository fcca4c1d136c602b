"""What a SPIR-V module needs before Mesa compiles it as Metal would be compiled.

A kernel that is not exported is dropped, which clang does not do. Multiply-adds become one
instruction, as they do in Metal, which clang rules out for the whole module. Loads of 64 bits that
clang makes of four elements are said to be aligned to 32: Mesa cannot join four parts.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

_ENTRY_POINT = 15
_EXECUTION_MODE = 16
_TYPE_INT = 21
_LOAD = 61
_DECORATE = 71
_CONTRACTION_OFF = 31
_ALIGNED = 2
_LEAST_ALIGNMENT = 4
_LINKAGE_ATTRIBUTES = 41
_EXPORT = 0
_HEADER_WORDS = 5

_Words = list[int]


def prepare(module: bytes) -> bytes:
    """Return a module that Mesa takes.

    Args:
        module: A SPIR-V module in the byte order of this machine, as clang writes it.

    Raises:
        ValueError: It has no kernel or no decorations.
    """
    words = list(struct.unpack(f"={len(module) // 4}I", module))
    prepared, exports = words[:_HEADER_WORDS], list[int]()
    exported = False
    wide: set[int] = set()
    for instruction in _instructions(words):
        opcode = instruction[0] & 0xFFFF
        if opcode == _ENTRY_POINT:
            exports += _export(instruction[2], _string(instruction[3:]))
        elif opcode == _TYPE_INT and instruction[2] == 64:
            wide.add(instruction[1])
        elif opcode == _LOAD and instruction[1] in wide:
            _align(instruction)
        elif opcode == _DECORATE and not exported:
            prepared += exports
            exported = bool(exports)
        if opcode != _EXECUTION_MODE or instruction[2] != _CONTRACTION_OFF:
            prepared += instruction
    if not exported:
        raise ValueError("[agx] Expected a SPIR-V module with a kernel and decorations.")
    return struct.pack(f"={len(prepared)}I", *prepared)


def _align(load: _Words) -> None:
    """Raise the alignment that a load states."""
    if len(load) > 5 and load[4] & _ALIGNED:
        load[5] = max(load[5], _LEAST_ALIGNMENT)


def _instructions(words: _Words) -> Iterator[_Words]:
    at = _HEADER_WORDS
    while at < len(words):
        length = words[at] >> 16
        yield words[at : at + length]
        at += length


def _string(words: _Words) -> _Words:
    """Return the words of a string, which ends with the first zero byte."""
    end = next(i for i, word in enumerate(words) if word >> 24 == 0)
    return words[: end + 1]


def _export(target: int, name: _Words) -> _Words:
    operands = [target, _LINKAGE_ATTRIBUTES, *name, _EXPORT]
    return [(len(operands) + 1) << 16 | _DECORATE, *operands]

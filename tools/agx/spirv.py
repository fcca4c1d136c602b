"""The one change that a SPIR-V module needs before Mesa takes it."""

from __future__ import annotations

import struct

_ENTRY_POINT = 15
_DECORATE = 71
_LINKAGE_ATTRIBUTES = 41
_EXPORT = 0
_HEADER_WORDS = 5


def export_entry_points(module: bytes) -> bytes:
    """Decorate the kernels of a module as exported: Mesa drops a kernel that is not.

    Args:
        module: A SPIR-V module in the byte order of this machine, as clang writes it.

    Raises:
        ValueError: It has no kernel or no decorations.
    """
    words = list(struct.unpack(f"={len(module) // 4}I", module))
    exported: list[int] = []
    at = _HEADER_WORDS
    while at < len(words):
        length, opcode = words[at] >> 16, words[at] & 0xFFFF
        if opcode == _ENTRY_POINT:
            exported += _export(words[at + 2], _string(words[at + 3 : at + length]))
        elif opcode == _DECORATE and exported:
            words[at:at] = exported
            return struct.pack(f"={len(words)}I", *words)
        at += length
    raise ValueError("[agx] Expected a SPIR-V module with a kernel and decorations.")


def _string(words: list[int]) -> list[int]:
    """Return the words of a string, which ends with the first zero byte."""
    end = next(i for i, word in enumerate(words) if word >> 24 == 0)
    return words[: end + 1]


def _export(target: int, name: list[int]) -> list[int]:
    operands = [target, _LINKAGE_ATTRIBUTES, *name, _EXPORT]
    return [(len(operands) + 1) << 16 | _DECORATE, *operands]

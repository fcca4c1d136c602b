"""Files of safetensors whose formats MLX does not know, and what formats theirs are."""

from __future__ import annotations

import json
from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any

import mlx.core as mx

Name = str | PathLike[str]

HEADER_BYTES = 8
"""Of the length of the header, before it."""

_STORED = {
    "BOOL": mx.bool_,
    "U8": mx.uint8,
    "I8": mx.int8,
    "F8_E4M3": mx.uint8,
    "F8_E5M2": mx.uint8,
    "F8_E8M0": mx.uint8,
    "U16": mx.uint16,
    "I16": mx.int16,
    "F16": mx.float16,
    "BF16": mx.bfloat16,
    "U32": mx.uint32,
    "I32": mx.int32,
    "F32": mx.float32,
    "U64": mx.uint64,
    "I64": mx.int64,
}


def header(file: Name) -> tuple[dict[str, dict[str, Any]], int]:
    """Return what a file says of each tensor, and where its bytes begin."""
    with Path(file).open("rb") as opened:
        length = int.from_bytes(opened.read(HEADER_BYTES), "little")
        entries: dict[str, dict[str, Any]] = json.loads(opened.read(length))
    entries.pop("__metadata__", None)
    return entries, HEADER_BYTES + length


def stored_formats(files: Iterable[Name]) -> dict[str, str]:
    """Return the format of each tensor in some files, such as ``F8_E4M3``, which MLX forgets."""
    return {name: entry["dtype"] for file in files for name, entry in header(file)[0].items()}


def load(file: Name) -> dict[str, mx.array]:
    """Return the tensors of a file that `mx.load` refuses: small floats are codes in uint8."""
    import numpy as np

    entries, start = header(file)
    stored = np.memmap(file, dtype=np.uint8, mode="r", offset=start)
    found = {}
    for name, entry in entries.items():
        first, end = entry["data_offsets"]
        array = mx.array(stored[first:end]).view(_STORED[entry["dtype"]])
        found[name] = mx.reshape(array, entry["shape"])
    return found

"""Metal text in the dialect of stock clang: C++ for OpenCL, with a kernel signature of its own.

The body of a kernel stays as it is. Its parameters that are places of a thread become variables,
references become pointers, and attributes that nothing here reads go.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

Extent = tuple[int, int, int]

ENTRY = "agx_kernel"
"""Name of every kernel in its new form, so that equal texts of two names are equal."""

GRID = "agx_grid"
"""Parameter that holds the size of a grid, which Mesa leaves to the caller."""

_PLACES = {
    "threadgroup_position_in_grid": "agx::threadgroup_position()",
    "threadgroups_per_grid": f"agx::threadgroups({GRID})",
    "thread_position_in_threadgroup": "agx::thread_position()",
    "thread_position_in_grid": "agx::thread_position_in_all()",
    "threads_per_threadgroup": "agx::threads_of_threadgroup()",
    "threads_per_grid": f"agx::threads_of_all({GRID})",
    "thread_index_in_threadgroup": "nir_load_local_invocation_index()",
    "simdgroup_index_in_threadgroup": "nir_load_subgroup_id()",
    "thread_index_in_simdgroup": "nir_load_subgroup_invocation()",
    "simdgroups_per_threadgroup": "((agx::threads_of_threadgroup().x + 31) / 32)",
    "threads_per_simdgroup": "32u",
}
_DROPPED = re.compile(
    r"^[ \t]*#[ \t]*(?:line\b|include[ \t]*<|pragma[ \t]+(?:once|METAL)\b).*$", re.MULTILINE
)
_HEAD = re.compile(
    r"(?:\[\[[^]]*\]\]\s*)*(?:\[\[\s*kernel\b[^]]*\]\]|\bkernel\b)\s*void\s+(?P<name>\w+)\s*\("
)
_THREADS = re.compile(r"max_total_threads_per_threadgroup\s*\(\s*(\d+)\s*\)")
_ATTRIBUTE = re.compile(r"\[\[(.*?)\]\]", re.DOTALL)
_PAIRS = {"(": ")", "[": "]", "{": "}", "<": ">"}


class DialectError(ValueError):
    """A text that has no kernel, or one whose signature is not understood."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A kernel in the dialect.

    Attributes:
        name: Its name in the Metal text.
        threads: Threads of a threadgroup in each dimension.
        code: The complete text.
    """

    name: str
    threads: Extent
    code: str


@dataclass(frozen=True, slots=True)
class _Kernel:
    """Where a kernel stands in its text: its head, parameters and end."""

    start: int
    name: str
    head: str
    parameters: str
    body: int
    end: int


def convert(text: str, threads: Extent | None = None) -> tuple[Program, ...]:
    """Return every kernel of a Metal text as a program of its own.

    Args:
        text: The text; MLX's prelude is left out.
        threads: Threads of a threadgroup in each dimension; the kernel's own attribute if None.

    Raises:
        DialectError: There is no kernel, or no number of threads, or an unknown parameter.
    """
    text = _DROPPED.sub("", text)
    kernels = list(_kernels(text))
    if not kernels:
        raise DialectError("[agx] Expected Metal text with a kernel, got none.")
    return tuple(_program(text, kernels, one, threads) for one in kernels)


def _kernels(text: str) -> Iterator[_Kernel]:
    for found in _HEAD.finditer(text):
        closing = matching(text, found.end() - 1)
        body = text.index("{", closing) + 1
        yield _Kernel(
            start=found.start(),
            name=found["name"],
            head=found.group(),
            parameters=text[found.end() : closing],
            body=body,
            end=matching(text, body - 1) + 1,
        )


def matching(text: str, start: int) -> int:
    """Return where the bracket that opens at ``start`` closes.

    Raises:
        DialectError: It does not.
    """
    opening, closing, depth = text[start], _PAIRS[text[start]], 0
    for index in range(start, len(text)):
        if text[index] == opening:
            depth += 1
        elif text[index] == closing:
            depth -= 1
            if depth == 0:
                return index
    raise DialectError(
        f"[agx] Expected a {closing!r} to end what begins with {text[start:][:40]!r}."
    )


def _program(text: str, kernels: list[_Kernel], kernel: _Kernel, threads: Extent | None) -> Program:
    threads = threads or _own_threads(kernel)
    before, at = "", 0
    for other in kernels:
        if other.start < kernel.start:
            before, at = before + text[at : other.start], other.end
    before += text[at : kernel.start]
    parameters, places = _signature(kernel)
    size = ", ".join(map(str, threads))
    code = (
        f'#define AGX_THREADS {size}\n#include "agx.h"\n{before}'
        f"__attribute__((reqd_work_group_size({size}))) __kernel void {ENTRY}(\n  "
        f"{', '.join(parameters)}) {{\n{' '.join(places)}\n{text[kernel.body : kernel.end]}\n"
    )
    return Program(name=kernel.name, threads=threads, code=code)


def _own_threads(kernel: _Kernel) -> Extent:
    found = _THREADS.search(kernel.head)
    if found is None:
        raise DialectError(
            f"[agx] Expected the threads of a threadgroup of {kernel.name}, which has no "
            "max_total_threads_per_threadgroup."
        )
    return int(found[1]), 1, 1


def _signature(kernel: _Kernel) -> tuple[list[str], list[str]]:
    """Return the parameters that stay, and the declarations that the others become."""
    parameters, declarations = [], []
    for text in split(kernel.parameters):
        attributes = " ".join(_ATTRIBUTE.findall(text))
        declared = " ".join(_ATTRIBUTE.sub("", text).split())
        place = next((code for word, code in _PLACES.items() if word in _words(attributes)), None)
        if place is not None:
            declarations.append(f"const {declared} = {place};")
            if GRID in place and f"__constant uint* {GRID}" not in parameters:
                parameters.append(f"__constant uint* {GRID}")
        elif not _is_buffer(declared, attributes):
            raise DialectError(f"[agx] Expected a known parameter of {kernel.name}, got {text!r}.")
        elif "&" in declared:
            kind, name = declared.split("&")
            parameters.append(f"{kind}* {name.strip()}_at")
            declarations.append(f"{declared} = *{name.strip()}_at;")
        else:
            parameters.append(declared)
    return parameters, declarations


def _is_buffer(declared: str, attributes: str) -> bool:
    """Whether a parameter is a buffer, which Metal numbers itself where no attribute does."""
    unnumbered = not attributes and bool({"device", "constant"} & _words(declared))
    return "buffer" in _words(attributes) or unnumbered


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text))


def split(text: str) -> list[str]:
    """Return what commas outside brackets separate."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in _PAIRS) - (character in _PAIRS.values())
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part for part in map(str.strip, parts) if part]

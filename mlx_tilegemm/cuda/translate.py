"""Turns the Metal text of one kernel into CUDA C++ for NVRTC."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache

from ..core.render import TEMPLATES
from ..emulator.rewrite import argument, needs_expansion, rewrite
from ..emulator.signature import EntryPoint, Source
from ..errors import KernelCompileError

Extent = tuple[int, int, int]

TEXT_NAME = "kernel.metal"
"""What messages call a text that has no #line of its own."""

_MATRICES = re.compile(r"\bsimdgroup_(?:matrix|(?:float|half|bfloat)8x8)\b")
_KERNEL = "[[kernel]]"
# Metal's hints to unroll, as NVRTC spells them.
_UNROLL = (
    (re.compile(r"clang loop unroll_count\((\w+)\)"), r"unroll \1"),
    (re.compile(r"clang loop unroll\((?:full|enable)\)"), "unroll"),
    (re.compile(r"clang loop unroll\(disable\)"), "unroll 1"),
)
# Reads and writes of structs, which move as vectors where they are aligned so.
_PLACE = r"\(([^();]*(?:\([^();]*\)[^();]*)*)\)"
_READ = re.compile(
    rf"(?<=[=(,])(\s*)\*reinterpret_cast<(const (?:device|threadgroup) [^()*;]+\*)>{_PLACE}"
)
_WRITE = re.compile(
    rf"(?<=[;{{}}])(\s*)\*reinterpret_cast<(threadgroup [^()*;]+\*)>{_PLACE} = (\w+);"
)
# Elements of a fragment that were of a narrower type.
_WIDENED = re.compile(
    r"\bset_elements\(\s*([^;]+?), float2\(float\(([^;()]+)\), float\(([^;()]+)\)\)\);"
)
# The same, of a pair that is filled from a row one by one.
_WIDENED_PAIR = re.compile(
    r"(\b(\w+)\[e\] = float\((\w+)\[\w+\]\);[\s}]*)set_elements\(([^;()]+), \2\);"
)
# Products and sums that a text wants rounded one by one.
_UNCONTRACTED = re.compile(
    r"#pragma\s+(?:(?:clang|METAL)\s+fp\s+contract\s*\(\s*off\s*\)|STDC\s+FP_CONTRACT\s+OFF)"
)
# Blocks of rows that causal masks give more keys, and which therefore come first: in all matrices,
# so that a GPU does not wait for a last long one.
_LONGEST_FIRST = re.compile(
    r"\bbool CAUSAL = true;.*\bCAUSAL \? \(q_len - 1\) / BLOCK_Q - block\b", re.DOTALL
)
_OPENED_METAL = re.compile(r"^[ \t]*namespace\s+metal\b", re.MULTILINE)


class Order(Enum):
    """Order in which the threadgroups of a grid begin.

    Attributes:
        LAUNCHED: As CUDA launches a grid of the same extents, x first.
        COUNTED: The same, of a grid in x alone, which takes more threadgroups in y and z.
        X_LAST: Those of one x after the other, of a grid in x alone.
    """

    LAUNCHED = "launched"
    COUNTED = "counted"
    X_LAST = "x_last"


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """Integers of a buffer that are arguments of the launch: no thread waits for them.

    Args:
        buffer: Index of the buffer.
        count: How many they are.
    """

    buffer: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """What a kernel's code depends on of how it is launched.

    Args:
        threadgroup: Threads of a threadgroup in x, y and z.
        whole: Whether the grid is made of whole threadgroups; else the grid is an argument.
        order: Order of the threadgroups.
        numbers: What comes in the place of a buffer; None where all buffers come.
    """

    threadgroup: Extent
    whole: bool
    order: Order = Order.LAUNCHED
    numbers: Numbers | None = None

    @property
    def threads(self) -> int:
        """Threads of a threadgroup."""
        x, y, z = self.threadgroup
        return x * y * z

    @property
    def takes_grid(self) -> bool:
        """Whether the kernel takes the sizes of the grid as its last arguments."""
        return self.is_linear or not self.whole

    @property
    def is_linear(self) -> bool:
        """Whether the grid that is launched has threadgroups in x alone."""
        return self.order is not Order.LAUNCHED

    def for_text(self, text: str) -> Geometry:
        """Return the geometry of a text, whose threadgroups may be of unlike lengths."""
        longest_first = _LONGEST_FIRST.search(text) is not None
        return replace(self, order=Order.X_LAST) if longest_first else self


@dataclass(frozen=True, slots=True, kw_only=True)
class Translated:
    """CUDA C++ of a kernel.

    Args:
        code: The source.
        name: The name of its function, without mangling.
        options: Of NVRTC, for it.
    """

    code: str
    name: str
    options: tuple[str, ...]


def translate(text: str, geometry: Geometry, *, exact: bool = False) -> Translated:
    """Translates what MLX generates for a custom kernel.

    Args:
        text: The text, with one kernel.
        geometry: How it is launched.
        exact: Whether it computes what the emulator computes, to the last bit.

    Raises:
        KernelCompileError: The text holds a construct that the translation does not know.
    """
    _refuse(text)
    plain, helpers = (text, []) if exact else _without_helpers(text)
    rewritten = rewrite(_with_moves(_unroll(plain)), {}, describes=False)
    if len(rewritten.entries) != 1:
        raise KernelCompileError(
            f"[cuda] Expected a text of one kernel, got {len(rewritten.entries)}."
        )
    entry = rewritten.entries[0]
    macros = [*_macros(text, geometry), *(("MSL_RT_EXACT",) if exact else ())]
    macros += helpers
    contracts = not exact and not _UNCONTRACTED.search(text)
    options = (*(f"-D{macro}" for macro in macros), f"--fmad={'true' if contracts else 'false'}")
    code = "\n".join(
        (
            "#include <executor/prelude.h>",
            "MSL_TEXT_BEGIN",
            f'#line 1 "{TEXT_NAME}"',
            rewritten.text,
            '#line 1 "entry point"',
            "MSL_TEXT_END",
            _entry(entry, geometry),
            "",
        )
    )
    return Translated(code=code, name=_function(entry), options=options)


def _refuse(text: str) -> None:
    if needs_expansion(text):
        raise KernelCompileError(
            "[cuda] Expected a text without #if, #include and macros that hide a kernel's "
            "signature or its threadgroup memory: there is no Metal preprocessor here."
        )
    if _OPENED_METAL.search(text):
        raise KernelCompileError(
            "[cuda] Expected a text that adds nothing to the namespace metal, in which it stands "
            "as a whole here."
        )


def _unroll(text: str) -> str:
    for pattern, spelling in _UNROLL:
        text = pattern.sub(spelling, text)
    return text


def _with_moves(text: str) -> str:
    """The text, with reads and writes of structs by the functions of executor/move.h."""
    read = _READ.sub(r"\1msl_rt::loaded(reinterpret_cast<\2>(\3))", text)
    return _WRITE.sub(r"\1msl_rt::store(reinterpret_cast<\2>(\3), \4);", read)


# Functions of the templates' library that executor/tile.h has in another way, each from its first
# comment to the end of its file, and the macro that asks for them.
_HELPERS = (
    ("fragment.metal.j2", "// sum += left * right.", "MSL_RT_TILES"),
    ("rows_mma.metal.j2", "// sums[i] +=", "MSL_RT_ROWS"),
    ("stage.metal.j2", "// Copies ROWS x COLUMNS elements", "MSL_RT_STAGES"),
)


@lru_cache(maxsize=1)
def _helpers() -> tuple[tuple[str, str], ...]:
    """Texts of these functions and their macros."""
    found = []
    for name, first, macro in _HELPERS:
        _, comment, rest = (TEMPLATES / "lib" / name).read_text(encoding="utf-8").partition(first)
        found.append((comment + rest, macro))
    return tuple(found)


def _without_helpers(text: str) -> tuple[str, list[str]]:
    """The text without these functions, at the same lines, and the macros of those it had."""
    macros = []
    for helper, macro in _helpers():
        if helper in text:
            text = text.replace(helper, "\n" * helper.count("\n"))
            macros.append(macro)
    if "MSL_RT_TILES" in macros:
        text = _WIDENED.sub(_set_widened, text)
        text = _WIDENED_PAIR.sub(r"\1set_widened(\4, \2, \3);", text)
    return text, macros


def _set_widened(found: re.Match[str]) -> str:
    lines = "\n" * found[0].count("\n")
    return f"set_widened({', '.join(found.groups())});{lines}"


def _macros(text: str, geometry: Geometry) -> list[str]:
    found = []
    if _MATRICES.search(text):
        if geometry.threads % 32 or not geometry.whole:
            raise KernelCompileError(
                "[cuda] Expected whole simdgroups for a kernel of simdgroup matrices, got "
                f"threadgroups of {geometry.threads} threads"
                f"{'' if geometry.whole else ' and a grid that ends inside of one'}."
            )
        found.append("MSL_RT_FRAGMENTS")
    returns = re.search(r"\breturn\b", text.partition(_KERNEL)[2])
    if returns or geometry.threads % 32 or not geometry.whole:
        found.append("MSL_RT_LANES_END")
    return found


def _function(entry: EntryPoint) -> str:
    return f"msl_{re.sub('[^0-9A-Za-z_]', '_', entry.name)}"


def _entry(entry: EntryPoint, geometry: Geometry) -> str:
    x, y, z = geometry.threadgroup
    buffers = [one for one in entry.function.parameters if one.source is Source.BUFFER]
    indices = sorted(one.index for one in buffers)
    numbers = geometry.numbers or Numbers(buffer=-1, count=0)
    names = [f"msl_number_{i}" for i in range(numbers.count)]
    parameters = [f"void* msl_buffer_{index}" for index in indices if index != numbers.buffer]
    parameters += [f"int {name}" for name in names]
    held = [f"  int msl_buffer_{numbers.buffer}[] = {{{', '.join(names)}}};"] if names else []
    sizes = f"{x}, {y}, {z}"
    found = f"msl_rt::find_thread<{sizes}>(msl_ids)"
    if geometry.takes_grid:
        parameters += ["int msl_grid_x", "int msl_grid_y", "int msl_grid_z"]
        grid = ", ".join(f"msl_rt::uint32_t(msl_grid_{axis})" for axis in "xyz")
        order = f"msl_rt::Order::{geometry.order.value}"
        found = f"msl_rt::find_thread<{sizes}, {order}>(msl_rt::Extent{{{grid}}}, msl_ids)"
    arguments = [
        argument(one, f"msl_buffer_{one.index}", "msl_ids.") for one in entry.function.parameters
    ]
    return "\n".join(
        (
            f'extern "C" __global__ void __launch_bounds__({geometry.threads}) '
            f"{_function(entry)}({', '.join(parameters)}) {{",
            "  using namespace metal::kernels;",
            *held,
            "  msl_rt::ThreadIds msl_ids;",
            f"  if (!{found}) return;",
            f"  msl_rt::call({', '.join((f'&metal::kernels::{entry.expression}', *arguments))});",
            "}",
        )
    )

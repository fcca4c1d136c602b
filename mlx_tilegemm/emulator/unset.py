"""Makes the variables of a kernel unset, in LLVM's text of it, before anything is optimised.

A compiler may take a variable that was never set for whatever it likes: most often for the only
value that the variable is ever given, so that no instrumentation sees what the text says. Here
every variable gets its first contents from a constant that the compiler cannot see into,
``msl_rt_unset`` of the runtime. Nothing can be concluded from them, they are gone wherever a
variable is set before it is used, and the runtime takes each bit of them for one that was never
set. Where in the constant they come from tells the variable.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

# Mirrors ``msl_rt::unset_bytes``; its beginning stands for variables that are not known.
_SOURCE_BYTES = 1 << 20
_FIRST_OFFSET = 16
# Beyond so many pieces the holes between the members of structs are filled in.
_MOST_PIECES = 1024

_NAME = r"%[\w.$-]+|%\"[^\"]*\""
_TYPE = re.compile(rf"^(?P<name>{_NAME}) = type (?P<body>.*)$")
_FUNCTION = re.compile(r"^define .* (?P<attributes>#\d+)[^#]*\{$")
_ATTRIBUTES = re.compile(r"^attributes (?P<number>#\d+) = \{ (?P<words>.*)$")
_ALLOCA = re.compile(rf"^  (?P<name>{_NAME}) = alloca (?P<type>.*?), align (?P<alignment>\d+)")
_START = re.compile(
    rf"^  call void @llvm\.lifetime\.start\.p0\((?:i64 [^,]*, )?ptr (?:\w+ )*(?P<name>{_NAME})\)"
    r"(?:.*!dbg (?P<location>!\d+))?"
)
_TOKEN = re.compile(rf"{_NAME}|\w+|<\{{|\}}>|[\[\]{{}}<>,]")
# A struct of ours whose members always are set.
_BOOKKEEPING = "msl_rt::Bookkeeping"
_SCALARS = {"half": 2, "bfloat": 2, "float": 4, "double": 8, "ptr": 8}
_SOURCE = "@msl_rt_unset"
_COPY = "@llvm.memcpy.p0.p0.i64"
_NOSANITIZE = re.compile(r", !nosanitize !\d+")
_OVERFLOW = re.compile(
    r"^  (?P<name>%\S+) = call \{ i\d+, i1 \} @llvm\.[su](?P<sign>add|sub|mul)\.with\.overflow"
    r"\.i\d+\((?P<operands>i\d+ [^,]+, )i\d+ (?P<second>[^)]+)\)"
)
_RESULT = re.compile(
    r"^(?P<name>  %\S+) = extractvalue \{ i\d+, i1 \} (?P<pair>%\S+), 0(?P<location>, !dbg !\d+)?"
)
_ACCESS = re.compile(r"^  (%\S+ = load|store) ")
_EMPTY_NODE = "!999999999"
_ALIGNED = re.compile(rf"ptr (?:\w+ )*?align (\d+) ({_NAME})")
_LOCATION = re.compile(r", !dbg !\d+$")
_CHECK = "@msl.check_alignment"
# Inlined, it is gone where the address is that of a variable.
_CHECK_FUNCTION = f"""
declare void @msl_rt_misaligned(ptr, i64)

define internal void {_CHECK}(ptr %address, i64 %mask) alwaysinline nounwind {{
  %number = ptrtoint ptr %address to i64, !nosanitize {_EMPTY_NODE}
  %rest = and i64 %number, %mask, !nosanitize {_EMPTY_NODE}
  %aligned = icmp eq i64 %rest, 0, !nosanitize {_EMPTY_NODE}
  br i1 %aligned, label %done, label %report, !nosanitize {_EMPTY_NODE}

report:
  call void @msl_rt_misaligned(ptr %address, i64 %mask), !nosanitize {_EMPTY_NODE}
  br label %done

done:
  ret void
}}
"""
# To a type of fewer bits, where the bits known not to be set may get lost.
_CONVERSION = re.compile(
    rf"^(?P<start>  %\S+ = (?:fptrunc|fptosi|fptoui) float )(?P<operand>{_NAME})(?P<end> to .*)$"
)
_SPREAD = "@msl_rt_spread"
_DECLARED = re.compile(r"^(?:declare .*?)?(?P<name>[@!][\w.]+)(?: =|\()")
_DECLARATIONS = {
    _EMPTY_NODE: f"{_EMPTY_NODE} = !{{}}",
    _SOURCE: f"{_SOURCE} = external constant [{_SOURCE_BYTES} x i8]",
    _SPREAD: f"declare i32 {_SPREAD}(i32) nounwind willreturn memory(none)",
    _COPY: f"declare void {_COPY}(ptr, ptr, i64, i1 immarg)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """A variable of a kernel.

    Args:
        offset: Where in the constant its first contents come from.
        size: Bytes of it.
        name: What the compiler calls it.
        function: Where it stands, empty when unknown.
        file: Of its declaration.
        line: Of its declaration, 0 when unknown.
    """

    offset: int
    size: int
    name: str
    function: str = ""
    file: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where the bytes of a type are.

    Args:
        size: Bytes of it.
        alignment: What it would be aligned to by itself.
        pieces: Offset and size of what holds values; the rest is holes.
    """

    size: int
    alignment: int
    pieces: tuple[tuple[int, int], ...]


def make_unset(text: str) -> tuple[str, tuple[Variable, ...]]:
    """Gives the variables of a text contents that were never set.

    Args:
        text: LLVM's text of a kernel, not optimised.

    Returns:
        The new text, and its variables in the order of their offsets.
    """
    lines = text.split("\n")
    editor = _Editor(lines)
    edited = list(editor.edited())
    declared = {match["name"] for line in lines if (match := _DECLARED.match(line))}
    missing = [line for name, line in _DECLARATIONS.items() if name not in declared]
    return "\n".join([*edited, *missing, _CHECK_FUNCTION]), editor.variables()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Local:
    """A variable of the function under way."""

    name: str
    layout: Layout
    alignment: int


class _Editor:
    """Goes through a text once."""

    def __init__(self, lines: Sequence[str]) -> None:
        self._lines = lines
        self._types = _Types(lines)
        found = (_ATTRIBUTES.match(line) for line in lines if line.startswith("attributes "))
        attributes = [match for match in found if match]
        self._tracked = {
            match["number"]
            for match in attributes
            if "sanitize_memory" in match["words"]
            and "disable_sanitizer_instrumentation" not in match["words"]
        }
        self._untracked = {
            match["number"]
            for match in attributes
            if "sanitize_memory" not in match["words"]
            and "disable_sanitizer_instrumentation" not in match["words"]
        }
        self._offset = _FIRST_OFFSET
        self._copies = 0
        self._operations: dict[str, str] = {}
        self._found: list[tuple[int, int, str, str]] = []

    def edited(self) -> Iterator[str]:
        """The lines of the new text."""
        index = 0
        while index < len(self._lines):
            line = self._lines[index]
            function = _FUNCTION.match(line) if line.startswith("define ") else None
            if function:
                end = self._lines.index("}", index)
                yield line
                yield from self._body(function["attributes"], self._lines[index + 1 : end])
                index = end
                continue
            yield self._attributes(line)
            index += 1

    def variables(self) -> tuple[Variable, ...]:
        """The variables that were met."""
        places = _Places(self._lines)
        return tuple(
            places.variable(offset, size, name, location)
            for offset, size, name, location in self._found
        )

    def _attributes(self, line: str) -> str:
        """Keeps loads from being made before it is known that they should be."""
        match = _ATTRIBUTES.match(line) if line.startswith("attributes ") else None
        if match is None or match["number"] not in self._tracked:
            return line
        return line.replace("{ ", "{ sanitize_thread ", 1)

    def _body(self, attributes: str, body: Sequence[str]) -> Iterator[str]:
        if attributes in self._tracked:
            return self._function(body)
        if attributes in self._untracked:
            return (_without_shadow(line) for line in body)
        return iter(body)

    def _function(self, body: Sequence[str]) -> Iterator[str]:
        started = {match["name"] for line in body if (match := _START.match(line))}
        locals_: dict[str, _Local] = {}
        entering = True
        for line in body:
            alloca = _ALLOCA.match(line) if " = alloca " in line else None
            if alloca:
                local = self._local(alloca)
                if local is not None:
                    locals_[local.name] = local
            elif entering and line.startswith("  "):
                entering = False
                for name, local in locals_.items():
                    if name not in started:
                        yield from self._copy(local, "")
            elif f"call void {_COPY}(" in line:
                yield from _alignment_checks(line, locals_)
            elif conversion := _CONVERSION.match(line):
                yield from self._spread(conversion["operand"])
                line = f"{conversion['start']}%msl.whole.{self._copies}{conversion['end']}"
            yield self._seen(line) if "!nosanitize" in line else line
            start = _START.match(line) if "lifetime.start" in line else None
            if start and start["name"] in locals_:
                yield from self._copy(locals_[start["name"]], start["location"] or "")

    def _spread(self, number: str) -> Iterator[str]:
        """Makes all of a number count as never set if any bit of it was never set."""
        self._copies += 1
        n = self._copies
        yield f"  %msl.bits.{n} = bitcast float {number} to i32"
        yield f"  %msl.spread.{n} = call i32 {_SPREAD}(i32 %msl.bits.{n})"
        yield f"  %msl.whole.{n} = bitcast i32 %msl.spread.{n} to float"

    def _seen(self, line: str) -> str:
        """Lets the instrumentation see what a check of undefined behaviour computes.

        The program may use the same value. It is enough that the check's own branch is no use.
        """
        overflow = _OVERFLOW.match(line)
        if overflow:
            operands = overflow["operands"] + overflow["second"]
            self._operations[overflow["name"]] = f"{overflow['sign']} {operands}"
        if line.startswith("  br ") or " call " in line:
            return line
        line = _NOSANITIZE.sub("", line)
        result = _RESULT.match(line)
        if result:
            operation = self._operations[result["pair"]]
            return f"{result['name']} = {operation}{result['location'] or ''}"
        return line

    def _local(self, alloca: re.Match[str]) -> _Local | None:
        name, alignment = alloca["name"], int(alloca["alignment"])
        # Parameters are stored at once.
        if name.endswith(".addr"):
            return None
        layout = self._types.layout(alloca["type"], alignment)
        return _Local(name=name, layout=layout, alignment=alignment)

    def _copy(self, local: _Local, location: str) -> Iterator[str]:
        size = min(local.layout.size, _SOURCE_BYTES - _FIRST_OFFSET)
        if self._offset + size > _SOURCE_BYTES:
            self._offset = _FIRST_OFFSET
        self._found.append((self._offset, size, local.name, location))
        for start, length in local.layout.pieces:
            target = local.name
            if start:
                self._copies += 1
                target = f"%msl.unset.{self._copies}"
                yield f"  {target} = getelementptr i8, ptr {local.name}, i64 {start}"
            source = f"getelementptr (i8, ptr {_SOURCE}, i64 {self._offset + start})"
            yield (
                f"  call void {_COPY}(ptr {target}, ptr {source}, i64 {min(length, size)}, "
                "i1 false)"
            )
        self._offset += -(-size // 16) * 16


def _alignment_checks(copy: str, locals_: Container[str]) -> Iterator[str]:
    """Checks of the addresses of a copy; it may be split before anything else could see them."""
    location = _LOCATION.search(copy)
    for alignment, name in _ALIGNED.findall(copy):
        if int(alignment) > 1 and name not in locals_:
            call = f"  call void {_CHECK}(ptr {name}, i64 {int(alignment) - 1})"
            yield call + (location[0] if location else "")


def _without_shadow(line: str) -> str:
    """Keeps an access out of the instrumentation, in whatever function it ends up."""
    return f"{line}, !nosanitize {_EMPTY_NODE}" if _ACCESS.match(line) else line


class _Types:
    """The layouts of a text's types."""

    def __init__(self, lines: Sequence[str]) -> None:
        found = (_TYPE.match(line) for line in lines if " = type " in line)
        self._bodies = {match["name"]: match["body"] for match in found if match}
        self._known: dict[tuple[str, int], Layout] = {}

    def layout(self, text: str, alignment: int) -> Layout:
        """The layout of a type.

        Args:
            text: Its text.
            alignment: What the variable that holds it is aligned to: where that is more than its
                members need, bytes at its end only fill it up.
        """
        key = (text, alignment)
        if key not in self._known:
            self._known[key] = _TypeReader(self, text, alignment).read()
        return self._known[key]

    def named(self, name: str, alignment: int) -> Layout:
        """The layout of a type with a name."""
        layout = self.layout(self._bodies[name], alignment)
        return replace(layout, pieces=()) if _BOOKKEEPING in name else layout


class _TypeReader:
    """Reads one type."""

    def __init__(self, types: _Types, text: str, alignment: int) -> None:
        self._types = types
        self._tokens: list[str] = _TOKEN.findall(text)
        self._at = 0
        self._alignment = alignment

    def read(self) -> Layout:
        """The layout of the type that starts here."""
        token = self._next()
        if token == "[":
            return self._array()
        if token == "<":
            return self._vector()
        if token in ("{", "<{"):
            return self._struct(packed=token == "<{")
        if token.startswith("%"):
            return self._types.named(token, self._alignment)
        return _scalar(token)

    def _next(self) -> str:
        token = self._tokens[self._at]
        self._at += 1
        return token

    def _array(self) -> Layout:
        count = int(self._next())
        self._next()  # x
        element = self.read()
        self._next()
        size = count * element.size
        is_dense = element.pieces == ((0, element.size),)
        if is_dense or len(element.pieces) * count > _MOST_PIECES:
            pieces: tuple[tuple[int, int], ...] = ((0, size),)
        else:
            pieces = tuple(
                (number * element.size + start, length)
                for number in range(count)
                for start, length in element.pieces
            )
        return Layout(size=size, alignment=element.alignment, pieces=pieces)

    def _vector(self) -> Layout:
        count = int(self._next())
        self._next()
        size = count * self.read().size
        self._next()
        whole = 1 << max(size - 1, 0).bit_length()
        return Layout(size=whole, alignment=whole, pieces=((0, size),))

    def _struct(self, *, packed: bool) -> Layout:
        members: list[tuple[str, Layout]] = []
        while self._tokens[self._at] not in ("}", "}>"):
            first = self._at
            layout = self.read()
            members.append(("".join(self._tokens[first : self._at]), layout))
            if self._tokens[self._at] == ",":
                self._at += 1
        self._at += 1
        return self._joined(members, packed)

    def _joined(self, members: Sequence[tuple[str, Layout]], packed: bool) -> Layout:
        end, alignment = 0, 1
        pieces: list[tuple[int, int]] = []
        for number, (text, member) in enumerate(members):
            step = 1 if packed else member.alignment
            end = -(-end // step) * step
            last = number == len(members) - 1
            before = members[number - 1][0] if last and number else ""
            fills = before not in ("", text) and self._fills(text, end + member.size, alignment)
            if not fills:
                pieces += [(end + start, length) for start, length in member.pieces]
            end += member.size
            alignment = max(alignment, step)
        size = -(-end // alignment) * alignment
        return Layout(size=size, alignment=alignment, pieces=_merged(pieces))

    def _fills(self, text: str, end: int, alignment: int) -> bool:
        """Whether the last member of a struct only brings it to its alignment."""
        is_bytes = re.fullmatch(r"i8|\[\d+xi8\]", text) is not None
        return is_bytes and alignment < self._alignment and end % self._alignment == 0


def _scalar(name: str) -> Layout:
    size = _SCALARS.get(name, 0)
    if name[0] == "i" and name[1:].isdigit():
        size = 1 << max(int(name[1:]) - 1, 7).bit_length() >> 3
    if not size:
        raise ValueError(name)
    return Layout(size=size, alignment=size, pieces=((0, size),))


def _merged(pieces: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    merged: list[tuple[int, int]] = []
    for start, length in pieces:
        if merged and sum(merged[-1]) == start:
            merged[-1] = (merged[-1][0], merged[-1][1] + length)
        elif length:
            merged.append((start, length))
    return tuple(merged)


class _Places:
    """Where the variables of a text stand, by its debug information."""

    def __init__(self, lines: Sequence[str]) -> None:
        split = (line.partition(" = ") for line in lines if line.startswith("!"))
        self._nodes = {name: body for name, _, body in split}

    def variable(self, offset: int, size: int, name: str, location: str) -> Variable:
        """A variable with what is known of its place."""
        make = partial(Variable, offset=offset, size=size, name=name.lstrip("%").strip('"'))
        node = self._nodes.get(location, "")
        line = re.search(r"\bline: (\d+)", node)
        if line is None:
            return make()
        scopes = list(self._scopes(node))
        file = next((file for scope in scopes if (file := _field(scope, "file"))), "")
        return make(
            line=int(line[1]),
            file=_string(self._nodes.get(file, ""), "filename"),
            function=_string(scopes[-1] if scopes else "", "name"),
        )

    def _scopes(self, node: str) -> Iterator[str]:
        """From the innermost block to the function."""
        while "DISubprogram" not in node:
            node = self._nodes.get(_field(node, "scope"), "")
            if not node:
                return
            yield node


def _field(node: str, name: str) -> str:
    found = re.search(rf"\b{name}: (!\d+)", node)
    return found[1] if found else ""


def _string(node: str, name: str) -> str:
    found = re.search(rf'\b{name}: "([^"]*)"', node)
    return found[1] if found else ""

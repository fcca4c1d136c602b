"""Finds the kernels of a Metal text: their names, parameters and template instantiations."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import partial

from ..errors import KernelCompileError
from ..msl.lexer import Kind, Token, locate, match_angle, match_close


class Source(Enum):
    """Where the argument of a kernel parameter comes from."""

    BUFFER = "buffer"
    THREADGROUP = "threadgroup"
    THREAD = "thread"


# Attribute -> member of msl_rt::ThreadIds.
THREAD_ATTRIBUTES = {
    "thread_position_in_grid": "position_in_grid",
    "thread_position_in_threadgroup": "position_in_threadgroup",
    "threadgroup_position_in_grid": "threadgroup_position",
    "threads_per_grid": "threads_per_grid",
    "grid_size": "threads_per_grid",
    "threadgroups_per_grid": "threadgroups_per_grid",
    "threads_per_threadgroup": "threads_per_threadgroup",
    "dispatch_threads_per_threadgroup": "dispatch_threads_per_threadgroup",
    "thread_index_in_threadgroup": "index_in_threadgroup",
    "thread_index_in_simdgroup": "index_in_simdgroup",
    "simdgroup_index_in_threadgroup": "simdgroup_index",
    "simdgroups_per_threadgroup": "simdgroups_per_threadgroup",
    "dispatch_simdgroups_per_threadgroup": "dispatch_simdgroups_per_threadgroup",
    "thread_index_in_quadgroup": "index_in_quadgroup",
    "quadgroup_index_in_threadgroup": "quadgroup_index",
    "quadgroups_per_threadgroup": "quadgroups_per_threadgroup",
    "dispatch_quadgroups_per_threadgroup": "dispatch_quadgroups_per_threadgroup",
}
# Attribute -> C++ expression, for values that are the same for every thread.
CONSTANT_ATTRIBUTES = {
    "threads_per_simdgroup": "msl_rt::simd_width",
    "thread_execution_width": "msl_rt::simd_width",
    "grid_origin": "msl_rt::Extent{0, 0, 0}",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One parameter of a kernel.

    Args:
        name: Its name.
        source: Where its argument comes from.
        index: Buffer or threadgroup index; -1 for thread attributes.
        attribute: The thread attribute, else empty.
        enabled_by: The function constant that the parameter depends on, else empty.
        is_constant: Whether it points into the constant address space.
    """

    name: str
    source: Source
    index: int
    attribute: str = ""
    enabled_by: str = ""
    is_constant: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """The definition of a kernel function, possibly a template.

    Args:
        name: Its name.
        qualifier: The namespaces it stands in, ending in ``::`` when there are any.
        is_template: Whether it needs template arguments.
        host_name: Its ``host_name`` attribute, else empty.
        parameters: Its parameters, in order.
        body: Token indices of its braces.
    """

    name: str
    qualifier: str
    is_template: bool
    host_name: str
    parameters: tuple[Parameter, ...]
    body: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryPoint:
    """A kernel that can be launched.

    Args:
        name: The name the host asks for.
        expression: The C++ function it stands for.
        function: Its definition.
    """

    name: str
    expression: str
    function: Function


@dataclass(frozen=True, slots=True, kw_only=True)
class _Instantiation:
    host_name: str
    function: str
    arguments: str


def find_kernels(text: str, tokens: list[Token]) -> tuple[list[Function], list[EntryPoint]]:
    """All kernel functions of a text and what can be launched of them.

    Args:
        text: The text, with macros that hide kernels expanded.
        tokens: Its tokens, without directives.

    Returns:
        The definitions and the entry points.

    Raises:
        KernelCompileError: A kernel uses a construct that the emulator does not know.
    """
    finder = _Finder(text, tokens)
    finder.run()
    return finder.functions, finder.entry_points()


class _Finder:
    """One pass over the declarations of a text."""

    def __init__(self, text: str, tokens: list[Token]) -> None:
        self.text = text
        self.tokens = tokens
        self.functions: list[Function] = []
        self.instantiations: list[_Instantiation] = []

    def run(self) -> None:
        self._scope(0, len(self.tokens), "")

    def entry_points(self) -> list[EntryPoint]:
        by_name = {function.name: function for function in self.functions}
        entries = [
            EntryPoint(
                name=function.host_name or function.name,
                expression=function.qualifier + function.name,
                function=function,
            )
            for function in self.functions
            if not function.is_template
        ]
        for made in self.instantiations:
            function = by_name.get(made.function.rpartition("::")[2])
            if function is None:
                raise KernelCompileError(
                    f"[emulator] Expected a kernel template '{made.function}' for "
                    f"'{made.host_name}', found none."
                )
            expression = f"{function.qualifier}{function.name}{made.arguments}"
            name = made.host_name or expression
            entries.append(EntryPoint(name=name, expression=expression, function=function))
        return entries

    def _scope(self, first: int, last: int, qualifier: str) -> None:
        """Reads the declarations between two token indices."""
        start = index = first
        while index < last:
            token = self.tokens[index]
            if token.text == ";":
                self._declaration(start, index, -1, qualifier)
                start = index + 1
            elif token.text in ("(", "["):
                index = match_close(self.tokens, index)
            elif token.text == "{":
                close = match_close(self.tokens, index)
                self._braces(start, index, close, qualifier)
                index = close
                if not self._continues(start, close):
                    start = close + 1
            index += 1

    def _continues(self, start: int, close: int) -> bool:
        """Whether a declaration goes on behind its closing brace: initialisers and types do."""
        words = {token.text for token in self.tokens[start:close] if token.kind is Kind.WORD}
        if "namespace" in words or "extern" in words:
            return False
        following = [token.text for token in self.tokens[close + 1 : close + 3]]
        # Two brackets open the attributes of the next declaration.
        return following[:1] in ([";"], [","]) or (
            following[:1] == ["["] and following != ["[", "["]
        )

    def _braces(self, start: int, opening: int, close: int, qualifier: str) -> None:
        head = self.tokens[start:opening]
        if (
            head
            and head[0].text in ("namespace", "inline")
            and any(token.text == "namespace" for token in head[:2])
        ):
            name = "".join(t.text for t in head if t.text not in ("namespace", "inline"))
            self._scope(opening + 1, close, f"{qualifier}{name}::" if name else qualifier)
        elif head and head[0].text == "extern":
            self._scope(opening + 1, close, qualifier)
        else:
            self._declaration(start, opening, close, qualifier)

    def _declaration(self, start: int, end: int, close: int, qualifier: str) -> None:
        """Handles one declaration if it is a kernel's; a body ends at ``close``, -1 for none."""
        attributes, plain = _split_attributes(self.tokens, start, end)
        words = [token.text for token in plain]
        if "kernel" not in words and "kernel" not in attributes:
            return
        plain = [token for token in plain if token.text != "kernel"]
        host_name = _host_name(attributes)
        if not plain:
            return
        if plain[0].text == "template" and (len(plain) < 2 or plain[1].text != "<"):
            self._instantiation(plain[1:], host_name)
        elif close >= 0:
            self._definition(plain, host_name, qualifier, (end, close))

    def _instantiation(self, tokens: list[Token], host_name: str) -> None:
        if tokens and tokens[0].text == "decltype":
            tokens = tokens[match_close(tokens, 1) + 1 :]
        else:
            tokens = tokens[1:]
        opening = next((i for i, token in enumerate(tokens) if token.text == "<"), -1)
        if opening < 0:
            raise self._unknown(tokens[0], "a kernel instantiation without template arguments")
        close = match_angle(tokens, opening)
        name = "".join(token.text for token in tokens[:opening])
        arguments = self.text[tokens[opening].start : tokens[close].end]
        self.instantiations.append(
            _Instantiation(host_name=host_name, function=name, arguments=arguments)
        )

    def _definition(
        self, tokens: list[Token], host_name: str, qualifier: str, body: tuple[int, int]
    ) -> None:
        is_template = tokens[0].text == "template"
        if is_template:
            tokens = tokens[match_angle(tokens, 1) + 1 :]
        opening = next((i for i, token in enumerate(tokens) if token.text == "("), -1)
        if opening < 1 or tokens[opening - 2].text != "void":
            raise self._unknown(tokens[0], "a kernel that is no function returning void")
        name = tokens[opening - 1].text
        first = next(i for i in range(body[0]) if self.tokens[i].start == tokens[opening].start)
        self.functions.append(
            Function(
                name=name,
                qualifier=qualifier,
                is_template=is_template,
                host_name=host_name,
                parameters=self._parameters(first),
                body=body,
            )
        )

    def _parameters(self, opening: int) -> tuple[Parameter, ...]:
        close = match_close(self.tokens, opening)
        parameters = []
        start = index = opening + 1
        taken = self._taken_buffers(opening, close)
        next_buffer = 0
        while index <= close:
            text = self.tokens[index].text
            if text in ("(", "[", "{"):
                index = match_close(self.tokens, index)
            elif text == "<":
                angle = match_angle(self.tokens, index)
                index = angle if angle < close else index
            elif text == "," or index == close:
                if index > start:
                    while next_buffer in taken:
                        next_buffer += 1
                    parameter = self._parameter(start, index, next_buffer)
                    parameters.append(parameter)
                    if parameter.source is Source.BUFFER:
                        taken.add(parameter.index)
                start = index + 1
            index += 1
        return tuple(parameters)

    def _taken_buffers(self, opening: int, close: int) -> set[int]:
        attributes = (
            _read_attributes(self.tokens, index + 2, match_close(self.tokens, index) - 1)
            for index in range(opening, close)
            if is_attribute(self.tokens, index)
        )
        indices = [found.get(Source.BUFFER.value, "") for found in attributes]
        return {int(index) for index in indices if index.isdigit()}

    def _parameter(self, start: int, end: int, next_buffer: int) -> Parameter:
        attributes, plain = _split_attributes(self.tokens, start, end)
        name = _declared_name(plain)
        if not name:
            raise self._unknown(self.tokens[start], "this kernel parameter")
        enabled_by = attributes.get("function_constant", "")
        is_constant = any(token.text == "constant" for token in plain)
        described = partial(Parameter, name=name, enabled_by=enabled_by, is_constant=is_constant)
        for source in (Source.BUFFER, Source.THREADGROUP):
            if source.value in attributes:
                index = self._index(attributes[source.value], self.tokens[start])
                return described(source=source, index=index)
        for attribute in attributes:
            if attribute in THREAD_ATTRIBUTES or attribute in CONSTANT_ATTRIBUTES:
                return Parameter(name=name, source=Source.THREAD, index=-1, attribute=attribute)
        if attributes.keys() - {"function_constant"}:
            known = ", ".join(sorted(attributes))
            raise self._unknown(self.tokens[start], f"the attribute [[{known}]] of '{name}'")
        if any(token.text in ("*", "&", "[") for token in plain):
            return described(source=Source.BUFFER, index=next_buffer)
        raise self._unknown(self.tokens[start], f"the parameter '{name}' without attribute")

    def _index(self, argument: str, token: Token) -> int:
        if not argument.isdigit():
            raise self._unknown(token, f"the index '{argument}', which is no plain number")
        return int(argument)

    def _unknown(self, token: Token, what: str) -> KernelCompileError:
        return unknown_construct(self.text, token, what)


def unknown_construct(text: str, token: Token, what: str) -> KernelCompileError:
    """The error for a construct that the emulator does not know."""
    file, line = locate(text, token.start)
    place = f"{file or 'kernel'}:{line}"
    return KernelCompileError(f"[emulator] {place}: the emulator does not know {what}.")


def _split_attributes(
    tokens: list[Token], start: int, end: int
) -> tuple[dict[str, str], list[Token]]:
    """Separates ``[[name(argument), ...]]`` from the other tokens of a declaration."""
    attributes: dict[str, str] = {}
    plain = []
    index = start
    while index < end:
        if is_attribute(tokens, index):
            close = match_close(tokens, index)
            attributes.update(_read_attributes(tokens, index + 2, close - 1))
            index = close
        else:
            plain.append(tokens[index])
        index += 1
    return attributes, plain


def _declared_name(tokens: list[Token]) -> str:
    """The last word outside of the bounds of arrays."""
    name = ""
    index = 0
    while index < len(tokens):
        if tokens[index].text == "[":
            index = match_close(tokens, index)
        elif tokens[index].kind is Kind.WORD:
            name = tokens[index].text
        index += 1
    return name


def is_attribute(tokens: list[Token], index: int) -> bool:
    """Whether ``[[`` starts at a token index."""
    return (
        tokens[index].text == "["
        and index + 1 < len(tokens)
        and tokens[index + 1].text == "["
        and tokens[index + 1].start == tokens[index].end
    )


def _read_attributes(tokens: list[Token], start: int, end: int) -> dict[str, str]:
    attributes = {}
    index = start
    while index < end:
        name = tokens[index].text
        argument = ""
        if index + 1 < end and tokens[index + 1].text == "(":
            close = match_close(tokens, index + 1)
            argument = "".join(token.text for token in tokens[index + 2 : close])
            index = close
        if name != ",":
            attributes[name] = argument
        index += 1
    return attributes


def _host_name(attributes: dict[str, str]) -> str:
    # Several adjacent string literals make one name.
    return "".join(attributes.get("host_name", "").split('"'))

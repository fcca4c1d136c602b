"""Writes out the one kernel template of a text, which C++ for OpenCL has no kernels for.

MLX makes a template of every custom kernel with template arguments and instantiates it once.
"""

from __future__ import annotations

import re

_KERNEL = r"(?:\[\[\s*kernel\s*\]\]|kernel)"
_TEMPLATE = re.compile(
    rf"template\s*<(?P<parameters>[^<>{{}};]*)>\s*(?={_KERNEL}\s+void\s+(?P<name>\w+)\s*\()"
)
_PARAMETER = re.compile(r"(?P<kind>.*\S)\s+(?P<name>\w+)", re.DOTALL)


def instantiate(text: str) -> str:
    """Gives the parameters of the only kernel template what the first instantiation says.

    Args:
        text: Metal text.

    Returns:
        The text with all lines in place, unchanged if it has no such template or several.
    """
    templates = list(_TEMPLATE.finditer(text))
    if len(templates) != 1:
        return text
    found = templates[0]
    parameters = [_PARAMETER.fullmatch(one.strip()) for one in found["parameters"].split(",")]
    instantiations = list(_instantiation(found["name"]).finditer(text))
    if not instantiations or None in parameters:
        return text
    arguments = _split(instantiations[0]["arguments"])
    if len(arguments) != len(parameters):
        return text
    declared = " ".join(
        _declaration(parameter["kind"], parameter["name"], argument)
        for parameter, argument in zip(parameters, arguments, strict=True)
        if parameter is not None
    )
    for unwanted in reversed(instantiations):
        text = _replaced(text, unwanted.span(), "")
    return _replaced(text, found.span(), f"{declared} ")


def _instantiation(name: str) -> re.Pattern[str]:
    attribute = r"\[\[\s*host_name\s*\([^()]*\)\s*\]\]\s*"
    return re.compile(
        rf"template\s+(?:{attribute})?{_KERNEL}\s+decltype\(\s*{name}\s*<(?P<arguments>[^;]*)>\s*\)"
        rf"\s*{name}\s*<[^;]*>\s*;"
    )


def _declaration(kind: str, name: str, argument: str) -> str:
    if kind in ("typename", "class"):
        return f"typedef {argument} {name};"
    return f"constant constexpr {kind} {name} = {argument};"


def _split(arguments: str) -> list[str]:
    """Template arguments, which may have arguments of their own."""
    parts, depth = [""], 0
    for character in arguments:
        depth += {"<": 1, "(": 1, ">": -1, ")": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def _replaced(text: str, span: tuple[int, int], code: str) -> str:
    start, end = span
    return text[:start] + code + "\n" * text.count("\n", start, end) + text[end:]

"""Problems as what JSON holds, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from types import NoneType
from typing import Any, cast, get_args, get_origin, get_type_hints

from .dtypes import DType, by_name
from .problem import Problem


def to_plain(problem: Problem, kinds: Mapping[str, type[Problem]]) -> dict[str, object]:
    """Return a problem as a dictionary that JSON can hold.

    Args:
        problem: The problem.
        kinds: Types of problems, by the names they have in files.
    """
    kind = next(name for name, type_ in kinds.items() if type(problem) is type_)
    return {"kind": kind, **cast(dict[str, object], _plain(problem))}


def _plain(value: Any) -> object:  # noqa: ANN401 - any field of a problem
    if isinstance(value, DType):
        return value.name
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    return value


def from_plain(plain: object, kinds: Mapping[str, type[Problem]]) -> Problem:
    """Return the problem that a dictionary of `to_plain` holds.

    Args:
        plain: The dictionary.
        kinds: Types of problems, by the names they have in files.

    Raises:
        ValueError: It holds no problem.
    """
    if not isinstance(plain, dict) or plain.get("kind") not in kinds:
        raise ValueError(f"no problem of kind {', '.join(kinds)}")
    rest = {name: value for name, value in plain.items() if name != "kind"}
    return cast(Problem, _dataclass(kinds[plain["kind"]], rest))


def _dataclass(type_: type, plain: object) -> object:
    if not isinstance(plain, dict):
        raise ValueError(f"{plain!r} where fields belong")
    hints = get_type_hints(type_)
    unknown = set(plain) - set(hints)
    if unknown:
        raise ValueError(f"unknown fields {', '.join(sorted(unknown))}")
    try:
        return type_(**{name: _value(hints[name], value) for name, value in plain.items()})
    except TypeError as error:
        raise ValueError(str(error)) from None


def _value(hint: Any, plain: Any) -> object:  # noqa: ANN401 - types and JSON
    if hint is DType:
        return by_name(plain)
    if get_origin(hint) is tuple:
        return _tuple(get_args(hint), plain)
    if NoneType in get_args(hint):
        inner = next(one for one in get_args(hint) if one is not NoneType)
        return None if plain is None else _value(inner, plain)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(plain)
    if is_dataclass(hint):
        return _dataclass(cast(type, hint), plain)
    if type(plain) is not hint:
        raise ValueError(f"{plain!r} where {hint.__name__} belongs")
    return plain


def _tuple(inner: tuple[Any, ...], plain: object) -> tuple[object, ...]:
    if not isinstance(plain, list):
        raise ValueError(f"{plain!r} where a list belongs")
    return tuple(_value(inner[0], one) for one in plain)

"""Calls on the command line: an op, shapes and dtypes of its arrays, and its options."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from ..core.arguments import ArraySpec
from ..core.context import use_kernel
from ..core.dtypes import mlx_dtype
from ..core.shapes import Shape
from ..errors import ProblemError
from ..families import ops
from .arguments import add_chip_argument

if TYPE_CHECKING:
    from ..call.explanation import Explanation


def add_call_arguments(command: argparse.ArgumentParser) -> None:
    """Add an op, its arrays, and the options of every op as their signatures have them."""
    add = command.add_argument
    add("op", choices=list(ops()), metavar="op", help=", ".join(ops()))
    add("shapes", nargs="+", metavar="shape", help="of each array in the op's order: 100x300")
    add("--dtypes", default="float32", help="of each array, or one for all: float16,f32")
    add_chip_argument(command, "default: this machine's")
    add("--kernel", help="force a kernel, or kernel/config")
    for name, parameter, is_array in _options():
        _add_option(command, name, parameter, is_array)


def _options() -> Iterator[tuple[str, inspect.Parameter, bool]]:
    """Yield each parameter of some op that has a default, once, and whether it may be an array."""
    seen = {"stream"}
    for op in ops().values():
        for name, parameter in inspect.signature(op.function).parameters.items():
            if parameter.default is not parameter.empty and name not in seen:
                seen.add(name)
                yield name, parameter, name in op.arrays


def _add_option(
    command: argparse.ArgumentParser, name: str, parameter: inspect.Parameter, is_array: bool
) -> None:
    flag, kind = "--" + name.replace("_", "-"), str(parameter.annotation)
    add = command.add_argument
    if kind == "bool" and parameter.default:
        add("--no-" + flag[2:], dest=name, action="store_const", const=False)
    elif kind == "bool":
        add(flag, action="store_const", const=True)
    elif is_array and "str" in kind:
        add(flag, help="a name, or shape:dtype of an array: 1x1x128x128:bool")
    elif is_array:
        add(flag, metavar="shape:dtype", help="of an array")
    elif "Dtype" in kind:
        add(flag, metavar="dtype")
    elif kind.startswith("int"):
        add(flag, type=int)
    elif kind.startswith(("float", "Number")):
        add(flag, type=float)
    elif kind.startswith("tuple"):
        add(flag, type=_shape, metavar="sizes", help="128x128")
    else:
        add(flag)


def call_explanation(options: argparse.Namespace) -> Explanation:
    """Return the explanation of the call that was spelled.

    Raises:
        ProblemError: A shape, dtype or option is none.
    """
    from ..call.explanation import explain

    keywords: dict[str, Any] = {}
    for name, parameter, is_array in _options():
        value = getattr(options, name)
        if value is not None:
            keywords[name] = _value(value, str(parameter.annotation), is_array)
    with use_kernel(options.kernel):
        return explain(options.op, *_operands(options), chip=options.chip, **keywords)


def _value(value: Any, kind: str, is_array: bool) -> object:  # noqa: ANN401 - of an option
    if is_array:
        return _array(value) if ":" in value or "str" not in kind else value
    return _dtype(value) if "Dtype" in kind else value


def _operands(options: argparse.Namespace) -> list[ArraySpec]:
    shapes = [_shape(text) for text in options.shapes]
    dtypes = [_dtype(name) for name in options.dtypes.split(",")]
    if len(dtypes) == 1:
        dtypes *= len(shapes)
    if len(dtypes) != len(shapes):
        raise ProblemError(
            f"[{options.op}] Expected a dtype for each of {len(shapes)} arrays, or one for all, "
            f"got {len(dtypes)}."
        )
    return [
        ArraySpec(shape=shape, dtype=dtype) for shape, dtype in zip(shapes, dtypes, strict=True)
    ]


def _shape(text: str) -> Shape:
    try:
        return tuple(int(size) for size in text.split("x"))
    except ValueError:
        raise ProblemError(f"[shape] Expected sizes like 100x300, got {text!r}.") from None


def _dtype(name: str) -> mx.Dtype:
    try:
        dtype: mx.Dtype = mlx_dtype(name)
    except ValueError as error:
        raise ProblemError(f"[dtype] Expected {error}, got {name!r}.") from None
    return dtype


def _array(text: str) -> ArraySpec:
    shape, _, dtype = text.partition(":")
    return ArraySpec(shape=_shape(shape), dtype=_dtype(dtype))

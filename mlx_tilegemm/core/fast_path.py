"""Fast path of ops: a call like an earlier one is looked up before anything else is done for it.

An op checks and promotes its arguments, builds the key of a prepared call and finds what serves
it. All that follows from shapes, dtypes, options, settings and the default device. What comes of it
is a call of the arrays alone, which the fast path keeps by just these; only a call unlike all
earlier ones runs the op's own text.

A function in front of each op does so. Its text is made from the op's signature, since loops over
arguments of any kind would take longer than all the rest: it is one test of the arguments' types,
one key and one look-up. Arguments of other types than the signature's, such as a flag that is a
number, a stream or an object with ``__mlx_array__``, always run the op's own text, because a key
cannot tell 1 from True.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import update_wrapper
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar, cast
from weakref import WeakSet

import mlx.core as mx

from .caches import SIZE, on_forgetting
from .context import current_settings
from .problem import Factors

if TYPE_CHECKING:
    from ..backends import StreamOrDevice
    from .family import Run

R = TypeVar("R")
Arguments = ParamSpec("Arguments")

Served = tuple[Callable[..., R] | None, R]
"""Call of an op's arrays that serves all calls alike, or None, and the result of this one."""

Given = Sequence[object]
"""Arrays that an op is passed; what stands for one that is not may be among them."""

Direct = Callable[[Factors, int], Callable[..., R] | None]
"""Returns the call of the operands alone, for factors and the default stream, or None.

It may be passed more than the operands, whose number is told: what an op got in place of arrays.
"""


class DirectRun:
    """A prepared call, a `Run`, that has a shorter way for operands alone.

    Attributes:
        run: The call itself.
        every: The way to all results; None without.
        first: The way to the first result; None without.
    """

    __slots__ = ("every", "first", "run")

    def __init__(
        self,
        run: Run,
        *,
        every: Direct[list[mx.array]] | None = None,
        first: Direct[mx.array] | None = None,
    ) -> None:
        self.run = run
        self.every = every
        self.first = first

    def __call__(
        self, operands: Sequence[mx.array], factors: Factors, stream: StreamOrDevice
    ) -> list[mx.array]:
        """Return the results for operands, factors and a stream."""
        return self.run(operands, factors, stream)


def undirected(run: Run) -> Run:
    """Return the prepared call ``run`` without the frame that a shorter way costs the others."""
    return run.run if isinstance(run, DirectRun) else run


def every_of(run: Run, factors: Factors, count: int) -> Callable[..., list[mx.array]]:
    """Return the call of ``count`` operands, and of what may follow those, for all results."""
    found = run.every(factors, count) if isinstance(run, DirectRun) and run.every else None
    if found is not None:
        return found
    run = undirected(run)

    def call(*operands: mx.array) -> list[mx.array]:
        return run(operands[:count], factors, None)

    return call


def _first_of(run: Run, factors: Factors, count: int) -> Callable[..., mx.array]:
    found = run.first(factors, count) if isinstance(run, DirectRun) and run.first else None
    if found is not None:
        return found
    every = every_of(run, factors, count)
    return lambda *operands: every(*operands)[0]


def serve_first(
    run: Run, arrays: Given, factors: Factors, stream: StreamOrDevice
) -> Served[mx.array]:
    """Serve an op whose result is the first one of a prepared call of the arrays among ``arrays``.

    Args:
        run: The call.
        arrays: What the op's calls are passed, in order.
        factors: Of the call.
        stream: Of the call.
    """
    return _serve(_first_of, lambda found: found[0], run, arrays, factors, stream)


def serve_every(
    run: Run, arrays: Given, factors: Factors, stream: StreamOrDevice
) -> Served[list[mx.array]]:
    """Serve an op with all results of a prepared call; arguments are as of `serve_first`."""
    return _serve(every_of, lambda found: found, run, arrays, factors, stream)


def _serve(
    make: Callable[[Run, Factors, int], Callable[..., R]],
    pick: Callable[[list[mx.array]], R],
    run: Run,
    arrays: Given,
    factors: Factors,
    stream: StreamOrDevice,
) -> Served[R]:
    places = [i for i, one in enumerate(arrays) if isinstance(one, mx.array)]
    if stream is not None:
        return None, pick(run([cast(mx.array, arrays[i]) for i in places], factors, stream))
    call = make(run, factors, len(places))
    if places != [*range(len(places))]:
        call = _taking(call, itemgetter(*places))
    return call, call(*arrays)


def _taking(call: Callable[..., R], take: Callable[[Given], Given]) -> Callable[..., R]:
    return lambda *arrays: call(*take(arrays))


class _Kind(NamedTuple):
    """How a parameter is looked at, by the text of its annotation; ``{0}`` is its name.

    Attributes:
        test: Whether an argument is of a kind that the key tells from all others.
        key: Its part of the key.
        is_array: Whether it is passed to the calls that are kept.
    """

    test: str
    key: str = "{0}"
    is_array: bool = False


_KINDS = {
    "mx.array": _Kind("type({0}) is array", "{0}.shape, {0}.dtype", is_array=True),
    "mx.array | None": _Kind(
        "({0} is None or type({0}) is array)",
        "{0} is None or {0}.shape, {0} is None or {0}.dtype",
        is_array=True,
    ),
    "str | mx.array | None": _Kind(
        "({0} is None or type({0}) is str or type({0}) is array)",
        "{0}.shape if type({0}) is array else {0}, type({0}) is array and {0}.dtype",
        is_array=True,
    ),
    "bool": _Kind("({0} is False or {0} is True)"),
    "int | None": _Kind("({0} is None or type({0}) is int)"),
    "str": _Kind("type({0}) is str"),
    "str | None": _Kind("({0} is None or type({0}) is str)"),
    "mx.Dtype | None": _Kind("({0} is None or type({0}) is Dtype)"),
    "tuple[int, int] | None": _Kind(
        "({0} is None or type({0}) is tuple and len({0}) == 2"
        " and type({0}[0]) is type({0}[1]) is int)"
    ),
    # Zeros are left out: a key cannot tell their signs.
    "Number | mx.array": _Kind("type({0}) is float and {0}"),
    "float | mx.array": _Kind("type({0}) is float and {0}"),
    "float | mx.array | None": _Kind("({0} is None or type({0}) is float and {0})"),
    "StreamOrDevice": _Kind("{0} is None", ""),
}


def with_fast_path(
    *arrays: str, often: tuple[str, ...] = ()
) -> Callable[[Callable[Arguments, Served[R]]], Callable[Arguments, R]]:
    """Return a decorator that gives an op its fast path.

    The op returns its result, and before it the call that serves whatever is of the same shapes,
    dtypes and options on the default stream. MLX may be following a function in one of two calls
    alike and not in the other: that is for the call to ask.

    Args:
        arrays: Names of the parameters that may be arrays, in the order in which calls take them.
        often: Names of keywords that calls often pass; the others are looked at together.
    """

    def decorator(op: Callable[Arguments, Served[R]]) -> Callable[Arguments, R]:
        return cast("Callable[Arguments, R]", _front(op, arrays, often))

    return decorator


def _front(
    op: Callable[..., Served[R]], arrays: tuple[str, ...], often: tuple[str, ...]
) -> Callable[..., R]:
    """Return the function in front of an op, with its signature."""
    signature = inspect.signature(op)
    parameters = signature.parameters
    known = [name for name, one in parameters.items() if _kind(one).is_array]
    assert {*arrays} == {*known}
    assert {*often} <= {*parameters}
    calls: dict[object, Callable[..., R]] = {}
    on_forgetting_calls(calls.clear)
    scope: dict[str, Any] = {
        "mx": mx,
        "array": mx.array,
        "Dtype": mx.Dtype,
        "gpu": mx.gpu,
        "settings": current_settings,
        "calls": calls,
        "keep": _keeper(calls),
        "op": op,
    }
    # The text holds names of parameters and nothing that is computed.
    exec(_text(op.__name__, [*parameters.values()], arrays, often), scope)
    front: Any = update_wrapper(scope[op.__name__], op)
    front.__defaults__, front.__kwdefaults__ = op.__defaults__, op.__kwdefaults__
    result = str(signature.return_annotation).removeprefix("Served[").removesuffix("]")
    front.__signature__ = signature.replace(return_annotation=result)
    front.__annotations__ = {**op.__annotations__, "return": result}
    return cast("Callable[..., R]", front)


_forgetting: list[Callable[[], None]] = []


def on_forgetting_calls(forget: Callable[[], None]) -> None:
    """Have a function called that forgets calls which the fast path has kept, when it does."""
    _forgetting.append(forget)


def forget() -> None:
    """Forget the calls of all ops."""
    for one in _forgetting:
        one()


on_forgetting(forget)

_checking: WeakSet[Callable[..., Any]] = WeakSet()


def by_mlx(call: Callable[..., R]) -> Callable[..., R]:
    """Note that a call passes all its arrays to an op of MLX, which looks at each; return it."""
    _checking.add(call)
    return call


def checks_arrays(call: Callable[..., Any]) -> bool:
    """Return whether a call is `by_mlx`."""
    return call in _checking


def _keeper(calls: dict[object, Callable[..., R]]) -> Callable[[object, Served[R]], R]:
    def keep(key: object, served: Served[R]) -> R:
        if len(calls) >= SIZE:
            calls.clear()
        call, result = served
        if call is not None:
            calls[key] = call
        return result

    return keep


def _kind(parameter: inspect.Parameter) -> _Kind:
    return _KINDS[str(parameter.annotation)]


def _text(
    name: str,
    parameters: list[inspect.Parameter],
    arrays: tuple[str, ...],
    often: tuple[str, ...],
) -> str:
    seldom = [
        one
        for one in parameters
        if one.kind is one.KEYWORD_ONLY
        and type(one.default) in (type(None), bool)
        and one.name not in often
    ]
    always = [one for one in parameters if one not in seldom]
    others = " and ".join(f"{one.name} is {one.default}" for one in seldom) or "True"
    passed = ", ".join(
        f"{one.name}={one.name}" if one.kind is one.KEYWORD_ONLY else one.name for one in parameters
    )
    key = f"{_parts(always)}, others, settings(), mx.default_device().type is gpu"
    return f"""
def {name}({_declared(parameters)}):
    if {_tests(always)}:
        if {others}:
            others = None
        elif {_tests(seldom)}:
            others = ({_parts(seldom)},)
        else:
            return op({passed})[1]
        try:
            call = calls[{key}]
        except KeyError:
            call = None
        if call:
            return call({", ".join(arrays)})
        return keep(({key}), op({passed}))
    return op({passed})[1]
"""


def _tests(parameters: list[inspect.Parameter]) -> str:
    return " and ".join(_kind(one).test.format(one.name) for one in parameters) or "True"


def _parts(parameters: list[inspect.Parameter]) -> str:
    parts = [_kind(one).key.format(one.name) for one in parameters]
    return ", ".join(filter(None, parts)) or "None"


def _declared(parameters: list[inspect.Parameter]) -> str:
    """Return the text of a list of parameters without annotations and defaults."""
    bare = [one.replace(annotation=one.empty, default=one.empty) for one in parameters]
    return str(inspect.Signature(bare))[1:-1]

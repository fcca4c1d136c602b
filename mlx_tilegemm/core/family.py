"""Family: the problems of some ops, their kernels, and everything that only they know.

Whoever goes through problems, to prepare, explain, prove, verify, tune or mutate, asks the
problem's family; nothing outside a family knows which there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from .kernel import Kernel
from .problem import Factors, Problem

if TYPE_CHECKING:
    import mlx.core as mx

    from ..backends import Backend, Route, StreamOrDevice
    from ..dispatch import Decision
    from ..machine.chips.record import Chip
    from ..machine.price import Price
    from .arguments import ArraySpec
    from .reference import Expected

    Arrays = Sequence[mx.array]

    class Run(Protocol):
        """A prepared call."""

        def __call__(
            self, operands: Arrays, factors: Factors, stream: StreamOrDevice, /
        ) -> list[mx.array]:
            """Return the results for operands, factors and a stream."""

    class Rule(Protocol):
        """The derivatives and the batching of a call with given shapes and options."""

        def vjp(
            self,
            operands: Arrays,
            factors: Factors,
            stream: StreamOrDevice,
            cotangents: Arrays,
            outputs: Arrays,
        ) -> list[mx.array]:
            """Return a gradient for every operand."""

        def jvp(
            self,
            operands: Arrays,
            factors: Factors,
            stream: StreamOrDevice,
            tangents: Sequence[mx.array | None],
        ) -> list[mx.array]:
            """Return a tangent for every output; a constant operand has tangent None."""

        def vmap(
            self,
            operands: Arrays,
            factors: Factors,
            stream: StreamOrDevice,
            axes: Sequence[int | None],
        ) -> list[mx.array]:
            """Return the outputs for operands with a further axis each (None: without), at 0."""


P = TypeVar("P", bound=Problem)
P_co = TypeVar("P_co", bound=Problem, covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Numbers that a problem's operands hold.

    Attributes:
        seed: Of the random numbers.
        amplitude: Standard deviation of the first float operand; the others have 1.
        low: How far below 0 a family puts what it calls low, such as the scores of one row.
        outside: How far beyond their axes positions may lie.
        exact: Numbers that leave a kernel as little room to be off as the family knows how to,
            in arrays that begin one element into their buffers.
    """

    seed: int = 0
    amplitude: float = 1.0
    low: float = 0.0
    outside: int = 0
    exact: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HardData(Data):
    """Numbers on which rounding adds up, and to which a kernel comes closer than any has to.

    Attributes:
        within: Largest error as a share of a result's largest value, beside the result's rounding.
    """

    within: float


def _nothing(arrays: Mapping[str, ArraySpec], options: Mapping[str, Any]) -> str:
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Op(Generic[P]):
    """A public operation of a family.

    Attributes:
        function: The operation; its signature is what `explain` and the command line take.
        arrays: Its parameters that may be arrays, in the order of the problem's operands.
        request: States the problem of the arrays' shapes and dtypes, and of the other arguments;
            None for what MLX's own op serves by itself.
        elsewhere: Returns why a call without a problem is MLX's, from what ``request`` takes.
    """

    function: Callable[..., Any]
    arrays: tuple[str, ...]
    request: Callable[[str, Mapping[str, ArraySpec], Mapping[str, Any]], P | None]
    elsewhere: Callable[[Mapping[str, ArraySpec], Mapping[str, Any]], str] = _nothing

    @property
    def name(self) -> str:
        """Name of the operation."""
        return self.function.__name__


@dataclass(frozen=True, slots=True, kw_only=True)
class Spelling(Generic[P_co]):
    """Spelling of problems on the command line.

    Attributes:
        option: The option, such as ``--matmul``.
        form: What it takes, in short.
        help: What it takes, by an example.
        parse: Returns the problem that a text spells.
        standard: Texts of problems to draw where none are named.
    """

    option: str
    form: str
    help: str
    parse: Callable[[str], P_co]
    standard: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The option as an attribute of parsed arguments."""
        return self.option.strip("-").replace("-", "_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part(Generic[P]):
    """Some rows of a call: a smaller problem whose results are rows of the whole one's.

    Attributes:
        problem: The smaller problem.
        operands: Its operands.
        outputs: Its results, as the whole call found them.
    """

    problem: P
    operands: Arrays
    outputs: Arrays


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject(Generic[P]):
    """A kernel text to mutate, and the problems it then has to solve.

    Attributes:
        kernel: Name of the kernel.
        config: The configuration; the legal one that is most like it is taken.
        trials: Problems with their data, all with the same texts.
        flags: The problem's options, in short.
    """

    kernel: str
    config: str
    trials: tuple[tuple[P, Data], ...]
    flags: str


def _drawn(problem: Problem, data: Data) -> list[mx.array]:
    # Imported here because NumPy is most of what `import mlx_tilegemm` may cost.
    from .reference import draw_operands

    return draw_operands(problem, data)


def _no_factors(problem: Problem) -> Factors:
    return ()


def _whole(problem: P, operands: Arrays, outputs: Arrays, rows: int) -> Part[P]:
    return Part(problem=problem, operands=operands, outputs=outputs)


def _itself(problem: P) -> P:
    return problem


def _no_fallback(problem: Problem) -> None:
    return None


def _no_price(problem: Problem, chip: Chip) -> None:
    return None


def _never(problem: Problem) -> bool:
    return False


def _no_rule(problem: Problem, backend: Backend | None) -> None:
    return None


def _no_notes(problem: Problem, decision: Decision, route: Route, chip: Chip) -> list[str]:
    return []


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Family(Generic[P]):
    """The problems of some ops and everything that only they know. Defaults suit simple families.

    Attributes:
        name: Its name, also of its folder and of its templates'.
        problems: Its types of problems, by the names they have in files.
        kernels: Its kernels, in the order in which ties between them are decided.
        reference: Returns the float64 value and the proven bound of each result, from operands and
            factors: the one that canary, verify, tune, mutation, tests and benchmarks use.
        rounded: Likewise for MLX's own ops, which may round factors before they multiply: takes the
            largest relative error of that, too, 0 where float32 stays as it is. None where it makes
            no difference.
        ops: Its public operations.
        draw: Returns operands of a problem, in order; by the operands' roles if not given.
        trial_factors: Returns factors to try a problem with.
        part: Returns about so many rows of a call whose results are to be checked.
        fallback: Returns the call of MLX's own ops, or None where they have none that stands alone.
        price: Returns what MLX's own ops would take on a chip, or None where they cannot stand in.
        multiplies_float32: Whether MLX's own ops multiply float32 numbers for a problem, which a
            GPU may round to TF32.
        stepwise: Whether MLX runs ops for each step of a sequence wherever it has no kernel of its
            own for a problem: not what a device that no model knows is left with.
        differentiable: Returns the problem that a call with derivatives solves instead, whose first
            results are those of the one asked for.
        rule: Returns the transforms of a call on a backend, or None: it then refuses them.
        notes: Returns what else is worth knowing about a call.
        spelling: How its problems are spelled on the command line.
        subjects: Yields kernel texts to mutate; together they contain every line of its templates.
            None for every variant.
    """

    name: str
    problems: Mapping[str, type[P]]
    kernels: Sequence[Kernel[Any, Any]]
    reference: Callable[[P, Arrays, Factors], tuple[Expected, ...]]
    rounded: Callable[[P, Arrays, Factors, float], tuple[Expected, ...]] | None = None
    ops: tuple[Op[P], ...] = ()
    draw: Callable[[P, Data], list[mx.array]] = _drawn
    trial_factors: Callable[[P], Factors] = _no_factors
    part: Callable[[P, Arrays, Arrays, int], Part[P]] = _whole
    fallback: Callable[[P], Run | None] = _no_fallback
    price: Callable[[P, Chip], Price | None] = _no_price
    multiplies_float32: Callable[[P], bool] = _never
    stepwise: Callable[[P], bool] = _never
    differentiable: Callable[[P], P] = _itself
    rule: Callable[[P, Backend | None], Rule | None] = _no_rule
    notes: Callable[[P, Decision, Route, Chip], list[str]] = _no_notes
    spelling: Spelling[P] | None = None
    subjects: Callable[[], Iterator[Subject[P]]] | None = None

"""Plan: which kernels serve, what is compiled into their text, and how they are launched.

A plan is a sequence of stages, nearly always one. A stage has two halves: `Stage.spec` is
everything that the text depends on and is the key of the rendered source and of the compiled
kernel; `Stage.launch` is everything that may change from call to call without a new kernel. The
chip is forgotten here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from .caches import latest
from .dtypes import DType
from .operand import Operand
from .shapes import Shape

Extent = tuple[int, int, int]

THREADGROUP_MEMORY_LIMIT = 32768
"""Bytes of threadgroup memory Metal gives one threadgroup, on every Apple GPU."""

REGISTER_LIMIT = 128
"""32-bit registers a thread may use before it spills to device memory (M1 to M5)."""

THREADS_LIMIT = 1024
"""Threads Metal gives one threadgroup at most."""

CONSTANT_BINDING_LIMIT = 8
"""MLX binds an input of fewer elements in the constant address space, a larger one in device."""

SIMD_WIDTH = 32
"""Threads of one simdgroup."""


class Spec(Protocol):
    """Everything that a kernel's text depends on; a frozen, hashable value.

    Its public attributes and properties are the names the template may use.
    """

    @property
    def template(self) -> str:
        """File name of the template under ``templates/``."""

    @property
    def label(self) -> str:
        """A short readable identifier that is a legal part of a Metal name."""

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs, in the order they are passed."""

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs."""

    @property
    def size_names(self) -> tuple[str, ...]:
        """Names of the elements of the input ``sizes``, in order."""

    def __hash__(self) -> int: ...


class Arguments:
    """Base of specs: all that a kernel's variants are given by name, and what one of them is.

    A template may use every name: ``lib/arguments`` declares those that a variant lacks.
    """

    __slots__ = ()

    INPUTS: ClassVar[tuple[str, ...]]
    """Inputs of all variants, in order."""

    OUTPUTS: ClassVar[tuple[str, ...]] = ("out",)
    """Outputs of all variants, in order."""

    SIZES: ClassVar[tuple[str, ...]]
    """Run-time sizes of all variants, in order."""

    UNDECLARED: ClassVar[frozenset[str]] = frozenset()
    """Names that a text has only where the variant is given them."""

    @property
    def lacks(self) -> frozenset[str]:
        """Inputs, outputs and sizes that this variant is not given."""
        return frozenset()

    @property
    def input_names(self) -> tuple[str, ...]:
        """Inputs in order."""
        return self._given(self.INPUTS)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Outputs in order."""
        return self._given(self.OUTPUTS)

    @property
    def size_names(self) -> tuple[str, ...]:
        """Run-time sizes, in the order of the input ``sizes``."""
        return _size_names(self)

    @property
    def absent_inputs(self) -> tuple[str, ...]:
        """Inputs of other variants."""
        return self._absent(self.INPUTS)

    @property
    def absent_outputs(self) -> tuple[str, ...]:
        """Outputs of other variants."""
        return self._absent(self.OUTPUTS)

    @property
    def absent_sizes(self) -> tuple[str, ...]:
        """Run-time sizes of other variants."""
        return self._absent(self.SIZES)

    def _given(self, names: Iterable[str]) -> tuple[str, ...]:
        lacks = self.lacks
        return tuple(name for name in names if name not in lacks)

    def _absent(self, names: Iterable[str]) -> tuple[str, ...]:
        lacks = self.lacks - self.UNDECLARED
        return tuple(name for name in names if name in lacks)


@latest
def _size_names(spec: Arguments) -> tuple[str, ...]:
    return spec._given(spec.SIZES)


def features(absent: Mapping[tuple[str, ...], bool]) -> frozenset[str]:
    """Return the names that a variant lacks, of names by whether it lacks them."""
    return frozenset(name for names, lacking in absent.items() if lacking for name in names)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Run-time sizes of one launch by name, in the order of the kernel's input ``sizes``.

    Attributes:
        names: Their names.
        values: Their values, the int32 elements of the input.
    """

    names: tuple[str, ...] = ()
    values: tuple[int, ...] = ()

    @classmethod
    def of(cls, spec: Spec, values: Mapping[str, int]) -> Sizes:
        """Return the sizes that a text reads, out of those of a problem.

        Raises:
            KeyError: The text reads a size that is not there.
        """
        names = spec.size_names
        return cls(names, tuple(values[name] for name in names))

    def __getitem__(self, name: str) -> int:
        return self.values[self.names.index(name)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One launch of a compiled kernel.

    Attributes:
        grid: Threads in each dimension, a multiple of ``threadgroup``.
        threadgroup: Threads of one threadgroup in each dimension.
        sizes: Run-time sizes by name, the elements of the kernel's input ``sizes``.
        output_shapes: Shape of each output.
        output_dtypes: Element type of each output.
    """

    grid: Extent
    threadgroup: Extent
    sizes: Sizes
    output_shapes: tuple[Shape, ...]
    output_dtypes: tuple[DType, ...]

    @classmethod
    def of(cls, results: Sequence[Operand], grid: Extent, threads: int, sizes: Sizes) -> Launch:
        """Return the launch of threadgroups of so many threads each that gives some results."""
        return cls(
            grid=grid,
            threadgroup=(threads, 1, 1),
            sizes=sizes,
            output_shapes=tuple(one.shape for one in results),
            output_dtypes=tuple(one.dtype for one in results),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Resources that one threadgroup asks of a core.

    Attributes:
        threads: Threads of the threadgroup.
        threadgroup_bytes: Threadgroup memory, in bytes.
        registers: Estimated live 32-bit registers of one thread at the widest point.
    """

    threads: int
    threadgroup_bytes: int
    registers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One kernel of a plan.

    Its inputs are, by name, operands and factors of the op, its own ``sizes``, or outputs of an
    earlier stage.

    Attributes:
        spec: What the text depends on.
        launch: How it is launched.
        resources: What a threadgroup of it needs.
    """

    spec: Spec
    launch: Launch
    resources: Resources

    def __post_init__(self) -> None:
        read, passed = self.spec.size_names, self.launch.sizes.names
        if read != passed:
            raise ValueError(f"[{self.spec.label}] Expected sizes {read}, got {passed}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The kernels that serve a problem, in the order they run.

    Attributes:
        kernel: Name of the kernel, the stem of ``kernels/<name>.py``.
        config: The kernel's configuration, which reads for example ``64x64x16-2x2-staged``.
        stages: The kernels. Their outputs with the names of a problem's results are the results.
        factors: Names of the run-time factors, in the order of the input ``factors``.
    """

    kernel: str
    config: object
    stages: tuple[Stage, ...]
    factors: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.kernel}/{self.config}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A rendered kernel, ready for `mx.fast.metal_kernel`.

    Attributes:
        name: Kernel name; ends in a hash of the text, so two texts never share a name.
        header: Metal placed before the kernel's signature.
        body: Metal placed inside the kernel.
        input_names: Names of the inputs, in order.
        output_names: Names of the outputs, in order.
    """

    name: str
    header: str
    body: str
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]

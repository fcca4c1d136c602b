"""What is decided: which kernels, what is compiled into their text, and how they are launched.

A plan is a sequence of stages, nearly always one. A stage has two halves: `Stage.spec` is
everything that the text depends on and is the key of the rendered source and of the compiled
kernel; `Stage.launch` is everything that may change from call to call without a new kernel. The
chip is forgotten here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from .dtypes import DType
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
    """What a kernel's text depends on; a frozen, hashable value.

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

    def __hash__(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One launch of a compiled kernel.

    Attributes:
        grid: Threads in each dimension, a multiple of ``threadgroup``.
        threadgroup: Threads of one threadgroup in each dimension.
        sizes: Run-time sizes, the int32 elements of the kernel's input ``sizes``.
        output_shapes: Shape of each output.
        output_dtypes: Element type of each output.
    """

    grid: Extent
    threadgroup: Extent
    sizes: tuple[int, ...]
    output_shapes: tuple[Shape, ...]
    output_dtypes: tuple[DType, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What one threadgroup asks of a core.

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

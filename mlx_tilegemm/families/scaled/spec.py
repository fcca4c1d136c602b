"""Common parts of the kernels of scaled codes: of a spec, of legality, launch and work."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from ...core.caches import latest
from ...core.dtypes import (
    BFLOAT16,
    FLOAT8_E4M3,
    FLOAT8_E5M2,
    FLOAT8_E8M0,
    FLOAT16,
    FLOAT32,
    FLOATS,
    INT8,
    INT32,
    DType,
)
from ...core.plan import CONSTANT_BINDING_LIMIT, Sizes, features
from ...core.product import ProductSpec, product_sizes, reject_batch, text_of
from ...core.scaling import (
    DECODING_INSTRUCTIONS,
    FORMAT_NUMBERS,
    UNSCALED,
    Lay,
    Scaling,
    byte_metal,
)
from ...core.shapes import Shape
from ...machine.decoding import index_metal
from ...machine.limits import reject_sizes, tiny_operand
from .problem import ScaledProblem, scaled_problem

MAX_INTEGER_DEPTH = (1 << 31) // (128 * 128) - 1
"""Products of int8 whose sum int32 holds, whatever they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledText:
    """Part of a problem that texts depend on; m and the batch sizes are run-time.

    Attributes:
        a: Element format of ``a``. Likewise the other formats, None for what is not there.
        b: See ``a``.
        a_scales: How the scales of ``a`` lie; None without.
        b_scales: Likewise of ``b``.
        bias: See ``a``.
        out: See ``a``.
        is_integer: Sums are of integers, which scales multiply at the end.
        transpose_b: ``b`` is ``[n, k]``.
        n: Columns of the result.
        k: Length of the contracted axis.
        batch_axes: Number of batch axes.
    """

    a: DType
    b: DType
    a_scales: Scaling | None
    b_scales: Scaling | None
    bias: DType | None
    out: DType
    is_integer: bool
    transpose_b: bool
    n: int
    k: int
    batch_axes: int

    @property
    def a_metal(self) -> str:
        """Metal's type of ``a`` as MLX binds it."""
        return byte_metal(self.a)

    @property
    def b_metal(self) -> str:
        """Metal's type of ``b`` as MLX binds it."""
        return byte_metal(self.b)

    @property
    def a_format(self) -> int:
        """Number of the format of ``a``."""
        return FORMAT_NUMBERS.get(self.a, 0)

    @property
    def b_format(self) -> int:
        """Number of the format of ``b``."""
        return FORMAT_NUMBERS.get(self.b, 0)

    @property
    def sum(self) -> DType:
        """Type of the sums."""
        return INT32 if self.is_integer else FLOAT32

    @property
    def a_tile(self) -> DType:
        """Type in which ``a`` is staged: its own, where that is a float without a scale."""
        return self.a if self.a in FLOATS and self.a_scales is None else FLOAT32

    @property
    def a_powers(self) -> bool:
        """Whether scales of ``a`` are e8m0."""
        return self.a_scales is not None and self.a_scales.dtype is FLOAT8_E8M0

    @property
    def b_powers(self) -> bool:
        """Whether scales of ``b`` are e8m0."""
        return self.b_scales is not None and self.b_scales.dtype is FLOAT8_E8M0

    @property
    def a_lay(self) -> Lay:
        """How the scales of ``a`` lie; any way where there are none."""
        scaling = self.a_scales
        if scaling is None:
            return UNSCALED
        row = scaling.counts(1, self.k)[1]
        return Lay(scaling.height, scaling.width, row, row if scaling.batched else 0)

    @property
    def b_lay(self) -> Lay:
        """How the scales of ``b`` lie; any way where there are none."""
        scaling = self.b_scales
        return scaling.lay(self.n, self.k, self.transpose_b) if scaling else UNSCALED

    @property
    def b_index_metal(self) -> str:
        """Metal's type that numbers the elements of one matrix of ``b``."""
        rows, columns = (self.n, self.k) if self.transpose_b else (self.k, self.n)
        return index_metal(self.b_lay.elements(rows, columns))


@latest
def scaled_text(problem: ScaledProblem) -> ScaledText:
    """Return the part of a problem that texts depend on."""
    return text_of(ScaledText, problem)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledSpec(ProductSpec):
    """Base of the specs of these kernels.

    Attributes:
        text: Part of the problem.
    """

    text: ScaledText

    FAMILY = "scaled"
    INPUTS: ClassVar[tuple[str, ...]] = ("a", "b", "a_scales", "b_scales", "bias", "sizes")
    STEPPED = ("a", "b")

    @property
    @abstractmethod
    def run(self) -> int:
        """Neighbours of a row of an operand that are decoded together."""

    @property
    def label(self) -> str:
        """Readable part of the kernel's name, legal in a Metal name."""
        text = self.text
        layout = "nt" if text.transpose_b else "nn"
        return (
            f"tilegemm_{self.KERNEL}_{layout}_{text.a}_{text.b}_{text.out}_{self.block_text}_"
            f"n{text.n}_k{text.k}"
        )

    @property
    def lacks(self) -> frozenset[str]:
        """Inputs that this variant is not given."""
        text = self.text
        return features(
            {
                ("a_scales",): text.a_scales is None,
                ("b_scales",): text.b_scales is None,
                ("bias",): text.bias is None,
            }
        )


def scaled_sizes(problem: ScaledProblem) -> dict[str, int]:
    """Return the run-time sizes of a product by name."""
    return product_sizes(problem, ScaledSpec.STEPPED)


def launch_sizes(problem: ScaledProblem, spec: ScaledSpec) -> Sizes:
    """Return the run-time sizes that a text reads."""
    return Sizes.of(spec, scaled_sizes(problem))


@latest
def reject_scaled(problem: ScaledProblem) -> str | None:
    """Return why no kernel may serve the problem, or None."""
    if problem.is_empty:
        return "there are no products"
    if reason := reject_batch(problem):
        return reason
    if problem.is_integer and problem.k > MAX_INTEGER_DEPTH:
        return f"sums of {problem.k} products of int8 may be more than int32 holds"
    if problem.batch_invariant and problem.k < CONSTANT_BINDING_LIMIT:
        return "batch_invariant: one row would be too small for it, so none is its"
    arrays = [one for one in problem.operands if one.name in ("a", "b")]
    return tiny_operand(arrays) or reject_sizes(scaled_sizes(problem).values())


def decoding_instructions(problem: ScaledProblem) -> int:
    """Return the instructions to decode one element of ``b``."""
    scaled = problem.b_scales is not None and not problem.is_integer
    return DECODING_INSTRUCTIONS[problem.b] + scaled


def left_instructions(problem: ScaledProblem) -> int:
    """Return the instructions to decode one element of ``a``."""
    scaled = problem.a_scales is not None and not problem.is_integer
    return DECODING_INSTRUCTIONS.get(problem.a, 0) + scaled


def written_bytes(problem: ScaledProblem) -> int:
    """Return the bytes of the result and of what is added to it."""
    return problem.results[0].nbytes + problem.nbytes("bias")


RAGGED = (11, 37, 83)
"""m, n, k off the tiles and off whole runs."""

ALIGNED = (64, 128, 96)
"""m, n, k on every tile."""


def variant(
    m: int,
    n: int,
    k: int,
    *,
    a: DType = FLOAT16,
    b: DType = FLOAT8_E4M3,
    a_scales: Scaling | None = None,
    b_scales: Scaling | None = None,
    out: DType = FLOAT16,
    transpose_b: bool = True,
    a_batch: Shape = (),
    b_batch: Shape = (),
    bias: DType | None = None,
) -> ScaledProblem:
    """Return the problem of a product with everything but what is named left at its default."""
    return scaled_problem(
        "variant",
        a_shape=(*a_batch, m, k),
        b_shape=(*b_batch, *((n, k) if transpose_b else (k, n))),
        a=a,
        b=b,
        a_scales=a_scales,
        b_scales=b_scales,
        bias=bias,
        out=out,
        transpose_b=transpose_b,
    )


ROWS = partial(Scaling, height=1)
POWERS = Scaling(dtype=FLOAT8_E8M0, height=1, width=32)


def block_scaling(dtype: DType, height: int = 32, width: int = 32) -> Scaling:
    """Return scales of blocks."""
    return Scaling(dtype=dtype, height=height, width=width)


def every_format() -> Iterator[ScaledProblem]:
    """Yield a few rows with every format of codes and kind of scales, in both layouts."""
    for transpose_b in (True, False):
        shape = partial(variant, *RAGGED, transpose_b=transpose_b)
        yield shape(b_scales=block_scaling(FLOAT32))
        yield shape(a=FLOAT8_E5M2, b=FLOAT8_E5M2, a_scales=POWERS, b_scales=POWERS, out=BFLOAT16)
        yield shape(
            a=FLOAT8_E4M3,
            b=FLOAT8_E5M2,
            a_scales=block_scaling(BFLOAT16, 1),
            b_scales=block_scaling(FLOAT16, 16, 24),
            bias=FLOAT32,
        )
        yield shape(a=INT8, b=INT8, a_scales=ROWS(dtype=FLOAT32), b_scales=ROWS(dtype=FLOAT16))


def variant_problems() -> Iterator[ScaledProblem]:
    """Yield small problems that together reach every flag of a text."""
    yield from every_format()
    for transpose_b in (True, False):
        shape = partial(variant, *RAGGED, transpose_b=transpose_b)
        for a, scales in zip(FLOATS, FLOATS[1:] + FLOATS[:1], strict=True):
            yield shape(a=a, b_scales=ROWS(dtype=scales), bias=scales, out=a)
        yield shape(a=INT8, b=INT8, out=INT32)
        yield shape(b=INT8, a_scales=Scaling(dtype=FLOAT32), b_scales=Scaling(dtype=FLOAT8_E8M0))
        yield shape(b_scales=Scaling(dtype=FLOAT32, width=32))
        own = Scaling(dtype=FLOAT32, batched=True)
        rows = Scaling(dtype=FLOAT32, height=1, batched=True)
        for a_batch, b_batch in (((3,), (3,)), ((2, 3), (3,))):
            batched = partial(shape, a_batch=a_batch, b_batch=b_batch)
            yield batched(a=FLOAT8_E4M3, a_scales=rows, b_scales=own)
        yield variant(*ALIGNED, transpose_b=transpose_b, b_scales=block_scaling(FLOAT32, 64, 48))

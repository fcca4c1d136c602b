"""Common parts of the kernels of quantized products: of a spec, of legality, launch and work."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import ClassVar

from ...core.caches import latest
from ...core.dtypes import BFLOAT16, FLOAT16, FLOAT32, FLOATS, DType
from ...core.plan import CONSTANT_BINDING_LIMIT, Sizes, features
from ...core.product import ProductSpec, product_sizes, reject_batch, text_of
from ...core.shapes import Shape
from ...formats import AFFINE, AFFINE_CODES, AFFINE_GROUPS, MODES, Grouping, grouping
from ...machine.decoding import DecodedText
from ...machine.limits import reject_sizes, tiny_operand
from .problem import QuantizedProblem, quantized_problem


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedText(DecodedText):
    """Part of a problem that texts depend on; m and the batch sizes are run-time.

    Attributes:
        x: Element format of ``x``. Likewise the other formats, None for what is not there.
        scales: See ``x``.
        biases: See ``x``.
        bias: See ``x``.
        out: See ``x``.
        weight: How the weight is stored.
        transpose: The weight is ``[n, k]``.
        tensor_scale: Whether one scale more multiplies all of the weight.
        n: Columns of the result.
        k: Length of the contracted axis.
        batch_axes: Number of batch axes.
    """

    x: DType
    scales: DType
    biases: DType | None
    bias: DType | None
    out: DType
    weight: Grouping
    transpose: bool
    tensor_scale: bool
    n: int
    k: int
    batch_axes: int


@latest
def quantized_text(problem: QuantizedProblem) -> QuantizedText:
    """Return the part of a problem that texts depend on."""
    return text_of(QuantizedText, problem)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedSpec(ProductSpec):
    """Base of the specs of these kernels.

    Attributes:
        text: Part of the problem.
    """

    text: QuantizedText

    FAMILY = "quantized"
    INPUTS: ClassVar[tuple[str, ...]] = (
        "x",
        "w",
        "scales",
        "biases",
        "global_scale",
        "bias",
        "sizes",
    )
    STEPPED = ("x", "w")

    @property
    def label(self) -> str:
        """Readable part of the kernel's name, legal in a Metal name."""
        text = self.text
        layout = "nt" if text.transpose else "nn"
        return (
            f"tilegemm_{self.KERNEL}_{layout}_{text.x}_{text.weight}_{text.scales}_{text.out}_"
            f"{self.block_text}_n{text.n}_k{text.k}"
        )

    @property
    def lacks(self) -> frozenset[str]:
        """Inputs that this variant is not given."""
        text = self.text
        return features(
            {
                ("biases",): text.biases is None,
                ("global_scale",): not text.tensor_scale,
                ("bias",): text.bias is None,
            }
        )


class DecodingSpec(QuantizedSpec):
    """Base of the specs of kernels that decode a weight."""

    __slots__ = ()

    @property
    @abstractmethod
    def run(self) -> int:
        """Neighbours of a row of the weight that are decoded together: whole words, one group."""


def quantized_sizes(problem: QuantizedProblem) -> dict[str, int]:
    """Return the run-time sizes of a product by name."""
    return product_sizes(problem, QuantizedSpec.STEPPED)


def launch_sizes(problem: QuantizedProblem, spec: QuantizedSpec) -> Sizes:
    """Return the run-time sizes that a text reads."""
    return Sizes.of(spec, quantized_sizes(problem))


@latest
def reject_quantized(problem: QuantizedProblem) -> str | None:
    """Return why no kernel may serve the problem, or None."""
    if problem.is_empty:
        return "there are no products"
    if reason := reject_batch(problem):
        return reason
    if problem.batch_invariant and problem.k < CONSTANT_BINDING_LIMIT:
        return "batch_invariant: one row would be too small for it, so none is its"
    arrays = [one for one in problem.operands if one.name in ("x", "w", "scales", "biases")]
    return tiny_operand(arrays) or reject_sizes(quantized_sizes(problem).values())


def written_bytes(problem: QuantizedProblem) -> int:
    """Return the bytes of the result and of what is added to it."""
    return problem.results[0].nbytes + problem.nbytes("bias")


RAGGED = (11, 37, 96)
"""m, n, k off the tiles; the axis along which groups are is a whole number of them."""

ALIGNED = (64, 128, 128)
"""m, n, k on every tile."""


def variant(
    m: int,
    n: int,
    k: int,
    *,
    mode: str = AFFINE,
    bits: int | None = None,
    group: int | None = None,
    x: DType = FLOAT16,
    scales: DType = FLOAT16,
    biases: DType | None = None,
    out: DType = FLOAT16,
    transpose: bool = True,
    x_batch: Shape = (),
    w_batch: Shape = (),
    tensor_scale: bool = False,
    bias: DType | None = None,
) -> QuantizedProblem:
    """Return the problem of a product with everything but what is named left at its default.

    The axis with the groups becomes so long that it is whole groups.
    """
    weight = grouping("variant", mode, bits, group)
    n, k = (n, _whole(k, weight.group)) if transpose else (_whole(n, weight.group), k)
    return quantized_problem(
        "variant",
        x_shape=(*x_batch, m, k),
        w_shape=(*w_batch, *((n, k) if transpose else (k, n))),
        weight=weight,
        x=x,
        scales=weight.scales or scales,
        biases=(biases or scales) if mode == AFFINE else None,
        tensor_scale=tensor_scale,
        bias=bias,
        out=out,
        transpose=transpose,
    )


def _whole(size: int, group: int) -> int:
    return -(-size // group) * group


def every_weight() -> Iterator[QuantizedProblem]:
    """Yield a few rows with a weight of each mode and number of bits, in both layouts.

    Affine groups take turns.
    """
    for transpose in (True, False):
        for bits, group in zip(AFFINE_CODES, cycle(AFFINE_GROUPS)):
            yield variant(*RAGGED, bits=bits, group=group, transpose=transpose)
        for mode in MODES[1:]:
            yield variant(*RAGGED, mode=mode, transpose=transpose)


def variant_problems() -> Iterator[QuantizedProblem]:
    """Yield small problems that together reach every flag of a text.

    Every way to store a weight meets both layouts; formats, batch axes, tensor scales and biases
    are each gone through once.
    """
    yield from every_weight()
    for transpose in (True, False):
        shape = partial(variant, *RAGGED, transpose=transpose)
        for x, scales in zip(FLOATS, FLOATS[1:] + FLOATS[:1], strict=True):
            yield shape(x=x, scales=scales, biases=BFLOAT16, out=x)
            yield shape(mode="mxfp8", x=x, bias=scales)
        yield shape(mode="nvfp4", tensor_scale=True, bias=FLOAT32, out=FLOAT32)
        for x_batch, w_batch in (((3,), (3,)), ((2, 3), (3,))):
            yield shape(x_batch=x_batch, w_batch=w_batch)
        yield variant(*ALIGNED, transpose=transpose)

"""Common parts of the kernels of chosen matrices: of a spec, of legality, launch and work."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from math import ceil, gcd
from typing import Any, ClassVar

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
from ...core.plan import SIMD_WIDTH, Arguments, Launch, Resources, Sizes, Stage, features
from ...core.scaling import (
    DECODING_INSTRUCTIONS,
    FORMAT_NUMBERS,
    UNSCALED,
    Lay,
    Scaling,
    byte_metal,
)
from ...formats import AFFINE, AFFINE_CODES, AFFINE_GROUPS, MODES, Grouping, grouping
from ...machine.chips.record import Chip
from ...machine.counts import RUN_BYTES
from ...machine.decoding import DecodedText, decoding_instructions, index_metal
from ...machine.fragment import ADDRESSING_REGISTERS
from ...machine.limits import reject_sizes, tiny_operand
from ...machine.mlx_products import streaming_seconds
from .problem import ExpertProblem

WIDENING_INSTRUCTIONS = 1
"""Instructions to widen an element of a plain weight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertText(DecodedText):
    """Part of a problem that texts depend on; how many products and experts there are is run-time.

    Attributes:
        x: Element format of ``x``. Likewise the other formats, None for what is not there.
        w: See ``x``.
        scales: See ``x``.
        biases: See ``x``.
        bias: See ``x``.
        out: See ``x``.
        weight: How a quantized weight is stored; None for others.
        scaling: How the scales of codes of a byte lie; None for others, and without.
        transpose: Matrices of the weight are ``[n, k]``.
        tensor_scale: Whether one scale more multiplies each matrix of the weight.
        lhs_indices: Whether they say which matrix of ``x`` a product takes.
        n: Columns of the result.
        k: Length of the contracted axis.
    """

    x: DType
    w: DType
    scales: DType | None
    biases: DType | None
    bias: DType | None
    out: DType
    weight: Grouping | None
    scaling: Scaling | None
    transpose: bool
    tensor_scale: bool
    lhs_indices: bool
    n: int
    k: int

    @property
    def has_codes(self) -> bool:
        """Whether the weight is codes of a byte each, whose scales lie in any way."""
        return self.weight is None and self.w not in FLOATS

    @property
    def is_decoded(self) -> bool:
        """Whether the weight becomes float32 as it is staged."""
        return self.weight is not None or self.has_codes

    @property
    def codes_metal(self) -> str:
        """Metal's type of codes of a byte as MLX binds it."""
        return byte_metal(self.w)

    @property
    def format(self) -> int:
        """Number of the format of codes of a byte."""
        return FORMAT_NUMBERS.get(self.w, 0)

    @property
    def lay(self) -> Lay:
        """How the scales of codes of a byte lie; any way where there are none."""
        return self.scaling.lay(self.n, self.k, self.transpose) if self.scaling else UNSCALED

    @property
    def index_metal(self) -> str:
        """Metal's type that numbers the elements of one matrix of the weight."""
        rows, columns = (self.n, self.k) if self.transpose else (self.k, self.n)
        return index_metal(self.lay.elements(rows, columns))

    @property
    def matrix_scales(self) -> int:
        """Scales from one matrix of the weight to the next; 0 without."""
        if self.weight is None:
            return self.lay.matrix_scales
        return self.n * self.k // self.weight.group


@latest
def expert_text(problem: ExpertProblem) -> ExpertText:
    """Return the part of a problem that texts depend on."""
    return ExpertText(
        x=problem.x,
        w=problem.w,
        scales=problem.scales,
        biases=problem.biases,
        bias=problem.bias,
        out=problem.out,
        weight=problem.weight,
        scaling=problem.scaling,
        transpose=problem.transpose,
        tensor_scale=problem.tensor_scale,
        lhs_indices=not problem.fanout,
        n=problem.n,
        k=problem.k,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertSpec(Arguments, ABC):
    """Base of the specs of these kernels.

    Attributes:
        text: Part of the problem.
        listed: Products are listed by expert, which an earlier stage has done.
        direct: Each product is a block of its own, with its index; nothing is sorted.
    """

    text: ExpertText
    listed: bool
    direct: bool

    KERNEL: ClassVar[str]
    """Name of the kernel and stem of its template."""

    INPUTS = (
        "x",
        "w",
        "scales",
        "biases",
        "global_scale",
        "bias",
        "lhs_indices",
        "rhs_indices",
        "order",
        "offsets",
        "sizes",
    )
    SIZES = ("products", "m", "experts", "sources", "fanout")

    @property
    def template(self) -> str:
        """Template of the kernel."""
        return f"experts/{self.KERNEL}.metal.j2"

    @property
    def label(self) -> str:
        """Readable part of the kernel's name, legal in a Metal name."""
        text = self.text
        layout = "nt" if text.transpose else "nn"
        weight = f"{text.weight}_{text.scales}" if text.weight else str(text.w)
        block = "x".join(map(str, self.block))
        return (
            f"tilegemm_{self.KERNEL}_{layout}_{text.x}_{weight}_{text.out}_{block}_"
            f"n{text.n}_k{text.k}"
        )

    @property
    @abstractmethod
    def block(self) -> tuple[int, int, int]:
        """Rows and columns of the result that a threadgroup computes, and the depth of a step."""

    @property
    @abstractmethod
    def run(self) -> int:
        """Neighbours of a row of the weight that a thread reads together."""

    @property
    def lacks(self) -> frozenset[str]:
        """Inputs that this variant is not given."""
        text = self.text
        return features(
            {
                ("scales",): text.scales is None,
                ("biases",): text.biases is None,
                ("global_scale",): not text.tensor_scale,
                ("bias",): text.bias is None,
                ("lhs_indices",): not text.lhs_indices,
                ("rhs_indices",): not self.direct,
                ("order",): not self.listed,
                ("offsets",): self.direct,
            }
        )


def plain_run(dtype: DType) -> int:
    """Return the elements of a plain weight that a thread reads at a time."""
    return RUN_BYTES // dtype.bytes


def expert_sizes(problem: ExpertProblem) -> dict[str, int]:
    """Return the run-time sizes of a problem by name."""
    return {
        "products": problem.products,
        "m": problem.m,
        "experts": problem.experts,
        "sources": problem.sources,
        "fanout": max(1, problem.fanout),
    }


@latest
def reject_experts(problem: ExpertProblem) -> str | None:
    """Return why no kernel may serve the problem, or None."""
    if problem.is_empty:
        return "there is nothing to multiply"
    names = ("x", "w", "scales", "biases") if problem.weight else ("x", "w")
    arrays = [one for one in problem.operands if one.name in names]
    sizes = (problem.rows, problem.sources * problem.m, *expert_sizes(problem).values())
    return tiny_operand(arrays) or reject_sizes(sizes)


def most_blocks(problem: ExpertProblem, rows: int) -> int:
    """Return how many blocks of so many rows there are at most, none with rows of two experts.

    An expert's last block lacks no more rows than make it a block of the common divisor.
    """
    # Rows without an expert are one more, to be filled with zeros.
    experts = min(problem.experts + 1, problem.products)
    return (problem.rows + experts * (rows - gcd(problem.m, rows))) // rows


def expected_blocks(problem: ExpertProblem, rows: int) -> int:
    """Return how many blocks there are with rows in them, if all experts are as likely."""
    experts = problem.expected_experts
    return ceil(experts * max(1.0, problem.rows / experts / rows + 0.5 * (rows > 1)))


def weight_instructions(problem: ExpertProblem) -> int:
    """Return the instructions to make a float32 of an element of the weight."""
    if problem.has_codes:
        return DECODING_INSTRUCTIONS[problem.w] + (problem.scaling is not None)
    if problem.weight is None:
        return WIDENING_INSTRUCTIONS
    return decoding_instructions(problem.weight)


def moved_bytes(problem: ExpertProblem) -> float:
    """Return the bytes that a launch moves, each expert's weight once."""
    others = (one for one in problem.operands if one.name not in ("w", "scales", "biases"))
    moved = sum(one.nbytes for one in (*others, *problem.results))
    return problem.expert_bytes * problem.expected_experts + moved


LIST_THREADS = 256
"""Threads that list the products of one expert."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListSpec(Arguments):
    """Everything that the text depends on which lists products by expert: nothing."""

    INPUTS = ("rhs_indices", "sizes")
    OUTPUTS = ("order", "offsets")
    SIZES = ("products", "experts")

    @property
    def template(self) -> str:
        """Template of the kernel."""
        return "experts/expert_lists.metal.j2"

    @property
    def label(self) -> str:
        """Readable part of the kernel's name, legal in a Metal name."""
        return "tilegemm_expert_lists"

    @property
    def threads(self) -> int:
        """Threads of one threadgroup."""
        return LIST_THREADS

    @property
    def simdgroups(self) -> int:
        """Simdgroups of one threadgroup."""
        return LIST_THREADS // SIMD_WIDTH


def list_stage(problem: ExpertProblem) -> Stage:
    """Return the stage that lists products by expert: their order, and where each expert's end."""
    spec = ListSpec()
    launch = Launch(
        # One threadgroup more lists products whose index is no expert's.
        grid=((problem.experts + 1) * LIST_THREADS, 1, 1),
        threadgroup=(LIST_THREADS, 1, 1),
        sizes=Sizes.of(spec, expert_sizes(problem)),
        output_shapes=((problem.products,), (problem.experts,)),
        output_dtypes=(INT32, INT32),
    )
    needs = Resources(
        threads=LIST_THREADS,
        threadgroup_bytes=2 * INT32.bytes * spec.simdgroups,
        registers=ADDRESSING_REGISTERS,
    )
    return Stage(spec=spec, launch=launch, resources=needs)


def list_seconds(problem: ExpertProblem, chip: Chip) -> float:
    """Return the modelled seconds of that stage: each expert reads all indices twice, in cache."""
    read = 2 * INT32.bytes * problem.products * problem.experts
    cached = read / (chip.l2_bytes_per_cycle * chip.cores * chip.clock_hz)
    written = INT32.bytes * (2 * problem.products + problem.experts)
    return chip.launch_seconds + cached + streaming_seconds(written, chip)


def stages_before(problem: ExpertProblem, spec: ExpertSpec) -> tuple[Stage, ...]:
    """Return what has to run before a kernel."""
    return (list_stage(problem),) if spec.listed else ()


RAGGED = (29, 37, 43)
"""Products, n and k off the tiles; the axis along which groups are is a whole number of them."""

ALIGNED = (64, 64, 64)
"""Products, n and k, of which n is on every tile."""


def variant(
    products: int,
    n: int,
    k: int,
    *,
    m: int = 1,
    experts: int = 9,
    fanout: int = 1,
    mode: str | None = None,
    bits: int | None = None,
    group: int | None = None,
    scaling: Scaling | None = None,
    x: DType = FLOAT16,
    w: DType = FLOAT16,
    scales: DType = FLOAT16,
    biases: DType | None = None,
    out: DType = FLOAT16,
    transpose: bool = True,
    tensor_scale: bool = False,
    bias: DType | None = None,
    grouped: bool = False,
) -> ExpertProblem:
    """Return the problem of products with everything but what is named left at its default.

    With a mode the axis with the groups becomes so long that it is whole groups.
    """
    weight = None if mode is None else grouping("variant", mode, bits, group)
    if weight is not None:
        n, k = (n, _whole(k, weight.group)) if transpose else (_whole(n, weight.group), k)
    return ExpertProblem(
        products=products,
        m=m,
        n=n,
        k=k,
        experts=experts,
        sources=-(-products // fanout) if fanout else 7,
        fanout=fanout,
        x=x,
        w=w if weight is None else weight.codes,
        weight=weight,
        scaling=scaling,
        scales=_scales(weight, scaling, scales),
        biases=(biases or scales) if mode == AFFINE else None,
        tensor_scale=tensor_scale,
        bias=bias,
        out=out,
        transpose=transpose,
        grouped=grouped,
        sorted=False,
        out_shape=(products, m, n),
    )


def _scales(weight: Grouping | None, scaling: Scaling | None, scales: DType) -> DType | None:
    if weight is None:
        return scaling.dtype if scaling else None
    return weight.scales or scales


def _whole(size: int, group: int) -> int:
    return -(-size // group) * group


def plain_problems() -> Iterator[ExpertProblem]:
    """Yield small problems of plain weights that together reach every flag of a text."""
    for transpose in (True, False):
        shape = partial(variant, *RAGGED, transpose=transpose)
        for x, w in zip(FLOATS, (*FLOATS[1:], FLOATS[0]), strict=True):
            yield shape(x=x, w=w, out=x, fanout=0)
            yield shape(x=w, w=w, bias=x, out=w, grouped=True)
        yield shape(m=3, experts=33)
        yield shape(bias=BFLOAT16, out=FLOAT32)
        yield variant(*ALIGNED, transpose=transpose)


def quantized_problems() -> Iterator[ExpertProblem]:
    """Yield small problems of quantized weights that together reach every flag of a text.

    Every way to store a weight meets both layouts; affine groups take turns.
    """
    for transpose in (True, False):
        shape = partial(variant, *RAGGED, transpose=transpose)
        for bits, group in zip(AFFINE_CODES, cycle(AFFINE_GROUPS)):
            yield shape(mode=AFFINE, bits=bits, group=group)
        for mode in MODES[1:]:
            yield shape(mode=mode)
        yield shape(mode=AFFINE, x=BFLOAT16, scales=FLOAT16, biases=FLOAT32, fanout=0)
        yield shape(mode="nvfp4", x=FLOAT32, tensor_scale=True, bias=FLOAT32, out=FLOAT32)
        yield shape(mode="mxfp4", bias=BFLOAT16, out=BFLOAT16, m=3, experts=33)


def block_scaling(dtype: DType, height: int = 32, width: int = 32) -> Scaling:
    """Return scales of blocks of each matrix; 0 is of all."""
    return Scaling(dtype=dtype, height=height, width=width, batched=True)


def coded_problems() -> Iterator[ExpertProblem]:
    """Yield small problems of codes of a byte that together reach every flag of a text."""
    for transpose in (True, False):
        shape = partial(variant, *RAGGED, transpose=transpose)
        yield shape(w=FLOAT8_E4M3, scaling=block_scaling(FLOAT32))
        yield shape(w=FLOAT8_E5M2, scaling=block_scaling(FLOAT8_E8M0, 1), x=BFLOAT16, fanout=0)
        yield shape(w=FLOAT8_E4M3, scaling=block_scaling(BFLOAT16, 1, 0), bias=FLOAT32, m=3)
        yield shape(w=FLOAT8_E5M2, scaling=block_scaling(FLOAT16, 16, 24), out=FLOAT32, experts=33)
        yield shape(w=INT8, scaling=block_scaling(FLOAT32, 0, 0), experts=3)
        yield variant(*ALIGNED, transpose=transpose, w=FLOAT8_E4M3, x=FLOAT32, out=FLOAT32)


def variant_problems() -> Iterator[ExpertProblem]:
    """Yield small problems that together reach every flag of a text."""
    yield from plain_problems()
    yield from coded_problems()
    yield from quantized_problems()


Options = dict[str, Any]

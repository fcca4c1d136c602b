"""Common parts of the GEMM kernels: of a spec, of legality and of a launch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

from ...core.caches import latest
from ...core.dtypes import FLOAT32, FLOATS, INTEGERS, DType, Kind
from ...core.plan import CONSTANT_BINDING_LIMIT, Extent, Launch, Sizes, features
from ...core.product import ProductSpec, product_sizes, reject_batch, text_of
from ...core.shapes import Shape
from ...machine.limits import reject_sizes, tiny_operand
from ...machine.products import layout
from .problem import GemmProblem, gemm_problem


@dataclass(frozen=True, slots=True, kw_only=True)
class GemmText:
    """Part of a problem that texts depend on; m and the batch sizes are run-time.

    Attributes:
        a: Element type of ``a``. Likewise ``b``, ``c`` (None without an addend) and ``out``.
        b: See ``a``.
        c: See ``a``.
        out: See ``a``.
        transpose_a: ``a`` is stored ``[k, m]``.
        transpose_b: ``b`` is stored ``[n, k]``.
        n: Columns of the result.
        k: Length of the contracted axis.
        c_rows: ``c`` has a row for every row of the result.
        c_columns: ``c`` has a column for every column of the result.
        scaled: The product is multiplied by ``factors[0]``.
        batch_axes: Number of batch axes.
    """

    a: DType
    b: DType
    c: DType | None
    out: DType
    transpose_a: bool
    transpose_b: bool
    n: int
    k: int
    c_rows: bool
    c_columns: bool
    scaled: bool
    batch_axes: int

    @property
    def layout(self) -> str:
        """``nn``, ``nt``, ``tn`` or ``tt``."""
        return layout(self.transpose_a, self.transpose_b)


@latest
def gemm_text(problem: GemmProblem) -> GemmText:
    """Return the part of a problem that texts depend on."""
    return text_of(GemmText, problem)


@dataclass(frozen=True, slots=True, kw_only=True)
class GemmSpec(ProductSpec):
    """Base of the specs of GEMM kernels.

    Attributes:
        text: Part of the problem.
    """

    text: GemmText

    FAMILY = "gemm"
    INPUTS: ClassVar[tuple[str, ...]] = ("a", "b", "c", "factors", "sizes")
    STEPPED = ("a", "b", "c")

    @property
    def label(self) -> str:
        """Readable part of the kernel's name, legal in a Metal name."""
        text = self.text
        dtypes = "_".join(str(dtype) for dtype in (text.a, text.b, text.out))
        sizes = f"{self.block_text}_n{text.n}_k{text.k}"
        return f"tilegemm_{self.KERNEL}_{text.layout}_{dtypes}_{sizes}"

    @property
    def lacks(self) -> frozenset[str]:
        """Inputs that this variant is not given."""
        has_factors = self.text.c is not None or self.text.scaled
        return features({("c",): self.text.c is None, ("factors",): not has_factors})

    @property
    def operand(self) -> DType:
        """Type to which an element of an operand is widened before anything else."""
        return FLOAT32

    @property
    def accumulator(self) -> DType:
        """Type of products and sums."""
        return FLOAT32


def gemm_factors(problem: GemmProblem) -> tuple[str, ...]:
    """Return the run-time factors in the order of the input ``factors``."""
    if problem.c:
        return ("alpha", "beta")
    return ("alpha",) if problem.scaled else ()


def gemm_sizes(problem: GemmProblem) -> dict[str, int]:
    """Return the run-time sizes of a product by name."""
    return product_sizes(problem, GemmSpec.STEPPED)


def gemm_grid(
    problem: GemmProblem, block: tuple[int, int, int], *, threads: int, swizzle_log: int = 0
) -> Extent:
    """Return the grid of one threadgroup for each block of the result."""
    tiles_m, tiles_n = -(-problem.m // block[0]), -(-problem.n // block[1])
    panel = 1 << swizzle_log
    return (tiles_n * panel * threads, -(-tiles_m // panel), problem.batch_size)


def gemm_launch(
    problem: GemmProblem, spec: GemmSpec, *, threads: int, swizzle_log: int = 0
) -> Launch:
    """Return the launch of one threadgroup for each block of the result.

    With ``swizzle_log`` s, 2**s neighbouring block rows are walked together before the next block
    column, which keeps their operands in cache; the few threadgroups past the last row return.
    """
    return Launch.of(
        problem.results,
        gemm_grid(problem, spec.block, threads=threads, swizzle_log=swizzle_log),
        threads,
        Sizes.of(spec, gemm_sizes(problem)),
    )


@latest
def reject_gemm(problem: GemmProblem) -> str | None:
    """Return why no GEMM kernel may serve the problem, or None."""
    if problem.is_empty or problem.n == 0:
        return "the result is empty"
    if problem.k == 0:
        return "k is 0, so there is nothing to multiply"
    return reject_batch(problem) or reject_sizes(gemm_sizes(problem).values())


@latest
def tiny_gemm_operand(problem: GemmProblem) -> str | None:
    """Return which operand MLX binds in the constant address space, in words, or None."""
    return tiny_operand(problem.operands[:2])


def variant_problems(pairs: Iterable[tuple[DType, DType]]) -> Iterator[GemmProblem]:
    """Yield small problems that together reach every flag of a GEMM's text.

    Every dtype pair meets every layout, ragged and aligned; result dtypes, addends, factors and
    batch axes are each gone through once, with one pair and layout.
    """
    pairs = tuple(pairs)
    for a, b in pairs:
        for transpose_a, transpose_b in product((False, True), repeat=2):
            for sizes in (RAGGED, ALIGNED):
                yield variant(a, b, *sizes, transpose_a=transpose_a, transpose_b=transpose_b)
    a, b = pairs[1]
    for m, n, k in product(
        (RAGGED[0], ALIGNED[0]), (RAGGED[1], ALIGNED[1]), (RAGGED[2], ALIGNED[2])
    ):
        yield variant(a, b, m, n, k)
    yield variant(a, b, *RAGGED, scaled=True)
    for batch in ((3,), (2, 3)):
        for shared in (False, True):
            yield variant(a, b, *RAGGED, a_batch=batch, b_batch=() if shared else batch[-1:])
    addends = FLOATS if a.kind is Kind.FLOAT else INTEGERS
    for c in addends:
        for rows, columns in product((1, RAGGED[0]), (1, RAGGED[1])):
            yield variant(a, b, *RAGGED, c=c, c_shape=(rows, columns))
    yield variant(a, b, *RAGGED, a_batch=(3,), b_batch=(3,), c=a, c_shape=(3, 1, RAGGED[1]))
    if a.kind is Kind.FLOAT:
        for (x, y), out in product(pairs, FLOATS):
            yield variant(x, y, *RAGGED, out=out)


RAGGED = (33, 37, 43)
"""m, n, k off every tile, in more than one block of the smaller ones."""

ALIGNED = (64, 64, 64)
"""m, n, k on every tile."""


def variant(
    a: DType,
    b: DType,
    m: int,
    n: int,
    k: int,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    a_batch: Shape = (),
    b_batch: Shape = (),
    c: DType | None = None,
    c_shape: Shape | None = None,
    out: DType | None = None,
    scaled: bool = False,
) -> GemmProblem:
    """Return the problem of a product with everything but what is named left at its default."""
    return gemm_problem(
        "variant",
        a_shape=(*a_batch, *((k, m) if transpose_a else (m, k))),
        b_shape=(*b_batch, *((n, k) if transpose_b else (k, n))),
        a=a,
        b=b,
        transpose_a=transpose_a,
        transpose_b=transpose_b,
        c_shape=c_shape,
        c=c,
        out=out,
        scaled=scaled,
    )


def rows_decide(problem: GemmProblem) -> str | None:
    """Return why a kernel whose sums depend on the number of rows may not serve, or None."""
    if problem.batch_invariant:
        return "batch_invariant: the order of its sums depends on the number of rows"
    return None


def invariant_by_scalar(problem: GemmProblem) -> bool:
    """Return whether a batch-invariant product is the scalar kernel's.

    Whether ``a`` is too small for the simdgroup kernel may depend on m, so every product is the
    scalar kernel's in which a single row would be.
    """
    one_row = min(problem.k, problem.product.b_elements)
    return problem.is_integer or one_row < CONSTANT_BINDING_LIMIT

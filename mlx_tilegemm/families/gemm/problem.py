"""Products as frozen values, and the checks that make them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import prod

from ...core.caches import latest
from ...core.dtypes import FLOAT32, INT32, DType, Kind, promote
from ...core.operand import Operand
from ...core.product import BatchedProduct
from ...core.shapes import Shape, pad, shape_text
from ...errors import DTypeError, ProblemError
from ...machine.products import Product, layout


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchAxis:
    """One axis of the batch, after neighbouring axes that step alike were merged.

    Attributes:
        size: Length of the axis.
        a: Matrices of ``a`` that one step advances; 0 where ``a`` is broadcast. Likewise b and c.
        b: See ``a``.
        c: See ``a``; 0 when there is no ``c``.
    """

    size: int
    a: int
    b: int
    c: int

    @property
    def steps(self) -> tuple[int, ...]:
        """Matrices of each operand to step over, in order."""
        return (self.a, self.b, self.c)


@dataclass(frozen=True, slots=True, kw_only=True)
class GemmProblem(BatchedProduct):
    """``out[..., m, n] = alpha * op(a) @ op(b) + beta * c``, accumulated in float32 or int32.

    Attributes:
        m: Rows of the result, with the batch folded in where that is possible.
        n: Columns of the result.
        k: Length of the contracted axis.
        batch: Batch axes, outermost first; empty for a single product.
        a: Element type of ``a`` in memory. Likewise ``b``, ``c`` (None without one) and ``out``.
        b: See ``a``.
        c: See ``a``.
        out: See ``a``.
        transpose_a: ``a`` is stored ``[k, m]``.
        transpose_b: ``b`` is stored ``[n, k]``.
        c_rows: ``c`` has a row for every row of the result, not one for all.
        c_columns: ``c`` has a column for every column of the result, not one for all.
        scaled: ``alpha`` is not 1.
        out_shape: Shape of the result as the caller sees it.
        batch_invariant: Each row has to come out the same, bit for bit, whatever ``m`` is.
        exact: Float32 is multiplied with all its bits, whatever MLX's switch for TF32 says.
    """

    m: int
    n: int
    k: int
    batch: tuple[BatchAxis, ...]
    a: DType
    b: DType
    c: DType | None
    out: DType
    transpose_a: bool
    transpose_b: bool
    c_rows: bool
    c_columns: bool
    scaled: bool
    out_shape: Shape
    batch_invariant: bool = False
    exact: bool = False

    def __str__(self) -> str:
        options = [f"c {self.c}"] * bool(self.c) + ["batch_invariant"] * self.batch_invariant
        options += ["precision float32"] * self.exact
        return ", ".join(
            [
                f"{self.a} x {self.b} -> {self.out}",
                f"m {self.m}, n {self.n}, k {self.k}, layout {self.layout}",
                f"{self.batch_size} products",
                *options,
            ]
        )

    @property
    def operands(self) -> tuple[Operand, ...]:
        """``a``, ``b`` and, if there is one, ``c``."""
        return _operands(self)

    @property
    def factors(self) -> tuple[str, ...]:
        """Alpha and beta."""
        return ("alpha", "beta")

    @property
    def accumulates(self) -> DType:
        """int32 for integers, else float32."""
        return INT32 if self.is_integer else FLOAT32

    @property
    def is_integer(self) -> bool:
        """Whether the product is computed in int32."""
        return self.a.kind is Kind.INTEGER

    @property
    def layout(self) -> str:
        """``nn``, ``nt``, ``tn`` or ``tt``: how ``a`` and ``b`` are stored."""
        return layout(self.transpose_a, self.transpose_b)

    @property
    def product(self) -> Product:
        """The product that the cost model counts."""
        return _product(self)

    def stored(self) -> GemmProblem:
        """Return the product with the caller's axes as kernels see them, folded into rows."""
        sizes = tuple(axis.size for axis in self.batch)
        return replace(self, out_shape=(*sizes, self.m, self.n))

    def smaller(self) -> Iterator[GemmProblem]:
        """Yield products of fewer rows and of a smaller batch."""
        batch = _small_batch(self.batch)
        for m in SMALL_ROWS:
            yield replace(self, m=m, batch=batch).stored()


SMALL_ROWS = (67, 35, 19, 11, 5, 3, 2, 1, 128, 64)
"""Ragged numbers of rows, the most first, then what texts for whole blocks of rows need."""


@latest
def _operands(problem: GemmProblem) -> tuple[Operand, ...]:
    p = problem
    a = (p.k, p.m) if p.transpose_a else (p.m, p.k)
    b = (p.n, p.k) if p.transpose_b else (p.k, p.n)
    found = [
        Operand(name="a", shape=(*(x.size if x.a else 1 for x in p.batch), *a), dtype=p.a),
        Operand(name="b", shape=(*(x.size if x.b else 1 for x in p.batch), *b), dtype=p.b),
    ]
    if p.c is not None:
        c = (p.m if p.c_rows else 1, p.n if p.c_columns else 1)
        batch = (x.size if x.c else 1 for x in p.batch)
        found.append(Operand(name="c", shape=(*batch, *c), dtype=p.c))
    return tuple(found)


@latest
def _product(problem: GemmProblem) -> Product:
    p = problem
    c_matrix = (p.m if p.c_rows else 1) * (p.n if p.c_columns else 1)
    return Product(
        m=p.m,
        n=p.n,
        k=p.k,
        a=p.a,
        b=p.b,
        out=p.out,
        c=p.c,
        c_elements=c_matrix * _matrices(p.batch, (axis.c for axis in p.batch)) if p.c else 0,
        transpose_a=p.transpose_a,
        transpose_b=p.transpose_b,
        batch_size=p.batch_size,
        a_matrices=_matrices(p.batch, (axis.a for axis in p.batch)),
        b_matrices=_matrices(p.batch, (axis.b for axis in p.batch)),
    )


def _small_batch(batch: tuple[BatchAxis, ...]) -> tuple[BatchAxis, ...]:
    """Return the axes with few steps each; what an operand is broadcast along stays so."""
    sizes = [2 + (index == 0) for index in range(len(batch))]
    small = []
    for index, (axis, size) in enumerate(zip(batch, sizes, strict=True)):
        inner = list(zip(batch[index + 1 :], sizes[index + 1 :], strict=True))
        small.append(
            BatchAxis(
                size=size,
                a=prod(size for other, size in inner if other.a) if axis.a else 0,
                b=prod(size for other, size in inner if other.b) if axis.b else 0,
                c=prod(size for other, size in inner if other.c) if axis.c else 0,
            )
        )
    return tuple(small)


def _matrices(batch: tuple[BatchAxis, ...], strides: Iterable[int]) -> int:
    return prod(axis.size for axis, stride in zip(batch, strides, strict=True) if stride)


def gemm_problem(
    op: str,
    *,
    a_shape: Shape,
    b_shape: Shape,
    a: DType,
    b: DType,
    transpose_a: bool,
    transpose_b: bool,
    c_shape: Shape | None = None,
    c: DType | None = None,
    out: DType | None = None,
    scaled: bool = False,
    batch_invariant: bool = False,
    exact: bool = False,
) -> GemmProblem:
    """Check shapes and dtypes as `mx.matmul` does and state the product they ask for.

    Args:
        op: Name to begin messages with.
        a_shape: Shape of ``a``; a 1-D ``a`` is a row, and its axis is absent from the result.
        b_shape: Shape of ``b``; a 1-D ``b`` is a column, and its axis is absent from the result.
        a: Element type of ``a``.
        b: Element type of ``b``.
        transpose_a: Use ``a`` with its last two axes swapped; no effect on a 1-D ``a``, as ``.T``.
        transpose_b: Likewise for ``b``.
        c_shape: Shape of the addend, which broadcasts to the result.
        c: Element type of the addend.
        out: Element type wanted; None follows MLX's promotion.
        scaled: Whether the product is multiplied by an ``alpha`` other than 1.
        batch_invariant: Whether a row must not depend on how many rows there are.
        exact: Whether float32 must not be rounded before it is multiplied.

    Raises:
        ProblemError: Shapes that do not fit together.
        DTypeError: Dtypes that do not go together.
    """
    _check_kinds(op, {"a": a, "b": b} | ({} if c is None else {"c": c}))
    for shape in (a_shape, b_shape):
        if not shape:
            raise ProblemError(
                f"[{op}] Got 0 dimension input. Inputs must have at least one dimension."
            )
    a_matrix, b_matrix = _matrix_a(a_shape, transpose_a), _matrix_b(b_shape, transpose_b)
    if a_matrix[1] != b_matrix[0]:
        raise ProblemError(_inner_size_message(op, a_shape, b_shape, a_matrix, b_matrix))
    batch_shape = _broadcast(op, a_shape[:-2], b_shape[:-2], a_shape, b_shape)
    m, n = a_matrix[0], b_matrix[1]
    rows = (m,) if len(a_shape) > 1 else ()
    columns = (n,) if len(b_shape) > 1 else ()
    out_shape = (*batch_shape, *rows, *columns)
    c_full = _addend_shape(op, c_shape, out_shape, len(a_shape) > 1, len(b_shape) > 1)
    batch = _batch_axes(batch_shape, a_shape[:-2], b_shape[:-2], c_full[:-2])
    problem = GemmProblem(
        m=m,
        n=n,
        k=a_matrix[1],
        batch=batch,
        a=a,
        b=b,
        c=c,
        out=_result_dtype(op, a, b, c, out),
        transpose_a=transpose_a and len(a_shape) > 1,
        transpose_b=transpose_b and len(b_shape) > 1,
        c_rows=c is not None and c_full[-2] > 1,
        c_columns=c is not None and c_full[-1] > 1,
        scaled=scaled,
        out_shape=out_shape,
        batch_invariant=batch_invariant,
        exact=exact,
    )
    return _fold_batch(problem)


def _check_kinds(op: str, operands: dict[str, DType]) -> None:
    floats = [name for name, dtype in operands.items() if dtype.kind is Kind.FLOAT]
    integers = [name for name, dtype in operands.items() if dtype.kind is Kind.INTEGER]
    for name, dtype in operands.items():
        if dtype.kind is Kind.BOOL:
            raise DTypeError(
                f"[{op}] Expected floating point or integer operands, got {name} of {dtype}; "
                f"cast it first, for example {name}.astype(mx.int8)."
            )
    if floats and integers:
        f, i = floats[0], integers[0]
        raise DTypeError(
            f"[{op}] Expected operands that are all floating point or all integers, got "
            f"{f} of {operands[f]} and {i} of {operands[i]}; cast {i} with "
            f"{i}.astype(mx.{operands[f]}) if a floating point product is meant."
        )


def _matrix_a(shape: Shape, transpose: bool) -> tuple[int, int]:
    if len(shape) == 1:
        return 1, shape[0]
    return (shape[-1], shape[-2]) if transpose else (shape[-2], shape[-1])


def _matrix_b(shape: Shape, transpose: bool) -> tuple[int, int]:
    if len(shape) == 1:
        return shape[0], 1
    return (shape[-1], shape[-2]) if transpose else (shape[-2], shape[-1])


def _inner_size_message(
    op: str,
    a_shape: Shape,
    b_shape: Shape,
    a_matrix: tuple[int, int],
    b_matrix: tuple[int, int],
) -> str:
    return (
        f"[{op}] Expected the inner sizes of the product to match, got {a_matrix[1]} of the first "
        f"input with shape {shape_text(a_shape)} and {b_matrix[0]} of the second input with shape "
        f"{shape_text(b_shape)}."
    )


def _broadcast(op: str, a: Shape, b: Shape, a_shape: Shape, b_shape: Shape) -> Shape:
    rank = max(len(a), len(b))
    sizes = []
    for x, y in zip(pad(a, rank), pad(b, rank), strict=True):
        if x != y and 1 not in (x, y):
            raise ProblemError(
                f"[{op}] Expected batch axes that broadcast, got inputs with shapes "
                f"{shape_text(a_shape)} and {shape_text(b_shape)}."
            )
        sizes.append(y if x == 1 else x)
    return tuple(sizes)


def _addend_shape(
    op: str, c_shape: Shape | None, out_shape: Shape, has_rows: bool, has_columns: bool
) -> Shape:
    """Return the addend's shape with an axis for every batch axis, row and column."""
    if c_shape is None:
        return (1, 1)
    padded = pad(c_shape, len(out_shape))
    fits = len(c_shape) <= len(out_shape) and all(
        x in (1, y) for x, y in zip(padded, out_shape, strict=True)
    )
    if not fits:
        raise ProblemError(
            f"[{op}] Expected c to broadcast to the output shape {shape_text(out_shape)}, got "
            f"{shape_text(c_shape)}."
        )
    batch_rank = len(out_shape) - has_rows - has_columns
    rows = padded[batch_rank] if has_rows else 1
    columns = padded[-1] if has_columns else 1
    return (*padded[:batch_rank], rows, columns)


def _result_dtype(op: str, a: DType, b: DType, c: DType | None, wanted: DType | None) -> DType:
    natural = promote(a, b)
    if c is not None:
        natural = promote(natural, c)
    if wanted is None or wanted is natural:
        return natural
    if natural.kind is Kind.INTEGER:
        raise DTypeError(
            f"[{op}] Expected out_dtype int32 for a product of integers, got {wanted}."
        )
    if wanted.kind is not Kind.FLOAT:
        raise DTypeError(
            f"[{op}] Expected out_dtype float32, float16 or bfloat16 for a floating point product, "
            f"got {wanted}."
        )
    return wanted


def _batch_axes(shape: Shape, a: Shape, b: Shape, c: Shape) -> tuple[BatchAxis, ...]:
    """Give each batch axis its steps and merge neighbours that step alike."""
    rank = len(shape)
    steps = [_axis_steps(pad(operand, rank)) for operand in (a, b, c)]
    merged: list[BatchAxis] = []
    for size, step_a, step_b, step_c in zip(shape, *steps, strict=True):
        if size == 1:
            continue
        axis = BatchAxis(size=size, a=step_a, b=step_b, c=step_c)
        outer = merged[-1] if merged else None
        if outer and (outer.a, outer.b, outer.c) == (
            axis.a * size,
            axis.b * size,
            axis.c * size,
        ):
            axis = BatchAxis(size=size * outer.size, a=axis.a, b=axis.b, c=axis.c)
            merged.pop()
        merged.append(axis)
    return tuple(merged)


def _axis_steps(shape: Shape) -> list[int]:
    steps, stride = [], 1
    for size in reversed(shape):
        steps.append(0 if size == 1 else stride)
        stride *= size
    return steps[::-1]


def _fold_batch(problem: GemmProblem) -> GemmProblem:
    """Turn a batch of one shared ``b`` into more rows, which needs no batch in the grid."""
    if len(problem.batch) != 1 or problem.transpose_a:
        return problem
    (axis,) = problem.batch
    c_folds = (
        not problem.c or (axis.c == 1 and problem.c_rows) or (not axis.c and not problem.c_rows)
    )
    # With one row a product, a c of one row each is a c of a row for every folded row.
    c_folds = c_folds or (axis.c == 1 and problem.m == 1)
    if axis.a != 1 or axis.b != 0 or not c_folds:
        return problem
    return replace(
        problem,
        m=problem.m * axis.size,
        batch=(),
        c_rows=problem.c_rows or axis.c == 1,
    )

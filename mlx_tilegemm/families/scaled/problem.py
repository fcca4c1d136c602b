"""Products of scaled codes as frozen values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ...core.batches import BatchAxis, batch_axes, broadcast_batch, stepped
from ...core.caches import latest
from ...core.dtypes import INT8, INT32, DType
from ...core.operand import Operand
from ...core.product import BatchedProduct
from ...core.scaling import Scaling
from ...core.shapes import Shape, shape_text
from ...errors import ProblemError


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledProblem(BatchedProduct):
    """``out = (a * a_scales) @ (b * b_scales) + bias``, with codes among the factors.

    Attributes:
        m: Rows of the result.
        n: Columns of the result.
        k: Length of the contracted axis.
        a: Element format of ``a``: a float, a small float or int8.
        b: Element format of ``b``: a small float or int8.
        a_scales: Scales of ``a``; None without.
        b_scales: Scales of ``b``; None without.
        bias: Element format of the row that is added; None without one.
        out: Element format of the result.
        transpose_b: ``b`` is ``[n, k]``, else ``[k, n]``; its scales lie likewise.
        batch: Batch axes, outermost first.
        out_shape: Shape of the result.
        batch_invariant: Whether a row must not depend on how many rows there are.
        exact: Float32 is multiplied with all its bits, whatever MLX's switch for TF32 says.
    """

    m: int
    n: int
    k: int
    a: DType
    b: DType
    a_scales: Scaling | None
    b_scales: Scaling | None
    bias: DType | None
    out: DType
    transpose_b: bool
    batch: tuple[BatchAxis, ...]
    out_shape: Shape
    batch_invariant: bool = False
    exact: bool = False

    def __str__(self) -> str:
        options = [f"a_scales {self.a_scales}"] * bool(self.a_scales)
        options += [f"b_scales {self.b_scales}"] * bool(self.b_scales)
        options += [f"bias {self.bias}"] * bool(self.bias)
        options += ["batch_invariant"] * self.batch_invariant
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
        """``a``, ``b`` and, where there are such, scales and bias."""
        return _operands(self)

    @property
    def is_integer(self) -> bool:
        """Whether sums are of integers: no scale changes along the contracted axis."""
        scalings = (self.a_scales, self.b_scales)
        return self.a is self.b is INT8 and not any(one and one.width for one in scalings)

    @property
    def layout(self) -> str:
        """``nt`` or ``nn``: how ``b`` is stored."""
        return "nt" if self.transpose_b else "nn"

    @property
    def weight_bytes(self) -> int:
        """Bytes of ``b`` with its scales."""
        return self.nbytes("b") + self.nbytes("b_scales")

    def stored(self) -> ScaledProblem:
        """Return the product with the caller's axes as kernels see them, folded into rows."""
        sizes = tuple(axis.size for axis in self.batch)
        return replace(self, out_shape=(*sizes, self.m, self.n))

    def smaller(self) -> Iterator[ScaledProblem]:
        """Yield products of fewer rows and of a smaller batch."""
        sizes = [2 + (index == 0) for index in range(len(self.batch))]
        in_a, in_b = [bool(one.a) for one in self.batch], [bool(one.b) for one in self.batch]
        for m in SMALL_ROWS:
            yield replace(self, m=m, batch=stepped(sizes, in_a, in_b)).stored()


SMALL_ROWS = (67, 35, 19, 11, 7, 5, 3, 2, 1, 128, 64)
"""Ragged numbers of rows, the most first, then what texts for whole blocks of rows need."""


@latest
def _operands(problem: ScaledProblem) -> tuple[Operand, ...]:
    p = problem
    a_batch = tuple(axis.size if axis.a else 1 for axis in p.batch)
    b_batch = tuple(axis.size if axis.b else 1 for axis in p.batch)
    found = [
        Operand(name="a", shape=(*a_batch, p.m, p.k), dtype=p.a),
        Operand(name="b", shape=(*b_batch, *_laid(p.n, p.k, p.transpose_b)), dtype=p.b),
    ]
    if p.a_scales is not None:
        shape = (*a_batch * p.a_scales.batched, *p.a_scales.counts(p.m, p.k))
        found.append(Operand(name="a_scales", shape=shape, dtype=p.a_scales.dtype))
    if p.b_scales is not None:
        counts = _laid(*p.b_scales.counts(p.n, p.k), p.transpose_b)
        shape = (*b_batch * p.b_scales.batched, *counts)
        found.append(Operand(name="b_scales", shape=shape, dtype=p.b_scales.dtype))
    if p.bias is not None:
        found.append(Operand(name="bias", shape=(p.n,), dtype=p.bias))
    return tuple(found)


def _laid(n: int, k: int, transpose_b: bool) -> tuple[int, int]:
    return (n, k) if transpose_b else (k, n)


def scaled_problem(
    op: str,
    *,
    a_shape: Shape,
    b_shape: Shape,
    a: DType,
    b: DType,
    a_scales: Scaling | None = None,
    b_scales: Scaling | None = None,
    bias: DType | None = None,
    out: DType,
    transpose_b: bool = False,
    batch_invariant: bool = False,
    exact: bool = False,
) -> ScaledProblem:
    """Check shapes and state the product they ask for; a batch may be of no products.

    Args:
        op: Name to begin messages with.
        a_shape: Shape of ``a``; a 1-D ``a`` is a row, and its axis is absent from the result.
        b_shape: Shape of ``b``, of at least two axes.
        a: Element format of ``a``. Likewise ``b``, ``bias`` and ``out``.
        b: See ``a``.
        a_scales: How the scales of ``a`` lie; None without.
        b_scales: Likewise of ``b``.
        bias: See ``a``.
        out: See ``a``.
        transpose_b: As of the op.
        batch_invariant: As of the op.
        exact: Whether float32 must not be rounded before it is multiplied.

    Raises:
        ProblemError: Shapes that do not fit together.
    """
    n, k = b_shape[-2:] if transpose_b else b_shape[:-3:-1]
    if a_shape[-1] != k:
        raise ProblemError(
            f"[{op}] Last dimension of first input with shape {shape_text(a_shape)} must match "
            f"{'last' if transpose_b else 'second to last'} dimension of second input with shape "
            f"{shape_text(b_shape)}."
        )
    batch_shape = broadcast_batch(op, a_shape, b_shape)
    rows = a_shape[-2:-1]
    m = rows[0] if rows else 1
    if 0 in (m, n, k):
        raise ProblemError(
            f"[{op}] Expected a product with rows, columns and terms, got m {m}, n {n}, k {k}."
        )
    problem = ScaledProblem(
        m=m,
        n=n,
        k=k,
        a=a,
        b=b,
        a_scales=a_scales,
        b_scales=b_scales,
        bias=bias,
        out=out,
        transpose_b=transpose_b,
        batch=batch_axes(batch_shape, a_shape[:-2], b_shape[:-2]),
        out_shape=(*batch_shape, *rows, n),
        batch_invariant=batch_invariant,
        exact=exact,
    )
    if problem.is_integer and out is INT32 and (a_scales or b_scales or bias):
        raise ProblemError(
            f"[{op}] Expected a floating point out_dtype where scales or a bias make floats of "
            "sums, got int32."
        )
    return _fold_batch(problem)


def _fold_batch(problem: ScaledProblem) -> ScaledProblem:
    """Turn a batch of one shared ``b`` into more rows, which needs no batch in the grid."""
    scaling = problem.a_scales
    if len(problem.batch) != 1 or problem.batch[0].b:
        return problem
    if scaling is not None and scaling.batched and not scaling.height:
        # Rows that share a scale have no common height once they are folded.
        return problem
    folded = scaling and replace(scaling, batched=False)
    m = problem.m * problem.batch[0].size
    return replace(problem, m=m, batch=(), a_scales=folded)

"""Products with quantized weights as frozen values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ...core.batches import BatchAxis, batch_axes, broadcast_batch, stepped
from ...core.caches import latest
from ...core.dtypes import FLOAT32, DType, promote
from ...core.operand import Operand, Role
from ...core.product import BatchedProduct
from ...core.shapes import Shape, shape_text
from ...errors import ProblemError
from ...formats import Grouping

ARRAYS = ("x", "w", "scales", "biases", "global_scale", "bias")
"""Names of all operands, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedProblem(BatchedProduct):
    """``out = x @ W + bias`` or ``x @ W.T + bias``, where W is what a quantized weight decodes to.

    Attributes:
        m: Rows of the result.
        n: Columns of the result.
        k: Length of the contracted axis.
        weight: How the weight is stored.
        x: Element format of ``x``.
        scales: Element format of the scales.
        biases: Element format of the affine biases; None without them.
        tensor_scale: Whether one scale more multiplies all of the weight.
        bias: Element format of the row that is added; None without one.
        out: Element format of the result.
        transpose: The weight is ``[n, k]``, with groups along k; else ``[k, n]``, along n.
        batch: Batch axes, outermost first.
        out_shape: Shape of the result.
        batch_invariant: Whether a row must not depend on how many rows there are.
        exact: Float32 is multiplied with all its bits, whatever MLX's switch for TF32 says.
    """

    m: int
    n: int
    k: int
    weight: Grouping
    x: DType
    scales: DType
    biases: DType | None
    tensor_scale: bool
    bias: DType | None
    out: DType
    transpose: bool
    batch: tuple[BatchAxis, ...]
    out_shape: Shape
    batch_invariant: bool = False
    exact: bool = False

    def __str__(self) -> str:
        scales = f"{self.scales} scales" + (f", {self.biases} biases" if self.biases else "")
        options = ["tensor scale"] * self.tensor_scale
        options += [f"bias {self.bias}"] * bool(self.bias)
        options += ["batch_invariant"] * self.batch_invariant
        options += ["precision float32"] * self.exact
        return ", ".join(
            [
                f"{self.x} x {self.weight} -> {self.out}",
                f"m {self.m}, n {self.n}, k {self.k}, layout {self.layout}",
                scales,
                f"{self.batch_size} products",
                *options,
            ]
        )

    @property
    def operands(self) -> tuple[Operand, ...]:
        """``x``, ``w``, ``scales`` and, where there are such, biases, tensor scale and bias."""
        return _operands(self)

    @property
    def natural(self) -> DType:
        """The dtype in which MLX's op computes, and of its result."""
        if self.biases is None:
            return self.x
        return promote(promote(self.x, self.scales), self.biases)

    @property
    def computed(self) -> DType:
        """The dtype in which MLX's op has to compute for this result.

        One rounding to another dtype, or after more than a product, is had from float32 only.
        """
        asked = self.out is self.natural and not self.tensor_scale and self.bias is None
        return self.natural if asked else FLOAT32

    @property
    def layout(self) -> str:
        """``nt`` or ``nn``: how the weight is stored."""
        return "nt" if self.transpose else "nn"

    @property
    def weight_rows(self) -> int:
        """Rows of the weight as stored."""
        return self.n if self.transpose else self.k

    @property
    def weight_columns(self) -> int:
        """Elements of a row of the weight as stored: whole groups."""
        return self.k if self.transpose else self.n

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weight with all its scales."""
        return _weight_bytes(self)

    def stored(self) -> QuantizedProblem:
        """Return the product with the caller's axes as kernels see them, folded into rows."""
        sizes = tuple(axis.size for axis in self.batch)
        return replace(self, out_shape=(*sizes, self.m, self.n))

    def smaller(self) -> Iterator[QuantizedProblem]:
        """Yield products of fewer rows and of a smaller batch."""
        sizes = [2 + (index == 0) for index in range(len(self.batch))]
        in_x, in_w = [bool(one.a) for one in self.batch], [bool(one.b) for one in self.batch]
        batch = stepped(sizes, in_x, in_w)
        for m in SMALL_ROWS:
            yield replace(self, m=m, batch=batch).stored()


SMALL_ROWS = (67, 35, 19, 11, 7, 5, 3, 2, 1, 128, 64)
"""Ragged numbers of rows, the most first, then what texts for whole blocks of rows need."""


@latest
def _operands(problem: QuantizedProblem) -> tuple[Operand, ...]:
    p = problem
    x_batch = tuple(axis.size if axis.a else 1 for axis in p.batch)
    w_batch = tuple(axis.size if axis.b else 1 for axis in p.batch)
    groups = (*w_batch, p.weight_rows, p.weight_columns // p.weight.group)
    weight = (*w_batch, p.weight_rows, p.weight_columns)
    found = [
        Operand(name="x", shape=(*x_batch, p.m, p.k), dtype=p.x),
        Operand(name="w", shape=weight, dtype=p.weight.codes, words=True),
        Operand(name="scales", shape=groups, dtype=p.scales),
    ]
    if p.biases is not None:
        found.append(Operand(name="biases", shape=groups, dtype=p.biases))
    if p.tensor_scale:
        found.append(Operand(name="global_scale", shape=(1,), dtype=FLOAT32, role=Role.SCALE))
    if p.bias is not None:
        found.append(Operand(name="bias", shape=(p.n,), dtype=p.bias))
    return tuple(found)


@latest
def _weight_bytes(problem: QuantizedProblem) -> int:
    weight = ("w", "scales", "biases")
    return sum(one.nbytes for one in _operands(problem) if one.name in weight)


def quantized_problem(
    op: str,
    *,
    x_shape: Shape,
    w_shape: Shape,
    weight: Grouping,
    x: DType,
    scales: DType,
    biases: DType | None = None,
    tensor_scale: bool = False,
    bias: DType | None = None,
    out: DType,
    transpose: bool = True,
    batch_invariant: bool = False,
    exact: bool = False,
) -> QuantizedProblem:
    """Check shapes and state the product they ask for; a batch may be of no products.

    Args:
        op: Name to begin messages with.
        x_shape: Shape of ``x``; a 1-D ``x`` is a row, and its axis is absent from the result.
        w_shape: Shape of the weight in elements, its batch before.
        weight: How the weight is stored.
        x: Element format of ``x``. Likewise ``scales``, ``biases``, ``bias`` and ``out``.
        scales: See ``x``.
        biases: See ``x``.
        tensor_scale: Whether one scale more multiplies all of the weight.
        bias: See ``x``.
        out: See ``x``.
        transpose: As of the op.
        batch_invariant: As of the op.
        exact: Whether float32 must not be rounded before it is multiplied.

    Raises:
        ProblemError: Shapes that do not fit together.
    """
    if not x_shape:
        raise ProblemError(f"[{op}] Expected x of at least one dimension, got a scalar.")
    n, k = w_shape[-2:] if transpose else w_shape[:-3:-1]
    if x_shape[-1] != k:
        raise ProblemError(
            f"[{op}] Last dimension of first input with shape (..., {x_shape[-1]}) does not match "
            f"the expanded quantized matrix ({k}, {n}) computed from shape "
            f"{shape_text(_words(w_shape, weight))} with group_size={weight.group}, "
            f"bits={weight.bits} and transpose={str(transpose).lower()}"
        )
    got = f"x of shape {shape_text(x_shape)} and a weight of {shape_text(w_shape)} elements"
    batch_shape = broadcast_batch(op, x_shape, w_shape, got)
    rows = x_shape[-2:-1]
    m = rows[0] if rows else 1
    if 0 in (m, n, k):
        raise ProblemError(
            f"[{op}] Expected a product with rows, columns and terms, got m {m}, n {n}, k {k}."
        )
    problem = QuantizedProblem(
        m=m,
        n=n,
        k=k,
        weight=weight,
        x=x,
        scales=scales,
        biases=biases,
        tensor_scale=tensor_scale,
        bias=bias,
        out=out,
        transpose=transpose,
        batch=batch_axes(batch_shape, x_shape[:-2], w_shape[:-2]),
        out_shape=(*batch_shape, *rows, n),
        batch_invariant=batch_invariant,
        exact=exact,
    )
    return _fold_batch(problem)


def _words(w_shape: Shape, weight: Grouping) -> Shape:
    return (*w_shape[:-1], w_shape[-1] * weight.bits // 32)


def _fold_batch(problem: QuantizedProblem) -> QuantizedProblem:
    """Turn a batch of one shared weight into more rows, which needs no batch in the grid."""
    if len(problem.batch) != 1 or problem.batch[0].b:
        return problem
    return replace(problem, m=problem.m * problem.batch[0].size, batch=())

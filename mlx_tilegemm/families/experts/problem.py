"""Products with chosen matrices, and of segments, as frozen values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod

from ...core.caches import latest
from ...core.dtypes import FLOAT32, FLOATS, INT32, DType, promote
from ...core.operand import Operand, Role
from ...core.problem import Problem
from ...core.scaling import Scaling
from ...core.shapes import Shape, pad, shape_text
from ...errors import ProblemError
from ...formats import Grouping


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertProblem(Problem):
    """``out[p] = x[source of p] @ W[expert of p] + bias[expert of p]``, for products p of m rows.

    Attributes:
        products: Number of products.
        m: Rows of each.
        n: Columns of the result.
        k: Length of the contracted axis.
        experts: Matrices of the weight.
        sources: Matrices of ``x``.
        fanout: Neighbouring products that share a matrix of ``x``; 0 where ``lhs_indices`` say.
        x: Element format of ``x``.
        w: Element format of the weight, without its scales.
        weight: How a quantized weight is stored; None for plain elements, and for codes of a byte.
        scaling: How the scales of codes of a byte lie; None without, and for others.
        scales: Element format of the scales; None without them.
        biases: Element format of the affine biases; None without them.
        tensor_scale: Whether one scale more multiplies each matrix of the weight.
        bias: Element format of the row of each expert that is added; None without one.
        out: Element format of the result.
        transpose: Matrices of the weight are ``[n, k]``; else ``[k, n]``.
        grouped: Rows are sorted by expert and ``offsets`` say where each ends; else
            ``rhs_indices`` say the expert of each product.
        sorted: The caller promises that ``rhs_indices`` are sorted.
        out_shape: Shape of the result.
        exact: Float32 is multiplied with all its bits, whatever MLX's switch for TF32 says.
    """

    products: int
    m: int
    n: int
    k: int
    experts: int
    sources: int
    fanout: int
    x: DType
    w: DType
    weight: Grouping | None
    scaling: Scaling | None = None
    scales: DType | None
    biases: DType | None
    tensor_scale: bool
    bias: DType | None
    out: DType
    transpose: bool
    grouped: bool
    sorted: bool
    out_shape: Shape
    exact: bool = False

    def __str__(self) -> str:
        form = self.weight or self.w
        scales = [f"scales {self.scaling}"] if self.scaling else []
        scales += [f"{self.scales} scales"] if self.scales and not self.scaling else []
        scales += [f"{self.biases} biases"] if self.biases else []
        options = ["tensor scale"] * self.tensor_scale
        options += [f"bias {self.bias}"] * bool(self.bias)
        options += ["sorted"] * self.sorted + ["precision float32"] * self.exact
        how = "sorted by offsets" if self.grouped else "by indices"
        return ", ".join(
            [
                f"{self.x} x {form} -> {self.out}",
                f"{self.products} products of m {self.m}, n {self.n}, k {self.k}, "
                f"layout {self.layout}",
                f"{self.experts} experts {how}",
                *scales,
                *options,
            ]
        )

    @property
    def operands(self) -> tuple[Operand, ...]:
        """``x``, ``w``, what scales it and is added, then what chooses matrices."""
        return _operands(self)

    @property
    def results(self) -> tuple[Operand, ...]:
        """``out``."""
        return (Operand(name="out", shape=self.out_shape, dtype=self.out),)

    @property
    def rows(self) -> int:
        """Rows of the result."""
        return self.products * self.m

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to multiply, or no result."""
        return 0 in (self.products, self.m, self.n, self.k, self.experts, self.sources)

    @property
    def natural(self) -> DType:
        """The dtype in which MLX's op computes, and of its result."""
        if self.weight is None and not self.has_codes:
            return promote(self.x, self.w)
        if self.biases is None or self.scales is None:
            return self.x
        return promote(promote(self.x, self.scales), self.biases)

    @property
    def computed(self) -> DType:
        """The dtype in which MLX's op has to compute for this result.

        One rounding to another dtype, or after more than a product, is had from float32 only, and
        so are values of codes of a byte.
        """
        asked = self.out is self.natural and not self.tensor_scale and self.bias is None
        asked = asked and not self.has_codes
        return self.natural if asked else FLOAT32

    @property
    def has_codes(self) -> bool:
        """Whether the weight is codes of a byte each, whose scales lie in any way."""
        return self.weight is None and self.w not in FLOATS

    @property
    def is_decoded(self) -> bool:
        """Whether the weight is codes of any kind, which become float32 where they are used."""
        return self.weight is not None or self.has_codes

    @property
    def layout(self) -> str:
        """``nt`` or ``nn``: how the weight is stored."""
        return "nt" if self.transpose else "nn"

    @property
    def weight_shape(self) -> tuple[int, int]:
        """Rows and columns of a matrix of the weight as stored."""
        return (self.n, self.k) if self.transpose else (self.k, self.n)

    @property
    def expert_bytes(self) -> float:
        """Bytes of one expert's weight with all its scales."""
        return sum(map(self.nbytes, ("w", "scales", "biases"))) / max(1, self.experts)

    @property
    def expected_experts(self) -> float:
        """Experts that products choose, if all are as likely."""
        missed = (1 - 1 / max(1, self.experts)) ** self.products
        return max(1.0, self.experts * (1 - missed))

    def flops(self) -> float:
        """Return ``2 n k`` for each row."""
        return 2.0 * self.rows * self.n * self.k

    def least_bytes(self) -> float:
        """Return the bytes that have to be moved: of the weight, as many experts as may be chosen.

        The others are never read.
        """
        weight = self.expert_bytes * min(self.experts, self.products)
        others = (one for one in self.operands if one.name not in ("w", "scales", "biases"))
        return float(weight + sum(one.nbytes for one in (*others, *self.results)))

    def stored(self) -> ExpertProblem:
        """Return the products without what only the caller's shapes say."""
        return replace(self, out_shape=(self.products, self.m, self.n))

    def smaller(self) -> Iterator[ExpertProblem]:
        """Yield products of fewer rows and experts."""
        for experts, count in ((5, 67), (3, 19), (3, 7), (2, 2), (1, 1)):
            yield self.of_fewer(min(self.experts, experts), count)

    def of_fewer(self, experts: int, count: int) -> ExpertProblem:
        """Return about ``count`` products with so many experts."""
        fanout = min(self.fanout, 3)
        sources = -(-count // fanout) if fanout else min(self.sources, 5)
        products = sources * fanout if fanout else count
        return replace(
            self,
            products=products,
            m=min(self.m, 3),
            experts=experts,
            sources=sources,
            fanout=fanout,
        ).stored()


@latest
def _operands(problem: ExpertProblem) -> tuple[Operand, ...]:
    p = problem
    rows, columns = p.weight_shape
    found = [
        Operand(name="x", shape=(p.sources, p.m, p.k), dtype=p.x),
        Operand(name="w", shape=(p.experts, rows, columns), dtype=p.w, words=p.weight is not None),
    ]
    if p.weight is not None and p.scales is not None:
        groups = (p.experts, rows, columns // p.weight.group)
        found.append(Operand(name="scales", shape=groups, dtype=p.scales))
        if p.biases is not None:
            found.append(Operand(name="biases", shape=groups, dtype=p.biases))
    if p.scaling is not None:
        counts = p.scaling.stored_counts(p.n, p.k, p.transpose)
        found.append(Operand(name="scales", shape=(p.experts, *counts), dtype=p.scaling.dtype))
    if p.tensor_scale:
        scale = Operand(name="global_scale", shape=(p.experts,), dtype=FLOAT32, role=Role.SCALE)
        found.append(scale)
    if p.bias is not None:
        found.append(Operand(name="bias", shape=(p.experts, p.n), dtype=p.bias))
    if not p.fanout:
        found.append(_index("lhs_indices", p.products, p.sources))
    if p.grouped:
        found.append(_index("offsets", p.experts, p.products + 1, ordered=True))
    else:
        found.append(_index("rhs_indices", p.products, p.experts, ordered=p.sorted))
    return tuple(found)


def _index(name: str, count: int, limit: int, *, ordered: bool = False) -> Operand:
    return Operand(
        name=name, shape=(count,), dtype=INT32, role=Role.INDEX, limit=limit, ordered=ordered
    )


def broadcast_shapes(left: Shape, right: Shape) -> Shape:
    """Return the shape that two shapes broadcast to.

    Raises:
        ProblemError: They do not.
    """
    rank = max(len(left), len(right))
    sizes = []
    for a, b in zip(pad(left, rank), pad(right, rank), strict=True):
        if a != b and 1 not in (a, b):
            raise ProblemError(
                f"[broadcast_shapes] Shapes {shape_text(left)} and {shape_text(right)} cannot be "
                "broadcast."
            )
        sizes.append(b if a == 1 else a)
    return tuple(sizes)


def fanout(batch: Shape, index_shape: Shape) -> int:
    """Return how many neighbouring products share a matrix, of a batch that is broadcast to them.

    0 where those that share one are no neighbours.
    """
    own = pad(batch, len(index_shape))
    shared = next((i for i in range(len(own)) if set(own[i:]) <= {1}), len(own))
    if own[:shared] != index_shape[:shared]:
        return 0
    return prod(index_shape[shared:])


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentedProblem(Problem):
    """``out[s] = A[:, start:end] @ B[start:end]`` for each segment s of the contracted axis.

    Attributes:
        m: Rows of each result.
        n: Columns of each result.
        k: Length of the contracted axis.
        segments: Number of segments.
        a: Element format of ``a``.
        b: Element format of ``b``.
        out: Element format of the result.
        transpose_a: ``a`` is stored ``[k, m]``; else ``[m, k]``.
        transpose_b: ``b`` is stored ``[n, k]``; else ``[k, n]``.
        out_shape: Shape of the result.
        exact: Float32 is multiplied with all its bits, whatever MLX's switch for TF32 says.
    """

    m: int
    n: int
    k: int
    segments: int
    a: DType
    b: DType
    out: DType
    transpose_a: bool
    transpose_b: bool
    out_shape: Shape
    exact: bool = False

    def __str__(self) -> str:
        options = ["precision float32"] * self.exact
        return ", ".join(
            [
                f"{self.a} x {self.b} -> {self.out}",
                f"m {self.m}, n {self.n}, k {self.k}, layout {self.layout}",
                f"{self.segments} segments of k",
                *options,
            ]
        )

    @property
    def operands(self) -> tuple[Operand, ...]:
        """``a``, ``b`` and ``segments``, a start and an end each."""
        a = (self.k, self.m) if self.transpose_a else (self.m, self.k)
        b = (self.n, self.k) if self.transpose_b else (self.k, self.n)
        return (
            Operand(name="a", shape=a, dtype=self.a),
            Operand(name="b", shape=b, dtype=self.b),
            Operand(
                name="segments",
                shape=(self.segments, 2),
                dtype=INT32,
                role=Role.INDEX,
                limit=self.k + 1,
                ordered=True,
            ),
        )

    @property
    def results(self) -> tuple[Operand, ...]:
        """``out``."""
        return (Operand(name="out", shape=self.out_shape, dtype=self.out),)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to multiply, or no result."""
        return 0 in (self.m, self.n, self.k, self.segments)

    @property
    def natural(self) -> DType:
        """The dtype in which MLX's op computes, and of its result."""
        return promote(self.a, self.b)

    @property
    def computed(self) -> DType:
        """The dtype in which MLX's op has to compute for this result."""
        return self.natural if self.out is self.natural else FLOAT32

    @property
    def layout(self) -> str:
        """``nn``, ``nt``, ``tn`` or ``tt``: how ``a`` and ``b`` are stored."""
        return ("t" if self.transpose_a else "n") + ("t" if self.transpose_b else "n")

    def flops(self) -> float:
        """Return ``2 m n k``: segments that share nothing, together all of k."""
        return 2.0 * self.m * self.n * self.k

    def stored(self) -> SegmentedProblem:
        """Return the products without what only the caller's shapes say."""
        return replace(self, out_shape=(self.segments, self.m, self.n))

    def smaller(self) -> Iterator[SegmentedProblem]:
        """Yield products of a shorter contracted axis with fewer segments."""
        for k, segments in ((67, 5), (33, 3), (7, 2), (1, 1)):
            yield replace(self, k=min(self.k, k), segments=min(self.segments, segments)).stored()


AnyProblem = ExpertProblem | SegmentedProblem


def check_inner(op: str, a: Sequence[int], b: Sequence[int], inner: tuple[int, int]) -> None:
    """Check that the contracted axes of two operands are as long.

    Raises:
        ProblemError: They are not.
    """
    if inner[0] != inner[1]:
        raise ProblemError(
            f"[{op}] Last dimension of first input with shape {shape_text(tuple(a))} must match "
            f"second to last dimension of second input with shape {shape_text(tuple(b))}."
        )

"""What is asked of a kernel, as frozen values: sizes, dtypes, layouts, epilogue.

A problem holds no array, device or tile size. It is built from shapes and dtypes by
`gemm_problem` and `attention_problem`, which also make every check that needs no device, so a
problem that exists is a valid one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum
from math import prod

from .dtypes import DType, Kind, promote
from .errors import DTypeError, ProblemError

Shape = tuple[int, ...]


def shape_text(shape: Shape) -> str:
    """Print a shape as MLX's messages do: ``(2,3)``."""
    return "(" + ",".join(str(size) for size in shape) + ")"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class GemmProblem:
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

    def __str__(self) -> str:
        options = [f"c {self.c}"] * bool(self.c) + ["batch_invariant"] * self.batch_invariant
        return ", ".join(
            [
                f"{self.a} x {self.b} -> {self.out}",
                f"m {self.m}, n {self.n}, k {self.k}, layout {self.layout}",
                f"{self.batch_size} products",
                *options,
            ]
        )

    @property
    def batch_size(self) -> int:
        """Number of products."""
        return prod(axis.size for axis in self.batch)

    @property
    def a_elements(self) -> int:
        """Elements of ``a`` in memory."""
        return self.m * self.k * _matrices(self.batch, (axis.a for axis in self.batch))

    @property
    def b_elements(self) -> int:
        """Elements of ``b`` in memory."""
        return self.k * self.n * _matrices(self.batch, (axis.b for axis in self.batch))

    @property
    def c_elements(self) -> int:
        """Elements of ``c`` in memory; 0 without ``c``."""
        if self.c is None:
            return 0
        matrix = (self.m if self.c_rows else 1) * (self.n if self.c_columns else 1)
        return matrix * _matrices(self.batch, (axis.c for axis in self.batch))

    @property
    def is_integer(self) -> bool:
        """Whether the product is computed in int32."""
        return self.a.kind is Kind.INTEGER

    @property
    def layout(self) -> str:
        """``nn``, ``nt``, ``tn`` or ``tt``: how ``a`` and ``b`` are stored."""
        return ("t" if self.transpose_a else "n") + ("t" if self.transpose_b else "n")


def _matrices(batch: tuple[BatchAxis, ...], strides: Iterable[int]) -> int:
    return prod(axis.size for axis, stride in zip(batch, strides, strict=True) if stride)


class MaskKind(Enum):
    """Which scores an attention row may use."""

    NONE = "none"
    CAUSAL = "causal"
    BOOLEAN = "boolean"
    ADDITIVE = "additive"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionProblem:
    """``softmax(scale * q @ k.T + mask) @ v``, or ``(scale * q @ k.T + mask) @ v``.

    Attributes:
        batch: B.
        num_heads: Hq, heads of ``q``.
        num_kv_heads: Hkv, heads of ``k`` and ``v``; divides ``num_heads``.
        q_len: Lq.
        kv_len: Lk.
        head_dim: D, of ``q`` and ``k``.
        value_dim: Dv, of ``v`` and the result.
        q: Element type of ``q`` in memory. Likewise ``k``, ``v`` and ``out``.
        k: See ``q``.
        v: See ``q``.
        out: See ``q``.
        softmax: Whether rows are normalised by a softmax between the two products.
        mask_kind: Which mask there is.
        mask: Element type of an array mask, else None.
        mask_shape: Shape of an array mask, each axis full or 1; four ones otherwise.
        return_lse: Whether the log-sum-exp of every row is returned too.
    """

    batch: int
    num_heads: int
    num_kv_heads: int
    q_len: int
    kv_len: int
    head_dim: int
    value_dim: int
    q: DType
    k: DType
    v: DType
    out: DType
    softmax: bool
    mask_kind: MaskKind
    mask: DType | None
    mask_shape: tuple[int, int, int, int]
    return_lse: bool

    def __str__(self) -> str:
        heads = f"{self.num_heads} heads on {self.num_kv_heads}"
        return (
            f"{self.q} x {self.k} x {self.v} -> {self.out}, batch {self.batch}, {heads}, "
            f"q_len {self.q_len}, kv_len {self.kv_len}, head_dim {self.head_dim}, "
            f"value_dim {self.value_dim}, mask {self.mask_kind.value}"
        )

    @property
    def out_shape(self) -> Shape:
        """``[B, Hq, Lq, Dv]``."""
        return (self.batch, self.num_heads, self.q_len, self.value_dim)

    @property
    def lse_shape(self) -> Shape:
        """``[B, Hq, Lq]``."""
        return (self.batch, self.num_heads, self.q_len)

    @property
    def q_elements(self) -> int:
        """Elements of ``q``."""
        return self.batch * self.num_heads * self.q_len * self.head_dim

    @property
    def k_elements(self) -> int:
        """Elements of ``k``."""
        return self.batch * self.num_kv_heads * self.kv_len * self.head_dim

    @property
    def v_elements(self) -> int:
        """Elements of ``v``."""
        return self.batch * self.num_kv_heads * self.kv_len * self.value_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryGradientProblem:
    """The gradient of ``q`` in an attention, given that of its result.

    Attributes:
        attention: The attention.
        lse_gradient: Whether a gradient of its log-sum-exp is given too.
    """

    attention: AttentionProblem
    lse_gradient: bool = False

    def __str__(self) -> str:
        return f"gradient of q in {self.attention}"

    @property
    def out(self) -> DType:
        """Element type of the gradient."""
        return self.attention.q

    @property
    def out_shape(self) -> Shape:
        """``[B, Hq, Lq, D]``."""
        p = self.attention
        return (p.batch, p.num_heads, p.q_len, p.head_dim)

    @property
    def takes_mask(self) -> bool:
        """Whether the gradient depends on an array mask; what is added to a literal chain drops."""
        return self.attention.softmax or self.attention.mask_kind is not MaskKind.ADDITIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyValueGradientProblem:
    """The gradients of ``k`` and ``v`` in an attention, given that of its result.

    Attributes:
        attention: The attention.
    """

    attention: AttentionProblem

    def __str__(self) -> str:
        return f"gradients of k and v in {self.attention}"

    @property
    def out(self) -> DType:
        """Element type of the gradient of ``k``."""
        return self.attention.k

    @property
    def out_shape(self) -> Shape:
        """``[B, Hkv, Lk, D]``."""
        p = self.attention
        return (p.batch, p.num_kv_heads, p.kv_len, p.head_dim)


Problem = GemmProblem | AttentionProblem | QueryGradientProblem | KeyValueGradientProblem


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
    for x, y in zip(_pad(a, rank), _pad(b, rank), strict=True):
        if x != y and 1 not in (x, y):
            raise ProblemError(
                f"[{op}] Expected batch axes that broadcast, got inputs with shapes "
                f"{shape_text(a_shape)} and {shape_text(b_shape)}."
            )
        sizes.append(y if x == 1 else x)
    return tuple(sizes)


def _pad(shape: Shape, rank: int) -> Shape:
    return (1,) * (rank - len(shape)) + shape


def _addend_shape(
    op: str, c_shape: Shape | None, out_shape: Shape, has_rows: bool, has_columns: bool
) -> Shape:
    """Return the addend's shape with an axis for every batch axis, row and column."""
    if c_shape is None:
        return (1, 1)
    padded = _pad(c_shape, len(out_shape))
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
    steps = [_axis_steps(_pad(operand, rank)) for operand in (a, b, c)]
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


def attention_problem(
    op: str,
    *,
    q_shape: Shape,
    k_shape: Shape,
    v_shape: Shape,
    q: DType,
    k: DType,
    v: DType,
    softmax: bool,
    mask_kind: MaskKind,
    mask_shape: Shape | None = None,
    mask: DType | None = None,
    return_lse: bool = False,
    out: DType | None = None,
) -> AttentionProblem:
    """Check shapes and dtypes and state the attention they ask for.

    Args:
        op: Name to begin messages with.
        q_shape: ``[B, Hq, Lq, D]``.
        k_shape: ``[B, Hkv, Lk, D]``, Hq a multiple of Hkv.
        v_shape: ``[B, Hkv, Lk, Dv]``.
        q: Element type of ``q``. Likewise ``k`` and ``v``.
        k: See ``q``.
        v: See ``q``.
        softmax: Whether a softmax stands between the two products.
        mask_kind: Which mask there is.
        mask_shape: Shape of an array mask, broadcastable to ``[B, Hq, Lq, Lk]``.
        mask: Element type of an array mask.
        return_lse: Whether the log-sum-exp is wanted; needs ``softmax``.
        out: Element type wanted; None is the promotion of q, k and v.

    Raises:
        ProblemError: Shapes or options that do not fit together.
        DTypeError: Dtypes that attention does not take.
    """
    for name, dtype in (("q", q), ("k", k), ("v", v)):
        if dtype.kind is not Kind.FLOAT:
            raise DTypeError(
                f"[{op}] Expected {name} of float32, float16 or bfloat16, got {dtype}."
            )
    _check_attention_shapes(op, q_shape, k_shape, v_shape)
    if return_lse and not softmax:
        raise ProblemError(
            f"[{op}] Expected softmax=True with return_lse=True, got softmax=False: the literal "
            "chain has no log-sum-exp."
        )
    if out is not None and out.kind is not Kind.FLOAT:
        raise DTypeError(f"[{op}] Expected out_dtype float32, float16 or bfloat16, got {out}.")
    batch, num_heads, q_len, head_dim = q_shape
    scores = (batch, num_heads, q_len, k_shape[2])
    return AttentionProblem(
        batch=batch,
        num_heads=num_heads,
        num_kv_heads=k_shape[1],
        q_len=q_len,
        kv_len=k_shape[2],
        head_dim=head_dim,
        value_dim=v_shape[3],
        q=q,
        k=k,
        v=v,
        out=out or promote(promote(q, k), v),
        softmax=softmax,
        mask_kind=mask_kind,
        mask=mask,
        mask_shape=_mask_shape(op, mask_shape, scores),
        return_lse=return_lse,
    )


def _check_attention_shapes(op: str, q: Shape, k: Shape, v: Shape) -> None:
    for name, shape in (("q", q), ("k", k), ("v", v)):
        if len(shape) != 4:
            raise ProblemError(
                f"[{op}] Expected {name} of rank 4 [batch, heads, length, head_dim], got shape "
                f"{shape_text(shape)}."
            )
    given = f"q {shape_text(q)}, k {shape_text(k)} and v {shape_text(v)}"
    if not q[0] == k[0] == v[0]:
        raise ProblemError(f"[{op}] Expected q, k and v of one batch size, got {given}.")
    if q[3] != k[3]:
        raise ProblemError(f"[{op}] Expected q and k of one head_dim, got {given}.")
    if k[1] != v[1] or k[2] != v[2]:
        raise ProblemError(f"[{op}] Expected k and v of as many heads and positions, got {given}.")
    if k[1] == 0 or q[1] % k[1]:
        raise ProblemError(
            f"[{op}] Expected the number of q heads to be a multiple of the number of k and v "
            f"heads, got {given}."
        )
    if q[3] == 0:
        raise ProblemError(f"[{op}] Expected a head_dim of at least 1, got {given}.")


def _mask_shape(op: str, shape: Shape | None, scores: Shape) -> tuple[int, int, int, int]:
    if shape is None:
        return (1, 1, 1, 1)
    padded = _pad(shape, 4)
    if len(shape) > 4 or any(x not in (1, y) for x, y in zip(padded, scores, strict=True)):
        raise ProblemError(
            f"[{op}] Expected a mask that broadcasts to the scores of shape {shape_text(scores)}, "
            f"got {shape_text(shape)}."
        )
    return (padded[0], padded[1], padded[2], padded[3])

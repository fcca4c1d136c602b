"""Attentions and their gradients as frozen values, and the checks that make them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache, reduce

from ...core.caches import latest
from ...core.dtypes import FLOAT32, DType, Kind, promote
from ...core.operand import Operand, Role
from ...core.problem import Problem
from ...core.shapes import Shape, pad, shape_text
from ...errors import DTypeError, ProblemError


class MaskKind(Enum):
    """Kind of mask: the scores that an attention row may use."""

    NONE = "none"
    CAUSAL = "causal"
    BOOLEAN = "boolean"
    ADDITIVE = "additive"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionProblem(Problem):
    """``softmax(scale * q @ k.T + mask) @ v``, or ``(scale * q @ k.T + mask) @ v``.

    With positional parts of q and k the scores are ``scale * (q @ k.T + q_pe @ k_pe.T)``.

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
        return_norm: Whether what a row's weights are made with is returned too, see `norm_shape`.
        window: Keys that a row of a causal mask sees at most, itself included; None without a
            window, also where it would hide nothing.
        sinks: Element type of the sinks, one further score a head without a value; None without.
        pe_dim: Dp, of the positional parts of q and k; 0 without them.
        num_pe_heads: Heads of ``k_pe``: one, or as many as ``k`` has; 0 without.
        q_pe: Element type of ``q_pe`` ``[B, Hq, Lq, Dp]``; None without. Likewise ``k_pe``.
        k_pe: See ``q_pe``.
        exact: Float32 is multiplied with all its bits, whatever MLX's switch for TF32 says.
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
    window: int | None = None
    sinks: DType | None = None
    pe_dim: int = 0
    num_pe_heads: int = 0
    q_pe: DType | None = None
    k_pe: DType | None = None
    exact: bool = False
    return_norm: bool = False

    def __str__(self) -> str:
        heads = f"{self.num_heads} heads on {self.num_kv_heads}"
        parts = [
            f"{self.q} x {self.k} x {self.v} -> {self.out}, batch {self.batch}, {heads}, "
            f"q_len {self.q_len}, kv_len {self.kv_len}, head_dim {self.head_dim}, "
            f"value_dim {self.value_dim}, mask {self.mask_kind.value}"
        ]
        parts += [f"window {self.window}"] * bool(self.window)
        parts += [f"sinks {self.sinks}"] * bool(self.sinks)
        pe = f"pe_dim {self.pe_dim} {self.q_pe} x {self.k_pe} on {self.num_pe_heads}"
        parts += [pe] * bool(self.pe_dim)
        return ", ".join([*parts, *["precision float32"] * self.exact])

    @property
    def operands(self) -> tuple[Operand, ...]:
        """``q``, ``k``, ``v``, then ``q_pe``, ``k_pe``, ``mask`` and ``sinks`` as far as given."""
        return _operands(self)

    @property
    def results(self) -> tuple[Operand, ...]:
        """``out``, and ``lse`` and ``norm`` as far as they are wanted."""
        found = [Operand(name="out", shape=self.out_shape, dtype=self.out)]
        if self.return_lse:
            found.append(Operand(name="lse", shape=self.lse_shape, dtype=LSE))
        if self.return_norm:
            found.append(Operand(name="norm", shape=self.norm_shape, dtype=LSE))
        return tuple(found)

    @property
    def factors(self) -> tuple[str, ...]:
        """The scale."""
        return ("scale",)

    @property
    def out_shape(self) -> Shape:
        """``[B, Hq, Lq, Dv]``."""
        return (self.batch, self.num_heads, self.q_len, self.value_dim)

    @property
    def lse_shape(self) -> Shape:
        """``[B, Hq, Lq]``."""
        return (self.batch, self.num_heads, self.q_len)

    @property
    def norm_shape(self) -> Shape:
        """``[B, Hq, Lq, 2]``: a row's highest score, as an exponent of 2, and 1 / sum.

        The sum is that of the weights relative to the highest. A log-sum-exp, which is one number,
        cannot tell weights from each other where a large number is added to all scores.
        """
        return (*self.lse_shape, 2)

    @property
    def row_operands(self) -> tuple[str, ...]:
        """Names of what gradients need of the rows of the softmax."""
        if not self.softmax:
            return ()
        return ("norm",) if self.mask_kind is MaskKind.ADDITIVE else ("lse",)

    def flops(self) -> float:
        """Return two operations for each visible key and each element of q, k and v it meets."""
        pairs = float(self.q_len * self.kv_len)
        if self.mask_kind is MaskKind.CAUSAL:
            hidden = min(self.q_len, self.kv_len) - 1
            pairs -= hidden * (hidden + 1) / 2
        columns = self.head_dim + self.pe_dim + self.value_dim
        return 2.0 * self.batch * self.num_heads * pairs * columns

    def alike(self) -> AttentionProblem:
        """Return the attention that stands for those of about as many keys: of the most.

        While a sequence is decoded its keys become one more with every token. Few queries of about
        as many keys share one choice, and times for up to a sixteenth more keys.
        """
        most = most_alike(self.q_len, self.kv_len)
        if most == self.kv_len:
            return self
        batch, heads, rows, columns = self.mask_shape
        mask_shape = (batch, heads, rows, most if columns > 1 else 1)
        return replace(self, kv_len=most, mask_shape=mask_shape)

    def smaller(self) -> Iterator[AttentionProblem]:
        """Yield attentions of fewer heads and of shorter sequences."""
        group = self.num_heads // self.num_kv_heads
        for num_heads, num_kv_heads in (SMALL_HEADS, (2 * group, 2)):
            for q_len, kv_len in SMALL_LENGTHS:
                full = (2, num_heads, q_len, kv_len)
                sizes = zip(full, self.mask_shape, strict=True)
                batch, heads, rows, columns = (size if given > 1 else 1 for size, given in sizes)
                yield replace(
                    self,
                    batch=2,
                    num_heads=num_heads,
                    num_kv_heads=num_kv_heads,
                    q_len=q_len,
                    kv_len=kv_len,
                    mask_shape=(batch, heads, rows, columns),
                    # Some keys are hidden, and those left are still enough to share out.
                    window=self.window and min(self.window, 2 * kv_len // 3),
                    num_pe_heads=min(self.num_pe_heads, num_kv_heads),
                )


LSE = FLOAT32
"""Type of the log-sum-exp, of its gradient and of delta."""

FEW_QUERIES = 8
FEW_KEYS = 64
"""Up to so many queries, and from so many keys on, attentions of about as many keys are alike."""

SMALL_LENGTHS = ((45, 37), (11, 75), (5, 300), (1, 300), (1, 37))
"""Lengths of q and of k. In the first a causal mask leaves rows with nothing to attend to."""

SMALL_HEADS = (4, 2)
"""Heads of q and of k."""


def has_few_queries(queries: int, keys: int) -> bool:
    """Whether an attention of so many queries and keys may be alike those of a few keys more."""
    return queries <= FEW_QUERIES and keys >= FEW_KEYS


def most_alike(queries: int, keys: int) -> int:
    """Return the most keys whose attention is alike one of so many queries and keys."""
    if not has_few_queries(queries, keys):
        return keys
    step = max(16, 1 << (keys.bit_length() - 5))
    return -(-keys // step) * step


@latest
def _operands(p: AttentionProblem) -> tuple[Operand, ...]:
    return _kept_operands(p)


@lru_cache(maxsize=256)
def _kept_operands(p: AttentionProblem) -> tuple[Operand, ...]:
    stored: tuple[tuple[str, Shape, DType | None, Role], ...] = (
        ("q", (p.batch, p.num_heads, p.q_len, p.head_dim), p.q, Role.DATA),
        ("k", (p.batch, p.num_kv_heads, p.kv_len, p.head_dim), p.k, Role.DATA),
        ("v", (p.batch, p.num_kv_heads, p.kv_len, p.value_dim), p.v, Role.DATA),
        ("q_pe", (p.batch, p.num_heads, p.q_len, p.pe_dim), p.q_pe, Role.DATA),
        ("k_pe", (p.batch, p.num_pe_heads, p.kv_len, p.pe_dim), p.k_pe, Role.DATA),
        ("mask", p.mask_shape, p.mask, Role.MASK),
        ("sinks", (p.num_heads,), p.sinks, Role.DATA),
    )
    return tuple(
        Operand(name=name, shape=shape, dtype=dtype, role=role)
        for name, shape, dtype, role in stored
        if dtype is not None
    )


@lru_cache(maxsize=256)
def _gradient_operands(p: AttentionProblem, names: tuple[str, ...]) -> tuple[Operand, ...]:
    given = {one.name: one for one in p.operands}
    given["norm"] = Operand(name="norm", shape=p.norm_shape, dtype=LSE)
    rows = ("lse", "lse_grad", "delta")
    given |= {name: Operand(name=name, shape=p.lse_shape, dtype=LSE) for name in rows}
    own = ("grad", "result")
    given |= {name: Operand(name=name, shape=p.out_shape, dtype=p.out) for name in own}
    return tuple(given[name] for name in names)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryGradientProblem(Problem):
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
    def operands(self) -> tuple[Operand, ...]:
        """Operands that the gradient depends on; without the softmax neither q nor the result."""
        p = self.attention
        mask = ("mask",) if p.mask and self.takes_mask else ()
        if not p.softmax:
            return _gradient_operands(p, ("k", "v", "grad", *mask))
        lse_grad = ("lse_grad",) if self.lse_gradient else ()
        rows = ("result", *p.row_operands, *lse_grad)
        return _gradient_operands(p, ("q", "k", "v", "grad", *rows, *mask))

    @property
    def results(self) -> tuple[Operand, ...]:
        """``q_gradient``, and for the softmax ``delta``, which the other gradients need."""
        p = self.attention
        gradient = Operand(name="q_gradient", shape=self.out_shape, dtype=self.out)
        delta = Operand(name="delta", shape=p.lse_shape, dtype=LSE)
        return (gradient, delta) if p.softmax else (gradient,)

    @property
    def factors(self) -> tuple[str, ...]:
        """The scale."""
        return self.attention.factors

    def flops(self) -> float:
        """Return the operations of the products of a row with its keys: two of q, one of v."""
        p = self.attention
        columns = 2 * p.head_dim + p.value_dim if p.softmax else p.head_dim + p.value_dim
        return p.flops() * columns / (p.head_dim + p.pe_dim + p.value_dim)

    def smaller(self) -> Iterator[QueryGradientProblem]:
        """Yield gradients in smaller attentions."""
        for attention in self.attention.smaller():
            yield replace(self, attention=attention)

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
    def exact(self) -> bool:
        """As of the attention."""
        return self.attention.exact

    @property
    def takes_mask(self) -> bool:
        """Whether the gradient depends on an array mask; what is added to a literal chain drops."""
        return self.attention.softmax or self.attention.mask_kind is not MaskKind.ADDITIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyValueGradientProblem(Problem):
    """The gradients of ``k`` and ``v`` in an attention, given that of its result.

    Attributes:
        attention: The attention.
    """

    attention: AttentionProblem

    def __str__(self) -> str:
        return f"gradients of k and v in {self.attention}"

    @property
    def operands(self) -> tuple[Operand, ...]:
        """``q``, ``k``, ``v``, the gradient that arrives and, for the softmax, what rows need."""
        p = self.attention
        rows = (*p.row_operands, "delta") if p.softmax else ()
        mask = ("mask",) if p.mask else ()
        return _gradient_operands(p, ("q", "k", "v", "grad", *rows, *mask))

    @property
    def results(self) -> tuple[Operand, ...]:
        """``k_gradient`` and ``v_gradient``."""
        k, v = self.attention.operands[1:3]
        return (replace(k, name="k_gradient"), replace(v, name="v_gradient"))

    @property
    def factors(self) -> tuple[str, ...]:
        """The scale."""
        return self.attention.factors

    def flops(self) -> float:
        """Return the operations of four products: scores, slopes and the two gradients."""
        p = self.attention
        columns = 2 * (p.head_dim + p.value_dim)
        return p.flops() * columns / (p.head_dim + p.pe_dim + p.value_dim)

    def smaller(self) -> Iterator[KeyValueGradientProblem]:
        """Yield gradients in smaller attentions."""
        for attention in self.attention.smaller():
            yield replace(self, attention=attention)

    @property
    def exact(self) -> bool:
        """As of the attention."""
        return self.attention.exact

    @property
    def out(self) -> DType:
        """Element type of the gradient of ``k``."""
        return self.attention.k

    @property
    def out_shape(self) -> Shape:
        """``[B, Hkv, Lk, D]``."""
        p = self.attention
        return (p.batch, p.num_kv_heads, p.kv_len, p.head_dim)


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
    window: int | None = None,
    sinks_shape: Shape | None = None,
    sinks: DType | None = None,
    q_pe_shape: Shape | None = None,
    q_pe: DType | None = None,
    k_pe_shape: Shape | None = None,
    k_pe: DType | None = None,
    exact: bool = False,
    return_norm: bool = False,
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
        out: Element type wanted; None is the promotion of q, k, v, q_pe and k_pe.
        window: Keys that a row of a causal mask sees at most; None for all.
        sinks_shape: ``[Hq]``; needs ``softmax``.
        sinks: Element type of the sinks.
        q_pe_shape: ``[B, Hq, Lq, Dp]``; with ``k_pe_shape`` or not at all.
        q_pe: Element type of ``q_pe``.
        k_pe_shape: ``[B, Hkv, Lk, Dp]`` or ``[B, 1, Lk, Dp]``.
        k_pe: Element type of ``k_pe``.
        exact: Whether float32 must not be rounded before it is multiplied.
        return_norm: Whether what a row's weights are made with is wanted; needs ``softmax``.

    Raises:
        ProblemError: Shapes or options that do not fit together.
        DTypeError: Dtypes that attention does not take.
    """
    floats = {"q": q, "k": k, "v": v, "q_pe": q_pe, "k_pe": k_pe, "sinks": sinks}
    for name, dtype in floats.items():
        if dtype is not None and dtype.kind is not Kind.FLOAT:
            raise DTypeError(
                f"[{op}] Expected {name} of float32, float16 or bfloat16, got {dtype}."
            )
    _check_attention_shapes(op, q_shape, k_shape, v_shape)
    _check_positional_shapes(op, q_shape, k_shape, q_pe_shape, k_pe_shape)
    _check_sinks(op, q_shape, sinks_shape, softmax)
    if return_lse and not softmax:
        raise ProblemError(
            f"[{op}] Expected softmax=True with return_lse=True, got softmax=False: the literal "
            "chain has no log-sum-exp."
        )
    if out is not None and out.kind is not Kind.FLOAT:
        raise DTypeError(f"[{op}] Expected out_dtype float32, float16 or bfloat16, got {out}.")
    batch, num_heads, q_len, head_dim = q_shape
    scores = (batch, num_heads, q_len, k_shape[2])
    operands = (dtype for dtype in (k, v, q_pe, k_pe) if dtype is not None)
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
        out=out or reduce(promote, operands, q),
        softmax=softmax,
        mask_kind=mask_kind,
        mask=mask,
        mask_shape=_mask_shape(op, mask_shape, scores),
        return_lse=return_lse,
        window=_window(op, window, mask_kind, k_shape[2]),
        sinks=sinks,
        pe_dim=q_pe_shape[3] if q_pe_shape else 0,
        num_pe_heads=k_pe_shape[1] if k_pe_shape else 0,
        q_pe=q_pe,
        k_pe=k_pe,
        exact=exact,
        return_norm=return_norm,
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
    padded = pad(shape, 4)
    if len(shape) > 4 or any(x not in (1, y) for x, y in zip(padded, scores, strict=True)):
        raise ProblemError(
            f"[{op}] Expected a mask that broadcasts to the scores of shape {shape_text(scores)}, "
            f"got {shape_text(shape)}."
        )
    return (padded[0], padded[1], padded[2], padded[3])


def _check_positional_shapes(
    op: str, q: Shape, k: Shape, q_pe: Shape | None, k_pe: Shape | None
) -> None:
    if q_pe is None and k_pe is None:
        return
    if q_pe is None or k_pe is None:
        missing = "q_pe" if q_pe is None else "k_pe"
        raise ProblemError(f"[{op}] Expected both q_pe and k_pe, or neither, got no {missing}.")
    if len(q_pe) != 4 or q_pe[:3] != q[:3] or q_pe[3] == 0:
        raise ProblemError(
            f"[{op}] Expected q_pe of q's shape but for the last axis, got {shape_text(q_pe)} for "
            f"q {shape_text(q)}."
        )
    fits = len(k_pe) == 4 and (k_pe[0], k_pe[2]) == (k[0], k[2]) and k_pe[1] in (1, k[1])
    if not fits or k_pe[3] != q_pe[3]:
        raise ProblemError(
            f"[{op}] Expected k_pe of k's batch size and positions, of one head or k's, and of "
            f"q_pe's last axis, got {shape_text(k_pe)} for k {shape_text(k)} and q_pe "
            f"{shape_text(q_pe)}."
        )


def _check_sinks(op: str, q: Shape, sinks: Shape | None, softmax: bool) -> None:
    if sinks is None:
        return
    if sinks != (q[1],):
        raise ProblemError(
            f"[{op}] Expected sinks of shape {shape_text((q[1],))}, one for each head of q, got "
            f"{shape_text(sinks)}."
        )
    if not softmax:
        raise ProblemError(
            f"[{op}] Expected softmax=True with sinks, got softmax=False: sinks take part in "
            "nothing but the softmax."
        )


def _window(op: str, window: int | None, mask_kind: MaskKind, kv_len: int) -> int | None:
    """Return a window that hides some key, None if there is none."""
    if window is None:
        return None
    if mask_kind is not MaskKind.CAUSAL:
        raise ProblemError(
            f"[{op}] Expected mask='causal' with a window, got mask {mask_kind.value}."
        )
    if window < 1:
        raise ProblemError(f"[{op}] Expected a window of at least 1, got {window}.")
    return window if window < kv_len else None

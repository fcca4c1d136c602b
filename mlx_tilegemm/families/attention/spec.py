"""Common parts of the attention kernels: of a spec, of legality and of a launch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from ...core.caches import kept, latest
from ...core.dtypes import BFLOAT16, BOOL, FLOAT16, FLOAT32, FLOATS, DType
from ...core.operand import Operand
from ...core.plan import Arguments, features
from ...core.shapes import Shape
from ...machine.fragment import FRAGMENT, fragments, staged_stride
from ...machine.limits import reject_sizes, tiny_operand
from .problem import AttentionProblem, MaskKind, attention_problem

ROW_SIZES = ("q_len", "kv_len", "num_heads", "heads_per_kv_head")
"""Sizes of kernels whose threadgroups have rows of one head each."""

MASK_SIZES = ("mask_batch_step", "mask_head_step", "mask_rows", "mask_columns")
"""Sizes of an array mask: matrices from one batch and from one head to the next, and their size."""


class AttentionConfig(Protocol):
    """The parameters that the configurations of all attention kernels have."""

    @property
    def head_groups(self) -> int:
        """Simdgroups that own rows together, each a share of D and Dv."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionSpec(Arguments):
    """Base of the specs of attentions and of gradients; lengths and heads are run-time.

    Attributes:
        q: Element type of ``q``. Likewise ``k``, ``v`` and ``mask`` (None without an array).
        k: See ``q``.
        v: See ``q``.
        mask: See ``q``.
        mask_kind: Which mask there is.
        head_dim: D, of ``q`` and ``k``.
        value_dim: Dv, of ``v`` and the result.
        softmax: Whether rows are normalised between the two products.
        windowed: Whether a row of a causal mask sees a window of keys only.
        config: The kernel's configuration.
    """

    q: DType
    k: DType
    v: DType
    mask: DType | None
    mask_kind: MaskKind
    head_dim: int
    value_dim: int
    softmax: bool
    windowed: bool
    config: AttentionConfig

    KERNEL: ClassVar[str]
    """Name of the kernel and stem of its template."""

    @property
    def template(self) -> str:
        """Template of the kernel."""
        return f"attention/{self.KERNEL}.metal.j2"

    @property
    def causal(self) -> bool:
        """Whether the mask is causal."""
        return self.mask_kind is MaskKind.CAUSAL

    @property
    def masked(self) -> bool:
        """Whether there is an array mask."""
        return self.mask is not None

    @property
    def mask_is_boolean(self) -> bool:
        """Whether an array mask selects rather than adds."""
        return self.mask_kind is MaskKind.BOOLEAN

    @property
    def grouped(self) -> bool:
        """Whether several simdgroups own rows together."""
        return self.config.head_groups > 1

    @property
    def head_fragments(self) -> int:
        """Fragments along D, of one simdgroup."""
        return fragments(self.head_dim, self.config.head_groups)

    @property
    def value_fragments(self) -> int:
        """Fragments along Dv, of one simdgroup."""
        return fragments(self.value_dim, self.config.head_groups)

    @property
    def streamed(self) -> tuple[DType, DType]:
        """Types of the operands that come in blocks of rows: of D columns, and of Dv."""
        return self.k, self.v

    @property
    def head_tile_stride(self) -> int:
        """Elements between two staged rows of D columns."""
        return self.tile_stride(self.head_fragments, self.streamed[0])

    @property
    def value_tile_stride(self) -> int:
        """Elements between two staged rows of Dv columns."""
        return self.tile_stride(self.value_fragments, self.streamed[1])

    def tile_stride(self, count: int, dtype: DType) -> int:
        """Return the elements between two staged rows, of so many fragments a simdgroup."""
        return staged_stride(count * self.config.head_groups * FRAGMENT, dtype)

    def label_of(self, out: DType, mask: str, sizes: str) -> str:
        """Return a readable name that is a legal part of a Metal name."""
        dtypes = "_".join(str(dtype) for dtype in (self.q, self.k, self.v, out))
        softmax = "softmax" if self.softmax else "literal"
        return f"tilegemm_{self.KERNEL}_{softmax}_{mask}_{dtypes}_{sizes}"


class Fields:
    """Fields of a spec by name: all that texts know of a problem.

    Equal ones are one object, see `as_fields`: as keys they are compared and hashed at once.
    """

    __slots__ = ("values",)

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values


def as_fields(values: dict[str, Any]) -> Fields:
    """Return the object that stands for such fields."""
    return _fields(tuple(values.items()))


@kept
def _fields(items: tuple[tuple[str, Any], ...]) -> Fields:
    return Fields(dict(items))


def attention_fields(problem: AttentionProblem) -> dict[str, Any]:
    """Return the fields of an `AttentionSpec` that the problem alone decides."""
    return {
        "q": problem.q,
        "k": problem.k,
        "v": problem.v,
        "mask": problem.mask,
        "mask_kind": problem.mask_kind,
        "head_dim": problem.head_dim,
        "value_dim": problem.value_dim,
        "softmax": problem.softmax,
        "windowed": problem.window is not None,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardSpec(AttentionSpec):
    """Base of the specs of kernels that compute an attention.

    Attributes:
        out: Element type of ``out``. Likewise ``sinks``, ``q_pe`` and ``k_pe``, None without.
        sinks: See ``out``.
        q_pe: See ``out``.
        k_pe: See ``out``.
        pe_dim: Dp, of the positional parts of q and k; 0 without them.
        return_lse: Whether the log-sum-exp is written.
        return_norm: Whether what a row's weights are made with is written.
    """

    out: DType
    sinks: DType | None
    q_pe: DType | None
    k_pe: DType | None
    pe_dim: int
    return_lse: bool
    return_norm: bool

    UNDECLARED = frozenset({"norm"})
    INPUTS = ("q", "k", "v", "q_pe", "k_pe", "mask", "sinks", "factors", "sizes")

    @property
    def lacks(self) -> frozenset[str]:
        """Inputs, outputs and sizes that this variant is not given."""
        return features(
            {
                ("q_pe", "k_pe", "num_pe_heads"): not self.positional,
                ("mask", *MASK_SIZES): not self.masked,
                ("sinks",): self.sinks is None,
                ("window",): not self.windowed,
                ("lse",): not self.return_lse,
                ("norm",): not self.return_norm,
            }
        )

    @property
    def positional(self) -> bool:
        """Whether q and k have positional parts."""
        return self.pe_dim > 0

    @property
    def pe_fragments(self) -> int:
        """Fragments along Dp, of one simdgroup."""
        return fragments(self.pe_dim, self.config.head_groups)


@latest
def forward_fields(problem: AttentionProblem) -> Fields:
    """Return the fields of a `ForwardSpec` that the problem alone decides."""
    values = attention_fields(problem) | {
        "out": problem.out,
        "sinks": problem.sinks,
        "q_pe": problem.q_pe,
        "k_pe": problem.k_pe,
        "pe_dim": problem.pe_dim,
        "return_lse": problem.return_lse,
        "return_norm": problem.return_norm,
    }
    return as_fields(values)


def reject_attention(problem: AttentionProblem) -> str | None:
    """Return why no attention kernel may serve the problem, or None."""
    if 0 in problem.out_shape:
        return "the result is empty"
    if problem.kv_len == 0:
        return "there are no keys"
    return None


@latest
def key_operands(problem: AttentionProblem) -> tuple[Operand, ...]:
    """Return the operands that belong to the keys."""
    return tuple(one for one in problem.operands if one.name in ("k", "v", "k_pe"))


@latest
def tiny_key_operand(problem: AttentionProblem) -> str | None:
    """Return which operand of the keys MLX binds in the constant address space, in words."""
    return tiny_operand(key_operands(problem))


@latest
def attention_sizes(problem: AttentionProblem) -> dict[str, int]:
    """Return the run-time sizes of an attention by name, of which each kernel reads its own."""
    sizes = {
        "q_len": problem.q_len,
        "kv_len": problem.kv_len,
        "num_heads": problem.num_heads,
        "heads_per_kv_head": problem.num_heads // problem.num_kv_heads,
        "window": problem.window or 0,
        "num_pe_heads": problem.num_pe_heads,
    }
    return sizes | (_mask_sizes(problem) if problem.mask is not None else {})


@latest
def reject_attention_sizes(problem: AttentionProblem) -> str | None:
    """Return why a kernel cannot take the attention's run-time sizes, or None."""
    return reject_sizes(attention_sizes(problem).values())


def _mask_sizes(problem: AttentionProblem) -> dict[str, int]:
    batch, heads, rows, columns = problem.mask_shape
    values = (heads if batch > 1 else 0, 1 if heads > 1 else 0, rows, columns)
    return dict(zip(MASK_SIZES, values, strict=True))


def forward_outputs(problem: AttentionProblem) -> tuple[tuple[Shape, ...], tuple[DType, ...]]:
    """Return shapes and types of the result, and of what else is wanted."""
    results = problem.results
    return tuple(one.shape for one in results), tuple(one.dtype for one in results)


VARIANT_MASKS: tuple[tuple[MaskKind, DType | None], ...] = (
    (MaskKind.NONE, None),
    (MaskKind.CAUSAL, None),
    (MaskKind.BOOLEAN, BOOL),
    *((MaskKind.ADDITIVE, mask) for mask in FLOATS),
)
"""Every kind of mask with every type it may have."""


def variant(
    *,
    q: DType = FLOAT16,
    k: DType = BFLOAT16,
    v: DType = FLOAT32,
    q_len: int = 19,
    kv_len: int = 37,
    head_dim: int = 24,
    value_dim: int = 17,
    pe_dim: int = 0,
    num_pe_heads: int = 1,
    pe: tuple[DType, DType] = (FLOAT32, FLOAT16),
    mask_kind: MaskKind = MaskKind.NONE,
    mask: DType | None = None,
    softmax: bool = True,
    sinks: DType | None = None,
    **options: Any,  # noqa: ANN401 - of `attention_problem`
) -> AttentionProblem:
    """Return a small attention with everything but what is named left at its default."""
    return attention_problem(
        "variant",
        q_shape=(2, 4, q_len, head_dim),
        k_shape=(2, 2, kv_len, head_dim),
        v_shape=(2, 2, kv_len, value_dim),
        q=q,
        k=k,
        v=v,
        softmax=softmax,
        mask_kind=mask_kind,
        mask_shape=(2, 1, q_len, kv_len) if mask else None,
        mask=mask,
        sinks_shape=(4,) if sinks else None,
        sinks=sinks,
        q_pe_shape=(2, 4, q_len, pe_dim) if pe_dim else None,
        q_pe=pe[0] if pe_dim else None,
        k_pe_shape=(2, num_pe_heads, kv_len, pe_dim) if pe_dim else None,
        k_pe=pe[1] if pe_dim else None,
        **options,
    )

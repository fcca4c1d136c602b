"""Hypothesis strategies for problems: sizes off the tiles, every dtype, every layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from hypothesis import strategies as st

FLOATS = (mx.float32, mx.float16, mx.bfloat16)
INTEGERS = (mx.int8, mx.uint8, mx.int16, mx.int32)

# Compiled into a kernel, so each pair of them is a kernel of its own.
COMPILED_SIZES = (1, 7, 8, 9, 15, 17, 31, 33, 63, 65)
# Run-time sizes cost nothing.
RUNTIME_SIZES = (*COMPILED_SIZES, 2, 16, 32, 64, 100, 129)


@dataclass(frozen=True)
class GemmCase:
    """One product to check: shapes, dtypes, layout and data."""

    a_shape: tuple[int, ...]
    b_shape: tuple[int, ...]
    a: mx.Dtype
    b: mx.Dtype
    transpose_a: bool
    transpose_b: bool
    seed: int

    @property
    def k(self) -> int:
        """Length of the contracted axis."""
        return self.a_shape[-2] if self.transpose_a else self.a_shape[-1]

    def operands(self) -> tuple[mx.array, mx.array]:
        """Return the operands, in their dtypes."""
        rng = np.random.default_rng(self.seed)
        return random_array(rng, self.a_shape, self.a), random_array(rng, self.b_shape, self.b)


def random_array(rng: np.random.Generator, shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
    """Return normal floats, or integers over the whole range of a type."""
    if mx.issubdtype(dtype, mx.integer):
        low, high = mx.iinfo(dtype).min, mx.iinfo(dtype).max
        return mx.array(rng.integers(low, high, size=shape, endpoint=True)).astype(dtype)
    return mx.array(rng.standard_normal(shape).astype(np.float32)).astype(dtype)


BATCHES = (
    ((), ()),
    ((3,), ()),
    ((), (2,)),
    ((2,), (2,)),
    ((2, 1), (1, 3)),
    ((2, 3), (3,)),
)


@st.composite
def gemm_cases(
    draw: st.DrawFn,
    dtypes: Sequence[mx.Dtype] = FLOATS,
    rows: Sequence[int] = RUNTIME_SIZES,
) -> GemmCase:
    """Draw a product: any dtype pair, layout, batch and off-tile sizes."""
    m = draw(st.sampled_from(rows))
    n, k = draw(st.sampled_from(COMPILED_SIZES)), draw(st.sampled_from(COMPILED_SIZES))
    transpose_a, transpose_b = draw(st.booleans()), draw(st.booleans())
    a_batch, b_batch = draw(st.sampled_from(BATCHES))
    return GemmCase(
        a_shape=(*a_batch, *((k, m) if transpose_a else (m, k))),
        b_shape=(*b_batch, *((n, k) if transpose_b else (k, n))),
        a=draw(st.sampled_from(dtypes)),
        b=draw(st.sampled_from(dtypes)),
        transpose_a=transpose_a,
        transpose_b=transpose_b,
        seed=draw(st.integers(0, 2**16)),
    )

"""Run an instance of a kernel variant and compare it with MLX's own ops on the CPU.

The operands of a product are chosen so that a correct kernel has no room to be off. In the even
rows of ``a`` every element is 1 or -1 and the elements of ``b`` are fractions of few enough bits
that all partial sums are exact in float32, in any order: a term that is lost, doubled or taken from
elsewhere shows. The odd rows hold few non-zero elements with all the bits of their type: a product
of too little precision shows. Operands begin one element into their buffers, as views may.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil, log2, prod
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from .. import mlx_route
from ..backends import Backend
from ..backends.launch import kernel_run
from ..dtypes import BOOL, FLOAT32, DType
from ..plan import Plan
from ..problem import (
    AttentionProblem,
    GemmProblem,
    KeyValueGradientProblem,
    QueryGradientProblem,
    Shape,
)
from . import gradients
from .gradients import GradientProblem
from .instance import Instance

if TYPE_CHECKING:
    import numpy as np

ForwardProblem = GemmProblem | AttentionProblem

CHUNK_ELEMENTS = 1 << 22
"""Elements of ``b`` that are compared at once, which bounds the memory of the comparison."""

PERIODS = (8191, 8209)
"""Primes: a pattern that repeats with one of them looks different from every other offset."""

FACTORS = {"alpha": 0.5, "beta": 2.0, "scale": 0.25}
INTEGER_FACTORS = {"alpha": 3, "beta": 5}


def trial(instance: Instance, backend: Backend) -> str | None:
    """Run the instance; return what is wrong with its results, or None.

    Raises:
        Exception: Whatever the backend or MLX raises.
    """
    problem = instance.problem
    if isinstance(problem, QueryGradientProblem | KeyValueGradientProblem):
        return _gradient_trial(problem, instance.plan, backend)
    with mx.stream(mx.cpu):
        operands = _operands(problem)
        mx.eval(*operands)
    factors = _factors(problem)
    run = kernel_run(instance.plan, backend, last_is_scalar=False)
    outputs = run(operands, factors, None)
    mx.eval(*outputs)
    with mx.stream(mx.cpu):
        if isinstance(problem, GemmProblem):
            return _compare_gemm(problem, operands, factors, outputs[0])
        return _compare_attention(problem, operands, factors, outputs)


def _gradient_trial(problem: GradientProblem, plan: Plan, backend: Backend) -> str | None:
    import numpy as np

    scale = FACTORS["scale"]
    with mx.stream(mx.cpu):
        arrays = gradients.operands(problem, np.random.default_rng(5), scale)
        mx.eval(*arrays.values())
    run = kernel_run(plan, backend, last_is_scalar=False)
    outputs = run(list(arrays.values()), (scale,), None)
    mx.eval(*outputs)
    with mx.stream(mx.cpu):
        dtypes = plan.stages[-1].launch.output_dtypes
        expected = gradients.expected(problem, arrays, scale)
        for output, (value, bound), dtype in zip(outputs, expected, dtypes, strict=True):
            wrong = _mismatch(output, value, bound, dtype, 0)
            if wrong:
                return wrong
    return None


def _factors(problem: ForwardProblem) -> tuple[int | float, ...]:
    if isinstance(problem, AttentionProblem):
        return (FACTORS["scale"],)
    values = INTEGER_FACTORS if problem.is_integer else FACTORS
    return (values["alpha"] if problem.scaled else 1, values["beta"])


def _operands(problem: ForwardProblem) -> list[mx.array]:
    import numpy as np

    random = np.random.default_rng(5)
    if isinstance(problem, AttentionProblem):
        return _attention_operands(problem, random)
    make = _integer_operand if problem.is_integer else _float_operand
    operands = [make("a", problem, random), make("b", problem, random)]
    return operands if problem.c is None else [*operands, make("c", problem, random)]


def stored_operands(problem: ForwardProblem) -> dict[str, tuple[Shape, DType]]:
    """Return the shape and dtype of each operand as stored, by name, in the op's order."""
    if isinstance(problem, GemmProblem):
        names = ("a", "b") if problem.c is None else ("a", "b", "c")
        return {name: _gemm_shape(name, problem) for name in names}
    p = problem
    stored: dict[str, tuple[Shape, DType | None]] = {
        "q": ((p.batch, p.num_heads, p.q_len, p.head_dim), p.q),
        "k": ((p.batch, p.num_kv_heads, p.kv_len, p.head_dim), p.k),
        "v": ((p.batch, p.num_kv_heads, p.kv_len, p.value_dim), p.v),
        "q_pe": ((p.batch, p.num_heads, p.q_len, p.pe_dim), p.q_pe),
        "k_pe": ((p.batch, p.num_pe_heads, p.kv_len, p.pe_dim), p.k_pe),
        "mask": (p.mask_shape, p.mask),
        "sinks": ((p.num_heads,), p.sinks),
    }
    found = {name: stored[name] for name in p.operand_names}
    return {name: (shape, dtype) for name, (shape, dtype) in found.items() if dtype}


def _gemm_shape(name: str, problem: GemmProblem) -> tuple[Shape, DType]:
    """Return the shape of an operand as stored, every batch axis its own, and its dtype."""
    batch = tuple(axis.size if getattr(axis, name) else 1 for axis in problem.batch)
    if name == "a":
        rows, columns, transposed, dtype = problem.m, problem.k, problem.transpose_a, problem.a
    elif name == "b":
        rows, columns, transposed, dtype = problem.k, problem.n, problem.transpose_b, problem.b
    else:
        assert problem.c is not None
        rows = problem.m if problem.c_rows else 1
        columns = problem.n if problem.c_columns else 1
        transposed, dtype = False, problem.c
    return (*batch, *((columns, rows) if transposed else (rows, columns))), dtype


def _integer_operand(name: str, problem: GemmProblem, random: np.random.Generator) -> mx.array:
    import numpy as np

    shape, dtype = _gemm_shape(name, problem)
    limits = np.iinfo(dtype.name)
    values = random.integers(limits.min, limits.max, PERIODS[0], dtype.name, endpoint=True)
    return _repeated(mx.array(values), shape, problem)


def _float_operand(name: str, problem: GemmProblem, random: np.random.Generator) -> mx.array:
    shape, dtype = _gemm_shape(name, problem)
    if name == "a":
        return _float_a(problem, shape, random)
    bits = _fraction_bits(problem) if name == "b" else 6
    odd = 2 * random.integers(-(1 << bits), 1 << bits, max(PERIODS)) + 1
    pattern = mx.array((odd / (1 << bits)).astype("float32")).astype(dtype.mlx)
    return _repeated(pattern, shape, problem)


def _fraction_bits(problem: GemmProblem) -> int:
    """Return how many bits elements of ``b`` may have below 1 for exact sums of k of them."""
    return max(0, min(_significant_bits(problem.b) - 1, 22 - ceil(log2(problem.k))))


def _significant_bits(dtype: DType) -> int:
    return -round(log2(dtype.unit_roundoff))


def _repeated(pattern: mx.array, shape: Shape, problem: GemmProblem) -> mx.array:
    """Return an array that repeats a pattern, as a view that begins one element in.

    It is made in its own dtype: the weight of a large vocabulary is not held twice.
    """
    period = next((p for p in PERIODS if problem.k % p and problem.n % p), PERIODS[0])
    count = prod(shape)
    rows = mx.broadcast_to(pattern[:period], (count // period + 1, period))
    return rows.reshape(-1)[1 : count + 1].reshape(shape)


def _float_a(problem: GemmProblem, shape: Shape, random: np.random.Generator) -> mx.array:
    import numpy as np

    matrices, m, k = prod(shape[:-2]), problem.m, problem.k
    values = random.choice(np.array([-1.0, 1.0], dtype=np.float32), (matrices, m, k))
    values[:, 1::2] = 0
    for place in (0, k - 1, int(random.integers(k))):
        sparse = random.uniform(0.5, 2, (matrices, m // 2))
        values[:, 1::2, place] = sparse * random.choice([-1, 1], sparse.shape)
    if problem.transpose_a:
        values = values.swapaxes(-1, -2)
    return _as_view(values.reshape(shape), problem.a)


def _as_view(values: np.ndarray[Any, Any], dtype: DType) -> mx.array:
    import numpy as np

    flat = mx.array(np.concatenate([np.zeros(1, values.dtype), values.ravel()]))
    return flat.astype(dtype.mlx)[1:].reshape(values.shape)


def _compare_gemm(
    problem: GemmProblem,
    operands: Sequence[mx.array],
    factors: tuple[int | float, ...],
    output: mx.array,
) -> str | None:
    """Compare chunk by chunk of columns."""
    sizes = tuple(axis.size for axis in problem.batch)
    output = output.reshape(*sizes, problem.m, problem.n)
    depth = problem.k * (prod(_gemm_shape("b", problem)[0]) // (problem.k * problem.n))
    width = max(1, CHUNK_ELEMENTS // depth)
    for start in range(0, problem.n, width):
        stop = min(start + width, problem.n)
        part = [operands[0], _columns(operands[1], start, stop, problem.transpose_b)]
        if problem.c is not None:
            c = operands[2]
            part.append(_columns(c, start, stop) if problem.c_columns else c)
        smaller = replace(problem, n=stop - start, out_shape=(*sizes, problem.m, stop - start))
        expected = _integer_reference if problem.is_integer else _float_reference
        value, bound = expected(smaller, part, factors)
        wrong = _mismatch(output[..., start:stop], value, bound, problem.out, start)
        if wrong:
            return wrong
    return None


def _columns(array: mx.array, start: int, stop: int, transposed: bool = False) -> mx.array:
    return array[..., start:stop, :] if transposed else array[..., start:stop]


def _integer_reference(
    problem: GemmProblem, operands: Sequence[mx.array], factors: tuple[int | float, ...]
) -> tuple[np.ndarray[Any, Any], float]:
    return _numpy(mlx_route.gemm(problem, operands, factors, mx.cpu)[0]), 0.0


def _float_reference(
    problem: GemmProblem, operands: Sequence[mx.array], factors: tuple[int | float, ...]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the product and how far from it a correct one may be, row by row.

    Float32 is enough: where a sum is exact it is so in any order, and elsewhere it has few terms.
    """
    a, b = (array.astype(mx.float32) for array in operands[:2])
    a = mx.swapaxes(a, -1, -2) if problem.transpose_a else a
    b = mx.swapaxes(b, -1, -2) if problem.transpose_b else b
    alpha, beta = factors
    value = alpha * mx.matmul(a, b)
    if problem.c is not None:
        value = value + beta * operands[2].astype(mx.float32)
    terms = mx.sum(a != 0, axis=-1, keepdims=True)
    size = 2 * mx.sum(mx.abs(a), axis=-1, keepdims=True) + 2 * beta
    exact = mx.all(mx.abs(a) == 1, axis=-1, keepdims=True)
    if _fraction_bits(problem) + ceil(log2(problem.k)) > 22:
        exact = mx.zeros_like(exact)
    bound = mx.where(exact, 0.0, 2 * (terms + 4) * FLOAT32.unit_roundoff * size)
    return _numpy(value), _numpy(bound)


def _attention_operands(problem: AttentionProblem, random: np.random.Generator) -> list[mx.array]:
    return [_attention_operand(*stored, random) for stored in stored_operands(problem).values()]


def _attention_operand(shape: Shape, dtype: DType, random: np.random.Generator) -> mx.array:
    if dtype is not BOOL:
        return _as_view(random.uniform(-1, 1, shape).astype("float32"), dtype)
    kept = random.uniform(0, 1, shape) < 0.7
    kept[..., :1, :] = False  # the first row has nothing to attend to
    return _as_view(kept, BOOL)


def _compare_attention(
    problem: AttentionProblem,
    operands: Sequence[mx.array],
    factors: tuple[int | float, ...],
    outputs: Sequence[mx.array],
) -> str | None:
    exact = replace(problem, out=FLOAT32)
    values = [_numpy(value) for value in mlx_route.attention(exact, operands, factors, mx.cpu)]
    out_bound, lse_bound = _attention_bounds(problem, operands, factors)
    wrong = _mismatch(outputs[0], values[0], out_bound, problem.out, 0)
    if wrong is None and problem.return_lse:
        wrong = _mismatch(outputs[1], values[1], lse_bound, FLOAT32, 0)
        wrong = wrong and f"log-sum-exp: {wrong}"
    return wrong


def _attention_bounds(
    problem: AttentionProblem, operands: Sequence[mx.array], factors: tuple[int | float, ...]
) -> tuple[np.ndarray[Any, Any] | float, float]:
    """Return how far off a correct result and log-sum-exp may be.

    Twice what float32 sums may lose, for both sides may lose it, and twice that for exponentials.
    """
    unit = 4 * FLOAT32.unit_roundoff
    depth = problem.head_dim + problem.pe_dim
    scores = (depth + 8) * (float(factors[0]) * depth + 1)
    if problem.softmax:
        share = unit * (2 * scores + problem.kv_len + 24)
        return share, unit * (scores + problem.kv_len + 24)
    sizes = [mx.abs(array) if array.dtype != mx.bool_ else array for array in operands]
    literal = replace(problem, out=FLOAT32)
    magnitude = _numpy(mlx_route.attention(literal, sizes, factors, mx.cpu)[0])
    return unit * (depth + problem.kv_len + 16) * magnitude, 0.0


def _numpy(array: mx.array) -> np.ndarray[Any, Any]:
    import numpy as np

    if not mx.issubdtype(array.dtype, mx.integer):
        array = array.astype(mx.float64)
    return np.array(array)


def _mismatch(
    output: mx.array,
    value: np.ndarray[Any, Any],
    bound: np.ndarray[Any, Any] | float,
    out: DType,
    first_column: int,
) -> str | None:
    """Return in words where the output is further off than its bound and one rounding."""
    import numpy as np

    got = _numpy(output)
    rounding = out.unit_roundoff * np.abs(value) + (2.0**-24 if out.unit_roundoff else 0)
    with np.errstate(invalid="ignore"):
        close = np.abs(got - value) <= bound + rounding
    # Everything is within an infinite bound of an infinity, such as an empty row's log-sum-exp.
    right = np.where(np.isfinite(value), close, got == value)
    if right.all():
        return None
    at = tuple(int(index) for index in np.argwhere(~right)[0])
    place = (*at[:-1], at[-1] + first_column)
    return (
        f"{int((~right).sum())} of {right.size} elements are wrong, the first at {place}: "
        f"got {got[at]}, expected {value[at]}"
    )

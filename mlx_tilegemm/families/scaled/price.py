"""Time that MLX's own ops would take: the candidate that every kernel has to beat.

They decode the operands into float32 copies, multiply those by their scales, and the copies by each
other, at every call. Codes of ``mxfp8`` alone have an op of MLX's.
"""

from __future__ import annotations

from dataclasses import replace

from ...core.dtypes import FLOAT32
from ...machine.chips.record import Chip
from ...machine.mlx_products import casts_seconds, same_dtype_gemm, streaming_seconds
from ...machine.price import Price, make_price
from ...machine.products import Product
from ..quantized.price import price as quantized_price
from ..quantized.problem import QuantizedProblem
from .mxfp8 import as_mxfp8
from .problem import ScaledProblem


def price(problem: ScaledProblem, chip: Chip) -> Price | None:
    """Return what MLX's ops would run; None where they cannot stand in."""
    if problem.batch_invariant:
        return None
    if problem.is_empty:
        return Price(path="fill", seconds=chip.launch_seconds)
    packed = as_mxfp8(problem)
    if packed is not None:
        return _packed_price(problem, packed, chip)
    elements = problem.results[0].elements
    casts = [
        (problem.elements("a"), problem.a, FLOAT32),
        (problem.elements("b"), problem.b, FLOAT32),
        (elements, FLOAT32, problem.out),
    ]
    copying, copied = casts_seconds(casts, chip)
    passes = _passes(problem)
    scaling = sum(chip.launch_seconds + streaming_seconds(8 * size, chip) for size in passes)
    path, time = same_dtype_gemm(_product(problem), chip)
    reduced = path.startswith("neural") and not problem.is_integer
    return make_price(path, time + copying + scaling, copied + 8 * sum(passes), reduced)


def _packed_price(problem: ScaledProblem, packed: QuantizedProblem, chip: Chip) -> Price | None:
    """Price MLX's quantized op, with a look at all scales and a pass over the result."""
    found = quantized_price(packed, chip)
    if found is None:
        return None
    size = packed.results[0].nbytes + problem.results[0].nbytes + problem.nbytes("b_scales")
    seconds = found.seconds + 2 * chip.launch_seconds + streaming_seconds(size, chip)
    return replace(found, seconds=seconds)


def _passes(problem: ScaledProblem) -> list[int]:
    """Return the elements of each pass over float32: scales of operands or sums, and a bias."""
    elements = problem.results[0].elements
    sizes = []
    if problem.a_scales is not None:
        sizes.append(elements if problem.is_integer else problem.elements("a"))
    if problem.b_scales is not None:
        sizes.append(elements if problem.is_integer else problem.elements("b"))
    if problem.bias is not None:
        sizes.append(elements)
    return sizes


def _product(problem: ScaledProblem) -> Product:
    return Product(
        m=problem.m,
        n=problem.n,
        k=problem.k,
        a=FLOAT32,
        b=FLOAT32,
        out=FLOAT32,
        transpose_b=problem.transpose_b,
        batch_size=problem.batch_size,
        a_matrices=problem.elements("a") // (problem.m * problem.k),
        b_matrices=problem.elements("b") // (problem.n * problem.k),
    )

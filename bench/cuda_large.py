"""Problems of more than 2^31 elements in each operand and in the result, on every kernel.

    python bench/cuda_large.py --json large.json
    python bench/cuda_large.py --side 192 --backend emulator      # the same problems, small

Operands are drawn on the device, a part at a time. A kernel's result is compared where an index of
32 bits would have gone wrong: the first and the last rows and columns, or the last sequence and
head, are a smaller problem of their own, which the family's float64 reference solves from the parts
of the operands that belong to it. The best configuration of each kernel is tried, by the model of
an Apple chip. A problem of the default side needs up to 40 GB.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from backend import require
from run import SPECS

from mlx_tilegemm.backends import BACKENDS, backend_named
from mlx_tilegemm.backends.launch import kernel_run
from mlx_tilegemm.core.dtypes import FLOAT8_E4M3
from mlx_tilegemm.core.operand import Operand, Role
from mlx_tilegemm.core.plan import Plan
from mlx_tilegemm.core.problem import Problem
from mlx_tilegemm.core.reference import hold
from mlx_tilegemm.dispatch import choose
from mlx_tilegemm.families import family_of
from mlx_tilegemm.machine.chips import NVIDIA

SIDE = 46400
"""Its square is more than 2^31, and it is a multiple of 64."""

KEYS = 131072
EDGE = 7
"""Rows and columns at each end that are compared."""

PIECE = 1 << 28
"""Elements that are drawn at once."""

Arrays = Sequence[mx.array]
Cut = Callable[[Arrays, Arrays], tuple[list[mx.array], list[mx.array]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A large problem, and the small one that is a part of it.

    Attributes:
        op: Op of both.
        large: Spelling of the large problem.
        small: Spelling of the part.
        cut: Returns the part's operands and results from the large problem's.
    """

    op: str
    large: str
    small: str
    cut: Cut


def ends(array: mx.array, *axes: int) -> mx.array:
    """Return the first and the last elements along axes, by slices alone."""
    for axis in axes:
        length = array.shape[axis]
        if length > 2 * EDGE:
            at = [slice(None)] * array.ndim
            first, last = list(at), list(at)
            first[axis], last[axis] = slice(0, EDGE), slice(length - EDGE, length)
            array = mx.concatenate([array[tuple(first)], array[tuple(last)]], axis=axis)
    return mx.contiguous(array)


def _product_cut(layout: str) -> Cut:
    rows, columns = (1 if layout[0] == "t" else 0), (0 if layout[1] == "t" else 1)

    def cut(operands: Arrays, outputs: Arrays) -> tuple[list[mx.array], list[mx.array]]:
        a, b = operands
        return [ends(a, rows), ends(b, columns)], [ends(outputs[0], 0, 1)]

    return cut


def _weight_cut(operands: Arrays, outputs: Arrays) -> tuple[list[mx.array], list[mx.array]]:
    x, *weight = operands
    return [ends(x, 0), *(ends(one, 0) for one in weight)], [ends(outputs[0], 0, 1)]


def _attention_cut(operands: Arrays, outputs: Arrays) -> tuple[list[mx.array], list[mx.array]]:
    q, k, v = operands
    group = q.shape[1] // k.shape[1]
    found = [q[-1:, -group:, -EDGE:], k[-1:, -1:], v[-1:, -1:]]
    return list(map(mx.contiguous, found)), [mx.contiguous(outputs[0][-1:, -group:, -EDGE:])]


def _delta_cut(operands: Arrays, outputs: Arrays) -> tuple[list[mx.array], list[mx.array]]:
    # Sequences come first; then tokens and heads, but for states, which have heads alone.
    q, k, v, gamma, beta, state = operands
    y, last = outputs
    found = [one[-1:, :, -1:] for one in (q, k, v, gamma, beta)]
    kept = [y[-1:, :, -1:], last[-1:, -1:]]
    return list(map(mx.contiguous, [*found, state[-1:, -1:]])), list(map(mx.contiguous, kept))


def _edge(size: int) -> int:
    return min(size, 2 * EDGE)


def products(side: int) -> Iterator[Case]:
    """Yield products whose operands or results, or all of them, are large."""
    few = min(64, side)
    for m, n, k, dtypes, layout in (
        (side, few, side, "f16,bf16", "nt"),
        (side, few, side, "bf16,f16", "tn"),
        (few, side, side, "f16,bf16", "nt"),
        (few, side, side, "bf16,f32", "nn"),
        (1, side, side, "f16,bf16", "nt"),
        (side, side, few, "f16,bf16", "nt"),
        (side, side, side, "f16", "nn"),
        (side * 16384 // SIDE, side * 16384 // SIDE, side * 16384 // SIDE, "bf16,f16", "nt"),
    ):
        yield Case(
            op="matmul",
            large=f"{m}x{n}x{k}:{dtypes}:{layout}",
            small=f"{_edge(m)}x{_edge(n)}x{k}:{dtypes}:{layout}",
            cut=_product_cut(layout),
        )


def weights(side: int) -> Iterator[Case]:
    """Yield products with quantized weights and with codes of eight bits."""
    for op, formats in (
        ("quantized_matmul", ("f16:affine4x64", "bf16:mxfp4")),
        ("fp8_scaled_matmul", ("bf16,f32:e4m3-row",)),
    ):
        for form in formats:
            for m, n, k in ((64, side, side), (1, side, side), (side, 64, side), (side, side, 64)):
                small = f"{_edge(m)}x{_edge(n)}x{k}:{form}"
                yield Case(op=op, large=f"{m}x{n}x{k}:{form}", small=small, cut=_weight_cut)


def attentions(side: int) -> Iterator[Case]:
    """Yield attentions with large keys, with large queries, and of many rows on many keys."""
    keys = KEYS * side // SIDE
    for batch, heads, groups, rows, length, dtypes in (
        (17, 32, 8, 1, keys, "f16,bf16,bf16"),
        (17, 8, 8, 16, keys, "bf16"),
        (33, 32, 8, keys // 8, 64, "f16,bf16,bf16"),
        (1, 32, 8, keys // 64, keys, "f16,bf16,bf16"),
    ):
        yield Case(
            op="attention",
            large=f"{batch}x{heads}x{groups}x{rows}x{length}x128:{dtypes}",
            small=f"1x{heads // groups}x1x{min(rows, EDGE)}x{length}x128:{dtypes}",
            cut=_attention_cut,
        )


def updates(side: int) -> Iterator[Case]:
    """Yield a gated delta update of large q, k, v and y."""
    length = 2080 * side // SIDE
    yield Case(
        op="gated_delta_update",
        large=f"{520 * side // SIDE}x{length}x16x16x128x128:bf16,f32",
        small=f"1x{length}x1x1x128x128:bf16,f32",
        cut=_delta_cut,
    )


def experts(side: int) -> Iterator[Case]:
    """Yield products with chosen matrices: large weights, large rows, large results."""
    many = 1400 * side // SIDE
    rows = side * side // 2048
    for sizes, form in (
        (f"64x2x{many}x768x2048", "f16,bf16"),
        (f"{rows}x1x8x64x2048", "f16,bf16"),
        (f"{rows}x1x8x2048x64", "f16,bf16"),
        (f"64x2x{many}x768x2048", "bf16:affine4x64"),
    ):
        yield Case(op="experts", large=f"{sizes}:{form}", small="", cut=_product_cut("nt"))


def cases(side: int) -> Iterator[Case]:
    """Yield everything."""
    for make in (products, weights, attentions, updates, experts):
        yield from make(side)


def drawn(one: Operand) -> mx.array:
    """Return random numbers for an operand, drawn in parts."""
    shape = one.stored_shape
    if one.stored_elements <= PIECE:
        return _piece(one, shape)
    rows, rest = shape[0], one.stored_elements // shape[0]
    if rest > PIECE:
        return mx.stack([_piece(one, shape[1:]) for _ in range(rows)])
    height = max(1, PIECE // rest)
    pieces = []
    for start in range(0, rows, height):
        pieces.append(_piece(one, (min(height, rows - start), *shape[1:])))
        mx.eval(pieces[-1])
    return mx.concatenate(pieces)


def _piece(one: Operand, shape: tuple[int, ...]) -> mx.array:
    if one.role is Role.INDEX:
        found = mx.random.randint(0, one.limit, shape).astype(one.mlx)
        return mx.sort(found, axis=None).reshape(shape) if one.ordered else found
    if one.mlx == mx.uint32:
        words = mx.random.randint(-(1 << 31), (1 << 31) - 1, shape).view(mx.uint32)
        # Without an exponent's highest bit no code of eight bits is NaN.
        return words & 0xBFBFBFBF if one.dtype is FLOAT8_E4M3 else words
    if one.mlx == mx.uint8:
        # As a scale near 1, as a code of eight bits small but not NaN.
        return mx.random.randint(*((118, 126) if "scales" in one.name else (0, 96)), shape).astype(
            mx.uint8
        )
    if one.role is Role.GATE:
        return mx.random.uniform(shape=shape).astype(one.mlx)
    if one.role is Role.SCALE:
        return mx.random.uniform(0.01, 0.02, shape).astype(one.mlx)
    # Keys of a gated delta update of about the length that its states do not grow with.
    scale = 0.08 if one.name == "k" else 1.0
    return (scale * mx.random.normal(shape, dtype=one.mlx)).astype(one.mlx)


def plans(problem: Problem) -> list[Plan]:
    """Return the best plan of each kernel that may serve a problem."""
    found: dict[str, Plan] = {}
    candidates = [one for one in choose(problem, NVIDIA).candidates if one.plan]
    for one in sorted(candidates, key=lambda one: one.seconds or 0.0):
        assert one.plan is not None
        found.setdefault(one.plan.kernel, one.plan)
    return list(found.values())


def mistakes(case: Case, operands: Arrays, outputs: Arrays) -> list[str]:
    """Return what is wrong with the part of a result that is compared."""
    large = SPECS[case.op](case.large).stored()
    if case.op == "experts":
        part = family_of(large).part(large, operands, outputs, 2 * EDGE)
        problem, given, found = part.problem, part.operands, part.outputs
    else:
        problem = SPECS[case.op](case.small).stored()
        given, found = case.cut(operands, outputs)
    mx.eval(*given, *found)
    blank = [
        one.name
        for one, array in zip(problem.operands, given, strict=True)
        if not mx.any(array != 0).item()
    ]
    if blank:
        return [f"operands {', '.join(blank)} are zero where they are compared"]
    factors = family_of(problem).trial_factors(problem)
    wanted = family_of(problem).reference(problem, given, factors)
    shaped = [one.reshape(x.value.shape) for one, x in zip(found, wanted, strict=True)]
    return hold(problem, shaped, wanted)[1]


def tried(case: Case, backend: str) -> Iterator[dict[str, Any]]:
    """Yield what became of each kernel."""
    problem = SPECS[case.op](case.large).stored()
    operands = [drawn(one) for one in problem.operands]
    mx.eval(*operands)
    factors = family_of(problem).trial_factors(problem)
    for plan in plans(problem):
        start = time.monotonic()
        run = kernel_run(problem, plan, backend_named(backend))
        try:
            wrong = mistakes(case, operands, run(operands, factors, None))
        except Exception as error:  # whatever a compiler, a driver or MLX may raise
            wrong = [f"{type(error).__name__}: {error}"[:400]]
        yield {
            "op": case.op,
            "problem": case.large,
            "kernel": str(plan),
            "elements": {x.name: x.elements for x in (*problem.operands, *problem.results)},
            "seconds": round(time.monotonic() - start, 2),
            "wrong": wrong,
        }
        mx.clear_cache()


def main() -> int:
    """Try all problems and say what is wrong; 1 if anything is."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backend", choices=[one.name for one in BACKENDS], default="cuda")
    parser.add_argument("--side", type=int, default=SIDE, help="of the largest matrices")
    parser.add_argument("--only", default="", help="an op")
    parser.add_argument("--json", type=Path, help="write what was found there")
    options = parser.parse_args()
    require(parser, options.backend)
    rows: list[dict[str, Any]] = []
    for case in cases(options.side):
        if options.only not in ("", case.op):
            continue
        for row in tried(case, options.backend):
            rows.append(row)
            state = "; ".join(row["wrong"]) or "right"
            print(
                row["op"], row["problem"], row["kernel"], f"{row['seconds']} s:", state, flush=True
            )
            if options.json:
                options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    wrong = sum(bool(row["wrong"]) for row in rows)
    print(f"{len(rows)} launches, {wrong} wrong")
    return int(not rows or wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main())

"""Our kernels beside MLX's, which run well on Macs, through the same compilers.

For the same tile, element type and raggedness. MLX compiles away what a shape does not need.
Whether m, n and k are multiples of the tile is written as three digits, 1 for those that are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from itertools import groupby, product

from . import markdown, project
from .compiler import Bracket, Compiler
from .dialect import Extent, Program
from .mlx_kernels import gated_delta, instance
from .report import compiled, resident

CHIP = "m1"

_TYPES = {"f16": "half", "bf16": "bfloat16_t", "f32": "float"}
_SIZES = {
    "111": (4096, 4096, 4096),
    "001": (4000, 4000, 4096),
    "110": (4096, 4096, 1000),
    "000": (1000, 1000, 1000),
}
_GEMM = "steel/gemm/gemm steel/gemm/kernels/steel_gemm_fused"
_SPLIT = "steel/gemm/gemm steel/gemm/kernels/steel_gemm_splitk"
_ATTENTION = "steel/attn/kernels/steel_attention"
_QUANTIZED = "steel/gemm/gemm quantized_utils quantized"
_SMALL_FLOATS = "steel/gemm/gemm quantized_utils fp_quantized"
_GATHERED = "steel/gemm/gemm steel/gemm/kernels/steel_gemm_gather"
_SEGMENTED = "steel/gemm/gemm steel/gemm/kernels/steel_gemm_segmented"
_ALIGNED = {"align_M": 1, "align_N": 1, "align_K": 1}
_SORTED_ROWS = {"align_N": 1, "align_K": 1}
_HALVES = ("f16", "bf16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One comparison.

    Attributes:
        group: The table that it belongs to.
        name: What is computed.
        mlx: Returns MLX's text.
        spelled: Our problem, spelled as for ``mlx-tilegemm tune``.
        kernels: Our kernels for it, each as ``kernel/config``, or all of a ``kernel``.
    """

    group: str
    name: str
    mlx: Callable[[], Program]
    spelled: str = ""
    kernels: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.group}: {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """What the compilers make of one text.

    Attributes:
        name: The kernel.
        threads: Threads of a threadgroup.
        bracket: Both ends; None if refused.
        reason: Why it was refused.
    """

    name: str
    threads: int
    bracket: Bracket | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A comparison's results."""

    case: Case
    mlx: Side
    ours: tuple[Side, ...]


def cases() -> Iterator[Case]:
    """Yield every comparison."""
    yield from _products()
    yield from _split_products()
    yield from _attentions()
    yield from _decodes()
    yield from _vectors()
    yield from _quantized()
    yield from _quantized_rows()
    yield from _quantized_products()
    yield from _scaled()
    yield from _chosen_rows()
    yield from _sorted_rows()
    yield from _segments()
    yield from _gated_delta()


def _products() -> Iterator[Case]:
    tiles = ("64x64x16-2x2", "32x64x16-1x2", "64x32x32-2x2")
    for tile, layout, kind, ragged in product(tiles, ("nn", "nt"), _TYPES, _SIZES):
        m, n, k = _SIZES[ragged]
        aligned = dict(zip(("align_M", "align_N", "align_K"), map(int, ragged), strict=True))
        staged = f"gemm_simdgroup/{tile}-staged"
        yield Case(
            group=f"Products, {tile}",
            name=f"{layout} {kind} {ragged}",
            mlx=partial(_gemm, "gemm", _types(tile, kind, layout), tile, aligned),
            spelled=f"{m}x{n}x{k}:{kind}:{layout}",
            kernels=(staged, staged.replace("staged", "direct")),
        )


def _split_products() -> Iterator[Case]:
    tile = "32x32x16-2x2"
    for kind in _TYPES:
        arguments = _types(tile, f"{kind}, float", "nn") + ", true, true"
        yield Case(
            group="Products with k shared out",
            name=f"{tile} nn {kind} 111",
            mlx=partial(_gemm, "gemm_splitk", arguments, tile, {}),
            spelled=f"64x64x16384:{kind}",
            kernels=(f"gemm_simdgroup/{tile}-staged-split32",),
        )


def _types(tile: str, kinds: str, layout: str) -> str:
    """Return template arguments of MLX's products."""
    first, *others = kinds.split(", ")
    metal = ", ".join([_TYPES[first], *others])
    transposed = ", ".join(str(one == "t").lower() for one in layout)
    return f"{metal}, {tile.replace('-', 'x').replace('x', ', ')}, {transposed}"


def _gemm(kernel: str, arguments: str, tile: str, constants: dict[str, int]) -> Program:
    rows, columns = map(int, tile.partition("-")[2].split("x"))
    file = _GEMM if kernel == "gemm" else _SPLIT
    return instance(file, kernel, arguments, (32, columns, rows), constants)


def _attentions() -> Iterator[Case]:
    dims = ((64, 32), (80, 32), (96, 32), (128, 16))
    for (dim, block), kind, mask in product(dims, _TYPES, ("none", "causal")):
        forms = ("staged", "staged-reread", "direct")
        kernels = tuple(f"attention_chain/32x{block}-{form}" for form in forms)
        for aligned in (1, 0):
            constants = {"align_Q": aligned, "align_K": aligned, "do_causal": mask == "causal"}
            arguments = f"{_TYPES[kind]}, 32, {block}, {dim}, {dim}, 4, 1, bool, float"
            yield Case(
                group="Attention",
                name=f"D {dim}, 32x{block}, {kind}, {mask}, {'aligned' if aligned else 'ragged'}",
                mlx=partial(instance, _ATTENTION, "attention", arguments, (32, 4, 1), constants),
                spelled=f"1x2x2x64x64x{dim}:{kind}:{mask}",
                kernels=() if aligned else kernels,
            )


def _decodes() -> Iterator[Case]:
    for dim, kind in product((64, 128, 256), _TYPES):
        pair = f"{_TYPES[kind]}, {dim}"
        for kernel, arguments, threads in (
            ("sdpa_vector", f"{pair}, {dim}", (1024, 1, 1)),
            ("sdpa_vector_2pass_1", f"{pair}, {dim}", (32, 4, 1)),
            ("sdpa_vector_2pass_2", pair, (1024, 1, 1)),
        ):
            constants = {"blocks": 64} if kernel.endswith("_1") else {}
            yield Case(
                group="Attention of one row",
                name=f"D {dim}, {kind}, {kernel}",
                mlx=partial(instance, "sdpa_vector", kernel, arguments, threads, constants),
                spelled=f"1x8x2x1x2048x{dim}:{kind}",
                kernels=("attention_decode",) if kernel.endswith("_1") else (),
            )


def _vectors() -> Iterator[Case]:
    forms: tuple[tuple[str, str, str, Extent], ...] = (
        ("nt", "gemv", "8, 1, 1, 32, 4, 4", (32, 1, 8)),
        ("nn", "gemv_t", "1, 16, 8, 4, 4, 4", (32, 16, 1)),
    )
    for (layout, kernel, sizes, threads), kind in product(forms, _TYPES):
        arguments = f"{_TYPES[kind]}, {sizes}, false, false"
        yield Case(
            group="Product of one row with a matrix",
            name=f"{layout} {kind}",
            mlx=partial(instance, "gemv", kernel, arguments, threads),
            spelled=f"1x4096x4096:{kind}:{layout}",
            kernels=("gemv",),
        )


def _quantized() -> Iterator[Case]:
    kernels = ("affine_qmv_fast", "affine_qmv")
    for bits, kind, kernel in product((2, 3, 4, 6, 8), _HALVES, kernels):
        arguments = f"{_TYPES[kind]}, 64, {bits}, false"
        yield Case(
            group="Product of one row with a quantized matrix",
            name=f"{kernel}, {bits} bits, group 64, {kind}",
            mlx=partial(instance, _QUANTIZED, kernel, arguments, (32, 2, 1)),
            spelled=f"1x4096x4096:{kind}:affine{bits}x64",
            kernels=("quantized_gemv",) if kernel == "affine_qmv_fast" else (),
        )


def _quantized_rows() -> Iterator[Case]:
    for bits, kind in product((4, 8), _HALVES):
        arguments = f"{_TYPES[kind]}, 64, {bits}, 4, 8, false"
        yield Case(
            group="Product of four rows with a quantized matrix",
            name=f"affine_qmv_wide, {bits} bits, group 64, {kind}",
            mlx=partial(instance, _QUANTIZED, "affine_qmv_wide", arguments, (32, 2, 1)),
            spelled=f"4x4096x4096:{kind}:affine{bits}x64",
            kernels=("quantized_gemv",),
        )


def _quantized_products() -> Iterator[Case]:
    group = "Product with a quantized matrix, 32x32x32-2x2"
    for (name, layout), bits, kind in product((("qmm_t", ""), ("qmm_n", "-nn")), (4, 8), _HALVES):
        aligned = ", true" if name == "qmm_t" else ""
        arguments = f"{_TYPES[kind]}, 64, {bits}{aligned}, false"
        yield Case(
            group=group,
            name=f"affine_{name}, {bits} bits, group 64, {kind}",
            mlx=partial(instance, _QUANTIZED, f"affine_{name}", arguments, (32, 2, 2)),
            spelled=f"512x4096x4096:{kind}:affine{bits}x64{layout}",
            kernels=("quantized_gemm/32x32-2x2",),
        )
    for form, (bits, length) in {"mxfp4": (4, 32), "mxfp8": (8, 32), "nvfp4": (4, 16)}.items():
        arguments = f"half, {length}, {bits}, true, false"
        yield Case(
            group=group,
            name=f"fp_qmm_t, {form}, f16",
            mlx=partial(instance, _SMALL_FLOATS, "fp_qmm_t", arguments, (32, 2, 2)),
            spelled=f"quantized-matmul=512x4096x4096:f16:{form}",
            kernels=("quantized_gemm/32x32-2x2",),
        )


def _scaled() -> Iterator[Case]:
    for kind in _HALVES:
        for name, rows, threads, kernel in (
            ("fp_qmv_fast", 1, (32, 2, 1), "scaled_gemv"),
            ("fp_qmm_t", 512, (32, 2, 2), "scaled_gemm/32x32-2x2"),
        ):
            aligned = ", true" if name == "fp_qmm_t" else ""
            arguments = f"{_TYPES[kind]}, 32, 8{aligned}, false"
            yield Case(
                group="Product with a matrix of float8, a scale of e8m0 for each 32",
                name=f"{name}, mxfp8, {kind}",
                mlx=partial(instance, _SMALL_FLOATS, name, arguments, threads),
                spelled=f"fp8-scaled-matmul={rows}x4096x4096:{kind}:e4m3-32",
                kernels=(kernel,),
            )


def _chosen_rows() -> Iterator[Case]:
    group = "Products of a row each with matrices that rows choose"
    for kind in _TYPES:
        arguments = f"{_TYPES[kind]}, 4, 1, 1, 32, 4, 4"
        yield Case(
            group=group,
            name=f"gemv_gather, {kind}",
            mlx=partial(instance, "gemv", "gemv_gather", arguments, (32, 1, 4)),
            spelled=f"experts=1x8x128x768x2048:{kind}",
            kernels=("expert_gemv/1x4-4", "expert_gemv/1x1-4"),
        )
    for bits, kind in product((4, 8), _HALVES):
        arguments = f"{_TYPES[kind]}, 64, {bits}"
        yield Case(
            group=group,
            name=f"affine_gather_qmv_fast, {bits} bits, group 64, {kind}",
            mlx=partial(instance, _QUANTIZED, "affine_gather_qmv_fast", arguments, (32, 2, 1)),
            spelled=f"experts=1x8x128x768x2048:{kind}:affine{bits}x64",
            kernels=("expert_gemv/1x4-4", "expert_gemv/1x1-4"),
        )


def _sorted_rows() -> Iterator[Case]:
    group = "Products of rows sorted by the matrices that they choose"
    tiles = {"16x64x16-1x2": "16x64-1x4", "16x64x32-1x4": "16x64-1x4", "64x64x32-2x2": "64x64-2x2"}
    for (tile, config), kind in product(tiles.items(), _HALVES):
        mlx = _types(tile, kind, "nt")
        yield Case(
            group=group,
            name=f"gather_mm_rhs, {tile}, {kind}",
            mlx=partial(_sorted, _GATHERED, "gather_mm_rhs", mlx, tile),
            spelled=f"experts=512x8x128x768x2048:{kind}",
            kernels=(f"expert_gemm/{config}",),
        )
    tile = "16x32x32-1x2"
    for bits, kind in product((4, 8), _HALVES):
        sizes = tile.replace("-", "x").replace("x", ", ")
        arguments = f"{_TYPES[kind]}, 64, {bits}, {sizes}, true"
        yield Case(
            group=group,
            name=f"affine_gather_qmm_rhs, {tile}, {bits} bits, {kind}",
            mlx=partial(_sorted, _QUANTIZED, "affine_gather_qmm_rhs", arguments, tile),
            spelled=f"experts=512x8x128x768x2048:{kind}:affine{bits}x64",
            kernels=("expert_gemm/16x32-1x4", "expert_gemm/16x64-1x4"),
        )


def _sorted(files: str, kernel: str, arguments: str, tile: str) -> Program:
    rows, columns = map(int, tile.partition("-")[2].split("x"))
    return instance(files, kernel, arguments, (32, columns, rows), _SORTED_ROWS)


def _segments() -> Iterator[Case]:
    tile = "64x64x16-2x2"
    for layout, kind in product(("nn", "tn"), _HALVES):
        arguments = _types(tile, kind, layout)
        yield Case(
            group="Products of segments of k",
            name=f"segmented_mm, {tile}, {layout} {kind}",
            mlx=partial(instance, _SEGMENTED, "segmented_mm", arguments, (32, 2, 2), _ALIGNED),
            spelled=f"segments=768x2048x4096:{kind}:{layout}",
            kernels=(f"segmented_gemm/{tile}",),
        )


def _gated_delta() -> Iterator[Case]:
    for heads, word in ((16, ""), (32, ":vector")):
        for kind in ("bf16,f32", "f32"):
            spelled = f"1x512x{heads}x32x128x128:{kind}"
            yield Case(
                group="Gated delta update, mlx-lm's kernel",
                name=f"{'vector decays' if word else 'packed'}, {kind}",
                mlx=partial(gated_delta, _TYPES[kind.partition(",")[0]], heads, bool(word)),
                spelled=f"gated-delta-update={spelled}{word}",
                kernels=("delta_recurrent",),
            )


def row(compiler: Compiler, case: Case) -> Row:
    """Compile both sides of a comparison, each text of ours once."""
    texts: dict[str, tuple[str, Program]] = {}
    for text in project.texts_of(case.spelled, CHIP) if case.kernels else ():
        name = f"{text.kernel}/{text.config}"
        if name in case.kernels or text.kernel in case.kernels:
            texts.setdefault(text.program.code, (name, text.program))
    mlx = _side(compiler, "MLX", case.mlx())
    ours = tuple(_side(compiler, *text) for text in texts.values())
    return Row(case=case, mlx=mlx, ours=ours)


def _side(compiler: Compiler, name: str, program: Program) -> Side:
    bracket, reason = compiled(compiler, program)
    x, y, z = program.threads
    return Side(name=name, threads=x * y * z, bracket=bracket, reason=reason)


_HOW = """\
Our kernels and MLX's own, which run well on Macs, through the same two compilers: clang and Mesa's
compiler for M1 and M2, not Apple's. Compiled, not measured. Each number is a pair, without and with
moving code out of loops. What MLX's side says is a measure of the compilers:
its kernels are known to run well, so that no more registers than they have are no cause for alarm.

- **111 ... 000**: whether m, n and k are multiples of the tile. MLX compiles away what an aligned
  shape does not need; our attention always has the path for ragged keys, so that the fair row is
  MLX's ragged one.
- **bytes**: threadgroup memory of a threadgroup. **threads a core**: of whole threadgroups, by
  registers and by the 60 KiB of threadgroup memory.
- **over MLX**: registers more than MLX's, at both ends.
"""


def to_markdown(rows: Sequence[Row], compilers: str, command: str) -> str:
    """Return all comparisons as Markdown."""
    parts = [f"# Registers of our kernels and of MLX's\n\n{_lead(rows)}\n{_HOW}"]
    parts.append(f"MLX {version('mlx')}. Compilers: {compilers}. Written by\n\n    {command}\n")
    for group, found in groupby(rows, lambda row: row.case.group):
        head = (
            *("case", "kernel", "registers", "over MLX", "spills", "occupancy", "bytes"),
            *("threads a core", "step"),
        )
        lines = [line for row in found for line in _lines(row)]
        parts.append(f"## {group}\n\n{markdown.table(head, lines)}")
    return "\n".join(parts)


def _lead(rows: Sequence[Row]) -> str:
    """Return what the tables say, in two sentences."""
    compared = [row for row in rows if row.mlx.bracket and any(one.bracket for one in row.ours)]
    within = sum(any(_within(one.bracket, row.mlx.bracket) for one in row.ours) for row in compared)
    return (
        f"In {within} of {len(compared)} cases a kernel of ours wants no more registers than MLX's "
        f"at both ends. {len(rows) - len(compared)} further cases have one side alone: ours has no "
        "such kernel, or a compiler refuses MLX's.\n"
    )


def _within(ours: Bracket | None, mlx: Bracket | None) -> bool:
    if ours is None or mlx is None:
        return False
    ends = ((ours.low, mlx.low), (ours.high, mlx.high))
    return all(one.registers <= other.registers for one, other in ends)


def _lines(row: Row) -> Iterator[tuple[object, ...]]:
    yield (row.case.name, *_columns(row.mlx, row.mlx))
    for side in row.ours:
        yield ("", *_columns(side, row.mlx))


def _columns(side: Side, mlx: Side) -> tuple[object, ...]:
    found, theirs = side.bracket, mlx.bracket
    if found is None:
        return side.name, side.reason
    over = ""
    if theirs is not None and side is not mlx:
        low = found.low.registers - theirs.low.registers
        over = f"{low:+} \\| {found.high.registers - theirs.high.registers:+}"
    memory = project.core_memory(CHIP)
    held = [resident(build, side.threads, memory) for build in (found.low, found.high)]
    return (
        side.name,
        markdown.both(found, "registers"),
        over,
        markdown.both(found, "spills"),
        markdown.both(found, "occupancy"),
        found.low.threadgroup_bytes,
        f"{held[0]} \\| {held[1]}",
        markdown.step(found.low),
    )

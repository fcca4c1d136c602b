"""The work of the kernels whose published times bench/published.csv holds.

GEMMs and MLX's kernels are counted by the library's own functions. The attention kernels of
metal-flash-attention are counted here: they walk over D in blocks and keep some of their operands
in registers and page the others through memory, which no kernel of the library does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

from mlx_tilegemm.core.dtypes import BFLOAT16, FLOAT16, FLOAT32, DType
from mlx_tilegemm.families.attention.price import price_attention
from mlx_tilegemm.families.attention.problem import MaskKind, attention_problem
from mlx_tilegemm.families.gemm.problem import GemmProblem, gemm_problem
from mlx_tilegemm.machine.chips.record import Chip
from mlx_tilegemm.machine.cost import Constants, TileWork
from mlx_tilegemm.machine.counts import STEP_INSTRUCTIONS
from mlx_tilegemm.machine.mlx_products import price_gemm
from mlx_tilegemm.machine.products import GemmTile, gemm_work

DTYPES = {"float16": FLOAT16, "float32": FLOAT32, "bfloat16": BFLOAT16}
ADDRESSING_REGISTERS = 24
SOFTMAX_INSTRUCTIONS = 5
"""As metal-flash-attention counts them, for every score and kernel; exp2 comes on top."""

# block_m, block_n, block_k, simdgroups_m, simdgroups_n, staged
GEMM_TILES = {
    "gemm async 48x48x32": (48, 48, 32, 2, 2, True),
    "gemm async 48x48x24": (48, 48, 24, 2, 2, True),
    "gemm async 32x32x32": (32, 32, 32, 2, 2, True),
    "gemm direct 32x32": (32, 32, 8, 1, 1, False),
    "gemm direct 64x32": (64, 32, 8, 2, 1, False),
    "gemm direct 64x64": (64, 64, 8, 2, 2, False),
    "gemm direct 32x64": (32, 64, 8, 1, 2, False),
    "gemm direct 64x128": (64, 128, 8, 2, 2, False),
    "gemm staged 64x64x16": (64, 64, 16, 2, 2, True),
    "gemm double 64x64x16": (64, 64, 16, 2, 2, True),
    "gemm staged 128x128x16": (128, 128, 16, 2, 2, True),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchConstants(Constants):
    """The model's constants, and those of kernels that the library has no use for.

    macOS 26 compiles no kernel with asynchronous copies.

    Attributes:
        asynchronous_share: Exposed share where copies run beside arithmetic: Apple7 and Apple8.
        late_asynchronous_share: Likewise on Apple9, where the sources say they hurt.
        step_cycles: Instructions of a simdgroup for each barrier of the attention kernels, of whose
            text only the shape is known.
    """

    asynchronous_share: float = 0.0
    late_asynchronous_share: float = 0.65
    step_cycles: float = 68.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """A published attention kernel: blocks of rows, columns and D, and what it keeps."""

    rows: int
    columns: int
    depth: int
    cached: frozenset[str]
    columns_staged: bool = True
    rows_staged: bool = True


def _kernel(blocks: str, cached: str = "") -> Kernel:
    rows, columns, depth = (int(size) for size in blocks.split("x"))
    return Kernel(rows=rows, columns=columns, depth=depth, cached=frozenset(cached.split()))


# For D up to the key. Rows where the source gives no block repeat the one above.
APPLE7 = {
    ("forward", "float16"): {
        96: _kernel("32x128x32", "left0 sum0"),
        128: _kernel("32x128x32", "left0"),
        384: _kernel("32x128x32"),
    },
    ("forward", "float32"): {
        24: _kernel("32x64x24", "left0 sum0"),
        32: _kernel("32x64x32", "sum0"),
        56: _kernel("32x32x56", "sum0"),
        384: _kernel("32x80x16"),
    },
    ("dq", "float16"): {
        32: _kernel("32x64x32", "left0 sum0"),
        96: _kernel("32x64x32", "sum0"),
        384: _kernel("32x64x32"),
    },
    ("dq", "float32"): {
        16: _kernel("32x64x16", "sum0"),
        32: _kernel("32x64x32", "sum0"),
        56: _kernel("32x64x24", "sum0"),
        384: _kernel("32x80x16"),
    },
    ("dkdv", "float16"): {
        16: _kernel("32x64x32", "left1 sum0 sum1"),
        32: _kernel("32x64x32", "sum0 sum1"),
        56: _kernel("32x80x32", "sum0"),
        96: _kernel("32x64x32", "sum0"),
        384: _kernel("32x64x32"),
    },
    ("dkdv", "float32"): {
        16: _kernel("32x32x16", "sum0 sum1"),
        24: _kernel("32x64x24", "sum0"),
        56: _kernel("32x80x16", "sum0"),
        384: _kernel("32x80x16"),
    },
}
APPLE9 = {
    ("forward", "float16"): {
        32: _kernel("16x128x16", "left0 sum0"),
        96: _kernel("16x128x32", "left0 sum0"),
        160: _kernel("16x128x32", "sum0"),
        224: _kernel("16x128x32", "left0"),
        384: _kernel("16x128x32"),
    },
    ("forward", "float32"): {
        16: _kernel("16x64x16", "left0 sum0"),
        48: _kernel("16x32x8", "left0 sum0"),
        192: _kernel("16x64x16", "sum0"),
        384: _kernel("16x128x16"),
    },
    ("dq", "float16"): {
        80: _kernel("16x64x8", "left0 left1 sum0"),
        192: _kernel("16x64x32", "left0 sum0"),
        384: _kernel("16x128x32"),
    },
    ("dq", "float32"): {
        16: _kernel("16x64x8", "left0 left1 sum0"),
        32: _kernel("16x64x16", "left0 sum0"),
        192: _kernel("16x64x32", "left0 sum0"),
        384: _kernel("16x128x16"),
    },
    ("dkdv", "float16"): {
        56: _kernel("16x64x8", "left0 left1 sum0 sum1"),
        80: _kernel("16x32x16", "left1 sum0 sum1"),
        144: _kernel("16x128x16", "sum0 sum1"),
        224: _kernel("16x128x16", "sum0"),
        384: _kernel("16x128x32"),
    },
    ("dkdv", "float32"): {
        32: _kernel("16x32x16", "left0 left1 sum0 sum1"),
        64: _kernel("16x32x16", "left1 sum0 sum1"),
        128: _kernel("16x128x16", "sum0 sum1"),
        160: _kernel("16x128x16", "sum0"),
        384: _kernel("16x128x16"),
    },
}
PRODUCTS = {"forward": (1, 1), "dq": (2, 1), "dkdv": (2, 2)}
"""Products over D that give scores, and products over the columns that are summed up."""


def attention_kernel(name: str, dtype: str, dim: int, chip: Chip) -> Kernel:
    """Return the kernel that ``name`` (``attention dq tuned``) stands for on a chip."""
    _, kind, *variant = name.split()
    old = chip.family in ("apple7", "apple8")
    if variant == ["tuned"]:
        table = (APPLE7 if old else APPLE9)[kind, dtype]
        found = table[min(limit for limit in table if dim <= limit)]
        # Apple9 loads the columns straight and pages the rows through threadgroup memory.
        return found if old else replace(found, columns_staged=False)
    if variant == ["default"]:
        found = _kernel("32x80x16" if old else "16x128x16")
        return found if old else replace(found, columns_staged=False)
    blocks, policy = variant
    return replace(
        _kernel(blocks),
        columns_staged=policy in ("staged", "qo-direct"),
        rows_staged=policy in ("staged", "kv-direct"),
    )


def attention_instructions(kind: str, size: int, dim: int) -> int:
    """Return the multiply-adds and softmax instructions that the published rate counts."""
    return (sum(PRODUCTS[kind]) * dim + SOFTMAX_INSTRUCTIONS) * size * size


def attention_kernel_work(
    kernel: Kernel,
    kind: str,
    dtype: DType,
    size: int,
    dim: int,
    chip: Chip,
    constants: BenchConstants,
) -> TileWork:
    """Count one head of ``size`` rows and columns."""
    scores, sums = PRODUCTS[kind]
    steps = ceil(size / kernel.columns)
    simdgroups = kernel.rows // 8
    depth = ceil(dim / 8) * 8
    column_fragments, depth_fragments = kernel.columns // 8, depth // 8
    products = simdgroups * (scores + sums) * column_fragments * depth_fragments
    loaded = products * 64 * dtype.bytes
    unique = (scores + sums) * kernel.columns * depth * dtype.bytes
    lefts = scores - sum(f"left{i}" in kernel.cached for i in range(scores))
    paged_sums = sums - sum(f"sum{i}" in kernel.cached for i in range(sums))
    left_bytes = lefts * kernel.rows * depth * dtype.bytes
    sum_bytes = 2 * paged_sums * kernel.rows * depth * 4
    # Neighbours of rows of odd length are not aligned as a pair: a lane loads each on its own.
    apart = 1 + dim % 2
    threadgroup = (apart * loaded + unique) * kernel.columns_staged
    threadgroup += 2 * (left_bytes + sum_bytes) * kernel.rows_staged
    fragments = apart * loaded * (not kernel.columns_staged)
    fragments += (left_bytes + sum_bytes) * (not kernel.rows_staged)
    barriers = kernel.columns_staged or (kernel.rows_staged and lefts + paged_sums > 0)
    blocks_of_depth = ceil(dim / kernel.depth)
    # A product's walk over D is unrolled where its rows are registers and no barrier interrupts it.
    unrolled = 0 if kernel.columns_staged else scores + sums - lefts - paged_sums
    waits = blocks_of_depth * (scores + sums - unrolled + paged_sums) + unrolled
    softmax = simdgroups * column_fragments * 2 * (chip.exp2_cycles + SOFTMAX_INSTRUCTIONS)
    mma = chip.mma_cycles if dtype is FLOAT32 else chip.mma_half_cycles
    return TileWork(
        tiles=ceil(size / kernel.rows),
        simdgroups=simdgroups,
        chains=min(column_fragments, 4),
        issue_cycles=steps * products * mma,
        alu_cycles=steps * (softmax + barriers * waits * simdgroups * constants.step_cycles),
        threadgroup_bytes=steps * threadgroup,
        fragment_bytes=steps * fragments,
        cache_bytes=steps * (unique + left_bytes + sum_bytes),
        repeated_bytes=0 if barriers else steps * (loaded - unique),
        dram_bytes=(2 + scores + sums) * size * depth * dtype.bytes,
        waits=steps * waits,
        registers=_registers(kernel, scores, dtype, depth),
        threadgroup_memory=_threadgroup_memory(kernel, dtype),
        shared_bytes=(scores + sums) * size * depth * dtype.bytes,
        barriers=barriers,
        exposed_share=asynchronous_share(chip, constants) if kernel.columns_staged else None,
    )


def _registers(kernel: Kernel, scores: int, dtype: DType, depth: int) -> int:
    operand = dtype.bytes // 2
    live = scores * kernel.columns // 8 * 2 + kernel.columns // 8 * operand
    live += sum(depth // 8 * (operand if name.startswith("left") else 2) for name in kernel.cached)
    uncached_sum = any(f"sum{i}" not in kernel.cached for i in range(2))
    return min(120, ADDRESSING_REGISTERS + live + kernel.depth // 8 * 2 * uncached_sum)


def _threadgroup_memory(kernel: Kernel, dtype: DType) -> int:
    columns = kernel.columns * kernel.depth * dtype.bytes * kernel.columns_staged
    rows = kernel.rows * kernel.depth * 4 * kernel.rows_staged
    return max(columns, rows)


def asynchronous_share(chip: Chip, constants: BenchConstants) -> float:
    """Return the exposed share of a kernel with asynchronous copies."""
    if chip.family in ("apple7", "apple8"):
        return constants.asynchronous_share
    return constants.late_asynchronous_share


def gemm_kernel_work(
    name: str, problem: GemmProblem, chip: Chip, constants: BenchConstants
) -> TileWork:
    """Count a published GEMM of operands of one type."""
    dtype = problem.a
    block_m, block_n, block_k, simdgroups_m, simdgroups_n, staged = GEMM_TILES[name]
    rows, columns = block_m // (8 * simdgroups_m), block_n // (8 * simdgroups_n)
    half_sums = "48x48x32" in name
    tile = GemmTile(
        block_m=block_m,
        block_n=block_n,
        block_k=block_k,
        simdgroups_m=simdgroups_m,
        simdgroups_n=simdgroups_n,
        staged=staged,
        registers=(1 if half_sums else 2) * rows * columns
        + (rows + columns) * dtype.bytes // 2
        + ADDRESSING_REGISTERS,
        threadgroup_memory=(block_m + block_n) * block_k * dtype.bytes if staged else 0,
        prefetched="double" in name,
    )
    mma = chip.mma_half_cycles if dtype is FLOAT16 else chip.mma_cycles
    work = gemm_work(problem.product, tile, chip, mma_cycles=mma)
    if "async" not in name:
        return work
    # The copies take no instructions.
    return work._replace(
        alu_cycles=tile.simdgroups * work.waits * STEP_INSTRUCTIONS,
        exposed_share=asynchronous_share(chip, constants),
    )


def square(dtype: DType, size: int, layout: str = "nn") -> GemmProblem:
    """Return the product of two square matrices of one type."""
    return gemm_problem(
        "model",
        a_shape=(size, size),
        b_shape=(size, size),
        a=dtype,
        b=dtype,
        transpose_a=layout[0] == "t",
        transpose_b=layout[1] == "t",
    )


def mlx_seconds(name: str, dtype: DType, size: int, dim: int, chip: Chip) -> float:
    """Return the modelled time of MLX's own op; attention has batch 2 and 8 heads.

    It was measured with a causal mask by an MLX that, as the source says, computed all scores.
    """
    if name == "mlx gemm":
        found = price_gemm(square(dtype, size).product, chip)
    else:
        shape = (2, 8, size, dim)
        found = price_attention(
            attention_problem(
                "model",
                q_shape=shape,
                k_shape=shape,
                v_shape=shape,
                q=dtype,
                k=dtype,
                v=dtype,
                softmax=True,
                mask_kind=MaskKind.NONE,
            ),
            chip,
        )
    assert found is not None
    return found.seconds

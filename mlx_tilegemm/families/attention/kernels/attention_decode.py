"""Attention of few rows over many keys, as in decoding: candidates, legality, cost and plan.

The rows of all heads that share a head of k and v are packed together, so that each key is read
once for them. The keys are shared out among threadgroups, whose float32 results a second kernel
joins in order; one split needs no second kernel. How many keys a split has is a run-time number: a
cache that grows needs no new kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import product
from math import ceil
from typing import Any, NamedTuple

from ....core.caches import kept, latest
from ....core.dtypes import BFLOAT16, BOOL, FLOAT16, FLOAT32, FLOATS
from ....core.kernel import Kernel
from ....core.plan import Extent, Launch, Plan, Resources, Sizes, Stage
from ....core.shapes import Shape
from ....machine.chips.record import APPLE, Chip
from ....machine.cost import seconds
from ....machine.fragment import FRAGMENT
from ....machine.limits import reject_grid, reject_resources, reject_sizes
from ..combine_splits import combine_stage
from ..decode_spec import NAME, Spec, Tile, registers
from ..decode_work import DecodeTile, combining_seconds, decode_work, packed_rows
from ..problem import AttentionProblem, MaskKind
from ..spec import (
    Fields,
    attention_sizes,
    forward_fields,
    forward_outputs,
    reject_attention,
    tiny_key_operand,
    variant,
)

SIMDGROUPS = 4
"""Simdgroups of a threadgroup, where head groups do not make them more. They wait for each other
only at the end, so that larger threadgroups would just leave more registers of a core unused."""

MOST_REGISTERS = 112
"""Registers that a candidate may want by its estimate, which leaves some for the compiler."""

FEWER_REGISTERS = (64, 52)
"""Registers that leave room for twice the threads of 128, and for as many as a core can hold; it
takes more head groups, which have to meet at every step."""

CERTAIN_REGISTERS = 42
"""Ten fewer, by which an estimate may be too low: a core then holds as many threads in any case."""

LONG_STEPS = Tile(row_groups=1, key_groups=2, head_groups=4, block_kv=32)
"""For chips whose threads have more registers: long steps, of which more is on its way."""

MAX_QUERIES = 64
"""Length of q up to which this may be what decoding and its like ask for."""

MAX_SPLITS = 128

MANY_ROUNDS = 8
"""Rounds of keys above which sharing them out among idle cores is always modelled to be faster."""

WAVES = 4
"""Threadgroups a core from which on more splits are of no use."""


class Config(NamedTuple):
    """Shares of rows, keys and head sizes.

    Attributes:
        tile: What each threadgroup does.
        splits: Threadgroups that share the keys.
    """

    tile: Tile
    splits: int

    def __str__(self) -> str:
        return f"{self.tile}-split{self.splits}"


def candidates(problem: AttentionProblem, chip: Chip) -> Iterator[Config]:
    """Yield the configurations that make sense for the problem, preferred ones first."""
    p = problem
    groups = _groups(p.head_dim, p.pe_dim, p.value_dim, p.k.bytes, p.v.bytes)
    if not groups or _reject_problem(problem):
        # One to be refused, so that the reason is known.
        refused = Tile(row_groups=1, key_groups=1, head_groups=8, block_kv=16)
        yield Config(tile=refused, splits=1)
        return
    rows, keys = packed_rows(problem), _visible_keys(problem)
    for head_groups, block_kv in groups:
        for row_groups in (1, 2, 4):
            key_groups = max(SIMDGROUPS, head_groups) // (head_groups * row_groups)
            if key_groups == 0 or (row_groups > 1 and rows <= FRAGMENT * row_groups // 2):
                break
            blocks = ceil(rows / (FRAGMENT * row_groups)) * problem.batch * problem.num_kv_heads
            tile = Tile(
                row_groups=row_groups,
                key_groups=key_groups,
                head_groups=head_groups,
                block_kv=block_kv,
            )
            for splits in _splits(keys, tile.round_keys, blocks, chip):
                yield Config(tile=tile, splits=splits)
    if chip.limits.registers > APPLE.registers:
        blocks = ceil(rows / FRAGMENT) * problem.batch * problem.num_kv_heads
        for splits in _splits(keys, LONG_STEPS.round_keys, blocks, chip):
            yield Config(tile=LONG_STEPS, splits=splits)


def _splits(keys: int, round_keys: int, blocks: int, chip: Chip) -> Iterator[int]:
    """Yield powers of two: as many as fill the chip, and no more than there are rounds of keys.

    Between one and as many as give half of the cores work, none whose rounds are still many: to
    share those out costs less than it saves.
    """
    enough = WAVES * chip.cores
    splits = 1
    yield splits
    while splits * round_keys < keys and splits * blocks < enough and splits < MAX_SPLITS:
        splits *= 2
        if 2 * splits * blocks > chip.cores or keys <= MANY_ROUNDS * splits * round_keys:
            yield splits


@lru_cache(maxsize=256)
def _groups(
    head_dim: int, pe_dim: int, value_dim: int, k_bytes: int, v_bytes: int
) -> tuple[tuple[int, int], ...]:
    """Return the fewest head groups, and then the longest steps, that registers allow.

    First with few registers, which leave more threads on a core where times are alike, then with as
    many as there are, and at last with what is few by any estimate.
    """
    found = []
    for most in (*FEWER_REGISTERS, MOST_REGISTERS, CERTAIN_REGISTERS):
        for head_groups, block_kv in product((1, 2, 4, 8), (32, 16, 8)):
            needed = registers(
                head_dim=head_dim,
                pe_dim=pe_dim,
                value_dim=value_dim,
                k_bytes=k_bytes,
                v_bytes=v_bytes,
                head_groups=head_groups,
                block_kv=block_kv,
                shares_keys=head_groups < SIMDGROUPS,
                split=True,
                causal=True,
                masked=False,
            )
            if needed <= most:
                found.append((head_groups, block_kv))
                break
    return tuple(dict.fromkeys(found))


def first_key(problem: AttentionProblem) -> int:
    """Return the first key that any row sees."""
    if problem.window is None:
        return 0
    return max(0, problem.kv_len - problem.q_len - problem.window + 1)


@latest
def _visible_keys(problem: AttentionProblem) -> int:
    return problem.kv_len - first_key(problem)


@latest
def split_keys(problem: AttentionProblem, config: Config) -> int:
    """Return the keys of one split: whole steps of a threadgroup, as even as can be."""
    round_keys = config.tile.round_keys
    return ceil(_visible_keys(problem) / (config.splits * round_keys)) * round_keys


def reject(problem: AttentionProblem, config: Config, chip: Chip) -> str | None:
    """Return why the configuration may not serve the problem, or None."""
    reason = _reject_problem(problem)
    if reason:
        return reason
    keys, per_split = _visible_keys(problem), split_keys(problem, config)
    if config.splits > 1 and per_split >= keys:
        return f"{keys} keys are too few to share out"
    needs = _needs(problem, config.tile, config.splits > 1)
    reason = reject_resources(needs, chip.limits)
    reason = reason or reject_grid(_grid(problem, config, per_split))
    return reason or reject_sizes((_largest_size(problem), per_split))


@latest
def _reject_problem(problem: AttentionProblem) -> str | None:
    if reason := reject_attention(problem):
        return reason
    if problem.q_len > MAX_QUERIES:
        return f"{problem.q_len} queries are more than the {MAX_QUERIES} of decoding"
    if reason := tiny_key_operand(problem):
        return f"{reason}, from which no run of elements is loaded"
    return None


def cost(problem: AttentionProblem, config: Config, chip: Chip) -> float:
    """Return the modelled seconds of the configuration on the chip."""
    tile = _tile(problem, config.tile, config.splits > 1)
    per_split = split_keys(problem, config)
    time = seconds(decode_work(problem, tile, per_split, chip), chip)
    if config.splits == 1:
        return time
    return time + combining_seconds(problem, ceil(tile.keys / per_split), chip)


@latest
def _tile(problem: AttentionProblem, tile: Tile, split: bool) -> DecodeTile:
    needs = _needs(problem, tile, split)
    return DecodeTile(
        row_groups=tile.row_groups,
        key_groups=tile.key_groups,
        head_groups=tile.head_groups,
        block_kv=tile.block_kv,
        keys=_visible_keys(problem),
        registers=needs.registers,
        threadgroup_memory=needs.threadgroup_bytes,
    )


def plan(problem: AttentionProblem, config: Config) -> Plan:
    """Return the plan of a configuration that `reject` accepts."""
    spec = _spec(forward_fields(problem), config.tile, config.splits > 1)
    attending = Stage(spec=spec, launch=_launch(problem, config, spec), resources=spec.resources)
    splits = attending.launch.grid[1]
    joining = (combine_stage(problem, splits),) if spec.split else ()
    return Plan(
        kernel=NAME,
        config=config,
        stages=(attending, *joining),
        factors=("scale",),
    )


@kept
def _spec(fields: Fields, tile: Tile, split: bool) -> Spec:
    """Return the spec, which does not depend on how many splits there are."""
    values = fields.values
    if split:
        # Splits are joined in float32, whatever becomes of the result.
        values = values | {"out": FLOAT32, "sinks": None, "return_lse": False, "return_norm": False}
    return Spec(**values, config=tile, split=split)


@kept
def _resources(fields: Fields, tile: Tile, split: bool) -> Resources:
    return _spec(fields, tile, split).resources


@latest
def _needs(problem: AttentionProblem, tile: Tile, split: bool) -> Resources:
    return _resources(forward_fields(problem), tile, split)


def _grid(problem: AttentionProblem, config: Config, per_split: int) -> Extent:
    """Return threads along packed rows, splits that have keys, and matrices."""
    blocks = ceil(packed_rows(problem) / (FRAGMENT * config.tile.row_groups))
    matrices = problem.batch * problem.num_kv_heads
    splits = ceil(_visible_keys(problem) / per_split)
    return (blocks * config.tile.threads, splits, matrices)


def _sizes(problem: AttentionProblem, config: Config) -> dict[str, int]:
    """Return all run-time sizes by name."""
    return _common_sizes(problem) | {"keys_per_split": split_keys(problem, config)}


@latest
def _common_sizes(problem: AttentionProblem) -> dict[str, int]:
    matrices, rows = problem.batch * problem.num_kv_heads, packed_rows(problem)
    return attention_sizes(problem) | {
        "rows": rows,
        "first_key": first_key(problem),
        "all_rows": matrices * rows,
        "num_kv_heads": problem.num_kv_heads,
        "kv_heads_per_pe_head": problem.num_kv_heads // max(1, problem.num_pe_heads),
    }


@latest
def _largest_size(problem: AttentionProblem) -> int:
    return max(_common_sizes(problem).values())


def _launch(problem: AttentionProblem, config: Config, spec: Spec) -> Launch:
    grid = _grid(problem, config, split_keys(problem, config))
    shapes = _output_shapes(problem, spec, grid[1])
    return Launch(
        grid=grid,
        threadgroup=(spec.threads, 1, 1),
        sizes=Sizes.of(spec, _sizes(problem, config)),
        output_shapes=shapes,
        output_dtypes=(spec.out, *(FLOAT32,) * (len(shapes) - 1)),
    )


def _output_shapes(problem: AttentionProblem, spec: Spec, splits: int) -> tuple[Shape, ...]:
    if not spec.split:
        return forward_outputs(problem)[0]
    rows = problem.batch * problem.num_heads * problem.q_len
    per_row = ((splits, rows), (splits, rows)) if spec.softmax else ()
    return ((splits, rows, problem.value_dim), *per_row)


def variant_problems() -> Iterator[AttentionProblem]:
    """Yield small problems that together reach every flag of the text."""
    for i, q in enumerate(FLOATS):
        for j, k in enumerate(FLOATS):
            yield _variant(q=q, k=k, v=FLOATS[(i + j) % 3])
    for head_dim, value_dim in ((1, 7), (40, 72), (64, 64), (128, 128), (192, 128), (256, 256)):
        yield _variant(head_dim=head_dim, value_dim=value_dim)
    for out in FLOATS:
        yield _variant(out=out, return_lse=True, sinks=out)
    for q_len in (5, 17):
        yield _variant(q_len=q_len)
    for softmax in (True, False):
        for mask in (BOOL, *FLOATS):
            kind = MaskKind.BOOLEAN if mask is BOOL else MaskKind.ADDITIVE
            yield _variant(mask_kind=kind, mask=mask, softmax=softmax)
        for window in (None, 201):
            yield _variant(mask_kind=MaskKind.CAUSAL, window=window, softmax=softmax)
        yield _variant(softmax=softmax)
    yield _variant(mask_kind=MaskKind.ADDITIVE, mask=FLOAT32, return_norm=True)
    yield _variant(head_dim=128, pe_dim=64, value_dim=128, pe=(BFLOAT16, FLOAT16))
    yield _variant(head_dim=512, pe_dim=64, value_dim=512, pe=(FLOAT32, FLOAT16), v=FLOAT16)
    yield _variant(pe_dim=9, pe=(FLOAT16, FLOAT32), sinks=FLOAT16)


def _variant(q_len: int = 3, **options: Any) -> AttentionProblem:  # noqa: ANN401
    return variant(q_len=q_len, kv_len=270, **options)


KERNEL = Kernel(
    name=NAME,
    problem_type=AttentionProblem,
    candidates=candidates,
    reject=reject,
    cost=cost,
    plan=plan,
    variant_problems=variant_problems,
)

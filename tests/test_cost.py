"""The model behaves like a machine, and prices MLX by MLX's rules."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from cases import price_of
from hypothesis import given
from hypothesis import strategies as st

from mlx_tilegemm import dispatch
from mlx_tilegemm.core.dtypes import BFLOAT16, BOOL, FLOAT16, FLOAT32, FLOATS, INT8
from mlx_tilegemm.families.attention import price as mlx_sdpa
from mlx_tilegemm.families.attention.problem import MaskKind, attention_problem
from mlx_tilegemm.families.attention.work import AttentionTile, attention_work
from mlx_tilegemm.families.gemm.kernels import gemm_simdgroup
from mlx_tilegemm.families.gemm.problem import gemm_problem
from mlx_tilegemm.machine import chips, mlx_products, products
from mlx_tilegemm.machine.cost import (
    DRAM_SHARE,
    TileWork,
    estimate,
    kept_share,
    resident_threadgroups,
    seconds,
    streamed_bytes,
)
from mlx_tilegemm.machine.lines import LINE_BYTES, lines_touched, step_bytes_in_flight
from mlx_tilegemm.machine.products import GemmTile

M1, M1_MAX, M2_ULTRA = (chips.get(name) for name in ("m1", "m1-max", "m2-ultra"))
M3_MAX, M4, M4_MAX = (chips.get(name) for name in ("m3-max", "m4", "m4-max"))
M5, M5_MAX = chips.get("m5"), chips.get("m5-max")


def gemm_work(problem, tile, chip):
    return products.gemm_work(problem.product, tile, chip)


TILE = GemmTile(block_m=64, block_n=64, block_k=16, simdgroups_m=2, simdgroups_n=2, staged=True)


def gemm(m, n, k, *, a=FLOAT16, b=FLOAT16, batch=(), transpose_b=True, **options):
    return gemm_problem(
        "matmul",
        a_shape=(*batch, m, k),
        b_shape=(*batch, n, k) if transpose_b else (*batch, k, n),
        a=a,
        b=b,
        transpose_a=False,
        transpose_b=transpose_b,
        **options,
    )


def attention(q_len=1024, kv_len=1024, dim=128, *, value_dim=None, heads=(8, 8), **options):
    defaults = {"softmax": True, "mask_kind": MaskKind.NONE} | options
    dtypes = {name: defaults.pop(name, FLOAT16) for name in ("q", "k", "v")}
    return attention_problem(
        "attention_chain",
        q_shape=(1, heads[0], q_len, dim),
        k_shape=(1, heads[1], kv_len, dim),
        v_shape=(1, heads[1], kv_len, value_dim or dim),
        **dtypes,
        **defaults,
    )


chip_strategy = st.sampled_from(chips.CHIPS)
sizes = st.integers(1, 3000)
work_strategy = st.builds(
    TileWork,
    tiles=st.integers(1, 5000),
    simdgroups=st.sampled_from((1, 2, 4, 8)),
    chains=st.sampled_from((1, 4, 16)),
    issue_cycles=st.floats(1, 1e6),
    alu_cycles=st.floats(0, 1e6),
    threadgroup_bytes=st.floats(0, 1e7),
    fragment_bytes=st.floats(0, 1e7),
    vector_bytes=st.floats(0, 1e7),
    repeated_bytes=st.floats(0, 1e7),
    cache_bytes=st.floats(0, 1e7),
    line_bytes=st.floats(0, 1e8),
    dram_bytes=st.floats(0, 1e9),
    waits=st.integers(0, 1000),
    registers=st.integers(10, 127),
    threadgroup_memory=st.integers(0, 32768),
    shared_bytes=st.floats(0, 1e8),
    prefetched=st.booleans(),
    barriers=st.booleans(),
    exposed_share=st.none(),
)


class TestMonotonicity:
    @given(
        work=work_strategy,
        chip=chip_strategy,
        field=st.sampled_from(
            (
                "tiles",
                "issue_cycles",
                "alu_cycles",
                "threadgroup_bytes",
                "fragment_bytes",
                "vector_bytes",
                "repeated_bytes",
                "cache_bytes",
                "line_bytes",
                "dram_bytes",
                "waits",
                "registers",
                "shared_bytes",
            )
        ),
        factor=st.integers(2, 5),
    )
    def test_more_work_never_takes_less(self, work, chip, field, factor):
        more = work._replace(**{field: getattr(work, field) * factor})
        assert seconds(more, chip) >= seconds(work, chip) * (1 - 1e-12)

    @given(work=work_strategy, chip=chip_strategy)
    def test_prefetching_and_missing_barriers_never_hurt_a_wait(self, work, chip):
        plain = estimate(work._replace(prefetched=False, barriers=True), chip)
        ahead = estimate(work._replace(prefetched=True, barriers=True), chip)
        assert ahead.waiting <= plain.waiting
        assert ahead.busy == plain.busy

    @given(work=work_strategy, chip=chip_strategy)
    def test_a_better_chip_is_never_slower(self, work, chip):
        for name, factor in (
            ("clock_hz", 2),
            ("cores", 2),
            ("dram_bytes_per_second", 2),
            ("l2_bytes", 2),
            ("memory_latency_seconds", 0.5),
            ("mma_cycles", 0.9),
        ):
            better = replace(chip, **{name: getattr(chip, name) * factor})
            assert seconds(work, better) <= seconds(work, chip) * (1 + 1e-12), name

    @given(m=sizes, n=sizes, k=sizes, chip=chip_strategy, grown=st.sampled_from("mnk"))
    def test_a_larger_product_never_takes_less(self, m, n, k, chip, grown):
        small, size = gemm(m, n, k), {"m": m, "n": n, "k": k}
        large = gemm(**(size | {grown: 2 * size[grown]}))
        assert seconds(gemm_work(large, TILE, chip), chip) >= seconds(
            gemm_work(small, TILE, chip), chip
        ) * (1 - 1e-12)

    @given(length=st.integers(1, 4096), chip=chip_strategy)
    def test_a_causal_mask_never_costs(self, length, chip):
        tile = AttentionTile(
            simdgroups=4, block_kv=32, staged=True, registers=80, threadgroup_memory=9000
        )
        full, causal = (
            seconds(attention_work(attention(length, length, mask_kind=kind), tile, chip), chip)
            for kind in (MaskKind.NONE, MaskKind.CAUSAL)
        )
        assert causal <= full
        if length >= 2048:
            assert causal < 0.6 * full


class TestLimits:
    @given(m=sizes, n=sizes, k=sizes, a=st.sampled_from(FLOATS), chip=chip_strategy)
    def test_nothing_beats_the_machine(self, m, n, k, a, chip):
        problem = gemm(m, n, k, a=a)
        least = problem.m * problem.n * problem.out.bytes + problem.nbytes("b")
        for one in dispatch.choose(problem, chip).candidates:
            if one.seconds is not None:
                assert one.seconds > chip.launch_seconds
                assert one.seconds > 2 * m * n * k / chip.peak_flops
                assert one.seconds > least / chip.dram_bytes_per_second

    def test_a_large_product_nears_the_ceiling_of_its_instructions(self):
        for chip in (M1_MAX, M4_MAX):
            problem = gemm(4096, 4096, 4096, a=FLOAT16, b=FLOAT16)
            best = min(one.seconds for one in dispatch.choose(problem, chip).candidates if one.plan)
            share = 2 * 4096**3 / best / chip.peak_flops
            assert 0.75 < share < 16 / chip.mma_cycles

    def test_one_row_runs_at_the_speed_of_memory(self):
        problem = gemm(1, 8192, 8192)
        least = 2 * 8192 * 8192 / (DRAM_SHARE * M1_MAX.dram_bytes_per_second)
        best = min(one.seconds for one in dispatch.choose(problem, M1_MAX).candidates if one.plan)
        assert least < best < 1.25 * least

    def test_a_launch_costs_at_least_its_launch(self):
        assert seconds(gemm_work(gemm(8, 8, 8), TILE, M1), M1) > M1.launch_seconds

    def test_spilled_registers_cost_ten_times(self):
        work = gemm_work(gemm(4096, 4096, 4096), replace(TILE, registers=127), M4)
        spilled = gemm_work(gemm(4096, 4096, 4096), replace(TILE, registers=128), M4)
        assert seconds(spilled, M4) > 7 * seconds(work, M4)

    @pytest.mark.parametrize(
        ("registers", "memory", "held"),
        [(40, 0, 8), (72, 8192, 5), (128, 0, 3), (40, 20000, 3), (200, 32768, 1)],
    )
    def test_registers_and_threadgroup_memory_limit_what_a_core_holds(
        self, registers, memory, held
    ):
        tile = replace(TILE, registers=registers, threadgroup_memory=memory)
        assert resident_threadgroups(gemm_work(gemm(64, 64, 64), tile, M1), M1) == held

    def test_a_wave_that_is_not_full_costs_as_much(self):
        def time(tiles):
            work = gemm_work(gemm(64, 64 * tiles, 8192), TILE, M4)
            return estimate(work, M4).arithmetic

        assert time(10) == pytest.approx(time(1), rel=4)
        assert time(11) == time(20)
        assert time(21) > time(20)

    def test_few_threadgroups_wait_and_many_are_busy(self):
        few = estimate(gemm_work(gemm(64, 64, 8192), TILE, M1_MAX), M1_MAX)
        many = estimate(gemm_work(gemm(4096, 4096, 8192), TILE, M1_MAX), M1_MAX)
        assert (few.bound, many.bound) == ("waiting", "arithmetic")

    def test_a_cache_keeps_all_up_to_its_size_and_nothing_of_an_endless_sweep(self):
        assert kept_share(0.0) == kept_share(1.0) == 1.0
        assert kept_share(1.0 + 1e-9) == pytest.approx(1.0, abs=1e-6)
        assert kept_share(1e9) == 0.0

    @pytest.mark.parametrize("sweep", [1.1, 1.5, 2.0, 4.0])
    def test_a_cache_that_replaces_at_random_keeps_what_the_formula_says(self, sweep):
        rng, size = Random(0), 2000
        lines = [-1] * size
        place: dict[int, int] = {}
        hits = 0
        for turn in range(20):
            for line in range(int(sweep * size)):
                if line in place:
                    hits += turn >= 10
                    continue
                slot = rng.randrange(size)
                place.pop(lines[slot], None)
                lines[slot], place[line] = line, slot
        assert hits / (10 * int(sweep * size)) == pytest.approx(kept_share(sweep), abs=0.02)

    def test_what_the_shared_cache_loses_is_read_from_the_next_in_whole_lines(self):
        work = TileWork(
            tiles=32,
            simdgroups=4,
            chains=4,
            issue_cycles=1,
            threadgroup_bytes=0,
            cache_bytes=1e6,
            dram_bytes=0,
            line_bytes=2e6,
        )
        kept, lost = (
            estimate(work._replace(shared_bytes=size), M1_MAX).l2 * M1_MAX.clock_hz
            for size in (M1_MAX.l2_bytes, 1e15)
        )
        assert kept == pytest.approx(1e6 / M1_MAX.l2_bytes_per_cycle)
        assert lost == pytest.approx(2e6 / M1_MAX.slc_bytes_per_cycle)

    def test_what_the_last_cache_keeps_is_read_once(self):
        shape = {"tiles_m": 64, "tiles_n": 64, "wave": 64, "chip": M4}
        kept = {"a_bytes": 1e6, "b_bytes": 1e6, "out_bytes": 1e6}
        assert streamed_bytes(**kept, **shape, panel=1) == 3e6
        large = {"a_bytes": 1e8, "b_bytes": 1e8, "out_bytes": 0.0}
        once, panels = (streamed_bytes(**large, **shape, panel=panel) for panel in (1, 4))
        assert once > 10 * panels / 4 > 2e8


class TestWhatIsCounted:
    def test_emulated_bfloat16_costs_and_native_does_not(self):
        for chip, costs in ((M1, True), (M4, False)):
            half, brain = (
                seconds(gemm_work(gemm(2048, 2048, 2048, a=one, b=one), TILE, chip), chip)
                for one in (FLOAT16, BFLOAT16)
            )
            assert (brain > half) == costs

    def test_narrow_operands_cost_less_than_wide_ones(self):
        narrow, mixed, wide = (
            seconds(gemm_work(gemm(2048, 2048, 2048, a=a, b=b), TILE, M1), M1)
            for a, b in ((FLOAT16, FLOAT16), (FLOAT16, FLOAT32), (FLOAT32, FLOAT32))
        )
        assert narrow < mixed < wide

    def test_edges_cost_whole_blocks(self):
        work = gemm_work(gemm(65, 64, 64), TILE, M1)
        assert work.tiles == gemm_work(gemm(128, 64, 64), TILE, M1).tiles == 2

    @pytest.mark.parametrize("row_bytes", [16, 24, 32, 48, 64, 96, 128, 160, 192, 256])
    def test_rows_touch_as_many_lines_as_counted_one_by_one(self, row_bytes):
        starts = range(0, 3 * LINE_BYTES * row_bytes, row_bytes)
        touched = [
            (start + row_bytes - 1) // LINE_BYTES - start // LINE_BYTES + 1 for start in starts
        ]
        assert lines_touched(row_bytes) == pytest.approx(sum(touched) / len(touched))

    def test_threadgroups_that_run_together_share_the_lines_of_their_rows_and_columns(self):
        # A wave of 16 in a row of 16 blocks, in panels of four, and of a batch of small matrices.
        assert step_bytes_in_flight(1.0, 100.0, (1, 16, 16), 16, 1) == 1 + 16 * 100
        assert step_bytes_in_flight(1.0, 100.0, (1, 16, 16), 16, 4) == 4 + 4 * 100
        assert step_bytes_in_flight(1.0, 100.0, (8, 2, 2), 16, 1) == 4 * (2 + 2 * 100)
        assert step_bytes_in_flight(1.0, 100.0, (1, 2, 2), 16, 4) == 2 + 2 * 100

    def test_short_rows_cost_once_a_step_is_more_than_the_shared_cache_holds(self):
        wide, narrow = gemm(128, 14336, 4096), gemm(128, 14336, 4096, transpose_b=False)
        assert estimate(gemm_work(wide, TILE, M1_MAX), M1_MAX).bound == "l2"
        assert estimate(gemm_work(narrow, TILE, M1_MAX), M1_MAX).bound == "arithmetic"
        panels = gemm_work(wide, replace(TILE, panel=4), M1_MAX)
        assert seconds(panels, M1_MAX) < 0.9 * seconds(gemm_work(wide, TILE, M1_MAX), M1_MAX)
        assert estimate(gemm_work(wide, TILE, M4_MAX), M4_MAX).bound == "arithmetic"

    @pytest.mark.parametrize("chip", [M1, M1_MAX, M4], ids=lambda chip: chip.name)
    def test_a_wide_product_keeps_its_tile_and_walks_in_panels(self, chip):
        problem = gemm(128, 14336, 4096, transpose_b=chip is M1_MAX)
        plan = dispatch.choose(problem, chip, mlx_competes=True).plan
        assert str(plan.config) == "64x64x16-2x2-staged-swizzle4"

    def test_the_literal_chain_has_no_softmax_to_pay(self):
        tile = AttentionTile(
            simdgroups=4, block_kv=32, staged=True, registers=80, threadgroup_memory=9000
        )
        chain, softmax = (
            attention_work(attention(softmax=softmax), tile, M1).alu_cycles
            for softmax in (False, True)
        )
        assert 0 < chain < softmax / 2

    def test_config_and_model_agree_on_the_tile(self):
        problem = gemm(2048, 2048, 2048)
        for config in gemm_simdgroup.candidates(problem, M1):
            assert gemm_simdgroup.cost(problem, config, M1) > 0


class TestMlxPaths:
    @pytest.mark.parametrize(
        ("problem", "chip", "path"),
        [
            (gemm(1, 4096, 4096), M1, "gemv"),
            (gemm(1, 1, 4096), M1, "dot-product"),
            (gemm(1, 1, 4096, batch=(2,)), M1, "gemv"),
            (gemm(4096, 1, 4096), M4, "gemv"),
            (gemm(8, 4096, 4096), M4, "gemv-wide"),
            (gemm(8, 4096, 4096), M1, "steel-split-k-16x32x16-2x2-split2"),
            (gemm(8, 8192, 4096), M1, "steel-64x32x32-2x2"),
            (gemm(16, 8192, 4096), M4, "steel-64x32x32-2x2"),
            (gemm(512, 4096, 4096), M1, "steel-64x32x32-2x2"),
            (gemm(512, 4096, 4096, transpose_b=False), M1, "steel-64x64x16-1x2"),
            (
                gemm(512, 4096, 4096, a=FLOAT32, b=FLOAT32, transpose_b=False),
                M1,
                "steel-64x64x16-2x2",
            ),
            (gemm(512, 4096, 4096), M4_MAX, "steel-64x64x16-2x2"),
            (gemm(512, 4096, 4096), M2_ULTRA, "steel-64x64x16-1x2"),
            (gemm(1024, 1024, 4096), M2_ULTRA, "steel-64x32x32-2x2"),
            (gemm(1024, 1024, 4096, transpose_b=False), M2_ULTRA, "steel-32x64x16-1x2"),
            (gemm(512, 512, 256), M2_ULTRA, "steel-64x32x32-2x2"),
            (
                gemm(512, 512, 256, a=FLOAT32, b=FLOAT32),
                M2_ULTRA,
                "steel-32x64x16-1x2",
            ),
            (gemm(64, 64, 4096), M1, "steel-split-k-32x32x16-2x2-split32"),
            (gemm(32, 64, 4096), M1, "steel-split-k-16x32x16-2x2-split32"),
            (gemm(512, 512, 512), M1, "steel-split-k-32x32x16-2x2-split2"),
            (gemm(512, 512, 512, batch=(2,)), M1, "steel-64x32x32-2x2"),
            (gemm(2048, 2048, 2048), M5, "neural-128x128"),
            (gemm(2048, 2048, 2048), M5_MAX, "neural-64x128"),
            (gemm(1024, 1024, 2048), M5_MAX, "neural-64x128"),
            (gemm(1000, 1000, 2001), M5_MAX, "neural-64x64-split2"),
            (gemm(300, 300, 1000), M5_MAX, "neural-64x64-split2"),
            (gemm(2048, 2048, 8192), M5_MAX, "neural-128x128-split2"),
            (gemm(2048, 2048, 8192, batch=(2,)), M5_MAX, "neural-64x128"),
            (gemm(128, 128, 16384), M5_MAX, "neural-64x64-split4"),
            (gemm(0, 8, 8), M1, "fill"),
        ],
    )
    def test_products(self, problem, chip, path):
        assert price_of(problem, chip).path == path

    def test_a_wide_gemv_reads_its_matrix_again_for_every_five_rows(self):
        for m, passes in ((2, 1), (5, 1), (6, 2), (10, 2), (11, 3), (15, 3)):
            work = mlx_products.wide_gemv_work(gemm(m, 4096, 4096).product, M3_MAX)
            assert work.tiles == passes * 4096 // 4
            matrix, rows = 2 * 4 * 4096, 2 * -(-m // passes) * 4096
            assert work.cache_bytes + work.vector_bytes == matrix + work.simdgroups * rows
            assert matrix < work.cache_bytes < matrix + rows
        wide = mlx_products.wide_gemv_work(gemm(10, 65536, 4096).product, M3_MAX)
        assert wide.tiles == 65536 // 4

    @pytest.mark.parametrize(
        ("keys", "simdgroups", "chip", "blocks"),
        [
            (4096, 1, M4, 32),
            (4096, 4, M4, 64),
            (4096, 4, M4_MAX, 64),
            (1024, 8, M4_MAX, 64),
            (8192, 8, M4_MAX, 128),
            (8193, 8, M4_MAX, 256),
            (65536, 8, M4_MAX, 512),
            (65537, 8, M4_MAX, 1024),
            (8192, 1, M2_ULTRA, 128),
            (16384, 1, M2_ULTRA, 256),
            (16384, 4, M2_ULTRA, 128),
            (16384, 8, M2_ULTRA, 512),
            (65536, 8, M2_ULTRA, 1024),
        ],
    )
    def test_blocks_of_keys(self, keys, simdgroups, chip, blocks):
        assert mlx_sdpa.key_blocks(keys, simdgroups, chip) == blocks

    @pytest.mark.parametrize(
        ("problem", "chip", "path"),
        [
            (attention(), M1, "sdpa-full"),
            (attention(), M5_MAX, "sdpa-neural, in TF32"),
            (attention(dim=80), M5_MAX, "sdpa-full"),
            (attention(dim=256, mask_kind=MaskKind.CAUSAL), M5_MAX, "sdpa-neural, in TF32"),
            (
                attention(dim=256, mask_kind=MaskKind.CAUSAL),
                M4_MAX,
                "chain, 37748736 bytes of copies",
            ),
            (
                attention(dim=256),
                M5_MAX,
                "chain, in TF32, 37748736 bytes of copies",
            ),
            (
                attention(1023, dim=256, mask_kind=MaskKind.CAUSAL),
                M5_MAX,
                "chain, in TF32, 37736448 bytes of copies",
            ),
            (attention(1, 512), M1, "sdpa-vector-1-pass"),
            (attention(1, 4096), M4_MAX, "sdpa-vector-2-pass"),
            (attention(1, 4096, heads=(8, 2)), M1, "sdpa-vector-2-pass"),
            (attention(8, 512, heads=(8, 1)), M1, "chain, 835584 bytes of copies"),
            (attention(mask_kind=MaskKind.CAUSAL), M1, "sdpa-full"),
            (attention(dim=64, value_dim=64, kv_len=0), M1, "fill"),
        ],
    )
    def test_attentions(self, problem, chip, path):
        assert price_of(problem, chip).path == path

    @pytest.mark.parametrize(
        "options",
        [
            {"dim": 40},
            {"dim": 256},
            {"softmax": False},
            {"return_lse": True},
        ],
    )
    def test_what_the_fused_attention_cannot_give_is_a_chain(self, options):
        problem = attention(**options)
        assert not mlx_sdpa.serves_attention(problem, M1)
        assert price_of(problem, M1).path.startswith("chain")

    @pytest.mark.parametrize(
        ("options", "copied"),
        [
            ({"out": FLOAT32}, True),
            ({"v": FLOAT32}, True),
            ({"mask_kind": MaskKind.CAUSAL, "q_len": 1025}, False),
            ({"mask_kind": MaskKind.CAUSAL, "window": 64}, False),
            ({"mask_kind": MaskKind.BOOLEAN, "mask": BOOL, "mask_shape": (1024, 1024)}, False),
            ({"sinks": FLOAT16, "sinks_shape": (8,)}, False),
            ({"sinks": FLOAT32, "sinks_shape": (8,)}, True),
        ],
    )
    def test_the_fused_attention_is_had_by_casts_and_masks(self, options, copied):
        plain = price_of(attention(), M1)
        price = price_of(attention(**options), M1)
        assert price.path.startswith("sdpa-full")
        assert (price.copied_bytes > 0) is copied
        made = copied or "window" in options or "mask" in options
        assert (price.seconds > plain.seconds) is bool(made)

    def test_positional_parts_are_joined_for_the_fused_attention(self):
        shapes = {"q_pe_shape": (1, 8, 1, 64), "k_pe_shape": (1, 8, 1024, 64)}
        parts = attention(1, **shapes, q_pe=FLOAT16, k_pe=FLOAT16)
        joined = attention(1, dim=192, value_dim=128)
        assert price_of(parts, M1).path == price_of(joined, M1).path == "sdpa-vector-1-pass"
        assert price_of(parts, M1).seconds > price_of(joined, M1).seconds

    def test_copies_are_charged(self):
        same = price_of(gemm(64, 4096, 4096, a=FLOAT32, b=FLOAT32), M1_MAX)
        mixed = price_of(gemm(64, 4096, 4096, a=FLOAT32, b=FLOAT16), M1_MAX)
        copied = 4096 * 4096 * (2 + 4)
        assert (same.copied_bytes, mixed.copied_bytes) == (0, copied)
        moving = copied / (DRAM_SHARE * M1_MAX.dram_bytes_per_second)
        assert mixed.seconds - same.seconds == pytest.approx(moving + M1_MAX.launch_seconds)

    def test_a_result_of_another_type_is_computed_in_float32(self):
        price = price_of(gemm(64, 64, 64, out=FLOAT32), M1)
        assert price.copied_bytes == 2 * 64 * 64 * (2 + 4)

    def test_integers_are_not_multiplied_on_the_gpu(self):
        assert price_of(gemm(64, 64, 64, a=INT8, b=INT8), M1) is None

    def test_rows_that_must_not_depend_on_their_number_are_not_left_to_it(self):
        problem = gemm(64, 64, 64, batch_invariant=True)
        assert price_of(problem, M1) is None


class TestCompetition:
    @pytest.mark.parametrize("chip", [M1, M1_MAX, M2_ULTRA, M4, M4_MAX], ids=lambda chip: chip.name)
    @pytest.mark.parametrize("m", [1, 8, 64, 512, 4096])
    def test_mixed_products_are_ours_without_neural_accelerators(self, chip, m):
        problem = gemm(m, 4096, 4096, a=FLOAT16, b=FLOAT32)
        assert dispatch.choose(problem, chip, mlx_competes=True).plan is not None

    @pytest.mark.parametrize("m", [64, 512, 4096])
    @pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16])
    def test_products_of_one_narrow_type_are_mlx_on_neural_accelerators(self, m, dtype):
        problem = gemm(m, 4096, 4096, a=dtype, b=dtype)
        decision = dispatch.choose(problem, M5_MAX, mlx_competes=True)
        assert decision.route == dispatch.MLX
        assert "MLX's own ops are modelled to be faster" in decision.reason
        assert str(decision.mlx) in decision.reason

    def test_float32_stays_float32_where_that_is_asked_for(self):
        problem = gemm(4096, 4096, 4096, a=FLOAT32, b=FLOAT32, exact=True)
        assert price_of(problem, M5_MAX).reduced
        assert price_of(problem, M5_MAX).path == "neural-64x128, in TF32"
        assert not price_of(problem, M4_MAX).reduced
        decision = dispatch.choose(problem, M5_MAX, mlx_competes=True)
        assert decision.mlx.seconds < min(one.seconds for one in decision.candidates if one.plan)
        assert decision.plan is not None
        assert "TF32" in decision.mlx.reason
        reduced = dispatch.choose(replace(problem, exact=False), M5_MAX, mlx_competes=True)
        assert reduced.plan is None
        assert reduced.mlx.seconds == decision.mlx.seconds

    def test_float32_meets_mlx_where_that_does_not_round_it(self):
        problem = gemm(4096, 4096, 4096, a=FLOAT32, b=FLOAT32)
        exact = replace(M5_MAX, neural_float32_fma_per_cycle=0)
        decision = dispatch.choose(problem, exact, mlx_competes=True)
        assert str(decision.mlx) == "mlx/steel-64x64x16-2x2"
        assert decision.mlx.reason is None
        assert decision.mlx_competes
        narrow = gemm(4096, 4096, 4096, a=FLOAT16, b=FLOAT16)
        assert dispatch.choose(narrow, exact, mlx_competes=True).route == dispatch.MLX

    def test_results_beyond_the_edge_are_not_computed_on_the_accelerators(self):
        few, more = (price_of(gemm(m, 4096, 4096), M5).seconds for m in (1056, 1152))
        assert few == pytest.approx(more * 1056 / 1152, rel=0.02)

    def test_only_attention_on_the_accelerators_is_less_exact(self):
        rows = {"q": FLOAT32, "k": FLOAT32, "v": FLOAT32}
        assert price_of(attention(**rows), M5_MAX).reduced
        assert not price_of(attention(q_len=1, **rows), M5_MAX).reduced
        assert not price_of(attention(dim=80, **rows), M5_MAX).reduced

    def test_a_tie_is_ours(self):
        problem = gemm(4096, 4096, 4096, a=FLOAT32, b=FLOAT32)
        decision = dispatch.choose(problem, M4_MAX, mlx_competes=True)
        assert decision.plan is not None

    @given(
        m=sizes,
        n=sizes,
        k=sizes,
        a=st.sampled_from(FLOATS),
        b=st.sampled_from(FLOATS),
        chip=chip_strategy,
    )
    def test_none_of_ours_is_chosen_that_is_expected_to_be_slower(self, m, n, k, a, b, chip):
        decision = dispatch.choose(gemm(m, n, k, a=a, b=b), chip, mlx_competes=True)
        if decision.plan is not None and decision.mlx_competes:
            chosen = next(one for one in decision.candidates if one.plan == decision.plan)
            fastest = min(one.seconds for one in decision.candidates if one.plan)
            assert chosen.seconds <= max(fastest, decision.mlx.seconds)
            assert fastest <= dispatch.RESOLUTION * decision.mlx.seconds

    def test_only_asked_for_does_it_compete(self):
        problem = gemm(4096, 4096, 4096)
        assert dispatch.choose(problem, M5_MAX).plan is not None
        assert dispatch.choose(problem, M5_MAX).mlx is not None

    def test_forcing_any_kernel_or_one_leaves_mlx_out(self):
        problem = gemm(4096, 4096, 4096)
        for force in (dispatch.ANY, "gemm_scalar"):
            assert dispatch.choose(problem, M5_MAX, force, mlx_competes=True).plan is not None

    def test_where_no_kernel_may_serve_any_is_mlx(self):
        decision = dispatch.choose(gemm(64, 0, 64), M4, dispatch.ANY)
        assert decision.route == dispatch.MLX
        assert "the result is empty" in decision.reason

    def test_what_is_refused_later_does_not_bring_mlx_back(self):
        problem = gemm(512, 4096, 4096, a=FLOAT16, b=FLOAT32)
        decision = dispatch.choose(problem, M1_MAX, mlx_competes=True)
        left = dispatch.refuse(
            decision, problem, None, refused="gemm_simdgroup", reason="it failed"
        )
        assert left.mlx == decision.mlx
        assert left.mlx_competes

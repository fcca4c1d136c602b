"""The comparison of counts with MLX's kernels runs, and its report is of its own numbers."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import mlx
import pytest

from mlx_tilegemm.core.family import Data
from mlx_tilegemm.dispatch import choose
from mlx_tilegemm.families import family_of
from mlx_tilegemm.families.experts.spelling import parse as experts_spec
from mlx_tilegemm.families.gemm.spelling import parse as matmul_spec
from mlx_tilegemm.families.quantized.price import vector_rows, vector_work
from mlx_tilegemm.families.quantized.spelling import parse as quantized_spec
from mlx_tilegemm.machine import chips
from mlx_tilegemm.machine.mlx_products import wide_gemv_work

BENCH = Path(__file__).parent.parent / "bench"
STEEL = Path(next(iter(mlx.__path__))) / "include/mlx/backend/metal/kernels/steel"
needs_headers = pytest.mark.skipif(not STEEL.exists(), reason="this MLX ships no kernel headers")


@pytest.fixture
def counters(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    import counters

    return counters


@pytest.fixture
def rows(counters):
    kept = json.loads((BENCH / "results" / "counters.json").read_text())
    return [counters.row_of(row) for row in kept]


def test_the_written_report_is_of_the_kept_counts(counters, rows):
    text = (BENCH / "results" / "counters.md").read_text()
    version = re.search(r"\(mlx ([0-9.]+)\)", text)[1]
    assert text == counters.markdown(rows, version)
    assert len(rows) >= 12


def test_every_family_is_one_entry(counters, rows):
    cases = counters.cases_to_count()
    assert len({case.name for case in cases}) == len(cases)
    described = {case.name: counters.describe(case.problem) for case in cases}
    assert {row.name: described.get(row.name) for row in rows} == {
        row.name: row.text for row in rows
    }


@pytest.mark.parametrize(
    "text", ["64x128x256:bf16,f32:e4m3-128x128", "4x2x4x128x256:bf16,f32:e4m3-128x128"]
)
def test_codes_by_blocks_are_compared_with_a_copy(counters, text):
    parse = counters.FAMILIES[4 if text.startswith("4x") else 3].parse
    problem = parse(text)
    arrays = family_of(problem).draw(problem, Data(exact=True))
    rival, dense = counters.counted(problem).rival(problem, arrays)
    assert rival == counters.compared(problem)
    family = family_of(rival)
    out = family.fallback(rival)(dense, family.trial_factors(rival), None)[0]
    counters.check(problem, arrays, counters.floats(out))


def test_rows_of_the_same_sources_are_not_counted_again(counters, rows, monkeypatch, tmp_path):
    chip, keep = chips.get("m1-max"), tmp_path / "rows"
    case = counters.cases_to_count()[0]
    done = []

    def count_row(case, chip):
        done.append(case.name)
        return rows[0]

    monkeypatch.setattr(counters, "count_row", count_row)
    assert counters.counted_row(case, chip, keep) == rows[0]
    assert counters.counted_row(case, chip, keep) == rows[0]
    assert done == ["square f32"]
    monkeypatch.setattr(counters, "_sources", lambda: "others")
    counters.counted_row(case, chip, keep)
    counters.counted_row(case, chip, None)
    assert len(done) == 3


def test_the_first_screen_counts_every_row(rows):
    text = (BENCH / "results" / "counters.md").read_text().partition("## How it was counted")[0]
    table = re.findall(r"^\| ([a-z ]+) \| (\d+) \| (\d+) \| (\d+) \|", text, re.MULTILINE)
    assert len(table) == 4
    assert all(sum(map(int, counts)) == len(rows) for _, *counts in table)
    faster = sum(row.ours.seconds < 0.995 * row.mlx.seconds for row in rows)
    assert ("modelled time", str(faster)) in [line[:2] for line in table]


def test_ours_moves_no_more_or_is_modelled_no_slower(counters, rows):
    """Or is not what runs: MLX's own op is chosen then, wherever it competes.

    Of codes that MLX has no kernel of, what it does with a copy is compared by its bytes alone.
    """
    problems = {case.name: case.problem for case in counters.cases_to_count()}
    for row in rows:
        below = row.ours.device_bytes <= 1.005 * row.mlx.device_bytes
        if row.mlx.path.endswith("copy"):
            assert below, row.name
            continue
        below = below and row.ours.threadgroup_bytes <= 1.005 * row.mlx.threadgroup_bytes
        if not below and row.ours.seconds > 1.1 * row.mlx.seconds:
            chosen = choose(problems[row.name], chips.get(row.chip), mlx_competes=True)
            assert chosen.plan is None, row.name


def test_low_bits_ask_for_no_more_than_mlx(rows):
    """Dense and with experts; where MLX casts operands first, for much less."""
    found = [row for row in rows if row.name.startswith(("quantized", "fp8", "experts"))]
    assert len(found) == 50
    for row in found:
        share = row.ours.device_bytes / row.mlx.device_bytes
        assert share <= (0.6 if "cast" in row.mlx.path else 1.0), row.name


@pytest.mark.slow
@needs_headers
def test_a_mixed_product_is_counted_with_mlx_s_cast(counters):
    problem = matmul_spec("64x128x48:f16,f32:nt")
    case = counters.Case(name="small", problem=problem, sample=0)
    row = counters.count_row(case, chips.get("m1-max"))
    assert row.mlx.path == "steel-64x64x16-2x2, 1 cast"
    assert row.mlx.launches == 2
    assert row.mlx.useful == 1
    copied = 64 * 48 * (2 + 4)
    loaded = (64 + 64) * 48 * 4 * 2
    stored = 64 * 128 * 4
    assert row.mlx.device_bytes == copied + loaded + stored


@pytest.mark.slow
@needs_headers
def test_decode_is_counted_with_mlx_s_gemv(counters):
    problem = matmul_spec("1x256x512:bf16:nt")
    case = counters.Case(name="small", problem=problem, sample=0)
    row = counters.count_row(case, chips.get("m1-max"))
    assert row.mlx.path == "gemv"
    assert row.mlx.useful is None
    # The matrix and the result once; each simdgroup reads the vector for its four results.
    assert row.mlx.device_bytes == 2 * (256 * 512 + 256 // 4 * 512 + 256)


@pytest.mark.slow
@needs_headers
def test_indices_count_alike_in_whichever_memory_they_are_bound(counters):
    """Sizes and strides, of which MLX's kernel has ten, do not count on either side."""
    problem = experts_spec("1x2x4x64x256:bf16")
    case = counters.Case(name="small", problem=problem, sample=0)
    row = counters.count_row(case, chips.get("m1-max"))
    assert row.mlx.path == "gather-gemv"
    simdgroups, bytes_of_an_index = 2 * 64 // 4, 4
    operands = 2 * (2 * 64 * 256 + simdgroups * 256 + 2 * 64)
    # One lane reads the index of a matrix; MLX's all read two, from constant memory.
    assert row.ours.device_bytes == operands + simdgroups * bytes_of_an_index
    assert row.mlx.device_bytes == operands + simdgroups * 32 * 2 * bytes_of_an_index
    # Sixteen rows of w and one of x, and a line of the result and of each index.
    threadgroups = simdgroups // 4
    assert row.ours.line_bytes == threadgroups * 128 * (64 + 4 + 1 + 1)
    assert row.mlx.line_bytes == threadgroups * 128 * (64 + 4 + 1 + 2)


@needs_headers
@pytest.mark.parametrize(
    ("m", "n", "passes", "rows"),
    [
        (2, 40, 1, 2),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in ((5, 256, 1, 5), (6, 256, 2, 3), (11, 256, 3, 4))
        ),
    ],
)
@pytest.mark.slow
def test_few_rows_are_counted_with_mlx_s_wide_gemv(counters, m, n, passes, rows):
    problem = matmul_spec(f"{m}x{n}x512:f16:nt")
    case = counters.Case(name="small", problem=problem, sample=0)
    row = counters.count_row(case, chips.get("m4"))
    assert row.mlx.path == "gemv-wide"
    # Each row of the matrix, once a pass, and beside it the rows that it meets.
    assert row.mlx.device_bytes == 2 * 512 * passes * n * (1 + rows) + 2 * m * n
    work = wide_gemv_work(problem.product, chips.get("m4"))
    assert work.tiles == passes * n / 4
    assert work.cache_bytes + work.vector_bytes == 2 * 512 * (4 + work.simdgroups * rows)


@needs_headers
@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "path", "launches"),
    [("16x64x64", "qmm-32x32x32-2x2", 4), ("16x64x512", "qmm-split-k-32x32x32-2x2-split8", 5)],
)
def test_a_quantized_product_is_counted_with_mlx_s_casts(counters, size, path, launches):
    problem = quantized_spec(f"{size}:bf16,f16:affine4x64")
    case = counters.Case(name="small", problem=problem, sample=0)
    row = counters.count_row(case, chips.get("m1-max"))
    assert row.ours.path.startswith("quantized_")
    assert (row.mlx.path, row.mlx.launches) == (f"{path}, 3 casts", launches)
    assert row.mlx.useful == 0.5
    assert problem.weight_bytes < row.ours.device_bytes < 0.6 * row.mlx.device_bytes


@needs_headers
@pytest.mark.slow
@pytest.mark.parametrize(("weight", "columns"), [("affine4x64", 8), ("mxfp4", 4)])
def test_few_rows_are_counted_with_mlx_s_wide_product(counters, weight, columns):
    problem = quantized_spec(f"8x64x2048:bf16:{weight}")
    chip = chips.get("m4")
    row = counters.count_row(counters.Case(name="small", problem=problem, sample=0), chip)
    assert row.mlx.path == "qmv-wide"
    work = vector_work(problem, problem.x, vector_rows(problem, chip), chip)
    # Two passes of four rows, each of which reads the weight.
    assert work.tiles == 2 * 64 / columns
    # The result is a few lines more.
    assert row.mlx.line_bytes == pytest.approx(work.tiles * work.cache_bytes, rel=0.05)


@needs_headers
@pytest.mark.slow
def test_half_of_a_swizzled_grid_has_no_work(counters):
    problem = matmul_spec("128x14336x128:f16:nt")
    case = counters.Case(name="wide", problem=problem, sample=8)
    row = counters.count_row(case, chips.get("m1-max"))
    assert row.ours.path == "gemm_simdgroup/64x64x16-2x2-staged-swizzle4"
    assert (row.ours.sampled, row.mlx.sampled) == (False, True)
    blocks = 128 // 64 * 14336 // 64
    bytes_moved = 2 * (blocks * (64 + 64) * 128 + 128 * 14336)
    assert row.ours.device_bytes == row.mlx.device_bytes == bytes_moved
    assert row.ours.useful == row.mlx.useful == 1


def test_more_useful_products_than_there_are_is_an_error(rows):
    with pytest.raises(ValueError, match=r"multiply no less than .* 2\.00 times too few"):
        replace(rows[0].ours, useful=2.0)


def test_a_chip_whose_kernels_of_mlx_do_not_run_here_is_refused(counters, capsys):
    with pytest.raises(SystemExit):
        counters.main(["--chip", "m5-max"])
    assert "Expected --chip without neural accelerators, got m5-max" in capsys.readouterr().err

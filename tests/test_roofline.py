"""Rooflines: the points, their labels and the files."""

import re
import sys

import pytest

from mlx_tilegemm.assurance import tuning
from mlx_tilegemm.cli import main, roofline
from mlx_tilegemm.dispatch import ANY, Measurements, Timing, choose
from mlx_tilegemm.families.gemm.spelling import parse as matmul_spec
from mlx_tilegemm.machine import chips

M4 = chips.get("m4")
PRODUCT = matmul_spec("512x4096x4096:f16,f32:nt")
SAME = matmul_spec("512x4096x4096:f16")
DECODE = matmul_spec("1x4096x4096:f16:nt")
DRAWN = ["roofline", "--chip", "m1", "--matmul", "1x4096x4096:f16:nt", "--out"]


def known(problem):
    best = str(choose(problem, M4, ANY).plan)
    timing = Timing(candidate=best, median=2.0, low=1.0, high=3.0)
    return {problem: Measurements(where="a Mac, 2026-01-01", timings=(timing,))}


def test_points_stand_where_the_counts_put_them():
    ours, mlx = roofline.points([PRODUCT], M4, {})
    decision = choose(PRODUCT, M4, ANY)
    (seconds,) = [x.seconds for x in decision.candidates if str(x) == str(decision.plan)]
    flops = 2 * 512 * 4096 * 4096
    moved = 2 * 512 * 4096 + 4 * 4096 * 4096 + 4 * 512 * 4096
    assert ours.intensity == mlx.intensity == flops / moved
    assert ours.rate == pytest.approx(flops / seconds)
    assert mlx.rate == pytest.approx(flops / decision.mlx.seconds)
    assert (ours.series, mlx.series) == (roofline.OURS, roofline.MLX)


@pytest.mark.parametrize("chip", chips.CHIPS, ids=lambda chip: chip.name)
def test_modelled_points_are_under_the_roof(chip):
    for point in roofline.points([PRODUCT, SAME, DECODE], chip, {}):
        neural = point.series == roofline.MLX and chip.neural_flops > 0
        assert point.rate <= roofline.roof(chip, point.intensity, neural=neural)


def test_the_roof_is_the_lower_of_two():
    ridge = M4.peak_flops / M4.dram_bytes_per_second
    assert roofline.roof(M4, ridge / 2) == pytest.approx(M4.peak_flops / 2)
    assert roofline.roof(M4, ridge * 2) == M4.peak_flops


def test_what_is_modelled_is_never_called_measured():
    modelled = roofline.points([PRODUCT], M4, {})
    assert roofline.title(M4, modelled, "") == "m4: modelled, not measured"
    mixed = roofline.points([PRODUCT], M4, known(PRODUCT))
    assert [point.measured for point in mixed] == [True, False]
    assert mixed[0].rate == 2 * 512 * 4096 * 4096 / 2.0
    title = roofline.title(M4, mixed, "a Mac, 2026-01-01")
    assert title == "m4: filled marks measured on a Mac, 2026-01-01, open ones modelled"
    assert roofline.title(M4, mixed[:1], "a Mac") == "m4: measured on a Mac"


def test_nothing_to_draw_is_told(capsys, tmp_path):
    tuning.Shapes().save(tmp_path / "none.json")
    arguments = ["roofline", "--chip", "m1", "--shapes", str(tmp_path / "none.json")]
    assert main([*arguments, "--out", str(tmp_path / "x.svg")]) == 2
    assert "Expected problems of calls, not of derivatives, got none" in capsys.readouterr().err


def test_without_matplotlib_it_says_what_to_install(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main([*DRAWN, str(tmp_path / "x.svg")]) == 2
    assert "pip install matplotlib" in capsys.readouterr().err


class TestFiles:
    @pytest.fixture(autouse=True)
    def matplotlib(self):
        pytest.importorskip("matplotlib")

    def test_an_svg_says_what_it_shows(self, tmp_path):
        path = tmp_path / "x.svg"
        roofline.draw(path, [PRODUCT, DECODE], M4, known(PRODUCT))
        text = path.read_text()
        assert f">1  {PRODUCT}<" in text.replace("&gt;", ">")
        assert "filled marks measured on a Mac" in text
        assert "this library, measured" in text
        assert "MLX, modelled" in text
        roofline.draw(tmp_path / "y.svg", [PRODUCT, DECODE], M4, known(PRODUCT))
        assert (tmp_path / "y.svg").read_text() == text

    def test_the_command(self, capsys, tmp_path):
        path = tmp_path / "x.png"
        assert main([*DRAWN, str(path)]) == 0
        assert path.read_bytes().startswith(b"\x89PNG")
        printed = capsys.readouterr().out
        assert "1  this library: " in printed
        assert "modelled" in printed
        for wrong in ("x.pdf", str(tmp_path / "nowhere" / "x.svg"), str(tmp_path / "d.svg")):
            (tmp_path / "d.svg").mkdir(exist_ok=True)
            assert main([*DRAWN, wrong]) == 2
            assert capsys.readouterr().err.startswith("mlx-tilegemm: [roofline] Expected")


def test_a_small_rate_is_not_rounded_to_nothing(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    arguments = ["roofline", "--chip", "m1", "--matmul", "1x8x8:f16", "--out"]
    assert main([*arguments, str(tmp_path / "x.svg")]) == 0
    rates = [float(text) for text in re.findall(r"([\d.]+) GFLOPS", capsys.readouterr().out)]
    assert rates
    assert all(0 < rate < 1 for rate in rates)


@pytest.mark.parametrize("chip", ["m1", "m4-max", "m5-max"])
def test_no_number_hides_a_mark_or_another_number(chip):
    agg = pytest.importorskip("matplotlib.backends.backend_agg")
    from matplotlib.text import Text

    alike = [matmul_spec(f"{m}x4096x4096:f16,f32:nt") for m in (508, 509, 510, 511, 512)]
    drawn, found = roofline.figure([*alike, SAME, PRODUCT, DECODE], chips.get(chip), {})
    renderer = agg.FigureCanvasAgg(drawn).get_renderer()
    drawn.draw(renderer)
    (axes,) = drawn.axes
    numbers = {str(point.number) for point in found}
    own = [text for text in axes.texts if text.get_text() in numbers]
    boxes = [Text.get_window_extent(text, renderer) for text in own]  # without its line
    assert len(boxes) == len(found)
    for index, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:index])
        for point in found:
            mark = axes.transData.transform((point.intensity, point.rate / 1e9))
            assert not box.contains(*mark)

"""The comparison with published measurements can be repeated, and says what it is said to say."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import pytest

BENCH = Path(__file__).parent.parent / "bench"


@pytest.fixture
def model(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    import model

    return model


@pytest.fixture
def points(model):
    return model.read_points()


def test_the_written_comparison_is_the_current_one(model, points):
    text = (BENCH / "results" / "model.md").read_text()
    assert text == model.report(points, model.BenchConstants())


def test_the_constants_are_the_fit_of_the_fitted_half(model, points):
    assert model.fit(points[::2]) == model.BenchConstants()


def test_the_half_that_was_not_fitted_is_modelled_well(model, points):
    held_out, constants = points[1::2], model.BenchConstants()
    errors = [abs(error) for error in model.errors(held_out, constants)]
    assert median(errors) <= 0.20
    modelled = [model.modelled_gflops(point, constants) for point in held_out]
    assert model.rank_correlation(modelled, [point.gflops for point in held_out]) >= 0.9


@pytest.mark.parametrize("chip", ["m1-max", "m4"])
def test_the_kernels_of_one_chip_are_ranked(model, points, chip):
    held_out = [point for point in points[1::2] if point.chip == chip]
    assert len(held_out) >= 20
    modelled = [model.modelled_gflops(point, model.BenchConstants()) for point in held_out]
    assert model.rank_correlation(modelled, [point.gflops for point in held_out]) >= 0.9


def test_ranks(model):
    assert model.rank_correlation([1, 2, 3, 4], [10, 20, 30, 40]) == pytest.approx(1)
    assert model.rank_correlation([1, 2, 3, 4], [40, 30, 20, 10]) == pytest.approx(-1)
    assert model.rank_correlation([1, 1, 2, 3], [5, 5, 6, 7]) == pytest.approx(1)
    assert model.rank_correlation([1, 2, 3, 4], [2, 1, 4, 3]) == pytest.approx(0.6)


def test_every_row_names_its_source(points):
    assert all(point.source and point.gflops > 0 for point in points)
    assert len({(point.chip, point.name) for point in points}) == len(points)

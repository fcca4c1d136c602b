"""The benchmark of planning plans new shapes. No clock is asked here."""

from __future__ import annotations

from pathlib import Path

import pytest

COUNT = 200


@pytest.fixture
def planning(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "bench"))
    import planning

    return planning


def test_no_two_shapes_share_a_choice(planning):
    made = [make(i).alike() for make in planning.SHAPES.values() for i in range(COUNT + 1)]
    assert len(made) == len(planning.SHAPES) * (COUNT + 1)
    assert len(set(made)) == len(made)


def test_most_shapes_of_a_growing_cache_share_one(planning):
    for make in planning.SHARING.values():
        made = [make(i) for i in range(COUNT + 1)]
        assert len(set(made)) == len(made)
        assert len({one.alike() for one in made}) < len(made) / 50

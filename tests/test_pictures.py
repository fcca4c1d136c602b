"""The pictures that are kept show what the library says now, and say how it was found."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "bench"))
try:
    import pictures
finally:
    sys.path.pop(0)

FOLDER = ROOT / "docs" / "pictures"
OF_A_COMPILER = {"printed"}
"""What of a finding depends on the C++ compiler: the threads that met first."""


def differences(kept, fresh, where=""):
    """Yield where two pictures' data differ, by more than the digits that they show."""
    if isinstance(kept, dict) and isinstance(fresh, dict) and kept.keys() == fresh.keys():
        for key in kept.keys() - OF_A_COMPILER:
            yield from differences(kept[key], fresh[key], f"{where}/{key}")
    elif isinstance(kept, list) and isinstance(fresh, list) and len(kept) == len(fresh):
        for index, pair in enumerate(zip(kept, fresh, strict=True)):
            yield from differences(*pair, f"{where}/{index}")
    elif isinstance(kept, float) or isinstance(fresh, float):
        if kept != pytest.approx(fresh, rel=2e-3):
            yield f"{where}: kept {kept}, now {fresh}"
    elif kept != fresh:
        yield f"{where}: kept {kept}, now {fresh}"


@pytest.mark.slow
@pytest.mark.parametrize("name", pictures.PICTURES)
def test_the_command_reproduces_what_is_kept(name):
    found = list(differences(pictures.kept(name), pictures.PICTURES[name]()))
    assert found == [], "run `python bench/pictures.py`"


def test_every_picture_that_is_kept_has_its_data():
    assert {path.stem for path in FOLDER.glob("*.svg")} == set(pictures.PICTURES)


def test_every_picture_is_small_and_shown():
    texts = "".join(path.read_text() for path in (ROOT / "docs").rglob("*.md"))
    texts += (ROOT / "README.md").read_text()
    for path in FOLDER.glob("*.svg"):
        assert path.stat().st_size < 60_000
        assert f"pictures/{path.name}" in texts


def test_a_picture_of_times_says_that_they_are_modelled():
    for name in ("against-mlx", "over-n", "over-context", "over-tokens", "roofline-m4-max"):
        words = re.sub(r"<[^>]*>", " ", (FOLDER / f"{name}.svg").read_text().partition("<g ")[2])
        assert "modelled, not measured" in words


def test_a_picture_is_drawn_of_its_data_alone(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    draw = pytest.importorskip("pictures_draw", reason="the extra `plots` brings matplotlib")
    for name in ("tile", "over-n", "race"):
        draw.save(tmp_path / f"{name}.svg", name, pictures.kept(name))
        text = (tmp_path / f"{name}.svg").read_text()
        assert text.count("<text") == (FOLDER / f"{name}.svg").read_text().count("<text")

"""Templates read as Metal: constants at the top, plain text after, Jinja where it cannot be."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from mlx_tilegemm.assurance.variants import variants
from mlx_tilegemm.core.plan import Sizes
from mlx_tilegemm.core.render import TEMPLATES

SHARE = 0.25
NAMES = sorted(str(path.relative_to(TEMPLATES)) for path in TEMPLATES.rglob("*.j2"))


def text_of(name: str) -> str:
    return (TEMPLATES / name).read_text()


def test_most_of_a_template_is_metal(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "bench"))
    import templates

    shares = templates.shares()
    assert len(shares) > 8
    assert {name: share for name, share in shares.items() if share > SHARE} == {}


@pytest.mark.parametrize("name", NAMES)
def test_no_metal_is_held_in_jinja(name):
    """Neither assignments nor texts: what is printed are names, numbers and types of the spec."""
    tags = re.findall(r"\{%.*?%\}|\{\{.*?\}\}", text_of(name), re.DOTALL)
    held = [tag for tag in tags if re.match(r"\{%-?\s*(set|macro|call|filter)\b", tag)]
    texts = [tag for tag in tags if '"' in tag and not tag.startswith("{% include")]
    assert held + texts == []


@pytest.mark.parametrize("name", NAMES)
def test_no_signature_depends_on_jinja(name):
    text = re.sub(r"\{#.*?#\}", "", text_of(name), flags=re.DOTALL)
    signatures = re.findall(r"(?:template <[^{;]*?)?METAL_FUNC\b[^;]*?\)\s*\{\n", text)
    assert len(signatures) == text.count("METAL_FUNC")
    # `{{` of a printed value ends no signature, so one with Jinja would be missing or show it.
    assert not [one for one in signatures if "{%" in one or "{{" in one]


@pytest.mark.parametrize("name", NAMES)
def test_sizes_are_read_by_name(name):
    if name != "lib/arguments.metal.j2":
        assert not re.search(r"\bsizes\s*\[", text_of(name))


def test_a_launch_that_passes_other_sizes_than_are_read_is_refused():
    stage = next(variants()).plan.stages[0]
    sizes = Sizes((*stage.launch.sizes.names, "more"), (*stage.launch.sizes.values, 1))
    with pytest.raises(ValueError, match=r"Expected sizes \('m',\), got \('m', 'more'\)"):
        replace(stage, launch=replace(stage.launch, sizes=sizes))


def test_a_size_that_is_missing_is_named():
    spec = next(variants()).plan.stages[0].spec
    with pytest.raises(KeyError, match="'m'"):
        Sizes.of(spec, {"n": 3})

"""The rendered text: stable, unique, ASCII, and with no jinja2 left to chance."""

from __future__ import annotations

import re

import jinja2
import pytest

from mlx_tilegemm import dispatch
from mlx_tilegemm.core import render
from mlx_tilegemm.core.dtypes import BFLOAT16, FLOAT16, FLOAT32
from mlx_tilegemm.families.attention.problem import MaskKind, attention_problem
from mlx_tilegemm.families.gemm.problem import gemm_problem
from mlx_tilegemm.machine import chips


def stages():
    gemm = gemm_problem(
        "matmul",
        a_shape=(3, 33, 65),
        b_shape=(3, 65, 17),
        a=FLOAT16,
        b=FLOAT32,
        transpose_a=False,
        transpose_b=False,
    )
    attention = attention_problem(
        "attention_chain",
        q_shape=(1, 4, 33, 40),
        k_shape=(1, 2, 65, 40),
        v_shape=(1, 2, 65, 17),
        q=FLOAT16,
        k=BFLOAT16,
        v=FLOAT32,
        softmax=True,
        mask_kind=MaskKind.CAUSAL,
    )
    for problem in (gemm, attention):
        for candidate in dispatch.choose(problem, chips.DEFAULT).candidates:
            if candidate.plan:
                yield from candidate.plan.stages


# Configurations share kernels: one that joins splits serves any number of them.
STAGES = list({stage.spec: stage for stage in stages()}.values())


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.spec.label)
def test_text_is_deterministic_ascii_and_small(stage):
    source = render.render(stage.spec)
    assert render.render.__wrapped__(stage.spec) == source
    text = source.header + source.body
    assert text.isascii()
    assert len(text) < 26_000
    assert re.fullmatch(r"[A-Za-z0-9_]+", source.name)


def test_names_are_unique_per_text():
    sources = [render.render(stage.spec) for stage in STAGES]
    assert len({source.name for source in sources}) == len({s.header + s.body for s in sources})
    assert len({source.name for source in sources}) == len(STAGES)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.spec.label)
def test_every_line_maps_back_to_its_template(stage):
    source = render.render(stage.spec)
    for text in (source.header, source.body):
        name, number = "", 0
        for line in text.splitlines():
            directive = re.fullmatch(r'#line (\d+)(?: "mlx_tilegemm/templates/(.*)")?', line)
            if directive:
                number, name = int(directive[1]), directive[2] or name
                continue
            original = (render.TEMPLATES / name).read_text().splitlines()[number - 1]
            fixed_parts = re.split(r"\{\{.*?\}\}", original)
            pattern = ".*".join(re.escape(part) for part in fixed_parts)
            assert re.fullmatch(pattern, line), (name, number, original, line)
            number += 1


def test_a_misspelt_name_does_not_render():
    environment = render._environment()
    with pytest.raises(jinja2.UndefinedError):
        environment.from_string("{{ spec.blokc_m }}").render(spec=STAGES[0].spec)


@pytest.mark.parametrize("value", [True, 1.5, None])
def test_only_text_and_integers_are_printed(value):
    with pytest.raises(TypeError, match="only str and int"):
        render._environment().from_string("{{ value }}").render(value=value)

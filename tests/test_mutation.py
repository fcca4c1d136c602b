"""The mutation campaign: its operators, a sample of it, and that it cannot pass by accident."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase

import numpy as np
import pytest

from mlx_tilegemm.assurance import mutation
from mlx_tilegemm.assurance.mutation import campaign as campaign_module
from mlx_tilegemm.assurance.mutation.campaign import (
    Campaign,
    Verdict,
    _Mutated,
    _noticed,
    equivalents,
    judge,
)
from mlx_tilegemm.assurance.mutation.operators import OPERATORS, mutants
from mlx_tilegemm.assurance.mutation.subjects import subjects

TEXT = """#line 7 "mlx_tilegemm/templates/x.metal.j2"
constant constexpr int BLOCK_M = 32;
void f(int rows, int columns) {
  threadgroup float tile[96];
  if (row < rows && column < columns) {  // a < b && c
    tile[row * 8 + column] = float(a[first + column]);
  }
  tile_load<true, false>(tile, source, row_stride, column_stride);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  sum += a_lane * b_lane;
  const int lane_row = fragment_row(thread_index_in_simdgroup);
}
"""


def several_ways():
    return next(ways for ways in mutation.unique_mutants() if len(ways) > 1)


FOUND = {(mutant.line, mutant.operator, mutant.mutated) for mutant, _ in mutants(TEXT)}


class TestOperators:
    @pytest.mark.parametrize(
        ("line", "operator", "mutated"),
        [
            (7, "widen-tile", "constant constexpr int BLOCK_M = (32) + 8;"),
            (9, "resize-array", "threadgroup float tile[48];"),
            (10, "drop-condition", "if (true) { // a < b && c"),
            (10, "drop-conjunct", "if (true && column < columns) { // a < b && c"),
            (10, "drop-conjunct", "if (row < rows && true) { // a < b && c"),
            (10, "comparison", "if (row <= rows && column < columns) { // a < b && c"),
            (11, "shift-index", "tile[(row * 8 + column) + 1] = float(a[first + column]);"),
            (11, "shift-index", "tile[row * 8 + column] = float(a[(first + column) + 1]);"),
            (11, "drop-cast", "tile[row * 8 + column] = (a[first + column]);"),
            (11, "literal", "tile[row * 9 + column] = float(a[first + column]);"),
            (
                13,
                "swap-arguments",
                "tile_load<false, true>(tile, source, row_stride, column_stride);",
            ),
            (
                13,
                "swap-name",
                "tile_load<true, false>(tile, source, column_stride, column_stride);",
            ),
            (13, "delete-statement", ";"),
            (14, "delete-statement", ";"),
            (14, "weaken-barrier", "threadgroup_barrier(mem_flags::mem_none);"),
            (14, "weaken-barrier", "simdgroup_barrier(mem_flags::mem_threadgroup);"),
            (15, "assignment", "sum = a_lane * b_lane;"),
            (15, "arithmetic", "sum += a_lane + b_lane;"),
            (16, "swap-name", "const int lane_row = fragment_column(thread_index_in_simdgroup);"),
            (
                16,
                "shift-declaration",
                "const int lane_row = (fragment_row(thread_index_in_simdgroup)) + 1;",
            ),
        ],
    )
    def test_make_the_mistakes_they_are_named_for(self, line, operator, mutated):
        assert (line, operator, mutated) in FOUND

    def test_leave_comments_and_the_rest_of_the_text_alone(self):
        for mutant, changed in mutants(TEXT):
            assert changed != TEXT
            assert mutant.template == "x.metal.j2"
            ours, theirs = TEXT.splitlines(), changed.splitlines()
            assert [a for a, b in zip(ours, theirs, strict=True) if a != b]
            assert "// a < b && c" in changed

    @pytest.mark.slow
    def test_every_operator_finds_something_in_our_kernels(self):
        used = {ways[0].mutant.operator for ways in mutation.unique_mutants()}
        assert used == set(OPERATORS)


class TestSubjects:
    @pytest.mark.slow
    def test_every_line_of_code_of_every_template_is_in_one(self):
        """No statement may escape the campaign because no subject has its flag."""
        from mlx_tilegemm.assurance.variants import variants
        from mlx_tilegemm.core.render import render

        covered = {
            (variation.mutant.template, variation.mutant.line)
            for ways in mutation.unique_mutants()
            for variation in ways
        }
        missing = set()
        seen = set()
        for variant in variants():
            for stage in variant.plan.stages:
                source = render(stage.spec)
                key = (stage.spec.template, stage.spec.label.split("_n")[0])
                if key in seen:
                    continue
                seen.add(key)
                for part in (source.header, source.body):
                    missing |= {
                        (mutant.template, mutant.line)
                        for mutant, _ in mutants(part)
                        if (mutant.template, mutant.line) not in covered
                    }
        assert not missing

    @pytest.mark.slow
    @pytest.mark.parametrize("subject", subjects(), ids=lambda subject: subject.name)
    def test_an_unbroken_kernel_raises_no_alarm(self, subject):
        for trial in subject.trials:
            assert _noticed(trial, _Mutated("", None)) == ""


@pytest.mark.slow
def test_a_campaign_may_be_of_some_templates():
    everything = [ways[0].mutant.template for ways in mutation.unique_mutants()]
    for patterns in (["gated_delta/*"], ["lib/delta_*", "gemm/gemv.metal.j2"]):
        wanted = [any(fnmatchcase(one, each) for each in patterns) for one in everything]
        found = campaign_module.chosen(0, None, patterns)
        assert sorted(found) == np.flatnonzero(wanted).tolist()
    with pytest.raises(ValueError, match="existing templates"):
        mutation.run(templates=["no-such/*"])


@pytest.mark.slow
def test_a_sample_is_noticed():
    campaign = mutation.run(sample=16)
    assert len(campaign.verdicts) == 16
    assert not [str(one.mutant) for one in campaign.unexplained]
    assert campaign.caught >= 10


@pytest.mark.slow
@pytest.mark.parametrize(
    ("template", "operator", "mutated", "caught_by"),
    [
        (
            "attention/attention_decode",
            "arithmetic",
            "keys + lane_row, values",
            ["", "out-of-bounds"],
        ),
        ("lib/delta_scores", "comparison", "n <= LANE_ELEMENTS", ["out-of-bounds", ""]),
    ],
)
def test_a_reason_for_a_line_hides_nothing_of_its_twin(template, operator, mutated, caught_by):
    """Both lines have one text, so that the reason would be taken for either."""
    twins = [
        ways
        for ways in mutation.unique_mutants()
        if ways[0].mutant.template == f"{template}.metal.j2"
        and ways[0].mutant.operator == operator
        and mutated in ways[0].mutant.mutated
    ]
    assert [judge(ways).caught_by for ways in twins] == caught_by


def ways_of(operator, original, template=""):
    return next(
        ways
        for ways in mutation.unique_mutants()
        if ways[0].mutant.operator == operator
        and original in ways[0].mutant.original
        and ways[0].mutant.template.startswith(template)
    )


@pytest.mark.parametrize(
    ("operator", "original", "caught_by"),
    [
        ("weaken-barrier", "threadgroup_barrier", "race"),
        ("delete-statement", "tile_fill(sum, 0.0f)", "uninitialized"),
        ("delete-statement", "total *= decay", "numerics"),
        ("drop-conjunct", "row < m && column < N", "out-of-bounds"),
    ],
)
def test_known_mistakes_are_noticed_as_what_they_are(operator, original, caught_by):
    assert caught_by in judge(ways_of(operator, original)).caught_by


@pytest.mark.slow
def test_a_lost_correction_is_noticed_where_rounding_adds_up():
    """Within the bound, which holds for kernels that correct nothing, but not as close as asked."""
    verdict = judge(ways_of("delete-statement", "lost[j][e] = so_far.y + small"))
    assert verdict.caught_by == "numerics"


def test_a_verdict_goes_by_the_first_variation_whichever_notices(monkeypatch):
    ways = next(
        ways
        for ways in mutation.unique_mutants()
        if len({way.mutant for way in ways}) > 1 and ways[1].mutant != ways[0].mutant
    )
    monkeypatch.setattr(
        campaign_module, "_caught_by", lambda way, subject: "race" if way is ways[1] else ""
    )
    verdict = judge(ways)
    assert (verdict.mutant, verdict.tried) == (ways[0].mutant, 2)


def test_a_component_past_the_end_of_a_vector_is_noticed():
    loop = "for (int e = 0; e < 2; ++e) {"
    assert judge(ways_of("comparison", loop, "lib/attention_mask")).caught


class TestReasons:
    def test_a_survivor_without_a_reason_fails_the_campaign(self, monkeypatch):
        monkeypatch.setattr(campaign_module, "_caught_by", lambda way, subject: "")
        monkeypatch.setattr(campaign_module, "equivalents", lambda: ())
        verdict = judge(ways_of("weaken-barrier", "threadgroup_barrier"))
        campaign = Campaign(verdicts=(verdict,), total=1)
        assert campaign.unexplained == (verdict,)
        assert campaign.rate == 0.0
        assert "Missed\n\n- " in mutation.to_markdown(campaign, commit="x", compiler="y")

    def test_the_first_screen_says_which_check_notices_how_much(self):
        mutant = next(iter(mutation.unique_mutants()))[0].mutant
        found = ("race", "out-of-bounds, race", "numerics", "race")
        verdicts = tuple(mutation.Verdict(mutant=mutant, caught_by=by) for by in found)
        campaign = Campaign(verdicts=verdicts, total=4)
        text = mutation.to_markdown(campaign, commit="x", compiler="y")
        first, _, rest = text.partition("## Missed")
        assert "| race | 3 | 2 |\n| out-of-bounds | 1 | 0 |\n| numerics | 1 | 1 |" in first
        assert rest.index("## Operators") < rest.index("## Subjects")

    def test_reasons_are_about_mutants_that_exist(self):
        existing = [ways[0].mutant for ways in mutation.unique_mutants()]
        existing += [way.mutant for ways in mutation.unique_mutants() for way in ways[1:]]
        for template, operator, original, mutated, reason in equivalents():
            assert len(reason) > 20, reason
            assert any(
                template in ("*", one.template)
                and operator in ("*", one.operator)
                and original in ("*", one.original)
                and mutated in ("*", one.mutated)
                for one in existing
            ), (template, operator, original, mutated)

    def test_no_reason_excuses_a_whole_template(self):
        for template, _, original, _, _ in equivalents():
            assert template != "*"
            assert original != "*"

    @pytest.mark.parametrize("part", ["launch", "data"])
    def test_a_verdict_depends_on_what_a_text_leaves_open(self, monkeypatch, part):
        ways = mutation.unique_mutants()[0]
        before = mutation.identity(ways[:1])
        changed = list(subjects())
        tried = changed[ways[0].subject]
        first, *others = tried.trials
        if part == "launch":
            stage, *stages = first.plan.stages
            taller = replace(stage.launch, output_shapes=((99, 99),))
            first = replace(
                first, plan=replace(first.plan, stages=(replace(stage, launch=taller), *stages))
            )
        else:
            first = replace(first, data=replace(first.data, seed=99))
        changed[ways[0].subject] = replace(tried, trials=(first, *others))
        monkeypatch.setattr(campaign_module, "subjects", lambda: changed)
        assert mutation.identity(ways[:1]) != before

    def test_a_verdict_depends_on_each_text_it_was_tried_in(self):
        ways = several_ways()
        before = mutation.identity(ways[:2])
        assert mutation.identity(ways[:1]) != before
        for changed in range(2):
            texts = list(ways[:2])
            texts[changed] = replace(ways[changed], body=ways[changed].body + "// another\n")
            assert mutation.identity(texts) != before

    def test_equivalent_mutants_do_not_count(self):
        mutant = mutation.unique_mutants()[0][0].mutant
        caught = Verdict(mutant=mutant, caught_by="race")
        excused = Verdict(mutant=mutant, reason="changes nothing")
        campaign = Campaign(verdicts=(caught, excused), total=2)
        assert campaign.rate == 1.0
        assert campaign.equivalent == (excused,)

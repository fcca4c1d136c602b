"""The verification campaign: that it finds what is wrong, survives it, and says so."""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from unittest import mock

import mlx.core as mx
import pytest
import worker_tasks

from mlx_tilegemm import emulator, strict
from mlx_tilegemm.assurance import verify
from mlx_tilegemm.assurance.variants import COVERING, variants, variants_of
from mlx_tilegemm.assurance.verify import campaign, check, static
from mlx_tilegemm.assurance.verify.report import system_name, to_markdown
from mlx_tilegemm.assurance.verify.workers import _Worker, run_tasks
from mlx_tilegemm.backends import Backend, backend_named
from mlx_tilegemm.cli import main
from mlx_tilegemm.core.plan import (
    THREADS_LIMIT,
    Resources,
)
from mlx_tilegemm.errors import ProblemError
from mlx_tilegemm.families import all_kernels
from mlx_tilegemm.machine import chips
from mlx_tilegemm.machine.limits import threads_per_core
from mlx_tilegemm.strict import vocabulary

EMULATOR, METAL = backend_named("emulator"), backend_named("metal")
BACKEND = METAL if mx.metal.is_available() else EMULATOR
ALL = list(variants())
FAMILIES = list({chip.family: chip for chip in chips.CHIPS}.values())


class TestResources:
    """Every variant, on every family of chips."""

    @pytest.mark.parametrize("kernel", [*all_kernels()], ids=str)
    def test_every_variant_is_within_the_limits(self, kernel):
        for variant in variants_of(kernel, COVERING):
            for stage in variant.plan.stages:
                needs = stage.resources
                assert needs.threads <= THREADS_LIMIT, variant
                assert needs.threadgroup_bytes <= variant.chip.limits.threadgroup_bytes, variant
                assert needs.registers < variant.chip.limits.registers, variant
                x, y, z = stage.launch.threadgroup
                assert x * y * z == needs.threads, variant

    @pytest.mark.parametrize("chip", FAMILIES, ids=lambda chip: chip.family)
    def test_a_core_holds_a_threadgroup_of_every_variant(self, chip):
        for variant in (one for kernel in all_kernels() for one in variants_of(kernel, (chip,))):
            for stage in variant.plan.stages:
                assert threads_per_core(stage.resources, chip) >= stage.resources.threads, variant

    @pytest.mark.parametrize(
        ("threads", "threadgroup_bytes", "registers", "held"),
        [
            (128, 0, 52, 1024),
            (128, 0, 53, 896),
            (128, 0, 127, 384),
            (128, 0, 129, 0),
            (1024, 0, 53, 0),
            (128, 30000, 52, 256),
            (128, 32768, 52, 128),
        ],
    )
    def test_occupancy_follows_the_table(self, threads, threadgroup_bytes, registers, held):
        needs = Resources(threads=threads, threadgroup_bytes=threadgroup_bytes, registers=registers)
        assert threads_per_core(needs, chips.get("m1")) == held


class TestSelection:
    def test_a_sample_covers_every_configuration_and_is_always_the_same(self):
        groups = {(one.plan.kernel, one.plan.config) for one in ALL}
        request = verify.Request(backend="emulator", sample=len(groups))
        chosen = verify.selected(request)
        assert len(chosen) == len(groups)
        assert [str(one) for one in chosen] == [str(one) for one in verify.selected(request)]
        assert {(one.plan.kernel, one.plan.config) for one in chosen} == groups

    def test_a_small_sample_is_of_all_kernels(self):
        kernels = {one.plan.kernel for one in ALL}
        chosen = verify.selected(verify.Request(backend="emulator", sample=len(kernels)))
        assert {one.plan.kernel for one in chosen} == kernels

    def test_a_kernel_or_a_configuration_can_be_asked_for(self):
        chosen = verify.selected(verify.Request(backend="emulator", kernel="attention_chain"))
        assert {one.plan.kernel for one in chosen} == {"attention_chain"}
        config = chosen[0].plan.config
        request = verify.Request(backend="emulator", kernel=f"attention_chain/{config}")
        assert {one.plan.config for one in verify.selected(request)} == {config}

    @pytest.mark.parametrize(
        "fields", [{"kernel": "gem"}, {"repeats": 0}, {"sample": -1}, {"kernel": "gemv/none"}]
    )
    def test_what_cannot_be_asked_is_refused(self, fields):
        with pytest.raises(ProblemError, match=r"^\[verify\] Expected"):
            verify.selected(verify.Request(backend="emulator", **fields))


class Spoiled(Backend):
    """A backend whose outputs go through a function before they are returned."""

    name = "spoiled"
    capabilities = EMULATOR.capabilities

    def __init__(self, spoil):
        self.spoil = spoil
        self.calls = 0

    def compile(self, source):
        kernel = EMULATOR.compile(source)

        def call(**arguments):
            self.calls += 1
            return self.spoil(kernel(**arguments), self.calls)

        return call


def broken(outputs, call):
    raise RuntimeError("the device was lost")


SPOILED = {
    "wrong numbers": (lambda outputs, call: [x + 1e-2 for x in outputs], "out of bounds"),
    "NaN": (lambda outputs, call: [x * mx.nan for x in outputs], "got nan"),
    "shape": (lambda outputs, call: [x[..., :1] for x in outputs], "expected (33, 37)"),
    "bits": (lambda o, call: [x * (1 + 2e-7 * (call == 3)) for x in o], "run 3: other bits"),
    "exception": (broken, "RuntimeError: the device was lost"),
}


class TestCheck:
    variant = next(one for one in ALL if one.problem.out_shape == (33, 37) and one.problem.k == 43)

    def check(self, backend, **options):
        return verify.check_variant(
            self.variant, backend, **{"repeats": 4, "static": False, **options}
        )

    def test_a_right_variant_passes(self):
        outcome = self.check(EMULATOR)
        assert outcome.status is verify.Status.PASSED, outcome.failures
        assert outcome.launches == 4
        assert 0 < outcome.error_share <= 1

    @pytest.mark.parametrize("how", SPOILED)
    def test_a_wrong_one_fails_with_its_reason(self, how):
        spoil, reason = SPOILED[how]
        outcome = self.check(Spoiled(spoil))
        assert outcome.status is verify.Status.FAILED
        assert reason in outcome.failures[0]

    def test_runs_on_the_emulator_differ_in_order_and_alignment(self, monkeypatch):
        seen = []

        def note(outputs, call):
            current = emulator.current_settings()
            seen.append((current.order, current.misalign))
            return outputs

        backend = Spoiled(note)
        monkeypatch.setattr(backend, "runs", EMULATOR.runs)
        assert self.check(backend, repeats=6).status is verify.Status.PASSED
        assert len(set(seen)) == 6

    def test_a_check_that_could_not_run_is_no_pass(self, monkeypatch):
        missing = strict.Report(name="x", checked=False, tool="no clang here")
        monkeypatch.setattr(static.strict, "check", lambda text, name: missing)
        outcome = self.check(EMULATOR, static=True)
        assert outcome.status is verify.Status.UNCHECKED
        assert outcome.unchecked == ("strict compile and vocabulary: no clang here",)
        assert outcome.launches == 4

    def test_a_missing_word_list_is_no_pass(self, monkeypatch, tmp_path):
        monkeypatch.setattr(vocabulary, "DATA", tmp_path / "vocabulary.tsv")
        vocabulary.vocabulary.cache_clear()
        report = strict.Report(name="x", checked=True, tool="clang", foreign=frozenset({"half"}))
        monkeypatch.setattr(static.strict, "check", lambda text, name: report)
        outcome = self.check(EMULATOR, static=True)
        assert outcome.status is verify.Status.UNCHECKED
        assert "vocabulary.tsv" in outcome.unchecked[0]

    def test_a_wrong_one_fails_whatever_could_not_be_checked(self, monkeypatch):
        missing = strict.Report(name="x", checked=False, tool="no clang here")
        monkeypatch.setattr(static.strict, "check", lambda text, name: missing)
        outcome = self.check(Spoiled(SPOILED["wrong numbers"][0]), static=True)
        assert outcome.status is verify.Status.FAILED
        assert outcome.unchecked

    def test_a_threadgroup_too_large_fails_however_right_its_results(self, monkeypatch):
        monkeypatch.setattr(check, "threads_per_core", lambda resources, chip: 0)
        outcome = self.check(EMULATOR)
        assert outcome.status is verify.Status.FAILED
        assert "does not fit on a core" in outcome.failures[0]

    def test_findings_of_the_static_checks_fail_it(self, monkeypatch):
        finding = strict.Finding(file="x", line=3, column=1, rule="compile", message="no such word")
        report = strict.Report(name="x", checked=True, tool="clang", findings=(finding,))
        monkeypatch.setattr(static.strict, "check", lambda text, name: report)
        outcome = self.check(EMULATOR, static=True)
        assert outcome.status is verify.Status.FAILED
        assert any("no such word" in failure for failure in outcome.failures)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("system", "release", "named"),
    [
        ("Linux", "6.18.44-some-build.3", "Linux 6.18.44 arm64"),
        ("Darwin", "25.1.0", "Darwin 25.1.0 arm64"),
        ("Linux", "", "Linux arm64"),
    ],
)
def test_a_system_is_told_without_its_build(monkeypatch, system, release, named):
    for name, value in {"system": system, "release": release, "machine": "arm64"}.items():
        monkeypatch.setattr(platform, name, lambda value=value: value)
    assert system_name() == named


def test_an_interrupt_leaves_what_was_found(monkeypatch):
    def stop(done, total, outcome):
        if done == 2:
            raise KeyboardInterrupt

    request = verify.Request(backend=BACKEND.name, sample=6, repeats=1, static=False)
    report = verify.verify(request, jobs=1, progress=stop)
    assert len(report.outcomes) == 2
    assert report.total == 6
    assert report.verdict is verify.Verdict.INTERRUPTED
    assert not report.passed
    said = "interrupted after 2 of 6 variants, static checks switched off"
    assert verify.summary(report) == said
    assert said in to_markdown(report)


class TestResume:
    def run(self, path, **changes):
        checked = []
        request = verify.Request(**{"backend": BACKEND.name, "sample": 3, "repeats": 1} | changes)
        report = verify.verify(
            request, jobs=1, progress=lambda *_: checked.append(_[2].variant), earlier=path
        )
        return report, checked

    def written(self, report, directory, edit=lambda text: text):
        path, _ = verify.write(report, directory)
        path.write_text(edit(path.read_text()))
        return path

    @pytest.mark.slow
    def test_only_what_is_missing_is_checked(self, tmp_path):
        first, _ = self.run(tmp_path / "none.json", sample=2, static=False)
        path = self.written(first, tmp_path)
        report, checked = self.run(path, static=False)
        assert report.passed
        assert checked == [report.outcomes[2].variant]
        run = f"{first.environment.date} at {first.environment.commit}"
        assert [one.found for one in report.outcomes] == [run, run, ""]
        assert f"2 of them were checked on {run}" in to_markdown(report)
        again, checked = self.run(self.written(report, tmp_path), static=False)
        assert [one.found for one in again.outcomes[:2]] == [run, run]
        assert checked == []

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "edit",
        [
            lambda text: text.replace('"checks": "', '"checks": "0'),
            lambda text: text.replace('"mlx": "', '"mlx": "9.'),
            lambda text: text.replace('"repeats": 1', '"repeats": 2'),
            lambda text: text.replace('"status":"passed"', '"status":"failed"'),
            lambda text: text.replace('"name":"tilegemm', '"name":"other'),
        ],
    )
    def test_what_was_checked_otherwise_is_checked_again(self, tmp_path, edit):
        first, checked = self.run(tmp_path / "none.json", sample=1, static=False)
        text = verify.to_json(first)
        assert edit(text) != text
        again = self.run(self.written(first, tmp_path, edit), sample=1, static=False)[1]
        assert again == checked

    def test_another_file_is_refused(self, tmp_path):
        path = tmp_path / "verify.json"
        path.write_text("[1, 2")
        with pytest.raises(ProblemError, match=r"^\[verify\] Expected a report .*verify\.json"):
            self.run(path)


@pytest.mark.slow
def test_tasks_survive_a_process_that_dies():
    done = {one.number: one for one in run_tasks(worker_tasks.prepare, 7, range(6), jobs=2)}
    assert sorted(done) == [0, 1, 2, 3, 4, 5]
    assert [done[n].result for n in (0, 1, 4, 5)] == [0, 10, 40, 50]
    assert "died with status 7" in done[2].error
    assert "ValueError: three" in done[3].error


@pytest.mark.slow
def test_processes_that_cannot_start_are_no_verdict(tmp_path):
    """Without a guard of its own, a script starts itself anew in each process, and fails there."""
    script = tmp_path / "unguarded.py"
    script.write_text(
        "from mlx_tilegemm.assurance import mutation\nprint(mutation.run(sample=2, jobs=1))\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode != 0
    assert "Campaign(" not in done.stdout
    assert "Expected processes that start, got one that ended with status 1" in done.stderr


RIGHT = verify.Outcome(variant="x/y", kernel="x", config="y", status=verify.Status.PASSED)
WRONG = replace(RIGHT, status=verify.Status.FAILED, failures=("line 3 is wrong",))
OPEN = replace(RIGHT, status=verify.Status.UNCHECKED, unchecked=("strict compile: no clang",))
VERDICTS = {
    "passed": ((RIGHT, RIGHT), 0, "2 variants passed", 0),
    "failed": ((RIGHT, WRONG), 0, "1 variants passed, 1 failed", 1),
    "unchecked": (
        (RIGHT, OPEN),
        0,
        "1 variants passed, 1 not fully checked: strict compile: no clang",
        3,
    ),
    "interrupted": (
        (RIGHT, OPEN),
        1,
        "interrupted after 2 of 3 variants, 1 not fully checked: strict compile: no clang",
        130,
    ),
    "failed, interrupted": (
        (WRONG,),
        1,
        "interrupted after 1 of 2 variants, 1 failed",
        1,
    ),
}


class TestCommand:
    @pytest.mark.slow
    def test_a_sample_of_every_kernel_is_right_here(self, tmp_path, capsys):
        status = main(["verify", "--sample", "24", "--repeats", "4", "--report", str(tmp_path)])
        report = json.loads((tmp_path / "verify.json").read_text())
        wrong = [one for one in report["variants"] if one["status"] != "passed"]
        assert not wrong
        assert status == 0
        assert report["passed"]
        assert len(report["variants"]) == 24
        assert report["environment"]["backend"] == BACKEND.name
        text = (tmp_path / "verify.md").read_text()
        assert "**24 variants passed**" in text
        assert capsys.readouterr().out.startswith("24 variants passed; see ")

    @pytest.mark.parametrize("verdict", VERDICTS)
    def test_each_verdict_has_its_words_and_its_status(
        self, verdict, tmp_path, monkeypatch, capsys
    ):
        from mlx_tilegemm.cli import verify as cli

        outcomes, left, words, status = VERDICTS[verdict]
        report = report_of(verify.Request(backend="emulator"), *outcomes, left=left)
        monkeypatch.setattr(cli, "verify", lambda *_, **__: report)
        assert main(["verify", "--report", str(tmp_path)]) == status
        assert capsys.readouterr().out.startswith(f"{words}; see ")
        assert f"**{words}**" in (tmp_path / "verify.md").read_text()
        assert main(["verify", "--report", str(tmp_path), "--json"]) == status
        said = json.loads(capsys.readouterr().out)
        assert said["summary"] == words
        assert said["variants"] == len(outcomes) + left
        assert said["passed"] + said["failed"] + said["unchecked"] == len(outcomes)
        assert said["reports"] == [str(tmp_path / f"verify.{end}") for end in ("json", "md")]
        stored = json.loads((tmp_path / "verify.json").read_text())
        assert stored["summary"] == words
        assert stored["verdict"] == verdict.split(",")[0]
        assert stored["passed"] == (verdict == "passed")

    def test_a_failure_is_in_the_report(self, tmp_path):
        report = report_of(verify.Request(backend="emulator"), WRONG)
        assert "line 3 is wrong" in verify.to_markdown(report)

    def test_the_first_screen_says_how_near_the_limits_it_came(self):
        few, many = (
            check.StageRecord(
                name=name, threads=64, threadgroup_bytes=size, registers=9, threads_per_core=1
            )
            for name, size in (("s", 512), ("t", 4096))
        )
        outcomes = (
            replace(RIGHT, kernel=kernel, stages=(stage,), error_share=share)
            for kernel, stage, share in (("z", few, 0.25), ("a", many, 0.125))
        )
        text = verify.to_markdown(report_of(verify.Request(backend="emulator"), *outcomes))
        first, _, rest = text.partition("## Kernels")
        assert "| error, as a share of its bound | 25% | 100% |" in first
        most = chips.NVIDIA.limits.threadgroup_bytes
        assert f"| bytes of threadgroup memory | 4096 | {most} |" in first
        assert rest.index("| a |") < rest.index("| z |")
        assert rest.index("## Failures") < rest.index("## Not checked") < rest.index("## Machine")

    def test_checks_that_were_not_asked_for_are_said_to_be_off(self, tmp_path):
        report = report_of(verify.Request(backend="emulator", static=False), RIGHT)
        assert report.verdict is verify.Verdict.PASSED
        assert verify.summary(report) == "1 variants passed, static checks switched off"
        text = verify.to_markdown(report)
        assert "vocabulary: static checks switched off." in text.partition("## Not checked")[2]

    def test_an_interrupt_before_the_first_variant_is_told_in_one_line(self, monkeypatch, capsys):
        from mlx_tilegemm.cli import verify as cli

        monkeypatch.setattr(cli, "verify", mock.Mock(side_effect=KeyboardInterrupt))
        assert main(["verify"]) == 130
        assert capsys.readouterr().err == "checking variants\nmlx-tilegemm: interrupted\n"

    def test_help_lists_every_exit_status(self, capsys):
        with pytest.raises(SystemExit):
            main(["verify", "-h"])
        listed = re.findall(r"^  (\d+)  ", capsys.readouterr().out, re.MULTILINE)
        assert listed == ["0", "1", "2", "3", "130"]

    def test_wrong_words_are_told_in_one_line(self, capsys):
        assert main(["verify", "--kernel", "gem"]) == 2
        said = capsys.readouterr().err
        assert said.startswith("mlx-tilegemm: [verify] Expected a kernel among gemm_simdgroup, ")
        assert said.endswith("got 'gem'.\n")


def report_of(request, *outcomes, left=0):
    from mlx_tilegemm.assurance.verify.report import environment

    return verify.Report(
        environment=environment("emulator", ""),
        request=request,
        seconds=1.0,
        total=len(outcomes) + left,
        outcomes=outcomes,
    )


def test_a_reader_learns_which_kernels_are_for_other_chips():
    report = replace(report_of(verify.Request(backend="metal"), RIGHT), left_out=("gemm_neural",))
    text = to_markdown(report).partition("## Not checked")[2]
    assert "- gemm_neural: no variant is for m4, m5, nvidia." in text
    assert json.loads(verify.to_json(report))["left_out"] == ["gemm_neural"]


def test_a_reader_learns_what_was_not_checked():
    outcome = verify.Outcome(
        variant="x/y",
        kernel="x",
        config="y",
        status=verify.Status.UNCHECKED,
        unchecked=("numbers: there is no reference for NewProblem",),
    )
    text = to_markdown(report_of(verify.Request(backend="emulator"), outcome))
    assert "1 variants: numbers: there is no reference for NewProblem" in text
    assert "no Apple GPU was at hand" in text


@pytest.mark.parametrize(
    "seconds", [0.1, *(pytest.param(x, marks=pytest.mark.slow) for x in (0.0, 0.05, 0.3))]
)
def test_interrupts_are_for_the_parent_even_while_a_process_starts(seconds):
    worker = _Worker(worker_tasks.prepare, 7)
    time.sleep(seconds)
    os.kill(worker.process.pid, signal.SIGINT)
    worker.give(1)
    worker.confirm()
    assert worker.take().number == 1
    worker.stop()
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


@pytest.mark.slow
def test_a_variant_has_the_threadgroup_memory_of_its_chip():
    """Some are of the stand-in for NVIDIA alone, which has more of it than Apple's GPUs."""
    request = verify.Request(backend="emulator", kernel="attention_chain", static=False, repeats=1)
    room = chips.DEFAULT.limits.threadgroup_bytes
    chosen = campaign.selected(request)
    large = [
        number
        for number, one in enumerate(chosen)
        if max(stage.resources.threadgroup_bytes for stage in one.plan.stages) > room
    ]
    assert large
    run = campaign._checker(request)
    for number in large:
        assert run(number).status is verify.Status.PASSED
    found = check.check_variant(chosen[large[0]], EMULATOR, repeats=1, static=False)
    assert f"of which there are {room}" in found.failures[0]

"""The comparison with MLX: what is gated, timed and labelled. No clock runs here."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from fake_metal import clocked_metal

from mlx_tilegemm import backends
from mlx_tilegemm.assurance.tuning.measure import Effort
from mlx_tilegemm.core import mlx_ops
from mlx_tilegemm.core.caches import forget_prepared
from mlx_tilegemm.core.render import text_name
from mlx_tilegemm.dispatch import choose
from mlx_tilegemm.families.gemm import fallback
from mlx_tilegemm.families.gemm.spelling import parse as matmul_spec
from mlx_tilegemm.machine import chips

SPEC = "50x24x40:f32"
PROBLEM = matmul_spec(SPEC)


@pytest.fixture
def run(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "bench"))
    import run

    return run


@pytest.fixture
def options(run):
    effort = Effort(rounds=5, warm_seconds=0, sample_seconds=0, keep=float("inf"))
    return run.Options(kernel="any", chip=chips.get("m4"), effort=effort)


def test_metal_is_timed_against_mlx(run, options, tmp_path):
    plan = choose(PROBLEM, chips.detect()[0], "any").plan
    seconds = {text_name(plan): 2e-3}
    with clocked_metal(tmp_path / "canary.json", seconds, mlx_seconds=8e-3) as metal:
        result = run.compare(PROBLEM, replace(options, clock=metal.clock))
    assert result["kernel"] == str(plan)
    assert result["right"] is True
    assert result["speed"]["ours_us"]["median"] == pytest.approx(2000)
    assert result["speed"]["mlx_us"]["median"] == pytest.approx(8000)
    ratio = {"median": 4.0, "low": 4.0, "high": 4.0}
    assert result["speed"]["mlx_over_ours"] == pytest.approx(ratio)
    assert result["label"].startswith("measured on ")
    printed = run.text(result)
    assert "mlx_over_ours  4.00 (4.00 to 4.00)" in printed
    assert "modelled on m4: " in printed


def test_wrong_results_are_not_timed(run, options, tmp_path):
    with clocked_metal("off", {}, fault=lambda name: "wrong") as metal:
        result = run.compare(PROBLEM, replace(options, clock=metal.clock))
    assert result["right"] is False
    assert "ours: 1 of 384 elements are out of bounds" in result["check"]
    assert result["speed"] is None


def test_the_emulator_counts_and_has_no_speed(run, capsys, tmp_path):
    path = tmp_path / "x.json"
    arguments = ["matmul", SPEC, "4096x4096x4096", "--backend", "emulator", "--chip", "m1"]
    assert run.main([*arguments, "--json", str(path)]) == 0
    first, second = json.loads(path.read_text())["results"]
    assert first["right"] is True
    assert first["speed"] is None
    assert first["label"].startswith("no speed: the emulator")
    assert first["counted"]["device_stored"] == 4 * 50 * 24
    assert first["modelled"]["chip"] == "m1"
    assert second["check"] == "not run: too large to emulate"
    assert "no speed" in capsys.readouterr().out


def test_mlx_s_own_ops_have_no_speed_of_ours(run, capsys):
    assert run.main(["attention", "1x2x1x5x9x8:f16:causal", "--backend", "mlx"]) == 0
    assert "no speed: on this machine MLX's own ops serve both sides" in capsys.readouterr().out


def test_a_wrong_result_fails_the_command(run, monkeypatch, capsys):
    monkeypatch.setattr(run, "mistake", lambda work, outputs, **options: "1 is wrong")
    assert run.main(["matmul", SPEC, "--backend", "mlx"]) == 1
    assert "1 is wrong" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["5x6"],
        [SPEC, "--kernel", "attention_chain"],
        [SPEC, "--kernel", "mlx"],
        [SPEC, "--rounds", "0"],
        [SPEC, "--json", "/nowhere/x.json"],
        [SPEC, "--json", "/"],
    ],
)
def test_wrong_calls_end_in_usage(run, capsys, arguments):
    with pytest.raises(SystemExit) as end:
        run.main(["matmul", *arguments, "--backend", "emulator"])
    assert end.value.code == 2
    captured = capsys.readouterr()
    assert "Expected" in captured.err
    assert captured.out == ""
    assert backends.resolve().name in ("emulator", "metal", "mlx")


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("overhead", ["--rounds", "0"]),
        ("overhead", ["--calls", "0"]),
        ("planning", ["--count", "0"]),
        ("planning", ["--chip", "m6"]),
        ("counters", ["--chip", "m6"]),
        ("counters", ["--only", "no such row"]),
        ("counters", ["--only", "square", "--write"]),
    ],
)
def test_wrong_calls_of_other_commands_do_too(monkeypatch, capsys, command, arguments):
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "bench"))
    with pytest.raises(SystemExit) as end:
        importlib.import_module(command).main(arguments)
    assert end.value.code == 2
    assert "error: " in capsys.readouterr().err


BENCH = Path(__file__).parent.parent / "bench"
SCRIPTS = sorted(path.name for path in BENCH.glob("*.py") if "__main__" in path.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_starts_by_itself(script, tmp_path):
    """The modules of the tests are not there where a benchmark is run."""
    command = [sys.executable, str(BENCH / script), "--help"]
    environment = {**os.environ, "PYTHONPATH": str(BENCH.parent)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")


def test_overhead_of_one_round_has_a_spread(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "bench"))
    overhead = importlib.import_module("overhead")
    assert overhead._spread([2.0]) == "2.00 (2.00 to 2.00)"
    assert overhead._spread([1.0, 3.0]) == "2.00 (1.50 to 2.50)"


@pytest.fixture
def bench(monkeypatch):
    """Return a function that imports a script."""
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module


@pytest.mark.slow
def test_mlx_s_route_is_held_against_float64(bench, monkeypatch, capsys):
    check = bench("mlx_route_check")
    assert check.main(["--rounds", "0"]) == 0
    assert capsys.readouterr().out.endswith("all right\n")
    run = fallback.gemm

    def spoiled(problem):
        call = run(problem)
        return lambda *given: [1.01 * x for x in call(*given)]

    monkeypatch.setattr(fallback, "gemm", spoiled)
    # The demo's product is MLX's op, for which no call is prepared.
    product = mlx_ops.matmul
    monkeypatch.setattr(mlx_ops, "matmul", lambda *given, **more: 1.01 * product(*given, **more))
    forget_prepared()
    assert check.main(["--rounds", "0"]) == 1
    printed = capsys.readouterr().out
    forget_prepared()
    lines = printed.splitlines()
    assert sum(line.startswith("WRONG") for line in lines) == 2 * len(check.SPECS["matmul"])
    assert lines.count("  WRONG") == 1, "the demo's product"


@pytest.mark.parametrize("rounds", [True, False])
def test_what_mlx_would_round_has_to_be_refused(bench, monkeypatch, rounds):
    check = bench("mlx_route_check")
    monkeypatch.setattr(check, "rounds_float32", lambda: True)
    refusing = backends.rounding if rounds else check
    monkeypatch.setattr(refusing, "rounds_float32", lambda stream=None: True)
    if rounds:
        monkeypatch.setattr("mlx_tilegemm.call.precision.rounds_float32", lambda stream: True)
    found = [reason for title, reason in check.values() if "precision float32" in title]
    assert ("it was not refused" in found) is not rounds
    assert any(reason is None for reason in found), "without float32 nothing is refused"


def test_plain_mlx_is_timed_beside_our_route(bench, capsys):
    route = bench("mlx_route")
    assert route.main(["tiny linear", "--rounds", "1"]) in (0, 1)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("| tiny linear 8x32x32, float32 | ")
    result = route.Result(
        title="a",
        ours=route.spread([2.0]),
        plain=route.spread([1.0]),
        ratio=route.spread([0.5]),
        rounds_scores=True,
    )
    assert route.row(result) == "| a [1] | 2 | 1 | 0.500 (0.500 to 0.500) | slower |"

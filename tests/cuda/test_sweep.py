"""The sweep on an NVIDIA GPU as far as it needs none: its problems, its calls, and its patience."""

from __future__ import annotations

import importlib
import json
import random
import subprocess
import sys
import time
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from answers import answered

import mlx_tilegemm as tg
from mlx_tilegemm.assurance import measurements
from mlx_tilegemm.core.context import current_settings, noting_problems
from mlx_tilegemm.dispatch import MLX, choose
from mlx_tilegemm.machine.chips import LARGEST, NVIDIA

BENCH = str(Path(__file__).parents[2] / "bench")
sys.path.insert(0, BENCH)
try:
    sweep, written, soak, large, bits = map(
        importlib.import_module,
        ("cuda_sweep", "cuda_problems", "cuda_soak", "cuda_large", "cuda_bits"),
    )
finally:
    sys.path.remove(BENCH)

SMALL = (
    ("matmul", "5x64x32:f16,bf16:nt"),
    ("quantized_matmul", "5x64x128:f32,f16:affine4x64"),
    ("quantized_matmul", "5x64x128:bf16:mxfp4"),
    ("attention", "1x4x2x16x16x64:f16,bf16,bf16:causal"),
    ("attention", "1x4x2x1x48x64:f16"),
    ("experts", "5x2x4x32x64:f16,bf16"),
    ("experts", "5x2x4x32x64:bf16:affine4x64"),
    ("fp8_scaled_matmul", "5x256x256:bf16,f32:e4m3-128x128"),
    ("fp8_scaled_matmul", "5x256x256:bf16,f32:e4m3*e4m3-128x128"),
    ("fp8_scaled_matmul", "5x256x256:bf16:e4m3-row"),
    ("gated_delta_update", "1x3x2x4x32x32:bf16,f32"),
    ("gated_delta_update", "1x3x4x4x32x32:bf16,f32:vector"),
)
"""Problems as those of the sweep, but small."""


def test_problems_can_be_spelled_and_have_kernels():
    every = list(sweep.problems())
    assert len(set(every)) == len(every) >= 100
    kinds = {(op, text.partition(":")[2]): text for op, text in every}
    for (op, _), text in kinds.items():
        assert sweep.plans(written.problem_of(op, text), 1)


@pytest.mark.parametrize(("op", "text"), SMALL)
def test_calls_ask_for_the_problem_that_is_spelled(op, text):
    if op == "gated_delta_update":
        pytest.importorskip("mlx_lm", reason="the extra `integrations` brings mlx-lm")
    problem = written.problem_of(op, text)
    (operands, *_) = written.operand_sets(problem)
    pair = written.as_written(op, text)
    asked = []
    with tg.use_backend("mlx"), noting_problems(asked.append):
        ours = pair.ours(operands)
    assert [measurements.key(one.alike()) for one in asked] == [measurements.key(problem.alike())]
    with mx.stream(mx.cpu):
        assert sweep._distance(ours, pair.plain(operands)) < sweep.TOLERANCE


def test_what_an_apple_chip_is_not_offered_is_tried_beside_the_best():
    problem = written.problem_of("attention", "1x32x8x512x512x128:f16,bf16,bf16:causal")
    offered = {str(one) for one in choose(problem, LARGEST).candidates if one.plan}
    tall = {str(one) for one in choose(problem, NVIDIA).candidates if one.plan} - offered
    tried = {*sweep.plans(problem, 2)}
    assert tall
    assert tall <= tried
    assert len(tried - tall) == 2 < len(offered)


def test_a_text_is_compiled_once():
    asked = [written.problem_of("matmul", f"{m}x4096x4096:f16,bf16:nt") for m in (1, 2)]
    several = [name for _, name in sweep.texts(asked, 3)]
    assert several.count(MLX) == 2
    assert 2 < len(several) < sum(len(sweep.texts([one], 3)) for one in asked)


@pytest.mark.slow
def test_a_problem_that_hangs_is_given_up_and_others_go_on(monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    tasks = [("fails", "x", 1), ("hangs", "", 1), ("ends", "", 1), ("works", "y", 2)]
    rows = list(sweep.measured_rows(tasks, answered, 5.0, time.monotonic() + 60))
    assert [one.get("failed") for one in rows] == [
        "ValueError: x",
        "no answer in 5 s",
        "the process ended",
        None,
    ]
    assert rows[-1]["found"] == "yy"


def test_shipped_times_are_found_again(monkeypatch, tmp_path):
    op, text = SMALL[0]
    problem = written.problem_of(op, text)
    ours = next(iter(sweep.plans(problem, 1)))
    rows = [
        sweep.row(op, text, {MLX: 20.0, ours: 10.0}, {}),
        {"op": op, "problem": "7x64x32:f16,bf16:nt", "failed": "no answer in 5 s"},
    ]
    assert rows[0]["mlx_over_ours"] == 2
    assert "1 not measured" in sweep.table(rows)
    environment = {"device": "a GPU", "mlx": "1", "when": "2026-11-27T23:34:13Z"}
    kept = sweep.shipped({"rows": rows, "environment": environment})
    assert len(kept["problems"]) == 1
    (tmp_path / "sm_90.json").write_text(json.dumps(kept))
    monkeypatch.setattr(mx, "device_info", lambda *_: {"architecture": "sm_90"})
    monkeypatch.setattr(measurements, "SHIPPED", tmp_path)
    monkeypatch.setattr(measurements, "default_path", lambda: tmp_path / "tuning.json")
    measurements.forget()
    try:
        found = measurements.measured(problem, NVIDIA)
    finally:
        measurements.forget()
    assert {one.candidate: one.median for one in found.timings} == {MLX: 2e-5, ours: 1e-5}


@pytest.mark.parametrize(("alone", "kept"), [(14.0, ["gemv"]), (14.4, ["gemm_split_k", "gemv"])])
def test_a_second_launch_has_to_gain_what_it_takes_a_program(alone, kept):
    op, text = "matmul", "1x4096x4096:f16,bf16:nt"
    two = "gemm_split_k/16x64x128-1x4-staged-split8"
    times = {MLX: 20.0, two: 10.0, "gemv/1x4-8": alone}
    found = sweep.fastest(written.problem_of(op, text), times)
    assert [name.partition("/")[0] for name in found] == [*kept, MLX]
    assert sweep.row(op, text, times, {})["kernel"] == next(iter(found))


@pytest.mark.parametrize(
    ("kernel", "plain", "left", "program", "count"),
    [
        ("gemv/1x4-8", 20.0, 9.0, 20.0, 0),
        ("gemv/1x4-8", 9.0, 11.0, 9.1, 1),
        ("gemv/1x4-8", 9.0, 11.0, 8.9, 0),
        (MLX, 11.0, 11.0, 9.0, 1),
        (MLX, 9.0, 11.0, 20.0, 0),
    ],
)
def test_what_is_slower_than_left_to_mlx_is_not_shipped(kernel, plain, left, program, count):
    op, text = SMALL[0]
    ours = next(iter(sweep.plans(written.problem_of(op, text), 1)))
    rows = [sweep.row(op, text, {MLX: 20.0, ours: 10.0}, {})]
    called = {"op": op, "problem": text, "kernel": kernel, "ours_us": 10.0, "mlx_us": plain}
    called["program"] = {"ours_us": 10.0, "left_us": program}
    failed = {"op": op, "problem": "another", "failed": "no answer in 5 s"}
    calls = [{**called, "left_us": left}, failed]
    environment = {"device": "a GPU", "mlx": "1", "when": "2026-11-27T23:34:13Z"}
    found = {"rows": rows, "environment": environment}
    slower = sweep.slower_as_called(calls, rows)
    assert len(sweep.shipped(found, slower)["problems"]) == count


@pytest.mark.parametrize(("plain", "count"), [(18.0, 0), (19.0, 1)])
def test_what_gains_less_than_its_call_stands_in_the_table_as_left(plain, count):
    op, text = SMALL[0]
    ours = next(iter(sweep.plans(written.problem_of(op, text), 1)))
    alone = sweep.row(op, text, {MLX: plain, ours: 10.0}, {})
    times = {"ours_us": 10.0, "mlx_us": 20.0, "left_us": 20.0, "mlx_over_ours": 2.0}
    called = {"op": op, "problem": text, "kernel": ours, **times, "program": times}
    assert sweep.is_worth_its_call(alone) == bool(count)
    line = sweep.both([alone], [called]).splitlines()[-1]
    assert ("the same" in line) == bool(count)
    assert ("| mlx | 20.0 | 20.0 | 1.0 |" in line) != bool(count)


def test_calls_are_left_to_mlx():
    found = []
    call = sweep.left_to_mlx(
        lambda *given: (found.append((*given, current_settings().kernel)), "wait")
    )
    assert call(3, None)[-1] == "wait"
    assert found == [(3, None, MLX)]
    assert current_settings().kernel is None


def test_the_table_has_every_problem_once_in_its_kind():
    times = {"ours_us": 1, "mlx_us": 2, "mlx_over_ours": 2.0, "left_us": 2}
    rows = [
        {"op": op, "problem": text, "kernel": "k", **times, "program": times}
        for op, text in written.problems()
    ]
    slow = [{**one, "kernel": MLX, "mlx_over_ours": 0.5} for one in rows[:4]]
    slow[0]["program"] = {**times, "mlx_over_ours": 0.9}
    lines = sweep.both(rows, [*slow, *rows[4:]]).splitlines()
    assert sum(one["problem"] in line for one in rows for line in lines) >= len(rows)
    kinds = [line.split(" | ") for line in lines[2 : lines.index("")]]
    assert sum(int(count) for _, count, *_ in kinds) == len(rows)
    wanted = ["| gated delta, 1 token", "2", "2.0", "2.0", "2.0 to 2.0", "2.0", "2.0 to 2.0 |"]
    assert wanted in kinds
    (said,) = (line for line in lines if line.startswith("As called"))
    for count in (4, 1):
        assert f"{len(rows) - count} of {len(rows)} are at least 0.97" in said
        assert f"of the other {count} MLX's own op serves {count}" in said


def test_the_table_says_what_a_held_call_takes_and_has_gaps():
    (op, text), (other, another) = SMALL[:2]
    times = {"ours_us": 3.0, "mlx_us": 2.0, "mlx_over_ours": 0.667, "left_us": 2.5}
    row = {"op": op, "problem": text, "kernel": "k", **times}
    rows = [{**row, "mlx_over_ours": 2.0}, {**row, "op": other, "problem": another}]
    lines = sweep.both(rows, [{**row, "program": times}]).splitlines()
    (held,) = (line for line in lines if line.startswith(f"| {op} | {text} |"))
    assert held.endswith("| mlx | 2.5 | 2.0 | 0.8 | 2.5 | 2.0 | 0.8 |")
    (gap,) = (line for line in lines if line.startswith(f"| {other} | {another} |"))
    assert gap.endswith("| 0.667 |  |  |  |  |  |  |  |")


def test_the_table_leaves_out_what_has_no_time():
    (op, text), (other, another), (third, last) = SMALL[:3]
    row = {"op": op, "problem": text, "kernel": "k", "ours_us": 3.0, "mlx_us": 6.0}
    failed = {"op": other, "problem": another, "failed": "no answer in 5 s"}
    nothing = {"op": third, "problem": last, "kernel": None, "mlx_over_ours": None}
    lines = sweep.both([{**row, "mlx_over_ours": 2.0}, failed, nothing], []).splitlines()
    assert any(text in line for line in lines)
    assert not any(another in line or last in line for line in lines)


def test_what_failed_is_measured_again(monkeypatch, tmp_path):
    path = tmp_path / "sweep.json"
    (op, text), (other, another), *_ = problems = list(sweep.problems())[:3]
    done = {"op": op, "problem": text, "kernel": None}
    failed = {"op": other, "problem": another, "failed": "no answer in 5 s"}
    path.write_text(json.dumps({"rows": [done, failed]}))
    asked = []

    def answers(tasks, *_):
        asked.extend(tasks)
        return [{"op": op, "problem": text, "kernel": None} for op, text, _ in tasks]

    monkeypatch.setattr(sweep, "problems", lambda: problems)
    monkeypatch.setattr(sweep, "measured_rows", answers)
    monkeypatch.setattr(sweep, "environment", dict)
    monkeypatch.setattr(sweep, "require", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["cuda_sweep.py", "--calls", "--json", str(path)])
    sweep.main()
    assert [one[:2] for one in asked] == problems[1:]
    rows = json.loads(path.read_text())["rows"]
    assert [(one["op"], one["problem"]) for one in rows] == problems
    assert not any("failed" in one for one in rows)


def test_a_nan_beside_another_is_no_difference():
    half = np.array([0x7FFF, 0x3C01, 0x3C00, 0x7C00], dtype=np.uint16)
    wanted = np.array([0x7E00, 0x3C00, 0x3C00, 0x7E00], dtype=np.uint16)
    differing = bits.apart(half, wanted, mx.float16)
    assert [one.tolist() for one in differing] == [[0x3C01, 0x7C00], [0x3C00, 0x7E00]]
    assert bits.units(*differing, mx.float16) == 512
    assert bits.units(*bits.apart(wanted, wanted, mx.float16), mx.float16) == 0
    whole = bits.apart(half.astype(np.uint32), wanted.astype(np.uint32), mx.int32)
    assert whole[0].size == 3


def test_random_problems_may_be_served():
    draw = random.Random(5)
    drawn = [soak.drawn(draw) for _ in range(60)]
    assert {op for op, *_ in drawn} == set(soak.SPELLINGS) == set(large.SPECS)
    for _, _, problem, plan in drawn:
        assert str(plan) in [str(one) for one in choose(problem, NVIDIA).candidates if one.plan]


def test_each_operand_and_the_result_are_large_somewhere():
    least = 2**31
    for cases in (large.products, large.weights, large.attentions, large.experts):
        problems = [large.SPECS[one.op](one.large) for one in cases(large.SIDE)]
        for op in {type(one) for one in problems}:
            found = [one for one in problems if isinstance(one, op)]
            shapes = [[x.elements for x in (*p.operands, *p.results)] for p in found]
            roles = {"first": 0, "second": 1, "result": -1}
            assert all(any(s[at] > least for s in shapes) for at in roles.values())


def test_a_part_of_a_large_problem_is_compared():
    case = next(large.products(64))
    problem = large.SPECS[case.op](case.large)
    a, b = (large.drawn(one) for one in problem.operands)
    with mx.stream(mx.cpu):
        right = a.astype(mx.float32) @ b.astype(mx.float32).T
        assert large.mistakes(case, [a, b], [right]) == []
        wrong = mx.where(mx.arange(64)[:, None] == 63, right[0:1], right)
        assert large.mistakes(case, [a, b], [wrong])
        assert "zero" in large.mistakes(case, [a * 0, b], [right])[0]


@pytest.mark.parametrize("script", [sweep, soak, large, bits], ids=lambda one: one.__name__)
def test_what_cannot_be_measured_here_is_said_before_anything_is_made(
    monkeypatch, capsys, tmp_path, script
):
    words = ["compare", str(tmp_path / "none.npz")] if script is bits else []
    words += ["--json", str(tmp_path / "none.json")] if script is sweep else []
    monkeypatch.setattr(sys, "argv", ["script", *words])
    monkeypatch.setattr(mx.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as ended:
        script.main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "Expected a backend that runs kernels here, got cuda: MLX has no CUDA here" in said
    assert not [*tmp_path.iterdir()]


@pytest.mark.slow
def test_models_run_their_own_metal_kernels():
    pytest.importorskip("mlx_lm", reason="the extra `integrations` brings mlx-lm")
    script = str(Path(BENCH) / "cuda_mlx_lm.py")
    words = ("--backend", "emulator", "--small", "--only", "bitnet", "--prompt=3", "--tokens=2")
    run = subprocess.run([sys.executable, script, *words], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "'kernels': ['bitlinear_matmul']" in run.stdout

"""On a device that no model knows, measured times decide, and MLX's own ops have the rest."""

from __future__ import annotations

import json
from dataclasses import replace

import mlx.core as mx
import pytest

import mlx_tilegemm as tg
from mlx_tilegemm.assurance import measurements
from mlx_tilegemm.backends import backend_named
from mlx_tilegemm.call.choice import chosen
from mlx_tilegemm.core.render import text_name
from mlx_tilegemm.dispatch import MLX, Measurements, Timing, choose, refuse
from mlx_tilegemm.families.gated_delta.spelling import parse as delta_spec
from mlx_tilegemm.machine.chips import DEFAULT, NVIDIA

A, B = (
    tg.ArraySpec(shape=shape, dtype=dtype)
    for shape, dtype in (((8, 64), mx.float16), ((64, 48), mx.bfloat16))
)
PROBLEM = tg.explain("matmul", A, B).problem
OURS = next(one for one in choose(PROBLEM, DEFAULT).candidates if one.plan is not None)


def taking(**seconds):
    timings = tuple(
        Timing(candidate={"ours": str(OURS), "mlx": MLX}[name], median=one, low=one, high=one)
        for name, one in seconds.items()
    )
    return Measurements(where="a GPU", timings=timings)


def route(found, **options):
    return choose(
        PROBLEM, DEFAULT, mlx_competes=True, measurements=found, modelled=False, **options
    )


def test_what_was_not_measured_goes_to_mlx():
    decision = route(None)
    assert decision.plan is None
    assert decision.reason == "nothing was measured for it here, and no model knows this device"
    assert choose(PROBLEM, DEFAULT, "any", modelled=False).plan is not None


def test_what_mlx_would_do_step_by_step_is_the_kernels_all_the_same():
    problem = delta_spec("1x100x2x4x128x128:bf16,f32")
    decision = choose(problem, DEFAULT, mlx_competes=True, modelled=False)
    assert decision.plan is not None
    assert "would run ops for each step" in decision.reason
    slow = Timing(candidate=str(decision.plan), median=2.0, low=2.0, high=2.0)
    fast = replace(slow, candidate=MLX, median=1.0, low=1.0, high=1.0)
    measured = Measurements(where="a GPU", timings=(slow, fast))
    found = choose(problem, DEFAULT, mlx_competes=True, measurements=measured, modelled=False)
    assert found.plan is None


@pytest.mark.parametrize(("ours", "expected"), [(1e-5, OURS.kernel), (3e-5, MLX)])
def test_the_faster_one_serves(ours, expected):
    assert route(taking(ours=ours, mlx=2e-5)).route == expected


@pytest.mark.parametrize(("mlx", "expected"), [(1.7e-5, MLX), (1.9e-5, OURS.kernel)])
def test_a_launch_has_to_be_worth_its_call(mlx, expected):
    assert NVIDIA.limits.call_seconds > 0 == DEFAULT.limits.call_seconds
    decision = route(replace(taking(ours=1e-5, mlx=mlx), call_seconds=4e-6))
    assert decision.route == expected
    assert ("8 us of the program's for its call" in decision.reason) == (expected == MLX)
    left = refuse(decision, PROBLEM, None, refused="none", reason="a test")
    assert left.route == expected


def test_of_two_launches_both_count():
    deep = [replace(one, shape=shape) for one, shape in ((A, (8, 4096)), (B, (4096, 48)))]
    problem = tg.explain("matmul", *deep).problem
    plans = [one for one in choose(problem, DEFAULT).candidates if one.plan is not None]
    one, two = (
        next(str(x) for x in plans if len(x.plan.stages) == count and x.kernel != OURS.kernel)
        for count in (1, 2)
    )
    times = {one: 1.3e-5, two: 1e-5}
    timings = [Timing(candidate=x, median=us, low=us, high=us) for x, us in times.items()]
    found = Measurements(where="a GPU", timings=tuple(timings))
    for call_seconds, expected in ((0.0, two), (4e-6, one)):
        measured = replace(found, call_seconds=call_seconds)
        decision = choose(problem, DEFAULT, measurements=measured, modelled=False)
        assert str(decision.plan) == expected


def test_a_refused_kernel_leaves_the_call_to_mlx():
    decision = route(taking(ours=1e-5, mlx=2e-5))
    left = refuse(decision, PROBLEM, None, refused=str(OURS), reason="a test")
    assert left.plan is None


@pytest.fixture
def shipped(monkeypatch, tmp_path):
    """Return a function that ships the time of a text for this machine's architecture."""

    def ship(text):
        times = [
            {"candidate": name, "median": one, "low": one, "high": one, "text": text}
            for name, one, text in ((str(OURS), 1e-5, text), (MLX, 2e-5, ""))
        ]
        entry = {"when": "2026-11-27T20:19:00Z", "times": times}
        kept = {"machine": "a GPU", "problems": {measurements.key(PROBLEM.alike()): entry}}
        (tmp_path / "sm_90.json").write_text(json.dumps(kept))
        measurements.forget()
        return measurements.measured(PROBLEM, DEFAULT)

    info = {"architecture": "sm_90", "device_name": "a GPU"}
    monkeypatch.setattr(mx, "device_info", lambda *_: info)
    monkeypatch.setattr(measurements, "SHIPPED", tmp_path)
    monkeypatch.setattr(measurements, "default_path", lambda: tmp_path / "tuning.json")
    yield ship
    measurements.forget()


def test_shipped_times_hold_for_the_very_text(shipped):
    found = shipped(text_name(OURS.plan))
    assert found.where == "a GPU, 2026-11-27"
    assert route(found).route == OURS.kernel
    stale = shipped("another text")
    assert [one.candidate for one in stale.timings] == [MLX]
    assert route(stale).plan is None


def test_a_call_on_cuda_is_chosen_so(shipped, monkeypatch):
    cuda = backend_named("cuda")
    monkeypatch.setattr(type(cuda), "missing", lambda self: None)
    monkeypatch.setattr("mlx_tilegemm.assurance.canary.is_needed", lambda backend: False)
    shipped(text_name(OURS.plan))
    assert chosen(PROBLEM, cuda).decision.route == OURS.kernel
    shipped("another text")
    assert chosen(PROBLEM, cuda).plan is None


def test_what_is_shipped_can_be_read():
    for path in measurements.SHIPPED.glob("*.json"):
        kept = json.loads(path.read_text())
        assert kept["machine"]
        assert kept["command"]
        for entry in kept["problems"].values():
            found = measurements._parse(entry)
            assert {MLX} < {one.timing.candidate for one in found.times}

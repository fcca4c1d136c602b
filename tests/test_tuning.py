"""Tuning: what is measured, what is kept, and what dispatch makes of it. No clock runs here."""

import io
import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import count
from unittest import mock

import mlx.core as mx
import pytest
from fake_metal import ON_A_GPU, clocked_metal

import mlx_tilegemm as tg
from mlx_tilegemm import dispatch
from mlx_tilegemm.assurance import canary, measurements, tuning
from mlx_tilegemm.assurance.tuning import Status, calls
from mlx_tilegemm.assurance.tuning.calls import busy, launches, links, mistake, workload
from mlx_tilegemm.assurance.tuning.measure import LEAST, Effort, measure, spread
from mlx_tilegemm.cli import main
from mlx_tilegemm.core.dtypes import FLOAT16, FLOAT32, FLOATS, INTEGERS
from mlx_tilegemm.core.plain import from_plain, to_plain
from mlx_tilegemm.core.render import text_name
from mlx_tilegemm.dispatch import Measurements, Timing, choose
from mlx_tilegemm.errors import BackendError, ProblemError
from mlx_tilegemm.families import all_kernels, families, problem_types
from mlx_tilegemm.families.attention import fallback
from mlx_tilegemm.families.attention.problem import MaskKind
from mlx_tilegemm.families.attention.spelling import parse as attention_spec
from mlx_tilegemm.families.gemm.spelling import parse as matmul_spec
from mlx_tilegemm.machine import chips

FLAGS = [f"--{one.spelling.name.replace('_', '-')}" for one in families() if one.spelling]

A = mx.random.normal((50, 40), key=mx.random.key(1))
B = mx.random.normal((40, 24), key=mx.random.key(2))
PROBLEM = tg.explain("matmul", A, B).problem
QUICK = Effort(rounds=4, warm_seconds=0.0, sample_seconds=0.0)


def candidates(problem=PROBLEM):
    return {str(one): one.plan for one in tuning.legal(problem, chips.detect()[0])}


def mac(tmp_path, *, fast=None, **options):
    """Pretend to be on a Mac where the candidate ``fast`` is the fastest."""
    seconds = {text_name(candidates()[fast]): 1e-3} if fast else {}
    return clocked_metal(tmp_path / "canary.json", seconds, **options)


def tuned(metal, problems=(PROBLEM,), **options):
    return tuning.tune(problems, effort=QUICK, clock=metal.clock, **options)


@pytest.fixture
def other():
    """A legal candidate that the model does not choose."""
    chosen = str(choose(PROBLEM, chips.detect()[0]).plan)
    return next(name for name in candidates() if name != chosen and "simdgroup" in name)


@pytest.fixture
def off_gpu(monkeypatch):
    monkeypatch.setattr(mx.metal, "is_available", lambda: False)
    monkeypatch.setattr(mx.cuda, "is_available", lambda: False)


class TestTune:
    def test_times_every_legal_candidate_and_mlx(self, tmp_path, other):
        with mac(tmp_path, fast=other) as metal:
            (outcome,) = tuned(metal)
        assert outcome.status is Status.MEASURED
        assert {one.candidate for one in outcome.timings} == {*candidates(), "mlx"}
        assert outcome.timings[0].candidate == other
        assert outcome.timings[0].median == pytest.approx(1e-3)
        assert outcome.timings[-1].median == pytest.approx(3e-3)
        assert f"{other} 1000.0 us, MLX 3000.0 us" in str(outcome)

    def test_what_is_kept_is_for_people_to_read(self, tmp_path, other):
        with mac(tmp_path, fast=other) as metal:
            tuned(metal)
            machine = measurements.open_file().machine
        content = json.loads((tmp_path / "tuning.json").read_text())
        assert "Deleting this file is safe" in content["about"]
        ((name, entry),) = content["machines"][machine].items()
        assert name.startswith(str(PROBLEM))
        assert entry["times"][0]["candidate"] == other
        assert entry["times"][0]["text"] == text_name(candidates()[other])

    def test_dispatch_prefers_it(self, tmp_path, other):
        with mac(tmp_path, fast=other) as metal:
            before = tg.explain("matmul", A, B)
            assert str(before.plan) != other
            assert "measured" not in str(before)
            tuned(metal)
            explanation = tg.explain("matmul", A, B)
            assert str(explanation.plan) == other
            assert "lowest measured time" in explanation.reason
            assert f"measured on {measurements.open_file().machine}, 2" in str(explanation)
            assert "1000.00 us measured (1000.00 to 1000.00)" in str(explanation)
            metal.launched.clear()
            assert mx.allclose(tg.matmul(A, B), A @ B, rtol=1e-5, atol=1e-5)
            assert metal.launched == [text_name(candidates()[other])]

    def test_another_process_knows(self, tmp_path, other):
        with mac(tmp_path, fast=other) as metal:
            tuned(metal)
        with mac(tmp_path):
            assert str(tg.explain("matmul", A, B).plan) == other
            # Another chip's plan is modelled, and so is a problem that was not measured.
            assert "measured" not in str(tg.explain("matmul", A, B, chip="m1"))
            assert "measured" not in str(tg.explain("matmul", A[:49], B))

    def test_how_axes_were_folded_does_not_matter(self, tmp_path, other):
        with mac(tmp_path, fast=other) as metal:
            tuned(metal)
            assert str(tg.explain("matmul", A.reshape(5, 10, 40), B).plan) == other

    def test_a_kernel_that_changed_counts_as_not_measured(self, tmp_path, other):
        with mac(tmp_path, fast=other) as metal:
            tuned(metal)
        path = tmp_path / "tuning.json"
        path.write_text(path.read_text().replace(text_name(candidates()[other]), "older_text"))
        with mac(tmp_path) as metal:
            explanation = tg.explain("matmul", A, B)
            assert str(explanation.plan) != other
            (row,) = [line for line in str(explanation).splitlines() if f" {other} " in line]
            assert row.endswith("modelled")
            (outcome,) = tuned(metal)
            assert outcome.status is Status.MEASURED

    @pytest.mark.parametrize(("seconds", "route"), [(0.9e-3, "mlx"), (0.99e-3, "gemm_simdgroup")])
    def test_mlx_serves_where_it_was_faster_than_a_tie(self, tmp_path, other, seconds, route):
        with (
            mac(tmp_path, fast=other, mlx_seconds=seconds) as metal,
            mock.patch.object(metal, "capabilities", replace(ON_A_GPU, rivals_mlx=True)),
        ):
            tuned(metal)
            explanation = tg.explain("matmul", A, B)
            assert explanation.route == route
            assert ("MLX's own ops were measured" in explanation.reason) is (route == "mlx")
            with tg.use_kernel("any"):
                assert str(tg.explain("matmul", A, B).plan) == other

    def test_wrong_kernels_are_disabled_not_timed(self, tmp_path, other):
        name = text_name(candidates()[other])
        # Right in the canary's trial, wrong on the problem itself.
        launched = []

        def fault(kernel):
            launched.append(kernel)
            return "wrong" if kernel == name and launched.count(name) > 1 else None

        with mac(tmp_path, fast=other, fault=fault) as metal:
            (outcome,) = tuned(metal)
            assert "out of bounds" in outcome.left_out[other]
            assert other not in {one.candidate for one in outcome.timings}
            assert canary.look_up(candidates()[other]).state is canary.State.DISABLED
            assert str(tg.explain("matmul", A, B).plan) != other

    def test_kernels_that_raise_are_left_out(self, tmp_path, other):
        name = text_name(candidates()[other])
        fault = lambda kernel: "memory" if kernel == name else None  # noqa: E731
        with mac(tmp_path, fault=fault) as metal:
            (outcome,) = tuned(metal)
        assert list(outcome.left_out) == [other]

    def test_an_interrupted_run_goes_on_where_it_stopped(self, tmp_path):
        more = tg.explain("matmul", A[:49], B).problem
        with mac(tmp_path) as metal:

            def stop(done, total, outcome):
                raise KeyboardInterrupt

            with pytest.raises(KeyboardInterrupt):
                tuned(metal, (PROBLEM, more), progress=stop)
        with mac(tmp_path) as metal:
            statuses = [one.status for one in tuned(metal, (PROBLEM, more))]
            assert statuses == [Status.KNOWN, Status.MEASURED]
            assert [one.status for one in tuned(metal, again=True)] == [Status.MEASURED]

    @pytest.mark.parametrize(
        "damage",
        ["{", "[]", '{"version": 1, "machines": {"MACHINE": {"x": {}}}}', "[" * 100_000],
        ids=["cut", "list", "entry", "deep"],
    )
    def test_a_damaged_file_is_told_of_once_and_replaced(self, tmp_path, damage):
        path = tmp_path / "tuning.json"
        with mac(tmp_path) as metal:
            path.write_text(damage.replace("MACHINE", measurements.open_file().machine))
            with pytest.warns(RuntimeWarning, match=r"\[tune\] Could not read"):
                result = tg.matmul(A, B)
            assert mx.allclose(result, A @ B, rtol=1e-5, atol=1e-5)
            tg.matmul(A[:49], B)  # warnings are errors
            with pytest.warns(RuntimeWarning, match=r"\[tune\] Could not read"):
                tuned(metal)
            assert measurements.measured(PROBLEM, chips.detect()[0]) is not None

    def test_gradients_of_attention_are_passed_over(self, tmp_path):
        problem = next(x for k in all_kernels() if "query" in k.name for x in k.variant_problems())
        with mac(tmp_path) as metal:
            (outcome,) = tuned(metal, (problem,))
        assert outcome.status is Status.SKIPPED
        assert "not tuned" in str(outcome)

    def test_what_does_not_fit_does_not_end_the_run(self, tmp_path):
        with mac(tmp_path) as metal, mock.patch.object(tuning.run, "workload") as made:
            made.side_effect = [RuntimeError("[malloc] Unable to allocate"), workload(PROBLEM)]
            first, second = tuned(metal, (tg.explain("matmul", A[:49], B).problem, PROBLEM))
        assert first.status is Status.SKIPPED
        assert "Unable to allocate" in str(first)
        assert second.status is Status.MEASURED

    def test_times_of_a_clock_that_stands_still_are_not_kept(self, tmp_path):
        with mac(tmp_path):
            (outcome,) = tuning.tune((PROBLEM,), effort=QUICK, clock=lambda: 0.0)
        assert outcome.status is Status.SKIPPED
        assert "too coarse" in str(outcome)
        assert not (tmp_path / "tuning.json").exists()

    def test_nothing_but_metal_is_measured(self, off_gpu):
        with pytest.raises(BackendError, match="say nothing about a GPU"):
            tuning.tune((PROBLEM,))


class TestDecoding:
    def test_a_growing_sequence_shares_what_was_measured(self, tmp_path):
        decode = attention_spec("1x4x2x1x1000x64:f16")
        later = attention_spec("1x4x2x1x1003x64:f16")
        much_later = attention_spec("1x4x2x1x2000x64:f16")
        chip = chips.detect()[0]
        last = list(candidates(decode))[-1]
        by_mlx = fallback.attention(decode.alike())
        with mac(tmp_path) as metal:
            # Attention is right on this fake only by MLX's ops.
            def on_kernel(work, plan, backend):
                def call(operands):
                    metal.now += 1e-3 if str(plan) == last else 2e-3
                    return by_mlx(operands, work.factors, None)

                return call

            def on_mlx(work):
                return on_kernel(work, None, None)

            proven = canary.Verdict(state=canary.State.PROVEN)
            with (
                mock.patch.object(tuning.calls.Workload, "on_mlx", on_mlx),
                mock.patch.object(tuning.calls.Workload, "on_kernel", on_kernel),
                mock.patch.object(canary, "look_up", return_value=proven),
            ):
                (outcome,) = tuned(metal, (decode, later))
            assert outcome.problem == decode.alike()
            assert outcome.status is Status.MEASURED
            for problem in (decode, later):
                known = measurements.measured(problem, chip)
                assert str(choose(problem, chip, measurements=known).plan) == last
            assert measurements.measured(much_later, chip) is None


class TestLaunches:
    def test_operands_rotate(self):
        seen = []

        def call(operands):
            seen.append(operands[1])
            return operands[:1]

        launches(call, [(mx.ones(2), name) for name in "abc"])(4, None)
        assert seen == ["a", "b", "c", "a"]

    def test_a_call_waits_for_all_results_of_the_one_before(self):
        """The GPU would run them side by side, and a kernel that fills half of it look fast."""
        first = mx.array([[1, 2], [3, 4]], dtype=mx.float16)
        made_of = []

        def call(operands):
            (one,) = operands
            graph = io.StringIO()
            mx.export_to_dot(graph, one)
            made_of.append(graph.getvalue())
            assert one.dtype == mx.float16
            assert one.tolist() == first.tolist()
            return mx.abs(first.astype(mx.float32)), mx.negative(first)

        launches(call, [(first,)])(2, None)
        assert ["Abs" in graph and "Negative" in graph for graph in made_of] == [False, True]

    def test_calls_come_after_work(self):
        work, graph = mx.negative(mx.ones(3)), io.StringIO()

        def call(operands):
            mx.export_to_dot(graph, operands[0])
            return operands

        make = launches(call, [(mx.ones(2),)])
        make(0, lambda: work)
        assert not graph.getvalue()
        make(1, lambda: mx.negative(mx.ones(3)))
        assert "Negative" in graph.getvalue()

    @pytest.mark.parametrize("speed", [1e9, 1e12, 4e12])
    def test_work_lasts_longer_than_a_sample(self, monkeypatch, speed):
        """On GPUs of so many elements a second, of which the last would finish more too soon."""
        now, effort = [0.0], Effort(sample_seconds=4e-3)

        def steps(size, count):
            def work():
                assert size <= calls.MOST_ELEMENTS
                assert count <= calls.MOST_STEPS
                now[0] += count * size / speed
                return mx.zeros(1)

            return work

        monkeypatch.setattr(calls, "_steps", steps)
        work = calls.busy(effort, lambda: now[0])
        start = now[0]
        work()
        least = min(2 * effort.sample_seconds, calls.MOST_STEPS * calls.MOST_ELEMENTS / speed)
        assert 0.99 * least <= now[0] - start < 1


def gpu(varies=0.0):
    """Return a clock's time, and calls of so many seconds on a GPU that work keeps busy for 12 ms.

    Every other time, work takes so many seconds more.
    """
    now, turns = [0.0], count()

    def taking(seconds):
        def make(number, work):
            more = varies * (next(turns) % 2)
            ahead = 0.0 if work is None else 12e-3 + more
            return partial(pass_time, ahead + seconds * number)

        return make

    def pass_time(seconds):
        now[0] += seconds

    return now, taking


class TestMeasure:
    """Calls that take given seconds on a clock that only they move."""

    @staticmethod
    def calls(seconds, log=None):
        state = {"now": 0.0}

        def call(name):
            def make(count, work):
                for _ in range(count):
                    state["now"] += seconds[name](state["now"])
                if log is not None:
                    log.append((name, count))
                return lambda: None

            return make

        return {name: call(name) for name in seconds}, lambda: state["now"]

    def test_rounds_rotate_and_slow_calls_leave(self):
        log = []
        calls, clock = self.calls({"a": lambda _: 1.0, "b": lambda _: 1.9, "c": lambda _: 2.1}, log)
        samples = measure(calls, clock, Effort(rounds=5, warm_seconds=0, sample_seconds=0))
        assert samples == {
            "a": [1.0] * 5,
            "b": [pytest.approx(1.9)] * 5,
            "c": [pytest.approx(2.1)] * 3,
        }
        rounds = [name for name, _ in log][-13:]
        assert "".join(rounds) == "abcbcacab" + "ba" + "ab"

    def test_warm_up_and_samples_are_long_enough(self):
        log = []
        calls, clock = self.calls({"a": lambda _: 0.25}, log)
        measure(calls, clock, Effort(rounds=1, warm_seconds=2.0, sample_seconds=0.9))
        assert [count for _, count in log] == [1] * 8 + [1, 2, 4, 4] + [4]

    def test_a_hiccup_does_not_make_samples_short(self):
        """Waiting for the last call would then count for much of each."""
        log = []
        calls, clock = self.calls({"a": lambda now: 1.0 if now == 0 else 0.25}, log)
        measure(calls, clock, Effort(rounds=1, warm_seconds=0, sample_seconds=0.9))
        assert log[-1] == ("a", 4)

    def test_drift_does_not_favour_anybody(self):
        slowing = lambda now: 1e-3 * (1 + now)  # noqa: E731
        calls, clock = self.calls({"a": slowing, "b": lambda now: 1.1 * slowing(now)})
        samples = measure(calls, clock, Effort(rounds=16, warm_seconds=0, sample_seconds=0))
        ratio = spread(samples["b"]).median / spread(samples["a"]).median
        assert ratio == pytest.approx(1.1, rel=0.01)

    def test_a_clock_that_stands_still_ends(self):
        calls, _ = self.calls({"a": lambda _: 1.0})
        assert measure(calls, lambda: 0.0, Effort(rounds=1)) == {"a": [0.0]}
        busy(Effort(), lambda: 0.0)()

    @pytest.mark.parametrize("sample_seconds", [4e-3, 16e-3])
    def test_work_hides_the_time_in_which_calls_are_made(self, sample_seconds):
        """A GPU of 10 us a call, that a program hands one every 40 us, and work of 12 ms."""
        now, counts = [0.0], []

        def make(count, work):
            ahead = 0.0 if work is None else 12e-3
            done = now[0] + max(ahead + 10e-6 * count, 40e-6 * count + 10e-6)
            now[0] += 40e-6 * count
            counts.append(count)

            def wait():
                now[0] = done

            return wait

        clock = lambda: now[0]  # noqa: E731
        effort = Effort(rounds=2, warm_seconds=0, sample_seconds=sample_seconds)
        (alone,) = {*measure({"a": make}, clock, effort)["a"]}
        assert alone == pytest.approx(40e-6, rel=0.01)
        samples = measure({"a": make}, clock, effort, lambda: mx.zeros(1))["a"]
        assert samples == pytest.approx([10e-6] * 2)
        # 256 would take 10.2 ms to hand on.
        assert counts[-1] == 128

    def test_what_links_calls_is_taken_out(self):
        now, taking = gpu()
        clock, effort = lambda: now[0], Effort(rounds=3, warm_seconds=0, sample_seconds=4e-3)
        calls = {"a": taking(5e-6), "b": taking(11e-6)}
        samples = measure(calls, clock, effort, lambda: mx.zeros(1), taking(2e-6))
        assert samples["a"] == pytest.approx([3e-6] * 3)
        assert samples["b"] == pytest.approx([9e-6] * 3)

    def test_links_are_so_many_that_work_which_varies_does_not_matter(self):
        """Links of 2 us, calls of 3 more, and work that takes 60 us longer every other time."""
        now, taking = gpu(varies=60e-6)
        clock, effort = lambda: now[0], Effort(rounds=9, warm_seconds=0, sample_seconds=4e-3)
        samples = measure({"a": taking(5e-6)}, clock, effort, lambda: mx.zeros(1), taking(2e-6))
        assert max(samples["a"]) - min(samples["a"]) < 0.3e-6
        assert samples["a"] == pytest.approx([3e-6] * 9, abs=0.2e-6)

    def test_calls_that_seem_to_take_less_than_their_links_take_time(self):
        now, taking = gpu()
        clock, effort = lambda: now[0], Effort(rounds=5, warm_seconds=0, sample_seconds=4e-3)
        calls = {"a": taking(1e-6), "b": taking(9e-6)}
        samples = measure(calls, clock, effort, lambda: mx.zeros(1), taking(2e-6))
        assert set(samples["a"]) == {LEAST}
        assert min(samples["b"]) > LEAST

    def test_links_are_the_operands_of_calls(self):
        sets = [[mx.ones((2, 3)), mx.ones(4)], [mx.zeros((2, 3)), mx.ones(4)]]
        made = []
        with mock.patch.object(calls, "_after", lambda x, last: made.append(x) or x):
            links(sets)(5, None)
        assert [one.shape for one in made] == [(2, 3)] * 4

    def test_spread(self):
        assert spread([3.0]).low == 3.0
        found = spread([1.0, 2.0, 3.0, 4.0, 100.0])
        assert (found.low, found.median, found.high) == (2.0, 3.0, 4.0)


class TestChoice:
    """Choice is pure: measured times come in as a value."""

    CHIP = chips.get("m4")

    def choice(self, times, force=None, **options):
        timings = tuple(Timing(candidate=n, median=s, low=s, high=s) for n, s in times.items())
        known = Measurements(where="a Mac", timings=timings)
        return choose(PROBLEM, self.CHIP, force, measurements=known, **options)

    def test_measured_goes_before_modelled(self):
        last = list(candidates())[-1]
        assert str(self.choice({last: 1.0}).plan) == last

    def test_ties_go_to_what_is_declared_first(self):
        first, second = list(candidates())[:2]
        assert str(self.choice({first: 1.01, second: 1.0}).plan) == first
        assert str(self.choice({first: 1.03, second: 1.0}).plan) == second

    def test_mlx_competes_only_where_it_may(self):
        first = next(iter(candidates()))
        times = {first: 1.0, "mlx": 0.5}
        assert self.choice(times, mlx_competes=True).plan is None
        assert str(self.choice(times).plan) == first
        assert str(self.choice(times, "any", mlx_competes=True).plan) == first

    def test_what_is_forced_is_chosen_among_what_is_allowed(self):
        first, *_, last = candidates()
        assert str(self.choice({last: 1.0}, first).plan) == first
        assert self.choice({last: 1.0}, "gemm_scalar").plan.kernel == "gemm_scalar"

    def test_times_of_what_is_not_legal_do_not_count(self):
        free = choose(PROBLEM, self.CHIP)
        assert self.choice({"gemm_nothing/0": 1e-9}).plan == free.plan
        refused = dispatch.refuse(
            self.choice({str(free.plan): 1e-9}), PROBLEM, None, refused=str(free.plan), reason="no"
        )
        assert refused.plan != free.plan


class TestShapes:
    def test_every_kind_of_problem_survives_json(self):
        kinds = problem_types()
        for kernel in all_kernels():
            for problem in kernel.variant_problems():
                plain = json.loads(json.dumps(to_plain(problem, kinds)))
                assert from_plain(plain, kinds) == problem

    @pytest.mark.parametrize(
        "change",
        [
            {"kind": "sum"},
            {"m": "8"},
            {"m": True},
            {"a": "float8"},
            {"batch": 3},
            {"batch": [3]},
            {"more": 1},
        ],
    )
    def test_what_is_no_problem_is_refused(self, change):
        with pytest.raises(ValueError, match=r"\w"):
            from_plain(to_plain(PROBLEM, problem_types()) | change, problem_types())
        with pytest.raises(ValueError, match=r"\w"):
            from_plain({"kind": "gemm"}, problem_types())

    def test_keys_tell_problems_apart(self):
        problems = {x for kernel in all_kernels() for x in kernel.variant_problems()}
        assert len({measurements.key(x) for x in problems}) >= 0.99 * len(problems)

    def test_recording_a_model(self, tmp_path):
        x, w = mx.ones((6, 20)), mx.ones((9, 20), dtype=mx.float16)
        q = mx.ones((1, 2, 5, 16))

        def model(x):
            y = tg.matmul(x, w, transpose_b=True)
            return mx.sum(y) + mx.sum(tg.attention_chain(q, q, q, mask="causal"))

        with tg.use_backend("mlx"):
            model(x)  # what was prepared before is recorded too
            with tg.record() as shapes:
                model(x)
                model(x)
            model(mx.ones((7, 20)))
        product, attention = shapes.problems
        assert (product.m, product.n, product.k, product.b) == (6, 9, 20, FLOAT16)
        assert attention.mask_kind is MaskKind.CAUSAL
        shapes.save(tmp_path / "shapes.json")
        assert tuning.load(tmp_path / "shapes.json").problems == shapes.problems

    def test_recording_gradients(self, lazy):
        x, w = mx.ones((6, 20)), mx.ones((20, 9))
        mx.grad(lambda x: mx.sum(tg.matmul(x, w)))(x)
        with tg.record() as shapes:
            mx.grad(lambda x: mx.sum(tg.matmul(x, w)))(x)
        assert [(p.m, p.n, p.k) for p in shapes.problems][:2] == [(6, 9, 20), (6, 20, 9)]

    @pytest.mark.parametrize("text", [None, "{", "[]", '{"version": 2}', '{"version": 1}'])
    def test_other_files_are_refused(self, tmp_path, text):
        path = tmp_path / "shapes.json"
        if text:
            path.write_text(text)
        with pytest.raises(
            ProblemError, match=r"\[tune\] Expected a (JSON file|file of recorded shapes)"
        ):
            tuning.load(path)

    def test_specs(self):
        product = matmul_spec("5x7x9:f16,bf16:tn")
        assert (product.m, product.n, product.k, product.layout) == (5, 7, 9, "tn")
        assert str(product.out) == "float32"
        assert matmul_spec("5x7x9").a is FLOAT32
        attention = attention_spec("1x4x2x5x9x16x8:f16:causal")
        assert (attention.kv_len, attention.head_dim, attention.value_dim) == (9, 16, 8)

    def test_blocks_nest(self):
        with tg.use_backend("mlx"), tg.record() as outer:
            tg.matmul(A, B)
            with tg.record() as inner:
                tg.matmul(A, B)
                tg.matmul(A[:9], B)
            tg.matmul(A[:8], B)
        assert [one.m for one in inner.problems] == [50, 9]
        assert [one.m for one in outer.problems] == [50, 9, 8]

    def test_threads_do_not_hide_each_other_s_calls(self):
        operands = A.astype(mx.float16), B
        mx.eval(*operands)

        def recorded(others):
            with tg.use_backend("mlx"), tg.record() as shapes:
                others()
                tg.matmul(*operands)
            return shapes.problems

        def by_another(function):
            with ThreadPoolExecutor(1) as pool:
                return pool.submit(function).result()

        inner = []
        outer = recorded(lambda: inner.append(by_another(partial(recorded, lambda: None))))
        assert [one.m for one in outer] == [one.m for one in inner[0]] == [50]

    @pytest.mark.slow
    def test_gradients_are_recorded_each_time(self):
        loss = mx.grad(lambda a: mx.sum(tg.matmul(a, B)))
        with tg.use_backend("emulator"):
            for _ in range(2):
                with tg.record() as shapes:
                    loss(A)
                assert [(one.m, one.n, one.k) for one in shapes.problems][:2] == [
                    (50, 24, 40),
                    (50, 40, 24),
                ]

    @pytest.mark.parametrize("dtype", FLOATS + INTEGERS, ids=lambda dtype: dtype.name)
    def test_every_dtype_has_a_short_name(self, dtype):
        letters = {"float": "f", "bfloat": "bf", "int": "i", "uint": "u"}
        kind, bits = re.fullmatch(r"([a-z]+)(\d+)", dtype.name).groups()
        for spelled in (dtype.name, letters[kind] + bits):
            assert matmul_spec(f"5x6x7:{spelled}").a is dtype

    def test_no_mask_may_be_spelled(self):
        text = "1x4x2x5x9x16:f16"
        assert attention_spec(f"{text}:none") == attention_spec(text)

    @pytest.mark.parametrize(
        "text", ["5x7", "5x7xk", "0x7x9", "5x7x9:f17", "5x7x9:f16,f16,f16", "5x7x9::nx", "1x1x1:::"]
    )
    def test_wrong_specs(self, text):
        with pytest.raises(ProblemError, match=r"\[tune\] Expected --matmul"):
            matmul_spec(text)

    @pytest.mark.parametrize("text", ["1x2x3", "1x4x2x5x9x16:f16:full", "1x4x2x5x9x16:f16,f16"])
    def test_wrong_attention_specs(self, text):
        with pytest.raises(ProblemError, match=r"\[tune\] Expected --attention"):
            attention_spec(text)


def _forward_problems():
    f16, q = mx.float16, tg.ArraySpec(shape=(2, 4, 21, 16), dtype=mx.float32)
    k = tg.ArraySpec(shape=(2, 2, 33, 16), dtype=f16)
    spec = lambda *shape, dtype=f16: tg.ArraySpec(shape=shape, dtype=dtype)  # noqa: E731
    mask = spec(1, 1, 21, 33, dtype=mx.bool_)
    return {
        "product": tg.explain("matmul", spec(33, 20), spec(20, 9)),
        "transposed": tg.explain(
            "addmm",
            spec(9),
            spec(20, 33),
            spec(9, 20),
            transpose_a=True,
            transpose_b=True,
            alpha=2.0,
        ),
        "batched": tg.explain("addmm", spec(3, 33, 9), spec(3, 33, 20), spec(1, 20, 9)),
        "integers": tg.explain("matmul", spec(17, 5, dtype=mx.int8), spec(5, 9, dtype=mx.uint8)),
        "causal": tg.explain("attention_chain", q, k, k, mask="causal"),
        "window": tg.explain("attention_chain", q, k, k, mask="causal", window=7),
        "mask": tg.explain("attention_chain", q, k, k, mask=mask, sinks=spec(4)),
        "literal": tg.explain("attention_chain", q, k, k, softmax=False),
    }


@pytest.mark.parametrize("name", list(_forward_problems()))
class TestWorkloads:
    def test_right_results_pass_and_wrong_ones_do_not(self, name):
        problem = _forward_problems()[name].problem
        work = workload(problem)
        outputs = work.on_mlx()(work.operands)
        assert mistake(work, outputs) is None
        spoiled = outputs[0].reshape(-1)
        at = spoiled.size - 1
        spoiled = mx.where(mx.arange(spoiled.size) == at, spoiled + 1, spoiled)
        assert "out of bounds" in mistake(work, [spoiled.reshape(outputs[0].shape)])

    def test_work_is_counted(self, name):
        problem = _forward_problems()[name].problem
        assert problem.flops() > 0
        stored = workload(problem).operands
        result = problem.out.bytes * mx.zeros(problem.out_shape).size
        assert problem.least_bytes() == sum(one.nbytes for one in stored) + result


class TestCommands:
    def test_tune(self, tmp_path, capsys, other):
        with mac(tmp_path, fast=other) as metal:
            shapes = tuning.Shapes((PROBLEM,))
            shapes.save(tmp_path / "shapes.json")
            arguments = ["tune", "--shapes", str(tmp_path / "shapes.json"), "--rounds", "3"]
            defaults = tuning.tune.__kwdefaults__ | {"clock": metal.clock}
            with mock.patch.object(tuning.tune, "__kwdefaults__", defaults):
                assert main(arguments) == 0
                captured = capsys.readouterr()
                assert main([*arguments, "--json"]) == 0
        (row,) = json.loads(capsys.readouterr().out)["problems"]
        assert (row["status"], row["kept"], row["times"][0]["candidate"]) == ("known", True, other)
        assert f"1 of 1 measured: {PROBLEM}: {other}" in captured.err
        assert f"1 of 1 problems are in {tmp_path / 'tuning.json'}" in captured.out

    def test_what_could_not_be_kept_is_not_said_to_be(self, tmp_path, capsys):
        (tmp_path / "tuning.json").write_text('{"version": 99, "machines": {}}')
        with mac(tmp_path) as metal:
            defaults = tuning.tune.__kwdefaults__ | {"clock": metal.clock}
            with (
                mock.patch.object(tuning.tune, "__kwdefaults__", defaults),
                pytest.warns(RuntimeWarning, match="made by a newer release"),
            ):
                assert main(["tune", "--matmul", "50x24x40", "--rounds", "1"]) == 1
        assert "0 of 1 problems are in" in capsys.readouterr().out

    def test_interrupted(self, tmp_path, capsys):
        with mac(tmp_path), mock.patch.object(tuning, "tune", side_effect=KeyboardInterrupt):
            assert main(["tune", "--matmul", "5x6x7"]) == 130
        assert "finished are kept" in capsys.readouterr().err

    def test_dry_run(self, capsys):
        arguments = ["--matmul", "50x24x40", "--attention", "1x4x2x5x9x16:f16"]
        assert main(["tune", *arguments, "--dry-run"]) == 0
        first, second, *_ = capsys.readouterr().out.splitlines()
        assert first == f"{PROBLEM}: {len(candidates())} candidates and MLX's own path"
        assert "kv_len 9" in second

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], f"Expected {', '.join(FLAGS)} or --shapes, got none of them"),
            (["--matmul", "5x6"], "MxNxK"),
            (["--matmul", "5x6x7", "--rounds", "0"], "at least one round"),
            (["--matmul", "5x6x7"], "Expected Metal"),
        ],
    )
    def test_wrong_calls(self, capsys, off_gpu, arguments, message):
        assert main(["tune", *arguments]) == 2
        assert message in capsys.readouterr().err

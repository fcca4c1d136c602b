"""No kernel serves a call on a GPU before it has proved itself on that machine."""

import json
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from unittest import mock

import mlx.core as mx
import platformdirs
import pytest
from fake_metal import ON_A_GPU, fake_metal, forget
from platformdirs.macos import MacOS
from platformdirs.unix import Unix

import mlx_tilegemm as tg
from mlx_tilegemm import backends
from mlx_tilegemm.assurance import canary, userfile
from mlx_tilegemm.assurance.canary import record, trial
from mlx_tilegemm.assurance.canary.instance import smallest_instance
from mlx_tilegemm.assurance.variants import Variant, variants
from mlx_tilegemm.assurance.verify import Outcome, Request, Status, campaign
from mlx_tilegemm.backends import backend_named
from mlx_tilegemm.backends.emulator import EmulatorBackend
from mlx_tilegemm.call import choice, prepare
from mlx_tilegemm.core.caches import forget_prepared
from mlx_tilegemm.core.render import text_name
from mlx_tilegemm.dispatch import choose
from mlx_tilegemm.errors import IllegalKernelError, ProblemError
from mlx_tilegemm.machine import chips

EMULATOR = backend_named("emulator")
A = mx.random.normal((50, 40), key=mx.random.key(1))
B = mx.random.normal((40, 24), key=mx.random.key(2))
EXPECTED = A @ B
mx.eval(A, B, EXPECTED)  # threads may use them


@pytest.fixture
def path(tmp_path):
    return tmp_path / "user" / "canary.json"


def entries(path):
    """Return the record's entries of the one machine in it."""
    content = json.loads(path.read_text())
    (machine,) = content["machines"].values()
    return machine


def first(kernel=""):
    """Return the plan that a call chooses before anything is disabled."""
    problem = tg.explain("matmul", A, B).problem
    return choose(problem, chips.detect()[0], kernel or None).plan


def only(plan, fault):
    """Return a fault that only one plan's kernel has."""
    name = text_name(plan)
    return lambda kernel: fault if kernel == name else None


def is_right(result):
    return mx.allclose(result, EXPECTED, rtol=1e-5, atol=1e-5)


class TestPass:
    def test_the_first_call_tries_and_later_ones_do_not(self, path):
        name = text_name(first())
        with fake_metal(path) as metal:
            assert is_right(tg.matmul(A, B))
            assert metal.launched == [name, name]
            tg.matmul(A, B)
            tg.matmul(A[:48], B)
            assert len(metal.launched) == 4
            with mock.patch.object(prepare, "chosen", side_effect=AssertionError):
                tg.matmul(A, B)  # a warm call does not come near the canary

    def test_it_is_recorded_for_people_to_read(self, path):
        with fake_metal(path):
            tg.matmul(A, B)
        content = json.loads(path.read_text())
        assert "Deleting this file is safe" in content["about"]
        (machine,) = content["machines"]
        assert mx.__version__ in machine
        (found,) = entries(path).values()
        assert found["state"] == "passed"
        assert found["kernel"] == str(first())
        assert set(found) == {"state", "when", "kernel"}

    def test_another_process_need_not_try_again(self, path):
        with fake_metal(path):
            tg.matmul(A, B)
        before = path.read_bytes()
        with fake_metal(path) as metal:
            tg.matmul(A, B)
            assert len(metal.launched) == 1
        assert path.read_bytes() == before

    def test_it_holds_for_one_machine(self, path, monkeypatch):
        with fake_metal(path):
            tg.matmul(A, B)
        monkeypatch.setattr(canary, "this_machine", lambda: "another")
        with fake_metal(path) as metal:
            tg.matmul(A, B)
            assert len(metal.launched) == 2
        assert len(json.loads(path.read_text())["machines"]) == 2

    def test_it_can_be_switched_off(self):
        with fake_metal("off") as metal:
            tg.matmul(A, B)
            assert len(metal.launched) == 1
            assert tg.explain("matmul", A, B).canary == "switched off by MLX_TILEGEMM_CANARY"

    def test_a_wrong_setting_is_named(self):
        with fake_metal("yes"), pytest.raises(ProblemError, match="Expected MLX_TILEGEMM_CANARY"):
            tg.matmul(A, B)

    @pytest.mark.parametrize("try_new", [True, False])
    def test_the_emulator_and_traces_without_metal_need_none(self, monkeypatch, try_new):
        for name in ("proved", "look_up"):
            monkeypatch.setattr(canary, name, mock.Mock(side_effect=AssertionError))
        problem = tg.explain("matmul", A, B).problem
        monkeypatch.setattr(mx.metal, "is_available", lambda: False)
        for backend in (backend_named("emulator"), backend_named("metal")):
            found = choice.chosen(problem, backend, try_new=try_new)
            assert (found.plan, found.proof) == (first(), "")

    def test_the_record_is_the_user_s_own(self, monkeypatch, tmp_path):
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("XDG_STATE_HOME", "")
        monkeypatch.setattr(platformdirs, "PlatformDirs", MacOS)
        expected = tmp_path / "Library/Application Support/mlx_tilegemm/canary.json"
        assert record.default_path() == expected
        monkeypatch.setattr(platformdirs, "PlatformDirs", Unix)
        assert record.default_path() == tmp_path / ".local/state/mlx_tilegemm/canary.json"

    def test_a_user_without_a_home_is_told_once(self, monkeypatch):
        monkeypatch.setattr(Path, "home", mock.Mock(side_effect=RuntimeError("no home")))
        monkeypatch.setenv("XDG_STATE_HOME", "")
        with fake_metal("on"), pytest.warns(RuntimeWarning, match="Could not") as caught:
            assert is_right(tg.matmul(A, B))
        assert len(caught) == 1

    def test_proving_ahead_of_time(self, path):
        explanation = tg.explain("matmul", A, B)
        with fake_metal(path) as metal:
            verdict = canary.prove(explanation.problem, explanation.plan, metal)
            assert verdict.state is canary.State.PROVEN
            tg.matmul(A, B)
            assert len(metal.launched) == 2

    def test_what_verify_found_out_counts(self, path):
        with fake_metal(path) as metal:
            canary.remember(first(), None)
            assert is_right(tg.matmul(A, B))
            assert len(metal.launched) == 1
        with fake_metal(path) as metal:
            assert canary.remember(first(), "two repeats\ndiffer").detail == "two repeats differ"
            with pytest.warns(RuntimeWarning, match="two repeats differ"):
                assert is_right(tg.matmul(A, B))
            assert text_name(first()) not in metal.launched

    @pytest.mark.parametrize(
        ("status", "launches", "failures", "state"),
        [
            (Status.PASSED, 2, (), canary.State.PROVEN),
            (Status.FAILED, 2, ("run 2: other bits than the first run",), canary.State.DISABLED),
            (Status.FAILED, 0, ("run 1: the text does not compile",), canary.State.DISABLED),
            (Status.UNCHECKED, 2, (), canary.State.PROVEN),
            (Status.UNCHECKED, 0, (), canary.State.UNTRIED),
        ],
        ids=["right", "wrong", "no launch", "right without clang", "no reference"],
    )
    def test_verify_fills_the_record(self, path, status, launches, failures, state):
        problem = tg.explain("matmul", A, B).problem
        variant = Variant(problem=problem, plan=first(), chip=chips.DEFAULT)
        fields = {"status": status, "launches": launches, "failures": failures}
        outcome = Outcome(variant="", kernel="", config="", **fields)
        with (
            fake_metal(path) as metal,
            mock.patch.object(campaign, "backend_named", return_value=metal),
        ):
            checked = mock.patch.object(campaign, "check_variant", return_value=outcome)
            chosen = mock.patch.object(campaign, "selected", return_value=[variant])
            with checked, chosen:
                assert campaign._checker(Request(backend="metal"))(0) is outcome
            assert canary.look_up(variant.plan).state is state


NUMERIC = ("nan", "wrong", "half", "term", "shifted")


class TestFailure:
    @pytest.mark.parametrize(
        ("fault", "reason"),
        [
            ("compile", "error: no matching function"),
            ("threads", r"Thread group size \(1024\) is greater"),
            ("nan", "got nan, expected"),
            *((fault, "elements are out of bounds, first at") for fault in NUMERIC[1:]),
        ],
    )
    def test_disables_the_variant_and_takes_the_next(self, path, fault, reason):
        plan = first()
        with fake_metal(path, only(plan, fault)) as metal:
            with pytest.warns(RuntimeWarning, match=reason) as caught:
                assert is_right(tg.matmul(A, B))
            assert len(caught) == 1
            assert f"The kernel {plan} is disabled" in str(caught[0].message)
            assert metal.launched[0] == text_name(plan)
            assert metal.launched[-1] != text_name(plan)
            assert is_right(tg.matmul(A, B))
        assert entries(path)[text_name(plan)]["state"] == "failed"

    def test_of_an_evaluation_counts(self, path, monkeypatch):
        evaluate, raised = mx.eval, []

        def fails_after_a_launch(*arrays):
            if metal.launched and not raised:
                raised.append(True)
                raise RuntimeError("[METAL] Command buffer execution failed: timeout")
            evaluate(*arrays)

        with fake_metal(path) as metal:
            monkeypatch.setattr(mx, "eval", fails_after_a_launch)
            with pytest.warns(RuntimeWarning, match="Command buffer execution failed"):
                assert is_right(tg.matmul(A, B))

    def test_another_process_warns_once_and_does_not_try(self, path):
        plan = first()
        with fake_metal(path, only(plan, "wrong")), pytest.warns(RuntimeWarning):
            tg.matmul(A, B)
        with fake_metal(path) as metal:
            with pytest.warns(RuntimeWarning, match="elements are out of bounds") as caught:
                tg.matmul(A, B)
            assert len(caught) == 1
            forget_prepared()
            tg.matmul(A, B)
            assert text_name(plan) not in metal.launched

    def test_of_everything_leaves_mlx_s_own_ops(self, path):
        with fake_metal(path, lambda name: "nan") as metal:
            with pytest.warns(RuntimeWarning) as caught:
                assert is_right(tg.matmul(A, B))
            # One warning a variant, and no kernel is tried in all of its configurations.
            kernels = [str(one.message).split("kernel ")[1].split("/")[0] for one in caught]
            assert len(kernels) == len(metal.launched)
            assert max(map(kernels.count, kernels)) <= choice.MAX_FAILURES
            launches = len(metal.launched)
            assert is_right(tg.matmul(A, B))
            assert len(metal.launched) == launches
            assert tg.explain("matmul", A, B).route == "mlx"

    def test_of_a_forced_kernel_raises(self, path):
        plan = first("gemm_scalar")
        with (
            fake_metal(path, lambda name: "compile"),
            tg.use_kernel(str(plan)),
            pytest.warns(RuntimeWarning),
            pytest.raises(IllegalKernelError, match="matching function"),
        ):
            tg.matmul(A, B)

    def test_for_want_of_memory_is_not_recorded(self, path):
        plan = first()
        with fake_metal(path, only(plan, "memory")), pytest.warns(RuntimeWarning, match="allocate"):
            tg.matmul(A, B)
        assert text_name(plan) not in entries(path)

    def test_an_interrupted_trial_is_no_failure(self, path):
        plan = first()
        with fake_metal(path, only(plan, "interrupt")), pytest.raises(KeyboardInterrupt):
            tg.matmul(A, B)
        assert entries(path) == {}

    def test_deleting_the_record_tries_again(self, path):
        plan = first()
        with fake_metal(path, only(plan, "wrong")), pytest.warns(RuntimeWarning):
            tg.matmul(A, B)
        path.unlink()
        with fake_metal(path) as metal:
            tg.matmul(A, B)
            assert set(metal.launched) == {text_name(plan)}

    def test_proving_again_reinstates(self, path):
        plan, problem = first(), tg.explain("matmul", A, B).problem
        with fake_metal(path, only(plan, "wrong")), pytest.warns(RuntimeWarning):
            tg.matmul(A, B)
        with fake_metal(path) as metal:
            assert canary.prove(problem, plan, metal).state is canary.State.PROVEN
            tg.matmul(A, B)
            assert set(metal.launched) == {text_name(plan)}

    def test_long_reasons_are_cut(self, path, monkeypatch):
        plan = first()
        monkeypatch.setattr(canary, "MAX_REASON", 20)
        with fake_metal(path, only(plan, "compile")), pytest.warns(RuntimeWarning):
            tg.matmul(A, B)
        assert entries(path)[text_name(plan)]["reason"] == "[metal::Device] Unab"


PROCESS = """
import sys, warnings
sys.path.insert(0, {tests!r})
import mlx.core as mx, mlx_tilegemm as tg
from fake_metal import fake_metal
warnings.simplefilter("ignore")
with fake_metal(sys.argv[1], lambda name: {fault}) as metal:
    for n in {sizes}:
        tg.matmul(mx.ones((50, 40)), mx.ones((40, n)))
    print(len(metal.launched))
"""


def start(path, *, fault="None", sizes=(24,)):
    code = PROCESS.format(tests=str(Path(__file__).parent), fault=fault, sizes=sizes)
    command = [sys.executable, "-c", code, str(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


class TestCrash:
    """A trial that takes the process with it must not do so for ever."""

    def test_counts_as_failed_after_two(self, path):
        dies = f"'dies' if name == {text_name(first())!r} else None"
        for attempt in (1, 2):
            process = start(path, fault=dies)
            process.communicate()
            assert process.returncode == 9
            assert entries(path)[text_name(first())]["attempts"] == attempt
        third = start(path, fault=dies)
        launches = int(third.communicate()[0])
        assert (third.returncode, launches) == (0, 2)
        with fake_metal(path), pytest.warns(RuntimeWarning, match="the process ended 2 times"):
            assert is_right(tg.matmul(A, B))

    def test_a_trial_under_way_elsewhere_is_none(self, path):
        name = text_name(first())
        running = record.entry("running", "k", process=os.getppid(), attempts=2)
        with fake_metal(path) as metal:
            record.Record(path, canary.this_machine()).write(name, running)
            tg.matmul(A, B)
            assert len(metal.launched) == 2
        assert entries(path)[name]["state"] == "passed"


class TestRecord:
    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"{",
            b"\xff\xfe\x00",
            b"[]",
            b"null",
            b'{"version": 1}',
            b'{"version": "1", "machines": {}}',
            b'{"version": 1, "machines": []}',
            b'{"version": 1, "machines": {"MACHINE": []}}',
            b'{"version": 1, "machines": {"MACHINE": {"k": "passed"}}}',
            b'{"version": 1, "machines": {"MACHINE": {"k": {"state": "passed"}}}}',
            b'{"version": 1, "machines": {"MACHINE": {"k": {"state": "fine", "when": "", '
            b'"kernel": ""}}}}',
            b'{"version": 1, "machines": {"MACHINE": {"k": {"state": "passed", "when": 1, '
            b'"kernel": ""}}}}',
        ],
    )
    def test_damage_is_reported_once_and_mended(self, path, content):
        path.parent.mkdir()
        path.write_bytes(content.replace(b"MACHINE", canary.this_machine().encode()))
        with fake_metal(path):
            with pytest.warns(RuntimeWarning, match="Could not read") as caught:
                assert is_right(tg.matmul(A, B))
            assert len(caught) == 1
            tg.matmul(A, B[:, :20])
        with fake_metal(path) as metal:
            tg.matmul(A, B)
            assert len(metal.launched) == 1

    def test_an_unwritable_place_is_reported_once(self, tmp_path):
        (tmp_path / "file").write_text("")
        with fake_metal(tmp_path / "file" / "canary.json") as metal:
            with pytest.warns(RuntimeWarning, match="Could not") as caught:
                assert is_right(tg.matmul(A, B))
            assert len(caught) == 1
            tg.matmul(A, B[:, :20])
            assert len(metal.launched) == 4

    def test_a_full_disk_leaves_nothing_half_written(self, path, monkeypatch):
        with fake_metal(path):
            tg.matmul(A, B)
            before = path.read_bytes()

            def full(*_):
                raise OSError(28, "No space left on device")

            monkeypatch.setattr(os, "fsync", full)
            with pytest.warns(RuntimeWarning, match="No space left"):
                tg.matmul(A, B[:, :20])
        assert path.read_bytes() == before
        assert {one.name for one in path.parent.iterdir()} == {"canary.json", "canary.json.lock"}

    def test_a_newer_release_s_record_is_left_alone(self, path):
        path.parent.mkdir()
        path.write_text('{"version": 2, "other": true}')
        with fake_metal(path), pytest.warns(RuntimeWarning, match="newer release") as caught:
            assert is_right(tg.matmul(A, B))
        assert len(caught) == 1
        assert path.read_text() == '{"version": 2, "other": true}'

    def test_an_older_one_is_begun_anew(self, path):
        path.parent.mkdir()
        path.write_text('{"version": 0, "kernels": []}')
        with fake_metal(path):
            assert is_right(tg.matmul(A, B))
        assert len(entries(path)) == 1

    def test_a_stopped_process_with_the_lock_is_not_waited_for(self, path, monkeypatch):
        import fcntl

        path.parent.mkdir()
        monkeypatch.setattr(userfile, "LOCK_SECONDS", 0.05)
        with path.with_name("canary.json.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            record.Record(path, "m").write("k", record.entry("passed", "k"))
        assert set(entries(path)) == {"k"}

    def test_writers_in_threads_and_processes_lose_nothing(self, path):
        code = (
            "import sys; from pathlib import Path\n"
            "from mlx_tilegemm.assurance.canary import record\n"
            "one = record.Record(Path(sys.argv[1]), 'm')\n"
            "for i in range(20): one.write(f'{sys.argv[2]}-{i}', record.entry('passed', 'k'))"
        )
        processes = [
            subprocess.Popen([sys.executable, "-c", code, str(path), str(number)])
            for number in range(2)
        ]
        own = record.Record(path, "m")

        def write(number):
            for i in range(20):
                own.write(f"t{number}-{i}", record.entry("passed", "k"))

        threads = [threading.Thread(target=write, args=(number,)) for number in range(2)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        assert [process.wait() for process in processes] == [0, 0]
        assert len(entries(path)) == 80


class TestAtOnce:
    def test_two_threads_try_once(self, path):
        results, ready = [], threading.Barrier(2)

        def call():
            ready.wait()
            with tg.use_backend(metal):
                results.append(bool(is_right(tg.matmul(A, B))))

        with fake_metal(path) as metal:
            threads = [threading.Thread(target=call) for _ in range(2)]
            for one in threads:
                one.start()
            for one in threads:
                one.join()
            assert len(metal.launched) == 3
        assert results == [True, True]

    def test_two_processes(self, path):
        processes = [start(path, sizes=sizes) for sizes in ((24, 20, 16), (16, 20, 28))]
        outputs = [process.communicate()[0] for process in processes]
        assert [process.returncode for process in processes] == [0, 0]
        assert all(3 <= int(output) <= 6 for output in outputs)
        assert len(entries(path)) == 4
        assert {one["state"] for one in entries(path).values()} == {"passed"}


TRANSFORMS = {
    "compile": lambda f: mx.compile(f)(A),
    "compile without shapes": lambda f: mx.compile(f, shapeless=True)(A),
    "grad": lambda f: mx.grad(lambda x: f(x).sum())(A),
    "compiled grad": lambda f: mx.compile(mx.grad(lambda x: f(x).sum()))(A),
    "grad of compiled": lambda f: mx.grad(lambda x: mx.compile(f)(x).sum())(A),
    "checkpoint": lambda f: mx.grad(lambda x: mx.checkpoint(f)(x).sum())(A),
    "vmap": lambda f: mx.vmap(f)(mx.stack([A, A])),
    "jvp": lambda f: mx.jvp(f, [A], [A])[0][0],
    "export": lambda f: mx.export_function(lambda event: None, f, A),
}


class TestTracing:
    """The first call of a kernel may be one that MLX only traces."""

    @pytest.mark.parametrize("name", TRANSFORMS)
    @pytest.mark.parametrize("fault", [None, "wrong"])
    def test_a_kernel_is_tried_all_the_same(self, path, name, fault):
        plan = first()

        def call(x):
            # MLX refuses these two for what has rules of its own, as differentiable calls do.
            with tg.use_gradients(name not in ("compile without shapes", "export")):
                return tg.matmul(x, B)

        state = "passed" if fault is None else "failed"
        with fake_metal(path, only(plan, fault)) as metal, warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".* is disabled")
            result = TRANSFORMS[name](call)
            if result is not None:
                mx.eval(result)
            assert metal.launched.count(text_name(plan)) >= 1
        assert entries(path)[text_name(plan)]["state"] == state

    @pytest.mark.parametrize("name", ["compile", "grad"])
    def test_the_emulator_runs_inside_a_trace(self, path, name):
        """The same with real kernels: their launches of the trial see no traced array."""
        explanation = tg.explain("matmul", A, B)
        reasons = []

        def call(x):
            found = smallest_instance(explanation.problem, explanation.plan, chips.DEFAULT)
            reasons.append(trial.trial(found, EMULATOR))
            return x @ B

        mx.eval(TRANSFORMS[name](call))
        assert reasons == [None]


class TestExplain:
    def test_says_what_is_known(self, path):
        plan = first()
        with fake_metal(path, only(plan, "wrong")):
            before = tg.explain("matmul", A, B)
            assert before.canary.startswith("not yet tried on this machine")
            assert before.plan == plan
            with pytest.warns(RuntimeWarning):
                tg.matmul(A, B)
            after = tg.explain("matmul", A, B)
        assert after.plan != plan
        assert after.canary.startswith("proven on this machine (20")
        assert f"  canary   {after.canary}" in str(after)
        (refused,) = (one for one in after.candidates if str(one) == str(plan))
        assert refused.reason.startswith("disabled on this machine: ")

    def test_tries_and_records_nothing(self, path):
        with fake_metal(path) as metal:
            str(tg.explain("matmul", A, B))
            assert metal.launched == []
        assert not path.exists()

    def test_other_chips_are_not_this_machine(self, path):
        with fake_metal(path):
            assert tg.explain("matmul", A, B, chip="m1").canary == ""


@pytest.fixture(scope="module")
def all_variants():
    return list(variants())


class TestInstance:
    def test_has_the_text_of_its_variant_and_is_small(self, all_variants):
        for variant in all_variants[::5]:
            found = smallest_instance(variant.problem, variant.plan, chips.DEFAULT)
            assert found is not None, variant
            specs = [stage.spec for stage in found.plan.stages]
            assert specs == [stage.spec for stage in variant.plan.stages]
            if hasattr(found.problem, "m"):
                assert found.problem.m <= 128

    @pytest.mark.parametrize(
        ("shapes", "options"),
        [
            (((3000, 70), (70, 37)), {}),
            (((40, 1, 300, 70), (9, 70, 37)), {}),
            (((2048, 64), (64, 64)), {}),
            (((1, 4096), (4096, 4096)), {}),
        ],
    )
    def test_of_a_large_problem_is_small(self, shapes, options):
        arrays = [tg.ArraySpec(shape=shape, dtype=mx.float16) for shape in shapes]
        explanation = tg.explain("matmul", *arrays, **options)
        found = smallest_instance(explanation.problem, explanation.plan, chips.DEFAULT)
        assert found.problem.m <= 128
        assert found.problem.batch_size <= 6
        assert (found.problem.n, found.problem.k) == (shapes[1][-1], shapes[1][-2])

    @pytest.mark.slow
    def test_real_kernels_pass(self, all_variants):
        """A few of every kernel, in the emulator."""
        kernels = {}
        for variant in all_variants:
            kernels.setdefault(variant.plan.kernel, []).append(variant)
        for members in kernels.values():
            for variant in members[3 :: max(1, len(members) // 2)]:
                found = smallest_instance(variant.problem, variant.plan, chips.DEFAULT)
                assert trial.trial(found, EMULATOR) is None, variant


class Changed(EmulatorBackend):
    """The emulator, with a change to one of a kernel's outputs."""

    def __init__(self, output, change):
        self.output, self.change = output, change

    def compile(self, source):
        kernel = super().compile(source)

        def execute(**arguments):
            outputs = kernel(**arguments)
            outputs[self.output] = self.change(outputs[self.output])
            return outputs

        return execute


class TestAttention:
    """A trial of attention sees small changes, and what masks leave without anything."""

    @pytest.fixture(params=[(True, None), (True, "causal"), (True, "array"), (False, None)])
    def instance(self, request):
        softmax, mask = request.param
        q, v = tg.ArraySpec(shape=(1, 8, 90, 24), dtype=mx.float16), mx.zeros((1, 2, 90, 17))
        k = mx.zeros((1, 2, 90, 24))
        mask = mx.ones((90, 90), dtype=mx.bool_) if mask == "array" else mask
        explanation = tg.explain(
            "attention_chain", q, k, v, softmax=softmax, mask=mask, return_lse=softmax
        )
        return smallest_instance(explanation.problem, explanation.plan, chips.detect()[0])

    def test_a_right_kernel_passes(self, instance):
        assert trial.trial(instance, EMULATOR) is None

    @pytest.mark.parametrize(
        "change",
        [
            lambda out: out * 1.01,
            lambda out: mx.where(mx.arange(out.shape[-1]) == 5, out + 0.01, out),
            lambda out: mx.where(out == out[0, 0, 0, 0], mx.nan, out),
            lambda out: mx.roll(out, 1, axis=1),
        ],
        ids=["scaled", "shifted", "nan", "heads"],
    )
    def test_a_wrong_result_fails(self, instance, change):
        assert "elements are out of bounds" in trial.trial(instance, Changed(0, change))

    @pytest.mark.parametrize("instance", [(True, "causal"), (True, "array")], indirect=True)
    @pytest.mark.parametrize(
        "change",
        [lambda lse: lse + 0.001, lambda lse: mx.maximum(lse, -1e30)],
        ids=["shifted", "empty rows"],
    )
    def test_a_wrong_log_sum_exp_fails(self, instance, change):
        assert trial.trial(instance, Changed(1, change)).startswith("lse: ")


class EmulatedGpu(EmulatorBackend):
    """A GPU as far as this machine has one: the real kernels, in the emulator."""

    capabilities = ON_A_GPU

    def __init__(self):
        self.compiled = []

    def compile(self, source):
        self.compiled.append(source.name)
        return super().compile(source)


class TestRealKernels:
    def test_ops_of_all_kinds_are_served_and_recorded(self, path):
        x, w = A.astype(mx.float16), mx.ones((24, 40), dtype=mx.bfloat16)
        i, q = mx.ones((9, 30), dtype=mx.int8), mx.ones((1, 4, 20, 16))
        with fake_metal(path, backend=EmulatedGpu()) as metal:
            product = tg.matmul(x, w, transpose_b=True)
            summed = tg.addmm(mx.ones((50, 1)), x, w, transpose_b=True, alpha=0.5)
            integers = tg.matmul(i, i, transpose_b=True)
            attention = tg.attention_chain(q, q[:, :2], q[:, :2], mask="causal")
            mx.eval(product, summed, integers, attention)
        assert mx.allclose(product, x.astype(mx.float32) @ mx.ones((40, 24)), rtol=1e-5, atol=1e-5)
        assert mx.allclose(summed, 0.5 * product + 1, rtol=1e-5, atol=1e-5)
        assert mx.array_equal(integers, mx.full((9, 9), 30, dtype=mx.int32))
        assert mx.allclose(attention, mx.ones_like(attention), rtol=1e-5)
        assert {one["state"] for one in entries(path).values()} == {"passed"}
        recorded = {name for names in entries(path) for name in names.split("+")}
        assert recorded == set(metal.compiled)

    def test_gradients_are_tried_while_mlx_differentiates(self, path):
        q = mx.random.normal((1, 4, 20, 16), key=mx.random.key(3))

        def loss(x):
            return tg.attention_chain(x, q[:, :2], q[:, :2], mask="causal").square().sum()

        with fake_metal(path, backend=EmulatedGpu()):
            gradient = mx.grad(loss)(q)
            mx.eval(gradient)
        with tg.use_backend("mlx"):
            assert mx.allclose(gradient, mx.grad(loss)(q), rtol=1e-4, atol=1e-5)
        found = entries(path).values()
        kernels = {one["kernel"].split("/")[0] for one in found}
        assert kernels >= {"attention_backward_query", "attention_backward_key_value"}
        assert {one["state"] for one in found} == {"passed"}


def test_forgetting_is_complete():
    """Nothing of these tests may be left to others."""
    forget()
    assert backends.canary_setting.cache_info().currsize == 0

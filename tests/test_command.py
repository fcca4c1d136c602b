"""Each command: its help, JSON, wrong values, places that cannot be written to, early ends."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import mlx.core as mx
import pytest

import mlx_tilegemm as tg
from mlx_tilegemm.cli import main
from mlx_tilegemm.cli.command import COMMANDS, parser
from mlx_tilegemm.core import progress
from mlx_tilegemm.families import FAMILIES, all_kernels

PRODUCT = ["matmul", "5x300", "70x300", "--transpose-b"]
HEAVY = (
    *("filelock", "importlib.metadata", "jinja2", "matplotlib", "mlx.nn", "multiprocessing"),
    *("numpy", "platformdirs", "tqdm"),
)
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


def imported(words):
    code = (
        "import sys\nfrom mlx_tilegemm.cli import main\n"
        f"try: main({words!r})\nexcept SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stderr.split()


class TestHelp:
    @pytest.mark.parametrize("words", [["-h"], ["wrong"], []])
    def test_imports_only_what_it_shows(self, words):
        names = imported(words)
        assert not [one for one in names for heavy in HEAVY if f"{one}.".startswith(f"{heavy}.")]
        baseline = imported(["--version"])
        own = {one for one in names if one.startswith("mlx_tilegemm.")}
        assert own <= {*baseline, *(one for one in own if one.startswith("mlx_tilegemm.cli."))}

    @pytest.mark.parametrize("name", ["demo", "explain", "tune", "verify"])
    def test_of_a_command_imports_nothing_that_it_runs(self, name):
        names = imported([name, "-h"])
        tasks = ("assurance.tuning", "assurance.verify", "call.explanation", "emulator")
        assert not {"numpy", *(f"mlx_tilegemm.{one}" for one in (*tasks, f"cli.{name}"))} & {*names}

    @pytest.mark.parametrize("name", ["explain", "render", "tune", "roofline"])
    def test_of_every_op_imports_no_kernel_and_nothing_that_serves_one(self, name):
        names = imported([name, "-h"])
        families = [one for one in names if one.startswith("mlx_tilegemm.families.")]
        assert {one.split(".")[2] for one in families} >= {*FAMILIES}
        parts = {part for one in families for part in one.split(".")[3:]}
        kernels = {one.name for one in all_kernels()}
        heavy = {"gradients", "notes", "reference", "subjects"} | kernels
        assert not parts & heavy
        assert not {"importlib.metadata", "mlx_tilegemm.dispatch"} & {*names}

    @pytest.mark.parametrize("name", COMMANDS)
    def test_every_command_has_one(self, name, capsys, monkeypatch):
        monkeypatch.setenv("COLUMNS", "76")
        with pytest.raises(SystemExit) as end:
            main([name, "-h"])
        assert end.value.code == 0
        text = capsys.readouterr().out
        assert text.startswith(f"usage: mlx-tilegemm {name} [-h]")
        assert "--json" in text
        assert max(map(len, text.splitlines())) <= 80

    def test_lists_every_command(self, capsys):
        with pytest.raises(SystemExit):
            main(["-h"])
        text = capsys.readouterr().out
        assert all(f"    {name} " in text for name in COMMANDS)

    def test_the_whole_parser_knows_every_option(self):
        options = parser().parse_args(["verify", "--sample", "3", "--json"])
        assert (options.sample, options.json) == (3, True)


@pytest.fixture
def on_mlx():
    with tg.use_backend("mlx"):
        yield


class TestJson:
    def printed(self, capsys, *arguments, status=0):
        assert main([*arguments, "--json"]) == status
        return json.loads(capsys.readouterr().out)

    @pytest.mark.usefixtures("on_mlx")
    def test_demo(self, capsys):
        found = self.printed(capsys, "demo")
        assert [one["passed"] for one in found["cases"]] == [True, True]
        assert found["cases"][0]["explanation"]["options"] == {"transpose_b": True}

    def test_render(self, capsys):
        found = self.printed(capsys, "render", *PRODUCT, "--chip", "m4")
        assert main(["render", *PRODUCT, "--chip", "m4"]) == 0
        assert found["text"] + "\n" == capsys.readouterr().out
        assert found["plan"].startswith("gemv/")

    def test_tune(self, capsys):
        found = self.printed(capsys, "tune", "--matmul", "5x6x7", "--dry-run")
        (row,) = found["problems"]
        assert main(["tune", "--matmul", "5x6x7", "--dry-run"]) == 0
        said = f"{row['problem']}: {row['candidates']} candidates and MLX's own path\n"
        assert capsys.readouterr().out.startswith(said)

    def test_roofline(self, capsys, tmp_path):
        pytest.importorskip("matplotlib")
        path = tmp_path / "x.svg"
        found = self.printed(
            capsys, "roofline", "--chip", "m1", "--matmul", "64x64x64", "--out", str(path)
        )
        assert found["file"] == str(path)
        assert {one["series"] for one in found["points"]} == {"this library", "MLX"}


class TestExplanation:
    def test_says_what_is_transposed(self, capsys):
        assert main(["explain", "matmul", "300x5", "70x300", "--transpose-a", "--transpose-b"]) == 0
        assert "transpose_a=True, transpose_b=True -> float32 [5, 70]" in capsys.readouterr().out

    def test_does_not_evaluate_options(self):
        q = mx.zeros((1, 1, 16, 64))
        scale = mx.array(2.0) * 3
        text = str(tg.explain(tg.attention_chain, q, q, q, scale=scale, mask="causal"))
        assert "mask=causal" in text
        assert "scale=array float32 []" in text


class TestWrongValues:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["verify", "--jobs", "-1"], "0 or more jobs, got -1"),
            (["verify", "--sample", "-1"], "a sample of 0 or more"),
            (["verify", "--repeats", "0"], "at least one repeat"),
            (["verify", "--backend", "opencl"], "got 'opencl'"),
            pytest.param(
                ["verify", "--backend", "cuda"],
                "got cuda: ",
                marks=pytest.mark.skipif(mx.cuda.is_available(), reason="MLX has CUDA here"),
            ),
            (["explain", *PRODUCT, "--dtypes", ""], "float16 (f16)"),
            (["explain", *PRODUCT, "--dtypes", "f16,"], "float16 (f16)"),
            (["explain", "matmul", "", "5x5"], "sizes like 100x300"),
            (["explain", "matmul", "5x-5", "5x5"], "got (5,-5)"),
            (["explain", "matmul", "5x5"], "missing a required argument: 'b'"),
            (["explain", "attention_chain", *["1x1x5x8"] * 3, "--mask", "5x5:"], "float16 (f16)"),
            (["tune", "--matmul", "5x6x7", "--rounds", "-3", "--dry-run"], "at least one round"),
            (["tune", "--matmul", "5x6x7:half", "--dry-run"], "float16 (f16)"),
            (["tune", "--matmul", "", "--dry-run"], "MxNxK"),
            (["tune", "--shapes", "/nowhere.json"], "No such file"),
            (["tune", "--shapes", "/"], "directory"),
            (["roofline", "--out", ""], "an .svg or a .png"),
        ],
    )
    def test_are_told_in_one_line(self, capsys, arguments, message):
        assert main(arguments) == 2
        captured = capsys.readouterr()
        assert message in captured.err
        assert captured.err.count("\n") == 1
        assert captured.out == ""

    def test_empty_files(self, capsys, tmp_path):
        (tmp_path / "verify.json").touch()
        assert main(["tune", "--shapes", str(tmp_path / "verify.json")]) == 2
        assert "which is no JSON" in capsys.readouterr().err
        assert main(["verify", "--resume", "--sample", "1", "--report", str(tmp_path)]) == 2
        assert "Expected a report of this command to resume" in capsys.readouterr().err

    def test_a_report_that_cannot_be_written_is_told_before_the_checks(self, capsys, tmp_path):
        (tmp_path / "file").touch()
        assert main(["verify", "--report", str(tmp_path / "file")]) == 2
        assert "Expected a directory to write reports to" in capsys.readouterr().err


class TestEnds:
    @pytest.mark.parametrize("words", [["-h"], ["explain", "-h"], ["explain", *PRODUCT]])
    def test_nobody_reads(self, words):
        reader, writer = os.pipe()
        os.close(reader)
        command = [sys.executable, "-m", "mlx_tilegemm", *words]
        with os.fdopen(writer, "w") as output:
            done = subprocess.run(
                command, stdout=output, stderr=subprocess.PIPE, text=True, check=False, env=BUFFERED
            )
        assert (done.returncode, done.stderr) == (141, "")

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a disk that is full")
    def test_a_full_disk_is_told_in_one_line(self):
        command = [sys.executable, "-m", "mlx_tilegemm", "explain", *PRODUCT]
        with Path("/dev/full").open("w") as output:
            done = subprocess.run(
                command, stdout=output, stderr=subprocess.PIPE, text=True, check=False
            )
        assert done.returncode == 2
        assert done.stderr == "mlx-tilegemm: [Errno 28] No space left on device\n"

    def test_no_output_at_all(self):
        command = f"{sys.executable} -m mlx_tilegemm explain {' '.join(PRODUCT)} >&-"
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")

    @pytest.mark.slow
    @pytest.mark.parametrize("seconds", [0.0, 1.0, 2.0, 3.0, 4.0])
    def test_an_interrupt_is_told_in_one_line(self, tmp_path, seconds):
        command = [sys.executable, "-m", "mlx_tilegemm", "verify", "--report", str(tmp_path)]
        running = subprocess.Popen(
            [*command, "--jobs", "2"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # Whoever runs the tests in the background may ignore interrupts, which is inherited.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )
        assert running.stderr.readline() == "checking variants\n"
        time.sleep(seconds)
        # As a terminal does: to the workers too, whatever they are at.
        os.killpg(running.pid, signal.SIGINT)
        out, error = running.communicate(timeout=60)
        assert running.returncode == 130
        assert "interrupted" in out + error
        assert "passed" not in out
        assert "Traceback" not in error


@pytest.mark.parametrize("module", ["argparse", "mlx_tilegemm.cli.command", "mlx.core"])
def test_an_interrupt_of_imports_is_told_in_one_line(module):
    code = (
        "import sys\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}:\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        f"sys.argv[1:] = ['explain', *{PRODUCT!r}]\n"
        "from mlx_tilegemm.cli import main\n"
        "sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert done.stderr == "mlx-tilegemm: interrupted\n"


def on_terminal(code):
    """Run code whose standard error is a terminal, and return what that shows."""
    ours, theirs = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", code], stderr=theirs) as running:
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 4096):
                shown += part
        except OSError:  # how Linux says that the other side is closed
            pass
        os.close(ours)
    assert running.returncode == 0
    return shown.decode()


IMPORTS = """
import time
from mlx_tilegemm.core import progress
from mlx_tilegemm.core.progress import Counting, working
"""


class TestProgress:
    def test_long_work_is_shown_on_a_terminal_and_taken_away(self):
        shown = on_terminal(f"{IMPORTS}with working('compiling'): time.sleep(1)")
        assert "compiling 00:0" in shown
        assert shown.rpartition("\r")[0].endswith(" " * len("compiling 00:00"))

    def test_short_work_is_not(self):
        assert on_terminal(f"{IMPORTS}with working('compiling'): pass") == ""

    def test_quiet_processes_show_nothing(self):
        code = f"{IMPORTS}progress.be_quiet()\nwith working('compiling'): time.sleep(1)"
        assert on_terminal(code) == ""

    def test_counts_are_a_bar_on_a_terminal(self):
        code = (
            f"{IMPORTS}with Counting('checking', 'things') as one:\n"
            "  for n in range(3): one.show(n + 1, 3); one.note(f'note {n}'); time.sleep(0.2)"
        )
        shown = on_terminal(code)
        assert "3/3" in shown
        assert shown.count("note") == 3

    def test_counts_are_lines_elsewhere(self, capsys):
        with progress.Counting("checking", "things") as counting:
            for number in range(100):
                counting.show(number + 1, 100)
            counting.note("a note")
        lines = capsys.readouterr().err.splitlines()
        assert lines == ["checking", "1 of 100 things", "100 of 100 things", "a note"]

    def test_nothing_is_shown_off_a_terminal(self, capsys, monkeypatch):
        monkeypatch.setattr(progress, "DELAY_SECONDS", 0.0)
        with progress.working("compiling"):
            pass
        assert capsys.readouterr().err == ""

    def test_a_clock_ticks_before_the_first_count(self):
        code = f"{IMPORTS}with Counting('checking', 'things'): time.sleep(2.2)"
        shown = on_terminal(code)
        assert "checking 00:01" in shown
        assert "checking 00:02" in shown

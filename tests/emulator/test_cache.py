"""The cache of builds: its limit, what stays and what goes, and processes that share it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from mlx_tilegemm.cli import main
from mlx_tilegemm.emulator import cache
from mlx_tilegemm.errors import ToolchainError

SIZE = 1000


@pytest.fixture
def place(tmp_path, monkeypatch):
    root = tmp_path / "cache"
    monkeypatch.setenv("MLX_TILEGEMM_CACHE", str(root))
    return root


@pytest.fixture
def limited(monkeypatch):
    return lambda text: monkeypatch.setenv("MLX_TILEGEMM_CACHE_LIMIT", text)


def fill(directory):
    (directory / "file").write_bytes(bytes(SIZE))


PROCESS = f"""
import sys, time
from mlx_tilegemm.emulator import cache
def fill(directory): (directory / "file").write_bytes(bytes({SIZE}))
made = [cache.build(name, fill) for name in sys.argv[1:]]
print("built", flush=True)
sys.stdin.read()
assert all((path / "file").stat().st_size == {SIZE} for path in made)
"""


def begin(*names, code=PROCESS):
    """Begin a process that uses builds until its input ends."""
    # From 3.12 on, Python warns of a fork beside threads, as MLX starts them.
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code, *names]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def start(*names, code=PROCESS):
    """Begin such a process, and wait for its builds."""
    running = begin(*names, code=code)
    wait(running)
    return running


def wait(running):
    assert running.stdout.readline() == "built\n", running.communicate()[1]


def finish(running):
    _, error = running.communicate(timeout=60)
    assert (running.returncode, error) == (0, "")


def by_others(*names):
    """Make builds that nobody uses any more."""
    finish(start(*names))


def names(place):
    return {path.name for path in place.iterdir() if not path.name.startswith((".", "tmp-"))}


def made_at(place, **times):
    for name, seconds in times.items():
        os.utime(place / name / "sha256", (seconds, seconds))


class TestLimit:
    @pytest.mark.parametrize(
        ("text", "size"),
        [
            ("", cache.DEFAULT_LIMIT),
            ("0", 0),
            ("500M", 500_000_000),
            ("1.5 GB", 1_500_000_000),
            ("2kb", 2000),
            (" 77 ", 77),
        ],
    )
    def test_is_a_size(self, text, size, limited):
        limited(text)
        assert cache.limit() == size

    @pytest.mark.parametrize("text", ["much", "-1", "1T", "1e9", "M"])
    def test_is_nothing_else(self, text, limited, place, capsys):
        limited(text)
        with pytest.raises(ToolchainError, match="a size such as 500M or 2G, got"):
            cache.build("a", fill)
        assert main(["cache"]) == 2
        assert "MLX_TILEGEMM_CACHE_LIMIT" in capsys.readouterr().err
        assert not place.exists() or names(place) == set()

    def test_what_was_used_longest_ago_goes(self, place, limited):
        by_others("a", "b", "c")
        made_at(place, a=3, b=1, c=2)
        limited(str(3 * (SIZE + 64)))
        cache.build("d", fill)
        assert names(place) == {"a", "c", "d"}
        limited(str(2 * (SIZE + 64)))
        cache.build("e", fill)
        assert names(place) == {"d", "e"}

    def test_use_is_remembered(self, place, limited):
        by_others("a", "b")
        made_at(place, a=1, b=2)
        by_others("a")
        limited(str(2 * (SIZE + 64)))
        cache.build("c", fill)
        assert names(place) == {"a", "c"}

    def test_below_it_everything_stays(self, place):
        by_others("a", "b")
        cache.build("c", fill)
        assert names(place) == {"a", "b", "c"}

    def test_many_go_a_few_at_a_time(self, place, limited, monkeypatch):
        monkeypatch.setattr(cache, "_MOST_AT_ONCE", 2)
        by_others("a", "b", "c", "d", "e")
        limited("0")
        left = []
        for name in "xyz":
            cache.build(name, fill)
            left.append(len(names(place) - {*"xyz"}))
        assert left == [3, 1, 0]

    def test_is_looked_after_now_and_then(self, place, limited, monkeypatch):
        by_others("a", "b", "c")
        cache.build("x", fill)
        looks = []
        monkeypatch.setattr(cache, "_evict", lambda *_, **__: looks.append(1) or [])
        limited(str(50 * (SIZE + 64)))
        cache.build("y", fill)
        assert looks == []
        cache.build("z", fill)
        assert looks == [1]
        cache.build("v", fill)
        assert looks == [1]
        os.utime(place / ".locks" / "looked", (1, 1))
        cache.build("u", fill)
        assert looks == [1, 1]

    def test_own_builds_stay(self, place, limited):
        limited("0")
        paths = [cache.build(name, fill) for name in "abc"]
        assert all((path / "file").exists() for path in paths)

    def test_other_directories_are_left_alone(self, place, limited):
        (place / "documents").mkdir(parents=True)
        (place / "documents" / "thesis").write_bytes(bytes(10 * SIZE))
        (place / "letter").write_text("")
        limited("0")
        cache.build("a", fill)
        cache.clear()
        assert (place / "documents" / "thesis").exists()
        assert (place / "letter").exists()


class TestProcesses:
    def test_what_a_running_one_uses_stays_until_it_ends(self, place, limited):
        running = start("a", "b")
        made_at(place, a=1, b=1)
        limited("0")
        cache.build("c", fill)
        assert names(place) == {"a", "b", "c"}
        finish(running)
        cache.build("d", fill)
        assert names(place) == {"c", "d"}

    def test_a_killed_one_uses_nothing(self, place, limited):
        running = start("a")
        running.send_signal(signal.SIGKILL)
        running.communicate()
        limited("0")
        cache.build("b", fill)
        assert names(place) == {"b"}
        own = [path for path in (place / ".locks").iterdir() if path.name[0].isdigit()]
        assert {path.name.partition("-")[0] for path in own} == {str(os.getpid())}

    def test_an_ended_one_leaves_nothing_behind(self, place):
        by_others("a")
        assert [path.name for path in (place / ".locks").glob("*.txt")] == []

    def test_a_forked_one_does_not_end_its_parents_use(self, place, limited):
        code = PROCESS.replace(
            'print("built"',
            "import os\nif not os.fork(): sys.exit()\nos.wait()\nprint('built'",
        )
        running = start("a", code=code)
        limited("0")
        cache.build("b", fill)
        assert names(place) == {"a", "b"}
        finish(running)

    @pytest.mark.slow
    def test_many_that_evict_each_others_builds(self, place, limited):
        limited(str(3 * SIZE))
        crowd = [
            begin(*(f"k{(7 * step + 5 * number) % 23}" for step in range(23)))
            for number in range(4)
        ]
        for running in crowd:
            wait(running)
        for running in crowd:
            finish(running)
        cache.build("last", fill)
        assert sum(one.stat().st_size for one in place.glob("*/file")) <= 3 * SIZE
        assert not list(place.glob("tmp-*"))

    def test_a_stopped_one_with_the_lock_is_not_waited_for(self, place, limited, monkeypatch):
        import fcntl

        monkeypatch.setattr(cache, "_LOCK_SECONDS", 0.05)
        by_others("a")
        limited("0")
        with (place / ".locks" / "cache.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            cache.build("b", fill)
            with pytest.raises(ToolchainError, match="another process does not let go"):
                cache.clear()
        assert names(place) == {"a", "b"}


class TestCommand:
    def test_shows_place_size_and_count(self, place, capsys):
        by_others("a", "b")
        assert main(["cache"]) == 0
        text = capsys.readouterr().out
        assert f"place    {place}\n" in text
        assert "in 2 builds; limit 1000.0 MB" in text

    def test_as_json(self, place, capsys):
        by_others("a", "b")
        assert main(["cache", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found == {
            "place": str(place),
            "builds": 2,
            "bytes": 2 * (SIZE + 64),
            "limit": 10**9,
            "removed": None,
        }

    def test_clears(self, place, capsys):
        by_others("a", "b")
        running = start("b")
        assert main(["cache", "--clear"]) == 0
        text = capsys.readouterr().out
        assert "removed  0.0 MB in 1 builds" in text
        assert "left     what running processes use" in text
        assert names(place) == {"b"}
        finish(running)
        assert main(["cache", "--clear", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["removed"] == {"builds": 1, "bytes": SIZE + 64}
        assert names(place) == set()

    def test_an_empty_one(self, place, capsys):
        assert main(["cache", "--clear"]) == 0
        assert "removed  0.0 MB in 0 builds" in capsys.readouterr().out

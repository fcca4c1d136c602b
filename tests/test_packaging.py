"""What several files state for several tools is alike, and a release is held to it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = (ROOT / "pyproject.toml").read_text()
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FILES = ("README.md", "pyproject.toml", "CITATION.cff", "CHANGELOG.md")
VERSION = re.search(r'^version = "(.*)"$', PROJECT, re.MULTILINE)[1]


def loaded(path: Path) -> object:
    yaml = pytest.importorskip("yaml", reason="myst-parser of the extra `docs` brings PyYAML")
    return yaml.safe_load(path.read_text())


def test_pre_commit_runs_the_linter_that_is_pinned():
    config = loaded(ROOT / ".pre-commit-config.yaml")
    hooks = {hook["id"]: hook for repo in config["repos"] for hook in repo["hooks"]}
    (pin,) = re.findall(r'"(ruff==[\d.]+)"', PROJECT)
    assert [hooks[name]["additional_dependencies"] for name in ("ruff", "ruff-format")] == [
        [pin]
    ] * 2


def test_every_tool_of_the_documentation_is_pinned_for_the_checks():
    asked = re.search(r"^docs = \[(.*)\]$", PROJECT, re.MULTILINE)[1]
    names = re.findall(r'"([\w-]+)>=', asked)
    assert len(names) == 4
    assert [name for name in names if f'"{name}==' not in PROJECT] == []


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_runs_what_is_there(workflow):
    steps = [step for job in loaded(workflow)["jobs"].values() for step in job["steps"]]
    runs = " ".join(step["run"] for step in steps if "run" in step)
    for script in re.findall(r"(?:scripts|\.ci)/[\w-]+", runs):
        assert (ROOT / script).exists(), script


def test_only_a_checked_wheel_is_published():
    jobs = loaded(ROOT / ".github" / "workflows" / "release.yml")["jobs"]
    runs = [step.get("run", "") for step in jobs["wheel"]["steps"]]
    assert any(run.startswith("scripts/check-release") for run in runs)
    assert any(run.endswith("scripts/check-wheel") for run in runs)
    assert jobs["publish"]["needs"] == "wheel"
    assert jobs["publish"]["permissions"] == {"id-token": "write"}


@pytest.mark.parametrize("form", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")))
def test_an_issue_form_is_one(form):
    found = loaded(form)
    assert {"name", "description", "body"} <= found.keys()
    names = [part["id"] for part in found["body"]]
    assert len(set(names)) == len(names)
    assert all(part["attributes"]["label"] for part in found["body"])


class TestRelease:
    @pytest.fixture
    def tree(self, tmp_path):
        """A tree that may be released."""
        (tmp_path / "scripts").mkdir()
        shutil.copy(ROOT / "scripts" / "check-release", tmp_path / "scripts")
        for name in FILES:
            text = (ROOT / name).read_text().replace("github.com/OWNER", "github.com/somebody")
            (tmp_path / name).write_text(text.replace("## [Unreleased]", f"## [{VERSION}]"))
        return tmp_path

    def check(self, tree, tag=f"v{VERSION}"):
        command = [str(tree / "scripts" / "check-release"), tag]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr

    def test_one_that_is_ready(self, tree):
        assert self.check(tree) == (0, "")

    @pytest.mark.parametrize("name", ["README.md", "pyproject.toml", "CITATION.cff"])
    def test_a_placeholder(self, tree, name):
        text = (tree / name).read_text()
        (tree / name).write_text(text.replace("github.com/somebody", "github.com/OWNER"))
        assert self.check(tree) == (
            1,
            f"check-release: Expected the repository's owner, got OWNER in {name}.\n",
        )

    @pytest.mark.parametrize(
        ("name", "old", "new"),
        [
            ("CHANGELOG.md", f"## [{VERSION}]", "## [Unreleased]"),
            ("CITATION.cff", f"version: {VERSION}", "version: 0.0.9"),
        ],
    )
    def test_another_version(self, tree, name, old, new):
        (tree / name).write_text((tree / name).read_text().replace(old, new))
        status, complaint = self.check(tree)
        assert status == 1
        assert name in complaint

    def test_another_tag(self, tree):
        status, complaint = self.check(tree, "v9.9.9")
        assert (status, "got v9.9.9" in complaint) == (1, True)


def set_up(tmp_path, system, extras):
    """Run the set-up where what it calls only says with what, and return how it ended."""
    for name, text in {
        "uname": f"echo {system}",
        "g++": "true",
        "venv/bin/python": 'echo "$@"',
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "VENV": str(tmp_path / "venv")}
    command = ["sh", str(ROOT / "scripts" / "setup"), *extras]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("system", "extras", "target"),
    [
        ("Linux", [], ".[cpu]"),
        ("Linux", ["test", "docs"], ".[test,docs,cpu]"),
        ("Linux", ["cuda13", "test"], ".[cuda13,test]"),
        ("Darwin", [], "."),
        ("Darwin", ["test"], ".[test]"),
    ],
)
def test_setup_installs_one_back_end(tmp_path, system, extras, target):
    """MLX's back-ends hold the same library, so that the last one installed would be it."""
    run = set_up(tmp_path, system, extras)
    assert run.returncode == 0
    assert run.stderr.splitlines()[-1].split()[-2:] == ["--editable", target]


@pytest.mark.parametrize(
    ("extras", "there", "said"),
    [
        (["cuda14"], "mlx_cpu-1", "Expected extras of pyproject.toml, got cuda14."),
        (["cuda13"], "mlx_cpu-1", "Expected no other back-end of MLX in"),
        (["test"], "mlx_cuda_13-1", "got mlx_cuda_13-1; VENV names another environment."),
        (["test"], "mlx_cpu-1", ""),
        (["cuda13"], "mlx_cuda_13-1", ""),
    ],
)
def test_setup_refuses_what_would_leave_no_back_end(tmp_path, extras, there, said):
    site = tmp_path / "venv" / "lib" / "python3.12" / "site-packages"
    (site / f"{there}.dist-info").mkdir(parents=True)
    (site / "mlx-1.dist-info").mkdir()
    run = set_up(tmp_path, "Linux", extras)
    assert (run.returncode != 0) == bool(said)
    assert said in run.stderr
    assert ("--editable" in run.stderr) != bool(said)

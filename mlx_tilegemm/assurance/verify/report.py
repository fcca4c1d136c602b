"""Report of a campaign, as JSON for programs and as Markdown for people."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from enum import Enum
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from ...backends import backend_named
from ...core.plan import THREADS_LIMIT
from ...machine import chips
from ...strict.toolchain import (
    ClangMissingError,
    HeadersMissingError,
    find_clang,
    precompiled_prelude,
)
from ..variants import COVERING
from .check import Outcome, Status

if TYPE_CHECKING:
    from .campaign import Request

STATIC_OFF = "static checks switched off"


class Verdict(str, Enum):
    """Verdict on a campaign; the first that applies, in this order.

    ``FAILED`` if a variant failed, ``INTERRUPTED`` if variants are left, ``UNCHECKED`` if a check
    that was asked for could not run, ``PASSED`` otherwise.
    """

    FAILED = "failed"
    INTERRUPTED = "interrupted"
    UNCHECKED = "unchecked"
    PASSED = "passed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Machine and versions that a campaign ran with.

    Attributes:
        machine: Processor or GPU, and how many CPUs.
        system: Operating system.
        python: Version of Python.
        mlx: Version of MLX.
        commit: Commit of the checkout, with a ``+`` if it was changed; empty outside one.
        date: When, UTC.
        backend: What ran the kernels.
        compiler: What compiled them.
        strict: What compiled them strictly, or why nothing did.
        chip: Whose candidates and occupancy were used, and why.
        checks: Digest of the files that a verdict depends on, besides the kernels' texts.
    """

    machine: str
    system: str
    python: str
    mlx: str
    commit: str
    date: str
    backend: str
    compiler: str
    strict: str
    chip: str
    checks: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything a campaign found.

    Attributes:
        environment: Where it ran.
        request: What was asked.
        seconds: How long it took.
        total: Variants it is about; more than outcomes after an interrupt.
        outcomes: One for each variant.
        left_out: Kernels that this machine's chip may not run.
    """

    environment: Environment
    request: Request
    seconds: float
    total: int
    outcomes: tuple[Outcome, ...]
    left_out: tuple[str, ...] = ()

    @property
    def interrupted(self) -> bool:
        """Whether variants are left that the request is about."""
        return len(self.outcomes) < self.total

    @property
    def verdict(self) -> Verdict:
        """The verdict on all checks that were asked for."""
        found = {outcome.status for outcome in self.outcomes}
        if Status.FAILED in found:
            return Verdict.FAILED
        if self.interrupted:
            return Verdict.INTERRUPTED
        return Verdict.UNCHECKED if Status.UNCHECKED in found else Verdict.PASSED

    @property
    def passed(self) -> bool:
        """Whether every check that was asked for ran, on every variant, and passed."""
        return self.verdict is Verdict.PASSED


def system_name() -> str:
    """Return the operating system and its version, without what a build of it is called."""
    release = re.match(r"[\d.]*", platform.release())
    version = release.group().rstrip(".") if release else ""
    return " ".join(filter(None, (platform.system(), version, platform.machine())))


def environment(backend: str, compiler: str) -> Environment:
    """Describe this machine."""
    runner = backend_named(backend)
    device = runner.device_name() or _processor()
    return Environment(
        machine=f"{device or platform.machine()}, {os.cpu_count()} CPUs",
        system=system_name(),
        python=platform.python_version(),
        mlx=version("mlx"),
        commit=_commit(),
        date=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M"),
        backend=backend,
        compiler=runner.compiler_name(compiler),
        strict=_strict(),
        chip=_chip(backend),
        checks=_checks(),
    )


_CHECKS = ("assurance/verify", "backends", "core", "emulator", "families", "strict")


def _checks() -> str:
    package = Path(__file__).parents[2]
    digest = hashlib.blake2s(digest_size=8)
    for path in sorted(path for name in _CHECKS for path in (package / name).rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(f"{path.relative_to(package)} {path.stat().st_size} ".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _chip(backend: str) -> str:
    if not backend_named(backend).capabilities.has_clock:
        return f"{', '.join(one.name for one in COVERING)} (every kernel is for one of them)"
    chip, note = chips.detect()
    return f"{chip.name} ({note})" if note else chip.name


def _strict() -> str:
    try:
        clang = find_clang()
        precompiled_prelude(clang)
        return clang.version
    except (ClangMissingError, HeadersMissingError) as missing:
        return f"not checked: {missing}"


def _commit() -> str:
    root = Path(__file__).parents[3]

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        return done.stdout.strip()

    if not (root / ".git").exists():
        return ""
    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "mlx_tilegemm")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def to_json(report: Report) -> str:
    """Return a report with one line a variant, so that differences between two are readable."""
    head = {
        "environment": asdict(report.environment),
        "request": asdict(report.request),
        "seconds": round(report.seconds, 1),
        "total": report.total,
        "passed": report.passed,
        "verdict": report.verdict,
        "summary": summary(report),
        "left_out": report.left_out,
    }
    rows = ",\n".join("  " + _row(outcome) for outcome in report.outcomes)
    return f'{json.dumps(head, indent=1)[:-2]},\n "variants": [\n{rows}\n]}}\n'


def _row(outcome: Outcome) -> str:
    fields = {key: value for key, value in asdict(outcome).items() if value}
    for name in ("error_share", "compile_seconds", "run_seconds"):
        fields[name] = float(f"{getattr(outcome, name):.3g}")
    return json.dumps(fields, separators=(",", ":"))


def summary(report: Report) -> str:
    """Say how many variants passed, or that not all ran, and what failed or was not checked."""
    done = f"{len(report.outcomes)} of {report.total} variants"
    passed = f"{_count(report.outcomes, Status.PASSED)} variants passed"
    parts = [f"interrupted after {done}" if report.interrupted else passed]
    if failed := _count(report.outcomes, Status.FAILED):
        parts.append(f"{failed} failed")
    if unchecked := _count(report.outcomes, Status.UNCHECKED):
        reasons = "; ".join(_reasons(report))
        parts.append(f"{unchecked} not fully checked: {reasons}")
    if not report.request.static:
        parts.append(STATIC_OFF)
    return ", ".join(parts)


def _reasons(report: Report) -> Counter[str]:
    """Return why checks that were asked for could not run, and for how many variants."""
    return Counter(reason for one in report.outcomes for reason in one.unchecked)


def to_markdown(report: Report) -> str:
    """Return a report to read."""
    first = [_head(report), _kernels(report), _failures(report), _unchecked(report)]
    return "\n".join([*first, _machine(report), _resources(report)])


def _head(report: Report) -> str:
    launches = sum(one.launches for one in report.outcomes)
    texts = len({stage.name for one in report.outcomes for stage in one.stages})
    asked = report.request
    scope = f"a sample of {asked.sample}" if asked.sample else "every variant"
    scope += f" of {asked.kernel}" if asked.kernel else ""
    static = "" if asked.static else f" Here: {STATIC_OFF}."
    return f"""# Verification report

**{summary(report)}**

Of {scope}: {texts} different texts, {launches} launches, {report.seconds:.0f} s.

A variant passes if its kernels render and compile, if each of {asked.repeats} runs with new
buffers breaks no rule and gives the same bits, if every element is within the error that float32
accumulation allows (computed in float64), and if the static checks find nothing.{static}

{_nearest(report)}
{_earlier(report)}"""


def _nearest(report: Report) -> str:
    """Say how near any variant comes to what is allowed."""
    stages = [stage for outcome in report.outcomes for stage in outcome.stages]
    if not stages:
        return "Nothing was run."
    most = {name: max(getattr(stage, name) for stage in stages) for name in _LIMITED}
    limits = _limits(report)
    rows = [f"| {text} | {most[name]} | {limits[name]} |" for name, text in _LIMITED.items()]
    error = max(outcome.error_share for outcome in report.outcomes)
    return "\n".join(
        [
            "The nearest that any of them comes to what is allowed:",
            "",
            "| | most | allowed |",
            "|---|--:|--:|",
            f"| error, as a share of its bound | {error:.0%} | 100% |",
            *rows,
        ]
    )


_LIMITED = {
    "threads": "threads",
    "threadgroup_bytes": "bytes of threadgroup memory",
    "registers": "registers of a thread, estimated",
}
"""Resources of a stage, in words."""


def _limits(report: Report) -> dict[str, int]:
    """Return the most that any of the report's chips allows."""
    names = _chips_of(report).split(", ")
    limits = [one.limits for one in (*chips.CHIPS, chips.NVIDIA) if one.name in names]
    return {
        "threads": THREADS_LIMIT,
        "threadgroup_bytes": max(one.threadgroup_bytes for one in limits),
        "registers": max(one.registers for one in limits) - 1,
    }


def _earlier(report: Report) -> str:
    runs = Counter(one.found for one in report.outcomes if one.found)
    return "".join(
        f"\n{count} of them were checked on {run}, in the same way.\n"
        for run, count in runs.items()
    )


def _machine(report: Report) -> str:
    rows = [f"| {name} | {value} |" for name, value in asdict(report.environment).items()]
    return "\n".join(["## Machine", "", "| | |", "|---|---|", *rows, ""])


def _kernels(report: Report) -> str:
    groups: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in report.outcomes:
        groups[outcome.kernel].append(outcome)
    rows = [
        f"| {name} | {len(members)} | {_count(members, Status.PASSED)} | "
        f"{_count(members, Status.FAILED)} | {_count(members, Status.UNCHECKED)} | "
        f"{max(one.error_share for one in members):.0%} | "
        f"{_median([one.compile_seconds for one in members]):.2f} | "
        f"{max(one.compile_seconds for one in members):.2f} | "
        f"{max(one.text_bytes for one in members)} |"
        for name, members in sorted(groups.items())
    ]
    return "\n".join(
        [
            "## Kernels",
            "",
            "Error is the largest one seen, as a share of its bound. Compile seconds are those of "
            f"{report.environment.compiler}.",
            "",
            "| kernel | variants | passed | failed | not checked | error | compile median "
            "| compile max | text bytes max |",
            "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
            *rows,
            "",
        ]
    )


def _count(outcomes: Iterable[Outcome], status: Status) -> int:
    return sum(outcome.status is status for outcome in outcomes)


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2] if values else 0.0


def _resources(report: Report) -> str:
    groups: dict[tuple[str, str], list[Outcome]] = defaultdict(list)
    for outcome in report.outcomes:
        if outcome.stages:
            groups[outcome.kernel, outcome.config].append(outcome)
    rows = [
        f"| {kernel} | {config} | {_needs(found)} |"
        for (kernel, config), found in sorted(groups.items())
    ]
    most = _limits(report)
    return "\n".join(
        [
            "## Resources",
            "",
            f"The largest of all variants of a configuration. Limits: {most['threads']} threads, "
            f"{most['threadgroup_bytes']} bytes and {most['registers']} registers. Registers "
            "are our estimate; threads per core follow from the occupancy table of a chip that may "
            f"run it, of {_chips_of(report)}. Each text declares its threads as its limit; MLX "
            "does not tell what limit a compiled kernel has.",
            "",
            "| kernel | configuration | threads | threadgroup bytes | registers "
            "| threads per core |",
            "|---|---|--:|--:|--:|--:|",
            *rows,
            "",
        ]
    )


def _chips_of(report: Report) -> str:
    return report.environment.chip.partition(" (")[0]


def _needs(outcomes: Iterable[Outcome]) -> str:
    stages = [stage for outcome in outcomes for stage in outcome.stages]
    return " | ".join(
        str(value)
        for value in (
            max(stage.threads for stage in stages),
            max(stage.threadgroup_bytes for stage in stages),
            max(stage.registers for stage in stages),
            min(stage.threads_per_core for stage in stages),
        )
    )


def _failures(report: Report) -> str:
    variants: dict[str, list[str]] = defaultdict(list)
    for outcome in report.outcomes:
        for failure in outcome.failures:
            variants[failure].append(outcome.variant)
    lines = ["## Failures", ""]
    if not variants:
        return "\n".join([*lines, "None.", ""])
    for failure, names in sorted(variants.items(), key=lambda item: -len(item[1])):
        lines += [f"{len(names)} variants, first {names[0]}:", "", "```", failure, "```", ""]
    return "\n".join(lines)


def _unchecked(report: Report) -> str:
    lines = [f"- {count} variants: {reason}" for reason, count in _reasons(report).items()]
    if not report.request.static:
        lines.append(f"- All variants: strict compile, lint, signature, vocabulary: {STATIC_OFF}.")
    if not backend_named(report.environment.backend).capabilities.has_clock:
        lines += [
            "- Apple's compiler, its register allocation, and rounding inside the hardware's "
            "matrix and simd functions: no Apple GPU was at hand; the emulator ran the same text.",
        ]
    if report.left_out:
        lines.append(f"- {', '.join(report.left_out)}: no variant is for {_chips_of(report)}.")
    lines += [
        "- Sizes n, k and head_dim other than those of the variants' problems: they are constants "
        "of the text and give other texts of the same shape.",
    ]
    return "\n".join(["## Not checked", "", *lines, ""])


def write(report: Report, directory: Path) -> tuple[Path, Path]:
    """Write ``verify.json`` and ``verify.md`` and return their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = directory / "verify.json", directory / "verify.md"
    paths[0].write_text(to_json(report), encoding="utf-8")
    paths[1].write_text(to_markdown(report), encoding="utf-8")
    return paths

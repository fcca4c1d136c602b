"""The command ``verify``: every kernel variant, run here and checked."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

from ..assurance.verify import (
    Outcome,
    Report,
    Request,
    Status,
    Verdict,
    backend_here,
    summary,
    verify,
    write,
)
from ..backends import Backend, backend_named
from ..core.progress import Counting
from ..errors import BackendError, ProblemError

_STATUS = {
    Verdict.PASSED: 0,
    Verdict.FAILED: 1,
    Verdict.UNCHECKED: 3,
    Verdict.INTERRUPTED: 130,
}
STATUS_HELP = """\
exit status:
  0    every check that was asked for ran and passed
  1    something failed
  2    the call is wrong
  3    nothing failed, but a check that was asked for could not run
  130  interrupted before all variants were checked, and nothing had failed
"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add what to check, and how."""
    add = command.add_argument
    add("--backend", default="", help="metal, cuda or emulator; default: what runs kernels here")
    add("--kernel", default="", help="only this kernel, or kernel/config")
    add("--sample", type=int, default=0, help="check so many variants; default: all")
    add("--repeats", type=int, default=12, help="runs of each variant, with new buffers")
    add("--jobs", type=int, default=0, help="processes; default: one on Metal, else one a CPU")
    add(
        "--no-static",
        dest="static",
        action="store_false",
        help="do not ask for strict compile, lint, signature and vocabulary; the report says so",
    )
    add("--compiler", default="", help="the emulator's C++ compiler; default: the first found")
    add("--report", type=Path, default=Path("reports"), help="directory of the reports")
    add(
        "--resume",
        action="store_true",
        help="keep the passes of the report that is there, if texts, machine and checks are alike",
    )


def run_verify(options: argparse.Namespace) -> int:
    """Check, write the reports, and print the verdict."""
    if options.jobs < 0:
        raise ProblemError(f"[verify] Expected 0 or more jobs, got {options.jobs}.")
    request = Request(
        backend=_backend(options.backend).name,
        kernel=options.kernel,
        sample=options.sample,
        repeats=options.repeats,
        static=options.static,
        compiler=options.compiler,
    )
    _require_writable(options.report)
    earlier = options.report / "verify.json" if options.resume else None
    with Counting("checking variants", "variants") as counting:

        def progress(done: int, total: int, outcome: Outcome) -> None:
            if outcome.status is not Status.PASSED:
                reason = (*outcome.failures, *outcome.unchecked)[0]
                counting.note(f"{outcome.status.value}: {outcome.variant}: {reason}")
            counting.show(done, total)

        report = verify(request, jobs=options.jobs, progress=progress, earlier=earlier)
    paths = write(report, options.report)
    print(_plain(report, paths) if options.json else _said(report, paths))
    return _STATUS[report.verdict]


def _backend(name: str) -> Backend:
    """Return the backend that is asked for, once it can run kernels here."""
    if not name:
        return backend_here()
    found = backend_named(name)
    lacking = found.missing()
    if lacking is not None:
        raise BackendError(
            f"[verify] Expected a backend that runs kernels here, got {name}: {lacking}"
        )
    return found


def _require_writable(directory: Path) -> None:
    """Refuse a place for reports before the checks, which may take an hour."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe = directory / ".probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ProblemError(
            f"[verify] Expected a directory to write reports to, got {directory}: {error}."
        ) from None


def _said(report: Report, paths: tuple[Path, Path]) -> str:
    data, text = paths
    return f"{summary(report)}; see {text} and {data}"


def _plain(report: Report, paths: tuple[Path, Path]) -> str:
    counts = Counter(outcome.status for outcome in report.outcomes)
    content = {
        "verdict": report.verdict.value,
        "summary": summary(report),
        "variants": report.total,
        **{status.value: counts[status] for status in Status},
        "seconds": round(report.seconds, 1),
        "reports": [str(path) for path in paths],
    }
    return json.dumps(content, indent=2)

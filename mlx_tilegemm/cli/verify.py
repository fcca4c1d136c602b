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

"""Passes that an earlier report holds and that need not be found again."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ProblemError
from .check import Outcome, StageRecord, Status
from .report import Environment

if TYPE_CHECKING:
    from .campaign import Request

_FREE = ("date", "commit")
"""Fields that may differ between two runs of the same texts under the same checks."""


def earlier_passes(path: Path, environment: Environment, request: Request) -> dict[str, Outcome]:
    """Return the passes of an earlier run, by variant, if it checked as this one would.

    Machine, versions, compilers, the checks themselves and the number of repeats have to be the
    same. Whether a variant still has the texts that passed is for the caller to say.

    Args:
        path: The ``verify.json`` of that run; there may be none.
        environment: Where this run is.
        request: What this run is asked.

    Raises:
        ProblemError: The file is no report.
    """
    if not path.exists():
        return {}
    try:
        return _passes(json.loads(path.read_text(encoding="utf-8")), environment, request)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ProblemError(
            f"[verify] Expected a report of this command to resume, got {path}: {error!r}."
        ) from error


def _passes(report: Any, environment: Environment, request: Request) -> dict[str, Outcome]:  # noqa: ANN401
    there, here = report["environment"], asdict(environment)
    alike = all(there[name] == here[name] for name in here if name not in _FREE)
    asked = report["request"]
    if not alike or (asked["repeats"], asked["static"]) != (request.repeats, request.static):
        return {}
    run = f"{there['date']} at {there['commit']}"
    found = (_outcome(row) for row in report["variants"] if row["status"] == Status.PASSED.value)
    return {one.variant: replace(one, found=one.found or run) for one in found}


def _outcome(row: dict[str, Any]) -> Outcome:
    known = {field.name: row[field.name] for field in fields(Outcome) if field.name in row}
    known["status"] = Status(known["status"])
    known["stages"] = tuple(StageRecord(**stage) for stage in known.get("stages", ()))
    for name in ("failures", "unchecked"):
        known[name] = tuple(known.get(name, ()))
    return Outcome(**known)

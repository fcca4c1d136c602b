"""Prove that every kernel the dispatcher can choose is right on this machine.

`verify` runs the variants and returns a `Report`; `write` stores it. ``mutate`` and ``schedules``
question the checks themselves.
"""

from .campaign import Request, backend_here, selected, verify
from .check import Outcome, Status, check_variant
from .report import Report, Verdict, summary, to_json, to_markdown, write

__all__ = [
    "Outcome",
    "Report",
    "Request",
    "Status",
    "Verdict",
    "backend_here",
    "check_variant",
    "selected",
    "summary",
    "to_json",
    "to_markdown",
    "verify",
    "write",
]

"""Check Metal text without an Apple GPU: strict compilation, lint, signature and vocabulary."""

from .compile import check, check_all
from .finding import Finding, Report
from .lint import lint_source, lint_text
from .toolchain import ClangMissingError, find_clang
from .vocabulary import unknown_words

__all__ = [
    "ClangMissingError",
    "Finding",
    "Report",
    "check",
    "check_all",
    "find_clang",
    "lint_source",
    "lint_text",
    "unknown_words",
]

"""Check Metal text without an Apple GPU: strict compilation, lint, signature and vocabulary."""

from .certain import metal_words
from .compile import check, check_all
from .finding import Finding, Report
from .lint import lint_source, lint_text
from .toolchain import PRELUDE, STANDARD_LIBRARY, ClangMissingError, find_clang
from .vocabulary import unknown_words

__all__ = [
    "PRELUDE",
    "STANDARD_LIBRARY",
    "ClangMissingError",
    "Finding",
    "Report",
    "check",
    "check_all",
    "find_clang",
    "lint_source",
    "lint_text",
    "metal_words",
    "unknown_words",
]

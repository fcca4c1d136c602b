"""Check Metal text without an Apple GPU: strict compilation, lint, signature and vocabulary."""

from .compile import check, check_all
from .finding import Finding, Report
from .toolchain import ClangMissingError, find_clang

__all__ = ["ClangMissingError", "Finding", "Report", "check", "check_all", "find_clang"]

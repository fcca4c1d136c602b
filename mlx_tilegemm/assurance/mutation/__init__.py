"""Question the checks: break our kernels in every small way and see whether it is noticed.

`operators` says in which ways, `subjects` which kernels and problems, `campaign` runs them, and
``equivalent.tsv`` lists the changes that change nothing, each with its reason.
"""

from .campaign import Campaign, Variation, Verdict, explanation, identity, run, unique_mutants
from .operators import OPERATORS, Mutant, mutants
from .report import to_markdown

__all__ = [
    "OPERATORS",
    "Campaign",
    "Mutant",
    "Variation",
    "Verdict",
    "explanation",
    "identity",
    "mutants",
    "run",
    "to_markdown",
    "unique_mutants",
]

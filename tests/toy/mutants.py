"""Mutants of the toy's text; prints those that nothing notices, then how many there are."""

from __future__ import annotations

from mlx_tilegemm.assurance import mutation
from mlx_tilegemm.assurance.mutation.campaign import judge

ways = [found for found in mutation.unique_mutants() if "toy/" in found[0].mutant.template]
for found in ways:
    if not judge(found).caught_by:
        print(found[0].mutant.operator)
print(len(ways))

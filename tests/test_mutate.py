"""The command that runs the mutation campaign: verdicts that it keeps."""

from __future__ import annotations

from dataclasses import replace

import mutate

from mlx_tilegemm.assurance import mutation
from mlx_tilegemm.assurance.mutation.campaign import Verdict


def test_kept_verdicts_hold_for_the_texts_they_were_found_in(monkeypatch, tmp_path):
    ways = next(ways for ways in mutation.unique_mutants() if len(ways) > 1)
    verdict = Verdict(mutant=ways[0].mutant, caught_by="race", subject="first", tried=1)
    file = tmp_path / "verdicts.jsonl"
    mutate.show(file, 1, 1, verdict)
    assert mutate.read(file) == {verdict.mutant: verdict}
    for changed, holds in ((0, False), (1, True)):
        texts = list(ways)
        texts[changed] = replace(ways[changed], body=ways[changed].body + "// another\n")
        found = {verdict.mutant: tuple(texts)}
        monkeypatch.setattr(mutate, "variations", lambda found=found: found)
        assert mutate.read(file) == ({verdict.mutant: verdict} if holds else {})

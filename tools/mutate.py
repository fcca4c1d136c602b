"""Run the mutation campaign and write reports/mutation.md."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path

from mlx_tilegemm.assurance import mutation
from mlx_tilegemm.assurance.verify.report import environment

REPORT = Path(__file__).parents[1] / "reports" / "mutation.md"


def main() -> int:
    """Return 0 if every survivor has its reason."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, default=0, help="run so many mutants; default: all")
    parser.add_argument("--generic", type=int, help="so many of the generic ones; default: all")
    parser.add_argument(
        "--templates", nargs="+", default=[], metavar="PATTERN", help="only of these templates"
    )
    parser.add_argument("--jobs", type=int, default=0, help="processes; default: one a CPU")
    parser.add_argument("--report", type=Path, default=REPORT)
    parser.add_argument("--verdicts", type=Path, help="keep verdicts here, and reuse those there")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell ignores it
    # Thousands of kernels that will never be used again must not fill the user's cache.
    with tempfile.TemporaryDirectory(prefix="mutants-") as builds:
        os.environ["MLX_TILEGEMM_CACHE"] = builds
        campaign = mutation.run(
            sample=options.sample,
            generic=options.generic,
            templates=options.templates,
            jobs=options.jobs,
            progress=partial(show, options.verdicts),
            known=read(options.verdicts),
        )
        here = environment("emulator", "")
    options.report.parent.mkdir(parents=True, exist_ok=True)
    text = mutation.to_markdown(campaign, commit=here.commit, compiler=here.compiler)
    options.report.write_text(text, encoding="utf-8")
    print(f"{campaign.rate:.2%} noticed, {len(campaign.unexplained)} unexplained; {options.report}")
    return 1 if campaign.unexplained else 0


def read(path: Path | None) -> dict[mutation.Mutant, mutation.Verdict]:
    """Return the verdicts kept in a file that still hold: about the same texts and subjects."""
    if path is None or not path.exists():
        return {}
    kept = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        fields = json.loads(line)
        mutant = mutation.Mutant(**fields.pop("mutant"))
        identity = fields.pop("identity")
        ways = variations().get(mutant, ())[: fields["tried"]]
        if ways and mutation.identity(ways) == identity:
            reason = "" if fields["caught_by"] else mutation.explanation(mutant)
            kept[mutant] = mutation.Verdict(**fields | {"mutant": mutant, "reason": reason})
    return kept


def show(path: Path | None, done: int, total: int, verdict: mutation.Verdict) -> None:
    """Print survivors as they come, and how far it is; keep the verdict."""
    if not verdict.caught and not verdict.reason:
        print(f"survived: {verdict.mutant}", file=sys.stderr)
    if done % 50 == 0 or done == total:
        print(f"{done} of {total} mutants", file=sys.stderr, flush=True)
    if path:
        tried = variations()[verdict.mutant][: verdict.tried]
        fields = asdict(verdict) | {"identity": mutation.identity(tried)}
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(fields) + "\n")


@cache
def variations() -> dict[mutation.Mutant, tuple[mutation.Variation, ...]]:
    """Return each mutant's variations."""
    return {ways[0].mutant: ways for ways in mutation.unique_mutants()}


if __name__ == "__main__":
    sys.exit(main())

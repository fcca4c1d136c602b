"""Say how much of each template is Jinja, and count what its kernels do in the emulator.

    python bench/templates.py                       # print each template's share of Jinja
    python bench/templates.py --count counts.json   # and count, and write the counts
    python bench/templates.py --count counts.json --against before.json   # and compare
    python bench/templates.py --kept counts.json --against before.json    # counts made earlier
    python bench/templates.py --mutants reports/mutation.md ...   # and the mutants noticed

A line has Jinja if it holds a statement or prints a value; comments for authors are neither. The
subjects of the mutation campaign are counted, which together contain every line of every template.
Results are compared bit for bit. bench/results/templates-before.json holds what was counted before
the templates became plain Metal, at commit 97f579b, and the mutants of its own report;
templates.json what was counted once they had, at 3164db1. Subjects have changed since, so that
counts of today's are of other problems by the same names.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_tilegemm import emulator
from mlx_tilegemm.assurance.mutation.subjects import Subject, Trial, subjects
from mlx_tilegemm.backends import backend_named
from mlx_tilegemm.backends.launch import kernel_run
from mlx_tilegemm.core.render import TEMPLATES
from mlx_tilegemm.families import family_of

COUNTS = (
    "device_loaded",
    "device_stored",
    "threadgroup_loaded",
    "threadgroup_stored",
    "multiply_accumulates",
    "threadgroup_barriers",
    "threadgroup_bytes",
    "registers",
)
"""What is counted of each kernel; registers are estimated, the others are met in the emulator."""

LIBRARY = "lib/*"
MUTANTS = re.compile(r"^\| (\S+\.j2) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|$", re.MULTILINE)

HEADER = """# What the templates are, and what their kernels do

Counted in the emulator, not measured on a GPU: sums over all problems of the mutation campaign's
subjects, which together contain every line of every template. *Same results*: so many problems
whose results are the same bits as before. Registers are our estimate, the largest of each plan.
*Noticed*: mutants that a campaign noticed, of those that change a result and were run.
"""

KEPT = """Counted before the templates became plain Metal, at commit 97f579b, and once they had, at
commit 3164db1.
"""

Counted = dict[str, dict[str, int | str]]
"""Counts and the results' hash of every problem of every subject."""

Kept = dict[str, dict[str, Any]]
"""Shares of Jinja, mutants noticed and counts, as they are kept."""


def jinja_share(text: str) -> float:
    """Return the share of a template's lines that hold a Jinja statement or print a value."""
    lines = text.splitlines()
    return sum("{%" in line or "{{" in line for line in lines) / len(lines)


def shares() -> dict[str, float]:
    """Return the share of Jinja of each template; what is under lib is one."""
    kernels = {
        str(path.relative_to(TEMPLATES)): path.read_text()
        for path in sorted(TEMPLATES.rglob("*.j2"))
    }
    library = "".join(text for name, text in kernels.items() if row_of(name) == LIBRARY)
    found = {
        row_of(name): jinja_share(text) for name, text in kernels.items() if row_of(name) != LIBRARY
    }
    return found | {LIBRARY: jinja_share(library)}


def row_of(template: str) -> str:
    """Return the table's row of a template, whatever its folder."""
    return LIBRARY if template.startswith("lib/") else template.rsplit("/", 1)[-1]


def mutants(report: str) -> dict[str, dict[str, int]]:
    """Return how many mutants a campaign's report has noticed, and missed, in each row."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for name, _, *counts in MUTANTS.findall(report):
        noticed, _, missed = map(int, counts)
        found[row_of(name)].update(noticed=noticed, missed=missed)
    if not found:
        raise SystemExit("[templates] Expected a report of the mutation campaign")
    return {name: dict(one) for name, one in found.items()}


def count(subject: Subject, trial: Trial) -> dict[str, int | str]:
    """Run one problem of a subject; return its counts and a hash of its results."""
    family = family_of(trial.problem)
    run = kernel_run(trial.problem, trial.plan, backend_named("emulator"))
    arrays = family.draw(trial.problem, trial.data)
    with emulator.count() as launches:
        outputs = run(arrays, family.trial_factors(trial.problem), None)
    counted: dict[str, int | str] = {
        name: sum(getattr(launch, name) for launch in launches)
        for name in COUNTS
        if name != "registers"
    }
    registers = max(stage.resources.registers for stage in trial.plan.stages)
    return counted | {"registers": registers, "results": _hash(outputs)}


def _hash(outputs: Sequence[mx.array]) -> str:
    raw = b"".join(np.array(out.view(mx.uint8)).tobytes() for out in outputs)
    return hashlib.blake2s(raw, digest_size=8).hexdigest()


def count_all(only: str) -> Counted:
    """Count every problem of every subject whose name contains a word."""
    counts: Counted = {}
    seen: Counter[str] = Counter()
    for subject in subjects():
        for trial in subject.trials if only in subject.name else ():
            seen[subject.name] += 1
            counts[f"{subject.name} #{seen[subject.name]}"] = count(subject, trial)
    return counts


def table(counts: Counted, before: Counted | None) -> str:
    """Return the counts of each kernel as Markdown, beside those of before where they differ.

    Problems that were not counted before are left out of a comparison.
    """
    head = ["kernel", "problems", "same results", *(name.replace("_", " ") for name in COUNTS)]
    rows = [f"| {' | '.join(head)} |", f"|---|{'--:|' * (len(head) - 1)}"]
    groups: dict[str, list[str]] = defaultdict(list)
    for name in counts if before is None else counts.keys() & before.keys():
        groups[name.split("/")[0]].append(name)
    for kernel, names in sorted(groups.items()):
        cells = [kernel, str(len(names)), _same(counts, before, names)]
        cells += [_cell(counts, before, names, what) for what in COUNTS]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _same(counts: Counted, before: Counted | None, names: Sequence[str]) -> str:
    if before is None:
        return "-"
    return str(sum(counts[name]["results"] == before[name]["results"] for name in names))


def _cell(counts: Counted, before: Counted | None, names: Sequence[str], what: str) -> str:
    total = sum(int(counts[name][what]) for name in names)
    earlier = total if before is None else sum(int(before[name][what]) for name in names)
    return f"{total:,}" if total == earlier else f"{earlier:,} → {total:,}"


def share_table(now: Kept, before: Kept | None) -> str:
    """Return the share of Jinja of each template, and its mutants noticed, as Markdown."""
    rows = [
        "| template | Jinja before | now | mutants noticed before | now |",
        "|---|--:|--:|--:|--:|",
    ]
    for name, share in now["shares"].items():
        earlier = f"{before['shares'][name]:.0%}" if before and name in before["shares"] else "-"
        cells = [name, earlier, f"{share:.0%}", _noticed(before, name), _noticed(now, name)]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _noticed(kept: Kept | None, name: str) -> str:
    one = (kept or {}).get("mutants", {}).get(name)
    return f"{one['noticed']} of {one['noticed'] + one['missed']}" if one else "-"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=Path, metavar="FILE", help="count, and write the counts")
    parser.add_argument("--against", type=Path, metavar="FILE", help="counts to compare with")
    parser.add_argument("--kept", type=Path, metavar="FILE", help="counts made earlier, to show")
    parser.add_argument("--only", default="", help="only subjects whose names contain this")
    parser.add_argument("--mutants", type=Path, metavar="FILE", help="report of their campaign")
    options = parser.parse_args(arguments)
    before = json.loads(options.against.read_text()) if options.against else None
    now: Kept = {"shares": shares()}
    if options.mutants:
        now["mutants"] = mutants(options.mutants.read_text())
    print(HEADER)
    print(share_table(now, before))
    if options.kept:
        now["counts"] = json.loads(options.kept.read_text())["counts"]
        print(f"\n{KEPT}")
    elif options.count:
        now["counts"] = count_all(options.only)
        options.count.write_text(_written(now))
        print()
    if "counts" in now:
        print(table(now["counts"], before and before["counts"]))


def _written(kept: Kept) -> str:
    """Return JSON with a line for each template and each problem."""
    parts = [
        f"{json.dumps(part)}: {{\n"
        + ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in one.items())
        + "\n}"
        for part, one in kept.items()
    ]
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    main()

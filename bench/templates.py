"""Say how much of each template is Jinja, and count what its kernels do in the emulator.

    python bench/templates.py                       # print each template's share of Jinja
    python bench/templates.py --count counts.json   # and count, and write the counts
    python bench/templates.py --count counts.json --against before.json   # and compare

A line has Jinja if it holds a statement or prints a value; comments for authors are neither. The
subjects of the mutation campaign are counted, which together contain every line of every template.
Results are compared bit for bit. Counts of another commit come from this script run there:

    PYTHONPATH=<checkout of the other commit> python bench/templates.py --count before.json
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

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

HEADER = """# What the templates are, and what their kernels do

Counted in the emulator, not measured on a GPU: sums over all problems of the mutation campaign's
subjects, which together contain every line of every template. *Same results*: so many problems
whose results are the same bits as before. Registers are our estimate, the largest of each plan.
"""

Counted = dict[str, dict[str, int | str]]
"""Counts and the results' hash of every problem of every subject."""


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
    library = "".join(text for name, text in kernels.items() if name.startswith("lib/"))
    found = {
        name: jinja_share(text) for name, text in kernels.items() if not name.startswith("lib/")
    }
    return found | {"lib/*": jinja_share(library)}


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


def share_table(found: Mapping[str, float], before: Mapping[str, float] | None) -> str:
    """Return the share of Jinja of each template as Markdown."""
    rows = ["| template | before | now |", "|---|--:|--:|"]
    for name, share in found.items():
        earlier = f"{before[name]:.0%}" if before and name in before else "-"
        rows.append(f"| {name} | {earlier} | {share:.0%} |")
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=Path, metavar="FILE", help="count, and write the counts")
    parser.add_argument("--against", type=Path, metavar="FILE", help="counts to compare with")
    parser.add_argument("--only", default="", help="only subjects whose names contain this")
    options = parser.parse_args(arguments)
    before = json.loads(options.against.read_text()) if options.against else None
    found = shares()
    print(HEADER)
    print(share_table(found, before and before["shares"]))
    if options.count:
        counts = count_all(options.only)
        options.count.write_text(_written({"shares": found, "counts": counts}))
        print()
        print(table(counts, before and before["counts"]))


def _written(kept: Mapping[str, Mapping[str, object]]) -> str:
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

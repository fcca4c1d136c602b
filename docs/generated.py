"""Text that is made of the package's own tables: its command line and what it supports."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout, suppress
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from mlx_tilegemm.cli import main
from mlx_tilegemm.core.dtypes import DTYPES
from mlx_tilegemm.families import all_kernels
from mlx_tilegemm.machine.chips import CHIPS, Chip

if TYPE_CHECKING:
    from sphinx.application import Sphinx

    from mlx_tilegemm.core.kernel import Kernel
    from mlx_tilegemm.core.problem import Problem

ROOT = Path(__file__).parent.parent
COLUMNS = "76"
"""Width of help, which has to fit a column of text."""


def help_of(*arguments: str) -> str:
    """Return what a command prints for ``-h``."""
    printed = io.StringIO()
    with (
        mock.patch.dict(os.environ, COLUMNS=COLUMNS),
        redirect_stdout(printed),
        suppress(SystemExit),
    ):
        main([*arguments, "-h"])
    return printed.getvalue()


def commands() -> Iterator[str]:
    """Yield the names of the commands, as the help lists them."""
    yield from re.findall(r"^    ([a-z][a-z-]*)(?:  |$)", help_of(), re.MULTILINE)


def command_line() -> str:
    """Return a section for each command with its help."""
    called = [[], *([name] for name in commands())]
    return "\n".join(
        f"## {' '.join(['mlx-tilegemm', *words])}\n\n```text\n{help_of(*words)}```\n"
        for words in called
    )


def kernel_table() -> str:
    """Return each kernel with its dtypes, the generations of chips, and its checks."""
    generations = {generation: list(chips) for generation, chips in _generations()}
    head = ["kernel", "dtypes of the operands", *generations, "texts that passed here"]
    passed = _passed()
    rows = [
        [
            f"`{kernel.name}`",
            _dtypes(kernel),
            *("yes" if _serves(kernel, chips) else "no" for chips in generations.values()),
            passed[kernel.name],
        ]
        for kernel in all_kernels()
    ]
    return _table(head, rows)


def _generations() -> Iterator[tuple[str, Iterable[Chip]]]:
    """Yield the chips of each generation, named by the first letters and digits of their names."""
    yield from groupby(CHIPS, key=lambda chip: chip.name.split("-")[0].upper())


def _dtypes(kernel: Kernel[Any, Any]) -> str:
    """Return the dtypes of the first two operands of the kernel's variants, in words."""
    pairs = {
        tuple(one.dtype.name for one in problem.operands[:2])
        for problem in kernel.variant_problems()
    }
    partners: defaultdict[str, set[str]] = defaultdict(set)
    for first, second in sorted(pairs):
        partners[first].add(second)
    groups: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for first, seconds in partners.items():
        groups[tuple(sorted(seconds))].append(first)
    texts = []
    for seconds, firsts in groups.items():
        same = sorted(firsts) == list(seconds)
        texts.append(
            f"any two of {', '.join(seconds)}"
            if same
            else f"{', '.join(firsts)} with {', '.join(seconds)}"
        )
    return "; ".join(texts)


def _serves(kernel: Kernel[Any, Any], chips: list[Chip]) -> bool:
    """Whether the chips may run the kernel: some configuration of some variant, on each."""
    problems: list[Problem] = list(kernel.variant_problems())
    return all(
        any(
            kernel.reject(problem, config, chip) is None
            for problem in problems
            for config in kernel.candidates(problem, chip)
        )
        for chip in chips
    )


def _passed() -> dict[str, str]:
    """Return of each kernel how many of its texts passed in the kept report."""
    variants = _variants()
    every = Counter(one["kernel"] for one in variants)
    passed = Counter(one["kernel"] for one in variants if one["status"] == "passed")
    return defaultdict(
        lambda: "none yet", {name: f"{passed[name]} of {every[name]}" for name in every}
    )


def pair_table() -> str:
    """Return for each pair of dtypes how many texts of each kernel passed in the kept report."""
    names = [kernel.name for kernel in all_kernels()]
    counts: Counter[tuple[str, str]] = Counter()
    for one in _variants():
        if one["status"] == "passed":
            pair = ", ".join(re.findall(_DTYPE, one["variant"])[:2])
            counts[pair, one["kernel"]] += 1
    pairs = sorted({pair for pair, _ in counts}, key=lambda pair: ("int" in pair, pair))
    rows = [[pair, *(str(counts[pair, name] or "-") for name in names)] for pair in pairs]
    return _table(["dtypes", *(f"`{name}`" for name in names)], rows)


_DTYPE = re.compile(f"(?<=_)(?:{'|'.join(one.name for one in DTYPES)})(?=_)")


def _variants() -> list[dict[str, Any]]:
    variants: list[dict[str, Any]] = _report()["variants"]
    return variants


def _report() -> dict[str, Any]:
    report: dict[str, Any] = json.loads((ROOT / "reports" / "verify.json").read_text())
    return report


def chip_table() -> str:
    """Return each chip with what its record says, and how many measurements the model met."""
    with (ROOT / "bench" / "published.csv").open() as file:
        published = Counter(row["chip"] for row in csv.DictReader(file))
    rows = [
        [
            f"`{chip.name}`",
            str(chip.cores),
            f"{chip.peak_flops / 1e12:.1f}",
            f"{chip.neural_flops / 1e12:.0f}" if chip.neural_flops else "-",
            f"{chip.dram_bytes_per_second / 1e9:.0f}",
            str(published[chip.name] or "-"),
        ]
        for chip in CHIPS
    ]
    head = ["chip", "GPU cores", "TFLOPS", "on neural accelerators", "GB/s", "measurements"]
    return _table(head, rows)


def report_line() -> str:
    """Return when, where and with what the kept report was made."""
    here = _report()["environment"]
    return (
        f"The kept report: {here['date']} UTC, commit {here['commit']}, {here['backend']} with "
        f"{here['compiler']}, MLX {here['mlx']}, on {here['machine']}."
    )


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


PAGES = {
    "command-line": command_line,
    "kernel-table": kernel_table,
    "pair-table": pair_table,
    "chip-table": chip_table,
    "report-line": report_line,
}


class Generated(SphinxDirective):
    """Directive that stands for the text of one of `PAGES`, read as the document around it is."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the nodes of the text."""
        text = PAGES[self.arguments[0]]()
        found: list[nodes.Node] = self.parse_text_to_nodes(text, allow_section_headings=True)
        return found


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directive."""
    app.add_directive("generated", Generated)
    return {"parallel_read_safe": True}

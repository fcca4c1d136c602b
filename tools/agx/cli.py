"""The command ``python tools/agx``."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from . import calibration, markdown, progress, project, report
from .compiler import Bracket, Compiler, MissingError, find
from .dialect import DialectError, Extent, Program, convert

ROOT = Path(__file__).parents[2]
CACHE = ROOT / "build" / "agx"

_TEXT_HEAD = (
    *("kernel", "threads", "registers", "spills", "occupancy", "instructions", "bytes"),
    "step",
)

T = TypeVar("T")
R = TypeVar("R")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 0, 1 if something got worse or was refused, 2 if it could not run."""
    options = _parser().parse_args(arguments)
    options.command_line = shlex.join(["python", "tools/agx", *(arguments or sys.argv[1:])])
    try:
        compiler = find(None if options.no_cache else options.cache)
    except MissingError as missing:
        print(f"agx: skipped, {missing}", file=sys.stderr)
        return 2
    try:
        status: int = options.run(compiler, options)
    except (DialectError, OSError, ValueError) as error:
        print(f"agx: {error}", file=sys.stderr)
        return 2
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python tools/agx", description=__doc__)
    parser.add_argument("--cache", type=Path, default=CACHE, help="where results are kept")
    parser.add_argument("--no-cache", action="store_true", help="compile everything anew")
    parser.add_argument("--jobs", type=int, default=1, help="texts at a time; default: 1")
    commands = parser.add_subparsers(required=True, metavar="command")
    _add_report(commands.add_parser("report", help="all texts that dispatch can choose"))
    _add_text(commands.add_parser("text", help="the kernels of a Metal text"))
    _add_calibrate(commands.add_parser("calibrate", help="our kernels beside MLX's own"))
    return parser


def _add_report(command: argparse.ArgumentParser) -> None:
    command.set_defaults(run=_report)
    add = command.add_argument
    add("--filter", nargs="*", default=[], help="only texts whose names hold all these words")
    add("--problem", nargs="*", default=[], help="of these problems, spelled as for tune, instead")
    add("--chip", default="m1", help="the chip that texts are chosen for; default: m1")
    add("--against", type=Path, help="an earlier report's JSON")
    add("--json", type=Path, help="write the report here")
    add("--markdown", type=Path, help="write it for reading here; default: print it")
    add("--known", action="store_true", help="only texts that were compiled before")
    add("--reuse", type=Path, help="take texts that are as they were from this report's JSON")
    add("--package", action="store_true", help="keep what models use in the package, for explain")


def _add_text(command: argparse.ArgumentParser) -> None:
    command.set_defaults(run=_text)
    command.add_argument("file", type=Path, help="Metal text, - for standard input")
    command.add_argument("--threads", type=_extent, help="of a threadgroup: 128 or 32x4x1")


def _add_calibrate(command: argparse.ArgumentParser) -> None:
    command.set_defaults(run=_calibrate)
    command.add_argument("--filter", nargs="*", default=[], help="only rows that hold these words")
    command.add_argument("--markdown", type=Path, help="write the table here; default: print it")
    command.add_argument("--json", type=Path, help="write the numbers here")
    command.add_argument(
        "--against", type=Path, help="show what has become of these numbers instead"
    )


def _extent(text: str) -> Extent:
    x, y, z = [*map(int, text.split("x")), 1, 1][:3]
    return x, y, z


def _report(compiler: Compiler, options: argparse.Namespace) -> int:
    if options.package and (options.filter or options.problem):
        raise ValueError("[agx] Expected all texts for --package, got some of them.")
    earlier = report.load(options.against) if options.against else None
    texts = [text for text in _texts(options) if _holds(str(text), options.filter)]
    of = len(texts)
    before = report.by_digest(report.load(options.reuse), compiler) if options.reuse else {}
    if options.known:
        texts = [text for text in texts if _known(compiler, text, before)]
    rows = _mapped(lambda text: _row(compiler, text, before), texts, options.jobs)
    made = report.Report(
        chip=options.chip,
        core_memory=project.core_memory(options.chip),
        compilers=compiler.description,
        rows=tuple(rows),
    )
    difference = report.compare(made.rows, earlier.rows) if earlier else None
    if options.json:
        report.save(made, options.json)
    if options.package:
        project.keep(
            (text, row.bracket)
            for text, row in zip(texts, rows, strict=True)
            if text.usual and row.bracket
        )
    text = markdown.markdown(made, difference, options.command_line, of)
    _write(text, options.markdown)
    worse = difference is not None and any(change.worse for change in difference.changes)
    return int(worse or any(row.bracket is None for row in made.rows))


def _texts(options: argparse.Namespace) -> Iterator[project.Text]:
    if not options.problem:
        yield from project.every_text(options.chip)
    for spelled in options.problem:
        yield from project.texts_of(spelled, options.chip)


def _known(compiler: Compiler, text: project.Text, before: Mapping[str, report.Row]) -> bool:
    return report.digest(text.program) in before or compiler.knows(text.program)


def _row(compiler: Compiler, text: project.Text, before: Mapping[str, report.Row]) -> report.Row:
    digest = report.digest(text.program)
    if row := before.get(digest):
        bracket, reason = row.bracket, row.reason
    else:
        bracket, reason = report.compiled(compiler, text.program)
    return report.Row(
        kernel=text.kernel,
        problem=text.problem,
        config=text.config,
        digest=digest,
        threads=_total(text.program),
        estimate=text.estimate,
        threadgroup_bytes=text.threadgroup_bytes,
        usual=text.usual,
        bracket=bracket,
        reason=reason,
    )


def _total(program: Program) -> int:
    x, y, z = program.threads
    return x * y * z


def _text(compiler: Compiler, options: argparse.Namespace) -> int:
    piped = str(options.file) == "-"
    text = sys.stdin.read() if piped else options.file.read_text(encoding="utf-8")
    lines, refused = [], False
    for program in convert(text, options.threads):
        bracket, reason = report.compiled(compiler, program)
        refused = refused or bracket is None
        numbers = _numbers(bracket) if bracket else (reason,)
        lines.append((program.name, _total(program), *numbers))
    print(markdown.table(_TEXT_HEAD, lines), end="")
    return int(refused)


def _numbers(bracket: Bracket) -> tuple[object, ...]:
    names = ("registers", "spills", "occupancy", "instructions")
    pairs = [markdown.both(bracket, name) for name in names]
    return (*pairs, bracket.low.threadgroup_bytes, markdown.step(bracket.low))


def _calibrate(compiler: Compiler, options: argparse.Namespace) -> int:
    cases = [case for case in calibration.cases() if _holds(str(case), options.filter)]
    if options.json or options.against:
        cases = [case for case in cases if case.kernels]
    rows = _mapped(lambda case: calibration.row(compiler, case), cases, options.jobs)
    if options.json:
        progress.save(rows, options.json)
    about = (compiler.description, options.command_line)
    if options.against:
        text = progress.to_markdown(rows, progress.load(options.against), *about)
    else:
        text = calibration.to_markdown(rows, *about)
    _write(text, options.markdown)
    return int(any(side.bracket is None for row in rows for side in (row.mlx, *row.ours)))


def _holds(name: str, words: Sequence[str]) -> bool:
    return all(word in name for word in words)


def _mapped(function: Callable[[T], R], items: Iterable[T], jobs: int) -> list[R]:
    """Apply a function to all items, and show how far it has come."""
    waiting, begun, done = list(items), time.monotonic(), []
    with ThreadPoolExecutor(jobs) as pool:
        for result in pool.map(function, waiting):
            done.append(result)
            if len(done) % 50 == 0 or len(done) == len(waiting):
                spent = time.monotonic() - begun
                left = spent / len(done) * (len(waiting) - len(done))
                print(
                    f"{len(done)} of {len(waiting)}, {spent:.0f} s, {left:.0f} s left",
                    file=sys.stderr,
                    flush=True,
                )
    return done


def _write(text: str, path: Path | None) -> None:
    if path is None:
        print(text, end="")
    else:
        path.write_text(text, encoding="utf-8")

"""The commands ``tune`` and ``roofline``: which problems, and what to do with them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ..assurance import measurements, tuning
from ..assurance.tuning.measure import Effort
from ..core.family import Spelling
from ..core.problem import Problem
from ..errors import ProblemError
from ..families import families
from ..machine import chips
from .calls import add_chip_argument


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add both commands to a parser's."""
    text = "measure a model's problems on this Mac; dispatch then prefers what was measured"
    tune = commands.add_parser(
        "tune",
        help=text,
        description=f"{text}. Example: mlx-tilegemm tune --matmul 512x4096x4096:f16,bf16:nt. "
        "Finished problems are kept: a run that is interrupted goes on where it stopped.",
    )
    tune.set_defaults(run=_tune)
    _add_problems(tune)
    tune.add_argument("--dry-run", action="store_true", help="list what would be measured")
    tune.add_argument("--again", action="store_true", help="measure what is known, too")
    tune.add_argument("--rounds", type=int, default=Effort().rounds, help="samples of each")
    text = "draw a chip's roofline with problems on it, modelled or measured"
    drawn = commands.add_parser("roofline", help=text, description=text)
    drawn.set_defaults(run=_roofline)
    _add_problems(drawn)
    add_chip_argument(drawn, "default: this one")
    drawn.add_argument("--out", type=Path, default=Path("roofline.svg"), help="an .svg or a .png")


def _add_problems(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    for spelling in _spellings():
        add(
            spelling.option,
            action="append",
            default=[],
            metavar=spelling.form,
            help=spelling.help,
        )
    add("--shapes", action="append", default=[], type=Path, help="a file that tg.record() saved")


def _spellings() -> list[Spelling[Any]]:
    return [family.spelling for family in families() if family.spelling is not None]


def _problems(options: argparse.Namespace) -> tuple[Problem, ...]:
    spelled: list[Problem] = [
        spelling.parse(text)
        for spelling in _spellings()
        for text in getattr(options, spelling.name)
    ]
    recorded = [one for path in options.shapes for one in tuning.load(path).problems]
    return tuple(dict.fromkeys([*spelled, *recorded]))


def _tune(options: argparse.Namespace) -> int:
    problems = _problems(options)
    if not problems:
        known = ", ".join(spelling.option for spelling in _spellings())
        raise ProblemError(f"[tune] Expected {known} or --shapes, got none of them.")
    if options.rounds < 1:
        raise ProblemError(f"[tune] Expected at least one round, got {options.rounds}.")
    if options.dry_run:
        return _list(problems)
    effort = Effort(rounds=options.rounds)
    try:
        outcomes = tuning.tune(problems, again=options.again, effort=effort, progress=_show)
    except KeyboardInterrupt:
        print("interrupted; problems that were finished are kept", file=sys.stderr)
        return 130
    kept = sum(one.kept for one in outcomes)
    print(f"{kept} of {len(outcomes)} problems are in {measurements.default_path()}")
    lost = any(one.status is tuning.Status.MEASURED and not one.kept for one in outcomes)
    return 1 if lost else 0


def _list(problems: tuple[Problem, ...]) -> int:
    chip, note = chips.detect()
    for problem in problems:
        count = f"{len(tuning.legal(problem, chip))} candidates and MLX's own path"
        print(f"{problem}: {count if tuning.is_tuned(problem) else 'not tuned'}")
    if note:
        print(note)
    return 0


def _show(done: int, total: int, outcome: tuning.Outcome) -> None:
    print(f"{done} of {total} {outcome}", file=sys.stderr, flush=True)
    for candidate, reason in outcome.left_out.items():
        print(f"  left out {candidate}: {reason}", file=sys.stderr, flush=True)


def _roofline(options: argparse.Namespace) -> int:
    from .roofline import draw

    if options.out.suffix not in (".svg", ".png"):
        raise ProblemError(f"[roofline] Expected an .svg or a .png, got {options.out}.")
    if not options.out.parent.is_dir():
        raise ProblemError(f"[roofline] Expected a directory that exists, got {options.out}.")
    named = [getattr(options, spelling.name) for spelling in _spellings()]
    if not any([*named, options.shapes]):
        for spelling in _spellings():
            setattr(options, spelling.name, list(spelling.standard))
    problems = [one for one in _problems(options) if tuning.is_tuned(one)]
    if not problems:
        raise ProblemError("[roofline] Expected problems of calls, not of derivatives, got none.")
    chip = chips.detect()[0] if options.chip is None else chips.get(options.chip)
    here = {x: measurements.measured(x, chip) for x in problems} if options.chip is None else {}
    known = {problem: found for problem, found in here.items() if found}
    for point in draw(options.out, problems, chip, known):
        how = "measured" if point.measured else "modelled"
        rate = point.rate / 1e9
        text = f"{rate:.0f}" if rate >= 100 else f"{rate:.2g}"
        print(f"{point.number}  {point.series}: {text} GFLOPS {how}, {point.kernel}")
    print(options.out)
    return 0

"""The commands ``tune`` and ``roofline``: which problems, and what is done with them."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from ..assurance import measurements, tuning
from ..assurance.tuning.measure import Effort
from ..core.problem import Problem
from ..core.progress import Counting, working
from ..errors import ProblemError
from ..machine import chips
from .arguments import spellings
from .command import complain


def _problems(options: argparse.Namespace) -> tuple[Problem, ...]:
    spelled: list[Problem] = [
        spelling.parse(text) for spelling in spellings() for text in getattr(options, spelling.name)
    ]
    recorded = [one for path in options.shapes for one in tuning.load(path).problems]
    return tuple(dict.fromkeys([*spelled, *recorded]))


def run_tune(options: argparse.Namespace) -> int:
    """Measure problems, or list them, and print where their times are."""
    problems = _problems(options)
    if not problems:
        known = ", ".join(spelling.option for spelling in spellings())
        raise ProblemError(f"[tune] Expected {known} or --shapes, got none of them.")
    effort = Effort() if options.rounds is None else Effort(rounds=options.rounds)
    if effort.rounds < 1:
        raise ProblemError(f"[tune] Expected at least one round, got {effort.rounds}.")
    if options.dry_run:
        return _list(problems, as_json=options.json)
    try:
        outcomes = _tuned(problems, effort, again=options.again)
    except KeyboardInterrupt:
        complain("interrupted; problems that were finished are kept")
        return 130
    kept = sum(one.kept for one in outcomes)
    place = measurements.default_path()
    if options.json:
        found = {"file": str(place), "problems": [_plain(one) for one in outcomes]}
        print(json.dumps(found, indent=2))
    else:
        print(f"{kept} of {len(outcomes)} problems are in {place}")
    lost = any(one.status is tuning.Status.MEASURED and not one.kept for one in outcomes)
    return 1 if lost else 0


def _tuned(problems: tuple[Problem, ...], effort: Effort, *, again: bool) -> list[tuning.Outcome]:
    with Counting("measuring", "problems") as counting:

        def progress(done: int, total: int, outcome: tuning.Outcome) -> None:
            counting.note(f"{done} of {total} {outcome}")
            for candidate, reason in outcome.left_out.items():
                counting.note(f"  left out {candidate}: {reason}")

        return tuning.tune(problems, again=again, effort=effort, progress=progress)


def _plain(outcome: tuning.Outcome) -> dict[str, object]:
    return {
        "problem": str(outcome.problem),
        "status": outcome.status.value,
        "reason": outcome.reason,
        "kept": outcome.kept,
        "times": [asdict(timing) for timing in outcome.timings],
        "left_out": outcome.left_out,
    }


def _list(problems: tuple[Problem, ...], *, as_json: bool) -> int:
    chip, note = chips.detect()
    counts = {
        str(one): len(tuning.legal(one, chip)) if tuning.is_tuned(one) else None for one in problems
    }
    if as_json:
        rows = [{"problem": name, "candidates": count} for name, count in counts.items()]
        print(json.dumps({"chip": chip.name, "note": note, "problems": rows}, indent=2))
        return 0
    for name, count in counts.items():
        text = "not tuned" if count is None else f"{count} candidates and MLX's own path"
        print(f"{name}: {text}")
    if note:
        print(note)
    return 0


def run_roofline(options: argparse.Namespace) -> int:
    """Draw a roofline, and print its points and where it is."""
    _require_picture(options.out)
    problems = _drawn(options)
    chip = chips.detect()[0] if options.chip is None else chips.get(options.chip)
    here = {x: measurements.measured(x, chip) for x in problems} if options.chip is None else {}
    known = {problem: found for problem, found in here.items() if found}
    with working("drawing"):
        from .roofline import draw

        points = draw(options.out, problems, chip, known)
    if options.json:
        rows = [{**asdict(point), "problem": str(problems[point.number - 1])} for point in points]
        print(json.dumps({"chip": chip.name, "file": str(options.out), "points": rows}, indent=2))
        return 0
    for point in points:
        how = "measured" if point.measured else "modelled"
        rate = point.rate / 1e9
        text = f"{rate:.0f}" if rate >= 100 else f"{rate:.2g}"
        print(f"{point.number}  {point.series}: {text} GFLOPS {how}, {point.kernel}")
    print(options.out)
    return 0


def _require_picture(path: Path) -> None:
    if path.suffix not in (".svg", ".png"):
        raise ProblemError(f"[roofline] Expected an .svg or a .png, got {path}.")
    if not path.parent.is_dir():
        raise ProblemError(f"[roofline] Expected a directory that exists, got {path}.")


def _drawn(options: argparse.Namespace) -> list[Problem]:
    """Return the problems of a picture: those that were named, or each family's standard ones."""
    named = [getattr(options, spelling.name) for spelling in spellings()]
    if not any([*named, options.shapes]):
        for spelling in spellings():
            setattr(options, spelling.name, list(spelling.standard))
    problems = [one for one in _problems(options) if tuning.is_tuned(one)]
    if not problems:
        raise ProblemError("[roofline] Expected problems of calls, not of derivatives, got none.")
    return problems

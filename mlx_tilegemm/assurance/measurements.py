"""Times of candidates on this machine: the per-user file, and what of it holds for a problem.

Before a machine is tuned, times that were shipped for its GPU's architecture stand in.

Times hold for the very problem they were measured for, sizes included, and for those that share its
choice (see `Problem.alike`); on one chip, operating system and version of MLX; and for the very
texts: a kernel whose text has changed since counts as not measured. Dispatch gets them as a value.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import mlx.core as mx

from ..backends import canary_setting
from ..core.plain import to_plain
from ..core.problem import Problem
from ..dispatch import MLX, Candidate, Measurements, Timing, choose
from ..families import problem_types
from ..machine.chips import Chip
from .userfile import UserFile, now, this_machine, user_path

VERSION = 1

ABOUT = (
    "Times of kernels of mlx_tilegemm and of MLX's own ops, in seconds, as `mlx-tilegemm tune` "
    "measured them, by chip, macOS and MLX version. Deleting this file is safe: modelled times "
    "then decide."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextTiming:
    """A time and what it was measured of.

    Attributes:
        timing: The time.
        text: Names of the kernel's texts, which end in their hashes; empty for MLX's own ops.
    """

    timing: Timing
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """Measurements for one problem.

    Attributes:
        when: Time in UTC.
        times: Candidates and their times, the fastest first.
    """

    when: str
    times: tuple[TextTiming, ...]


def tuned(times: Sequence[TextTiming]) -> Tuned:
    """Return an entry of now."""
    return Tuned(when=now(), times=tuple(sorted(times, key=lambda one: one.timing.median)))


def _parse(fields: dict[str, Any]) -> Tuned:
    when, times = fields["when"], fields["times"]
    if not isinstance(when, str) or not isinstance(times, list):
        raise ValueError("a problem without times")
    return Tuned(when=when, times=tuple(_parse_timing(one) for one in times))


def _parse_timing(fields: dict[str, Any]) -> TextTiming:
    values = {name: fields.get(name) for name in ("median", "low", "high")}
    texts = {name: fields.get(name) for name in ("candidate", "text")}
    if not all(isinstance(one, float) and one > 0 for one in values.values()):
        raise ValueError("a time that is none")
    if not all(isinstance(one, str) for one in texts.values()):
        raise ValueError("a time of nothing")
    timing = Timing(candidate=texts["candidate"], **values)  # type: ignore[arg-type]
    return TextTiming(timing=timing, text=texts["text"] or "")


def _dump(value: Tuned) -> dict[str, object]:
    times = [asdict(one.timing) | {"text": one.text} for one in value.times]
    return {"when": value.when, "times": times}


def default_path() -> Path:
    """Return where the file is: beside the canary's record."""
    setting = canary_setting()
    if setting in ("on", "off"):
        return user_path("tuning.json")
    return Path(setting).with_name("tuning.json")


def open_file(path: Path | None = None) -> UserFile[Tuned]:
    """Return the file; None is this user's."""
    return UserFile(
        path or default_path(),
        this_machine(),
        version=VERSION,
        about=ABOUT,
        purpose="tune",
        without="modelled times decide where it would have told",
        parse=_checked_parse,
        dump=_dump,
    )


def _checked_parse(fields: dict[str, Any]) -> Tuned:
    try:
        return _parse(fields)
    except KeyError as error:
        raise ValueError(f"an entry without {error}") from None
    except AttributeError:
        raise ValueError("a time without a name") from None


def key(problem: Problem) -> str:
    """Return the name of a problem's entry: readable, and a hash of all of it."""
    stored = problem.stored()
    plain = json.dumps(to_plain(stored, problem_types()), sort_keys=True)
    return f"{stored} #{hashlib.blake2s(plain.encode(), digest_size=6).hexdigest()}"


SHIPPED = Path(__file__).parent / "shipped"
"""Measurements that come with the library, a file for each architecture of GPUs: `sm_90.json`."""


@lru_cache(maxsize=1)
def _known() -> dict[str, tuple[str, Tuned]]:
    """Return what is known of problems, and of which machine: this one's before another's."""
    file = open_file()
    return _shipped() | {name: (file.machine, one) for name, one in file.read_all().items()}


def _shipped() -> dict[str, tuple[str, Tuned]]:
    """Return the measurements that were shipped for this machine's GPU."""
    path = SHIPPED / f"{mx.device_info().get('architecture', 'unknown')}.json"
    if not path.exists():
        return {}
    kept = json.loads(path.read_text(encoding="utf-8"))
    return {name: (kept["machine"], _parse(one)) for name, one in kept["problems"].items()}


def forget() -> None:
    """Read the file anew when it is next asked."""
    _known.cache_clear()
    _measured.cache_clear()


def measured(problem: Problem, chip: Chip) -> Measurements | None:
    """Return what the candidates for a problem took on this machine, None if nothing is known.

    Args:
        problem: The problem.
        chip: This machine's chip.
    """
    return _measured(problem.alike(), chip) if _known() else None


@lru_cache(maxsize=1024)
def _measured(problem: Problem, chip: Chip) -> Measurements | None:
    machine, found = _known().get(key(problem), ("", None))
    if found is None:
        return None
    timings = current(found, choose(problem, chip).candidates)
    if not timings:
        return None
    where, call_seconds = f"{machine}, {found.when[:10]}", chip.limits.call_seconds
    return Measurements(where=where, timings=timings, call_seconds=call_seconds)


def current(found: Tuned, candidates: Sequence[Candidate]) -> tuple[Timing, ...]:
    """Return the times that were measured of the texts which the candidates have now."""
    # Imported here because jinja2 is a large part of what `import mlx_tilegemm` may cost.
    from ..core.render import text_name

    plans = {str(one): one.plan for one in candidates if one.plan is not None}
    timings = []
    for one in found.times:
        plan = plans.get(one.timing.candidate)
        if one.timing.candidate == MLX or (plan is not None and text_name(plan) == one.text):
            timings.append(one.timing)
    return tuple(timings)

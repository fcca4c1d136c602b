"""A chip's roofline with problems on it: our kernels and MLX's path, modelled or measured.

A problem stands at the operations it takes for each byte it has to move at least, and as high as it
runs. The roof is the lower of what memory and what the ALUs allow, as the chip's record has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, hypot, pi, sin
from pathlib import Path
from typing import Any

from ..core.problem import Problem
from ..dispatch import ANY, Candidate, Measurements, choose
from ..errors import BackendError
from ..machine.chips import Chip

OURS, MLX = "this library", "MLX"
COLOURS = {OURS: "#0060a0", MLX: "#c05000"}
"""Told apart by every kind of colour vision, and by their marks."""

MARKS = {OURS: "o", MLX: "s"}

AXES_INCHES = 5.0
KEY_INCHES = 0.2
"""Height of the picture, and more of it for the line of each problem."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A problem as it runs on a kernel.

    Attributes:
        number: Number of the problem, from 1.
        series: Whose kernel it is.
        kernel: Which.
        intensity: Operations for each byte that has to be moved.
        rate: Operations a second.
        measured: Whether the time was measured; else it is modelled.
    """

    number: int
    series: str
    kernel: str
    intensity: float
    rate: float
    measured: bool


def roof(chip: Chip, intensity: float, *, neural: bool = False) -> float:
    """Return the operations a second that a chip allows a problem of this intensity.

    Args:
        chip: The chip.
        intensity: Operations for each byte that has to be moved.
        neural: By its neural accelerators, which MLX uses and this library does not.
    """
    return min(_peak(chip, neural), chip.dram_bytes_per_second * intensity)


def points(
    problems: Sequence[Problem], chip: Chip, known: dict[Problem, Measurements]
) -> tuple[Point, ...]:
    """Return each problem on our best kernel and on MLX's path.

    Args:
        problems: The problems.
        chip: The chip.
        known: What was measured on it; the rest is modelled.
    """
    found = []
    for number, problem in enumerate(problems, 1):
        decision = choose(problem, chip, ANY, measurements=known.get(problem))
        ours = [one for one in decision.candidates if str(one) == str(decision.plan)]
        mlx = [decision.mlx] if decision.mlx else []
        found += [_point(number, OURS, problem, one) for one in ours]
        found += [_point(number, MLX, problem, one) for one in mlx]
    return tuple(found)


def _point(number: int, series: str, problem: Problem, candidate: Candidate) -> Point:
    assert candidate.seconds is not None
    return Point(
        number=number,
        series=series,
        kernel=str(candidate),
        intensity=problem.flops() / problem.least_bytes(),
        rate=problem.flops() / candidate.seconds,
        measured=candidate.measured,
    )


def title(chip: Chip, found: Sequence[Point], where: str) -> str:
    """Say what the picture shows, and how its points were found."""
    kinds = {point.measured for point in found}
    if kinds == {True}:
        return f"{chip.name}: measured on {where}"
    if kinds == {False}:
        return f"{chip.name}: modelled, not measured"
    return f"{chip.name}: filled marks measured on {where}, open ones modelled"


def draw(
    path: Path,
    problems: Sequence[Problem],
    chip: Chip,
    known: dict[Problem, Measurements],
) -> tuple[Point, ...]:
    """Draw the roofline into a file, PNG or SVG by its name, and return its points.

    Args:
        path: Where to.
        problems: The problems.
        chip: The chip.
        known: What was measured on it.

    Raises:
        BackendError: matplotlib is not installed, or the file cannot be written.
    """
    _, settings = _matplotlib()
    # The same points give the same file, and its words stay words.
    with settings({"svg.hashsalt": "mlx_tilegemm", "svg.fonttype": "none"}):
        drawn, found = figure(problems, chip, known)
        metadata = {"Date": None} if path.suffix == ".svg" else None
        try:
            drawn.savefig(path, metadata=metadata, dpi=150)
        except OSError as error:
            raise BackendError(f"[roofline] Expected to write {path}, got {error}.") from None
    return found


def figure(
    problems: Sequence[Problem], chip: Chip, known: dict[Problem, Measurements]
) -> tuple[Any, tuple[Point, ...]]:
    """Return the roofline as a figure of matplotlib, and its points.

    Args:
        problems: The problems.
        chip: The chip.
        known: What was measured on it.

    Raises:
        BackendError: matplotlib is not installed.
    """
    figure_type, _ = _matplotlib()
    found = points(problems, chip, known)
    where = next((one.where for one in known.values()), "")
    height = AXES_INCHES + KEY_INCHES * len(problems)
    drawn = figure_type(figsize=(10, height), layout="constrained")
    axes = drawn.subplots()
    _draw_roof(axes, chip, found)
    _draw_points(axes, found)
    axes.set_title(title(chip, found, where))
    _draw_key(drawn, problems)
    drawn.draw_without_rendering()  # from here on the points' places in the picture are known
    _draw_numbers(axes, found)
    return drawn, found


def _matplotlib() -> tuple[Any, Any]:
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        raise BackendError(
            "[roofline] Expected matplotlib, got none; install it with "
            "`pip install matplotlib`, which the extra `plots` brings too."
        ) from None
    return Figure, rc_context


def _draw_roof(axes: Any, chip: Chip, found: Sequence[Point]) -> None:  # noqa: ANN401
    kinds = [False, True] if chip.neural_flops else [False]
    corners = [_peak(chip, neural) / chip.dram_bytes_per_second for neural in kinds]
    low = min([point.intensity for point in found] + corners) / 4
    high = max([point.intensity for point in found] + corners) * 4
    # The higher roof first: the other one hides it where they are one.
    for neural, ridge in reversed(list(zip(kinds, corners, strict=True))):
        xs, peak = [low, ridge, high], _peak(chip, neural) / 1e9
        rates = [roof(chip, x, neural=neural) / 1e9 for x in xs]
        axes.plot(xs, rates, "--" if neural else "-", color="black", linewidth=1.5)
        kind = "float16 on neural accelerators" if neural else "float32"
        text = f"{peak:.0f} GFLOPS in {kind}"
        aside = 40 if chip.neural_flops and not neural else 8  # of the line to the higher roof
        axes.annotate(text, (ridge, peak), (aside, 6), **_OFFSET)
    bandwidth = chip.dram_bytes_per_second / 1e9
    axes.annotate(f"{bandwidth:.0f} GB/s", (low, roof(chip, low) / 1e9), (24, 2), **_OFFSET)
    axes.set(xscale="log", yscale="log", xlim=(low, high))
    axes.set(xlabel="operations for each byte that has to be moved", ylabel="GFLOPS")
    axes.grid(visible=True, which="major", linewidth=0.3)


def _peak(chip: Chip, neural: bool) -> float:
    return chip.neural_flops if neural else chip.peak_flops


_OFFSET = {"textcoords": "offset points", "fontsize": 9}


def _draw_points(axes: Any, found: Sequence[Point]) -> None:  # noqa: ANN401 - untyped matplotlib
    for series, colour in COLOURS.items():
        for measured in (True, False):
            own = [p for p in found if p.series == series and p.measured is measured]
            if own:
                axes.plot(
                    [point.intensity for point in own],
                    [point.rate / 1e9 for point in own],
                    MARKS[series],
                    color=colour,
                    fillstyle="full" if measured else "none",
                    label=f"{series}, {'measured' if measured else 'modelled'}",
                )
    axes.legend(loc="lower right")


_AROUND = [(radius, turn) for radius in (12, 20, 28, 38, 50) for turn in range(16)]
"""Places for a number: how far from its point, and how many sixteenths of a turn."""


def _draw_numbers(axes: Any, found: Sequence[Point]) -> None:  # noqa: ANN401
    """Write each point's number where neither a mark nor another number is."""
    scale = axes.figure.dpi / 72
    marks = [axes.transData.transform((point.intensity, point.rate / 1e9)) for point in found]
    taken = [(x / scale, y / scale) for x, y in marks]
    for point, (x, y) in zip(found, list(taken), strict=True):
        offset = max(_offsets(point), key=lambda by: min(_room(x + by[0], y + by[1], taken), 11.0))
        taken.append((x + offset[0], y + offset[1]))
        axes.annotate(
            str(point.number),
            (point.intensity, point.rate / 1e9),
            offset,
            color=COLOURS[point.series],
            ha="center",
            va="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
            arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": "grey", "shrinkB": 3},
            **_OFFSET,
        )


def _offsets(point: Point) -> list[tuple[float, float]]:
    """Return places around a point, near ones first: above for ours, below for MLX's."""
    side = -1 if point.series == MLX else 1
    turns = [(radius, side * pi * (1 / 2 + turn / 8)) for radius, turn in _AROUND]
    return [(radius * cos(angle), radius * sin(angle)) for radius, angle in turns]


def _room(x: float, y: float, taken: Sequence[tuple[float, float]]) -> float:
    """Return the distance to the nearest mark or number, in points of print."""
    return min(hypot(x - other[0], y - other[1]) for other in taken)


def _draw_key(figure: Any, problems: Sequence[Problem]) -> None:  # noqa: ANN401
    lines = [f"{number}  {problem}" for number, problem in enumerate(problems, 1)]
    figure.supxlabel("\n".join(lines), fontsize=8, x=0.01, ha="left")

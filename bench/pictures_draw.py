"""How the pictures of bench/pictures.py are drawn, by matplotlib."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from mlx_tilegemm.cli import roofline as chip_roofline
from mlx_tilegemm.machine import chips

Data = dict[str, Any]
Axes = Any

BLUE, ORANGE, GREEN, GREY = "#0060a0", "#c05000", "#3f7d20", "#777777"
COLOURS = (BLUE, ORANGE, GREEN, "#8a3ba8", "#b8901f", "#222222", "#c2185b")
"""Told apart by every kind of colour vision in this order, and by their marks."""

MARKS = "os^DvPX"
STYLE = {
    "svg.hashsalt": "mlx_tilegemm",
    "svg.fonttype": "none",  # words stay words
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def save(path: Path, name: str, data: Data) -> None:
    """Draw a picture and keep its data in its description."""
    with rc_context(STYLE):
        figure = _rooflines(data) if name.startswith("roofline") else DRAWN[name](data)
        metadata = {"Date": None, "Title": name, "Description": json.dumps(data)}
        figure.savefig(path, metadata=metadata)


def _rooflines(data: Data) -> Figure:
    from pictures import standard

    figure: Figure = chip_roofline.figure(standard(), chips.get(data["chip"]), {})[0]
    return figure


def _plot(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a figure whose coordinates are tenths of an inch, without axes."""
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width * 10), ylim=(height * 10, 0))
    axes.axis("off")
    return figure, axes


def flow(data: Data) -> Figure:
    """Draw the steps of a call, with what each makes of it."""
    figure, axes = _canvas(10, 1.7)
    width = 100 / len(data["steps"])
    for number, (title, made) in enumerate(data["steps"].items()):
        x = number * width + 0.6
        box = FancyBboxPatch((x + 0.6, 3), width - 3, 5, boxstyle="round,pad=0.5", fc="#e8f0f7")
        axes.add_patch(box)
        middle = x + (width - 1.8) / 2
        axes.text(middle, 5.6, title, ha="center", va="center", weight="bold", fontsize=10.5)
        shown = made.replace("(", "(\n").replace(", tr", ",\ntr")
        axes.text(middle, 10.2, shown, ha="center", va="top", fontsize=8.2, color="#333333")
        if number:
            tip = {"arrowstyle": "->", "color": GREY}
            axes.annotate("", (x - 0.1, 5.5), (x - 1.7, 5.5), arrowprops=tip)
    return figure


def tile(data: Data) -> Figure:
    """Draw a threadgroup's block, the strips it reads, and where they are staged."""
    block_m, block_n, block_k = data["block"]
    down, across = data["simdgroups"]
    figure, axes = _canvas(10, 5.4)
    a_type, b_type = data["operands"]
    result, strip_a, strip_b = (27, 24, 24, 24), (5, 24, 17, 24), (27, 4, 24, 17)
    labels = ((f"a, {a_type}", strip_a), (f"b, {b_type}", strip_b), ("result", result))
    for label, (x, y, w, h) in labels:
        axes.add_patch(Rectangle((x, y), w, h, fill=False, edgecolor="black"))
        axes.text(x + 0.7, y + 2, label, ha="left", fontsize=9)
    bx, by = 35, 32
    axes.add_patch(Rectangle((bx, by), 8, 8, fc="#cfe0ee", ec=BLUE, lw=2))
    axes.add_patch(Rectangle((5, by), 17, 8, fc="#f1f1f1", ec=GREY))
    axes.add_patch(Rectangle((bx, 4), 8, 17, fc="#f1f1f1", ec=GREY))
    axes.add_patch(Rectangle((11, by), 2, 8, fc="#f7d9c4", ec=ORANGE, lw=2))
    axes.add_patch(Rectangle((bx, 10), 8, 2, fc="#dcebd2", ec=GREEN, lw=2))
    axes.text(12, by - 1, f"step of {block_k}", ha="center", fontsize=8, color=ORANGE)
    axes.text(bx - 0.6, 11.6, f"step of {block_k}", ha="right", fontsize=8, color=GREEN)
    axes.text(bx + 4, by - 1, f"{block_m} x {block_n}", ha="center", fontsize=8, color=BLUE)
    _threadgroup(axes, data)
    side, left, top = 15.0, 79.0, 22.0
    axes.text(left + side / 2, top - 3.6, f"{down * across} simdgroups", ha="center", weight="bold")
    fragments = (block_m // down // 8, block_n // across // 8)
    note = f"{fragments[0]} x {fragments[1]} fragments of 8 x 8 each"
    axes.text(left + side / 2, top - 1.2, note, ha="center", fontsize=8)
    for row in range(block_m // 8 + 1):
        strong = row % fragments[0] == 0
        at = top + row * side * 8 / block_m
        axes.plot([left, left + side], [at, at], color=BLUE, lw=2 if strong else 0.5)
    for column in range(block_n // 8 + 1):
        strong = column % fragments[1] == 0
        at = left + column * side * 8 / block_n
        axes.plot([at, at], [top, top + side], color=BLUE, lw=2 if strong else 0.5)
    axes.text(left + side / 2, top + side + 2, "float32 in registers", ha="center", fontsize=8)
    return figure


def _threadgroup(axes: Axes, data: Data) -> None:
    """Draw threadgroup memory between the strips and the simdgroups."""
    a_type, b_type = data["operands"]
    axes.add_patch(Rectangle((56, 20), 17, 21, fc="white", ec=GREY, ls="--"))
    axes.text(74.5, 16.4, "threadgroup memory", ha="right", weight="bold")
    axes.text(74.5, 18.8, f"{data['threadgroup_bytes']} bytes", ha="right", fontsize=8)
    axes.add_patch(Rectangle((59, 26), 2.5, 10, fc="#f7d9c4", ec=ORANGE, lw=2))
    axes.text(60.2, 38.4, f"a's tile,\nstill {a_type}", ha="center", va="center", fontsize=7.5)
    axes.add_patch(Rectangle((63.4, 29), 8, 2.5, fc="#dcebd2", ec=GREEN, lw=2))
    axes.text(67.4, 34, f"b's tile,\nstill {b_type}", ha="center", va="center", fontsize=7.5)
    tip = {"arrowstyle": "->", "color": GREY, "connectionstyle": "arc3,rad=-0.25"}
    axes.annotate("", (67, 28.4), (43.4, 11), arrowprops=tip)
    bend = {**tip, "connectionstyle": "arc3,rad=0.3"}
    axes.annotate("", (60.2, 41.4), (13, 40.4), arrowprops=bend)
    straight = {"arrowstyle": "->", "color": GREY}
    axes.annotate("", (78.6, 30), (73.4, 30), arrowprops=straight)
    axes.text(76, 28.8, "converted", ha="center", fontsize=7.5)
    axes.text(97, 6, data["kernel"], ha="right", fontsize=10, family="monospace")


def against_mlx(data: Data) -> Figure:
    """Draw bars of MLX's time over ours."""
    figure, axes = _plot(9, 6)
    problems, names = data["mlx_over_ours"], data["chips"]
    height = 0.8 / len(names)
    for number, name in enumerate(names):
        places = [row + (number - (len(names) - 1) / 2) * height for row in range(len(problems))]
        values = [ratios[number] for ratios in problems.values()]
        bars = axes.barh(places, values, height * 0.9, color=COLOURS[number], label=name)
        axes.bar_label(bars, [f"{value:.2f}" for value in values], padding=2, fontsize=7)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks(range(len(problems)), list(problems))
    axes.invert_yaxis()
    axes.set_xlabel("MLX's time over ours; below 1 the call is left to MLX (a tenth is a tie)")
    axes.set_title("This library's kernels and MLX's own ops: modelled, not measured")
    axes.legend(loc="lower right", title="chip")
    return figure


def _curves(axes: Axes, xs: list[float], series: dict[str, list[float]]) -> None:
    """Draw pairs of series, ours in a full line and MLX's in a broken one."""
    for number, (title, values) in enumerate(series.items()):
        style = "-" if number % 2 == 0 else "--"
        axes.plot(
            xs, values, style, marker=MARKS[number], color=COLOURS[number // 2], label=title, ms=5
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks(xs, [f"{x:g}" for x in xs])
    axes.minorticks_off()
    axes.grid(visible=True, linewidth=0.3)
    axes.legend()


def over_n(data: Data) -> Figure:
    """Draw the rate of square products over their size."""
    figure, axes = _plot(9, 5)
    _curves(axes, data["n"], data["tflops"])
    axes.set(xlabel="n, of an n x n x n product", ylabel="TFLOPS", ylim=(0, None))
    axes.set_title("float16 by float32, transposed weight: modelled, not measured")
    return figure


def over_context(data: Data) -> Figure:
    """Draw the time of attention over the length of the context."""
    figure, axes = _plot(9, 5)
    _curves(axes, data["context"], data["microseconds"])
    axes.set(xlabel="keys in the context", ylabel="microseconds", yscale="log")
    axes.set_title(
        f"Attention on {data['chip']}, 32 heads on 8 of 128, float16 q, bfloat16 k and v:\n"
        "modelled, not measured"
    )
    return figure


def over_tokens(data: Data) -> Figure:
    """Draw the time of gated delta updates over the tokens of a sequence."""
    figure, axes = _plot(9, 5)
    _curves(axes, data["tokens"], data["microseconds"])
    axes.set(xlabel="tokens", ylabel="microseconds", yscale="log")
    axes.set_title(
        f"Gated delta nets on {data['chip']}, 32 heads of 128, bfloat16: modelled, not measured"
    )
    return figure


def published(data: Data) -> Figure:
    """Draw the model's rates over the published ones."""
    figure, axes = _plot(8, 6.5)
    for number, (name, rows) in enumerate(data["published_modelled_fitted"].items()):
        for fitted in (1, 0):
            own = [row for row in rows if row[2] == fitted]
            axes.plot(
                [row[0] for row in own],
                [row[1] for row in own],
                MARKS[number],
                color=COLOURS[number],
                fillstyle="full" if fitted else "none",
                label=f"{name}, {len(rows)} rows" if fitted else None,
                ms=5,
            )
    low, high = 200, 70000
    axes.plot([low, high], [low, high], color="black", linewidth=1)
    for factor in (0.8, 1.25):
        axes.plot([low, high], [low * factor, high * factor], ":", color=GREY, linewidth=1)
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
    axes.set(xlabel="published GFLOPS, measured by others", ylabel="modelled GFLOPS")
    axes.set_title("The cost model against published measurements")
    axes.legend(title="full marks: half that was fitted\ndotted: 25 % off", fontsize=9)
    return figure


def cuda(data: Data) -> Figure:
    """Draw a mark for each problem that was measured, by kind of work."""
    figure, axes = _plot(9, 4)
    kinds = data["mlx_over_ours"]
    titles = {"kernel": "the kernel alone", "called": "the op as called"}
    for number, (name, title) in enumerate(titles.items()):
        xs: list[float] = []
        ys: list[float] = []
        # One line with gaps: marks of their own take thrice the room in a file.
        for row, one in enumerate(kinds.values()):
            middle = row + (number - 0.5) * 0.36
            for x in one[name]:
                xs += [x, x, math.nan]
                ys += [middle - 0.14, middle + 0.14, math.nan]
        axes.plot(xs, ys, color=COLOURS[number], label=title, linewidth=1.2)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    ticks = (0.1, 0.3, 1, 3, 10, 30, 100, 300)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_yticks(range(len(kinds)), list(kinds))
    axes.invert_yaxis()
    axes.grid(visible=True, axis="x", linewidth=0.3)
    axes.set_xlabel("MLX's time over ours; each mark is a problem")
    axes.set_title(f"Measured on one {data['device']}, with MLX's CUDA build: no Apple GPU")
    axes.legend(loc="lower right")
    return figure


def race(data: Data) -> Figure:
    """Draw what a terminal of 96 columns shows of a finding."""
    lines = ["$ python softmax.py"]
    for line in data["printed"].splitlines():
        indent = line[: len(line) - len(line.lstrip())]
        lines += textwrap.wrap(line, 92, subsequent_indent=indent) or [""]
    figure, axes = _canvas(10, 0.55 + 0.23 * len(lines))
    figure.set_facecolor("#1e1e1e")
    for number, line in enumerate(lines):
        marked = data["source_line"] in line or f"[{data['kind']}]" in line
        colour = "#f0a070" if marked else "#dddddd"
        style = {"family": "monospace", "fontsize": 10, "color": colour}
        # A space that leads a line is dropped by viewers of SVG: it becomes a step to the right.
        step = 1.0 * (len(line) - len(line.lstrip()))
        axes.text(2 + step, 4 + 2.3 * number, line.lstrip(), **style)
    return figure


DRAWN: dict[str, Callable[[Data], Figure]] = {
    "flow": flow,
    "tile": tile,
    "against-mlx": against_mlx,
    "over-n": over_n,
    "over-context": over_context,
    "over-tokens": over_tokens,
    "model": published,
    "race": race,
    "cuda": cuda,
}
"""What draws each picture; rooflines draw themselves."""

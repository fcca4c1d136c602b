"""Arguments of the commands, without what running them takes: help is to be there at once."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..core.family import Spelling

STATUS_HELP = """\
exit status:
  0    every check that was asked for ran and passed
  1    something failed
  2    the call is wrong
  3    nothing failed, but a check that was asked for could not run
  130  interrupted before all variants were checked, and nothing had failed
"""


def add_demo_arguments(command: argparse.ArgumentParser) -> None:
    """Add where to run."""
    command.add_argument(
        "--backend", help="auto, metal, emulator or mlx; default: what runs kernels here"
    )


def add_verify_arguments(command: argparse.ArgumentParser) -> None:
    """Add what to check, and how."""
    add = command.add_argument
    add("--backend", default="", help="metal, cuda or emulator; default: what runs kernels here")
    add("--kernel", default="", help="only this kernel, or kernel/config")
    add("--sample", type=int, default=0, help="check so many variants; default: all")
    add("--repeats", type=int, default=12, help="runs of each variant, with new buffers")
    add("--jobs", type=int, default=0, help="processes; default: one on Metal, else one a CPU")
    add(
        "--no-static",
        dest="static",
        action="store_false",
        help="do not ask for strict compile, lint, signature and vocabulary; the report says so",
    )
    add("--compiler", default="", help="the emulator's C++ compiler; default: the first found")
    add("--report", type=Path, default=Path("reports"), help="directory of the reports")
    add(
        "--resume",
        action="store_true",
        help="keep the passes of the report that is there, if texts, machine and checks are alike",
    )


def add_tune_arguments(command: argparse.ArgumentParser) -> None:
    """Add which problems to measure, and how thoroughly."""
    _add_problems(command)
    add = command.add_argument
    add("--dry-run", action="store_true", help="list what would be measured")
    add("--again", action="store_true", help="measure what is known, too")
    add("--rounds", type=int, help="samples of each")


def add_roofline_arguments(command: argparse.ArgumentParser) -> None:
    """Add which problems to draw, on which chip, and where to."""
    _add_problems(command)
    add_chip_argument(command, "default: this one")
    command.add_argument("--out", type=Path, default=Path("roofline.svg"), help="an .svg or a .png")


def _add_problems(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    for spelling in spellings():
        add(
            spelling.option,
            action="append",
            default=[],
            metavar=spelling.form,
            help=spelling.help,
        )
    add("--shapes", action="append", default=[], type=Path, help="a file that tg.record() saved")


def spellings() -> list[Spelling[Any]]:
    """Return how the problems of each family are spelled that has a spelling."""
    from ..families import families

    return [family.spelling for family in families() if family.spelling is not None]


def add_chip_argument(command: argparse.ArgumentParser, text: str) -> None:
    """Add a chip, in capitals or not, and with spaces or hyphens."""
    from ..machine.chips import CHIPS, spelled

    names = [chip.name for chip in CHIPS]
    command.add_argument("--chip", type=spelled, choices=names, metavar="chip", help=text)

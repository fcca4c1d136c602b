"""The command ``mlx-tilegemm``: which commands there are, and how each of them ends."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

from ..errors import TileGemmError

Options = argparse.Namespace
Run = Callable[[Options], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    0, 1 for a wrong result, 2 for a wrong call or a place that cannot be written to, 3 for a check
    that could not run, 130 after an interrupt, 141 where whoever reads the output has closed it.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        try:
            # Only the command that is named is imported: the others take longer than a look-up.
            named = next((word for word in words if not word.startswith("-")), "")
            options = parser({named}).parse_args(words)
            status: int = options.run(options)
            return status
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read it, such as `head`, has enough; Python would say so again as it ends.
        _discard_output()
        return 141  # as if SIGPIPE had ended it
    except TileGemmError as error:
        complain(str(error))
        return 2
    except OSError as error:
        _discard_output()
        complain(str(error))
        return 2
    except KeyboardInterrupt:
        complain("interrupted")
        return 130


def complain(text: str) -> None:
    """Print a message of the command on standard error, if anybody reads that."""
    if sys.stderr is not None:
        with suppress(OSError):
            print(f"mlx-tilegemm: {text}", file=sys.stderr)


def _discard_output() -> None:
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One of the commands.

    Attributes:
        help: What it does, as a clause.
        set_up: Adds its arguments to a parser, which imports what they are made from, and returns
            what runs it, which imports the rest.
        more: What its own help says after that.
    """

    help: str
    set_up: Callable[[argparse.ArgumentParser], Run]
    more: str = ""


def _demo(command: argparse.ArgumentParser) -> Run:
    from .arguments import add_demo_arguments

    add_demo_arguments(command)

    def run(options: Options) -> int:
        from .demo import run_demo

        return run_demo(options)

    return run


def _explain(command: argparse.ArgumentParser) -> Run:
    from .calls import add_call_arguments

    add_call_arguments(command)

    def run(options: Options) -> int:
        from .explain import run_explain

        return run_explain(options)

    return run


def _render(command: argparse.ArgumentParser) -> Run:
    from .calls import add_call_arguments

    add_call_arguments(command)

    def run(options: Options) -> int:
        from .explain import run_render

        return run_render(options)

    return run


def _verify(command: argparse.ArgumentParser) -> Run:
    from .arguments import STATUS_HELP, add_verify_arguments

    command.epilog, command.formatter_class = STATUS_HELP, argparse.RawDescriptionHelpFormatter
    add_verify_arguments(command)

    def run(options: Options) -> int:
        from .verify import run_verify

        return run_verify(options)

    return run


def _tune(command: argparse.ArgumentParser) -> Run:
    from .arguments import add_tune_arguments

    add_tune_arguments(command)

    def run(options: Options) -> int:
        from .tune import run_tune

        return run_tune(options)

    return run


def _roofline(command: argparse.ArgumentParser) -> Run:
    from .arguments import add_roofline_arguments

    add_roofline_arguments(command)

    def run(options: Options) -> int:
        from .tune import run_roofline

        return run_roofline(options)

    return run


def _cache(command: argparse.ArgumentParser) -> Run:
    from .cache import add_arguments, run_cache

    add_arguments(command)
    return run_cache


_CALL = "matmul 100x300 300x70 --dtypes float16,float32"

COMMANDS = {
    "demo": Command(help="run two calls here and check their results", set_up=_demo),
    "explain": Command(
        help="say which kernel would serve a call, and why",
        set_up=_explain,
        more=f"Example: mlx-tilegemm explain {_CALL}",
    ),
    "render": Command(
        help="print the Metal text of a call, for any chip",
        set_up=_render,
        more=f"Example: mlx-tilegemm render {_CALL}",
    ),
    "verify": Command(help="run every kernel variant here and check it", set_up=_verify),
    "tune": Command(
        help="measure a model's problems on this GPU; dispatch then prefers what was measured",
        set_up=_tune,
        more="Example: mlx-tilegemm tune --matmul 512x4096x4096:f16,bf16:nt. Finished problems "
        "are kept: a run that is interrupted goes on where it stopped.",
    ),
    "roofline": Command(
        help="draw a chip's roofline with problems on it, modelled or measured",
        set_up=_roofline,
    ),
    "cache": Command(
        help="show or clear the builds that the emulator keeps on disk",
        set_up=_cache,
        more="MLX_TILEGEMM_CACHE names another place, MLX_TILEGEMM_CACHE_LIMIT another limit, "
        "such as 500M. Beyond the limit the builds that were used longest ago are removed, but "
        "for those that running processes use.",
    ),
}
"""The commands by their names, in the order of the help."""


class _Version(argparse.Action):
    """Printing of the version, which is read only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from ..core.version import installed_version

        print(f"{parser.prog} {installed_version()}")
        parser.exit()


def parser(names: Collection[str] = COMMANDS.keys()) -> argparse.ArgumentParser:
    """Return the command's parser.

    Args:
        names: The commands whose arguments it has to know; of the others it knows that they exist.
    """
    whole = argparse.ArgumentParser(
        prog="mlx-tilegemm",
        description="Matrix products, attention, low-bit weights, experts and gated delta nets for "
        "MLX, as Metal kernels.",
    )
    whole.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = whole.add_subparsers(required=True, metavar="command")
    for name, one in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=one.help,
            description=f"{one.help[:1].upper()}{one.help[1:]}. {one.more}",
        )
        if name in names:
            command.set_defaults(run=one.set_up(command))
            command.add_argument("--json", action="store_true", help="print it as JSON")
    return whole

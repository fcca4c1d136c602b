"""The command ``mlx-tilegemm``: a demonstration, and explain and render for shapes alone."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ..assurance.verify import (
    Outcome,
    Request,
    Status,
    Verdict,
    backend_here,
    summary,
    verify,
    write,
)
from ..backends import use_backend, use_runner
from ..core.version import installed_version
from ..dispatch import ANY
from ..errors import TileGemmError
from .calls import add_call_arguments, call_explanation
from .demo import demo
from .tune import add_commands

_VERIFY_STATUS = {
    Verdict.PASSED: 0,
    Verdict.FAILED: 1,
    Verdict.UNCHECKED: 3,
    Verdict.INTERRUPTED: 130,
}
_VERIFY_STATUS_HELP = """\
exit status:
  0    every check that was asked for ran and passed
  1    something failed
  2    the call is wrong
  3    nothing failed, but a check that was asked for could not run
  130  interrupted before all variants were checked, and nothing had failed
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    0, 1 for a wrong result, 2 for a wrong call, 3 for a check that could not run, 130 after an
    interrupt, 141 where whoever reads the output has closed it.
    """
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read it, such as `head`, has enough; Python would say so again as it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # as if SIGPIPE had ended it
    except TileGemmError as error:
        print(f"mlx-tilegemm: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mlx-tilegemm: interrupted", file=sys.stderr)
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mlx-tilegemm",
        description="Mixed-dtype GEMM and chained attention as Metal kernels.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {installed_version()}")
    commands = parser.add_subparsers(required=True, metavar="command")
    shown = commands.add_parser("demo", help="run two calls here and check their results")
    shown.set_defaults(run=_demo)
    shown.add_argument(
        "--backend", help="auto, metal, emulator or mlx; default: what runs kernels here"
    )
    for name, run, text in (
        ("explain", _explain, "say which kernel would serve a call, and why"),
        ("render", _render, "print the Metal text of a call, for any chip"),
    ):
        command = commands.add_parser(
            name,
            help=text,
            description=f"{text.capitalize()}. Example: mlx-tilegemm {name} matmul 100x300 300x70 "
            "--dtypes float16,float32",
        )
        command.set_defaults(run=run)
        add_call_arguments(command)
        if run is _explain:
            command.add_argument("--json", action="store_true", help="print it as JSON")
    checked = commands.add_parser(
        "verify",
        help="run every kernel variant here and check it",
        epilog=_VERIFY_STATUS_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    checked.set_defaults(run=_verify)
    _add_verify_arguments(checked)
    add_commands(commands)
    return parser


def _add_verify_arguments(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
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


def _demo(options: argparse.Namespace) -> int:
    with use_backend(options.backend) if options.backend else use_runner():
        lines, passed = demo()
    print("\n".join(lines))
    return 0 if passed else 1


def _explain(options: argparse.Namespace) -> int:
    explanation = call_explanation(options)
    print(json.dumps(explanation.to_dict(), indent=2) if options.json else explanation)
    return 0


def _render(options: argparse.Namespace) -> int:
    options.kernel = options.kernel or ANY  # the text is wanted, however fast MLX's own ops are
    explanation = call_explanation(options)
    text = explanation.text
    if text is None:
        print(f"mlx-tilegemm: no kernel serves this: {explanation.reason}", file=sys.stderr)
        return 1
    print(text)
    return 0


def _verify(options: argparse.Namespace) -> int:
    request = Request(
        backend=backend_here().name,
        kernel=options.kernel,
        sample=options.sample,
        repeats=options.repeats,
        static=options.static,
        compiler=options.compiler,
    )
    earlier = options.report / "verify.json" if options.resume else None
    report = verify(request, jobs=options.jobs, progress=_show_progress, earlier=earlier)
    data, text = write(report, options.report)
    print(f"{summary(report)}; see {text} and {data}")
    return _VERIFY_STATUS[report.verdict]


def _show_progress(done: int, total: int, outcome: Outcome) -> None:
    if outcome.status is not Status.PASSED:
        reason = (*outcome.failures, *outcome.unchecked)[0]
        print(f"{outcome.status.value}: {outcome.variant}: {reason}", file=sys.stderr)
    if sys.stderr.isatty() or done == total or done % 50 == 0:
        end = "\r" if sys.stderr.isatty() and done < total else "\n"
        print(f"{done} of {total} variants", end=end, file=sys.stderr, flush=True)

"""The command ``mlx-tilegemm``: a demonstration, and explain and render for shapes alone."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx

from .arguments import ArraySpec
from .chips import CHIPS
from .cli_tune import add_commands
from .context import use_kernel
from .demo import demo
from .dispatch import ANY
from .errors import ProblemError, TileGemmError
from .explanation import OPS, Explanation, explain
from .problem import Shape
from .verify import Outcome, Request, Status, Verdict, backend_here, summary, verify, write

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
    interrupt.
    """
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
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
    commands = parser.add_subparsers(required=True, metavar="command")
    shown = commands.add_parser("demo", help="run two calls here and check their results")
    shown.set_defaults(run=_demo)
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
        _add_call_arguments(command)
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


def _add_call_arguments(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("op", choices=list(OPS))
    add("shapes", nargs="+", metavar="shape", help="of each array in the op's order: 100x300")
    add("--dtypes", default="float32", help="of each array, or one for all: float16,float32")
    add("--chip", choices=[chip.name for chip in CHIPS], help="default: this machine's")
    add("--kernel", help="force a kernel, or kernel/config")
    for flag in ("--transpose-a", "--transpose-b", "--return-lse"):
        add(flag, action="store_const", const=True)
    add("--no-softmax", dest="softmax", action="store_const", const=False)
    for flag in ("--alpha", "--beta", "--scale"):
        add(flag, type=float)
    add("--out-dtype", metavar="dtype")
    add("--mask", help="causal, or shape:dtype of an array: 1x1x128x128:bool")
    add("--window", type=int, help="keys that a row of a causal mask sees")
    for flag in ("--sinks", "--q-pe", "--k-pe"):
        add(flag, metavar="shape:dtype", help="of an array")


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


_OPTIONS = (
    "transpose_a",
    "transpose_b",
    "alpha",
    "beta",
    "scale",
    "softmax",
    "window",
    "return_lse",
)


def _explanation(options: argparse.Namespace) -> Explanation:
    keywords: dict[str, Any] = {
        name: getattr(options, name) for name in _OPTIONS if getattr(options, name) is not None
    }
    if options.out_dtype:
        keywords["out_dtype"] = _dtype(options.out_dtype)
    if options.mask:
        keywords["mask"] = _array(options.mask) if ":" in options.mask else options.mask
    for name in ("sinks", "q_pe", "k_pe"):
        if getattr(options, name):
            keywords[name] = _array(getattr(options, name))
    shapes = [_shape(text) for text in options.shapes]
    dtypes = [_dtype(name) for name in options.dtypes.split(",")]
    if len(dtypes) == 1:
        dtypes *= len(shapes)
    if len(dtypes) != len(shapes):
        raise ProblemError(
            f"[{options.op}] Expected a dtype for each of {len(shapes)} arrays, or one for all, "
            f"got {len(dtypes)}."
        )
    operands = [
        ArraySpec(shape=shape, dtype=dtype) for shape, dtype in zip(shapes, dtypes, strict=True)
    ]
    with use_kernel(options.kernel):
        return explain(options.op, *operands, chip=options.chip, **keywords)


def _shape(text: str) -> Shape:
    try:
        return tuple(int(size) for size in text.split("x"))
    except ValueError:
        raise ProblemError(f"[shape] Expected sizes like 100x300, got {text!r}.") from None


def _dtype(name: str) -> mx.Dtype:
    dtype = getattr(mx, "bool_" if name == "bool" else name, None)
    if not isinstance(dtype, mx.Dtype):
        raise ProblemError(f"[dtype] Expected the name of an MLX dtype, got {name!r}.")
    return dtype


def _array(text: str) -> ArraySpec:
    shape, _, dtype = text.partition(":")
    return ArraySpec(shape=_shape(shape), dtype=_dtype(dtype))


def _demo(options: argparse.Namespace) -> int:
    lines, passed = demo()
    print("\n".join(lines))
    return 0 if passed else 1


def _explain(options: argparse.Namespace) -> int:
    print(_explanation(options))
    return 0


def _render(options: argparse.Namespace) -> int:
    options.kernel = options.kernel or ANY  # the text is wanted, however fast MLX's own ops are
    explanation = _explanation(options)
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

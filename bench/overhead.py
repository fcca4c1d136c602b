"""Python cost of a call of an op, from its arguments to MLX's kernel call.

    python bench/overhead.py            # prints
    python bench/overhead.py --write    # also writes bench/results/overhead.md

Each op is compared, in interleaved rounds, with the bare calls of the same ready kernels, of which
it may have two: inputs, shapes, dtypes, grid and threadgroup are ready too. The difference is what
the op *adds*. Nothing is evaluated.

* *eager* is a call outside of MLX's transforms. With Metal the kernel is `mx.fast.metal_kernel`'s;
  elsewhere, where MLX refuses to make its graph node, a function with its signature stands in that
  returns ready arrays: what is added does not depend on what the kernel call itself takes.
* *traced* is a call while MLX follows a function, where calls carry their derivatives. It is made
  in an export, in which the node can be made without Metal too.

`mx.matmul` is MLX's own call on operands of one dtype, as a measure of the machine.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import mlx.core as mx

import mlx_tilegemm as tg
from mlx_tilegemm import backends
from mlx_tilegemm.assurance.tuning.measure import spread
from mlx_tilegemm.backends import Backend, Executable
from mlx_tilegemm.backends.metal import MetalBackend
from mlx_tilegemm.core.plan import Source

RESULT = Path(__file__).parent / "results" / "overhead.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A call of an op.

    Attributes:
        title: What it is.
        call: The call of operands.
        operands: The operands.
        limit: Microseconds that it may add to the bare kernel calls, eagerly.
    """

    title: str
    call: Callable[..., Any]
    operands: tuple[mx.array, ...]
    limit: float = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Microseconds a call, of each round."""

    op: list[float]
    bare: list[float]

    @property
    def added(self) -> list[float]:
        """What the op adds, round by round."""
        return [ours - bare for ours, bare in zip(self.op, self.bare, strict=True)]


class Ready(Backend):
    """A backend whose kernels are called directly.

    Args:
        bare: Makes the kernel to call of the source.
    """

    name = "metal"
    capabilities = replace(MetalBackend.capabilities, checks_launches=True, rivals_mlx=False)

    def __init__(self, bare: Callable[[Source], Executable]) -> None:
        self.bare = bare

    def compile(self, source: Source) -> Executable:
        return self.bare(source)


class Recorder(Ready):
    """A backend whose kernels record how they are called."""

    def __init__(self, bare: Callable[[Source], Executable]) -> None:
        super().__init__(bare)
        self.launches: list[tuple[Executable, dict[str, Any]]] = []

    def compile(self, source: Source) -> Executable:
        kernel = super().compile(source)

        def launch(**arguments: object) -> list[mx.array]:
            self.launches.append((kernel, arguments))
            return kernel(**cast(dict[str, Any], arguments))

        return launch


def stand_in(source: Source) -> Executable:
    """Return a kernel that computes nothing."""
    outputs = [mx.zeros(1) for _ in source.output_names]

    def kernel(
        *,
        inputs: Sequence[mx.array],
        output_shapes: Sequence[Sequence[int]],
        output_dtypes: Sequence[mx.Dtype],
        grid: tuple[int, int, int],
        threadgroup: tuple[int, int, int],
        stream: backends.StreamOrDevice = None,
    ) -> list[mx.array]:
        return outputs

    return kernel


def cases() -> tuple[Case, ...]:
    """Return calls of every family's ops."""
    return (*_dense_cases(), *_coded_cases(), *_other_cases())


def _dense_cases() -> tuple[Case, ...]:
    """Return a product, one with an epilogue and an attention."""
    half = mx.zeros((100, 300), dtype=mx.float16)
    weight, bias = mx.zeros((70, 300)), mx.zeros((70,))
    q = mx.zeros((1, 8, 128, 64), dtype=mx.float16)
    k = mx.zeros((1, 2, 128, 64), dtype=mx.bfloat16)
    return (
        Case(
            title="matmul(a, b, transpose_b=True)",
            call=lambda a, b: tg.matmul(a, b, transpose_b=True),
            operands=(half, weight),
        ),
        Case(
            title="addmm(c, a, b, transpose_b=True, alpha=0.5)",
            call=lambda c, a, b: tg.addmm(c, a, b, transpose_b=True, alpha=0.5),
            operands=(bias, half, weight),
        ),
        Case(
            title='attention_chain(q, k, v, mask="causal")',
            call=lambda q, k, v: tg.attention_chain(q, k, v, mask="causal"),
            operands=(q, k, k),
        ),
    )


def _coded_cases() -> tuple[Case, ...]:
    """Return products with a quantized weight and with one of 8-bit codes."""
    x, codes = mx.zeros((4, 512), dtype=mx.float16), mx.zeros((256, 512), dtype=mx.uint8)
    weight = mx.quantize(mx.zeros((256, 512), dtype=mx.bfloat16))
    return (
        Case(
            title="quantized_matmul(x, w, scales, biases)",
            call=lambda x, *weight: tg.quantized_matmul(x, *weight),
            operands=(x, *weight),
        ),
        Case(
            title="fp8_scaled_matmul(a, b, b_scales=s, block=(128, 128), transpose_b=True)",
            call=lambda a, b, s: tg.fp8_scaled_matmul(
                a, b, b_scales=s, block=(128, 128), transpose_b=True
            ),
            operands=(x, codes, mx.ones((2, 4))),
        ),
    )


def _other_cases() -> tuple[Case, ...]:
    """Return products with experts that rows choose, and a token of a gated delta net."""
    x, chosen = mx.zeros((4, 1, 1, 512), dtype=mx.float16), mx.zeros((4, 2), dtype=mx.uint32)
    weight = mx.quantize(mx.zeros((16, 256, 512), dtype=mx.bfloat16))
    q, v, gate = mx.zeros((1, 1, 4, 64)), mx.zeros((1, 1, 8, 64)), mx.zeros((1, 1, 8))
    return (
        Case(
            title="gather_mm(a, b, rhs_indices=chosen, transpose_b=True)",
            call=lambda a, b, chosen: tg.gather_mm(a, b, rhs_indices=chosen, transpose_b=True),
            operands=(x, mx.zeros((16, 256, 512), dtype=mx.bfloat16), chosen),
            limit=5.0,
        ),
        Case(
            title="gather_qmm(x, w, scales, biases, rhs_indices=chosen)",
            call=lambda x, w, scales, biases, chosen: tg.gather_qmm(
                x, w, scales, biases, rhs_indices=chosen
            ),
            operands=(x, *weight, chosen),
            limit=5.0,
        ),
        Case(
            title="gated_delta_update(q, k, v, gamma, beta, state)",
            call=lambda q, v, gate, state: tg.gated_delta_update(q, q, v, gate, gate, state),
            operands=(q, v, gate, mx.zeros((1, 8, 64, 64))),
            limit=5.0,
        ),
    )


def eager(case: Case, rounds: int, calls: int) -> Times:
    """Measure outside of MLX's transforms."""
    return _measured(case, case.operands, _bare(), rounds, calls)[0]


def traced(case: Case, rounds: int, calls: int) -> Times:
    """Measure while MLX follows a function."""
    found: list[Times] = []

    def followed(*operands: mx.array) -> mx.array:
        times, backend = _measured(
            case, operands, backends.backend_named("metal").compile, rounds, calls
        )
        found.append(times)
        # The result of an export has to be a node of the graph.
        with tg.use_gradients(False), tg.use_backend(backend):
            return cast(mx.array, case.call(*operands))

    mx.export_function(lambda _: None, followed, *case.operands)
    return found[0]


def _bare() -> Callable[[Source], Executable]:
    return backends.backend_named("metal").compile if mx.metal.is_available() else stand_in


def _measured(
    case: Case,
    operands: tuple[mx.array, ...],
    bare: Callable[[Source], Executable],
    rounds: int,
    calls: int,
) -> tuple[Times, Backend]:
    recorder = Recorder(bare)
    with tg.use_backend(recorder):
        case.call(*operands)
    launches = [*recorder.launches]
    times, ready = Times(op=[], bare=[]), Ready(bare)
    with tg.use_backend(ready):
        case.call(*operands)
        for _ in range(rounds):
            times.op.append(_timed(lambda: case.call(*operands), calls))
            times.bare.append(_timed(lambda: _launched(launches), calls))
    return times, ready


def _launched(launches: Sequence[tuple[Executable, dict[str, Any]]]) -> None:
    for kernel, arguments in launches:
        kernel(**arguments)


def _timed(function: Callable[[], Any], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - start) / calls * 1e6


def plain_matmul(rounds: int, calls: int) -> list[float]:
    """Measure MLX's own call."""
    a, b = mx.zeros((100, 300)), mx.zeros((300, 70))
    return [_timed(lambda: mx.matmul(a, b), calls) for _ in range(rounds)]


def _spread(samples: list[float]) -> str:
    found = spread(samples)
    return f"{found.median:.2f} ({found.low:.2f} to {found.high:.2f})"


def table(rounds: int, calls: int) -> list[str]:
    """Measure everything; return the lines of a Markdown table."""
    lines = [
        "| call | mode | the op | the bare kernel calls | added | limit |",
        "|---|---|---|---|---|---|",
    ]
    for case in cases():
        for mode in (eager, traced):
            times = mode(case, rounds, calls)
            cells = (times.op, times.bare, times.added)
            text = " | ".join(_spread(one) for one in cells)
            limit = f"{case.limit:.0f}" if mode is eager else ""
            lines.append(f"| `{case.title}` | {mode.__name__} | {text} | {limit} |")
    plain = _spread(plain_matmul(rounds, calls))
    return [*lines, f"| `mx.matmul(a, b)` | eager | {plain} | | | |"]


def document(lines: list[str], options: argparse.Namespace) -> str:
    """Return the page that is kept under bench/results."""
    kernel = "`mx.fast.metal_kernel`'s" if mx.metal.is_available() else "a stand-in, without Metal"
    return f"""# What a call of an op costs in Python

Measured on {platform.system()} {platform.machine()}, Python {platform.python_version()}, mlx
{version("mlx")}; an eager bare kernel is {kernel}. Written by

    python bench/overhead.py --rounds {options.rounds} --calls {options.calls} --write

Microseconds a call: median over rounds, and the quartiles. *limit* is what the op may add to an
eager call. What the modes are is said at the top of the script. These are times of a CPU; they say
nothing about a GPU.

{chr(10).join(lines)}
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print every case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args(arguments)
    if min(options.rounds, options.calls) < 1:
        parser.error("Expected at least one round of at least one call.")
    lines = table(options.rounds, options.calls)
    print("\n".join(lines))
    if options.write:
        RESULT.write_text(document(lines, options), encoding="utf-8")


if __name__ == "__main__":
    main()

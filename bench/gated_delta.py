"""Count what the kernels of gated delta nets do, beside mlx-lm's and MLX's own, in the emulator.

    python bench/gated_delta.py            # print the comparison
    python bench/gated_delta.py --write    # write bench/results/gated-delta.md

Counts, not times: nothing here ran on a GPU. A few threadgroups stand for a launch, and their
counts are scaled to the grid: see `emulator.count`. All sides' results are compared before they are
counted. MLX's own kernels are compiled from the headers of its package.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from unittest import mock

import mlx.core as mx
import numpy as np
from mlx_kernels import KERNELS, Buffers, decode, empty, headers

from mlx_tilegemm import emulator
from mlx_tilegemm.backends.emulator import EmulatorBackend
from mlx_tilegemm.backends.launch import kernel_run
from mlx_tilegemm.core import mlx_ops
from mlx_tilegemm.core.dtypes import FLOAT32
from mlx_tilegemm.core.family import Data
from mlx_tilegemm.core.plan import SIMD_WIDTH
from mlx_tilegemm.dispatch import choose
from mlx_tilegemm.emulator import Counters, Space
from mlx_tilegemm.families import family_of
from mlx_tilegemm.families.gated_delta.fallback import STEPWISE
from mlx_tilegemm.families.gated_delta.price import HEAD_DIM, HEADS
from mlx_tilegemm.families.gated_delta.problem import CHUNK, DeltaProblem
from mlx_tilegemm.families.gated_delta.spelling import parse
from mlx_tilegemm.machine import chips
from mlx_tilegemm.machine.lines import LINE_BYTES

REPORT = Path(__file__).parent / "results" / "gated-delta.md"
SAMPLE = 4
TOLERANCE = 0.02
"""Of the largest y: a rounding to bfloat16 and sums in another order."""

CASES = {
    "decode": "1x1x16x32x128x128:bf16,f32",
    "decode, a decay of each key element": "1x1x32x32x128x128:bf16,f32:vector",
    "eight guesses": "1x8x16x32x128x128:bf16,f32",
    "prompt of 512": "1x512x16x32x128x128:bf16,f32",
    "prompt of 512, a decay of each key element": "1x512x32x32x128x128:bf16,f32:vector",
}

Arrays = Sequence[mx.array]


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """What one side does, scaled to the whole grid.

    Attributes:
        path: Its kernel.
        device_bytes: Bytes that threads ask device memory for.
        line_bytes: 128 bytes for each line that a threadgroup touches.
        threadgroup_bytes: Bytes loaded from and stored to threadgroup memory.
        products: 8x8x8 matrix products.
        steps: Steps of a threadgroup that wait for each other: tokens, or chunks.
        y: The result.
    """

    path: str
    device_bytes: float
    line_bytes: float
    threadgroup_bytes: float
    products: float
    steps: int
    y: np.ndarray


@lru_cache(maxsize=1)
def mlx_lm_kernels() -> ModuleType:
    """Return mlx-lm's module with its kernels for the emulator."""
    spec = importlib.util.find_spec("mlx_lm.models.gated_delta")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with (
        mock.patch.object(mx.metal, "is_available", return_value=True),
        mock.patch.object(mx.fast, "metal_kernel", emulator.metal_kernel),
    ):
        spec.loader.exec_module(module)
    return module


def counted(path: str, steps: int, run: Callable[[], mx.array], *, stages: int = 1) -> Side:
    """Run one side and return what it did; of several stages all threadgroups, which need them."""
    with emulator.count(sample=SAMPLE if stages == 1 else 0) as launches:
        y = run()
        mx.eval(y)
    assert len(launches) == stages
    return Side(
        path=path,
        device_bytes=_scaled(launches, lambda one: _bytes(one, Space.DEVICE)),
        line_bytes=LINE_BYTES * _scaled(launches, _lines),
        threadgroup_bytes=_scaled(launches, lambda one: _bytes(one, Space.THREADGROUP)),
        products=_scaled(launches, lambda one: one.multiply_accumulates),
        steps=steps,
        y=np.array(y.astype(mx.float32)),
    )


def _scaled(launches: Sequence[Counters], number: Callable[[Counters], int]) -> float:
    """Return a number of whole grids, from those threadgroups that ran."""
    return sum(one.grid_threadgroups / one.threadgroups * number(one) for one in launches)


def _bytes(launch: Counters, space: Space) -> int:
    assert launch.accesses is not None
    return launch.accesses.total(space).bytes


def _lines(launch: Counters) -> int:
    assert launch.accesses is not None
    return sum(launch.accesses.threadgroup_lines.values())


def sides(problem: DeltaProblem) -> list[Side]:
    """Return what this library, mlx-lm and MLX do for a problem, with gates that all are given.

    MLX has kernels for some heads alone, and rounds the gates to the dtype of q.
    """
    arrays = family_of(problem).draw(problem, Data())
    plan = choose(problem, chips.get("m4-max"), "any").plan
    assert plan is not None
    run = kernel_run(problem, plan, EmulatorBackend())
    chunks = plan.kernel != "delta_recurrent"
    steps = -(-problem.length // CHUNK) if chunks else problem.length
    stages = len(plan.stages)
    ours = counted(str(plan), steps, lambda: run(arrays, (1.0,), None)[0], stages=stages)
    kernel = mlx_lm_kernels().gated_delta_kernel
    name = "mlx-lm" if problem.vector_gate else "mlx-lm, packed"
    theirs = counted(name, problem.length, lambda: kernel(*arrays)[0])
    _check(ours.y, theirs.y)
    return [ours, theirs, *([mlx_side(problem, arrays)] if has_mlx_kernel(problem) else [])]


def _check(found: np.ndarray, wanted: np.ndarray) -> None:
    both = np.isfinite(found) & np.isfinite(wanted)
    assert both.any()
    assert np.abs(found - wanted)[both].max() <= TOLERANCE * np.abs(wanted[both]).max()


def has_mlx_kernel(problem: DeltaProblem) -> bool:
    """Whether MLX's package has a kernel for the heads of a problem."""
    dims = (problem.key_dim, problem.value_dim) == (HEAD_DIM, HEAD_DIM)
    heads = (problem.key_heads, problem.value_heads) in HEADS
    return dims and heads and not problem.vector_gate


def mlx_side(problem: DeltaProblem, arrays: Arrays) -> Side:
    """Return what MLX's own kernel does, the one that it has where there are no tensor units."""
    p, (*tokens, state) = problem, arrays
    narrow = [x.astype(p.q.mlx) for x in tokens]
    stepwise = p.length <= STEPWISE
    name = "gated_delta_seq" if stepwise else "gated_delta_fused_chunk"
    sizes = (p.key_dim, p.value_dim, p.key_heads, p.value_heads, 1 if stepwise else CHUNK)
    places = zip((0, 1, 2, 4, 5), narrow, strict=True)
    buffers: Buffers = {place: np.array(x.view(mx.uint16)).ravel() for place, x in places}
    buffers |= {3: np.array(state).ravel(), 8: np.int32(p.length)}
    buffers |= {6: empty(p.y, *p.results[0].shape), 7: empty(FLOAT32, *p.state_shape)}
    columns = 1 if stepwise else CHUNK
    grid = (SIMD_WIDTH, p.value_dim // columns, p.matrices)

    def run() -> mx.array:
        arguments = ", ".join(map(str, (p.q.metal, *sizes)))
        found = emulator.run_text(
            f'#include "{KERNELS}/gated_delta_update.h"\n'
            f'instantiate_kernel("{name}", {name}, {arguments})\n',
            kernel=name,
            buffers=buffers,
            grid=grid,
            threadgroup=(SIMD_WIDTH, 4, 1),
            function_constants={200: False},
            include_dirs=[guarded_header(), headers()],
        )
        return mx.array(decode(dict(found.outputs)[6], p.y))

    steps = p.length if stepwise else -(-p.length // CHUNK)
    found = counted(f"MLX, {name.removeprefix('gated_delta_')}", steps, run)
    assert mlx_ops.gated_delta_update is not None
    wanted = mlx_ops.gated_delta_update(*narrow, state)[0]
    _check(found.y, np.array(wanted.astype(mx.float32)))
    return found


@lru_cache(maxsize=1)
def guarded_header() -> Path:
    """Return a folder with MLX's header, and a barrier where its chunks rely on lanes in step."""
    folder = Path(tempfile.mkdtemp(prefix="mlx-gated-delta-"))
    text = (headers() / KERNELS / "gated_delta_update.h").read_text()
    store = "if (thread_index_in_simdgroup < C) {"
    assert text.count(store) == 1
    (folder / KERNELS).mkdir(parents=True)
    guarded = text.replace(store, f"simdgroup_barrier(mem_flags::mem_threadgroup); {store}")
    (folder / KERNELS / "gated_delta_update.h").write_text(guarded)
    return folder


def headline(found: Mapping[str, list[Side]]) -> str:
    """Return what the counts say, in a sentence."""
    shares = {
        name: ours.device_bytes / theirs.device_bytes for name, (ours, theirs, *_) in found.items()
    }
    least, most = min(shares, key=lambda name: shares[name]), max(shares, key=lambda n: shares[n])
    return (
        f"**Our kernels ask for {shares[least]:.0%} ({least}) to {shares[most]:.0%} ({most}) of "
        "the bytes that mlx-lm's ask for.**"
    )


def markdown() -> Iterator[str]:
    """Yield the lines of the report."""
    yield "# Gated delta nets, counted\n"
    found = {name: sides(parse(text)) for name, text in CASES.items()}
    yield headline(found) + "\n"
    yield (
        f"What one launch does in the emulator, and one of mlx-lm {version('mlx-lm')}'s kernel: "
        "bfloat16 q, k and v, float32 gates and state, 32 heads of 128. MLX's kernel, which is for "
        "one decay a head, is given bfloat16 gates. Made by `bench/gated_delta.py`; counts, not "
        "times.\n"
    )
    yield "| case | kernel | dependent steps | MB asked for | MB of lines | MB shared | products |"
    yield "|---|---|---|---|---|---|---|"
    for name, each in found.items():
        for side in each:
            sizes = (side.device_bytes, side.line_bytes, side.threadgroup_bytes)
            cells = " | ".join(f"{size / 1e6:.2f}" for size in sizes)
            yield f"| {name} | {side.path} | {side.steps} | {cells} | {side.products:.0f} |"


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"write {REPORT.name}")
    options = parser.parse_args()
    lines = []
    for line in markdown():
        print(line, flush=True)
        lines.append(line)
    if options.write:
        REPORT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

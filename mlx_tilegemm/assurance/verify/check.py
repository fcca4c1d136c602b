"""Run one variant many times and say whether it is right."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from ...backends import Backend
from ...backends.launch import kernel_run
from ...core.family import Data
from ...core.plan import Stage
from ...core.reference import hold
from ...families import family_of
from ...machine.chips import Chip
from ...machine.limits import threads_per_core
from ..variants import Variant
from .static import check_static

if TYPE_CHECKING:
    from ...core.family import Run


class Status(str, Enum):
    """Verdict on a variant.

    ``FAILED`` if a check failed; else ``UNCHECKED`` if a check could not run; else ``PASSED``.
    """

    PASSED = "passed"
    FAILED = "failed"
    UNCHECKED = "unchecked"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRecord:
    """One kernel of a variant.

    Attributes:
        name: Its name, which ends in a hash of its text.
        threads: Threads of a threadgroup, also the limit that its text declares.
        threadgroup_bytes: Threadgroup memory, in bytes.
        registers: Estimated live 32-bit registers of one thread.
        threads_per_core: Threads a core of its chip holds at a time, by the occupancy table.
    """

    name: str
    threads: int
    threadgroup_bytes: int
    registers: int
    threads_per_core: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Outcome of checking one variant.

    Attributes:
        variant: Name of the variant.
        kernel: Name of the kernel module.
        config: Its configuration.
        status: How it did.
        failures: Every reason why it failed, with the full error text.
        unchecked: Checks that were asked for and could not run, and why.
        stages: Its kernels.
        text_bytes: Size of its longest text.
        launches: Times it was run.
        error_share: Largest error as a share of the bound that float32 accumulation allows.
        compile_seconds: First run less a later one: compiling and loading.
        run_seconds: Median of the later runs; what a launch costs here, not on a GPU.
        found: Date and commit of the earlier run that found this out; empty for this one.
    """

    variant: str
    kernel: str
    config: str
    status: Status
    failures: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()
    stages: tuple[StageRecord, ...] = ()
    text_bytes: int = 0
    launches: int = 0
    error_share: float = 0.0
    compile_seconds: float = 0.0
    run_seconds: float = 0.0
    found: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Runs:
    """Results of running a variant again and again."""

    failures: tuple[str, ...]
    launches: int
    error_share: float
    seconds: tuple[float, ...]


def check_variant(variant: Variant, backend: Backend, *, repeats: int, static: bool) -> Outcome:
    """Check a variant; whatever goes wrong becomes part of the outcome.

    Args:
        variant: The variant.
        backend: Where to run it.
        repeats: Times to run it, with fresh buffers each time.
        static: Whether to compile its texts strictly and lint them too.
    """
    outcome: dict[str, Any] = {
        "variant": str(variant),
        "kernel": variant.plan.kernel,
        "config": str(variant.plan.config),
    }
    try:
        outcome |= _checked(variant, backend, repeats, static)
    except Exception as error:
        outcome["failures"] = (_error_text(error),)
    return Outcome(status=_status(outcome), **outcome)


def _status(outcome: dict[str, Any]) -> Status:
    if outcome["failures"]:
        return Status.FAILED
    return Status.UNCHECKED if outcome["unchecked"] else Status.PASSED


def _checked(variant: Variant, backend: Backend, repeats: int, static: bool) -> dict[str, Any]:
    problem, plan, chip = variant.problem, variant.plan, variant.chip
    failures: list[str] = []
    unchecked: list[str] = []
    fields: dict[str, Any] = {"stages": tuple(_stage_record(one, chip) for one in plan.stages)}
    failures += [
        f"a threadgroup of {one.name} does not fit on a core"
        for one in fields["stages"]
        if not one.threads_per_core
    ]
    if static:
        seen = check_static(problem, plan)
        failures += seen.findings
        unchecked += seen.unchecked
        fields["text_bytes"] = seen.text_bytes
    unchecked += backend.unchecked()
    runs = _run_repeatedly(variant, backend, repeats)
    failures += runs.failures
    seconds = runs.seconds
    later = statistics.median(seconds[1:]) if len(seconds) > 1 else 0.0
    return fields | {
        "failures": tuple(failures),
        "unchecked": tuple(unchecked),
        "launches": runs.launches,
        "error_share": runs.error_share,
        "compile_seconds": max(0.0, seconds[0] - later) if seconds else 0.0,
        "run_seconds": later,
    }


def stage_names(variant: Variant) -> tuple[str, ...]:
    """Return the names of a variant's kernels, each of which ends in a hash of the text."""
    from ...core.render import render

    return tuple(render(stage.spec).name for stage in variant.plan.stages)


def _stage_record(stage: Stage, chip: Chip) -> StageRecord:
    # Imported here because jinja2 is a large part of what `import mlx_tilegemm` may cost.
    from ...core.render import render

    return StageRecord(
        name=render(stage.spec).name,
        threads=stage.resources.threads,
        threadgroup_bytes=stage.resources.threadgroup_bytes,
        registers=stage.resources.registers,
        threads_per_core=threads_per_core(stage.resources, chip),
    )


def _run_repeatedly(variant: Variant, backend: Backend, repeats: int) -> _Runs:
    problem, family = variant.problem, family_of(variant.problem)
    factors = family.trial_factors(problem)
    wanted = family.reference(problem, family.draw(problem, Data()), factors)
    failures: list[str] = []
    seconds: list[float] = []
    share, first = 0.0, b""
    run: Run | None = None
    for label, schedule in backend.runs(repeats):
        arrays = family.draw(problem, Data())
        mx.eval(*arrays)
        _poison(variant)
        start = time.perf_counter()
        try:
            with schedule:
                run = run or kernel_run(problem, variant.plan, backend)
                outputs = run(arrays, factors, None)
                mx.eval(*outputs)
        except Exception as error:
            failures.append(f"{label}: {_error_text(error)}")
            break
        seconds.append(time.perf_counter() - start)
        bits = b"".join(_bits(output) for output in outputs)
        if not first:
            first = bits
            share, reasons = hold(problem, outputs, wanted)
            failures += [f"{label}: {reason}" for reason in reasons]
        elif bits != first:
            failures.append(f"{label}: other bits than the first run")
    return _Runs(
        failures=tuple(failures),
        launches=len(seconds),
        error_share=share,
        seconds=tuple(seconds),
    )


def _poison(variant: Variant) -> None:
    """Leave NaN in freed memory of the outputs' sizes, where MLX will find it for the next run."""
    launches = [stage.launch for stage in variant.plan.stages]
    shapes = [
        pair
        for launch in launches
        for pair in zip(launch.output_shapes, launch.output_dtypes, strict=True)
    ]
    mx.eval(*[_pattern(shape, dtype.mlx) for shape, dtype in shapes])


def _pattern(shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
    floating = mx.issubdtype(dtype, mx.floating)
    return mx.full(shape, float("nan") if floating else 85, dtype)


def _bits(array: mx.array) -> bytes:
    return np.array(array.reshape(-1).view(mx.uint8)).tobytes()


def _error_text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"

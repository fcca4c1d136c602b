"""Hold MLX's route against float64 on this machine's device, and against MLX's switch for TF32.

    python bench/mlx_route_check.py                       # with TF32 where MLX uses it
    MLX_ENABLE_TF32=0 python bench/mlx_route_check.py     # and without

Meant for CUDA, where MLX's own ops serve every call; it runs on a CPU, too. Each result is held to
the bound that follows from what MLX rounds there. Where MLX rounds float32, calls with
`precision="float32"` have to be refused; elsewhere they are held to all bits. Rows with nothing to
attend to have to be 0, gradients finite, and attention of one 16-bit type has to be MLX's fused
kernel on a GPU. There, large problems are then timed against plain MLX in interleaved rounds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

import mlx.core as mx
from mlx_route import repeated

import mlx_tilegemm as tg
from mlx_tilegemm.assurance.tuning.calls import Workload, mistake, workload
from mlx_tilegemm.assurance.tuning.measure import Effort, measure, spread
from mlx_tilegemm.backends.rounding import factor_roundoff, rounds_float32
from mlx_tilegemm.cli import main as command
from mlx_tilegemm.core.problem import Problem
from mlx_tilegemm.errors import BackendError
from mlx_tilegemm.families import families, family_of
from mlx_tilegemm.families.attention.fused import NODE, is_fused
from mlx_tilegemm.families.attention.problem import AttentionProblem

SPECS = {
    "matmul": ("129x200x333:f32", "64x70x300:f16,f32:nt", "33x65x129:bf16,f16", "1x256x512:f32:nt"),
    "attention": (
        "2x8x2x130x170x64:f32:causal",
        "2x8x2x130x170x64:f16:causal",
        "2x8x2x130x170x128:bf16",
        "2x8x2x130x170x64:f16,bf16,f32",
        "1x8x2x1x1000x128:f16",
        "1x4x4x40x50x72:f16",
        "1x4x4x40x50x200:bf16",
    ),
    "quantized_matmul": (
        "33x64x256:f32:affine4x64",
        "33x64x256:f16:affine4x64",
        "1x64x256:f32:mxfp4",
    ),
}
LARGE = {
    "causal 32 x2048x128": ((1, 32, 2048, 128), (1, 32, 2048, 128), "causal"),
    "32 on 8 x2048x128": ((1, 32, 2048, 128), (1, 8, 2048, 128), None),
    "decode 32 on 8 x4096x128": ((1, 32, 1, 128), (1, 8, 4096, 128), None),
}
Check = tuple[str, str | None]
"""What is checked, and what is wrong with it."""


def problems() -> Iterator[Problem]:
    """Yield the problems that are spelled above."""
    for family in families():
        spelling = family.spelling
        if spelling is not None:
            yield from map(spelling.parse, SPECS.get(spelling.name, ()))


def values() -> Iterator[Check]:
    """Hold results, and those of all bits, against float64."""
    for problem in problems():
        work = workload(problem)
        yield str(problem), mistake(work, called(work), by_mlx=True)
        exact = replace(work, problem=replace(problem, exact=True))  # type: ignore[type-var]
        refuses = rounds_float32() and family_of(problem).multiplies_float32(problem)
        try:
            outputs = called(exact)
        except BackendError as error:
            yield f"{exact.problem}", None if refuses else str(error)
        else:
            reason = "it was not refused" if refuses else mistake(exact, outputs, by_mlx=True)
            yield f"{exact.problem}", reason


def called(work: Workload) -> Sequence[mx.array]:
    """Return the results of MLX's route."""
    call = work.on_mlx()
    assert call is not None
    outputs = call(work.operands)
    mx.eval(*outputs)
    return outputs


def fused() -> Iterator[Check]:
    """Check that MLX has fused kernels for 16-bit types where it runs on a GPU."""
    if mx.default_device() != mx.gpu:
        return
    for problem in problems():
        common = isinstance(problem, AttentionProblem) and problem.head_dim in (64, 128)
        if common and isinstance(problem, AttentionProblem) and problem.out.bytes == 2:
            found = is_fused(problem, problem.out)
            yield f"a node {NODE} for {problem}", None if found else "MLX has none"


def hidden_rows() -> Iterator[Check]:
    """Check rows that see nothing, and masks down to the lowest number, with their gradients."""
    for dtype in (mx.float32, mx.float16, mx.bfloat16):
        q, k, v = (mx.random.normal((1, 4, 40, 64)).astype(dtype) for _ in range(3))
        keep = mx.random.uniform(shape=(40, 40)) < 0.7
        keep[3] = False
        lowest = mx.finfo(dtype).min
        masks = {
            "bool": keep,
            "-inf": mx.where(keep, 0.0, -mx.inf).astype(dtype),
            "lowest": mx.where(keep, 0.0, lowest).astype(dtype),
        }
        for name, mask in masks.items():
            yield f"{dtype} mask {name}", _masked(q, k, v, mask, empty=name != "lowest")


def _masked(q: mx.array, k: mx.array, v: mx.array, mask: mx.array, *, empty: bool) -> str | None:
    def total(*arrays: mx.array) -> list[mx.array]:
        return [tg.attention_chain(*arrays, mask=mask)]

    (out,), gradients = mx.vjp(total, [q, k, v], [mx.ones_like(q)])
    if not all(mx.all(mx.isfinite(x)).item() for x in (out, *gradients)):
        return "a number is not finite"
    if empty and mx.any(out[:, :, 3]).item():
        return "a row that sees nothing is not 0"
    wide = [x.astype(mx.float32) for x in (q, k, v)]
    with mx.stream(mx.cpu):
        expected = tg.attention_chain(*wide, mask=mask, stream=mx.cpu)
        far = mx.max(mx.abs(out.astype(mx.float32) - expected))
    return None if (far < 0.05).item() else f"it is {far.item():.2g} off"


def speeds(rounds: int) -> Iterator[str]:
    """Time large problems against plain MLX."""
    fast = mx.fast.scaled_dot_product_attention
    half = mx.float16
    for title, (q_shape, k_shape, mask) in LARGE.items():
        for kinds in ((half,) * 3, (half, mx.bfloat16, half)):
            shapes = (q_shape, k_shape, k_shape)
            q, k, v = (
                mx.random.normal(shape).astype(kind)
                for shape, kind in zip(shapes, kinds, strict=True)
            )
            options = {} if mask is None else {"mask": mask}
            ours = partial(tg.attention_chain, q, k, v, **options)
            plain = partial(fast, q, k, v, scale=128**-0.5, mask=mask)
            yield f"{title}, {', '.join(map(str, kinds))}: {_against(ours, plain, rounds)}"
    a, b = mx.random.normal((4096, 4096)), mx.random.normal((4096, 4096))
    times = _against(partial(tg.matmul, a, b), partial(mx.matmul, a, b), rounds)
    yield f"product 4096x4096x4096, float32: {times}"


def _against(ours: Callable[[], mx.array], plain: Callable[[], mx.array], rounds: int) -> str:
    calls = {"ours": repeated(ours), "plain": repeated(plain)}
    samples = measure(calls, time.perf_counter, Effort(rounds=rounds, keep=float("inf")))
    ratio = spread([y / x for x, y in zip(samples["ours"], samples["plain"], strict=True)])
    times = {name: 1e6 * spread(found).median for name, found in samples.items()}
    return (
        f"ours {times['ours']:.0f} us, plain MLX {times['plain']:.0f} us, plain over ours "
        f"{ratio.median:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Check and time; 1 if something is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15, help="of timing; 0 for none")
    options = parser.parse_args(arguments)
    print(f"device {mx.default_device()}, {mx.device_info().get('device_name')}")
    print(f"MLX rounds float32: {rounds_float32()}; factors to {factor_roundoff():.2g}")
    wrong = 0
    with tg.use_backend("mlx"):
        for check in (values, fused, hidden_rows):
            for title, reason in check():
                wrong += reason is not None
                print(f"{'right' if reason is None else 'WRONG'}  {title}  {reason or ''}".rstrip())
        wrong += command(["demo", "--backend", "mlx"]) != 0
        if options.rounds and mx.default_device() == mx.gpu:
            with suppress(KeyboardInterrupt):
                for line in speeds(options.rounds):
                    print(line, flush=True)
    print("all right" if not wrong else f"{wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Speed of the emulator on a half 512x512x512 product, with the checks off and on.

python -m bench.emulator [--compiler g++] [--size 512]
"""

from __future__ import annotations

import argparse
import json
import time

import mlx.core as mx

import mlx_tilegemm as tg
from mlx_tilegemm import emulator

_KERNEL = "gemm_simdgroup"
# GFLOP/s that are promised on two CPU cores.
_TARGETS = {"off": 5.0, "strict": 1.0}


def measure(a: mx.array, b: mx.array, repeats: int) -> tuple[float, float]:
    """Return the seconds of the first call and of the fastest one."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        mx.eval(tg.matmul(a, b))
        seconds.append(time.perf_counter() - start)
    return seconds[0], min(seconds)


def main() -> None:
    """Measure, compare with MLX and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compiler", default="", help="by default the emulator's own choice")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    shape = (options.size, options.size)
    a = mx.random.normal(shape, key=mx.random.key(1)).astype(mx.float16)
    b = mx.random.normal(shape, key=mx.random.key(2)).astype(mx.float16)
    exact = mx.matmul(a.astype(mx.float32), b.astype(mx.float32), stream=mx.cpu)
    for checks, target in _TARGETS.items():
        changes = {"checks": checks, "compiler": options.compiler, "workers": options.workers}
        with (
            emulator.settings(**changes),
            tg.use_backend("emulator"),
            tg.use_kernel(_KERNEL),
        ):
            error = mx.abs(tg.matmul(a, b) - exact).max().item()
            first, best = measure(a, b, options.repeats)
        rate = 2 * options.size**3 / best / 1e9
        record = {"checks": checks, "gflops": round(rate, 2), "target": target, "error": error}
        print(json.dumps({**record, "first_s": round(first, 3), "best_s": round(best, 4)}))


if __name__ == "__main__":
    main()

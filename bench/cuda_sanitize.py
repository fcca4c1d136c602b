r"""One launch of each of a sample of kernel variants, to run under NVIDIA's sanitizer.

    python bench/cuda_sanitize.py --sample 200 --compile 8
    for tool in "memcheck --report-api-errors no" racecheck synccheck \
      "initcheck --check-api-memory-access no"; do
      sanitize="compute-sanitizer --error-exitcode 9 --tool $tool python bench/cuda_sanitize.py"
      $sanitize --plant ${tool%% *}
      $sanitize --sample 200
    done

The first line fills the cache of compiled kernels, which takes longer under the sanitizer. The
first of each tool's runs has a mistake of the kind that the tool finds: its status has to be 9, or
the 0 of the second says nothing. The device is waited for after each launch, as some tools report
only then. Copies are left out of initcheck: MLX moves buffers whole, with what nothing has written.
Calls of the driver's that fail are left out of memcheck: NVIDIA's bindings ask an older driver for
functions that it lacks.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Sequence
from importlib import import_module

import mlx.core as mx
from backend import require

from mlx_tilegemm.assurance.variants import Variant
from mlx_tilegemm.assurance.verify.campaign import Request, selected
from mlx_tilegemm.backends import backend_named
from mlx_tilegemm.backends.launch import kernel_run
from mlx_tilegemm.core.family import Data
from mlx_tilegemm.cuda import metal_kernel
from mlx_tilegemm.families import family_of

PLANTED = {
    "memcheck": "y[i] = x[i + (1 << 30)];",
    "racecheck": "threadgroup float a[256]; a[i] = x[i]; y[i] = a[255 - i];",
    "initcheck": "y[i] = y[i] + x[i];",
    "synccheck": "if (i % 2 == 0) threadgroup_barrier(mem_flags::mem_threadgroup); y[i] = x[i];",
}
"""A mistake of the kind that each tool finds, in one threadgroup of 256 threads."""


def wait() -> None:
    """Wait for the device as a whole, which `mx.eval` does not."""
    import_module("cuda.bindings.runtime").cudaDeviceSynchronize()


def plant(tool: str) -> None:
    """Run a kernel with a mistake."""
    source = f"uint i = thread_position_in_threadgroup.x; {PLANTED[tool]}"
    kernel = metal_kernel(f"planted_{tool}", ["x"], ["y"], source)
    x = mx.arange(256, dtype=mx.float32)
    size = (256, 1, 1)
    found = kernel(
        inputs=[x], output_shapes=[(256,)], output_dtypes=[x.dtype], grid=size, threadgroup=size
    )
    mx.eval(*found)
    wait()


def run(variant: Variant) -> None:
    """Run a variant once."""
    family = family_of(variant.problem)
    operands = family.draw(variant.problem, Data())
    call = kernel_run(variant.problem, variant.plan, backend_named("cuda"))
    mx.eval(*call(operands, family.trial_factors(variant.problem), None))


def run_some(numbers: Sequence[int]) -> None:
    """Run some of all variants, by their numbers."""
    chosen = selected(Request(backend="cuda", sample=max(numbers, default=0) + 1))
    for number in numbers:
        run(chosen[number])


def main() -> None:
    """Run each variant once."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sample", type=int, default=24, help="so many variants; 0: all")
    parser.add_argument("--compile", type=int, default=0, help="in so many processes, beforehand")
    parser.add_argument("--plant", choices=PLANTED, help="run a mistake for this tool to find")
    options = parser.parse_args()
    if not options.compile:
        require(parser, "cuda")
    if options.plant:
        plant(options.plant)
        return
    chosen = selected(Request(backend="cuda", sample=options.sample))
    if options.compile:
        parts = [range(first, len(chosen), options.compile) for first in range(options.compile)]
        with multiprocessing.get_context("spawn").Pool(options.compile) as pool:
            pool.map(run_some, parts, chunksize=1)
    else:
        for variant in chosen:
            run(variant)
            wait()
    kernels = {str(one.plan) for one in chosen}
    print(f"{len(chosen)} variants of {len(kernels)} configurations ran")


if __name__ == "__main__":
    main()

"""One launch of each of a sample of kernel variants, to run under NVIDIA's sanitizer.

compute-sanitizer --tool memcheck python bench/cuda_sanitize.py --sample 24
compute-sanitizer --tool racecheck python bench/cuda_sanitize.py --sample 24
"""

from __future__ import annotations

import argparse

import mlx.core as mx

from mlx_tilegemm.assurance.verify.campaign import Request, selected
from mlx_tilegemm.backends import backend_named
from mlx_tilegemm.backends.launch import kernel_run
from mlx_tilegemm.core.family import Data
from mlx_tilegemm.families import family_of


def main() -> None:
    """Run each variant once."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sample", type=int, default=24, help="so many variants; 0: all")
    options = parser.parse_args()
    backend = backend_named("cuda")
    chosen = selected(Request(backend="cuda", sample=options.sample))
    for variant in chosen:
        family = family_of(variant.problem)
        operands = family.draw(variant.problem, Data())
        run = kernel_run(variant.problem, variant.plan, backend)
        mx.eval(*run(operands, family.trial_factors(variant.problem), None))
    print(f"{len(chosen)} variants ran")


if __name__ == "__main__":
    main()

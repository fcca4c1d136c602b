"""Keep times of texts that have changed since, but not what NVRTC makes of them.

    python bench/cuda_same_code.py --before CHECKOUT

No GPU is needed, only NVRTC of the version that the times are of. Each text that was measured is
compiled as it was in the checkout and as it is here, under one name. Where all bytes of the machine
code are alike, the GPU would run what it ran, and the time is given to today's text; any other time
stays with the text that it was measured of, and so counts no more.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import mlx.core as mx
from cuda_problems import problem_of, problems

from mlx_tilegemm.assurance import canary
from mlx_tilegemm.assurance.measurements import key
from mlx_tilegemm.backends import backend_named, cuda
from mlx_tilegemm.backends.launch import kernel_run
from mlx_tilegemm.core.plan import Plan, Source
from mlx_tilegemm.core.problem import Problem
from mlx_tilegemm.core.render import text_name
from mlx_tilegemm.cuda import compiler, kernel, metal_kernel
from mlx_tilegemm.dispatch import MLX, choose
from mlx_tilegemm.families import family_of
from mlx_tilegemm.machine.chips import NVIDIA

SHIPPED = Path("mlx_tilegemm/assurance/shipped/sm_90.json")
ARCHITECTURE = "90"
Codes = dict[str, list[str]]


def plans(shipped: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], Problem, Plan]]:
    """Yield each time of a kernel with its name, its problem, and its plan here, if it has one."""
    known = {name: p for p in map(_problem, problems()) for name in (key(p), key(p.alike()))}
    for name, tuned in shipped["problems"].items():
        found = {str(one): one.plan for one in choose(known[name], NVIDIA).candidates}
        for time in tuned["times"]:
            plan = found.get(time["candidate"])
            if time["candidate"] != MLX and plan is not None:
                yield f"{name}|{time['candidate']}", time, known[name], plan


def _problem(spelled: tuple[str, str]) -> Problem:
    return problem_of(*spelled)


def unnamed(source: Source) -> Any:  # noqa: ANN401 (an executable)
    """Return the kernel of a source under a name that does not tell its text."""
    return metal_kernel(
        name=re.sub(r"_[0-9a-f]{12}$", "", source.name),
        input_names=list(source.input_names),
        output_names=list(source.output_names),
        source=source.body,
        header=source.header,
    )


def code(problem: Problem, plan: Plan) -> list[str]:
    """Return digests of the machine code of a plan's kernels."""
    made: list[str] = []

    def launch(**call: Any) -> list[mx.array]:  # noqa: ANN401 (MLX's)
        made.append(hashlib.sha256(call["compiled_source"]).hexdigest())
        pairs = zip(call["output_shapes"], call["output_dtypes"], strict=True)
        return [mx.zeros(shape, dtype) for shape, dtype in pairs]

    stored = problem.stored()
    operands = [mx.zeros(one.shape, one.dtype.mlx) for one in stored.operands]
    with (
        mock.patch.object(mx.cuda, "is_available", return_value=True),
        mock.patch.object(mx.fast, "precompiled_cuda_kernel", launch),
        mock.patch.object(kernel, "architecture", return_value=ARCHITECTURE),
        mock.patch.object(canary, "is_needed", return_value=False),
        mock.patch.object(cuda, "_kernel", unnamed),
    ):
        run = kernel_run(stored, plan, backend_named("cuda"))
        run(operands, family_of(stored).trial_factors(stored), None)
    return made


def codes(asked: set[str], shipped: dict[str, Any]) -> dict[str, Codes]:
    """Return text and machine code of what was timed, by its name, as this library has them."""
    return {
        name: {"text": [text_name(plan)], "code": code(problem, plan)}
        for name, _, problem, plan in plans(shipped)
        if name in asked
    }


def codes_of(checkout: Path, asked: set[str]) -> dict[str, Codes]:
    """Return what `codes` does, of the library in a checkout."""
    command = [sys.executable, __file__, "--print", json.dumps(sorted(asked))]
    paths = (str(checkout), os.environ.get("PYTHONPATH"))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    found: dict[str, Codes] = json.loads(done.stdout)
    return found


def main() -> None:
    """Compare the texts, and write the times that stay."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--before", type=Path, help="checkout of what was measured")
    parser.add_argument("--print", help=argparse.SUPPRESS)
    options = parser.parse_args()
    shipped = json.loads(SHIPPED.read_text())
    if options.print:
        print(json.dumps(codes({*json.loads(options.print)}, shipped)))
        return
    print(
        f"compared by NVRTC {compiler.version()}; measured with {shipped['environment']['nvrtc']}"
    )
    every = plans(shipped)
    others = {name: time for name, time, _, plan in every if text_name(plan) != time["text"]}
    before, after = codes_of(options.before.resolve(), {*others}), codes({*others}, shipped)
    kept = 0
    for name, time in others.items():
        was, now = before.get(name), after[name]
        if was and was["text"] == [time["text"]] and was["code"] == now["code"]:
            (time["text"],) = now["text"]
            kept += 1
    SHIPPED.write_text(json.dumps(shipped, indent=1) + "\n")
    print(f"{len(others)} texts are others, {kept} of them with the same machine code")


if __name__ == "__main__":
    main()

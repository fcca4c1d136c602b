"""Results of an NVIDIA GPU against the emulator's, which any machine writes, bit by bit.

    python bench/cuda_bits.py write bits.npz --sample 120
    python bench/cuda_bits.py compare bits.npz --json bits.json

On the GPU, matrix products are made in the mode that promises the emulator's bits
(`mlx_tilegemm.cuda.settings(exact=True)`). What it does not promise are functions of the hardware's
own, exponentials and roots: kernels with those may differ by some units in the last place of the
result, and the table says by how many. Nor does it promise which of all NaNs a NaN is. Both draw
the same operands, as their digests show.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt
from backend import require

from mlx_tilegemm.assurance.variants import Variant
from mlx_tilegemm.assurance.verify.campaign import Request, selected
from mlx_tilegemm.backends import backend_named
from mlx_tilegemm.backends.launch import kernel_run
from mlx_tilegemm.core.family import Data
from mlx_tilegemm.cuda import settings
from mlx_tilegemm.families import family_of

Raw = npt.NDArray[Any]
WORDS = {1: mx.uint8, 2: mx.uint16, 4: mx.uint32}


def raw(array: mx.array) -> Raw:
    """Return an array's elements as integers of their bits."""
    with mx.stream(mx.cpu):
        flat = mx.contiguous(array).reshape(-1)
        return np.array(flat.view(WORDS[array.dtype.size]))


def digest(operands: Sequence[mx.array]) -> str:
    """Return a digest of operands."""
    found = hashlib.blake2s(digest_size=8)
    for one in operands:
        found.update(raw(one).tobytes())
    return found.hexdigest()


def results(variant: Variant, backend: str) -> tuple[str, list[mx.array]]:
    """Return the digest of a variant's operands, and its results on a backend."""
    family = family_of(variant.problem)
    operands = family.draw(variant.problem, Data(seed=3))
    run = kernel_run(variant.problem, variant.plan, backend_named(backend))
    with settings(exact=True):
        outputs = run(operands, family.trial_factors(variant.problem), None)
    mx.eval(*outputs)
    return digest(operands), outputs


def write(path: Path, sample: int) -> None:
    """Write the emulator's results of a sample of variants."""
    kept: dict[str, Any] = {"sample": np.array(sample)}
    for number, variant in enumerate(selected(Request(backend="emulator", sample=sample))):
        drawn, outputs = results(variant, "emulator")
        kept[f"{number}|operands"] = np.array(drawn)
        kept |= {f"{number}|{place}": raw(one) for place, one in enumerate(outputs)}
    np.savez_compressed(path, **kept)
    print(f"{sample} variants, {path.stat().st_size >> 10} KiB")


def apart(got: Raw, wanted: Raw, dtype: mx.Dtype) -> tuple[Raw, Raw]:
    """Return the elements that differ, as which a NaN beside another does not count."""
    different = got != wanted
    if mx.issubdtype(dtype, mx.floating):
        bits = 8 * got.itemsize
        mantissa = {mx.float32: 23, mx.float16: 10, mx.bfloat16: 7}[dtype]
        infinity = ((1 << (bits - 1 - mantissa)) - 1) << mantissa
        magnitudes = [one & ((1 << (bits - 1)) - 1) for one in (got, wanted)]
        different &= ~((magnitudes[0] > infinity) & (magnitudes[1] > infinity))
    return got[different], wanted[different]


def units(got: Raw, wanted: Raw, dtype: mx.Dtype) -> int:
    """Return how many numbers of a floating point type lie between two at most; 0 if equal."""
    if not mx.issubdtype(dtype, mx.floating):
        return int(np.count_nonzero(got != wanted))
    sign = np.int64(1) << (8 * got.itemsize - 1)
    ordered = [
        np.where(x & sign, sign - x, x) for x in (got.astype(np.int64), wanted.astype(np.int64))
    ]
    return int(np.abs(ordered[0] - ordered[1]).max(initial=0))


def compare(path: Path) -> list[dict[str, Any]]:
    """Return, for each variant that was written, how the GPU's results differ."""
    kept = np.load(path)
    chosen = selected(Request(backend="emulator", sample=int(kept["sample"])))
    return [_compared(variant, number, kept) for number, variant in enumerate(chosen)]


def _compared(variant: Variant, number: int, kept: Any) -> dict[str, Any]:  # noqa: ANN401 (an npz)
    row: dict[str, Any] = {"variant": str(variant), "kernel": variant.plan.kernel}
    try:
        drawn, outputs = results(variant, "cuda")
    except Exception as error:  # whatever a compiler, a driver or MLX may raise
        return row | {"failed": f"{type(error).__name__}: {error}"[:400]}
    if drawn != str(kept[f"{number}|operands"]):
        return row | {"failed": "other operands were drawn"}
    pairs = [(raw(one), kept[f"{number}|{n}"], one.dtype) for n, one in enumerate(outputs)]
    differing = [(*apart(*pair), pair[2]) for pair in pairs]
    return row | {
        "elements": sum(got.size for got, _, _ in pairs),
        "different": sum(got.size for got, _, _ in differing),
        "units": max(units(*pair) for pair in differing),
    }


def report(rows: Sequence[dict[str, Any]]) -> str:
    """Return a table by kernel."""
    lines = [
        "| kernel | variants | equal in all bits | elements | different | units at most | failed |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for kernel in sorted({row["kernel"] for row in rows}):
        of_it = [row for row in rows if row["kernel"] == kernel]
        ran = [row for row in of_it if "failed" not in row]
        equal = sum(row["different"] == 0 for row in ran)
        sums = [sum(row[name] for row in ran) for name in ("elements", "different")]
        most = max((row["units"] for row in ran), default=0)
        lines.append(
            f"| {kernel} | {len(of_it)} | {equal} | {sums[0]} | {sums[1]} | {most} "
            f"| {len(of_it) - len(ran)} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Write or compare; 1 if a variant could not be compared."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("action", choices=("write", "compare"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--sample", type=int, default=120, help="so many variants")
    parser.add_argument("--json", type=Path, help="write the comparison there")
    options = parser.parse_args()
    if options.action == "write":
        write(options.file, options.sample)
        return 0
    require(parser, "cuda")
    rows = compare(options.file)
    print(report(rows))
    for row in rows:
        if "failed" in row:
            print(f"failed: {row['variant']}: {row['failed']}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return int(not rows or any("failed" in row for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())

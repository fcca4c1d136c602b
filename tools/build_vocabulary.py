"""Write ``mlx_tilegemm/strict/vocabulary.tsv``: the words of Metal and where each is known from.

Every word of the table below is looked up in the headers of MLX's shipped kernels. They come from
the ``mlx-metal`` wheel, which pip downloads into a temporary folder, or from an installed MLX.
Headers that need a newer Metal than 3.1 do not count.

Usage: python tools/build_vocabulary.py [--kernels FOLDER | --installed]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from mlx_tilegemm.strict.lint import ATTRIBUTES, words
from mlx_tilegemm.strict.vocabulary import DATA

KERNELS = Path("mlx/include/mlx/backend/metal/kernels")
PLATFORM = "macosx_14_0_arm64"
NEWER = ("nax", "logging.h", "fp4.h", "fp8.h")

CXX = "C++14, keywords"
TYPES = "MSL, Scalar Data Types"
VECTORS = "MSL, Vector Data Types"
SPACES = "MSL, Address Spaces"
INPUTS = "MSL, Attributes for Kernel Function Inputs"
COMMON = "MSL, Common Functions"
INTEGER = "MSL, Integer Functions"
MATH = "MSL, Math Functions"
RELATIONAL = "MSL, Relational Functions"
GEOMETRIC = "MSL, Geometric Functions"
SYNC = "MSL, Threadgroup and SIMD-Group Synchronization Functions"
SIMD = "MSL, SIMD-Group Functions"
QUAD = "MSL, Quad-Group Functions"
TILES = "MSL, SIMD-Group Matrix Functions"
ATOMIC = "MSL, Atomic Functions"
PRELUDE = "MLX, text before every custom kernel"

# Chapter, first Metal language version, words.
SPECIFICATION: tuple[tuple[str, str, str], ...] = (
    (
        CXX,
        "",
        "alignas alignof auto bool break case char class const const_cast constexpr continue "
        "decltype default delete do else enum explicit false float for friend if inline int long "
        "mutable namespace nullptr operator private protected public reinterpret_cast return short "
        "signed sizeof static static_assert static_cast struct switch template this true typedef "
        "typename union unsigned using void volatile while _Pragma",
    ),
    (TYPES, "1.0", "half size_t ptrdiff_t uchar ushort uint int8_t int16_t int32_t uint8_t"),
    (TYPES, "1.0", "uint16_t uint32_t"),
    (TYPES, "2.2", "ulong int64_t uint64_t"),
    (TYPES, "3.1", "bfloat"),
    (VECTORS, "1.0", "vec x y z w r g b a xy yx xyz xyzw zw"),
    (
        VECTORS,
        "1.0",
        " ".join(
            f"{kind}{width}"
            for kind in ("bool", "char", "uchar", "short", "ushort", "int", "uint", "half", "float")
            for width in (2, 3, 4)
        ),
    ),
    (VECTORS, "3.1", "bfloat2 bfloat3 bfloat4"),
    ("MSL, Type Conversions and Re-interpreting Data", "1.0", "as_type"),
    (SPACES, "1.0", "device constant thread threadgroup"),
    ("MSL, Functions, Variables, and Qualifiers", "1.0", "kernel"),
    ("MSL, Kernel Function Qualifiers", "1.0", "max_total_threads_per_threadgroup"),
    ("MSL, Attributes for Locating Buffers", "1.0", "buffer"),
    (INPUTS, "1.0", "thread_index_in_threadgroup thread_position_in_grid grid_size grid_origin"),
    (INPUTS, "1.0", "thread_position_in_threadgroup threadgroup_position_in_grid"),
    (INPUTS, "1.0", "threads_per_grid threads_per_threadgroup threadgroups_per_grid"),
    (INPUTS, "1.0", "thread_execution_width"),
    (INPUTS, "2.0", "simdgroup_index_in_threadgroup simdgroups_per_threadgroup"),
    (INPUTS, "2.0", "thread_index_in_simdgroup threads_per_simdgroup thread_index_in_quadgroup"),
    (INPUTS, "2.0", "quadgroup_index_in_threadgroup quadgroups_per_threadgroup"),
    (INPUTS, "2.1", "dispatch_threads_per_threadgroup dispatch_simdgroups_per_threadgroup"),
    (INPUTS, "2.1", "dispatch_quadgroups_per_threadgroup"),
    ("MSL, Namespace and Header Files", "1.0", "metal metal_stdlib"),
    (COMMON, "1.0", "clamp mix saturate sign smoothstep step"),
    (
        INTEGER,
        "1.0",
        "abs absdiff addsat clz ctz hadd mad24 madhi madsat max min mul24 mulhi popcount rhadd "
        "rotate subsat",
    ),
    (INTEGER, "1.2", "extract_bits insert_bits reverse_bits"),
    (
        MATH,
        "1.0",
        "acos acosh asin asinh atan atan2 atanh ceil copysign cos cosh cospi divide exp exp10 exp2 "
        "fabs fast fdim floor fma fmax fmin fmod fract frexp ilogb ldexp log log10 log2 modf pow "
        "powr precise rint round rsqrt sin sincos sinh sinpi sqrt tan tanh tanpi trunc",
    ),
    (MATH, "2.1", "fmax3 fmedian3 fmin3 max3 median3 min3"),
    (MATH, "1.0", "INFINITY NAN HUGE_VALF HUGE_VALH MAXFLOAT MAXHALF M_PI_F M_LOG2E_F M_LN2_F"),
    (RELATIONAL, "1.0", "all any isfinite isinf isnan isnormal select signbit"),
    (GEOMETRIC, "1.0", "cross distance dot length length_squared normalize"),
    (SYNC, "1.0", "threadgroup_barrier mem_flags mem_none mem_device mem_threadgroup"),
    (SYNC, "2.0", "simdgroup_barrier"),
    (
        SIMD,
        "2.0",
        "simd_broadcast simd_shuffle simd_shuffle_down simd_shuffle_rotate_down "
        "simd_shuffle_rotate_up simd_shuffle_up simd_shuffle_xor",
    ),
    (
        SIMD,
        "2.1",
        "simd_active_threads_mask simd_all simd_and simd_any simd_ballot simd_broadcast_first "
        "simd_is_first simd_max simd_min simd_or simd_prefix_exclusive_product "
        "simd_prefix_exclusive_sum simd_prefix_inclusive_product simd_prefix_inclusive_sum "
        "simd_product simd_sum simd_vote simd_xor",
    ),
    (SIMD, "2.4", "simd_shuffle_and_fill_down simd_shuffle_and_fill_up"),
    (QUAD, "2.1", "quad_broadcast quad_max quad_min quad_shuffle quad_shuffle_xor quad_sum"),
    (
        TILES,
        "2.3",
        "simdgroup_matrix make_filled_simdgroup_matrix simdgroup_load simdgroup_store "
        "simdgroup_multiply simdgroup_multiply_accumulate simdgroup_float8x8 simdgroup_half8x8",
    ),
    (TILES, "3.1", "simdgroup_bfloat8x8"),
    (ATOMIC, "1.0", "atomic atomic_fetch_add_explicit atomic_int atomic_uint"),
    (ATOMIC, "1.0", "memory_order_relaxed"),
    # Used by MLX's kernels and by no chapter of the specification.
    ("", "", "METAL_FUNC thread_elements"),
    (PRELUDE, "", "MLX_MTL_PRAGMA_UNROLL float16_t bfloat16_t complex64_t Limits ceildiv"),
    (PRELUDE, "", "elem_to_loc cast_to"),
)


def main() -> None:
    """Read the command line and write the list."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--kernels", type=Path, help="folder of MLX's kernel headers")
    where.add_argument("--installed", action="store_true", help="headers of the installed MLX")
    options = parser.parse_args()
    if options.installed:
        options.kernels = installed_kernels()
    if options.kernels:
        rows = list(vocabulary_rows(options.kernels))
    else:
        with tempfile.TemporaryDirectory() as folder:
            rows = list(vocabulary_rows(downloaded_kernels(Path(folder))))
    lines = ["\t".join(row) for row in (("word", "mlx header", "chapter", "since"), *rows)]
    DATA.write_text("\n".join(lines) + "\n", encoding="ascii")
    seen = sum(bool(row[1]) for row in rows)
    sys.stdout.write(f"{len(rows)} words, {seen} of them seen in MLX's kernels: {DATA}\n")


def installed_kernels() -> Path:
    """Return the headers that the installed MLX ships."""
    found = find_spec("mlx")
    for root in found.submodule_search_locations or () if found else ():
        folder = Path(root).parent / KERNELS
        if folder.is_dir():
            return folder
    sys.exit("build_vocabulary: Expected an installed MLX with kernel headers, got none.")


def downloaded_kernels(folder: Path) -> Path:
    """Download the ``mlx-metal`` wheel and return the headers in it."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary", ":all:", "--platform", PLATFORM, "--dest", str(folder)]
    subprocess.run([*command, "mlx-metal"], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.startswith(str(KERNELS))]
        archive.extractall(folder, [name for name in names if name.endswith(".h")])
    return folder / KERNELS


def vocabulary_rows(kernels: Path) -> Iterator[tuple[str, str, str, str]]:
    """Yield word, header, chapter and version, in alphabetical order."""
    seen = words_by_header(kernels)
    if not seen:
        sys.exit(f"build_vocabulary: Expected kernel headers under {kernels}, got none.")
    table = {
        word: (chapter, since)
        for chapter, since, listed in SPECIFICATION
        for word in listed.split()
    }
    missing = set(ATTRIBUTES) - set(table)
    if missing:
        sys.exit(f"build_vocabulary: Expected a chapter for every attribute, got none: {missing}")
    for word, (chapter, since) in sorted(table.items()):
        header = next((name for name, used in seen.items() if word in used), "")
        yield word, header, chapter, since


def words_by_header(kernels: Path) -> dict[str, frozenset[str]]:
    """Return the words of every header that Metal 3.1 compiles, by name."""
    headers = sorted(path for path in kernels.rglob("*.h") if not newer(path))
    # Macros are directives to the tokenizer, and most of MLX's helpers stand in macros.
    return {
        str(path.relative_to(kernels)): words(path.read_text("utf-8").replace("#define", ""))
        for path in headers
    }


def newer(path: Path) -> bool:
    """Whether a header needs a newer Metal than 3.1."""
    return any(part in path.name for part in NEWER)


if __name__ == "__main__":
    main()

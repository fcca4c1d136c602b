"""The strict prelude declares what MLX puts before a text, and nothing of its own."""

from __future__ import annotations

from pathlib import Path

import mlx
import pytest

from mlx_tilegemm.strict.lint import words
from mlx_tilegemm.strict.toolchain import PRELUDE

HEADERS = ("bf16.h", "bf16_math.h", "complex.h", "defines.h", "logging.h", "utils.h")
# Words that only say how a declaration is written.
SCAFFOLDING = {
    *("NAME", "TYPE", "strict", "__constant", "default", "re", "im"),
    *("has_infinity", "is_bfloat", "is_scalar", "kind_of", "lowest", "value"),
}


def read(path: Path) -> frozenset[str]:
    return words(path.read_text("utf-8").replace("#define", ""))


@pytest.fixture(scope="module")
def shipped() -> frozenset[str]:
    (root,) = (Path(folder) for folder in mlx.__path__ if (Path(folder) / "include").is_dir())
    folder = root / "include/mlx/backend/metal/kernels"
    return frozenset().union(*(read(folder / name) for name in HEADERS))


def test_the_prelude_declares_nothing_of_its_own(shipped):
    own = {word for word in read(PRELUDE) if not word.startswith("STRICT_")}
    assert own - shipped - SCAFFOLDING == set()


@pytest.mark.parametrize(
    "name",
    [
        *("MLX_MTL_PRAGMA_UNROLL", "MTL_CONST", "instantiate_kernel", "bfloat16_t", "float16_t"),
        *("complex64_t", "complex32_t", "complex_t", "Limits", "WorkPerThread", "elem_to_loc"),
        *("elem_to_loc_1", "elem_to_loc_2_nd", "LoopedElemToLoc", "ceildiv", "log1p", "hypot"),
        *("ConditionalType", "cast_to", "schedule_row_tile", "simd_shuffle_and_fill_up"),
        *("REDUCE_N_READS", "SOFTMAX_N_READS", "CROSS_ENTROPY_N_READS", "is_complex_v"),
    ],
)
def test_the_prelude_declares_what_mlx_does(name, shipped):
    assert name in shipped
    assert name in read(PRELUDE)

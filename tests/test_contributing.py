"""Each row of CONTRIBUTING's table is held by a test that does what the row says, in a copy."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from changed_library import appended, changed_library, replaced, run_in

ROOT = Path(__file__).parent.parent
TABLE = "to add"

# Which test holds a row: its file and its name, a class before it where it is in one.
HELD_BY = {
    "a kernel": "test_adding_a_kernel.py::test_the_session_goes_as_shown",
    "a dtype": "test_contributing.py::test_a_dtype_is_one_row_and_its_name",
    "a chip": "test_contributing.py::test_a_chip_is_one_record",
    "an MSL function": "test_contributing.py::test_an_msl_function_is_defined_declared_and_listed",
}
# Rows that no test holds yet.
NOT_HELD = {"a backend"}


def rows(text: str) -> dict[str, str]:
    """Return the second column of the table by the first."""
    lines = text.partition(f"| {TABLE} |")[2].partition("\n\n")[0].splitlines()[2:]
    cells = [re.split(r"\s*\|\s*", line.strip("| ")) for line in lines]
    return dict(cells)


def names_of_tests(path: Path) -> set[str]:
    """Return the names of the tests of a file, those of classes with the class before them."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        members = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}::" if isinstance(node, ast.ClassDef) else ""
        names = {one.name for one in members if isinstance(one, ast.FunctionDef)}
        found |= {f"{prefix}{name}" for name in names if name.startswith("test_")}
    return found


def test_every_row_is_held_by_a_test():
    table = rows((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert table.keys() == HELD_BY.keys() | NOT_HELD
    assert not HELD_BY.keys() & NOT_HELD
    for row, test in HELD_BY.items():
        file, _, name = test.partition("::")
        assert name in names_of_tests(ROOT / "tests" / file), row


RECORD = """
M5_ULTRA = _chip("m5-ultra", "d", 80, 1.62e9, 1228.8e9, 142, (*_CLOCK, *_SLC_GUESS))
CHIPS = (*CHIPS, M5_ULTRA)
"""
A_CHIP = """
import mlx.core as mx

import mlx_tilegemm as tg
from mlx_tilegemm.machine import chips
from mlx_tilegemm.machine.chips.record import NUMBERS

chip = chips.get("m5-ultra")
assert all(chip.source_of(name).text for name in NUMBERS)
assert chips.match({"device_name": "Apple M5 Ultra", "architecture": "applegpu_g17d"}, 80) == (
    chip,
    None,
)
a = tg.ArraySpec(shape=(4096, 4096), dtype=mx.float16)


def seconds(name):
    found = tg.explain("matmul", a, a, chip=name)
    assert found.chip.name == name
    return min(one.seconds for one in found.candidates if one.seconds is not None)


assert seconds("m5-ultra") < 0.6 * seconds("m5-max")
"""


def test_a_chip_is_one_record(tmp_path):
    library = changed_library(tmp_path, {"chips/apple10.py": appended(RECORD)})
    program = tmp_path / "program.py"
    program.write_text(A_CHIP)
    done = run_in(library, str(program))
    assert done.returncode == 0, done.stderr
    call = ("matmul", "100x300", "300x70", "--chip", "m5-ultra")
    shown = run_in(library, "-m", "mlx_tilegemm", "explain", *call)
    assert re.search(r"^  chip +m5-ultra$", shown.stdout, re.M), shown.stdout + shown.stderr
    assert "kernel" in run_in(library, "-m", "mlx_tilegemm", "render", *call).stdout


ROW = """UINT16 = DType(
    name="uint16", short="u16", metal="ushort", bits=16, kind=Kind.INTEGER, unit_roundoff=0.0
)

DTYPES = (UINT16, """
A_DTYPE = """
import mlx.core as mx
import numpy as np

import mlx_tilegemm as tg

rng = np.random.default_rng(0)
a = rng.integers(0, 1 << 16, (13, 21), dtype=np.uint16)
b = rng.integers(-128, 128, (21, 9), dtype=np.int8)
with tg.use_backend("emulator"), tg.use_kernel("gemm_scalar"):
    c = tg.matmul(mx.array(a), mx.array(b))
assert c.dtype == mx.int32
assert np.array_equal(np.array(c), a.astype(np.int32) @ b.astype(np.int32))
"""


@pytest.mark.slow
def test_a_dtype_is_one_row_and_its_name(tmp_path):
    library = changed_library(tmp_path, {"dtypes.py": replaced("DTYPES = (", ROW)})
    program = tmp_path / "program.py"
    program.write_text(A_DTYPE)
    done = run_in(library, str(program))
    assert done.returncode == 0, done.stderr


MSL_FUNCTION = {
    "emulator/include/msl/math.h": appended(
        "namespace metal {\n"
        "MSL_INLINE float halfway(float x, float y) { return 0.5f * (x + y); }\n"
        "}\n"
    ),
    "strict/include/strict/math.h": appended(
        "namespace metal {\nfloat halfway(float, float);\n}\n"
    ),
    "strict/vocabulary.tsv": appended("halfway\t\tMSL, Math Functions\t1.0\n"),
}
A_FUNCTION = '''
import mlx.core as mx
import numpy as np

from mlx_tilegemm import emulator, strict

kernel = emulator.metal_kernel(
    name="between",
    input_names=["a", "b"],
    output_names=["out"],
    source="uint i = thread_position_in_grid.x; out[i] = halfway(a[i], b[i]);",
)
rng = np.random.default_rng(0)
a, b = rng.standard_normal((2, 64)).astype(np.float32)
(out,) = kernel(
    inputs=[mx.array(a), mx.array(b)],
    output_shapes=[(64,)],
    output_dtypes=[mx.float32],
    grid=(64, 1, 1),
    threadgroup=(32, 1, 1),
)
assert np.array_equal(np.array(out), np.float32(0.5) * (a + b))
report = strict.check("""
kernel void between(device float* out [[buffer(0)]]) {
  out[0] = metal::halfway(out[1], out[2]);
}
""")
assert report.passed, report
assert not strict.unknown_words(report), strict.unknown_words(report)
'''


@pytest.mark.slow
def test_an_msl_function_is_defined_declared_and_listed(tmp_path, clang):
    library = changed_library(tmp_path, MSL_FUNCTION)
    program = tmp_path / "program.py"
    program.write_text(A_FUNCTION)
    done = run_in(library, str(program))
    assert done.returncode == 0, done.stderr

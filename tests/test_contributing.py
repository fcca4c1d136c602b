"""Each row of CONTRIBUTING's table is held by a test that does what the row says, in a copy."""

from __future__ import annotations

import ast
import json
import re
from importlib import import_module
from pathlib import Path

import pytest
from changed_library import appended, changed_library, replaced, run_in

ROOT = Path(__file__).parent.parent
TABLE = "to add"

# Which test holds a row: its file and its name, a class before it where it is in one.
HELD_BY = {
    "a family of ops": "test_adding_a_family.py::test_it_costs_a_folder_and_a_line",
    "a kernel": "test_adding_a_kernel.py::test_the_session_goes_as_shown",
    "an element format": "test_contributing.py::test_a_packed_format_is_one_row_and_its_name",
    "a chip": "test_contributing.py::test_a_chip_is_one_record",
    "a backend": "test_contributing.py::test_a_backend_is_one_file_and_its_object",
    "an MSL function": "test_contributing.py::test_an_msl_function_is_defined_declared_and_listed",
}


def rows(text: str) -> dict[str, str]:
    """Return the second column of the table by the first."""
    lines = text.partition(f"| {TABLE} |")[2].partition("\n\n")[0].splitlines()[2:]
    cells = [re.split(r"\s*\|\s*", line.strip("| ")) for line in lines]
    return dict(cells)


TABLE_ROWS = rows((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))


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
    assert TABLE_ROWS.keys() == HELD_BY.keys()
    for row, test in HELD_BY.items():
        file, _, name = test.partition("::")
        assert name in names_of_tests(ROOT / "tests" / file), row


def places() -> list[str]:
    return [place for cell in TABLE_ROWS.values() for place in re.findall(r"`([^`]+)`", cell)]


@pytest.mark.parametrize("place", [one for one in places() if re.search(r"[/.]", one)])
def test_every_place_of_the_table_is_there(place):
    """Some file is where a path says, with any name for ``<name>``; names are those of modules."""
    if re.fullmatch(r"\w+(\.\w+)*\.[A-Z]+", place):
        module, _, name = place.rpartition(".")
        assert hasattr(import_module(f"mlx_tilegemm.{module}"), name)
        return
    pattern = re.sub(r"<\w+>", "*", place).rstrip("/")
    assert any(any(folder.glob(pattern)) for folder in (ROOT / "mlx_tilegemm", ROOT))


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
    library = changed_library(tmp_path, {"machine/chips/apple10.py": appended(RECORD)})
    program = tmp_path / "program.py"
    program.write_text(A_CHIP)
    done = run_in(library, str(program))
    assert done.returncode == 0, done.stderr
    call = ("matmul", "100x300", "300x70", "--chip", "m5-ultra")
    shown = run_in(library, "-m", "mlx_tilegemm", "explain", *call)
    assert re.search(r"^  chip +m5-ultra$", shown.stdout, re.M), shown.stdout + shown.stderr
    assert "kernel" in run_in(library, "-m", "mlx_tilegemm", "render", *call).stdout


NATIVE_ROW = """UINT16 = DType(
    name="uint16", short="u16", metal="ushort", bits=16, kind=Kind.INTEGER, unit_roundoff=0.0
)

DTYPES = (UINT16, """
A_NATIVE_FORMAT = """
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
def test_a_native_format_is_one_row_and_its_name(tmp_path):
    library = changed_library(tmp_path, {"core/dtypes.py": replaced("DTYPES = (", NATIVE_ROW)})
    program = tmp_path / "program.py"
    program.write_text(A_NATIVE_FORMAT)
    done = run_in(library, str(program))
    assert done.returncode == 0, done.stderr


PACKED_ROW = """FLOAT6_E3M2 = _packed("float6_e3m2", "e3m2", 6, small_float(3, 2))

DTYPES = (FLOAT6_E3M2, """
A_PACKED_FORMAT = """
import mlx.core as mx
import numpy as np

from mlx_tilegemm.core import dtypes
from mlx_tilegemm.core.operand import Operand
from mlx_tilegemm.core.reference import draw

row = dtypes.by_name("e3m2")
assert row is dtypes.FLOAT6_E3M2
assert dtypes.from_mlx(mx.uint32) is None
assert row.values[:9] == (0, 1 / 16, 2 / 16, 3 / 16, 4 / 16, 5 / 16, 6 / 16, 7 / 16, 0.5)
assert (max(row.values), row.values[-1]) == (28, -28)

operand = Operand(name="w", shape=(3, 64), dtype=row)
drawn = draw(operand, np.random.default_rng(0))
assert (drawn.dtype, drawn.shape, drawn.nbytes) == (mx.uint32, (3, 12), operand.nbytes)
assert set(row.decode(np.array(drawn)).reshape(-1)) <= {*row.values}
"""


@pytest.mark.slow
def test_a_packed_format_is_one_row_and_its_name(tmp_path):
    library = changed_library(tmp_path, {"core/dtypes.py": replaced("DTYPES = (", PACKED_ROW)})
    program = tmp_path / "program.py"
    program.write_text(A_PACKED_FORMAT)
    done = run_in(library, str(program))
    assert done.returncode == 0, done.stderr


COUNTING = '''"""Run kernels in the emulator, count them, and have them prove themselves first."""

from dataclasses import replace

from .base import Backend
from .emulator import EmulatorBackend


class CountingBackend(Backend):
    """The emulator, taken for a device that checks nothing."""

    name = "counting"
    capabilities = replace(EmulatorBackend.capabilities, checks_launches=False)

    def __init__(self):
        self.emulator = EmulatorBackend()
        self.compiled = []

    def compile(self, source):
        self.compiled.append(source.name)
        return self.emulator.compile(source)
'''
BACKEND = {
    "backends/counting.py": appended(COUNTING),
    "backends/__init__.py": lambda text: text.replace(
        "EmulatorBackend())", "EmulatorBackend(), CountingBackend())"
    ).replace("from .emulator", "from .counting import CountingBackend\nfrom .emulator"),
}
A_BACKEND = """
import mlx.core as mx

import mlx_tilegemm as tg
from mlx_tilegemm.backends import backend_named, resolve
from mlx_tilegemm.errors import ProblemError

counting = backend_named("counting")
a, b = mx.ones((9, 40), dtype=mx.float16), mx.ones((40, 24))
assert mx.array_equal(tg.matmul(a, b), mx.full((9, 24), 40.0))
assert not counting.compiled
with tg.use_backend("counting"):
    assert resolve().backend is counting
    found = tg.explain(tg.matmul, a, b)
    assert (found.backend, found.canary[:13]) == ("counting", "not yet tried")
    assert mx.array_equal(tg.matmul(a, b), mx.full((9, 24), 40.0))
    assert tg.explain(tg.matmul, a, b).canary.startswith("proven on this machine")
    assert mx.grad(lambda a: tg.matmul(a, b).sum())(a).shape == a.shape
assert {source.name for source in found.sources} < set(counting.compiled)
try:
    tg.use_backend("nothing")
except ProblemError as error:
    assert "'emulator', 'counting' or 'mlx'" in str(error)
else:
    raise AssertionError("a backend that is none was taken")
"""


@pytest.mark.slow
def test_a_backend_is_one_file_and_its_object(tmp_path, monkeypatch):
    library = changed_library(tmp_path, BACKEND)
    monkeypatch.setenv("MLX_TILEGEMM_CANARY", str(tmp_path / "canary.json"))
    program = tmp_path / "program.py"
    program.write_text(A_BACKEND)
    done = run_in(library, str(program))
    assert done.returncode == 0, done.stderr
    monkeypatch.setenv("MLX_TILEGEMM_BACKEND", "counting")
    call = ("explain", "matmul", "9x40", "40x24", "--dtypes", "float16,float32")
    shown = run_in(library, "-m", "mlx_tilegemm", *call).stdout
    assert re.search(r"^  backend +counting: asked for$", shown, re.M), shown
    assert "proven on this machine" in shown
    options = ("--kernel", "gemv", "--sample", "2", "--repeats", "2", "--no-static", "--jobs", "1")
    done = run_in(library, "-m", "mlx_tilegemm", "verify", *options)
    report = json.loads((library / "reports" / "verify.json").read_text())
    assert done.returncode == 0, done.stdout + done.stderr
    assert report["environment"]["backend"] == "counting"
    assert [one["launches"] for one in report["variants"]] == [2, 2]


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

"""Element formats: one row each, found by name, by MLX dtype and after pickling."""

from __future__ import annotations

import copy
import pickle

import mlx.core as mx
import numpy as np
import pytest
from changed_library import changed_library, replaced, run_in

from mlx_tilegemm.core.dtypes import (
    DTYPES,
    FLOAT16,
    FLOATS,
    INTEGERS,
    NATIVE,
    UINT8,
    by_name,
    from_mlx,
)
from mlx_tilegemm.core.operand import Operand


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
class TestRows:
    def test_a_copy_is_the_row_itself(self, dtype):
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            assert pickle.loads(pickle.dumps(dtype, protocol)) is dtype
        assert copy.copy(dtype) is copy.deepcopy(dtype) is dtype

    def test_its_names_lead_to_it(self, dtype):
        assert by_name(dtype.name) is by_name(dtype.short) is dtype
        assert str(dtype) == dtype.name

    def test_mlx_s_dtype_leads_to_it_if_it_is_one(self, dtype):
        assert (from_mlx(dtype.mlx) is dtype) is dtype.native
        if dtype.native:
            assert mx.zeros((3,), dtype.mlx).nbytes == 3 * dtype.bytes == 3 * dtype.bits // 8

    def test_an_operand_of_it_is_stored_in_so_many_bytes(self, dtype):
        for words in {False, dtype.bits <= 8} if dtype.bytes else {False}:
            operand = Operand(name="w", shape=(3, 64), dtype=dtype, words=words)
            array = mx.zeros(operand.stored_shape, operand.mlx)
            assert array.nbytes == operand.nbytes == 3 * 64 * dtype.bits // 8
            assert array.size == operand.stored_elements

    def test_codes_are_those_of_the_stream_of_bits(self, dtype):
        if dtype.native:
            assert not dtype.values
            return
        assert len(dtype.values) == 1 << dtype.bits
        number = int.from_bytes(range(7, 7 + 5 * dtype.bits), "little")
        stored = np.frombuffer(number.to_bytes(5 * dtype.bits, "little"), np.uint8)
        mask = (1 << dtype.bits) - 1
        expected = [dtype.values[number >> (i * dtype.bits) & mask] for i in range(40)]
        np.testing.assert_array_equal(dtype.decode(stored), expected)


def test_names_are_of_one_row_each():
    names = [name for dtype in DTYPES for name in {dtype.name, dtype.short}]
    assert len(names) == len(set(names))
    assert {*FLOATS, *INTEGERS} < {*NATIVE} < {*DTYPES}


@pytest.mark.parametrize("name", ["f17", "", "FLOAT16", "complex64"])
def test_other_names_are_no_dtypes(name):
    with pytest.raises(ValueError, match=f"no dtype '{name}'"):
        by_name(name)


@pytest.mark.parametrize("dtype", [mx.complex64, mx.float64, mx.uint16, mx.int64, None, "float16"])
def test_other_dtypes_are_no_rows(dtype):
    assert from_mlx(dtype) is None


def test_a_pickled_operand_is_equal_and_hashes_alike():
    operand = Operand(name="x", shape=(3, 4), dtype=FLOAT16)
    again = pickle.loads(pickle.dumps(operand))
    assert again == operand
    assert hash(again) == hash(operand)
    assert again.dtype is FLOAT16
    assert again != Operand(name="x", shape=(3, 4), dtype=UINT8)


PACKED_ROWS = """
FLOAT8 = DType(
    name="float8_e3m4",
    short="e3m4",
    metal="uchar",
    bits=8,
    kind=Kind.FLOAT,
    unit_roundoff=2.0**-4,
    smallest_step=2.0**-9,
    stored="uint8",
    decode=lambda codes: codes * 1.0,
)
FLOAT4 = DType(
    name="float4_e1m2",
    short="e1m2",
    metal="uint",
    bits=4,
    kind=Kind.FLOAT,
    unit_roundoff=2.0**-2,
    stored="uint32",
    decode=lambda codes: codes * 1.0,
)

"""
SESSION = """
import copy, pickle

import mlx.core as mx
import numpy as np

import mlx_tilegemm as tg
from mlx_tilegemm.core import dtypes
from mlx_tilegemm.core.operand import Operand
from mlx_tilegemm.core.reference import draw
from mlx_tilegemm.families import families
from mlx_tilegemm.families.gemm.spelling import parse

float8, float4 = dtypes.FLOAT8, dtypes.FLOAT4
assert len(families()) >= 2
assert dtypes.from_mlx(mx.uint8) is dtypes.UINT8
assert dtypes.from_mlx(mx.uint32) is None
assert (float8.mlx, float4.mlx) == (mx.uint8, mx.uint32)
assert (float8.native, float8.bytes, float4.bytes) == (False, 1, 0)
for row in (float8, float4):
    assert dtypes.by_name(row.name) is dtypes.by_name(row.short) is row
    assert pickle.loads(pickle.dumps(row)) is copy.deepcopy(row) is row
    assert row in dtypes.DTYPES
    assert row not in {*dtypes.NATIVE, *dtypes.FLOATS, *dtypes.INTEGERS}
assert Operand(name="w", shape=(6, 8), dtype=float4).nbytes == 24
codes = draw(Operand(name="w", shape=(64, 64), dtype=float8), np.random.default_rng(0))
assert codes.dtype == mx.uint8
assert (mx.min(codes).item(), mx.max(codes).item()) == (0, 255)

# An array of bytes stays one of integers: nothing says that it holds anything else.
a, b = mx.full((3, 5), 7, dtype=mx.uint8), mx.full((5, 2), 200, dtype=mx.uint8)
with tg.use_backend("mlx"):
    assert tg.matmul(a, b).tolist() == [[7000, 7000]] * 3
assert tg.explain("matmul", a, b).problem.a is dtypes.UINT8
try:
    parse("5x6x7:e3m4")
except tg.errors.TileGemmError as error:
    assert "float8" not in str(error), error
else:
    raise AssertionError
print("all right")
"""


@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
def test_a_packed_format_is_a_row_that_no_array_stands_for_by_itself(tmp_path, first):
    """An 8-bit float is held in uint8, and must not take uint8's place."""
    old, new = (
        ("DTYPES = (", "DTYPES = (FLOAT8, FLOAT4, ")
        if first
        else ("UINT6,\n)", "UINT6,\n    FLOAT8,\n    FLOAT4,\n)")
    )
    rows = replaced("\nDTYPES = (", PACKED_ROWS + "\nDTYPES = (")
    library = changed_library(
        tmp_path, {"core/dtypes.py": lambda text: replaced(old, new)(rows(text))}
    )
    program = tmp_path / "program.py"
    program.write_text(SESSION)
    done = run_in(library, str(program))
    assert done.stdout == "all right\n", done.stderr

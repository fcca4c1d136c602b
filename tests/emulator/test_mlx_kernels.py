"""Kernels that MLX ships run from its own headers under all checks and compute what they should."""

from __future__ import annotations

from pathlib import Path

import mlx
import numpy as np
import pytest

from mlx_tilegemm.emulator import Output, run_text

INCLUDE = Path(next(iter(mlx.__path__))) / "include"
KERNELS = "mlx/backend/metal/kernels"
RNG = np.random.default_rng(5)
X = np.linspace(0.1, 2, 16, dtype=np.float32)
Y = np.linspace(1, 3, 16, dtype=np.float32)
ROWS = RNG.normal(size=(3, 100)).astype(np.float32)

pytestmark = pytest.mark.skipif(
    not (INCLUDE / KERNELS / "utils.h").exists(), reason="this MLX ships no kernel headers"
)


def launch(headers, kernel, arguments, buffers, grid, group):
    lines = [f'#include "{KERNELS}/{name}.h"' for name in ("utils", *headers.split())]
    lines.append(
        f'template [[host_name("k")]] [[kernel]] decltype({kernel}<{arguments}>) '
        f"{kernel}<{arguments}>;"
    )
    text = "\n".join(lines) + "\n"
    return run_text(
        text, kernel="k", buffers=buffers, grid=grid, threadgroup=group, include_dirs=[INCLUDE]
    ).outputs


def empty(*shape, dtype=np.float32):
    return Output(shape=shape, dtype=dtype)


@pytest.mark.slow
def test_strided_sum():
    strides = np.array([4, 1], np.int64), np.array([1, 4], np.int64)
    buffers = [X, Y, empty(4, 4), *strides]
    out = launch(
        "binary_ops binary", "binary_g_nd2", "float, float, Add", buffers, (4, 4, 1), (4, 4, 1)
    )
    assert np.array_equal(out[2], X.reshape(4, 4) + Y.reshape(4, 4).T)


@pytest.mark.slow
def test_two_results():
    out = launch(
        "binary_ops binary_two",
        "binary_vv",
        "float, float, DivMod",
        [Y, X, empty(16), empty(16), np.uint32(16)],
        (16, 1, 1),
        (16, 1, 1),
    )
    assert np.array_equal(out[2], np.trunc(Y / X))
    assert np.array_equal(out[3], np.fmod(Y, X))


@pytest.mark.slow
def test_selection():
    one = np.int64(1)
    buffers = [X > 1, X, Y, empty(16), one, one, one]
    out = launch(
        "ternary_ops ternary", "ternary_g_nd1", "float, Select", buffers, (16, 1, 1), (16, 1, 1)
    )
    assert np.array_equal(out[3], np.where(X > 1, X, Y))


@pytest.mark.slow
def test_sort_and_search():
    keys = RNG.permutation(Y)
    one, stride = np.int32(1), np.int64(16)
    out = launch(
        "sort",
        "block_sort",
        "float, float, false, 32, 4",
        [keys, empty(16), np.int32(16), one, one, stride, stride],
        (32, 1, 1),
        (32, 1, 1),
    )
    assert np.array_equal(out[1], Y)
    buffers = [Y, X, empty(16, dtype=np.uint32), np.uint32(16), np.int64(1)]
    out = launch(
        "sort searchsorted", "searchsorted", "float, false", buffers, (16, 1, 1), (16, 1, 1)
    )
    assert np.array_equal(out[2], np.searchsorted(Y, X))


def test_logsumexp():
    out = launch(
        "logsumexp", "logsumexp", "float", [ROWS, empty(3), np.int32(100)], (96, 1, 1), (32, 1, 1)
    )
    np.testing.assert_allclose(out[1], np.log(np.exp(ROWS).sum(axis=1)), rtol=1e-5)


@pytest.mark.slow
def test_hadamard():
    matrix = np.ones((1, 1), np.float32)
    while len(matrix) < 64:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    x = RNG.normal(size=(2, 64)).astype(np.float32)
    buffers = [x, empty(2, 64), np.float32(0.125)]
    out = launch("hadamard", "hadamard_n", "float, 64, 16, 4", buffers, (4, 2, 1), (4, 1, 1))
    np.testing.assert_allclose(out[1], x @ matrix / 8, atol=1e-5)


@pytest.mark.slow
def test_scan():
    x = RNG.normal(size=(1, 5000)).astype(np.float32)
    out = launch(
        "binary_ops scan",
        "contiguous_scan",
        "float, float, CumSum<float>, 4, true, false",
        [x, empty(1, 5000), np.uint64(5000)],
        (1024, 1, 1),
        (1024, 1, 1),
    )
    np.testing.assert_allclose(out[1], np.cumsum(x, axis=1), atol=1e-3)


@pytest.mark.slow
def test_matrix_vector():
    matrix = RNG.normal(size=(8, 300)).astype(np.float32)
    vector = RNG.normal(size=300).astype(np.float32)
    sizes = [np.int32(300), np.int32(8), np.int32(300)]
    batch = [np.int32(1), np.array([1], np.int32), *[np.zeros(1, np.int64)] * 3, np.int32(1)]
    out = launch(
        "gemv",
        "gemv",
        "float, 1, 1, 1, 32, 4, 4, false, false",
        [matrix, vector, np.zeros(1, np.float32), empty(8), *sizes, *np.float32([1, 0]), *batch],
        (64, 1, 1),
        (32, 1, 1),
    )
    np.testing.assert_allclose(out[3], matrix @ vector, rtol=1e-4, atol=1e-4)

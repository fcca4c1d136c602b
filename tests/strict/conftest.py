from __future__ import annotations

import pytest

from mlx_tilegemm.strict import ClangMissingError, find_clang


@pytest.fixture(scope="session")
def clang():
    try:
        return find_clang()
    except ClangMissingError as missing:
        pytest.skip(f"strict compilation is not checked: {missing}")

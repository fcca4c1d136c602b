"""Profiles, and the backend that kernel tests run on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import mlx.core as mx
import pytest
from hypothesis import HealthCheck, settings
from lazy_kernels import LazyKernels

import mlx_tilegemm as tg
from mlx_tilegemm import backends
from mlx_tilegemm.backends import rounding
from mlx_tilegemm.core import fast_path
from mlx_tilegemm.strict.toolchain import Clang, ClangMissingError, find_clang

_COMMON: dict[str, Any] = {
    "deadline": None,  # the first example of a kernel compiles it
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}
# Nearly every example compiles a kernel of its own, so CI's 10 are what fits its time; "deep" is
# for a machine with an hour.
settings.register_profile("deep", max_examples=200, **_COMMON)
settings.register_profile("dev", max_examples=6, **_COMMON)
settings.register_profile("ci", max_examples=10, derandomize=True, **_COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))

if mx.cuda.is_available():
    # What tests expect is computed by MLX's own ops, in float64 too, which a CPU alone has.
    mx.set_default_device(mx.cpu)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--exhaustive", action="store_true", help="run what goes through every kernel text, too"
    )


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Run one file or test in this process; all else on as many as there are CPUs."""
    named = config.args_source is pytest.Config.ArgsSource.ARGS
    return 0 if named and len(config.args) == 1 else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--exhaustive"):
        return
    kept = [item for item in items if item.get_closest_marker("exhaustive") is None]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


@pytest.fixture(scope="session", autouse=True)
def emulated() -> Iterator[None]:
    """Ask for the emulator, in threads and processes too: without a GPU nothing else runs kernels.

    Who tests the default says ``use_backend("auto")``, or asks for `nothing_asked`.
    """
    with pytest.MonkeyPatch.context() as patch:
        if not mx.metal.is_available():
            patch.setenv(backends.ENVIRONMENT_VARIABLE, "emulator")
        backends._default_mode.cache_clear()
        yield
    backends._default_mode.cache_clear()


@pytest.fixture
def nothing_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the choice of a backend to `auto`, as it is for a user who says nothing."""
    monkeypatch.delenv(backends.ENVIRONMENT_VARIABLE, raising=False)
    monkeypatch.setattr(backends, "_default_mode", backends._default_mode.__wrapped__)


@pytest.fixture(autouse=True)
def fresh_routes() -> Iterator[None]:
    """Ask anew where calls run: tests pretend that MLX has Metal or CUDA, which else never ends."""
    asks = (backends._route, backends._default_backend, backends._is_left, rounding._gpu_rounds)

    def forget() -> None:
        for ask in asks:
            ask.cache_clear()
        backends._left.settings = None
        fast_path.forget()

    forget()
    yield
    forget()


@pytest.fixture
def kernels() -> Iterator[None]:
    """Run the block's ops on this project's kernels: Metal where there is one, else emulated."""
    backend = "metal" if mx.metal.is_available() else "emulator"
    with tg.use_backend(backend), tg.use_kernel("any"):
        yield


@pytest.fixture
def forced() -> Callable[[str | None], AbstractContextManager[None]]:
    """Return a context manager that forces a kernel."""
    return tg.use_kernel


@pytest.fixture
def lazy(kernels: None) -> Iterator[LazyKernels]:
    """Run the block's ops on kernels that may be traced, and return their recorder."""
    backend = backends.resolve().backend
    assert backend is not None
    recorder = LazyKernels(backend)
    with tg.use_backend(recorder):
        yield recorder


@pytest.fixture(scope="session")
def clang() -> Clang:
    """Return the clang of the strict compile check."""
    try:
        return find_clang()
    except ClangMissingError as missing:
        pytest.skip(f"strict compilation is not checked: {missing}")

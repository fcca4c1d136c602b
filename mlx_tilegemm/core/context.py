"""Settings that ``with`` blocks choose for the ops called inside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from ..errors import DTypeError, ProblemError
from .arguments import as_flag, kind_name

Recorder = Callable[[object], None]

StandIn = Callable[..., Any]
"""Takes what `mlx_tilegemm.call.prepare.prepare` takes and returns what it returns."""


class Settings(NamedTuple):
    """Settings in force here and now; a part of every prepared call's key.

    Attributes:
        backend: A backend or the name of one, as `use_backend` takes it; None where no block says.
        kernel: What `use_kernel` forces, or None.
        gradients: Whether calls carry their derivatives.
        precision: What `use_precision` asks for, or None.
        batched: Whether `mlx_tilegemm.vmap` is following the call.
        recorder: Takes the problems that are asked for, or None. In each recording block calls are
            prepared, and noted, anew.
        stand_in: Prepares calls in place of this library, for who wants to see them and not to
            compute; None for none.
    """

    backend: Any = None
    kernel: str | None = None
    gradients: bool = True
    precision: str | None = None
    batched: bool = False
    recorder: Recorder | None = None
    stand_in: StandIn | None = None


UNASKED = Settings()[1:]
"""Settings but the backend where no block asks for anything, to compare ``settings[1:]`` with."""

_settings: ContextVar[Settings] = ContextVar("mlx_tilegemm_settings", default=Settings())  # noqa: B039 - a tuple

current_settings: Callable[[], Settings] = _settings.get
"""Returns the settings of the running thread or asynchronous task."""


def inner_settings() -> Settings:
    """Return the settings of the calls that a rule of derivatives makes, where none is forced."""
    around = _settings.get()
    return Settings(batched=around.batched, recorder=around.recorder)


@contextmanager
def using(**changes: Any) -> Iterator[None]:  # noqa: ANN401 - fields of `Settings`
    """Change settings inside a ``with`` block; blocks nest, the innermost wins."""
    token = _settings.set(_settings.get()._replace(**changes))
    try:
        yield
    finally:
        _settings.reset(token)


def use_kernel(name: str | None) -> AbstractContextManager[None]:
    """Force a kernel for the ops called inside a ``with`` block.

    The choice belongs to the running thread or asynchronous task; blocks nest, the innermost wins.
    Gradients of these ops choose their own kernels.

    Args:
        name: A kernel (``"gemm_scalar"``: its best legal configuration), one configuration of it
            (``"gemm_simdgroup/64x64x16-2x2-staged"``), ``"mlx"`` for MLX's own ops, ``"any"`` for
            the best of the kernels even where MLX's ops are modelled to be faster, or None for the
            free choice. An op raises `IllegalKernelError` with the reason if the kernel may not
            serve it.

    Raises:
        DTypeError: ``name`` is neither a string nor None.

    Example:
        >>> with use_kernel("gemm_scalar"):
        ...     y = matmul(a, b)
    """
    if name is not None and not isinstance(name, str):
        raise DTypeError(
            "[use_kernel] Expected the name of a kernel, kernel/config, 'mlx', 'any' or None, got "
            f"{kind_name(name)}."
        )
    return using(kernel=name)


def use_gradients(enabled: bool) -> AbstractContextManager[None]:
    """Choose whether calls inside a ``with`` block carry their derivatives.

    They do by default. Without, a call on a kernel can be neither differentiated nor passed
    through `mx.vmap`, but `mx.export_function` takes it, which MLX's own custom functions refuse,
    and a call that MLX follows costs a few microseconds less. The choice belongs to the running
    thread or asynchronous task; blocks nest, the innermost wins.

    Args:
        enabled: Whether calls carry their derivatives.

    Raises:
        DTypeError: ``enabled`` is no bool.

    Example:
        >>> with use_gradients(False):
        ...     y = matmul(a, b)
    """
    return using(gradients=as_flag("use_gradients", "enabled", enabled))


FULL = "float32"
"""Precision of products that no switch of MLX's reduces."""


def use_precision(precision: str | None) -> AbstractContextManager[None]:
    """Choose how exact float32 products are inside a ``with`` block.

    On M5 and on CUDA, MLX rounds float32 factors to TF32, with 11 bits, unless the environment
    variable ``MLX_ENABLE_TF32`` is 0. The kernels of this library never do, but MLX's own ops serve
    calls where they are faster, or where nothing else can. The choice belongs to the running thread
    or asynchronous task; blocks nest, the innermost wins.

    Args:
        precision: ``"float32"`` for products of all 24 bits: MLX's ops then serve none that they
            would round, and a call that nothing else serves raises `BackendError`. None for what
            MLX's switch says.

    Raises:
        ProblemError: ``precision`` is neither.

    Example:
        >>> with use_precision("float32"):
        ...     y = matmul(a, b)
    """
    is_exact("use_precision", precision, Settings())
    return using(precision=precision)


def is_exact(op: str, precision: object, settings: Settings) -> bool:
    """Return whether an op's ``precision``, or else a block around it, asks for float32.

    Raises:
        ProblemError: ``precision`` is neither None nor ``"float32"``.
    """
    if precision is None:
        return settings.precision is not None
    if precision != FULL:
        raise ProblemError(f"[{op}] Expected precision to be None or {FULL!r}, got {precision!r}.")
    return True


@contextmanager
def noting_problems(note: Recorder) -> Iterator[None]:
    """Pass every problem that is asked for inside the ``with`` block to ``note``; blocks nest."""
    around = _settings.get().recorder

    def note_in_all(problem: object) -> None:
        note(problem)
        if around is not None:
            around(problem)

    with using(recorder=note_in_all):
        yield

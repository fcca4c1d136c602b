"""What a ``with`` block chooses for the ops called inside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar

_forced: ContextVar[str | None] = ContextVar("mlx_tilegemm_kernel", default=None)
_enabled: ContextVar[bool] = ContextVar("mlx_tilegemm_gradients", default=True)


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

    Example:
        >>> with use_kernel("gemm_scalar"):
        ...     y = matmul(a, b)
    """
    return _forcing(name)


@contextmanager
def _forcing(name: str | None) -> Iterator[None]:
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


def forced_kernel() -> str | None:
    """Return the kernel that `use_kernel` forces here and now, or None."""
    return _forced.get()


def use_gradients(enabled: bool) -> AbstractContextManager[None]:
    """Choose whether calls inside a ``with`` block carry their derivatives.

    They do by default. Without, a call on a kernel can be neither differentiated nor passed
    through `mx.vmap`, but `mx.export_function` takes it, which MLX's own custom functions refuse,
    and a call that MLX follows costs a few microseconds less. The choice belongs to the running
    thread or asynchronous task; blocks nest, the innermost wins.

    Args:
        enabled: Whether calls carry their derivatives.

    Example:
        >>> with use_gradients(False):
        ...     y = matmul(a, b)
    """
    return _enabling(bool(enabled))


@contextmanager
def _enabling(enabled: bool) -> Iterator[None]:
    token = _enabled.set(enabled)
    try:
        yield
    finally:
        _enabled.reset(token)


def gradients_enabled() -> bool:
    """Return whether calls made here and now carry their derivatives."""
    return _enabled.get()


Recorder = Callable[[object], None]

_recorder: ContextVar[Recorder | None] = ContextVar("mlx_tilegemm_recorder", default=None)


@contextmanager
def noting_problems(note: Recorder) -> Iterator[None]:
    """Pass every problem that is asked for inside the ``with`` block to ``note``; blocks nest."""
    around = _recorder.get()

    def note_in_all(problem: object) -> None:
        note(problem)
        if around is not None:
            around(problem)

    token = _recorder.set(note_in_all)
    try:
        yield
    finally:
        _recorder.reset(token)


def recorder() -> Recorder | None:
    """Return what takes problems here and now, or None.

    It belongs to the key of a prepared call: in each block calls are prepared, and noted, anew.
    """
    return _recorder.get()


def note_problem(problem: object) -> None:
    """Say that a call is being prepared for this problem."""
    note = _recorder.get()
    if note is not None:
        note(problem)

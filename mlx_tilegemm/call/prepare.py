"""Prepare a call: choose the kernel for a problem, render and compile it.

An op does this once for each key of shapes, dtypes and options, and keeps the result.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from ..backends import Backend
from ..backends.launch import kernel_run
from ..core.context import current_settings
from ..core.problem import Problem
from ..dispatch import ANY, MLX
from ..errors import BackendError, IllegalKernelError
from ..families import family_of
from .batching import batched_call
from .choice import chosen
from .transforms import evaluating, refusing_shapeless, transformable

if TYPE_CHECKING:
    from ..core.family import Run


class Server(Enum):
    """Who serves a call: kernels, MLX's own ops, or something that stands in for either."""

    KERNELS = "kernels"
    MLX = "mlx"
    OTHER = "other"


def prepare(
    op: str,
    problem: Problem,
    backend: Backend | None,
    *,
    force: str | None = None,
    gradients: bool = True,
) -> Run:
    """Return the call that solves a problem.

    Args:
        op: Name to begin messages with.
        problem: What is asked.
        backend: Where it runs; None for MLX's own ops.
        force: As `mlx_tilegemm.dispatch.choose`.
        gradients: Whether the call carries its derivatives.

    Raises:
        BackendError: A kernel is forced where none can run.
        IllegalKernelError: As `choose`, or no kernel may serve what MLX has no ops for.
    """
    return prepare_told(op, problem, backend, force=force, gradients=gradients).run


class Prepared(NamedTuple):
    """A prepared call.

    Attributes:
        run: The call.
        unfollowed: The call where MLX follows no function, which does not ask for it again.
        server: What serves it.
    """

    run: Run
    unfollowed: Run
    server: Server


def prepare_told(
    op: str,
    problem: Problem,
    backend: Backend | None,
    *,
    force: str | None = None,
    gradients: bool = True,
) -> Prepared:
    """Return the call that solves a problem, as `prepare`, and what serves it."""
    settings = current_settings()
    if settings.stand_in is not None:
        made: Run = settings.stand_in(op, problem, backend, force=force, gradients=gradients)
        return Prepared(made, made, Server.OTHER)
    found = _kernel_calls(op, problem, backend, force, gradients)
    if found is not None:
        return Prepared(*found, Server.OTHER if settings.batched else Server.KERNELS)
    run = family_of(problem).fallback(problem)
    if run is None:
        raise IllegalKernelError(
            f"[{op}] Expected a problem that some kernel serves, got {problem}."
        )
    return Prepared(run, run, Server.MLX)


def kernel_call(
    op: str,
    problem: Problem,
    backend: Backend | None,
    *,
    force: str | None = None,
    gradients: bool = True,
) -> Run | None:
    """Return the call of kernels that solves a problem, as `prepare`; None for MLX's own ops."""
    found = _kernel_calls(op, problem, backend, force, gradients)
    return found and found[0]


def _kernel_calls(
    op: str, problem: Problem, backend: Backend | None, force: str | None, gradients: bool
) -> tuple[Run, Run] | None:
    """Return the call of kernels, and the one for where MLX follows no function."""
    settings = current_settings()
    if settings.batched:
        batched = _batched(op, problem, backend, force)
        return batched, batched
    if settings.recorder is not None:
        settings.recorder(problem)
    if backend is None:
        check_not_forced(op, force)
        return None
    choice = chosen(problem, backend, force=force, gradients=gradients)
    if choice.plan is None:
        return None
    run = kernel_run(choice.problem, choice.plan, backend)
    family = family_of(problem)
    rule = family.rule(problem, backend) if gradients else None
    if not backend.capabilities.lazy:
        run = evaluating(run)
        return run if rule is None else transformable(run, rule), run
    # MLX's own ops serve any size, unless a kernel is asked for.
    anysize = family.fallback(problem) if force is None else None
    return transformable(run, rule, anysize or refusing_shapeless(op)), run


def _batched(op: str, problem: Problem, backend: Backend | None, force: str | None) -> Run:
    family = family_of(problem)
    solved, rule = family.differentiable(problem), family.rule(problem, backend)
    if rule is None:
        raise BackendError(f"[{op}] Expected a problem that vmap can batch, got {problem}.")

    def again() -> Run:
        run = kernel_call(op, problem, backend, force=force) or family.fallback(solved)
        assert run is not None
        return run

    anysize = family.fallback(solved) or refusing_shapeless(op)
    return batched_call(solved.results, rule, again, anysize)


def check_not_forced(op: str, force: str | None) -> None:
    """Check that no kernel is forced on a call that runs on no backend.

    Raises:
        BackendError: One is.
    """
    if force not in (None, ANY, MLX):
        raise BackendError(
            f"[{op}] Expected a backend that runs kernels for the forced kernel {force!r}, got "
            'the mlx backend; call inside `with use_backend("emulator"):` or on a GPU stream.'
        )


def check_mlx_may_serve(op: str, force: str | None, reason: str) -> None:
    """Check that no kernel is forced on a call that only MLX's own ops serve.

    Raises:
        IllegalKernelError: One is.
    """
    if force not in (None, ANY, MLX):
        raise IllegalKernelError(
            f"[{op}] Expected operands that the kernel {force!r} takes, got others: {reason}."
        )

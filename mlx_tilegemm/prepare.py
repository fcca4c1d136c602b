"""Prepare a call: state the problem, choose the kernel, render and compile it.

An op does this once for each key of shapes, dtypes and options, and keeps the result.
"""

from __future__ import annotations

from functools import partial

import mlx.core as mx

from . import mlx_route
from .arguments import ArraySpec, attention_request, gemm_request
from .autodiff import differentiable_attention, differentiable_gemm, differentiable_plan
from .backends import Backend
from .backends.launch import Run, kernel_run
from .canary import chosen_plan
from .context import note_problem
from .dispatch import ANY, MLX
from .errors import BackendError, IllegalKernelError
from .plan import Plan
from .problem import Problem, Shape


def prepare_gemm(
    op: str,
    a_shape: Shape,
    a_dtype: mx.Dtype,
    b_shape: Shape,
    b_dtype: mx.Dtype,
    c_shape: Shape | None,
    c_dtype: mx.Dtype | None,
    transpose_a: bool,
    transpose_b: bool,
    out_dtype: mx.Dtype | None,
    scaled: bool,
    batch_invariant: bool,
    backend: Backend | None,
    force: str | None,
    gradients: bool,
) -> Run:
    """Return the call that serves a product of these shapes, dtypes and options."""
    problem = gemm_request(
        op,
        a=ArraySpec(shape=a_shape, dtype=a_dtype),
        b=ArraySpec(shape=b_shape, dtype=b_dtype),
        c=_optional_spec(c_shape, c_dtype),
        transpose_a=transpose_a,
        transpose_b=transpose_b,
        out_dtype=out_dtype,
        scaled=scaled,
        batch_invariant=batch_invariant,
    )
    if problem is None:
        _check_not_forced(op, force)
        return partial(mlx_route.wide_gemm, transpose_a, transpose_b)
    plan = _plan(op, problem, backend, force)
    if plan is None or backend is None:
        return partial(mlx_route.gemm, problem)
    run = kernel_run(plan, backend, last_is_scalar=c_shape == ())
    return differentiable_gemm(run, problem, backend) if gradients else run


def prepare_attention(
    q_shape: Shape,
    q_dtype: mx.Dtype,
    k_shape: Shape,
    k_dtype: mx.Dtype,
    v_shape: Shape,
    v_dtype: mx.Dtype,
    extras: tuple[tuple[str, Shape, mx.Dtype], ...],
    mask_name: str | None,
    window: int | None,
    softmax: bool,
    return_lse: bool,
    out_dtype: mx.Dtype | None,
    backend: Backend | None,
    force: str | None,
    gradients: bool,
) -> Run:
    """Return the call that serves an attention of these shapes, dtypes and options.

    ``extras`` names q_pe, k_pe, an array mask and sinks, as far as they are given.
    """
    given = {name: ArraySpec(shape=shape, dtype=dtype) for name, shape, dtype in extras}
    problem = attention_request(
        "attention_chain",
        q=ArraySpec(shape=q_shape, dtype=q_dtype),
        k=ArraySpec(shape=k_shape, dtype=k_dtype),
        v=ArraySpec(shape=v_shape, dtype=v_dtype),
        softmax=softmax,
        mask=given.get("mask", mask_name),
        window=window,
        sinks=given.get("sinks"),
        q_pe=given.get("q_pe"),
        k_pe=given.get("k_pe"),
        return_lse=return_lse,
        out_dtype=out_dtype,
    )
    plan = _plan("attention_chain", problem, backend, force)
    if plan is None or backend is None:
        return partial(mlx_route.attention, problem)
    if not gradients:
        return kernel_run(plan, backend, last_is_scalar=False)
    full = differentiable_plan(problem, plan, backend)
    if full is None:
        return partial(mlx_route.attention, problem)
    return differentiable_attention(problem, full, backend)


def _optional_spec(shape: Shape | None, dtype: mx.Dtype | None) -> ArraySpec | None:
    return None if shape is None or dtype is None else ArraySpec(shape=shape, dtype=dtype)


def _check_not_forced(op: str, force: str | None) -> None:
    if force not in (None, ANY, MLX):
        raise IllegalKernelError(
            f"[{op}] Expected operands that the kernel {force!r} takes, got complex64 or float64, "
            "which only MLX's own ops take."
        )


def _plan(op: str, problem: Problem, backend: Backend | None, force: str | None) -> Plan | None:
    note_problem(problem)
    if backend is not None:
        return chosen_plan(problem, backend, force)
    if force not in (None, ANY, MLX):
        raise BackendError(
            f"[{op}] Expected a backend that runs kernels for the forced kernel {force!r}, got "
            'the mlx backend; call inside `with use_backend("emulator"):` or on a GPU stream.'
        )
    return None

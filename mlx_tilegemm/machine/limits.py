"""Limits of Metal and MLX that every kernel is checked against."""

from __future__ import annotations

from collections.abc import Iterable

from ..core.caches import kept
from ..core.operand import Operand
from ..core.plan import (
    CONSTANT_BINDING_LIMIT,
    THREADS_LIMIT,
    Extent,
    Launch,
    Plan,
    Resources,
)
from .chips.record import APPLE, Chip, Limits

MAX_INT = 2**31 - 1
"""MLX passes each dimension of the grid as a C int, and kernels take sizes as int32."""


def reject_resources(resources: Resources, limits: Limits = APPLE) -> str | None:
    """Return which limit of a threadgroup is exceeded, or None."""
    if resources.threadgroup_bytes > limits.threadgroup_bytes:
        return (
            f"{resources.threadgroup_bytes} bytes of threadgroup memory exceed "
            f"{limits.threadgroup_bytes}"
        )
    if resources.registers >= limits.registers:
        return (
            f"about {resources.registers} registers a thread reach the limit of {limits.registers}"
        )
    if resources.threads > THREADS_LIMIT:
        return f"{resources.threads} threads exceed the {THREADS_LIMIT} of a threadgroup"
    return None


def reject_threadgroup(resources: Resources, chip: Chip) -> str | None:
    """Return which limit of a threadgroup or of a core's registers is exceeded, or None."""
    if reason := reject_resources(resources):
        return reason
    if not threads_per_core(resources, chip):
        return (
            f"a core has no {resources.registers} registers for each of {resources.threads} threads"
        )
    return None


def reject_grid(grid: Extent) -> str | None:
    """Return why MLX cannot launch so many threads, or None."""
    if max(grid) > MAX_INT:
        return f"a grid of {grid} threads exceeds {MAX_INT} in one dimension"
    return None


def reject_sizes(sizes: Iterable[int]) -> str | None:
    """Return why a kernel cannot take run-time sizes, or None."""
    largest = max(sizes, default=0)
    return f"a size of {largest} exceeds {MAX_INT}" if largest > MAX_INT else None


def reject_launch(launch: Launch) -> str | None:
    """Return why MLX cannot make the launch, or None."""
    return reject_grid(launch.grid) or reject_sizes(launch.sizes.values)


def tiny_operand(operands: Iterable[Operand]) -> str | None:
    """Return which operand MLX binds in the constant address space, in words, or None."""
    for one in operands:
        if one.stored_elements < CONSTANT_BINDING_LIMIT:
            return (
                f"{one.name} has {one.stored_elements} elements: below {CONSTANT_BINDING_LIMIT}, "
                "MLX binds an input in the constant address space"
            )
    return None


def reject_plan(plan: Plan) -> str | None:
    """Return which limit a stage of the plan exceeds, or None."""
    for stage in plan.stages:
        reason = reject_resources(stage.resources) or reject_launch(stage.launch)
        if reason:
            return reason
    return None


@kept
def threads_per_core(resources: Resources, chip: Chip) -> int:
    """Return how many threads of such threadgroups a core holds at a time; 0 if not even one.

    Args:
        resources: What one threadgroup needs.
        chip: Its table says how many threads a core's registers hold.
    """
    held = (threads for registers, threads in chip.occupancy if resources.registers <= registers)
    threadgroups = next(held, 0) // resources.threads
    if resources.threadgroup_bytes:
        by_memory = chip.threadgroup_memory_bytes // resources.threadgroup_bytes
        threadgroups = min(threadgroups, by_memory)
    return threadgroups * resources.threads

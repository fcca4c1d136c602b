"""Products with k shared out among threadgroups, for results too small to fill the GPU.

Two kernels: products of a share of k each, which leave float32 shares of the result, and one that
adds the shares up in order and finishes the result. No atomics: results repeat bit for bit.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil

from ..core.caches import kept
from ..core.dtypes import FLOAT32
from ..core.plan import Arguments, Extent, Resources, Spec, Stage, features
from .chips.record import Chip

ADDING = Resources(threads=256, threadgroup_bytes=0, registers=11)
"""What a threadgroup needs that adds shares up, one element a thread."""

MIN_STEPS = 4
"""Steps that a share has at least; shorter ones cost more to add up than they save."""


class SharedSpec(Arguments):
    """Base of specs of products that may leave shares of the result to be added up.

    Attributes:
        split_k: Depth that one threadgroup sums; the rest of k is other threadgroups'. 0 for all.
    """

    __slots__ = ()

    OUTPUTS = ("out", "partials")

    split_k: int

    @property
    def lacks(self) -> frozenset[str]:
        """Inputs and outputs that this variant is not given."""
        split = features({("out",): self.split_k > 0, ("partials",): self.split_k == 0})
        return super().lacks | split

    @property
    def result(self) -> str:
        """Name of the output that is written."""
        return self.output_names[0]


class AddingSpec:
    """Base of specs of kernels that add up shares, one element a thread.

    Attributes:
        splits: Shares of k.
    """

    __slots__ = ()

    splits: int

    @property
    def threads(self) -> int:
        """Threads of one threadgroup."""
        return ADDING.threads

    @property
    def block(self) -> tuple[int, int, int]:
        """One element a thread, and all shares."""
        return (1, ADDING.threads, self.splits)


@kept
def share_depth(k: int, splits: int, step: int) -> int:
    """Return the depth of each of some shares of k but the last: whole steps, as even as can be."""
    return ceil(ceil(k / splits) / step) * step


@kept
def share_count(k: int, splits: int, step: int) -> int:
    """Return how many shares there are: fewer where whole steps leave fewer."""
    return ceil(k / share_depth(k, splits, step))


def reject_shares(k: int, splits: int, step: int, block_k: int) -> str | None:
    """Return why k may not be shared out like this, or None.

    Args:
        k: Length of the contracted axis.
        splits: Shares at most.
        step: What the depth of a share is a multiple of.
        block_k: Depth of one step of a threadgroup.
    """
    depth = share_depth(k, splits, step)
    if depth < MIN_STEPS * block_k or share_count(k, splits, step) < 2:
        return f"k {k} is too short for {splits} shares"
    return None


def share_stage(whole: Stage, spec: Spec, splits: int) -> Stage:
    """Return a stage that computes as many shares, of one for the whole result.

    Args:
        whole: The stage of one share as if it were all of k.
        spec: What the text of a share depends on.
        splits: How many there are.
    """
    grid, (shape,) = whole.launch.grid, whole.launch.output_shapes
    launch = replace(whole.launch, grid=(*grid[:2], splits), output_shapes=((splits, *shape),))
    return replace(whole, spec=spec, launch=launch)


def adding_grid(elements: int) -> Extent:
    """Return the grid of the kernel that adds up the shares of so many elements."""
    return (ceil(elements / ADDING.threads) * ADDING.threads, 1, 1)


def adding_seconds(elements: int, splits: int, out_bytes: int, chip: Chip) -> float:
    """Return the modelled seconds of adding shares up into results of so many bytes each."""
    moved = elements * (FLOAT32.bytes * splits + out_bytes)
    return chip.launch_seconds + moved / chip.dram_bytes_per_second

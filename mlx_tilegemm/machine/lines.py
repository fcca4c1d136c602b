"""Cache lines that tiles touch, where the rows of a tile are not whole lines."""

from __future__ import annotations

from math import gcd

LINE_BYTES = 128
"""Of every cache of these GPUs, as measured on M1 (philipturner/metal-benchmarks)."""


def lines_touched(row_bytes: int) -> float:
    """Return the lines that a row of a tile touches, in the mean over its places in a matrix row.

    The places are multiples of its length: rows of 96 bytes begin at 0, 96, 64 and 32 of a line in
    turn, and touch 1, 2, 2 and 1 lines.
    """
    return 1.0 + (row_bytes - gcd(row_bytes, LINE_BYTES)) / LINE_BYTES


def tile_line_bytes(rows: int, row_bytes: int) -> float:
    """Return the bytes of the lines that a tile of so many rows touches."""
    return rows * lines_touched(row_bytes) * LINE_BYTES


def step_bytes_in_flight(
    a_lines: float, b_lines: float, tiles: tuple[int, int, int], wave: int, panel: int
) -> float:
    """Return the bytes of the lines that all threadgroups running together touch in one step.

    They cover ``panel`` block rows or more. Where these bytes are more than the shared cache holds,
    a line that one threadgroup has read is gone before its neighbour asks for it.

    Args:
        a_lines: Bytes of lines that one threadgroup touches of ``a``.
        b_lines: Likewise of ``b``.
        tiles: Matrices, and block rows and block columns of each.
        wave: Threadgroups that run at a time.
        panel: Block rows that are walked together.
    """
    batch, tiles_m, tiles_n = tiles
    rows = min(tiles_m, max(panel, wave / tiles_n))
    columns = min(tiles_n, wave / rows)
    matrices = min(batch, max(1.0, wave / (tiles_m * tiles_n)))
    return matrices * (rows * a_lines + columns * b_lines)

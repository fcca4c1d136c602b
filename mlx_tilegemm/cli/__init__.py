"""Command line: ``mlx-tilegemm``."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status, as `mlx_tilegemm.cli.command.main`.

    An interrupt while that is imported ends the command as any other does.
    """
    try:
        from .command import main as run

        return run(arguments)
    except KeyboardInterrupt:
        import os

        os.write(2, b"mlx-tilegemm: interrupted\n")
        return 130

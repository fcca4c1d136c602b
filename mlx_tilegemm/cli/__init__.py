"""Command line: ``mlx-tilegemm``."""

from .command import main

__all__ = ["main"]

"""Command line: ``mlx-tilegemm``."""

from .main import main

__all__ = ["main"]

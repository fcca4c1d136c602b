"""The backend that a script measures on, asked for before anything is made for it."""

from __future__ import annotations

import argparse

from mlx_tilegemm.backends import backend_named


def require(parser: argparse.ArgumentParser, name: str) -> None:
    """End a script with exit status 2 where a backend runs no kernels, and say what is missing."""
    missing = backend_named(name).missing()
    if missing:
        parser.error(f"Expected a backend that runs kernels here, got {name}: {missing}")

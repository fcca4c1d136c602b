"""The command ``cache``: the builds that the emulator keeps on disk."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..emulator.cache import Contents


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add what to do with the builds."""
    command.add_argument(
        "--clear", action="store_true", help="remove them, but for those in use by a process"
    )


def run_cache(options: argparse.Namespace) -> int:
    """Print where the builds are, how many and how large, after clearing them if asked."""
    from ..emulator import cache

    most = cache.limit()
    removed = cache.clear() if options.clear else None
    left = cache.contents()
    if options.json:
        found = {
            "place": str(left.place),
            "builds": left.count,
            "bytes": left.size,
            "limit": most,
            "removed": removed and {"builds": removed.count, "bytes": removed.size},
        }
        print(json.dumps(found, indent=2))
    else:
        print("\n".join(_lines(left, most, removed)))
    return 0


def _lines(left: Contents, most: int, removed: Contents | None) -> list[str]:
    lines = [
        f"place    {left.place}",
        f"size     {_megabytes(left.size)} in {left.count} builds; limit {_megabytes(most)}",
    ]
    if removed is not None:
        lines.append(f"removed  {_megabytes(removed.size)} in {removed.count} builds")
        if left.count:
            lines.append("left     what running processes use")
    return lines


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"

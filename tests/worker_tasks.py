"""Tasks of worker processes, which import them by the name of this module."""

from __future__ import annotations

import os
from collections.abc import Callable


def prepare(exit_status: int) -> Callable[[int], int]:
    """Return a task that ends its process at 2, raises at 3 and multiplies other numbers by ten."""

    def task(number: int) -> int:
        if number == 2:
            os._exit(exit_status)
        if number == 3:
            raise ValueError("three")
        return number * 10

    return task

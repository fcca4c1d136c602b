"""What a process of the sweep may do, for the tests of who waits for it."""

from __future__ import annotations

import sys
import time
from typing import Any


def answered(op: str, text: str, count: int) -> dict[str, Any]:
    """Stand for a measurement that fails, hangs, ends its process or succeeds."""
    if op == "fails":
        raise ValueError(text)
    if op == "hangs":
        time.sleep(60)
    if op == "ends":
        sys.exit(3)
    return {"found": text * count}

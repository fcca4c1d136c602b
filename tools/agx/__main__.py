"""Runs the command where the folder is named: ``python tools/agx``."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])

from agx.cli import main  # noqa: E402 - found only now

sys.exit(main())

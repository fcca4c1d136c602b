"""``python -m mlx_tilegemm`` is the command ``mlx-tilegemm``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())

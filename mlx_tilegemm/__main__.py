"""``python -m mlx_tilegemm`` is the command ``mlx-tilegemm``."""

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())

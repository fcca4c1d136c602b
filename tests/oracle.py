"""The float64 references that tests hold results against, and the proven bounds of their errors."""

from mlx_tilegemm.core.reference import *  # noqa: F403
from mlx_tilegemm.families.attention.forward_reference import *  # noqa: F403
from mlx_tilegemm.families.gemm.reference import *  # noqa: F403

"""The references that tests hold results against; see `mlx_tilegemm.verify.reference`."""

from mlx_tilegemm.assurance.verify.reference import *  # noqa: F403

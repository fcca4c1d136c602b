"""Measure a model's problems on this machine, so that dispatch need not trust a model.

Every legal candidate and MLX's own path is checked, warmed up and timed against the others. Times
are kept in the per-user file that `mlx_tilegemm.assurance.measurements` reads, problem by problem,
so that an interrupted run goes on where it stopped.
"""

from .measure import Effort
from .run import Outcome, Status, is_tuned, legal, tune
from .shapes import Shapes, load, record

__all__ = [
    "Effort",
    "Outcome",
    "Shapes",
    "Status",
    "is_tuned",
    "legal",
    "load",
    "record",
    "tune",
]

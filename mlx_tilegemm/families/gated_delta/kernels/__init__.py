"""Kernels of gated delta updates."""

KERNELS = ("delta_recurrent", "delta_chunk", "delta_scan", "delta_backward")
"""Names of the kernels' modules, in the order in which ties are decided."""

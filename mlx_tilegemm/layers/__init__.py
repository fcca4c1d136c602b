"""Layers of `mlx.nn` routed through the ops."""

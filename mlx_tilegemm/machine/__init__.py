"""Facts of GPUs and of MLX's kernels on them, and what follows for time."""

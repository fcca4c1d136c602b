"""Metal's language as text: its tokens, and what MLX makes of a kernel."""

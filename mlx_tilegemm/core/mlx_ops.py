"""MLX's own products, as they are before a program puts ops of this library in their place."""

from __future__ import annotations

import mlx.core as mx

matmul = mx.matmul
addmm = mx.addmm
quantized_matmul = mx.quantized_matmul
gather_mm = mx.gather_mm
gather_qmm = mx.gather_qmm
segmented_mm = mx.segmented_mm
scaled_dot_product_attention = mx.fast.scaled_dot_product_attention
gated_delta_update = getattr(mx.fast, "gated_delta_update", None)
"""None before MLX has it."""

"""What every kernel on simdgroup matrices has in common, each number stated once."""

FRAGMENT = 8
"""Rows and columns of a simdgroup matrix."""

PAIR_BYTES = 8
"""What a lane holds of a fragment: two float32."""

STAGE_PADDING_BYTES = 16
"""Padding of a staged row: neighbouring rows then begin in different banks."""

ADDRESSING_REGISTERS = 24
"""Registers for pointers, counters and bounds, by reading comparable compiled kernels."""

ROW_REGISTERS = 4
"""Running maximum and sum, decay and reference of the lane's row in an attention."""

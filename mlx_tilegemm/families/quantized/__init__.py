"""Products with quantized weights: codes of 1 to 8 bits with a scale for each group."""

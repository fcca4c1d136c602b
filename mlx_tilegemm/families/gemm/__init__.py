"""Products of matrices of any two dtypes."""

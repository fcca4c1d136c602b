"""Products of scaled codes: small floats or int8, with scales by tensor, row or block."""

"""From an op's arguments to a prepared call, and to its explanation."""

"""Products with matrices that rows choose, as the experts of a mixture."""

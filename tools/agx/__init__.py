"""Registers, spills and occupancy of Metal texts, as Mesa's compiler for Apple's GPUs sees them."""

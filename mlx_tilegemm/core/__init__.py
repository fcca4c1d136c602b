"""Parts that all families are made of; names no family."""

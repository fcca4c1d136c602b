"""Rows scaled by a factor each, and how many of their elements are negative."""

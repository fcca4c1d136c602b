"""Calls: how they are chosen for, prepared and explained."""

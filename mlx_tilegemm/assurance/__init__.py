"""Checks and measurements that go through problems and plans; names no family."""

"""Benchmarks of the public API against real processes."""

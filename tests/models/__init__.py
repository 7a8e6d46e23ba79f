"""Fetch, verify, convert and cache the pinned models and texts of the tests and benchmarks."""

"""Benchmarks: ``python -m tests.bench``; each measures both sides of its ratio in one run."""

"""Measurements of speed, memory and start-up: run one with `python -m benchmarks.<name>` from the repository's root."""

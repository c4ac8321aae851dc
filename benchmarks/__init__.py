"""Benchmarks of speed, memory and start-up; run `python -m benchmarks.<name>` from the repository root."""

"""The two sides of benchmarks/training.py, each called in a separate process."""

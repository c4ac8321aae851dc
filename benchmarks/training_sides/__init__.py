"""The two sides of benchmarks/training.py, each called in a process of its own."""

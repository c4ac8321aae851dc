"""The two sides of benchmarks/training.py, each a program of its own."""
